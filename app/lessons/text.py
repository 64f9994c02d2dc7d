"""A lesson's Markdown as a tree of plain data: the page builds nodes from it, and no text is ever parsed as HTML.

A node is a text or a dictionary with a "tag". Besides ordinary Markdown there are
    {{name key=value}}      a number or token from the trace or run on screen (app/lessons/*_fields.py)
    [[text | source]]       a quoted figure with where it was read
    $formula$               and a fenced block ``math``: typeset (app/lessons/formula.py)
    [words](term:name)      a term of the glossary;  [words](point:name)  the control that is meant;
    [words](lesson:id)      another lesson, also lesson:id/step
    [words](<is:condition>) a claim: what the words say, as a condition that is computed (app/lessons/claims.py)
    fenced blocks ``state``, ``exercise`` and ``quoted`` (a table whose figures share one source)
"""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markdown_it.tree import SyntaxTreeNode

from app.lessons.formula import to_mathml

Tree = list[Any]
_PLAIN = {
    "paragraph": "p", "bullet_list": "ul", "ordered_list": "ol", "list_item": "li", "strong": "b", "em": "i",
    "blockquote": "quote",
}  # fmt: skip


def _between(opening: str, closing: str, kind: str) -> Callable[[StateInline, bool], bool]:
    def rule(state: StateInline, silent: bool) -> bool:
        if not state.src.startswith(opening, state.pos):
            return False
        start = state.pos + len(opening)
        end = state.src.find(closing, start)
        if end < 0:
            return False
        if not silent:
            state.push(kind, "", 0).content = state.src[start:end].strip()
        state.pos = end + len(closing)
        return True

    return rule


def _reader() -> MarkdownIt:
    reader = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["html_block", "html_inline"])
    for opening, closing, kind in (("{{", "}}", "field"), ("[[", "]]", "cite"), ("$", "$", "math")):
        reader.inline.ruler.before("escape", kind, _between(opening, closing, kind))
    reader.validateLink = lambda url: url.split(":")[0] in ("term", "point", "lesson", "is")  # type: ignore[method-assign]
    return reader


_READER = _reader()


def read_blocks(source: str) -> Tree:
    """Markdown as a list of block nodes; fenced blocks become {"tag": "fence", "kind", "text"}.

    Raises:
        ValueError: it holds something that a lesson does not know.
    """
    return [_block(node) for node in SyntaxTreeNode(_READER.parse(source)).children]


def read_inline(source: str) -> Tree:
    """One line of Markdown as a list of inline nodes."""
    blocks = read_blocks(source)
    if len(blocks) != 1 or not isinstance(blocks[0], dict) or blocks[0]["tag"] != "p":
        raise ValueError(f"One line of text was expected: {source!r:.80}.")
    return blocks[0]["children"]


def _block(node: SyntaxTreeNode) -> dict[str, Any]:
    if node.type == "heading":
        return {"tag": node.tag, "children": _inline(node.children[0])}
    if node.type == "paragraph":
        return {"tag": "p", "children": _inline(node.children[0])}
    if node.type in _PLAIN:
        return {"tag": _PLAIN[node.type], "children": [_block(child) for child in node.children]}
    if node.type == "fence":
        kind = node.info.strip()
        if kind == "math":
            return {"tag": "formula", "math": to_mathml(" ".join(node.content.split()), block=True)}
        return {"tag": "fence", "kind": kind, "text": node.content}
    if node.type == "table":
        rows = [[_inline(cell.children[0]) for cell in row.children] for part in node.children for row in part.children]
        return {"tag": "table", "head": rows[0], "rows": rows[1:]}
    raise ValueError(f"A lesson has no {node.type}.")


def _inline(node: SyntaxTreeNode) -> Tree:
    """The inline nodes below a node, neighbouring texts joined."""
    tree: Tree = []
    for child in node.children:
        one = _one(child)
        if isinstance(one, str) and tree and isinstance(tree[-1], str):
            tree[-1] += one
        else:
            tree.append(one)
    return tree


def _one(node: SyntaxTreeNode) -> Any:
    if node.type == "text":
        return node.content
    if node.type == "softbreak":
        return " "
    if node.type == "field":
        return {"tag": "field", "spec": node.content}
    if node.type == "cite":
        text, _, source = node.content.partition("|")
        if not source.strip():
            raise ValueError(f"A quoted figure names its source after a bar: {node.content!r:.80}.")
        return {"tag": "cite", "text": text.strip(), "source": source.strip()}
    if node.type == "math":
        return {"tag": "math", "math": to_mathml(node.content)}
    if node.type == "code_inline":
        return {"tag": "code", "children": [node.content]}
    if node.type in _PLAIN:
        return {"tag": _PLAIN[node.type], "children": _inline(node)}
    if node.type == "link":
        kind, _, target = str(node.attrs["href"]).partition(":")
        if kind == "is":
            return {"tag": "claim", "claim": unquote(target), "children": _inline(node)}
        if kind == "lesson":
            lesson, _, step = target.partition("/")
            return {"tag": "link", "lesson": lesson, "step": int(step or 1), "children": _inline(node)}
        return {"tag": kind, kind: unquote(target), "children": _inline(node)}
    raise ValueError(f"A line of a lesson has no {node.type}.")


def read_settings(text: str) -> dict[str, str]:
    """``key: value`` lines; a line that begins with a dash belongs to the key above it (kept one a line)."""
    settings: dict[str, str] = {}
    last = ""
    for line in text.strip().splitlines():
        if line.startswith("- ") and last:
            settings[last] = f"{settings[last]}\n{line[2:].strip()}".strip()
            continue
        key, colon, value = line.partition(":")
        if not colon or not re.fullmatch(r"[a-z_]+", key.strip()):
            raise ValueError(f"A line of settings reads 'key: value': {line!r:.80}.")
        last = key.strip()
        settings[last] = value.strip()
    return settings


def walk(tree: Any) -> Any:
    """Every dictionary in a tree, from the top down."""
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from walk(value)
    elif isinstance(tree, list):
        for child in tree:
            yield from walk(child)


def plain(tree: Any) -> str:
    """The words of a tree that somebody reads as text: fields and formulas are left out."""
    if isinstance(tree, str):
        return tree
    if isinstance(tree, list):
        return "".join(plain(child) for child in tree)
    if tree.get("tag") in ("p", "li", "h3"):
        return plain(tree["children"]) + " "
    return "".join(plain(tree[key]) for key in ("children", "head", "rows") if key in tree)
