"""Another language says the same: each translation has the English lesson's numbers, claims, links and formulas."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from app import lessons
from app.lessons.languages import ENGLISH, best, codes, read_language
from app.lessons.reading import translate
from app.lessons.text import plain, walk
from speckd.files import as_json

OTHERS = [read_language(code) for code in codes() if code != "en"]
APP = Path(lessons.__file__).parents[1]
SCRIPTS = [
    path for folder in (APP / "panels", APP / "site", APP.parent / "speckd" / "html") for path in folder.rglob("*.js")
]


def bones(tree: Any) -> Counter[str]:
    """What of a text must not change in translation: everything but its words."""
    found: Counter[str] = Counter()
    for node in walk(tree):
        tag = node.get("tag")
        if tag == "field":
            found[f"field {node['spec']}"] += 1
        elif tag == "claim":
            found[f"claim {node['claim']}"] += 1
        elif tag in ("term", "point"):
            found[f"{tag} {node[tag]}"] += 1
        elif tag == "link":
            found[f"link {node['lesson']}/{node['step']}"] += 1
        elif tag in ("math", "formula"):
            found[f"{tag} {json.dumps(node['math'])}"] += 1
        elif tag in ("cite", "quoted"):
            found[f"{tag} {node['source']}"] += 1
        elif tag == "hands":
            found[f"hands {node['kind']}"] += 1
        elif tag == "fence":
            for key in ("ask", "why", "options"):
                for spec in re.findall(r"\{\{.*?\}\}|\$.*?\$|\|.*", node["settings"].get(key, "")):
                    found[f"exercise {spec}"] += 1
    return found


def figures(text: str) -> list[str]:
    return sorted(re.findall(r"\d[\d.,]*", text))


def test_there_is_another_language() -> None:
    assert codes()[0] == "en" and "es" in codes()
    assert best("es-MX").code == "es" and best("en-GB") == ENGLISH == best("xx") == best(None) == best(["es"])


@pytest.mark.parametrize("language", OTHERS, ids=lambda one: one.code)
@pytest.mark.parametrize("i", range(len(lessons.IDS)))
def test_a_translation_has_the_bones_of_the_english_lesson(language: Any, i: int) -> None:
    english, other = lessons.lessons()[i], lessons.lessons(language)[i]
    assert other.title != english.title and other.n_exercises == english.n_exercises
    for mine, theirs in zip(english.steps, other.steps, strict=True):
        assert mine.state == theirs.state
        assert bones(mine.body) == bones(theirs.body), plain(mine.title)
        assert bones(mine.title) == bones(theirs.title)
        cited = [[figures(node["text"]) for node in walk(step.body) if node.get("tag") == "cite"]
                 for step in (mine, theirs)]  # fmt: skip
        assert cited[0] == cited[1]
        if len(plain(mine.body).split()) > 12:
            assert plain(mine.body) != plain(theirs.body), "not translated"


@pytest.mark.parametrize("language", OTHERS, ids=lambda one: one.code)
def test_a_translation_fills_with_the_same_numbers_and_answers(language: Any) -> None:
    for one in lessons.lessons():
        other = next(lesson for lesson in lessons.lessons(language) if lesson.id == one.id)
        english, told = lessons.fill(one), json.loads(as_json(lessons.fill(other, None, language)))
        for mine, theirs in zip(english["steps"], told["steps"], strict=True):
            assert "left_out" not in theirs and mine["state"] == theirs["state"]
            numbers = [
                Counter((n["kind"], n["number"]) for n in walk(step["body"]) if n.get("tag") == "number")
                for step in (mine, theirs)
            ]
            assert numbers[0] == numbers[1]
            keys = [
                [node.get("right", node.get("answer")) for node in walk(step["body"]) if node.get("tag") == "exercise"]
                for step in (mine, theirs)
            ]
            assert keys[0] == keys[1]


@pytest.mark.parametrize("language", OTHERS, ids=lambda one: one.code)
def test_the_table_has_every_word_with_its_fields(language: Any) -> None:
    assert set(ENGLISH.words) <= set(language.words)
    for key, text in ENGLISH.words.items():
        assert sorted(re.findall(r"\{\{.*?\}\}|ROLE", text)) == sorted(
            re.findall(r"\{\{.*?\}\}|ROLE", language.words[key])
        ), key
    assert set(lessons.glossary(language)) == set(lessons.glossary())
    for slug, term in lessons.glossary(language).items():
        assert (term.lesson, term.step) == (lessons.glossary()[slug].lesson, lessons.glossary()[slug].step)
        assert len(plain(term.says).split()) >= 5


@pytest.mark.parametrize("language", OTHERS, ids=lambda one: one.code)
def test_the_page_says_nothing_that_the_table_lacks(language: Any) -> None:
    said = set()
    for file in SCRIPTS:
        for one in re.findall(r"""\btr\(\s*"((?:[^"\\]|\\.)*)\"""", file.read_text(encoding="utf-8")):
            said.add(json.loads(f'"{one}"'))
    assert said, "the scripts say their words through tr()"
    assert said <= set(language.page), said - set(language.page)
    for text, told in language.page.items():
        assert sorted(re.findall(r"\{\w+\}", text)) == sorted(re.findall(r"\{\w+\}", told)), text


@pytest.mark.parametrize("language", OTHERS, ids=lambda one: one.code)
def test_how_a_job_stands_is_told_in_the_language(language: Any) -> None:
    said = set()
    for name in ("engine", "process", "training", "worker"):
        source = (APP / f"{name}.py").read_text(encoding="utf-8")
        told = re.findall(r"""(?:(?:Step|Update)\(\s*"\w+", |"(?:text|failed)": |words = )"([A-Z][^"{]*\.)\"""", source)
        said |= {one for text in told for one in re.split(r"(?<=[.?!]) (?=[A-Z])", text)}
    assert {"The trainer is ready.", "Nothing you set was lost.", "The models are ready."} <= said
    assert said <= set(language.page), said - set(language.page)


@pytest.mark.parametrize("language", OTHERS, ids=lambda one: one.code)
def test_the_final_test_is_told_in_the_language(language: Any) -> None:
    english, told = lessons.final.draw(3), lessons.final.draw(3, None, language)
    for mine, theirs in zip(english["steps"], told["steps"], strict=True):
        assert mine["title"] != theirs["title"]
        assert mine["body"][0].get("right") == theirs["body"][0].get("right")


def test_a_translation_with_other_steps_is_refused() -> None:
    english = lessons.lessons()[0]
    with pytest.raises(ValueError, match="5 steps"):
        translate(english, "---\ntitle: x\n---\n## One\n\nWords.\n")
    bare = "---\ntitle: x\n---\n" + "".join(f"## {i}\n\nWords.\n\n" for i in range(5))
    assert translate(english, bare).title == "x"
    with pytest.raises(ValueError, match="more exercises"):  # the first step asks nothing in English
        translate(english, bare.replace("Words.", "```exercise\nask: a\nwhy: b\n```", 1))
