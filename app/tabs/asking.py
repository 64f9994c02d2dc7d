"""What tabs share that ask the models for one thing at a time: the run and its stop, what is recorded, what is kept.

Each of these tabs has one kind of thing: a trace, or the record of a decoding. Here it is "a thing"; the tab says how
it is read, shown and written.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import gradio as gr

from app.checks import field_of
from app.engine import Engine
from app.panels import Panel
from app.sessions import LONGEST_ID, Shelf, Stops
from app.settings import Settings, place_line
from app.steps import Step

T = TypeVar("T")
RECORDED = "recorded:"  # begins the id of a thing that comes with the page

STUDENTS = {
    "healed": "healed: six layers, distilled",
    "gated": "gated: healed, and further gated",
    "half-way": "half-way: between young and healed",
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


def options(settings: Settings) -> dict[str, Any]:
    """What both pages that ask a question need to know of this server."""
    limits = {
        "prompt": settings.max_prompt_characters,
        "tokens": settings.max_new_tokens,
        "bytes": settings.max_trace_bytes,
    }
    return {
        "limits": limits,
        "own_models": settings.own_models,
        "pairs": [{"teacher": pair.teacher, "student": pair.student, "label": pair.label} for pair in settings.pairs],
        "place": place_line(settings),
        "students": STUDENTS,
        "examples": list(EXAMPLES),
    }


class Asking(Generic[T]):
    """One tab's things: those under way, those made for visitors, those that are recorded.

    Args:
        engine: makes things.
        shelf: keeps them for their visitors.
        show: what the page needs of a thing: (thing, its id, whether it is recorded).
        shipped: the recorded things by name. no_such: the sentence where there is none of that name.
        gone: the sentence about a thing that is no longer kept.
    """

    def __init__(
        self,
        engine: Engine,
        shelf: Shelf[T],
        show: Callable[[T, str, bool], dict[str, Any]],
        shipped: Mapping[str, T] | None = None,
        no_such: str = "",
        gone: str = "",
    ) -> None:
        self.engine, self.shelf, self.show = engine, shelf, show
        self.shipped, self.no_such, self.gone = shipped or {}, no_such, gone
        self.stops = Stops()
        self._shown: dict[str, dict[str, Any]] = {}  # recorded things, each made ready once

    def answer(
        self,
        event: gr.EventData,
        request: gr.Request,
        read: Callable[[Mapping[str, Any]], Any],
        more: Callable[[Step], dict[str, Any]] = lambda _: {},
    ) -> Iterator[dict[str, Any]]:
        """What the page asked for, told step by step; at the end its thing, which is kept for this visitor.

        Args:
            event: its data has "run", the visitor's id of this run, and what ``read`` makes a request of.
            read: raises ValueError with one sentence where the request makes no sense.
            more: what a step tells on top.
        """
        data = event._data if isinstance(event._data, dict) else {}
        run = str(data.get("run", ""))[:LONGEST_ID]
        session = request.session_hash or ""
        try:
            asked = read(data)
        except ValueError as error:
            yield {"run": run, "state": "failed", "text": str(error), "field": field_of(str(error))}
            return
        stop = self.stops.begin(run, session)
        try:
            for step in self.engine.run(asked, stop):
                told = {"run": run, "state": step.state, "text": step.text, "share": step.share, **more(step)}
                made: Any = step.made
                if made is not None:
                    told["result"] = self.show(made, self.shelf.put(made, session), False)
                yield told
        finally:
            stop.set()
            self.stops.end(run, stop)

    # Called from the page's script. They pass by the queue, so Stop is heard while a run is under way.

    def stop(self, run: Any) -> bool:
        return self.stops.stop(str(run)[:LONGEST_ID])

    def status(self, _: Any = None) -> dict[str, Any]:
        step = self.engine.status()
        return {"state": step.state, "text": step.text, "share": step.share}

    def recorded(self, name: Any) -> dict[str, Any]:
        name = str(name)
        if name not in self.shipped:
            return {"error": self.no_such}
        if name not in self._shown:
            self._shown[name] = self.show(self.shipped[name], RECORDED + name, True)
        return self._shown[name]

    def find(self, key: str) -> T | None:
        if key.startswith(RECORDED):
            return self.shipped.get(key.removeprefix(RECORDED))
        return self.shelf.get(key[:LONGEST_ID])

    def export(self, asked: Any, write: Callable[[T, Mapping[str, Any]], str]) -> dict[str, Any]:
        """A thing as the text of a file to keep: {"text": ...}, or {"error": a sentence}."""
        try:
            thing = self.find(str(asked["id"]))
            if thing is None:
                return {"error": self.gone}
            return {"text": write(thing, asked)}
        except (KeyError, TypeError, AttributeError):
            return {"error": "This is not something that can be kept."}
        except ValueError as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": f"The server can write no file ({error.strerror}): keep the picture, or try again later."}

    def open(self, text: Any, read: Callable[[Any], T]) -> dict[str, Any]:
        """A thing in a file that a visitor brought, as text; or {"error": a sentence}."""
        try:
            thing = read(text)
            return self.show(thing, self.shelf.put(thing), False)
        except ValueError as error:
            return {"error": str(error)}

    def leave(self, request: gr.Request) -> None:
        """A page was closed: its runs stop, and what was kept for it is forgotten."""
        self.stops.leave(request.session_hash or "")
        self.shelf.leave(request.session_hash or "")


def served(**functions: Callable[..., Any]) -> list[Callable[..., Any]]:
    """Functions for a page's script under these names. Gradio marks each, which a bound method does not allow."""

    def named(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def serve(asked: Any = None) -> Any:
            return function(asked)

        serve.__name__ = name
        return serve

    return [named(name, function) for name, function in functions.items()]


def on_run(panel: Panel, answer: Callable[..., Any], limit: int | None) -> None:
    """The page's Run: its answers go to the panel as they come, at most ``limit`` at a time.

    None is no limit of gradio's: its queue says nothing to those who wait. The engine's line does, and says when it is
    full.
    """
    panel.run(
        answer,
        outputs=[panel],
        show_progress="hidden",
        api_visibility="private",
        trigger_mode="multiple",
        concurrency_limit=limit,
    )
