"""A recorded decoding as a lesson speaks of it: its figures, and the tokens in its rounds that have a part to play."""

from functools import lru_cache
from typing import Any

import speckd
from app.lessons.values import Unmet
from app.recorded import recorded_decodings
from speckd.decoding.facts import facts
from speckd.decoding.record import REJECTED, RoundRecord

PINS = ("rejected", "resampled", "longest")  # tokens that a step may open at


class DecodingFacts:
    """A recorded decoding with what follows from it (speckd.decoding.facts)."""

    def __init__(self, name: str, record: speckd.DecodeRecord) -> None:
        self.name, self.record = name, record
        self.figures = facts(record)

    def figure(self, name: str) -> Any:
        """A figure by name.

        Raises:
            Unmet: this decoding has none.
        """
        value = self.figures.get(name)
        if value is None:
            raise Unmet(f"the decoding {self.name} has no {name}")
        return value

    def costs(self, name: str) -> Any:
        value = self.figure("costs")[name]
        if value is None:
            raise Unmet(f"the costs of {self.name} have no {name}")
        return value

    def replayed(self, policy: str) -> list[Any]:
        """[policy, predicted speed-up, tokens a pass, thrown away] of another policy on this text."""
        for row in self.figure("replayed"):
            if str(row[0]).split(":most=")[0] == policy:
                return list(row)
        raise Unmet(f"the decoding {self.name} was not replayed with {policy}")

    def pin(self, role: str) -> tuple[int, int | None]:
        """The round (from 0) and the token of a role: a node, or None for the teacher's own.

        ``rejected`` is the token turned down that the draft was surest of, ``resampled`` the teacher's token in its
        place, ``longest`` the teacher's token of the round that accepted most.

        Raises:
            Unmet: no round has one.
        """
        assert role in PINS, role
        steps = self.record.rounds
        if role == "longest":
            number = max(range(len(steps)), key=lambda i: (steps[i].n_accepted, -i))
            step = steps[number]
            return number, None if len(step.output) > step.n_accepted else len(step.tokens) - 1
        failed = [
            (step.draft_probs[node], -number, node)
            for number, step in enumerate(steps)
            for node, verdict in enumerate(step.verdicts)
            if verdict == REJECTED and (role == "rejected" or step.kind == "resampled")
        ]
        if not failed:
            raise Unmet(f"the decoding {self.name} has no token that is {role}")
        _, number, node = max(failed)
        return -number, node if role == "rejected" else None

    def node(self, role: str) -> tuple[RoundRecord, int]:
        """The round and the drafted token of a role."""
        number, node = self.pin(role)
        if node is None:
            raise Unmet(f"the token {role} of {self.name} was not drafted")
        return self.record.rounds[number], node


@lru_cache(maxsize=16)
def decoding_facts(name: str) -> DecodingFacts:
    """A shipped decoding.

    Raises:
        OSError: it is not there.
    """
    for one in recorded_decodings():
        if one.name == name:
            return DecodingFacts(name, one.record)
    raise OSError(f"there is no recorded decoding {name!r}")
