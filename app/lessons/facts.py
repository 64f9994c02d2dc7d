"""A trace as plain numbers, and the tokens in it that have a part to play (app/lessons/roles.py)."""

import math
import re
from collections.abc import Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import speckd
from app.lessons.roles import ROLES, USUAL_K, Row, readable
from app.lessons.values import Unmet
from app.requests import read_gate

ASSETS = Path(__file__).parents[2] / "assets"
USUAL_GATE = {"gate": "topk", "k": USUAL_K, "beta": 0.01}


class TraceFacts:
    """A trace with its columns as plain lists, and what gates make of it (computed by speckd)."""

    def __init__(self, trace: speckd.Trace) -> None:
        self.trace = trace
        self.columns = trace.to_dict()
        self.n = trace.n_tokens
        self._divergences = {
            name: [math.inf if value == "inf" else float(value) for value in values]
            for name, values in self.columns["divergence"].items()
        }
        self._places: dict[str, int] = {}

    def divergence(self, name: str = "forward_kl") -> list[float]:
        return self._divergences[name]

    def gate(self, knobs: Mapping[str, Any]) -> speckd.Gate:
        return read_gate(knobs)[0]

    def accepted(self, knobs: Mapping[str, Any]) -> list[bool]:
        return self.trace.accepted(self.gate(knobs)).tolist()

    def tar(self, knobs: Mapping[str, Any]) -> float:
        return self.trace.tar(self.gate(knobs))

    def loss(self, knobs: Mapping[str, Any]) -> float:
        return self.trace.loss(self.gate(knobs), knobs.get("divergence", "forward_kl"))

    def plain_loss(self, divergence: str = "forward_kl") -> float:
        return self.trace.loss(speckd.AllOpen(), divergence)

    def text_of(self, token_id: int) -> str:
        return self.trace.strings.get(token_id, f"#{token_id}")

    def budget(self, knobs: Mapping[str, Any]) -> int:
        """How many tokens the gate accepts: what every other selector may keep, too."""
        return sum(self.accepted(knobs))

    def kept(self, selector: str, knobs: Mapping[str, Any]) -> list[bool]:
        """The tokens that a selector keeps within the gate's budget; "gate" is the gate itself."""
        if selector == "gate":
            return self.accepted(knobs)
        if selector in ("topk", "speck"):
            return self.accepted({**knobs, "gate": selector})
        return self.trace.kept_at_budget(selector, self.budget(knobs)).tolist()

    @cached_property
    def rows(self) -> list[Row]:
        """Every response token with what roles and claims ask about."""
        c, keeps = self.columns, self.budget(USUAL_GATE)
        forward, answer = self.divergence(), sum_asked_for(self.trace.prompt)
        first_digit = _last_number(self.trace.tokens) if answer else None
        return [
            Row(
                t=t,
                token=self.trace.tokens[t],
                proposal=self.text_of(c["proposal_ids"][t]),
                favourite=self.text_of(c["teacher_top"]["ids"][t][0]),
                rank=c["topk_threshold"][t],
                draw=c["speck_threshold"][t],
                p=c["proposal_teacher_prob"][t],
                q=c["proposal_student_prob"][t],
                passes=c["proposal_acceptance"][t],
                favourite_p=c["teacher_top"]["prob"][t][0],
                favourite_q=c["teacher_top"]["other_prob"][t][0],
                own_rank=c["token_teacher_rank"][t],
                teacher_entropy=c["teacher_entropy"][t],
                student_entropy=c["student_entropy"][t],
                tvd=c["divergence"]["tvd"][t],
                forward=forward[t],
                reverse=self.divergence("reverse_kl")[t],
                mean_forward=sum(forward) / self.n,
                mean_entropy=sum(c["teacher_entropy"]) / self.n,
                keeps=keeps,
                entropy_place=c["ranks"]["student_entropy"][t],
                answer=answer[0] if answer and t == first_digit else None,
            )
            for t in range(self.n)
        ]

    def place(self, role: str) -> int:
        """The token (from 0) that has this role.

        Raises:
            KeyError: there is no such role.
            Unmet: no token of this text has it.
        """
        rule = ROLES[role]
        if role not in self._places:
            keys = [
                (rule(row), row.t) for row in self.rows if all(map(readable, (row.token, row.proposal, row.favourite)))
            ]
            fit = [(key, t) for key, t in keys if key is not None]
            self._places[role] = min(fit)[1] if fit else -1
        if self._places[role] < 0:
            raise Unmet(f"no token of this text is {role}")
        return self._places[role]


def sum_asked_for(prompt: str) -> str | None:
    """The right answer to "What is 17 + 25?"; None for any other question."""
    found = re.fullmatch(r"What is (\d{1,9}) \+ (\d{1,9})\?", prompt.strip())
    return str(int(found[1]) + int(found[2])) if found else None


def _last_number(tokens: list[str]) -> int | None:
    """Where the last number of a text begins: its first digit."""
    digits = [t for t, token in enumerate(tokens) if token.strip().isdigit()]
    if not digits:
        return None
    start = digits[-1]
    while start - 1 in digits:
        start -= 1
    return start


@lru_cache(maxsize=16)
def trace_facts(name: str) -> TraceFacts:
    """A shipped trace. Raises OSError or ValueError where it can't be read."""
    return TraceFacts(speckd.Trace.from_json(ASSETS / "traces" / f"{name}.json"))
