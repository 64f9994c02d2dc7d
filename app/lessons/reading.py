"""A lesson as it is written: Markdown with a state, exercises and things to take in hand for each step, read once."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.lessons.languages import ENGLISH, Language
from app.lessons.text import Tree, read_blocks, read_inline, read_settings, walk

MAIN_TRACE = "healed"  # the one that a visitor's own sentence takes the place of
IDS = (
    "two-minds", "imitate", "propose-verify", "gate", "weights", "divergences", "curriculum", "when-not", "measure",
    "speed", "drafts",
)  # fmt: skip
DEFAULT_KNOBS = {"gate": "topk", "k": 5, "beta": 0.01, "divergence": "forward_kl"}
VIEWS = ("strip", "verdict", "lanes", "compare", "race", "probe", "map", "clock", "round", "rounds", "token", "figures")
MAP_KEYS = ("figure", "rows", "columns", "control")  # what a map of the study shows
PARTS = ("lists", "reason", "sum", "facts", "chances")
CHARTS = ("loss", "divergence", "tar")
LANES = ("rank", "acceptance", "teacher_entropy", "student_entropy", "divergence", "weight")
# Names of what a step may point at; the page knows where each is (app/panels/pages/learner/stage.js).
POINTS = (
    "gate", "k", "tar", "beta", "divergence", "loss", "strip", "token", "lists", "reason", "sum", "facts", "chances",
    "lanes", "selectors", "agreement", "race", "probe", "play", "own", "map", "clock", "round", "rounds",
    "card", "figures",
)  # fmt: skip
STATE_KEYS = {
    "trace", "run", "gate", "k", "beta", "divergence", "pin", "view", "parts", "point", "controls", "plain", "step",
    "racer", "charts", "lanes", "draft", "cost", "study", "decoding", *MAP_KEYS,
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


@cache
def lessons(language: Language = ENGLISH) -> tuple[Lesson, ...]:
    """All lessons in their order.

    Raises:
        ValueError: one of them is not written as a lesson is.
    """
    if language != ENGLISH:
        sources = ((language.folder / f"{lesson.id}.md").read_text(encoding="utf-8") for lesson in lessons())
        return tuple(map(translate, lessons(), sources))
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


def translate(english: Lesson, source: str) -> Lesson:
    """A lesson in another language: its words, with the English lesson's states and what its exercises compute.

    A translation has the title, the steps and their words; of an exercise "ask", "why" and the words of its options.

    Raises:
        ValueError: it has other steps or exercises than the English one.
    """
    match = re.match(r"---\n(.*?)\n---\n(.*)", source, re.DOTALL)
    parts = re.split(r"^## +(.+)$", match[2], flags=re.MULTILINE) if match else []
    if match is None or len(parts) != 2 * len(english.steps) + 1:
        raise ValueError(
            f"The translation of {english.id} has not the {len(english.steps)} steps of the English lesson."
        )
    steps = []
    for step, title, words in zip(english.steps, parts[1::2], parts[2::2], strict=True):
        tasks = iter([node for node in step.body if node.get("kind") == "exercise"])
        body = [_read_fence(node) for node in read_blocks(words)]
        try:
            body = [_translated(node, next(tasks)) if node.get("kind") == "exercise" else node for node in body]
        except StopIteration:
            raise ValueError(f"The translation of {english.id} has more exercises than the English lesson.") from None
        steps.append(Step(read_inline(title.strip()), step.state, body))
    head = read_settings(match[1])
    return Lesson(english.id, head["title"], english.order, english.minutes, tuple(steps))


def _translated(node: dict[str, Any], english: dict[str, Any]) -> dict[str, Any]:
    """An exercise with another language's words: each of its options keeps what it computes."""
    words = dict(node["settings"])
    if "options" in words:
        computed = [line.rpartition("|")[2] for line in english["settings"]["options"].splitlines()]
        lines = zip(words["options"].splitlines(), computed, strict=True)
        words["options"] = "\n".join(f"{said} |{spec}" for said, spec in lines)
    return {**english, "settings": {**english["settings"], **words}}


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
    if sum(name in state for name in ("trace", "run", "study", "decoding")) != 1:
        raise ValueError(f"the state of {title!r} names a trace, a run, the study or a decoding, one of them")
    if "study" in state:
        usual = {"figure": "acceptance", "rows": "gate", "columns": "part", "control": "none"}
        state |= {name: state.get(name, usual[name]) for name in MAP_KEYS}
    return state
