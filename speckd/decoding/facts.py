"""What follows from a record: figures for a reader, plain data for a page. A browser draws these and computes none."""

import math
from typing import Any

from speckd.decoding.costs import break_even, predicted_speedup
from speckd.decoding.draft_named import read_draft
from speckd.decoding.policies import Fixed, policy_from_text
from speckd.decoding.record import DecodeRecord
from speckd.decoding.replay import oracle, replay

LENGTHS = 8  # draft lengths whose speed is predicted
REPLAYED = ("fixed:g=1", "fixed:g=2", "fixed:g=4", "fixed:g=6", "confidence:p=0.4", "path:p=0.1:most=6", "cost")


def facts(record: DecodeRecord) -> dict[str, Any]:
    """Figures of a record, by name; None where there is none.

    Returns:
        acceptance, accepted_per_drafted, block_efficiency, expected_block_efficiency, thrown_away, near_ties, speedup,
        predicted_speedup, identical, tokens_per_second: as in ``DecodeRecord``.
        n_tokens, n_rounds, n_drafted: counted.
        by_position: a_1, a_2, ... of a chain; empty for a tree, whose places have several candidates.
        draft_seconds, verify_seconds: of all rounds.
        token_seconds: of one token of plain decoding: measured beside it, else from the costs.
        costs: what was measured, with break_even (the acceptance from which a draft of one token pays), lengths (see
            ``fixed_lengths``), and the best of these as best_length and best_speedup; None where there are none.
        calibration: [confidence, share accepted, how many] of the examined tokens in up to five bins of q.
        replayed: [policy, predicted speed-up, block efficiency, thrown away] of other chain policies on this text, the
            oracle last; empty where the record keeps no continuations, or is lossy: other drafts write another text.
        threshold: of DDD, the value below which a tree stops growing; tree: whether trees were drafted.
        floors: layers of the two exits of HiSpec; empty for other drafts.
    """
    known = record.figures()
    drafted = sum(len(step.tokens) for step in record.rounds)
    policy = policy_from_text(str(record.config["policy"]))
    by_position = [] if policy.tree or not drafted else record.acceptance_by_position
    expected = record.expected_block_efficiency if by_position else None
    return {
        **known,
        "expected_block_efficiency": expected,
        "n_tokens": record.n_tokens,
        "n_rounds": len(record.rounds),
        "n_drafted": drafted,
        "tokens_per_second": _finite(record.tokens_per_second),
        "by_position": by_position,
        "draft_seconds": sum(step.draft_seconds for step in record.rounds),
        "verify_seconds": sum(step.verify_seconds for step in record.rounds),
        "token_seconds": _token_seconds(record),
        "costs": _costs(record) if drafted else None,
        "calibration": _calibration(record),
        "replayed": _replayed(record),
        "threshold": getattr(policy, "x", None),
        "tree": policy.tree,
        "floors": _floors(str(record.config["draft"])),
    }


def _token_seconds(record: DecodeRecord) -> float | None:
    if record.plain_seconds:
        return record.plain_seconds / record.n_tokens
    return record.costs.seconds if record.costs is not None else None


def fixed_lengths(record: DecodeRecord) -> list[list[Any]]:
    """[g, predicted speed-up] of drafts of a fixed length on this text, as far as the record can tell.

    A greedy record with continuations tells all of them, by replay. Without, a fixed policy tells the lengths that it
    drafted itself; no other does, since it drafts on just where the draft is sure.
    """
    if record.costs is None or not any(step.tokens for step in record.rounds) or _is_lenient(record):
        return []
    if record.continuations is not None and any(record.continuations):
        return [[g, replay(record, Fixed(g=g)).speedup] for g in range(1, LENGTHS + 1)]
    if not isinstance(policy_from_text(str(record.config["policy"])), Fixed):
        return []
    passed = record.acceptance_by_position
    return [[g, predicted_speedup(record.costs, passed[:g])] for g in range(1, len(passed) + 1)]


def best_fixed(lengths: list[list[Any]]) -> tuple[int, float] | None:
    """The fastest of these lengths and its speed; (0, 1.0) where none beats plain decoding, None where none is told."""
    if not lengths:
        return None
    length, speed = max(lengths, key=lambda one: one[1])
    return (length, speed) if speed > 1.0 else (0, 1.0)


def _costs(record: DecodeRecord) -> dict[str, Any] | None:
    costs = record.costs
    if costs is None:
        return None
    lengths = fixed_lengths(record)
    length, speed = best_fixed(lengths) or (None, None)
    told = {"break_even": break_even(costs), "lengths": lengths, "best_length": length, "best_speedup": speed}
    return costs.to_dict() | told


def _calibration(record: DecodeRecord) -> list[list[float]]:
    """The draft's own word for a token beside how often such tokens passed, of those that were looked at."""
    seen = [
        (q, verdict == "accepted")
        for step in record.rounds
        for q, verdict in zip(step.draft_probs, step.verdicts, strict=True)
        if verdict != "unseen"
    ]
    rows = []
    for low in range(5):
        chosen = [one for one in seen if low <= min(4, math.floor(5 * one[0])) < low + 1]
        if chosen:
            n = len(chosen)
            rows.append([sum(q for q, _ in chosen) / n, sum(passed for _, passed in chosen) / n, float(n)])
    return rows


def _replayed(record: DecodeRecord) -> list[list[Any]]:
    if record.continuations is None or record.costs is None or not any(record.continuations) or _is_lenient(record):
        return []
    plays = [replay(record, policy) for policy in REPLAYED] + [oracle(record)]
    return [[play.policy, play.speedup, play.block_efficiency, play.thrown_away] for play in plays]


def _is_lenient(record: DecodeRecord) -> bool:
    """Whether the text depends on what was drafted, so that another policy would have written another one."""
    return float(record.config.get("lenience", 1.0)) < 1.0


def _floors(draft: str) -> list[int]:
    name, knobs = read_draft(draft)
    return [knobs["draft"], knobs["middle"]] if name == "hispec" else []


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
