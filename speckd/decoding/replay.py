"""Chain policies on a recorded text, without a model; and the best that hindsight could have done.

A greedy text does not depend on what was drafted. So where a record keeps, for each place, what the draft would have
said from there on (``continuations``), every chain policy's rounds follow by comparing tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from speckd.decoding.costs import Costs
from speckd.decoding.policies import Policy, policy_from_text
from speckd.decoding.record import CONTINUATION, DecodeRecord


@dataclass(frozen=True)
class Replay:
    """What a policy would have done on a recorded text.

    Attributes:
        policy: as it is written.
        starts, drafted, accepted: of each round: its first place, tokens drafted, tokens that passed.
        steps: runs of the draft in each round.
        n_tokens: of the text.
        time: what the rounds cost, in teacher tokens.
    """

    policy: str
    starts: list[int]
    drafted: list[int]
    accepted: list[int]
    steps: list[int]
    n_tokens: int
    time: float

    @property
    def speedup(self) -> float:
        """Predicted speed over plain decoding, from the costs."""
        return self.n_tokens / self.time

    @property
    def block_efficiency(self) -> float:
        return self.n_tokens / len(self.starts)

    @property
    def thrown_away(self) -> int:
        return sum(self.drafted) - sum(self.accepted)


def replay(record: DecodeRecord, policy: str | Policy, costs: Costs | None = None) -> Replay:
    """The rounds of a chain policy on a recorded greedy text.

    Args:
        record: with ``continuations``.
        policy: a chain policy of at most 8 tokens a round.
        costs: the record's own by default.
    Raises:
        ValueError: the record is sampled or keeps no continuations or no costs, or the policy drafts trees or further
            than the record looked.
    """
    chosen = policy_from_text(policy) if isinstance(policy, str) else policy
    continuations, prices = _needed(record, costs)
    rule = chosen.begin(prices)
    if chosen.tree or rule.most > CONTINUATION:
        raise ValueError(
            f"{chosen.describe()} cannot be replayed: a record keeps chains of {CONTINUATION} tokens. Decode anew."
        )
    right = n_right(record)
    place, n_tokens = 0, record.n_tokens
    rounds: list[tuple[int, int, int, int]] = []
    time = 0.0
    while place < n_tokens:
        said = continuations[place]
        most = min(rule.most, n_tokens - place - 1) if not _stops_within(record, place) else rule.most
        n_drafted, steps = _chain(said, most, rule)
        n_accepted = min(n_drafted, right[place])
        confidences = [confidence for _, _, confidence in said[:n_drafted]]
        rule.learn(confidences, n_accepted, n_accepted + (n_accepted < n_drafted))
        rounds.append((place, n_drafted, n_accepted, steps))
        time += prices.verify(n_drafted + 1) + prices.draft * steps
        place += n_accepted + 1
    columns = [list(column) for column in zip(*rounds, strict=True)]
    return Replay(chosen.describe(), columns[0], columns[1], columns[2], columns[3], n_tokens, time)


def _needed(record: DecodeRecord, costs: Costs | None) -> tuple[list[list[list[float]]], Costs]:
    if record.continuations is None:
        raise ValueError("This record keeps no continuations: decode greedily with continuations=True.")
    prices = costs or record.costs
    if prices is None:
        raise ValueError("This record has no measured costs: give some, from speckd.measure_costs.")
    return record.continuations, prices


def _stops_within(record: DecodeRecord, place: int) -> bool:
    """Whether the text was ended by its stop token rather than by its length: then a round could have drafted on."""
    return record.n_tokens < int(record.config["max_new_tokens"])


def _chain(said: Sequence[Sequence[float]], most: int, rule) -> tuple[int, int]:  # type: ignore[no-untyped-def]
    """How many tokens a rule drafts of a continuation, and how often it runs the draft."""
    if most <= 0 or not rule.looks(0, 0.0):
        return 0, 0
    steps, path, n_drafted = 1, 0.0, 0
    while n_drafted < len(said):
        _, chance, confidence = said[n_drafted]
        if not rule.takes(n_drafted, path, confidence):
            break
        path += log(chance)
        n_drafted += 1
        if n_drafted >= most or not rule.looks(n_drafted, path):
            break
        steps += 1
    return n_drafted, steps


def n_right(record: DecodeRecord) -> list[int]:
    """For each place of the text, how many tokens of the draft's continuation the teacher would have accepted."""
    assert record.continuations is not None
    counts = []
    for place, said in enumerate(record.continuations):
        rest = record.output_ids[place:]
        count = 0
        while count < min(len(said), len(rest) - 1) and int(said[count][0]) == rest[count]:
            count += 1
        counts.append(count)
    return counts


def oracle(record: DecodeRecord, costs: Costs | None = None, most: int = CONTINUATION) -> Replay:
    """The ceiling: the cheapest rounds for this text, had one known at each place how far the draft would be right.

    Drafting more than what passes only costs, so a round at place i drafts 0 to n_right[i] tokens; the cheapest way
    from each place to the end follows from the back (dynamic programming).

    Raises:
        ValueError: as in ``replay``.
    """
    _, prices = _needed(record, costs)
    right, n_tokens = n_right(record), record.n_tokens
    cost_from = [0.0] * (n_tokens + 1)
    best = [0] * n_tokens
    for place in range(n_tokens - 1, -1, -1):
        ways = [
            (prices.verify(g + 1) + prices.draft * g + cost_from[min(n_tokens, place + g + 1)], g)
            for g in range(min(right[place], most) + 1)
        ]
        cost_from[place], best[place] = min(ways)
    starts, place = [], 0
    while place < n_tokens:
        starts.append(place)
        place += best[place] + 1
    lengths = [best[start] for start in starts]
    return Replay("oracle", starts, lengths, lengths, lengths, n_tokens, cost_from[0])
