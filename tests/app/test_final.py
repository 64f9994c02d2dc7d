"""The final test: ten cases drawn anew, each with one right answer that plain loops find too."""

import json
from collections import Counter
from typing import Any

import pytest

import speckd
from app import lessons
from app.lessons import exercises, final
from app.lessons.facts import TraceFacts
from app.lessons.text import plain, walk
from speckd.files import as_json
from tests.app import raw, synthetic


def tasks(drawn: dict[str, Any]) -> list[dict[str, Any]]:
    return [step["body"][0] for step in drawn["steps"][:-1]]


@pytest.mark.parametrize("number", range(12))
def test_each_key_equals_a_separate_computation(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[dict[str, Any], dict[str, str], Any]] = []
    make = exercises.make

    def listening(settings: dict[str, str], scene: Any) -> dict[str, Any]:
        made = make(settings, scene)
        asked.append((made, settings, scene))
        return made

    monkeypatch.setattr(exercises, "make", listening)
    drawn = final.draw(number)
    assert len(tasks(drawn)) == final.N_CASES == len({task["id"] for task in tasks(drawn)})
    for made, settings, scene in asked:
        check(made, settings, scene)


def check(made: dict[str, Any], settings: dict[str, str], scene: Any) -> None:
    if scene.run is not None:
        run = raw.file("runs", scene.run.name)
        ends = [run.series("divergence", racer, "held_out")[-1][1] for racer in (0, 1)]
        assert made["right"] == [ends.index(min(ends))]
        return
    text = raw.file("traces", scene.settings["trace"])
    knobs = {name: settings.get(name, scene.settings[name]) for name in ("gate", "k", "beta", "divergence")}
    knobs["k"] = int(knobs["k"])
    if settings["kind"] == "predict-accept":
        rank = text.data["topk_threshold"][int(settings["token"]) - 1]
        assert made["right"] == [0 if rank <= knobs["k"] else 1]
    elif settings["kind"] == "choose-claim":
        claims = [line.rpartition("|")[2].strip() for line in settings["options"].splitlines()]
        assert made["right"] == [i for i, claim in enumerate(claims) if raw.holds(text, claim, knobs, "1")]
    elif settings["kind"] == "choose-value":
        value = raw.field(text, settings["answer"], knobs, "1")
        assert made["options"][made["right"][0]][0]["number"] == pytest.approx(value, rel=1e-5)
    elif "cost" in scene.settings:
        a, c = scene.settings["chance"], scene.settings["cost"]
        speeds = [sum(a**j for j in range(g + 1)) / (c * g + 1) for g in final.LENGTHS.values()]
        assert made["right"] == [speeds.index(max(speeds))]
    else:
        specs = [line.rpartition("|")[2].strip() for line in settings["options"].splitlines()]
        values = [raw.field(text, spec, knobs, "1") for spec in specs]
        assert values[made["right"][0]] == max(value for value in values if value is not None)


def test_a_number_names_a_draw_and_draws_differ() -> None:
    assert final.draw(7) == final.draw(7)
    texts = {json.dumps(tasks(final.draw(number))[0]["options"]) for number in range(20)}
    assert len(texts) >= 12, "hardly two draws begin alike"


def test_answers_stand_in_no_usual_place() -> None:
    places = Counter(task["right"][0] for number in range(40) for task in tasks(final.draw(number)))
    assert places[0] / sum(places.values()) < 0.6 and places[1] >= 60 and places[2] >= 40


def test_each_case_says_why_shows_it_and_where_to_read_again() -> None:
    steps = {lesson.id: len(lesson.steps) for lesson in lessons.lessons()}
    kinds = set()
    for number in range(8):
        drawn = json.loads(as_json(final.draw(number)))
        outcome = drawn["steps"][-1]["body"][0]
        assert outcome["tag"] == "outcome" and [case["id"] for case in outcome["cases"]] == [
            task["id"] for task in tasks(drawn)
        ]
        for case in outcome["cases"]:
            assert 1 <= case["step"] <= steps[case["lesson"]]
            kinds.add(case["about"])
        for task in tasks(drawn):
            assert len(plain(task["why"]).split()) >= 8 and task["reveal"]
            assert not any("spec" in node for node in walk(task))
    assert len(kinds) == len(final.KINDS) == 11


@pytest.mark.parametrize("n", [1, 4, 60])
def test_a_sentence_of_ones_own_takes_part_where_it_can(n: int) -> None:
    own = TraceFacts(speckd.Trace.from_dict(synthetic.trace(n, seed=n)))
    for number in range(3):
        assert len(tasks(final.draw(number, own))) == final.N_CASES
