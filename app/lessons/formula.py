"""A few signs of TeX into MathML, which every browser typesets by itself: nothing is fetched.

A formula becomes a tree of [tag, attributes, children], the form in which the page builds it node by node. Known are
letters, numbers, the usual operators, ``_``, ``^``, groups in braces, and the commands below. Anything else is an
error, so that a slip of the pen never reaches a page.
"""

import re
from typing import Any

Node = list[Any]  # [tag, {attribute: value}, [children or text]]

LETTERS = {
    "alpha": "α", "beta": "β", "eta": "η", "kappa": "κ", "tau": "τ", "infty": "∞",
}  # fmt: skip
OPERATORS = {
    "sum": "∑", "times": "×", "cdot": "·", "le": "≤", "ge": "≥", "ne": "≠", "approx": "≈", "sim": "∼", "to": "→",
    "mid": "‖", "dots": "…", "in": "∈",
}  # fmt: skip
FUNCTIONS = ("log", "min", "max", "exp", "argmax")
SPACES = {"quad": "1em", ",": "0.2em", ";": "0.3em"}
PLAIN_OPERATORS = "+-=()<>/,|[]:"
_PIECE = re.compile(r"\\([A-Za-z]+|[,;])|(\d+(?:\.\d+)?)|([A-Za-z])|([_^{}])|(\s+)|(.)")


def to_mathml(source: str, *, block: bool = False) -> Node:
    """The formula as a tree whose root is ["math", ...].

    Raises:
        ValueError: something in it is not known here, or a brace is left open.
    """
    parser = _Parser(source)
    row = parser.row(None)
    attributes = {"display": "block"} if block else {}
    return ["math", attributes, [["mrow", {}, row]]]


class _Parser:
    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0

    def _error(self, what: str) -> ValueError:
        return ValueError(f"The formula {self.source!r} can't be set: {what}.")

    def row(self, closing: str | None) -> list[Node]:
        """Pieces up to the closing brace (or the end), with their sub- and superscripts."""
        nodes: list[Node] = []
        while True:
            if self.at >= len(self.source):
                if closing:
                    raise self._error("a brace is left open")
                return nodes
            if closing and self.source[self.at] == closing:
                self.at += 1
                return nodes
            node = self._piece()
            if node is not None:
                nodes.append(self._scripts(node))

    def _scripts(self, base: Node) -> Node:
        below = above = None
        while self.at < len(self.source) and self.source[self.at] in "_^":
            sign = self.source[self.at]
            self.at += 1
            script = self._argument()
            if sign == "_":
                below = script
            else:
                above = script
        stacked = base[0] == "mo" and base[2] == ["∑"]
        if below is not None and above is not None:
            return ["munderover" if stacked else "msubsup", {}, [base, below, above]]
        if below is not None:
            return ["munder" if stacked else "msub", {}, [base, below]]
        if above is not None:
            return ["mover" if stacked else "msup", {}, [base, above]]
        return base

    def _argument(self) -> Node:
        """One piece, or a group in braces."""
        while self.at < len(self.source) and self.source[self.at].isspace():
            self.at += 1
        node = self._piece()
        if node is None:
            raise self._error("something is missing at its end")
        return node

    def _text(self) -> str:
        if self.at >= len(self.source) or self.source[self.at] != "{":
            raise self._error("a command wants its text in braces")
        end = self.source.find("}", self.at)
        if end < 0:
            raise self._error("a brace is left open")
        text = self.source[self.at + 1 : end]
        self.at = end + 1
        return text

    def _piece(self) -> Node | None:
        found = _PIECE.match(self.source, self.at)
        if not found:
            raise self._error("it breaks off")
        self.at = found.end()
        command, number, letter, brace, space, other = found.groups()
        if space:
            return None
        if number:
            return ["mn", {}, [number]]
        if letter:
            return ["mi", {}, [letter]]
        if brace == "{":
            return ["mrow", {}, self.row("}")]
        if brace:
            raise self._error(f"{brace!r} stands alone")
        if other:
            if other not in PLAIN_OPERATORS:
                raise self._error(f"{other!r} is not known")
            return ["mo", {}, ["−" if other == "-" else other]]
        return self._command(command)

    def _command(self, name: str) -> Node:
        if name in LETTERS:
            return ["mi", {}, [LETTERS[name]]]
        if name in OPERATORS:
            return ["mo", {}, [OPERATORS[name]]]
        if name in FUNCTIONS:
            thin = ["mspace", {"width": "0.14em"}, []]
            return ["mrow", {}, [thin, ["mi", {}, [name]], thin]]
        if name in SPACES:
            return ["mspace", {"width": SPACES[name]}, []]
        if name == "frac":
            return ["mfrac", {}, [self._argument(), self._argument()]]
        if name == "sqrt":
            return ["msqrt", {}, [self._argument()]]
        if name == "hat":
            return ["mover", {"accent": "true"}, [self._argument(), ["mo", {}, ["^"]]]]
        if name == "text":
            return ["mtext", {}, [self._text()]]
        if name == "name":  # a quantity whose name has several letters
            return ["mi", {"mathvariant": "normal"}, [self._text()]]
        if name == "field":  # a number from the trace or run on screen
            return ["mn", {}, [{"tag": "field", "spec": self._text()}]]
        raise self._error(f"\\{name} is not known")
