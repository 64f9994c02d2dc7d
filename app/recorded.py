"""What is shown before any model is in memory: recorded answers, runs and decodings, from assets/."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import speckd
from speckd.runs.recording import read_recording

log = logging.getLogger(__name__)

RECORDED = Path(__file__).parents[1] / "assets" / "traces"


@dataclass(frozen=True)
class Recorded:
    """A trace that ships with the page: on screen before any model is in memory."""

    name: str
    trace: speckd.Trace

    @property
    def label(self) -> str:
        config = self.trace.config
        source = {"teacher": "the teacher", "student": "the student", "given": "given text"}[config["source"]]
        temperature = "" if config["temperature"] == 1 else f", temperature {config['temperature']:g}"
        return f"{config['student']} student, response from {source}{temperature}"


def recorded_traces(folder: Path = RECORDED) -> list[Recorded]:
    """The shipped traces, the page's first picture first, then the healed student's others.

    One that can't be read is left out, and the log says so.
    """
    traces = []
    for path in sorted(folder.glob("*.json")):
        try:
            traces.append(Recorded(path.stem, speckd.Trace.from_json(path)))
        except (ValueError, OSError) as error:
            log.warning("The recorded trace %s is left out: %s", path.name, error)
    return sorted(traces, key=lambda one: (one.name != "healed", one.trace.config["student"] != "healed"))


RUNS = Path(__file__).parents[1] / "assets" / "runs"
LABELS = {
    "default": "from the young student: Top-k against plain distillation",
    "cold-start": "from the raw student: the gate at a cold start",
    "warm": "from the healed student: little is left to gate",
    "curriculum": "from the young student: Top-k against random tokens",
}


@dataclass(frozen=True)
class RecordedRun:
    """A recorded run that ships with the page."""

    name: str
    events: list[dict[str, Any]]

    @property
    def label(self) -> str:
        return LABELS.get(self.name, self.name)


def recorded_runs(folder: Path = RUNS) -> list[RecordedRun]:
    """The shipped runs, the page's first picture first. A file that can't be read is left out and told in the log."""
    runs = []
    for path in sorted(folder.glob("*.json")):
        if path.name == "seed-spread.json":
            continue
        try:
            runs.append(RecordedRun(path.stem, read_recording(path)))
        except (ValueError, OSError) as error:
            log.warning("The recorded run %s is left out: %s", path.name, error)
    return sorted(runs, key=lambda run: run.name != "default")


DECODINGS = Path(__file__).parents[1] / "assets" / "decode" / "recorded"
DECODED = {  # in the order of the page's list
    "sampled": "sampled at temperature 1: the coins fall",
    "default": "what text said before, then a one-layer draft in growing trees",
    "eagle": "a one-layer draft, while it is sure",
    "tree": "the same draft, trees of eight tokens",
    "ddd": "the same draft, trees that grow while they are likely",
    "student": "the six-layer student, four tokens a round",
    "lookup": "no model at all: what the text said before",
    "hispec": "two exits of the teacher, on three floors",
    "plain": "no drafts: the baseline",
}


@dataclass(frozen=True)
class RecordedDecoding:
    """A decode record that ships with the page."""

    name: str
    record: speckd.DecodeRecord

    @property
    def label(self) -> str:
        return DECODED.get(self.name, self.name)


class RecordedArms(Mapping[str, speckd.DecodeRecord]):
    """One short decoding by each draft of the papers' grids, by the names that ``grids.record_name`` gives.

    Each is read when somebody opens it. One that cannot be read is not there, and the log says so.
    """

    def __init__(self, folder: Path = DECODINGS.parent / "arms") -> None:
        self._files = {f"{path.parent.name}/{path.stem}": path for path in sorted(folder.glob("*/*.json"))}

    def __getitem__(self, name: str) -> speckd.DecodeRecord:
        try:
            return speckd.DecodeRecord.from_json(self._files[name])
        except (ValueError, OSError) as error:
            log.warning("The recorded decoding %s is left out: %s", name, error)
            raise KeyError(name) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


@cache
def recorded_decodings(folder: Path = DECODINGS) -> tuple[RecordedDecoding, ...]:
    """The shipped decodings, the page's first picture first. A file that can't be read is left out, and the log says
    so."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            found.append(RecordedDecoding(path.stem, speckd.DecodeRecord.from_json(path)))
        except (ValueError, OSError) as error:
            log.warning("The recorded decoding %s is left out: %s", path.name, error)
    order = list(DECODED)
    return tuple(sorted(found, key=lambda one: order.index(one.name) if one.name in order else len(order)))
