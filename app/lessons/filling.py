"""Lessons with their numbers: what is written meets a trace or a run."""

import logging
from collections.abc import Mapping
from typing import Any

from app.lessons import decode_fields, exercises, hands, run_fields, speed_fields, study_fields, trace_fields
from app.lessons.claims import holds
from app.lessons.decode_facts import decoding_facts
from app.lessons.facts import TraceFacts, trace_facts
from app.lessons.glossary import term_for
from app.lessons.languages import ENGLISH, Language
from app.lessons.reading import MAIN_TRACE, MAP_KEYS, Lesson, Step
from app.lessons.run_facts import run_facts
from app.lessons.scene import KNOBS, Scene, evaluate
from app.lessons.text import walk
from app.lessons.values import Unmet

log = logging.getLogger(__name__)
REASONED = ("choose-number", "most-loss", "order")  # exercises with one written reason and a computed answer
# Importing them is what makes their fields known.
FIELDS_OF = (trace_fields, speed_fields, run_fields, study_fields, decode_fields)


def scene_of(step: Step, own: TraceFacts | None = None, language: Language = ENGLISH) -> Scene:
    """What a step shows; ``own`` takes the main trace's place."""
    if "trace" in step.state:
        name = step.state["trace"]
        facts = own if own is not None and name == MAIN_TRACE else trace_facts(name)
        return Scene(trace=facts, settings=step.state, language=language)
    if "study" in step.state:
        return Scene(settings=step.state, language=language)
    if "decoding" in step.state:
        return Scene(decoding=decoding_facts(step.state["decoding"]), settings=step.state, language=language)
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
            replaced = own is not None and step.state.get("trace") == MAIN_TRACE
            shipped = scene_of(step, None, language) if replaced else None
            steps.append(_fill_step(step, scene_of(step, own, language), names, shipped))
        except Unmet as error:
            log.info("The lesson %s leaves out %s: %s", lesson.id, step.title, error)
            steps.append({**_bare(step, language, "left-out"), "left_out": True})
        except OSError as error:
            log.warning("A step of the lesson %s can't be shown: %s", lesson.id, error)
            steps.append(_bare(step, language, "missing-run"))
    return {"id": lesson.id, "title": lesson.title, "minutes": lesson.minutes, "order": lesson.order, "steps": steps}


def _fill_step(step: Step, scene: Scene, names: list[str], shipped: Scene | None = None) -> dict[str, Any]:
    check_claims(step.body, scene)
    body = []
    for node in step.body:
        if node.get("kind") == "exercise":
            name = names.pop(0)
            try:
                settings = node["settings"]
                node = {**exercises.make(settings, scene), "id": name}
                check_claims(node, scene.with_(**node["knobs"]))
                if shipped is not None:
                    _check_reason(settings, node, shipped)
            except Unmet as error:
                log.info("No question %s: %s", name, error)
                continue
        elif node.get("tag") == "hands":
            node = hands.make(node["kind"], scene)
        body.append(filled(node, scene))
    return {"title": filled(step.title, scene), "state": state_for_page(step.state, scene), "body": body}


def _check_reason(settings: Mapping[str, str], asked: exercises.Exercise, shipped: Scene) -> None:
    """Raises Unmet where a reason was written for another answer than a visitor's own text gives."""
    reasoned = settings.get("kind") in REASONED and "why" in settings
    if reasoned and exercises.told(asked) != exercises.told(exercises.make(settings, shipped)):
        raise Unmet("its reason would not be true of this text")


def check_claims(tree: Any, scene: Scene) -> None:
    """Raises Unmet where the words say something that is not true of the scene."""
    for node in walk(tree):
        if node.get("tag") == "claim" and not holds(node["claim"], scene):
            raise Unmet(f"{node['claim']!r} is not true")


def _bare(step: Step, language: Language, key: str) -> dict[str, Any]:
    """A step that can't be shown: its title without fields, and a sentence in place of its words."""
    title = [part for part in step.title if not isinstance(part, dict) or part.get("tag") != "field"]
    words = {"tag": "p", "children": [language.word(key)]}
    return {"title": title, "state": state_for_page(step.state, None), "body": [words]}


def state_for_page(state: dict[str, Any], scene: Scene | None) -> dict[str, Any]:
    """What the page needs of a step's state: what is shown, the knobs, and the pin or the moment."""
    shown = {key: state[key] for key in ("view", "parts", "point", "controls", "plain", "charts", "lanes")}
    shown["knobs"] = {name: state[name] for name in KNOBS}
    if "study" in state:
        shown["study"] = {name: state[name] for name in MAP_KEYS}
    elif scene is not None and scene.trace is not None:
        shown |= {"trace": state["trace"], "pin": scene.place()}
    elif scene is not None and scene.decoding is not None:
        number, node = scene.decoding.pin(state.get("pin", "longest"))
        shown |= {"decoding": state["decoding"], "pin": {"round": number, "node": node}}
    elif scene is not None and scene.run is not None:
        step_at = {"first": 0, "last": scene.run.steps}.get(str(state.get("step", "last")))
        shown |= {"run": state["run"], "racer": state.get("racer", 0),
                  "step": int(state["step"]) if step_at is None else step_at}  # fmt: skip
    return shown


def filled(node: Any, scene: Scene) -> Any:
    """A tree with its fields, terms and claims made into what the page shows."""
    if isinstance(node, list):
        return [filled(child, scene) for child in node]
    if not isinstance(node, dict):
        return node
    if node.get("tag") == "field" and "spec" in node:
        return evaluate(node["spec"], scene).node
    if node.get("tag") == "claim":
        return {"tag": "claim", "children": filled(node["children"], scene)}
    if node.get("tag") == "term":
        node = {**node, "term": term_for(node["term"], scene.language)}
    if node.get("tag") == "exercise" and node.get("knobs"):
        asked = scene.with_(**node["knobs"])  # the question's own knobs hold for all its words
        return {key: filled(value, asked if key != "reveal" else scene) for key, value in node.items()}
    return {key: filled(value, scene) for key, value in node.items()}
