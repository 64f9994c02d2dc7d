"""The words of the field: what each says, and the lesson and step that explain it."""

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.lessons.languages import ENGLISH, Language
from app.lessons.text import Tree, read_inline


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
