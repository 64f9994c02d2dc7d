"""Drafts by name: ``student:vocab=8192``, ``eagle``, ``lookup``, ``lookup+eagle``, ``exit:layer=8``, ``hispec``."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from speckd.decoding.drafts import Draft, Fitted, LookupDraft, LookupFirst, ModelDraft
from speckd.decoding.forward import Forward, forward_of
from speckd.decoding.policies import Policy, read_knobs, split_knobs
from speckd.decoding.rounds import Rounds
from speckd.heads import Head
from speckd.pairs import Pair

KNOBS: dict[str, dict[str, Any]] = {
    "none": {},
    "student": {"vocab": 0},
    "eagle": {"file": ""},
    "exit": {"layer": 8, "raw": 0},
    "lookup": {"longest": 3, "least": 2},
    "lookup+eagle": {"file": ""},
    "lookup+student": {"vocab": 0},
    "hispec": {"draft": 4, "middle": 8, "n_draft": 2, "gather": 4, "raw": 0},
}


def read_draft(text: str) -> tuple[str, dict[str, Any]]:
    """A draft's name and its knobs, defaults filled in.

    Raises:
        ValueError: an unknown name or knob, or a value that is none.
    """
    name, knobs = split_knobs(text)
    if name not in KNOBS:
        raise ValueError(f"{name!r} is not a draft here. Choose one of: {', '.join(KNOBS)}.")
    given = {knob: value for knob, value in knobs.items() if not isinstance(KNOBS[name].get(knob), str)}
    read = read_knobs("draft", name, given, KNOBS[name])
    return name, {**KNOBS[name], **read, **{knob: v for knob, v in knobs.items() if knob not in given}}


def check_draft(text: str, policy: Policy | None, do_sample: bool) -> None:
    """Whether a draft can be asked for so, before any model is loaded.

    Raises:
        ValueError: it cannot; the message says why.
    """
    name, knobs = read_draft(text)
    whole = {"vocab": (0, 2**31), "longest": (1, 16), "least": (1, 16), "layer": (1, 2**15), "draft": (1, 2**15)}
    whole |= {"middle": (1, 2**15), "n_draft": (1, 16), "gather": (1, 16), "raw": (0, 1)}
    for knob, value in knobs.items():
        if knob in whole and not whole[knob][0] <= value <= whole[knob][1]:
            raise ValueError(f"draft {name!r}: {knob} is {value}: choose a whole number from {whole[knob][0]} on.")
    if name == "lookup" and knobs["least"] > knobs["longest"]:
        raise ValueError("draft 'lookup': least is above longest: choose it at or below.")
    if name == "hispec" and not knobs["draft"] < knobs["middle"]:
        raise ValueError("draft 'hispec': the draft's exit lies below the middle one: choose draft below middle.")
    if name == "hispec" and do_sample:
        raise ValueError("HiSpec matches argmaxes, so it is for greedy text only: choose that (do_sample=False).")
    if policy is not None and policy.tree and name in ("lookup", "exit", "hispec", "none"):
        raise ValueError(f"the draft {name!r} proposes chains: choose a policy such as fixed:g=4, or another draft.")
    if policy is not None and name == "hispec" and policy.name not in ("fixed", "none"):
        raise ValueError("HiSpec has its own lengths (n_draft, gather): leave the policy out.")


def fastest_draft(pair: Pair, do_sample: bool = False) -> str:
    """The draft that is asked where none is named: lookup, and where it finds nothing the trained layer, if that fits
    this teacher. For sampled text the layer alone: what lookup proposes has all of q's probability, so it passes with
    the teacher's own p of it, which is small (assets/decode/README.md has the speeds)."""
    try:
        from speckd.decoding.eagle import find_eagle
    except ImportError:
        return "lookup"
    if find_eagle(pair) is None:
        return "lookup"
    return "eagle" if do_sample else "lookup+eagle"


def fit_draft(
    pair: Pair, text: str, target: Forward, policy: Policy | None, do_sample: bool, lean: bool = True
) -> Fitted:
    """The draft of that name over this pair.

    Args:
        pair: teacher and student.
        text: the draft as it is written.
        target: the teacher's forward, which exits share.
        policy, do_sample: what it is to be used for.
        lean: whether models run lean where they can.
    Raises:
        ValueError: it does not fit the pair.
    """
    name, knobs = read_draft(text)
    if name == "none":
        return _chained("none", None)
    if name == "lookup":
        return _chained(text, LookupDraft(target.vocabulary_size, knobs["longest"], knobs["least"]))
    if name.startswith("lookup+"):
        then = fit_draft(pair, text.strip().removeprefix("lookup+"), target, policy, do_sample, lean).draft
        assert then is not None
        both = LookupFirst(LookupDraft(target.vocabulary_size), then, text)
        return replace(_chained(text, both), probe=then.fresh)  # what is looked up counts as no step
    if name == "student":
        return _chained(text, _student(pair, text, knobs["vocab"], lean))
    if name == "eagle":
        return _chained(text, _eagle(pair, target, knobs["file"]))
    from speckd.decoding import exits

    if name == "exit":
        return exits.fit_exit(pair, text, target, knobs)
    return exits.fit_hispec(pair, text, target, knobs)


def _chained(name: str, draft: Draft | None) -> Fitted:
    def rounds(
        target: Forward, rule: Any, policy: Policy, prompt_ids: Sequence[int], length: int, **more: Any
    ) -> Rounds:
        return Rounds(target, draft, rule, policy, prompt_ids, length, **more)

    def probe() -> Draft:
        assert draft is not None
        return draft.fresh()

    return Fitted(name, draft, rounds, probe)


def _student(pair: Pair, text: str, n_frequent: int, lean: bool) -> ModelDraft:
    forward = forward_of(pair.student, pair.vocabulary_size, lean)
    if not n_frequent or n_frequent >= pair.vocabulary_size:
        return ModelDraft(forward, text)
    stops = [pair.tokenizer.eos_token_id] if pair.tokenizer.eos_token_id is not None else []
    return ModelDraft(forward, text, Head.of(pair.student), frequent_tokens(pair, n_frequent), stops)


def _eagle(pair: Pair, target: Forward, file: str) -> Draft:
    try:
        from speckd.decoding.eagle import load_eagle
    except ImportError:
        raise ValueError("the draft 'eagle' is not part of this installation: choose 'student' or 'lookup'.") from None
    return load_eagle(pair, target, file or None)


def frequent_tokens(pair: Pair, n_tokens: int) -> list[int]:
    """The most frequent tokens: counted in the packaged teacher's training answers; for another tokenizer its lowest
    ids, which byte-pair encoding gives to the pieces that it merged first, the frequent ones."""
    counted = _counted()
    if counted is not None and counted["vocabulary_size"] == pair.vocabulary_size and pair.teacher_id == "packaged":
        ids: list[int] = counted["ids"]
        rest = (token for token in range(pair.vocabulary_size) if token not in set(ids))
        return [*ids[:n_tokens], *(token for token, _ in zip(rest, range(n_tokens - len(ids)), strict=False))]
    return list(range(n_tokens))


@lru_cache(maxsize=1)
def _counted() -> dict[str, Any] | None:
    for root in (Path(__file__).parents[2], Path.cwd()):
        path = root / "assets" / "decode" / "frequent-tokens.json"
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return None
