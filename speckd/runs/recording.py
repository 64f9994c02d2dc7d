"""A training run as a list of events: what a live page draws as it comes, and what a recorded run plays again.

The events, in order, each a plain dictionary (infinity is written "inf"):

    start      racers [{gate, name}], steps, in_turn (whether their steps alternate), student, teacher,
               teacher_sha256, seed, divergence, settings (FACTS),
               probe {prompt, tokens, teacher_entropy} or null
    held_out   racer, step (0 before training), scores as in ``evaluation.Scores``
    probe      racer, step, and lists over the probe's tokens: topk_threshold, speck_threshold, divergence, tvd,
               proposal
    row        racer, row: a line of the trainer's log
    saying     racer, step, text: the student's greedy answer to the probe's prompt at that step
    answers    prompt, answers [{who: teacher | before | after, racer, sampled, trace}], each trace with the few columns
               of ``Trace.to_dict`` that a strip needs
    verdict    text, table (lines of cells, the first is the head)

Racers run one after the other, or take a step in turn; so do their events.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speckd._version import __version__
from speckd.files import as_json, plain, rounded, write_whole
from speckd.pairs import Pair
from speckd.trace import Trace

Event = dict[str, Any]
OnEvent = Callable[[Event], None]
FACTS = ("responses", "batch_size", "learning_rate", "max_length", "temperature", "limit", "eval_limit")  # of a run
KINDS = ("start", "held_out", "probe", "row", "saying", "answers", "verdict", "kept")
_TIMING = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second", "train_runtime")


class Recorder:
    """Makes the events of a run, keeps them, and tells them on."""

    def __init__(self, settings: Any, on_event: OnEvent | None = None) -> None:
        self._settings, self._on_event = settings, on_event
        self._answers: list[dict[str, Any]] = []
        self._prompt = ""
        self.events: list[Event] = []

    @property
    def started(self) -> bool:
        return bool(self.events)

    def _tell(self, kind: str, **facts: Any) -> None:
        event = {"kind": kind, **plain(facts)}
        self.events.append(event)
        if self._on_event is not None:
            self._on_event(event)

    def start(self, pair: Pair, probe: Any | None) -> None:
        from speckd.gates import gate_from_text

        settings = self._settings
        self._tell(
            "start",
            racers=[{"gate": gate, "name": gate_from_text(gate).title()} for gate in settings.gates],
            steps=settings.steps or None,
            in_turn=settings.in_turn,
            student=pair.student_id,
            teacher=pair.teacher_id,
            teacher_sha256=pair.teacher_sha256,
            seed=settings.seed,
            divergence=settings.divergence,
            settings={name: getattr(settings, name) for name in FACTS},
            probe=probe.describe() if probe is not None else None,
        )

    def row(self, racer: int, row: dict[str, Any]) -> None:
        if "loss" in row:
            self._tell("row", racer=racer, row=row)
        elif any(name.startswith("eval_") for name in row):
            scores = {name.removeprefix("eval_"): value for name, value in row.items() if name not in _TIMING}
            self.held_out(racer, scores.pop("step"), scores)

    def held_out(self, racer: int, step: int, scores: dict[str, Any]) -> None:
        known = any(one["kind"] == "held_out" and (one["racer"], one["step"]) == (racer, step) for one in self.events)
        if not known:  # the last evaluation of the schedule and the one after training may fall on one step
            self._tell("held_out", racer=racer, step=step, scores=scores)

    def probe(self, racer: int, step: int, measured: dict[str, Any]) -> None:
        self._tell("probe", racer=racer, step=step, **measured)

    def saying(self, racer: int, step: int, text: str) -> None:
        self._tell("saying", racer=racer, step=step, text=text)

    def answer(
        self, pair: Pair, who: str, racer: int | None, prompt: str, longest: int, *, sampled: bool = False
    ) -> None:
        """An answer to the probe's prompt, for the comparison at the end, greedy or sampled: of the "teacher", or of
        the student as it is now, "before" or "after" its training."""
        from speckd.inspection import inspect

        self._prompt = prompt
        training = pair.student.training
        pair.student.eval()
        trace = inspect(
            pair,
            prompt,
            source="teacher" if who == "teacher" else "student",
            do_sample=sampled,
            max_new_tokens=longest,
            temperature=self._settings.temperature,
            seed=self._settings.seed,
        )
        pair.student.train(training)
        strip = _for_a_strip(trace, self._settings.divergence)
        self._answers.append({"who": who, "racer": racer, "sampled": sampled, "trace": strip})

    def has_answer(self, who: str) -> bool:
        return any(answer["who"] == who for answer in self._answers)

    def answers(self) -> None:
        if self._answers:
            order = {"teacher": 0, "before": 1, "after": 2}
            answers = sorted(self._answers, key=lambda one: (order[one["who"]], one["racer"] or 0, one["sampled"]))
            self._tell("answers", prompt=self._prompt, answers=answers)

    def verdict(self, text: str, table: list[list[str]]) -> None:
        if self.started:
            self._tell("verdict", text=text, table=table)

    def write(self, path: Path) -> None:
        """One JSON file, whole or absent. A resumed race whose racers were all finished leaves the file as it was."""
        if not self.started:
            return
        data = {"kind": "run", "speckd": __version__, "events": self.events}
        write_whole(path, as_json(data) + "\n")


def _for_a_strip(trace: Trace, divergence: str) -> dict[str, Any]:
    """The columns of ``Trace.to_dict`` that a strip shows."""
    return {
        "response": trace.response,
        "tokens": trace.tokens,
        "topk_threshold": trace.topk_threshold.tolist(),
        "speck_threshold": trace.speck_threshold.tolist(),
        "divergence": {name: rounded(trace.divergence(name)) for name in (divergence, "tvd")},
    }


def read_recording(path: str | Path) -> list[Event]:
    """The events of a recorded run.

    Raises:
        ValueError: the file is not a recording; OSError: it cannot be read.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not a recorded run: {error}. Give the recording.json of a run's folder.") from None
    events = data.get("events") if isinstance(data, dict) and data.get("kind") == "run" else None
    if (
        not isinstance(events, list)
        or not events
        or not all(isinstance(event, dict) and event.get("kind") in KINDS for event in events)
        or events[0]["kind"] != "start"
    ):
        raise ValueError(f"{path} is not a recorded run: give the recording.json of a run's folder.")
    return events
