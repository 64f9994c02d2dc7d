"""The languages that lessons are told in: one folder each beside this file, found by its words.json.

To add one: a folder with a Markdown file a lesson (its words alone: states and what exercises compute are the English
lesson's), a glossary.md ("## English name | its name"), and a words.json with the words of the code and of the page.
Fields, claims, links and formulas stay as they are (tests/app/test_languages.py compares them); no code is touched.
"""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Language:
    """A language.

    Attributes:
        code: as browsers name it, such as "es".
        name: what it calls itself.
        direction: which way it is written, "ltr" or "rtl".
        words: the words of the code: gates, selectors, sentences of exercises and of the final test.
        page: the words of the page's scripts, by the English sentence that stands there.
    """

    code: str
    name: str
    direction: str
    words: dict[str, str] = field(compare=False)
    page: dict[str, str] = field(compare=False)

    @property
    def folder(self) -> Path:
        return HERE / self.code

    def word(self, key: str) -> str:
        """The word for a key; English where the table lacks it.

        Raises:
            KeyError: no table has it.
        """
        return self.words.get(key) or read_language("en").words[key]

    def named(self, kind: str, name: str) -> str:
        """The translated name of something that code calls by an English one (a racer of a recording)."""
        return self.words.get(f"{kind}.{name}", name)


@cache
def read_language(code: str) -> Language:
    """A language from its folder.

    Raises:
        KeyError: there is none of that code.
    """
    if code not in codes():
        raise KeyError(code)
    table = json.loads((HERE / code / "words.json").read_text(encoding="utf-8"))
    return Language(code, table["name"], table.get("direction", "ltr"), table["words"], table.get("page", {}))


@cache
def codes() -> tuple[str, ...]:
    """The codes of all languages, English first."""
    found = sorted(path.parent.name for path in HERE.glob("*/words.json"))
    return tuple(sorted(found, key=lambda code: code != "en"))


def best(asked: object) -> Language:
    """The language for a code such as "es-MX": that one, its plain form, or English."""
    code = str(asked or "en")[:20].lower()
    for one in (code, code.split("-")[0]):
        if one in codes():
            return read_language(one)
    return ENGLISH


ENGLISH = read_language("en")
