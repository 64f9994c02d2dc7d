"""What drafting and verifying cost on this machine, and what they then buy.

Costs are counted in *teacher tokens*: the time of one plain one-row pass. v(n) is the price of a pass over n rows, c of
one step of the draft, a_i the share of i-th drafted tokens that pass where all before them did.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

LONGEST = 16  # draft lengths that are compared


@dataclass(frozen=True)
class Costs:
    """Measured costs.

    Attributes:
        rows: how many rows were verified at once, ascending, the first is 1.
        verify_ratio: v(rows), in teacher tokens; the first is 1.
        draft: c, in teacher tokens.
        seconds: of one teacher token.
        spread: the largest quartile distance of any of the ratios, as a share of it: how noisy the machine was.
        clock: "cpu" (time that the process worked) or "wall".
        verify_share: what older records multiplied v by where the draft ran the teacher's first layers; 1 since such
            passes are timed as they are.
    Raises:
        ValueError: the rows are not ascending from 1, or a cost is not a positive number.
    """

    rows: tuple[int, ...]
    verify_ratio: tuple[float, ...]
    draft: float
    seconds: float = 0.0
    spread: float = 0.0
    clock: str = "cpu"
    verify_share: float = 1.0

    def __post_init__(self) -> None:
        if not self.rows or self.rows[0] != 1 or list(self.rows) != sorted(set(self.rows)):
            raise ValueError(f"rows are {self.rows}: give ascending numbers of rows, the first 1.")
        if len(self.rows) != len(self.verify_ratio) or min(*self.verify_ratio, 1.0) <= 0 or self.draft < 0:
            raise ValueError("Costs are positive numbers, one for each number of rows.")

    def verify(self, n_rows: int) -> float:
        """v(n): measured, or on the straight line between (or beyond) the measured numbers of rows."""
        rows, ratios = self.rows, [self.verify_share * ratio for ratio in self.verify_ratio]
        if len(rows) == 1:
            return ratios[0]
        place = next((i for i, measured in enumerate(rows[1:], 1) if measured >= n_rows), len(rows) - 1)
        low, high = rows[place - 1], rows[place]
        share = (n_rows - low) / (high - low)
        return ratios[place - 1] + share * (ratios[place] - ratios[place - 1])

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": list(self.rows),
            "verify": list(self.verify_ratio),
            "draft": self.draft,
            "seconds": self.seconds,
            "spread": self.spread,
            "clock": self.clock,
            "verify_share": self.verify_share,
        }

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Costs":
        return cls(
            tuple(int(n) for n in data["rows"]),
            tuple(float(ratio) for ratio in data["verify"]),
            float(data["draft"]),
            float(data["seconds"]),
            float(data["spread"]),
            str(data["clock"]),
            float(data["verify_share"]),
        )


# --- what they buy --------------------------------------------------------------------------------------------------


def expected_tokens(acceptances: Sequence[float]) -> float:
    """Tokens that one round is expected to bring: 1 + a_1 + a_1 a_2 + ... (its block efficiency)."""
    total, reach = 1.0, 1.0
    for acceptance in acceptances:
        reach *= acceptance
        total += reach
    return total


def predicted_speedup(costs: Costs, acceptances: Sequence[float]) -> float:
    """Speed over plain decoding of a fixed draft of len(acceptances) tokens.

    (1 + sum of the products of per-position acceptances) / (v(g + 1) + g c).
    Source: Leviathan et al. (arXiv 2211.17192), with measured v(n) in place of 1.
    """
    length = len(acceptances)
    return expected_tokens(acceptances) / (costs.verify(length + 1) + length * costs.draft)


def best_length(costs: Costs, acceptances: Sequence[float] | float, longest: int = LONGEST) -> tuple[int, float]:
    """The draft length with the highest predicted speed, and that speed; (0, 1.0) where drafting does not pay.

    Args:
        costs: as measured.
        acceptances: of each position, the last one's standing for all that follow; or one number for all.
        longest: lengths up to this are compared.
    """
    known = [float(acceptances)] if isinstance(acceptances, int | float) else list(acceptances)
    best = (0, 1.0)
    for length in range(1, longest + 1):
        padded = (known + known[-1:] * length)[:length] if known else [0.0] * length
        speed = predicted_speedup(costs, padded)
        if speed > best[1]:
            best = (length, speed)
    return best


def break_even(costs: Costs, length: int = 1) -> float | None:
    """The acceptance, the same at each position, from which a draft of this length is faster than plain decoding.

    Returns:
        0 to 1, or None where even a draft that always passes does not pay.
    """
    if predicted_speedup(costs, [1.0] * length) < 1.0:
        return None
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if predicted_speedup(costs, [middle] * length) >= 1.0 else (middle, high)
    return high
