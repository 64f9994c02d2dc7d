"""What Python and the page's scripts have agreed on: the table of words, the columns of types.d.ts, short functions."""

import dataclasses
import re
from pathlib import Path

import pytest

from app import panels, requests
from speckd import draws, html, words
from speckd.decoding.record import RoundRecord
from speckd.divergences import DIVERGENCES
from speckd.runs import recording
from speckd.trace import RANKS
from tests.app import synthetic

ROOT = Path(__file__).parents[1]
TYPES = (ROOT / "speckd" / "html" / "types.d.ts").read_text(encoding="utf-8")
SCRIPTS = sorted([*(ROOT / "speckd" / "html").glob("*.js"), *(ROOT / "app" / "panels").rglob("*.js")])
LONGEST = 80  # lines of a function
FUNCTION = re.compile(r"^( *)(?!.*\b(?:if|for|while|switch|catch)\b).*(?:\bfunction\b.*|\) =>|\w\(.*\)|^ *\)) \{$")


def fields(interface: str) -> set[str]:
    """The names of an interface of types.d.ts."""
    body = re.search(rf"^interface {interface} (?:extends \w+ )?{{\n(.*?)^}}", TYPES, re.S | re.M)
    assert body, interface
    return set(re.findall(r"^  (\w+)\??:", body[1], re.M))


def test_the_words_name_what_the_library_has() -> None:
    assert draws.K_MAX == words.K_MAX
    assert list(words.DIVERGENCES) == list(DIVERGENCES)
    assert set(words.SELECTORS) == set(RANKS)
    assert list(words.RUN_GATES) == list(requests.GATES)
    assert list(words.RESPONSES) == list(requests.RESPONSES)
    assert set(panels.table()["defaults"]) == {"knobs", "question", "run"}


def test_a_trace_has_the_columns_of_the_contract() -> None:
    trace = synthetic.trace(3)
    assert set(trace) - {"format", "version"} == fields("Trace")
    assert fields("TraceConfig") <= set(trace["config"]) and fields("TopTokens") == set(trace["teacher_top"])


def test_a_round_of_a_decoding_has_the_columns_of_the_contract() -> None:
    assert {field.name for field in dataclasses.fields(RoundRecord)} == fields("RoundData")


def test_forms_have_the_fields_of_the_contract() -> None:
    defaults = panels.table()["defaults"]
    assert set(defaults["question"]) == fields("QuestionForm") and set(defaults["run"]) == fields("RunForm")
    assert set(panels.table()) == fields("Words") and set(defaults["knobs"]) == fields("Knobs")


def test_events_are_those_of_the_contract() -> None:
    body = TYPES[TYPES.index("type RunEvent =") : TYPES.index("type EventOf")]
    assert set(re.findall(r'kind: "(\w+)"', body)) == set(recording.KINDS)


def test_every_script_is_served_and_none_twice() -> None:
    own = (*html.SCRIPTS, *html.DECODING)
    served = [*(f"speckd/html/{name}" for name in own), *(f"app/panels/{name}" for name in panels.SCRIPTS)]
    assert sorted(served) == sorted(path.relative_to(ROOT).as_posix() for path in SCRIPTS)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_functions_are_short_and_lines_fit(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").split("\n")
    assert [n + 1 for n, line in enumerate(lines) if len(line) > 120] == []
    for first, line in enumerate(lines):
        depth = re.match(" *", line)[0]  # type: ignore[index]
        begins = FUNCTION.match(line)
        if begins and line.strip() == ") {":  # it says in its first line what it is
            opened = next(other for other in reversed(lines[:first]) if re.match(rf"{depth}\S", other))
            begins = None if re.match(r" *(?:} else )?(?:if|for|while|switch)\b", opened) else begins
        if begins:  # as deno formats it, a function ends at the next line that closes a brace at its own depth
            last = next(n for n in range(first + 1, len(lines)) if lines[n].startswith(depth + "}"))
            assert last - first < LONGEST, f"{path.name}, line {first + 1}: {line.strip()}"
