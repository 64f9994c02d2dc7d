"""Models that answer at once with made-up traces: everything of the page and its server is real but the weights."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import app.main
import speckd
from app.recorded import recorded_decodings
from app.requests import TrainingRequest
from app.training import Trainings, Update
from speckd.decoding.decode import DecodingStopped
from tests.app import synthetic

LONGEST = 48  # tokens of a made-up trace


@cache
def _trace(n: int) -> speckd.Trace:
    return speckd.Trace.from_dict(synthetic.trace(n))


def answer_to(prompt: str, n: int = 12, **config: Any) -> speckd.Trace:
    """A trace of this prompt, as an engine would give it."""
    trace = _trace(max(1, min(n, LONGEST)))
    return replace(trace, config={**trace.config, "prompt": prompt, **config})


class Tokenizer:
    """Words for tokens."""

    def __call__(self, text: str, **_: Any) -> dict[str, Any]:
        return {"input_ids": text.encode("utf-8", "replace").split()}

    def convert_ids_to_tokens(self, token: int) -> str:
        return f"t{token}"

    def decode(self, ids: list[int]) -> str:
        return " ".join(f"t{token}" for token in ids)


def load_pair(teacher: str = "packaged", student: str = "healed", **_: Any) -> Any:
    if teacher != "packaged":
        raise speckd.ModelUnavailable(f"The Hub has no model {teacher!r}.")

    return SimpleNamespace(tokenizer=Tokenizer(), teacher=teacher, student=student)


def inspect(pair: Any, prompt: str, *, seconds: float = 0.0, **asked: Any) -> speckd.Trace:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if asked["should_stop"]():
            raise speckd.Stopped
        time.sleep(0.01)
    asked["on_progress"](speckd.Progress("generate", 1, asked["max_new_tokens"], "made up"))
    given = {"source": "given"} if asked.get("response") is not None else {"source": asked["source"]}
    return answer_to(prompt, asked["max_new_tokens"], **given)


@cache
def _decoding() -> speckd.DecodeRecord:
    return recorded_decodings()[0].record


def first_rounds(record: speckd.DecodeRecord, n: int, **config: Any) -> speckd.DecodeRecord:
    """A record that breaks off after its first n rounds, as one that was stopped does."""
    rounds = record.rounds[:n]
    ids = [token for step in rounds for token in step.output]
    return replace(
        record, config={**record.config, **config}, rounds=rounds, output_ids=ids, tokens=record.tokens[: len(ids)],
        plain_seconds=None, plain_ids=None, continuations=None, seconds=0.1,
    )  # fmt: skip


def decode(pair: Any, prompt: str, *, seconds: float = 0.0, **asked: Any) -> speckd.DecodeRecord:
    """The first recorded decoding, one round after another, under another prompt."""
    record = _decoding()
    for n, step in enumerate(record.rounds):
        end = time.monotonic() + seconds / len(record.rounds)
        while time.monotonic() < end and not asked["should_stop"]():
            time.sleep(0.01)
        if asked["should_stop"]():
            stopped = DecodingStopped()
            stopped.record = first_rounds(record, n, prompt=prompt) if n else None
            raise stopped
        asked["on_round"](step)
        asked["on_progress"](speckd.Progress("decode", step.start, record.n_tokens, "made up"))
    return replace(record, config={**record.config, "prompt": prompt})


class NoTrainings(Trainings):
    """Trainings that are over at once: requests are read and files opened as ever, but no process trains."""

    def warm(self) -> None:
        pass

    def run(self, request: TrainingRequest, name: str, session: str) -> Iterator[Update]:
        run = self._open(request, name, session)
        run.over = True
        event = {"kind": "verdict", "text": "Nothing was trained.", "table": [list(request.gates), [request.steps]]}
        run.events.append(event)
        yield Update("training", "Step 1 of 1.", 1.0)
        yield Update("done", "Done.", 1.0, None, 0, (event,))


def install(seconds: float = 0.0) -> None:
    """For a process of its own: from now on there are no other models."""
    speckd.load_pair = load_pair
    speckd.inspect = lambda *given, **asked: inspect(*given, seconds=seconds, **asked)
    speckd.decode = lambda *given, **asked: decode(*given, seconds=seconds, **asked)
    app.main.Trainings = NoTrainings
