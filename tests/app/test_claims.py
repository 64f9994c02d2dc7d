"""No lesson says what its picture denies: every claim, held against plain loops over every shipped trace."""

import re

import pytest

from app import lessons
from app.lessons.claims import CLAIMS, holds
from app.lessons.facts import trace_facts
from app.lessons.scene import Scene
from app.lessons.text import plain, walk
from tests.app import raw

MAIN = [
    (lesson, i)
    for lesson in lessons.lessons()
    for i, step in enumerate(lesson.steps)
    if step.state.get("trace") == lessons.MAIN_TRACE
]


def claims_of(lesson: lessons.Lesson, i: int) -> list[str]:
    return [node["claim"] for node in walk(lesson.steps[i].body) if node.get("tag") == "claim"]


def roles_of(lesson: lessons.Lesson, i: int) -> set[str]:
    """The tokens that a step speaks of outside its question."""
    step = lesson.steps[i]
    words = [node for node in step.body if node.get("kind") != "exercise"]
    specs = [node["spec"] for node in walk(words) if node.get("tag") == "field" and "spec" in node]
    return {found[1] for spec in specs if (found := re.search(r"\bat=(\w+)", spec))} | {step.state.get("pin", "first")}


def test_there_are_claims_to_hold() -> None:
    assert sum(len(claims_of(lesson, i)) for lesson in lessons.lessons() for i in range(len(lesson.steps))) >= 35
    used = {claim.split()[0] for lesson in lessons.lessons() for i in range(len(lesson.steps))
            for whole in claims_of(lesson, i) for claim in whole.split("; ")}  # fmt: skip
    assert {"sure", "unsure", "heavy", "accepted", "rejected", "role"} <= used


@pytest.mark.parametrize("name", raw.SHIPPED)
def test_a_step_is_shown_exactly_where_all_that_it_says_is_true(name: str) -> None:
    text, own = raw.file("traces", name), trace_facts(name)
    filled = {lesson.id: lessons.fill(lesson, own)["steps"] for lesson in lessons.lessons()}
    shown = 0
    for lesson, i in MAIN:
        step = lesson.steps[i]
        pin = step.state.get("pin", "first")
        knobs = {key: step.state[key] for key in ("gate", "k", "beta", "divergence")}
        true = all(raw.holds(text, claim, knobs, pin) for claim in claims_of(lesson, i))
        there = all(text.place(role) is not None for role in roles_of(lesson, i))
        left_out = bool(filled[lesson.id][i].get("left_out"))
        assert left_out == (not (true and there)), (name, lesson.id, i + 1, plain(step.title))
        shown += not left_out
    if name == lessons.MAIN_TRACE:
        assert shown == len(MAIN), "the recorded sentence has an example for every step"
    assert shown >= {"surely-wrong": 3}.get(name, 6), "most texts have something to show"


@pytest.mark.parametrize("lesson", lessons.lessons(), ids=lambda lesson: lesson.id)
def test_what_a_lesson_says_of_its_own_trace_or_run_is_true(lesson: lessons.Lesson) -> None:
    for i, step in enumerate(lesson.steps):
        knobs = {key: step.state[key] for key in ("gate", "k", "beta", "divergence")}
        for claim in claims_of(lesson, i):
            assert raw.holds(raw.material(step.state), claim, knobs, step.state.get("pin", "first")), (lesson.id, claim)


@pytest.mark.parametrize("name", raw.SHIPPED)
def test_questions_about_a_text_have_one_clear_answer(name: str) -> None:
    """No two options are written alike, and the proposal in question is never the word that the text has anyway."""
    for lesson in lessons.lessons():
        for step in lessons.fill(lesson, trace_facts(name))["steps"]:
            for task in walk(step["body"]):
                if task.get("tag") == "exercise" and task["form"] == "choice":
                    assert len({repr(option) for option in task["options"]}) == len(task["options"]), task["id"]


def test_a_false_claim_leaves_its_step_out_and_the_others_in_place() -> None:
    source = (
        "---\nid: a\ntitle: b\norder: 1\nminutes: 1\n---\n"
        "## One\n\n```state\ntrace: healed\npin: sure_miss\n```\n\nIt is [unsure](<is:unsure at=sure_miss>).\n\n"
        "## Two {{token}}\n\n```state\ntrace: healed\npin: wrong_digit\n```\n\nIt is {{token}}.\n\n"
        "## Three\n\n```state\ntrace: healed\npin: sure_miss\n```\n\nIt is [sure](<is:sure at=sure_miss>).\n"
    )
    steps = lessons.fill(lessons.read_lesson(source, "a"))["steps"]
    assert [bool(step.get("left_out")) for step in steps] == [True, True, False]
    assert all(step["title"] and step["body"] for step in steps)


@pytest.mark.parametrize("claim", ["nice", "tar above token", "tar above entropy", "entropy of=x above 1"])
def test_a_claim_that_cannot_be_computed_is_refused(claim: str) -> None:
    scene = Scene(trace=trace_facts("healed"), settings={**lessons.DEFAULT_KNOBS, "pin": "sure_miss"})
    with pytest.raises(ValueError):
        holds(claim, scene)


def test_conditions_are_about_the_token_that_is_meant() -> None:
    scene = Scene(trace=trace_facts("healed"), settings={**lessons.DEFAULT_KNOBS, "pin": "sure_miss"})
    assert holds("rejected; sure", scene) and not holds("accepted", scene)
    assert holds("accepted at=sure_together", scene) and not holds("rejected; accepted", scene)
    assert holds("tar gate=speck above tar gate=topk", scene) and not holds("tar gate=topk above tar gate=speck", scene)
    assert holds("passes above 0", scene) is False, (
        "three in a thousand is written apart from nothing, but not by a point"
    )
    assert set(CLAIMS) >= {"sure", "unsure", "heavy", "accepted", "rejected", "role"}
