"""What a page without a server can be asked, panel by panel, and the answers to it."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app import lessons
from app.panels import Panel
from speckd import words

N_DRAWS = 16  # of the final test, for each language; the page takes them in turn
FILES = ("json", "csv", "html")  # what Inspect keeps

Question = tuple[str, Any]  # the name of a panel's function, and its argument


def inspector(panel: Panel) -> Iterator[Question]:
    for one in panel.mounted_with["recorded"]:
        yield "recorded", one["name"]
        for kind in FILES:
            yield "export", {"id": f"recorded:{one['name']}", "kind": kind}


def distiller(panel: Panel) -> Iterator[Question]:
    for one in panel.mounted_with["recorded"]:
        yield "recorded", one["name"]


def learner(panel: Panel) -> Iterator[Question]:
    for language in panel.mounted_with["languages"]:
        for one in language["lessons"]:
            drawn = range(N_DRAWS) if one["id"] == lessons.final.ID else [None]
            for draw in drawn:
                yield "lesson", {"id": one["id"], "language": language["code"], "draw": draw}
    for kind, names in zip(("trace", "run", "decoding"), lessons.shown_material(), strict=True):
        yield from (("material", {kind: name}) for name in sorted(names))
    yield from (("material", {"study": control}) for control in words.STUDY_CONTROLS)


def decoder(panel: Panel) -> Iterator[Question]:
    for one in panel.mounted_with["recorded"]:
        yield "recorded", one["name"]
        for kind in ("json", "html"):
            yield "export", {"id": f"recorded:{one['name']}", "kind": kind}
    yield "papers", None
    for name in panel.mounted_with["arms"]:
        yield "recorded", name


def mapper(panel: Panel) -> Iterator[Question]:
    yield "beside", None
    for control in words.STUDY_CONTROLS:
        yield "cells", control
        for arm in json.loads(panel.answers["cells"](control)["map"])["arms"]:
            yield "cell", {"key": arm["key"], "control": control}


# The tabs of the site, by the part that each mounts. One that is not in the page yet is left out.
QUESTIONS: dict[str, Callable[[Any], Iterator[Question]]] = {
    "inspector": inspector,
    "distiller": distiller,
    "decoder": decoder,
    "mapper": mapper,
    "learner": learner,
}


def key_of(argument: Any) -> str:
    """How an argument is looked up: JSON, its names in order, without what is None. bridge.js writes the same."""
    if isinstance(argument, Mapping):
        argument = {name: value for name, value in argument.items() if value is not None}
    return json.dumps(argument, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def answers(panel: Panel) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(function, key of the argument, answer) of all that a panel can be asked.

    Raises:
        ValueError: the panel has no answer to one of them.
    """
    for name, argument in QUESTIONS[panel.part](panel):
        answer = panel.answers[name](argument)
        if "error" in answer:
            raise ValueError(f"{panel.part} does not answer {name}({key_of(argument)}): {answer['error']}")
        yield name, key_of(argument), answer
