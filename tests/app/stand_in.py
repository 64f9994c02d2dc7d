"""Models that answer at once with made-up traces: everything of the page and its server is real but the weights."""

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any

import app.main
import speckd
from app.requests import TrainingRequest
from app.training import Trainings, Update
from tests.app import synthetic

LONGEST = 48  # tokens of a made-up trace


@cache
def _trace(n: int) -> speckd.Trace:
    return speckd.Trace.from_dict(synthetic.trace(n))


def answer_to(prompt: str, n: int = 12, **config: Any) -> speckd.Trace:
    """A trace of this prompt, as an engine would give it."""
    trace = _trace(max(1, min(n, LONGEST)))
    return replace(trace, config={**trace.config, "prompt": prompt, **config})


def load_pair(teacher: str = "packaged", student: str = "healed", **_: Any) -> Any:
    if teacher != "packaged":
        raise speckd.ModelUnavailable(f"The Hub has no model {teacher!r}.")

    def tokenizer(text: str, **_: Any) -> dict[str, Any]:
        return {"input_ids": text.encode("utf-8", "replace").split()}

    return SimpleNamespace(tokenizer=tokenizer, teacher=teacher, student=student)


def inspect(pair: Any, prompt: str, *, seconds: float = 0.0, **asked: Any) -> speckd.Trace:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if asked["should_stop"]():
            raise speckd.Stopped
        time.sleep(0.01)
    asked["on_progress"](speckd.Progress("generate", 1, asked["max_new_tokens"], "made up"))
    given = {"source": "given"} if asked.get("response") is not None else {"source": asked["source"]}
    return answer_to(prompt, asked["max_new_tokens"], **given)


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
    app.main.Trainings = NoTrainings
