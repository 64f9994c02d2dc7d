"""What a lesson speaks of: one trace or one run, as plain numbers, and the tokens in it that have a part to play.

A lesson names a token by its role ("the one with the largest loss"), never by its number. So text, picture and
exercises hold for any sentence, also for a visitor's own.
"""

import json
import math
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import speckd
from app.engine import read_gate

ASSETS = Path(__file__).parents[2] / "assets"
USUAL_K = 5  # the k that roles go by: the paper's default
RANKINGS = ("adakd", "student_entropy", "teacher_entropy_low", "teacher_entropy_high", "random")


class TraceFacts:
    """A trace with its columns as plain lists, and what gates make of it (computed by speckd)."""

    def __init__(self, trace: speckd.Trace) -> None:
        self.trace = trace
        self.columns = trace.to_dict()
        self.n = trace.n_tokens
        self._divergences = {
            name: [math.inf if value == "inf" else float(value) for value in values]
            for name, values in self.columns["divergence"].items()
        }
        self._places: dict[str, int] = {}

    def divergence(self, name: str = "forward_kl") -> list[float]:
        return self._divergences[name]

    def gate(self, knobs: Mapping[str, Any]) -> speckd.Gate:
        return read_gate(knobs)[0]

    def accepted(self, knobs: Mapping[str, Any]) -> list[bool]:
        return self.trace.accepted(self.gate(knobs)).tolist()

    def tar(self, knobs: Mapping[str, Any]) -> float:
        return self.trace.tar(self.gate(knobs))

    def loss(self, knobs: Mapping[str, Any]) -> float:
        return self.trace.loss(self.gate(knobs), knobs.get("divergence", "forward_kl"))

    def plain_loss(self, divergence: str = "forward_kl") -> float:
        return self.trace.loss(speckd.AllOpen(), divergence)

    def text_of(self, token_id: int) -> str:
        return self.trace.strings.get(token_id, f"#{token_id}")

    def budget(self, knobs: Mapping[str, Any]) -> int:
        """How many tokens the gate accepts: what every other selector may keep, too."""
        return sum(self.accepted(knobs))

    def kept(self, selector: str, knobs: Mapping[str, Any]) -> list[bool]:
        """The tokens that a selector keeps within the gate's budget; "gate" is the gate itself."""
        if selector == "gate":
            return self.accepted(knobs)
        if selector in ("topk", "speck"):
            return self.accepted({**knobs, "gate": selector})
        return self.trace.kept_at_budget(selector, self.budget(knobs)).tolist()

    def place(self, role: str) -> int:
        """The token (from 0) that has this role.

        Raises:
            KeyError: there is no such role.
        """
        rule = ROLES[role]
        if role not in self._places:
            self._places[role] = min(range(self.n), key=lambda t: (*_tuple(rule(self, t)), t))
        return self._places[role]


def _tuple(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)


Role = Callable[[TraceFacts, int], Any]
ROLES: dict[str, Role] = {}


def role(rule: Role) -> Role:
    """A role is a key: the token with the smallest one has it, the earlier token where two are equal. A condition comes
    first in the key, so that a text without such a token still has the nearest one."""
    ROLES[rule.__name__] = rule
    return rule


@role
def first(f: TraceFacts, t: int) -> Any:
    return t


@role
def most_loss(f: TraceFacts, t: int) -> Any:
    """The token with the largest forward KL."""
    return -f.divergence()[t]


@role
def least_loss(f: TraceFacts, t: int) -> Any:
    return f.divergence()[t]


@role
def middling_loss(f: TraceFacts, t: int) -> Any:
    """The token whose forward KL is nearest to the mean."""
    return abs(f.divergence()[t] - sum(f.divergence()) / f.n)


@role
def unsure(f: TraceFacts, t: int) -> Any:
    """Where the teacher's entropy is largest."""
    return -f.columns["teacher_entropy"][t]


@role
def sure_together(f: TraceFacts, t: int) -> Any:
    """Where the two distributions are nearest to one another."""
    return f.columns["divergence"]["tvd"][t]


@role
def sure_miss(f: TraceFacts, t: int) -> Any:
    """Rejected although the teacher is very sure: the student does not know something."""
    return (f.columns["topk_threshold"][t] <= USUAL_K, f.columns["teacher_entropy"][t])


@role
def second(f: TraceFacts, t: int) -> Any:
    """The proposal is the teacher's second choice, and the student is sure of it."""
    return (f.columns["topk_threshold"][t] != 2, -f.columns["proposal_student_prob"][t])


@role
def near_miss(f: TraceFacts, t: int) -> Any:
    """Rejected at the usual k, by the fewest places."""
    rank = f.columns["topk_threshold"][t]
    return (rank <= USUAL_K, rank)


@role
def far_miss(f: TraceFacts, t: int) -> Any:
    """The proposal that the teacher ranks last of all."""
    return -f.columns["topk_threshold"][t]


@role
def late_coin(f: TraceFacts, t: int) -> Any:
    """The first draws fail, a later one among the usual k passes; the chance of one draw near one in four."""
    return (not 3 <= f.columns["speck_threshold"][t] <= USUAL_K, abs(f.columns["divergence"]["tvd"][t] - 0.75))


@role
def early_coin(f: TraceFacts, t: int) -> Any:
    """The first draw passes, although its chance is small."""
    return (f.columns["speck_threshold"][t] != 1, -f.columns["divergence"]["tvd"][t])


@role
def lucky(f: TraceFacts, t: int) -> Any:
    """Rejected by Top-k and accepted by Spec-k, with the worst rank."""
    rank = f.columns["topk_threshold"][t]
    return (not (rank > USUAL_K and f.columns["speck_threshold"][t] <= USUAL_K), -rank)


@role
def unlucky(f: TraceFacts, t: int) -> Any:
    """Accepted by Top-k and rejected by Spec-k, with the latest passing draw."""
    draw = f.columns["speck_threshold"][t]
    return (not (f.columns["topk_threshold"][t] <= USUAL_K and draw > USUAL_K), -draw)


@role
def half_open(f: TraceFacts, t: int) -> Any:
    """Where one draw passes with a chance near one half."""
    return abs(f.columns["divergence"]["tvd"][t] - 0.5)


@role
def torn(f: TraceFacts, t: int) -> Any:
    """Where reverse KL is largest beside forward KL: the student spends on what the teacher rules out."""
    forward, reverse = f.divergence()[t], f.divergence("reverse_kl")[t]
    return -(reverse - forward)


@role
def hidden_lesson(f: TraceFacts, t: int) -> Any:
    """Rejected by the gate, and the first that the student-entropy selector would keep."""
    return (f.columns["topk_threshold"][t] <= USUAL_K, f.columns["ranks"]["student_entropy"][t])


@role
def easy_keep(f: TraceFacts, t: int) -> Any:
    """Accepted by the gate, and the last that the student-entropy selector would keep."""
    return (f.columns["topk_threshold"][t] > USUAL_K, -f.columns["ranks"]["student_entropy"][t])


@role
def surest_accepted_digit(f: TraceFacts, t: int) -> Any:
    """Accepted where the teacher writes a digit of the result: the last number of the text, its first digit."""
    tokens = f.trace.tokens
    if not any(token.strip().isdigit() for token in tokens):
        return (True, t)
    end = max(i for i, token in enumerate(tokens) if token.strip().isdigit())
    start = end
    while start > 0 and tokens[start - 1].strip().isdigit():
        start -= 1
    return (t != start, t)


class RunFacts:
    """A recorded run (speckd/recording.py): rows, held-out scores and probes of each racer."""

    def __init__(self, name: str, events: list[dict[str, Any]]) -> None:
        self.name, self.events = name, events
        self.start = next(event for event in events if event["kind"] == "start")
        self.racers = [racer["name"] for racer in self.start["racers"]]

    @classmethod
    def read(cls, path: Path) -> "RunFacts":
        """Raises ValueError where the file is no recording, OSError where it can't be read."""
        data = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(data, dict) or data.get("kind") != "run" or not isinstance(data.get("events"), list):
            raise ValueError(f"{path.name} is not a recorded run: it does not say 'kind': 'run'.")
        return cls(path.stem, data["events"])

    @cached_property
    def steps(self) -> int:
        return max(event["row"]["step"] for event in self.events if event["kind"] == "row")

    def of(self, kind: str, racer: int) -> list[dict[str, Any]]:
        """The events of a kind that belong to a racer, by step."""
        found = [event for event in self.events if event["kind"] == kind and event["racer"] == racer]
        return sorted(found, key=lambda event: event["row"]["step"] if kind == "row" else event["step"])

    def series(self, quantity: str, racer: int, of: str = "held_out", k: int = USUAL_K) -> list[tuple[int, float]]:
        """(step, value) pairs: of held-out scores, of the log's rows, or the probe's TAR at k."""
        if of == "row":
            return [
                (e["row"]["step"], _real(e["row"][quantity])) for e in self.of("row", racer) if quantity in e["row"]
            ]
        if of == "probe":
            if quantity == "tar":
                return [(e["step"], _share(e["topk_threshold"], k)) for e in self.of("probe", racer)]
            return [(e["step"], _mean([_real(v) for v in e[quantity]])) for e in self.of("probe", racer)]
        return [(e["step"], _real(e["scores"][quantity])) for e in self.of("held_out", racer)]

    def value(self, quantity: str, racer: int, step: Any = "last", of: str = "held_out", k: int = USUAL_K) -> float:
        """One value: at the first or last step that has one, or at the last one not after a given step."""
        points = self.series(quantity, racer, of, k)
        if step == "first":
            return points[0][1]
        if step == "last":
            return points[-1][1]
        return [value for at, value in points if at <= int(step)][-1]

    def cross(self, quantity: str, value: float, racer: int, of: str, k: int = USUAL_K) -> int | None:
        """The first step at which a quantity reaches a value; None where it never does."""
        return next((at for at, one in self.series(quantity, racer, of, k) if one >= value), None)


def _real(value: Any) -> float:
    return math.inf if value == "inf" else float(value)


def _share(thresholds: list[int], k: int) -> float:
    return sum(threshold <= k for threshold in thresholds) / len(thresholds)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@lru_cache(maxsize=16)
def trace_facts(name: str) -> TraceFacts:
    """A shipped trace. Raises OSError or ValueError where it can't be read."""
    return TraceFacts(speckd.Trace.from_json(ASSETS / "traces" / f"{name}.json"))


@lru_cache(maxsize=16)
def run_facts(name: str) -> RunFacts:
    """A recorded run. Raises OSError or ValueError where it can't be read."""
    return RunFacts.read(ASSETS / "runs" / f"{name}.json")


@lru_cache
def seed_facts() -> dict[str, Any]:
    """What a change of seed did to the usual race (tests/bench/seed_spread.py)."""
    return json.loads((ASSETS / "runs" / "seed-spread.json").read_text(encoding="utf-8"))
