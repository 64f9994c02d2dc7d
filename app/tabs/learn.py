"""Learn: lessons beside the live picture. Words and numbers come from app/lessons; one's own sentence refills them."""

import logging
from collections.abc import Iterator
from typing import Any

import gradio as gr

import speckd
from app import lessons
from app.engine import Engine
from app.lessons.facts import TraceFacts
from app.panels import Learner
from app.requests import Question
from app.sessions import LONGEST_ID, Shelf
from app.settings import Settings
from app.study import study
from app.tabs.asking import Asking, on_run, served
from app.tabs.decode import as_result as record_result
from app.tabs.inspect import as_result
from speckd.files import as_json

log = logging.getLogger(__name__)


class Library:
    """Filled lessons, traces and runs for pages, each made once."""

    def __init__(self, shelf: Shelf[speckd.Trace]) -> None:
        self._shelf = shelf
        self._kept: dict[str, dict[str, Any]] = {}

    def lesson(self, asked: Any) -> dict[str, Any]:
        """A lesson with its numbers: {"lesson": JSON text}, or {"error": a sentence}."""
        name, own = str(_entry(asked, "id")), _entry(asked, "own")
        language = lessons.best(_entry(asked, "language"))
        facts = None
        if own is not None:
            trace = self._shelf.get(str(own)[:LONGEST_ID])
            if trace is None:
                return {
                    "error": "The server no longer keeps your sentence: run it again, or go back to the recorded one."
                }
            facts = TraceFacts(trace)
        if name == lessons.final.ID:  # ten cases, drawn anew: the number names the draw
            drawn = _entry(asked, "draw")
            number = drawn % lessons.final.N_DRAWS if isinstance(drawn, int) else 0
            return {"lesson": as_json(lessons.final.draw(number, facts, language))}
        lesson = next((one for one in lessons.lessons(language) if one.id == name), None)
        if lesson is None:
            return {"error": "There is no such lesson."}
        if facts is not None:
            return {"lesson": as_json(lessons.fill(lesson, facts, language))}
        key = f"lesson/{language.code}/{name}"
        return self._once(key, lambda: {"lesson": as_json(lessons.fill(lesson, None, language))})

    def material(self, asked: Any) -> dict[str, Any]:
        """What a step shows: a trace with its figure, a run's events, a decoding with its facts, or the map's cells
        against a control, as JSON texts; or {"error": a sentence}."""
        entries = (_entry(asked, kind) for kind in ("trace", "run", "decoding"))
        trace, run, decoding = (entry if isinstance(entry, str) else None for entry in entries)
        control = _entry(asked, "study")
        shown, played, decoded = lessons.shown_material()
        try:
            if control is not None:
                return {"map": study().map(control)}
            if trace and trace in shown:
                return self._once(f"trace/{trace}", lambda: as_result(lessons.trace_facts(trace).trace, "", True))
            if run and run in played:
                return self._once(f"run/{run}", lambda: {"events": as_json(lessons.run_facts(run).events)})
            if decoding and decoding in decoded:
                make = lambda: record_result(lessons.decoding_facts(decoding).record, "", True)  # noqa: E731
                return self._once(f"decoding/{decoding}", make)
        except (OSError, ValueError) as error:
            log.warning("Something that a lesson shows can't be read: %s", error)
            return {"error": "The recording of this step is not here. The words do not need it."}
        return {"error": "No lesson shows that."}

    def _once(self, key: str, make: Any) -> dict[str, Any]:
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]


def _entry(asked: Any, key: str) -> Any:
    return asked.get(key) if isinstance(asked, dict) else None


def own_question(prompt: Any, settings: Settings) -> Question:
    """A visitor's question, asked as the main trace was: the same pair, source, length and seed.

    Raises:
        ValueError: one sentence, when it is empty or too long.
    """
    config = lessons.trace_facts(lessons.MAIN_TRACE).trace.config
    same = {name: config[name] for name in ("teacher", "student", "source", "do_sample", "temperature", "seed")}
    length = min(config["max_new_tokens"], settings.max_new_tokens)
    return Question.read({**same, "prompt": prompt, "max_new_tokens": length}, settings)


def build(page: gr.Blocks, engine: Engine, settings: Settings) -> None:
    """Put the tab into the page that is being built."""
    shelf: Shelf[speckd.Trace] = Shelf(settings.kept_traces)
    library = Library(shelf)
    asking = Asking(engine, shelf, as_result)

    def answer(event: gr.EventData, request: gr.Request) -> Iterator[dict[str, Any]]:
        """A visitor's own sentence, step by step; at the end its trace."""
        yield from asking.answer(event, request, lambda data: own_question(data.get("prompt"), settings))

    panel = Learner(
        {},
        options={
            "languages": [
                {
                    "code": language.code,
                    "name": language.name,
                    "direction": language.direction,
                    "lessons": lessons.overview(language),
                    "glossary": lessons.glossary_for_page(language),
                }
                for language in map(lessons.read_language, lessons.codes())
            ],
            "prompt_limit": settings.max_prompt_characters,
        },
        server_functions=served(
            lesson=library.lesson, material=library.material, status=asking.status, stop=asking.stop
        ),
        elem_id="learner",
    )
    on_run(panel, answer, limit=settings.max_waiting)
    page.unload(asking.leave)
