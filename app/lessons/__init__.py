"""The lessons: their words stand in the Markdown files beside this one, their numbers come from traces and runs.

A lesson is read once (``lessons()``) and filled (``fill``) with the traces and runs that its steps show: the shipped
ones, or a visitor's own sentence in place of the main trace. What comes out is plain data for the page.
"""

import json
import logging
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from app.lessons import exercises
from app.lessons.facts import TraceFacts, run_facts, trace_facts
from app.lessons.fields import KNOBS, Scene, evaluate
from app.lessons.text import Tree, read_blocks, read_inline, read_settings, walk

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
MAIN_TRACE = "healed"  # the one that a visitor's own sentence takes the place of
IDS = ("two-minds", "imitate", "propose-verify", "gate", "divergences", "curriculum", "when-not", "speed")
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
def lessons() -> tuple[Lesson, ...]:
    """All lessons in their order.

    Raises:
        ValueError: one of them is not written as a lesson is.
    """
    found = [read_lesson((HERE / f"{name}.md").read_text(encoding="utf-8"), name) for name in IDS if _there(name)]
    return tuple(sorted(found, key=lambda lesson: lesson.order))


def _there(name: str) -> bool:
    return (HERE / f"{name}.md").is_file()


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


def scene_of(step: Step, own: TraceFacts | None = None) -> Scene:
    """What a step shows; ``own`` takes the main trace's place."""
    if "trace" in step.state:
        name = step.state["trace"]
        return Scene(trace=own if own is not None and name == MAIN_TRACE else trace_facts(name), settings=step.state)
    return Scene(run=run_facts(step.state["run"]), settings=step.state)


def fill(lesson: Lesson, own: TraceFacts | None = None) -> dict[str, Any]:
    """The lesson with its numbers: plain data for the page. A step whose run is not there says so.

    Raises:
        ValueError: a field or exercise does not fit its step.
    """
    steps = []
    numbers = iter(range(lesson.n_exercises))
    for step in lesson.steps:
        names = [f"{lesson.id}.{next(numbers)}" for node in walk(step.body) if node.get("kind") == "exercise"]
        try:
            steps.append(_fill_step(step, scene_of(step, own), names))
        except OSError as error:
            log.warning("A step of the lesson %s can't be shown: %s", lesson.id, error)
            steps.append({"title": step.title, "state": _state_for_page(step, None), "body": [_missing()]})
    return {"id": lesson.id, "title": lesson.title, "minutes": lesson.minutes, "order": lesson.order, "steps": steps}


def _fill_step(step: Step, scene: Scene, names: list[str]) -> dict[str, Any]:
    body = []
    for node in step.body:
        if node.get("kind") == "exercise":
            name = names.pop(0)
            try:
                node = {**exercises.make(node["settings"], scene), "id": name}
            except exercises.Unfit:
                if scene.trace is None or scene.trace is trace_facts(MAIN_TRACE):
                    raise
                node = {"tag": "p", "children": ["Your sentence has too little for the question that stands here."]}
        body.append(_filled(node, scene))
    return {"title": _filled(step.title, scene), "state": _state_for_page(step, scene), "body": body}


def _missing() -> dict[str, Any]:
    return {"tag": "p", "children": ["The recorded run of this step is not here. The other steps do not need it."]}


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
        value = evaluate(node["spec"], scene)
        return {"tag": "token", "text": value.text} if value.is_token else {"tag": "field", "text": value.text}
    if node.get("tag") == "term":
        node = {**node, "term": term_for(node["term"])}
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
def glossary() -> dict[str, Term]:
    """Every term by its name, in alphabetical order."""
    source = (HERE / "glossary.md").read_text(encoding="utf-8")
    terms = {}
    parts = re.split(r"^## +(.+)$", source, flags=re.MULTILINE)
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        text, _, link = body.strip().rpartition("\n")
        match = re.fullmatch(r"-> ([a-z-]+)(?:/(\d+))?", link.strip())
        if not match:
            raise ValueError(f"The term {name!r} ends with a line '-> lesson/step'.")
        terms[name.strip()] = Term(name.strip(), read_inline(" ".join(text.split())), match[1], int(match[2] or 1))
    return dict(sorted(terms.items(), key=lambda item: item[0].lower()))


def glossary_for_page() -> dict[str, dict[str, Any]]:
    """The glossary as data: name -> {says, lesson, step}. Other tabs' pages may use it, too."""
    return {term.name: {"says": term.says, "lesson": term.lesson, "step": term.step} for term in glossary().values()}


def term_for(slug: str) -> str:
    """The term that a link such as ``term:total-variation`` means.

    Raises:
        ValueError: the glossary has none of that name.
    """
    return next((name for name in glossary() if name.lower().replace(" ", "-") == slug), None) or _no_term(slug)


def _no_term(slug: str) -> str:
    raise ValueError(f"The glossary has no term {slug!r}.")


def overview() -> list[dict[str, Any]]:
    """The list of lessons: titles, minutes, steps."""
    return [
        {
            "id": lesson.id, "title": lesson.title, "minutes": lesson.minutes, "exercises": lesson.n_exercises,
            "steps": len(lesson.steps),
        }
        for lesson in lessons()
    ]  # fmt: skip


def to_json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
