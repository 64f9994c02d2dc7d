"""What a field is worth: a number with its kind, a token, or a word. Nothing is formatted here.

The page writes every number, by the same rule as in its pictures (speckd/html/format.js). So a lesson carries
``{"tag": "number", "number": 0.336, "kind": "share"}`` and never "34%".
"""

import math
from dataclasses import dataclass
from typing import Any

# kind: what the number counts in, and how far two must lie apart to be told apart once they are written
KINDS: dict[str, tuple[str, float, float]] = {  # (meaning, absolute, relative)
    "share": ("a part of one, shown in per cent", 0.01, 0.0),
    "points": ("a difference of two shares, in percentage points", 0.01, 0.0),
    "nats": ("natural units of information", 0.0, 0.02),
    "ratio": ("a number without a unit", 0.0, 0.02),
    "score": ("a measured number without a unit: zeros kept", 0.0, 0.02),
    "times": ("a factor", 0.0, 0.02),
    "count": ("a whole number of things", 0.5, 0.0),
    "ordinal": ("a place in an order", 0.5, 0.0),
}


class Unmet(ValueError):
    """This text has no token, or no number, of the kind that is asked for."""


@dataclass(frozen=True)
class Value:
    """What a field is worth.

    Attributes:
        node: as the page gets it: a number with its kind, a token, or a word.
        number: to compare it by; None for a token or a word.
        kind: one of KINDS; "" for a token or a word.
    """

    node: dict[str, Any]
    number: float | None = None
    kind: str = ""


def number(value: float, kind: str, **more: Any) -> Value:
    """A number of a kind; ``signed`` says that it is a change and shows its sign, ``unit`` that its unit follows.

    Raises:
        Unmet: it is not a number (a mean over nothing).
    """
    assert kind in KINDS, kind
    if math.isnan(value):
        raise Unmet("there is nothing to take a mean of")
    shown: Any = value if math.isfinite(value) else str(value)  # JSON has no infinity
    return Value({"tag": "number", "number": shown, "kind": kind, **more}, float(value), kind)


def share(value: float) -> Value:
    return number(value, "share")


def nats(value: float, **more: Any) -> Value:
    return number(value, "nats", unit=True, **more)


def ratio(value: float) -> Value:
    return number(value, "ratio")


def measured(value: float) -> Value:
    return number(value, "score")


def count(value: int) -> Value:
    return number(value, "count")


def ordinal(value: int) -> Value:
    return number(value, "ordinal")


def word(text: str) -> Value:
    return Value({"tag": "field", "text": text})


def token(text: str, place: int | None = None) -> Value:
    """A token in quotes; ``place`` (from 1) is its number in the text, without which a word that stands there twice
    could be either."""
    return Value({"tag": "token", "text": text} | ({} if place is None else {"place": place}))


def apart(a: Value, b: Value) -> bool:
    """Whether two numbers of one kind differ once they are written."""
    if a.number is None or b.number is None or a.kind != b.kind:
        raise ValueError(f"a {a.kind or 'word'} and a {b.kind or 'word'} can't be compared")
    if a.number == b.number:
        return False
    if not (math.isfinite(a.number) and math.isfinite(b.number)):
        return True
    _, absolute, relative = KINDS[a.kind]
    return abs(a.number - b.number) >= max(absolute, relative * max(abs(a.number), abs(b.number)))
