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
from app.checks import field_of
from app.engine import Engine
from app.panels import Inspector
from app.recorded import recorded_traces
from app.requests import Question, read_gate
from app.sessions import LONGEST_ID, Shelf, Stops
from app.settings import Settings, place_line
from speckd.html import N_DRAWS, to_html

log = logging.getLogger(__name__)

STUDENTS = {
    "healed": "healed: six layers, distilled",
    "young": "young: a few minutes of healing",
    "raw": "raw: six layers, not healed",
}
EXAMPLES = (
    "Why is the sky blue?",
    "Explain what a black hole is to a child.",
    "Write a short poem about the sea.",
    "Name the planets of the solar system.",
    "How do I make pancakes?",
    "What is 17 + 25? Show the steps.",
)


def as_result(trace: speckd.Trace, key: str, recorded: bool = False) -> dict[str, Any]:
    """What the page needs to show a trace. Trace and figure travel as JSON text: gradio would wrap every number of a
    plain dictionary into a reactive one."""
    data = trace.to_dict(n_draws=N_DRAWS)
    return {
        "id": key,
        "recorded": recorded,
        "trace": json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")),
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
    # Long: a tab is one closure over what its functions share; each of them is short.
    stops = Stops()
    recorded = recorded_traces()
    shipped = {one.name: one for one in recorded}
    results = {one.name: as_result(one.trace, f"recorded:{one.name}", recorded=True) for one in recorded[:1]}
    shelf: Shelf[speckd.Trace] = Shelf(settings.kept_traces, settings.max_idle_seconds)

    def answer(event: gr.EventData, request: gr.Request) -> Iterator[dict[str, Any]]:
        """A question from the page, answered step by step."""
        data = event._data if isinstance(event._data, dict) else {}
        run = str(data.get("run", ""))[:LONGEST_ID]
        session = request.session_hash or ""
        try:
            question = Question.read(data.get("question") or {}, settings)
        except ValueError as error:
            yield {"run": run, "state": "failed", "text": str(error), "field": field_of(str(error))}
            return
        stop = stops.begin(run, session)
        try:
            for step in engine.run(question, stop):
                told: dict[str, Any] = {
                    "run": run,
                    "state": step.state,
                    "text": step.text,
                    "share": step.share,
                    "partial": step.partial,
                }
                if step.trace is not None:
                    told["result"] = as_result(step.trace, shelf.put(step.trace, session))
                yield told
        finally:
            stop.set()
            stops.end(run, stop)

    # Called from the page's script. They pass by the queue, so Stop is heard while a run is under way.

    def stop(run: Any) -> bool:
        return stops.stop(str(run)[:LONGEST_ID])

    def status(_: Any = None) -> dict[str, Any]:
        step = engine.status()
        return {"state": step.state, "text": step.text, "share": step.share}

    def recorded_result(name: Any) -> dict[str, Any]:
        one = shipped.get(str(name))
        if one is None:
            return {"error": "There is no such recorded answer."}
        if one.name not in results:
            results[one.name] = as_result(one.trace, f"recorded:{one.name}", recorded=True)
        return results[one.name]

    def find(key: str) -> speckd.Trace | None:
        if key.startswith("recorded:"):
            one = shipped.get(key.removeprefix("recorded:"))
            return one.trace if one else None
        return shelf.get(key[:LONGEST_ID])

    def export_trace(asked: Any) -> dict[str, Any]:
        try:
            trace = find(str(asked["id"]))
            if trace is None:
                return {"error": "The server no longer keeps this answer: run the question again, then keep it."}
            pin = asked.get("pin")
            return {
                "text": export(trace, asked["kind"], asked.get("knobs") or {}, pin if isinstance(pin, int) else None)
            }
        except (KeyError, TypeError, AttributeError):
            return {"error": "This is not something that can be kept."}
        except ValueError as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": f"The server can write no file ({error.strerror}): keep the picture, or try again later."}

    def open_trace(text: Any) -> dict[str, Any]:
        try:
            trace = read_trace(text, settings.max_trace_bytes)
            return as_result(trace, shelf.put(trace))
        except ValueError as error:
            return {"error": str(error)}

    stop.__name__, status.__name__ = "stop", "status"
    recorded_result.__name__, export_trace.__name__ = "recorded", "export"

    panel = Inspector(
        {"result": results[recorded[0].name]} if recorded else {},
        options={
            "limits": {
                "prompt": settings.max_prompt_characters,
                "response": settings.max_response_characters,
                "tokens": settings.max_new_tokens,
                "bytes": settings.max_trace_bytes,
            },
            "own_models": settings.own_models,
            "pairs": [
                {"teacher": pair.teacher, "student": pair.student, "label": pair.label} for pair in settings.pairs
            ],
            "place": place_line(settings),
            "students": STUDENTS,
            "examples": list(EXAMPLES),
            "recorded": [{"name": one.name, "label": one.label, "config": one.trace.config} for one in recorded],
        },
        server_functions=[stop, status, recorded_result, export_trace, open_trace],
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
            student: "healed", "young" or "raw" of the packaged pair, or a listed name.
            source: who writes the answer: "teacher" or "student".
            response: a given answer to look at instead of a written one; empty to have one written.
            do_sample: draw the answer at the temperature instead of taking the likeliest token each time.
            max_new_tokens: the longest answer, in tokens.
            temperature: what both models' scores are divided by before the softmax; above 0.
            seed: names the sample, the draws and the coins; a whole number from 0 on.
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

    # No limit of gradio's: its queue says nothing to those who wait. The engine's line does, and says when it is full.
    panel.run(
        answer,
        outputs=[panel],
        show_progress="hidden",
        api_visibility="private",
        trigger_mode="multiple",
        concurrency_limit=None,
    )
    gr.api(inspect, api_name="inspect", concurrency_limit=None)

    def leave(request: gr.Request) -> None:
        stops.leave(request.session_hash or "")
        shelf.leave(request.session_hash or "")

    page.unload(leave)


def _finite(value: float) -> float | str:
    return value if abs(value) != float("inf") else "inf"
