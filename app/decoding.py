"""What a visitor asks of Decode, checked; and one decoding, told round by round."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import speckd
from app.checks import as_real, as_text
from app.requests import Question
from app.settings import Settings
from app.steps import Step

LONGEST_NAME = 200  # characters of a draft or a policy with its knobs
DEFAULTS: dict[str, Any] = {
    "prompt": "", "teacher": "packaged", "student": "healed", "draft": "", "policy": "", "do_sample": False,
    "max_new_tokens": 64, "temperature": 1.0, "seed": 0, "lenience": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class DecodeRequest(Question):
    """Arguments of speckd.load_pair and speckd.decode. Made by ``read``, which checks them; "" is the best there is."""

    draft: str = ""
    policy: str = ""
    lenience: float = 1.0

    @classmethod
    def read(cls, data: Mapping[str, Any], settings: Settings) -> "DecodeRequest":
        """The request in the data that a page or a client sent.

        Raises:
            ValueError: one sentence for a person, when something is missing, unknown or out of range.
        """
        if not isinstance(data, Mapping):
            raise ValueError("The request is no set of fields: send prompt, draft and the rest by their names.")
        asked = {**DEFAULTS, **{name: value for name, value in data.items() if name in DEFAULTS and value is not None}}
        question = super().read({**asked, "source": "teacher"}, settings)
        assert isinstance(question, cls)
        names: dict[str, Any] = {}
        for name in ("draft", "policy"):
            names[name] = as_text(asked[name], f"The {name}").strip()
            if len(names[name]) > LONGEST_NAME:
                raise ValueError(f"The {name} has more than {LONGEST_NAME} characters: write a name, then :knob=value.")
        if "file=" in names["draft"].replace(" ", "") and not settings.own_models:
            raise ValueError("Here only the drafts that come with the page can be used: leave file= out.")
        lenience = as_real(asked["lenience"], "The lenience", 0.01, 1.0)
        request = replace(question, **names, lenience=lenience)
        from speckd.decoding.request import check_decode

        check_decode(
            request.prompt,
            request.draft or "none",
            (request.policy or None) if request.draft else None,
            request.max_new_tokens,
            request.do_sample,
            request.temperature,
            request.seed,
            lenience,
        )
        if request.policy and not request.draft:
            raise ValueError("A policy needs a draft beside it: name one, or leave both out for the fastest way here.")
        return request


def decode(
    pair: speckd.Pair, request: DecodeRequest, post: Callable[[Step], None], should_stop: Callable[[], bool]
) -> Step:
    """Decode, and tell each round; the last step has the record.

    Raises:
        ValueError: draft, policy and pair do not fit.
        Stopped: before the first round was over. Later, what was decoded comes back as a step "stopped".
    """
    from speckd.data import token_text
    from speckd.decoding.decode import DecodingStopped

    rounds: list[dict[str, Any]] = []
    known: set[int] = set()

    def round_over(step: Any) -> None:
        new = _tokens_of(step) - known
        known.update(new)
        rounds.append({**asdict(step), "strings": {str(token): token_text(pair.tokenizer, token) for token in new}})

    def progress(p: speckd.Progress) -> None:
        share = p.done / p.total if p.total else None
        if p.stage == "decode":
            words = f"Round {len(rounds)}: {p.done} of at most {p.total} tokens."
            post(Step("writing", words, share, partial=p.text, n_tokens=p.done, rounds=rounds))
        else:
            post(Step("measuring", "Measuring what drafts and passes cost on this machine."))

    try:
        record = speckd.decode(
            pair,
            request.prompt,
            draft=request.draft or None,
            policy=request.policy or None,
            max_new_tokens=request.max_new_tokens,
            do_sample=request.do_sample,
            temperature=request.temperature,
            seed=request.seed,
            lenience=request.lenience,
            continuations=not request.do_sample,
            on_round=round_over,
            on_progress=progress,
            should_stop=should_stop,
        )
    except DecodingStopped as stopped:
        if stopped.record is None:
            raise
        n_tokens, n_rounds = stopped.record.n_tokens, len(stopped.record.rounds)
        words = f"Stopped after {n_tokens} tokens in {n_rounds} rounds; what was decoded is kept."
        return Step("stopped", words, 1.0, n_tokens=n_tokens, rounds=rounds, record=stopped.record)
    except OSError as error:  # a draft that is not there
        raise ValueError(str(error)) from None
    words = f"{record.n_tokens} tokens in {len(record.rounds)} rounds."
    return Step("done", words, 1.0, n_tokens=record.n_tokens, rounds=rounds, record=record)


def _tokens_of(step: Any) -> set[int]:
    """Every token that a round names."""
    rows = [*step.teacher_top, *step.draft_top, step.leftover]
    floors = {token for floor in step.floors for token in [*floor["drafted"], floor["middle"]]}
    return {*step.output, *step.tokens, *floors, *(int(entry[0]) for row in rows for entry in row)}
