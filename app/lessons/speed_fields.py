"""Fields of the formula that turns a chance of acceptance into speed."""

from typing import Any

from app.lessons.scene import Scene, a_field
from app.lessons.trace_fields import facts_of
from app.lessons.values import Value, measured, number, share


def block_efficiency(a: float, draft: int) -> float:
    """Tokens a round when each drafted token is accepted with chance a: (1 - a^(g+1)) / (1 - a) (arXiv 2211.17192)."""
    return draft + 1.0 if a >= 1 else (1 - a ** (draft + 1)) / (1 - a)


def _acceptance(s: Scene, a: Any, text: str | None = None) -> float:
    """The chance that a drafted token is accepted: given, or the mean of 1 - TVD over a text."""
    if isinstance(a, int | float):
        return float(a)
    values = [1 - value for value in facts_of(s, text).divergence("tvd")]
    return sum(values) / len(values)


@a_field
def acceptance(s: Scene, text: str | None = None) -> Value:
    """The mean chance of one draw over the step's text, or over another shipped one."""
    return share(_acceptance(s, None, text))


@a_field
def block(s: Scene, a: Any = None, draft: Any = None, text: str | None = None) -> Value:
    return measured(block_efficiency(_acceptance(s, a, text), int(draft or s.settings["draft"])))


@a_field
def speedup(s: Scene, a: Any = None, draft: Any = None, text: str | None = None) -> Value:
    """Block efficiency over the round's cost, c g + 1 (arXiv 2310.08461)."""
    g = int(draft or s.settings["draft"])
    faster = block_efficiency(_acceptance(s, a, text), g) / (float(s.settings["cost"]) * g + 1)
    return number(faster, "times")


@a_field
def block_gain(s: Scene, since: float, until: float, draft: Any = None) -> Value:
    """How many more tokens a round when the chance rises."""
    g = int(draft or s.settings["draft"])
    return measured(block_efficiency(until, g) - block_efficiency(since, g))
