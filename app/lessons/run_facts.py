"""A recorded training run as plain numbers: rows, held-out scores and probes of each racer."""

import json
import math
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from app.lessons.facts import ASSETS
from app.lessons.roles import USUAL_K


class RunFacts:
    """A recorded run: what each racer's log, held-out scores and probe said, step by step."""

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


def _real(value: Any) -> float:
    return math.inf if value == "inf" else float(value)


def _share(thresholds: list[int], k: int) -> float:
    return sum(threshold <= k for threshold in thresholds) / len(thresholds)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


@lru_cache(maxsize=16)
def run_facts(name: str) -> RunFacts:
    """A recorded run. Raises OSError or ValueError where it can't be read."""
    return RunFacts.read(ASSETS / "runs" / f"{name}.json")


@lru_cache
def seed_facts() -> dict[str, Any]:
    """What a change of seed did to the usual race (tests/bench/seed_spread.py)."""
    return json.loads((ASSETS / "runs" / "seed-spread.json").read_text(encoding="utf-8"))
