"""What a step shows, and the numbers and tokens that its words ask for.

``{{tar k=5}}`` calls the field ``tar(scene, k=5)`` (app/lessons/trace_fields.py, app/lessons/run_fields.py). What a
field does not say it takes from the step's own state: the gate, k, beta, the divergence, and the pinned token.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from app.lessons.decode_facts import DecodingFacts
from app.lessons.facts import TraceFacts
from app.lessons.languages import ENGLISH, Language
from app.lessons.roles import Row
from app.lessons.run_facts import RunFacts
from app.lessons.values import Unmet, Value

KNOBS = ("gate", "k", "beta", "divergence")


@dataclass(frozen=True)
class Scene:
    """What a step shows: its trace, run or decoding, its knobs and settings by name, and the language."""

    trace: TraceFacts | None = None
    run: RunFacts | None = None
    decoding: DecodingFacts | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    language: Language = ENGLISH

    @property
    def knobs(self) -> dict[str, Any]:
        return {name: self.settings[name] for name in KNOBS}

    def with_(self, **changes: Any) -> "Scene":
        return replace(self, settings={**self.settings, **{k: v for k, v in changes.items() if v is not None}})

    @property
    def text(self) -> TraceFacts:
        if self.trace is None:
            raise ValueError("this step shows no trace")
        return self.trace

    @property
    def race(self) -> RunFacts:
        if self.run is None:
            raise ValueError("this step shows no run")
        return self.run

    @property
    def decoded(self) -> DecodingFacts:
        if self.decoding is None:
            raise ValueError("this step shows no decoding")
        return self.decoding

    def place(self, at: Any = None) -> int:
        """The token (from 0) of a role, or of a number of the text (from 1); the step's pin without one.

        Raises:
            Unmet: no token of the text has it.
        """
        named = str(at or self.settings.get("pin") or "first")
        return int(named) - 1 if named.isdigit() else self.text.place(named)

    def row(self, at: Any = None) -> Row:
        return self.text.rows[self.place(at)]

    def name(self, key: str) -> str:
        """A word of the table, in the lesson's language."""
        return self.language.word(key)


Field = Callable[..., Value]
FIELDS: dict[str, Field] = {}


def a_field(function: Field) -> Field:
    FIELDS[function.__name__.rstrip("_")] = function
    return function


def read_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """``name key=value ...`` as a name and arguments; whole and decimal numbers become numbers."""
    name, *rest = spec.split()
    arguments: dict[str, Any] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"{{{{{spec}}}}}: {part!r} is not key=value")
        arguments[key] = read_number(value)
    return name, arguments


def read_number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def evaluate(spec: str, scene: Scene) -> Value:
    """The value of a field.

    Raises:
        Unmet: this text has no such token or number.
        ValueError: there is no such field, or it does not fit the step.
    """
    name, arguments = read_spec(spec)
    if name not in FIELDS:
        raise ValueError(f"There is no field {name!r}.")
    knobs = {key: arguments.pop(key) for key in KNOBS if key in arguments}
    try:
        return FIELDS[name](scene.with_(**knobs), **arguments)
    except Unmet:
        raise
    except (KeyError, TypeError, IndexError) as error:
        raise ValueError(f"The field {{{{{spec}}}}} can't be filled: {type(error).__name__}: {error}.") from None
