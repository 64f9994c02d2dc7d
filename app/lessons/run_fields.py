"""Fields of a recorded run: the step's own, or another one by its name in ``recorded``."""

from typing import Any

from app.lessons.run_facts import RunFacts, run_facts, seed_facts
from app.lessons.scene import Scene, a_field
from app.lessons.values import Value, count, measured, nats, number, share, word


def _quantity(quantity: str, value: float) -> Value:
    if quantity == "grad_norm":
        return measured(value)
    return share(value) if _is_share(quantity) else nats(value)


def _is_share(quantity: str) -> bool:
    return quantity in ("tar", "acceptance", "agreement", "masked_share", "rouge_l")


def _moved(quantity: str, value: float, signed: bool = True) -> Value:
    """A difference: shares in percentage points."""
    return number(value, "points", signed=signed, unit=True) if _is_share(quantity) else nats(value, signed=signed)


def _race(s: Scene, recorded: str | None) -> RunFacts:
    return s.race if recorded is None else run_facts(recorded)


def _ends(s: Scene, quantity: str, of: str, recorded: str | None) -> list[float]:
    race = _race(s, recorded)
    return [race.value(quantity, i, "last", of, s.knobs["k"]) for i in range(len(race.racers))]


@a_field
def steps(s: Scene, recorded: str | None = None) -> Value:
    return count(_race(s, recorded).steps)


@a_field
def run_step(s: Scene, step: int) -> Value:
    return count(step)


@a_field
def racer(s: Scene, i: int, recorded: str | None = None) -> Value:
    return word(s.language.named("racer", _race(s, recorded).racers[i]))


@a_field
def run(
    s: Scene, quantity: str, racer: int = 0, step: Any = "last", of: str = "held_out", recorded: str | None = None
) -> Value:
    """A quantity of a racer at a step."""
    return _quantity(quantity, _race(s, recorded).value(quantity, racer, step, of, s.knobs["k"]))


@a_field
def seeds(_: Scene) -> Value:
    """By how much a change of seed moves the gap of the page's usual race."""
    return nats(seed_facts()["divergence"])


@a_field
def change(
    s: Scene,
    quantity: str,
    racer: int = 0,
    since: Any = "first",
    until: Any = "last",
    of: str = "held_out",
    recorded: str | None = None,
) -> Value:
    """How far a quantity moved between two steps."""
    race = _race(s, recorded)
    start, end = (race.value(quantity, racer, step, of, s.knobs["k"]) for step in (since, until))
    return _moved(quantity, end - start)


@a_field
def stretch(s: Scene, quantity: str, part: str, racer: int = 0, recorded: str | None = None) -> Value:
    """The mean of a quantity of the log over the first or the last third of the steps."""
    values = [value for _, value in _race(s, recorded).series(quantity, racer, "row")]
    third = max(1, len(values) // 3)
    chosen = values[:third] if part == "early" else values[-third:]
    return _quantity(quantity, sum(chosen) / third)


@a_field
def room(s: Scene, quantity: str, racer: int = 0, step: Any = "last", of: str = "held_out") -> Value:
    """What is left of a share: one minus it."""
    return share(1 - s.race.value(quantity, racer, step, of, s.knobs["k"]))


@a_field
def part(s: Scene, of: float, quantity: str, racer: int = 0, step: Any = "last") -> Value:
    """A part of a quantity of the log: a wrong answer to choose."""
    return _quantity(quantity, of * s.race.value(quantity, racer, step, "row"))


@a_field
def probe_mean(s: Scene, of: str, which: str, racer: int = 0) -> Value:
    """The mean of a column of the probe over its tokens that Top-k accepts, or rejects, at the last step."""
    column = s.race.start["probe"][of]
    ranks = s.race.of("probe", racer)[-1]["topk_threshold"]
    chosen = [v for v, rank in zip(column, ranks, strict=True) if (rank <= s.knobs["k"]) == (which == "accepted")]
    return nats(sum(chosen) / len(chosen) if chosen else float("nan"))


@a_field
def gap(s: Scene, quantity: str, of: str = "held_out", recorded: str | None = None) -> Value:
    """How far the two racers are apart at the end."""
    ends = _ends(s, quantity, of, recorded)
    apart = abs(ends[0] - ends[1])
    return _moved(quantity, apart, signed=False)


@a_field
def lower(s: Scene, quantity: str = "divergence", of: str = "held_out", recorded: str | None = None) -> Value:
    """The racer that ends lower."""
    ends = _ends(s, quantity, of, recorded)
    return word(s.language.named("racer", _race(s, recorded).racers[ends.index(min(ends))]))


@a_field
def higher(s: Scene, quantity: str = "divergence", of: str = "held_out", recorded: str | None = None) -> Value:
    ends = _ends(s, quantity, of, recorded)
    return word(s.language.named("racer", _race(s, recorded).racers[ends.index(max(ends))]))
