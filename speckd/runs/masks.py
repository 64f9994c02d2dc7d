"""What a gate masks in a whole data set: the share it rejects by place, kind of token and how sure the models are."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from speckd.data import Example
from speckd.divergences import divergence_named, entropy
from speckd.draws import row_uniforms
from speckd.gates import Gate
from speckd.heads import Head
from speckd.jobs import OnProgress, Progress, silent
from speckd.pairs import Pair
from speckd.runs.figures import hidden_of

PLACES = 10  # parts of an answer, of ten per cent each
ENTROPY_EDGES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, float("inf"))  # nats
_GROUP = 24  # examples at a time
_ROWS = 256  # rows of the vocabulary at a time


def what_is_masked(
    pair: Pair,
    examples: Sequence[Example],
    gate: Gate,
    *,
    divergence: str = "forward_kl",
    seed: int = 0,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Which tokens of given answers a gate rejects, counted four ways.

    Args:
        pair: teacher and student.
        examples: with answers.
        gate: it must have verdicts (a soft weight has none). A selector ranks the tokens of some answers together.
        divergence: whose share in the rejected tokens is told.
        seed: names the coins of a gate that draws.
    Returns:
        n_tokens, rejected (share), divergence_rejected (share of the divergence that lies in rejected tokens), and
        tables place, kind, teacher_entropy, student_entropy: lists of {name, n, rejected}, classes without a token
        left out.
    Raises:
        ValueError: the gate is soft, or needs a reference.
    """
    if gate.soft or gate.needs_reference:
        raise ValueError(f"the gate {gate.name!r} rejects nothing that could be counted here: choose topk or speck.")
    answered = [example for example in examples if example.response_ids]
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(answered), _GROUP):
        group = answered[start : start + _GROUP]
        parts.append(_rows(pair, group, gate, divergence, seed))
        on_progress(Progress("measure", start + len(group), len(answered)))
    rows = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    tokens = [token for example in answered for token in example.response_ids]
    places = [
        place * PLACES // len(example.response_ids)
        for example in answered
        for place in range(len(example.response_ids))
    ]
    rejected = ~rows["accepted"]
    total = rows["divergence"].sum()
    return {
        "n_tokens": len(tokens),
        "rejected": _share(rejected),
        "divergence_rejected": (rows["divergence"][rejected].sum() / total).item() if total > 0 else 0.0,
        "place": _table([f"{10 * p} to {10 * (p + 1)}%" for p in places], places, rejected=rejected),
        "kind": _table(kinds(pair.tokenizer, tokens), rejected=rejected),
        **{
            f"{who}_entropy": _table(*_classes(rows[f"{who}_entropy"]), rejected=rejected)
            for who in ("teacher", "student")
        },
    }


@torch.no_grad()
def _rows(pair: Pair, group: Sequence[Example], gate: Gate, divergence: str, seed: int) -> dict[str, Tensor]:
    """Verdict, divergence and entropies of each response token of a few examples, on the CPU."""
    own, theirs = (torch.cat(hidden_of(model, group)) for model in (pair.student, pair.teacher))
    heads = Head.of(pair.teacher), Head.of(pair.student)
    lengths = [len(example.response_ids) for example in group]
    sequences = torch.repeat_interleave(torch.tensor([example.number for example in group]), torch.tensor(lengths))
    positions = torch.cat([torch.arange(n) for n in lengths])
    measure: Callable[..., Tensor] = divergence_named(divergence)
    found: dict[str, list[Tensor]] = {"scores": [], "divergence": [], "teacher_entropy": [], "student_entropy": []}
    for start in range(0, len(own), _ROWS):
        part = slice(start, start + _ROWS)
        p = heads[0].logits(theirs[part], pair.vocabulary_size).log_softmax(-1)
        q = heads[1].logits(own[part], pair.vocabulary_size).log_softmax(-1)
        uniforms = row_uniforms(seed, sequences[part], positions[part], gate.n_draws) if gate.n_draws else None
        found["scores"].append(gate.score(p, q, uniforms))
        found["divergence"].append(measure(p, q))
        found["teacher_entropy"].append(entropy(p))
        found["student_entropy"].append(entropy(q))
    rows = {name: torch.cat(values) for name, values in found.items()}
    rows["accepted"] = gate.accept(rows.pop("scores"), sequences.to(own.device))
    return {name: values.cpu() for name, values in rows.items()}


def kinds(tokenizer: Any, tokens: Sequence[int]) -> list[str]:
    """The kind of each token: how a text is made up, in words that need no linguistics."""
    seen = Counter(tokens)
    return [_kind(tokenizer.decode([token]), token in tokenizer.all_special_ids, seen[token]) for token in tokens]


def _kind(text: str, special: bool, times: int) -> str:
    body = text.strip()
    if special:
        return "end of turn"
    if not body:
        return "white space"
    if any(letter.isdigit() for letter in body):
        return "digit"
    if not any(letter.isalpha() for letter in body):
        return "punctuation"
    if times == 1:
        return "seen once here"
    return "word start" if text[0].isspace() else "piece of a word"


def _classes(values: Tensor) -> tuple[list[str], list[int]]:
    edges = torch.tensor(ENTROPY_EDGES[1:-1])
    places = torch.bucketize(values.float(), edges, right=True).tolist()
    names = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(ENTROPY_EDGES)]
    return [names[place].replace("4 to inf", "4 and more") for place in places], places


def _table(names: Sequence[str], sort: Sequence[int] | None = None, *, rejected: Tensor) -> list[dict[str, Any]]:
    """Counts by name: in the order of ``sort`` where it is given, else the largest class first."""
    counts: dict[str, list[int]] = {}
    order: dict[str, int] = {}
    flags = rejected.tolist()
    for place, (name, flag) in enumerate(zip(names, flags, strict=True)):
        counted = counts.setdefault(name, [0, 0])
        counted[0] += 1
        counted[1] += flag
        order[name] = sort[place] if sort is not None else 0
    named = sorted(counts, key=lambda name: (order[name], -counts[name][0]))
    return [{"name": n, "n": counts[n][0], "rejected": counts[n][1] / counts[n][0]} for n in named]


def _share(flags: Tensor) -> float:
    return flags.double().mean().item() if len(flags) else 0.0


def in_words(found: dict[str, Any], gate: Gate, divergence: str) -> str:
    """The counts as text for a terminal."""
    lines = [
        f"{gate.describe()} rejects {found['rejected']:.1%} of {found['n_tokens']:,} tokens; "
        f"{found['divergence_rejected']:.1%} of {divergence} lies in them."
    ]
    titles = {
        "place": "place in the answer",
        "kind": "kind of token",
        "teacher_entropy": "teacher's entropy, nats",
        "student_entropy": "student's entropy, nats",
    }
    for key, title in titles.items():
        lines += ["", f"{title:<26}{'tokens':>9}{'rejected':>10}"]
        lines += [f"{row['name']:<26}{row['n']:>9,}{row['rejected']:>10.1%}" for row in found[key]]
    return "\n".join(lines)
