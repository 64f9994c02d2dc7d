"""The lessons: their words stand in the Markdown files of each language, their numbers come from traces and runs.

A lesson is read once (``lessons()``) and filled (``fill``) with the traces and runs that its steps show: the shipped
ones, or a visitor's own sentence in place of the main trace. What comes out is plain data for the page, numbers as
numbers with their kind. A step that says something which is not true of the text is left out.
"""

import json
import logging
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from app.lessons import exercises, hands, run_fields, speed_fields, trace_fields
from app.lessons.claims import holds
from app.lessons.facts import TraceFacts, trace_facts
from app.lessons.languages import ENGLISH, Language
from app.lessons.run_facts import run_facts
from app.lessons.scene import KNOBS, Scene, evaluate
from app.lessons.text import Tree, read_blocks, read_inline, read_settings, walk
from app.lessons.values import Unmet

log = logging.getLogger(__name__)
FIELDS_OF = (trace_fields, speed_fields, run_fields)  # importing them is what makes their fields known

HERE = Path(__file__).parent
MAIN_TRACE = "healed"  # the one that a visitor's own sentence takes the place of
IDS = (
    "two-minds", "imitate", "propose-verify", "gate", "weights", "divergences", "curriculum", "when-not", "speed",
)  # fmt: skip
DEFAULT_KNOBS = {"gate": "topk", "k": 5, "beta": 0.01, "divergence": "forward_kl"}
VIEWS = ("strip", "verdict", "lanes", "compare", "race", "probe")
PARTS = ("lists", "reason", "sum", "facts", "chances")
CHARTS = ("loss", "divergence", "tar")
LANES = ("rank", "acceptance", "teacher_entropy", "student_entropy", "divergence", "weight")
# Names of what a step may point at; the page knows where each is (app/panels/learner.js).
POINTS = (
    "gate", "k", "tar", "beta", "divergence", "loss", "strip", "token", "lists", "reason", "sum", "facts", "chances",
    "lanes", "selectors", "agreement", "race", "probe", "play", "own",
)  # fmt: skip
STATE_KEYS = {
    "trace", "run", "gate", "k", "beta", "divergence", "pin", "view", "parts", "point", "controls", "plain", "step",
    "racer", "charts", "lanes", "draft", "cost",
}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One page of a lesson: its title, what the picture shows, and the words."""

    title: Tree
    state: dict[str, Any]
    body: Tree


@dataclass(frozen=True)
class Lesson:
    """A lesson as it is written. ``minutes`` is how long it takes, exercises included."""

    id: str
    title: str
    order: int
    minutes: int
    steps: tuple[Step, ...]

    @property
    def n_exercises(self) -> int:
        return sum(1 for step in self.steps for node in walk(step.body) if node.get("kind") == "exercise")


# --- reading ------------------------------------------------------------------------------------------------------


@cache
def lessons(language: Language = ENGLISH) -> tuple[Lesson, ...]:
    """All lessons in their order.

    Raises:
        ValueError: one of them is not written as a lesson is.
    """
    found = [read_lesson((language.folder / f"{name}.md").read_text(encoding="utf-8"), name) for name in IDS]
    return tuple(sorted(found, key=lambda lesson: lesson.order))


def read_lesson(source: str, name: str) -> Lesson:
    """A lesson from its Markdown: front matter, then ``## Title`` steps, each with a ``state`` block.

    Raises:
        ValueError: it is not written as a lesson is; the sentence names it.
    """
    try:
        match = re.match(r"---\n(.*?)\n---\n(.*)", source, re.DOTALL)
        if not match:
            raise ValueError("it has no front matter")
        head = read_settings(match[1])
        parts = re.split(r"^## +(.+)$", match[2], flags=re.MULTILINE)
        if parts[0].strip():
            raise ValueError("there is text before its first step")
        steps = tuple(_read_step(title, body) for title, body in zip(parts[1::2], parts[2::2], strict=True))
        return Lesson(head["id"], head["title"], int(head["order"]), int(head["minutes"]), steps)
    except (ValueError, KeyError) as error:
        raise ValueError(f"The lesson {name} can't be read: {error}.") from None


def _read_step(title: str, source: str) -> Step:
    body = read_blocks(source)
    states = [node for node in body if node.get("kind") == "state"]
    if len(states) != 1:
        raise ValueError(f"the step {title!r} has {len(states)} state blocks and wants one")
    body = [_read_fence(node) for node in body if node.get("kind") != "state"]
    return Step(read_inline(title.strip()), _read_state(read_settings(states[0]["text"]), title), body)


def _read_fence(node: dict[str, Any]) -> dict[str, Any]:
    if node["tag"] != "fence":
        return node
    if node["kind"] == "exercise":
        return {"tag": "fence", "kind": "exercise", "settings": read_settings(node["text"])}
    if node["kind"] == "hands":  # something to take in hand
        return {"tag": "hands", "kind": read_settings(node["text"])["kind"]}
    if node["kind"] == "quoted":  # a table of somebody's figures, under one source
        source, _, table = node["text"].partition("\n")
        if not source.startswith("source:"):
            raise ValueError("a quoted table begins with its source")
        return {"tag": "quoted", "source": source.removeprefix("source:").strip(), "children": read_blocks(table)}
    raise ValueError(f"there is no block {node['kind']!r}")


def _read_state(settings: dict[str, str], title: str) -> dict[str, Any]:
    unknown = set(settings) - STATE_KEYS
    if unknown:
        raise ValueError(f"the state of {title!r} has {', '.join(sorted(unknown))}, which nothing knows")
    state: dict[str, Any] = {**DEFAULT_KNOBS, **settings}
    for name, kind in (("k", int), ("beta", float), ("draft", int), ("cost", float), ("racer", int)):
        if name in state:
            state[name] = kind(state[name])
    defaults = {"view": "strip", "parts": "lists reason sum", "point": "", "charts": "", "lanes": ""}
    for name, default in defaults.items():
        state[name] = [one for one in re.split(r"[ ,]+", state.get(name, default)) if one]
    for name, known in (("view", VIEWS), ("parts", PARTS), ("point", POINTS), ("charts", CHARTS), ("lanes", LANES)):
        for one in state[name]:
            if one not in known:
                raise ValueError(f"the state of {title!r} names the {name} {one!r}: choose of {', '.join(known)}")
    state["plain"] = state.get("plain") == "yes"
    state["controls"] = state.get("controls", "all")
    if ("trace" in state) == ("run" in state):
        raise ValueError(f"the state of {title!r} names a trace or a run, one of them")
    return state


# --- filling ------------------------------------------------------------------------------------------------------


def scene_of(step: Step, own: TraceFacts | None = None, language: Language = ENGLISH) -> Scene:
    """What a step shows; ``own`` takes the main trace's place."""
    if "trace" in step.state:
        name = step.state["trace"]
        facts = own if own is not None and name == MAIN_TRACE else trace_facts(name)
        return Scene(trace=facts, settings=step.state, language=language)
    return Scene(run=run_facts(step.state["run"]), settings=step.state, language=language)


def fill(lesson: Lesson, own: TraceFacts | None = None, language: Language = ENGLISH) -> dict[str, Any]:
    """The lesson with its numbers: plain data for the page. A step whose run is not there says so.

    A step that speaks of a token which this text has not, or says what is not true of it, is left out: it stays in its
    place with ``"left_out": True``, so that the numbers of the others hold.

    Raises:
        ValueError: a field or exercise does not fit its step.
    """
    steps = []
    numbers = iter(range(lesson.n_exercises))
    for step in lesson.steps:
        names = [f"{lesson.id}.{next(numbers)}" for node in walk(step.body) if node.get("kind") == "exercise"]
        try:
            steps.append(_fill_step(step, scene_of(step, own, language), names))
        except Unmet as error:
            log.info("The lesson %s leaves out %s: %s", lesson.id, step.title, error)
            steps.append({**_bare(step, language, "left-out"), "left_out": True})
        except OSError as error:
            log.warning("A step of the lesson %s can't be shown: %s", lesson.id, error)
            steps.append(_bare(step, language, "missing-run"))
    return {"id": lesson.id, "title": lesson.title, "minutes": lesson.minutes, "order": lesson.order, "steps": steps}


def _fill_step(step: Step, scene: Scene, names: list[str]) -> dict[str, Any]:
    _check_claims(step.body, scene)
    body = []
    for node in step.body:
        if node.get("kind") == "exercise":
            name = names.pop(0)
            try:
                node = {**exercises.make(node["settings"], scene), "id": name}
                _check_claims(node, scene.with_(**node["knobs"]))
            except Unmet as error:
                log.info("No question %s: %s", name, error)
                continue
        elif node.get("tag") == "hands":
            node = hands.make(node["kind"], scene)
        body.append(_filled(node, scene))
    return {"title": _filled(step.title, scene), "state": _state_for_page(step, scene), "body": body}


def _check_claims(tree: Any, scene: Scene) -> None:
    for node in walk(tree):
        if node.get("tag") == "claim" and not holds(node["claim"], scene):
            raise Unmet(f"{node['claim']!r} is not true")


def _bare(step: Step, language: Language, key: str) -> dict[str, Any]:
    """A step that can't be shown: its title without fields, and a sentence in place of its words."""
    title = [part for part in step.title if not isinstance(part, dict) or part.get("tag") != "field"]
    words = {"tag": "p", "children": [language.word(key)]}
    return {"title": title, "state": _state_for_page(step, None), "body": [words]}


def _state_for_page(step: Step, scene: Scene | None) -> dict[str, Any]:
    state = step.state
    shown = {key: state[key] for key in ("view", "parts", "point", "controls", "plain", "charts", "lanes")}
    shown["knobs"] = {name: state[name] for name in KNOBS}
    if scene is not None and scene.trace is not None:
        shown |= {"trace": state["trace"], "pin": scene.place()}
    elif scene is not None and scene.run is not None:
        step_at = {"first": 0, "last": scene.run.steps}.get(str(state.get("step", "last")))
        shown |= {"run": state["run"], "racer": state.get("racer", 0),
                  "step": int(state["step"]) if step_at is None else step_at}  # fmt: skip
    return shown


def _filled(node: Any, scene: Scene) -> Any:
    if isinstance(node, list):
        return [_filled(child, scene) for child in node]
    if not isinstance(node, dict):
        return node
    if node.get("tag") == "field" and "spec" in node:
        return evaluate(node["spec"], scene).node
    if node.get("tag") == "claim":
        return {"tag": "claim", "children": _filled(node["children"], scene)}
    if node.get("tag") == "term":
        node = {**node, "term": term_for(node["term"], scene.language)}
    if node.get("tag") == "exercise" and node.get("knobs"):
        asked = scene.with_(**node["knobs"])  # the question's own knobs hold for all its words
        return {key: _filled(value, asked if key != "reveal" else scene) for key, value in node.items()}
    return {key: _filled(value, scene) for key, value in node.items()}


# --- the glossary -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Term:
    """A word of the field: what it says, and the lesson and step that explain it."""

    name: str
    says: Tree
    lesson: str
    step: int


@cache
def glossary(language: Language = ENGLISH) -> dict[str, Term]:
    """Every term by its English slug, in the alphabetical order of its names."""
    source = (language.folder / "glossary.md").read_text(encoding="utf-8")
    terms = {}
    parts = re.split(r"^## +(.+)$", source, flags=re.MULTILINE)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        text, _, link = body.strip().rpartition("\n")
        match = re.fullmatch(r"-> ([a-z-]+)(?:/(\d+))?", link.strip())
        if not match:
            raise ValueError(f"The term {name!r} ends with a line '-> lesson/step'.")
        english, _, translated = name.partition("|")  # "## proposal", and in another language "## proposal | propuesta"
        shown = (translated or english).strip()
        slug = english.strip().lower().replace(" ", "-")
        terms[slug] = Term(shown, read_inline(" ".join(text.split())), match[1], int(match[2] or 1))
    return dict(sorted(terms.items(), key=lambda item: item[1].name.lower()))


def glossary_for_page(language: Language = ENGLISH) -> dict[str, dict[str, Any]]:
    """The glossary as data: name -> {says, lesson, step}. Other tabs' pages may use it, too."""
    terms = glossary(language).values()
    return {term.name: {"says": term.says, "lesson": term.lesson, "step": term.step} for term in terms}


def term_for(slug: str, language: Language = ENGLISH) -> str:
    """The term that a link such as ``term:total-variation`` means, as the language calls it.

    Raises:
        ValueError: the glossary has none of that name.
    """
    if slug not in glossary(language):
        raise ValueError(f"The glossary has no term {slug!r}.")
    return glossary(language)[slug].name


def overview(language: Language = ENGLISH) -> list[dict[str, Any]]:
    """The list of lessons: titles, minutes, steps."""
    return [
        {
            "id": lesson.id, "title": lesson.title, "minutes": lesson.minutes, "exercises": lesson.n_exercises,
            "steps": len(lesson.steps),
        }
        for lesson in lessons(language)
    ]  # fmt: skip


def to_json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
