"""The lessons: their words stand in the Markdown files of each language, their numbers come from traces and runs.

A lesson is read once (``lessons()``) and filled (``fill``) with the traces and runs that its steps show: the shipped
ones, or a visitor's own sentence in place of the main trace. What comes out is plain data for the page, numbers as
numbers with their kind. A step that says something which is not true of the text is left out.
"""

from typing import Any

from app.lessons import final
from app.lessons.decode_facts import decoding_facts
from app.lessons.facts import trace_facts
from app.lessons.filling import fill, scene_of
from app.lessons.glossary import glossary, glossary_for_page, term_for
from app.lessons.languages import ENGLISH, Language, best, codes, read_language
from app.lessons.reading import DEFAULT_KNOBS, IDS, LANES, MAIN_TRACE, POINTS, Lesson, Step, lessons, read_lesson
from app.lessons.run_facts import run_facts

__all__ = [
    "DEFAULT_KNOBS", "ENGLISH", "IDS", "LANES", "MAIN_TRACE", "POINTS", "Lesson", "Step", "best", "codes",
    "decoding_facts", "fill",
    "final", "glossary", "glossary_for_page", "lessons", "overview", "read_language", "read_lesson", "run_facts",
    "scene_of", "shown_material", "term_for", "trace_facts",
]  # fmt: skip


def overview(language: Language = ENGLISH) -> list[dict[str, Any]]:
    """The list of lessons, the final test at its end: titles, minutes, steps."""
    return [
        {
            "id": lesson.id, "title": lesson.title, "minutes": lesson.minutes, "exercises": lesson.n_exercises,
            "steps": len(lesson.steps),
        }
        for lesson in lessons(language)
    ] + [
        {
            "id": final.ID, "title": language.word("final.title"), "minutes": final.MINUTES, "exercises": final.N_CASES,
            "steps": final.N_CASES + 1,
        }
    ]  # fmt: skip


def shown_material() -> tuple[set[str], set[str], set[str]]:
    """The names of all traces, of all runs and of all decodings that any step shows."""
    states = [step.state for lesson in lessons() for step in lesson.steps]
    traces = {state["trace"] for state in states if "trace" in state} | set(final.TRACES) | {"hot", "cool"}
    runs = {state["run"] for state in states if "run" in state} | set(final.RUNS)
    return traces, runs, {state["decoding"] for state in states if "decoding" in state}
