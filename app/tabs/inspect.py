"""Inspect: one text under the gate. The picture lives in the browser; here a question becomes a trace, or a file."""

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

import speckd
from app import figures
from app.engine import Engine
from app.panels import Inspector
from app.recorded import recorded_traces
from app.requests import Question, read_gate
from app.sessions import Shelf
from app.settings import Settings
from app.tabs.asking import Asking, on_run, options, served
from speckd.files import as_json
from speckd.html import N_DRAWS, to_html

log = logging.getLogger(__name__)


def as_result(trace: speckd.Trace, key: str, recorded: bool = False) -> dict[str, Any]:
    """What the page needs to show a trace. Trace and figure travel as JSON text: gradio would wrap every number of a
    plain dictionary into a reactive one."""
    data = trace.to_dict(n_draws=N_DRAWS)
    return {
        "id": key,
        "recorded": recorded,
        "trace": as_json(data),
        "figure": figures.lanes(data).to_json(),
    }


def read_trace(text: Any, max_bytes: int) -> speckd.Trace:
    """The trace in a stranger's file, given as text (never as a path).

    Raises:
        ValueError: one sentence, when the text is too long, no trace, or one that no picture can be made of.
    """
    if not isinstance(text, str) or len(text) > max_bytes:
        raise ValueError(f"A trace file has at most {max_bytes / 1e6:.0f} MB here.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("This is not a trace: the file is not JSON, or it breaks off.") from None
    trace = speckd.Trace.from_dict(data)
    kinds = {"prompt": str, "teacher": str, "student": str, "source": str, "do_sample": bool, "max_new_tokens": int}
    numbers = {"temperature": (int, float), "seed": int}
    for name, kind in {**kinds, **numbers}.items():
        if not isinstance(trace.config.get(name), kind):  # type: ignore[arg-type]
            raise ValueError(f"This trace is broken: its configuration has no proper {name}.")
    try:
        as_result(trace, "")
    except Exception:
        raise ValueError("This trace is broken: its numbers make no picture.") from None
    return trace


def export(trace: speckd.Trace, kind: str, knobs: Mapping[str, Any], pin: int | None) -> str:
    """The trace as the text of a file to keep: "json", "csv" or "html"."""
    if kind == "json":
        return trace.to_json()
    if kind == "html":
        read_gate(knobs)
        return to_html(
            trace, knobs={name: knobs[name] for name in ("gate", "k", "beta", "divergence") if name in knobs}, pin=pin
        )
    if kind == "csv":
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "trace.csv"
            trace.to_csv(path)
            return path.read_text(encoding="utf-8")
    raise ValueError(f"A trace can't be kept as {kind!r:.20}: choose json, csv or html.")


def build(page: gr.Blocks, engine: Engine, settings: Settings) -> None:
    """Put the tab into the page that is being built."""
    # Long: half of it is the words of the function that programs call.
    recorded = recorded_traces()
    asking = Asking(
        engine,
        Shelf[speckd.Trace](settings.kept_traces, settings.max_idle_seconds),
        as_result,
        {one.name: one.trace for one in recorded},
        no_such="There is no such recorded answer.",
        gone="The server no longer keeps this answer: run the question again, then keep it.",
    )

    def answer(event: gr.EventData, request: gr.Request) -> Iterator[dict[str, Any]]:
        """A question from the page, answered step by step."""
        read = lambda data: Question.read(data.get("question") or {}, settings)  # noqa: E731
        yield from asking.answer(event, request, read, lambda step: {"partial": step.partial})

    def write(trace: speckd.Trace, asked: Mapping[str, Any]) -> str:
        pin = asked.get("pin")
        return export(trace, asked["kind"], asked.get("knobs") or {}, pin if isinstance(pin, int) else None)

    shared = options(settings)
    panel = Inspector(
        {"result": asking.recorded(recorded[0].name)} if recorded else {},
        options={
            **shared,
            "limits": {**shared["limits"], "response": settings.max_response_characters},
            "recorded": [{"name": one.name, "label": one.label, "config": one.trace.config} for one in recorded],
        },
        server_functions=served(
            stop=asking.stop,
            status=asking.status,
            recorded=asking.recorded,
            export=lambda asked: asking.export(asked, write),
            open_trace=lambda text: asking.open(text, lambda given: read_trace(given, settings.max_trace_bytes)),
        ),
        elem_id="inspector",
    )

    def inspect(
        prompt: str,
        teacher: str = "packaged",
        student: str = "healed",
        source: str = "teacher",
        response: str = "",
        do_sample: bool = False,
        max_new_tokens: int = 48,
        temperature: float = 1.0,
        seed: int = 0,
        gate: str = "topk",
        k: int = 5,
        beta: float = 0.01,
        divergence: str = "forward_kl",
    ) -> dict[str, Any]:
        """Ask a question, or give a text, and get its trace: what teacher and student make of every token.

        The answer is a trace as speckd.Trace.to_dict writes it (speckd.Trace.from_dict reads it), with one more entry,
        "gate": the gate asked for, its acceptance rate "tar", and the "plain" and "gated" mean divergence in nats.

        Args:
            prompt: the question that the teacher or the student answers.
            teacher: "packaged", or a name from the list of pairs that this server allows.
            student: "healed", "gated", "half-way", "young" or "raw" of the packaged pair, or a listed name.
            source: who writes the answer: "teacher" or "student".
            response: a given answer to look at instead of a written one; empty to have one written.
            do_sample: draw the answer at the temperature instead of taking the likeliest token each time.
            max_new_tokens: the longest answer, in tokens.
            temperature: what both models' scores are divided by before the softmax; above 0.
            seed: names the sample, the draws and the coins; a whole number, 0 or more.
            gate: "topk", "speck" or "none".
            k: how many of the teacher's likeliest tokens, or of the student's draws, may accept; 1 to 50 for speck.
            beta: the weight of a rejected token, 0 to 1.
            divergence: "forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl" or "tvd".
        """
        try:
            chosen, name = read_gate({"gate": gate, "k": k, "beta": beta, "divergence": divergence})
            question = Question.read(
                {
                    "prompt": prompt, "teacher": teacher, "student": student, "source": source, "response": response,
                    "do_sample": do_sample, "max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed,
                },
                settings,
            )  # fmt: skip
            trace = engine.answer(question)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None
        summary = {
            "name": gate, "k": k, "beta": beta, "divergence": name, "tar": trace.tar(chosen),
            "plain": _finite(trace.loss(speckd.AllOpen(), name)), "gated": _finite(trace.loss(chosen, name)),
        }  # fmt: skip
        return {**trace.to_dict(), "gate": summary}

    on_run(panel, answer, limit=None)
    gr.api(inspect, api_name="inspect", concurrency_limit=None)
    page.unload(asking.leave)


def _finite(value: float) -> float | str:
    return value if abs(value) != float("inf") else "inf"
