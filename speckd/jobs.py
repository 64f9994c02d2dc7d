"""Long jobs: how they tell where they stand, and how they are stopped."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """Where a long job stands: its stage, how much of it is done, and words for a person."""

    stage: str
    done: int
    total: int
    text: str = ""


OnProgress = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Tells nobody: the default."""


ShouldStop = Callable[[], bool]


class Stopped(Exception):
    """The work was stopped because ``should_stop`` said so."""
