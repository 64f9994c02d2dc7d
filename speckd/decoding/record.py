"""A DecodeRecord: every round of one decoded text, as data: what was drafted, each coin, the verdict, the time.

n is the number of a round's drafted tokens. Nodes are numbered within their round; -1 is the text so far.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from speckd.decoding.costs import Costs, expected_tokens
from speckd.files import read_json, write_whole

FORMAT = "speckd.decode"
VERSION = 1
ACCEPTED, REJECTED, UNSEEN = "accepted", "rejected", "unseen"
KINDS = ("teacher", "bonus", "resampled")
CONTINUATION = 8  # tokens that a record keeps of what the draft would have said at each place


@dataclass(frozen=True)
class RoundRecord:
    """One round.

    Attributes:
        start: place in the response of its first token.
        output: the tokens that it added: the accepted path and one of the teacher's.
        kind: how the last came: "teacher" (greedy), "bonus" or "resampled"; a drafted token that ended the text has
            "teacher" or "bonus" too, and then all of ``output`` was drafted.
        tokens, parents: the n drafted tokens as a tree.
        draft_probs, teacher_probs: q and p of each, given its path, at the temperature.
        acceptance: min(1, p/q) of each; in a sampled tree the probability with which its turn was to pass.
        coins: the coin of each that was tossed for, else None.
        verdicts: "accepted", "rejected" or "unseen" (nobody looked: it came after the first rejection).
        near_tie: whether a one-row pass decided the last token.
        steps: runs of the draft; 0 where ``lookup+eagle`` looked the tokens up.
        checks: [step, value] of each question about a tree's depth.
        leftover: [token, weight] of the likeliest tokens that a resampled one was drawn from: p above q, normalised.
        teacher_top, draft_top: for each place on the path and the one after it, [token, p, q] of the likeliest tokens
            of the one and of the other; q is None where nothing was drafted or the draft does not know the token.
        floors: of drafts with several levels, what happened at each: see ``exits``.
        draft_seconds, verify_seconds: by the config's clock.
    """

    start: int
    output: list[int]
    kind: str
    tokens: list[int]
    parents: list[int]
    draft_probs: list[float]
    teacher_probs: list[float]
    acceptance: list[float]
    coins: list[float | None]
    verdicts: list[str]
    near_tie: bool
    steps: int
    draft_seconds: float
    verify_seconds: float
    checks: list[list[float]] = field(default_factory=list)
    leftover: list[list[float]] = field(default_factory=list)
    teacher_top: list[list[list[Any]]] = field(default_factory=list)
    draft_top: list[list[list[Any]]] = field(default_factory=list)
    floors: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n_accepted(self) -> int:
        return self.verdicts.count(ACCEPTED)

    @property
    def n_examined(self) -> int:
        """Places that were looked at: the accepted ones, and the one where every candidate failed, if there was one."""
        path = {node for node, verdict in enumerate(self.verdicts) if verdict == ACCEPTED}
        end = max(path, key=self._depth, default=-1)
        failed = any(v == REJECTED and self.parents[node] == end for node, v in enumerate(self.verdicts))
        return len(path) + failed

    @property
    def n_rows(self) -> int:
        """Rows of the teacher's pass."""
        return len(self.tokens) + 1

    def _depth(self, node: int) -> int:
        depth = 0
        while node >= 0:
            depth, node = depth + 1, self.parents[node]
        return depth


@dataclass(frozen=True, eq=False)
class DecodeRecord:
    """One decoded text, round by round.

    Attributes:
        config: what made it: prompt, draft, policy, do_sample, temperature, seed, max_new_tokens, lenience, teacher,
            student, their sha256, dtype, device, threads, clock, forward, vocabulary_size, and the versions of speckd,
            torch and transformers.
        lossless: whether the text is what the teacher alone writes: token for token when greedy (float32 or better;
            16-bit passes of several rows round otherwise), in distribution when sampled. False with lenience below 1.
        prompt_ids, output_ids: token ids of the prompt and of the response.
        text: the response.
        tokens: the response's tokens as text.
        strings: the text of every token id that occurs.
        rounds: what happened.
        seconds: of all rounds without the reading of the prompt, by the config's clock: "cpu" is the time that the
            process worked, "wall" what passed meanwhile.
        prefill_seconds: of reading the prompt.
        plain_seconds: of our own plain loop over the same number of tokens, or None where it was not run.
        plain_ids: what that loop wrote, where the text is greedy: equal to ``output_ids`` or something is wrong.
        costs: as measured on this machine, or None.
        continuations: for each place of a greedy response, [token, q, confidence] of up to 8 tokens that the draft
            would have said there; so policies of chains are replayed without a model. None where they were not asked.
    """

    config: dict[str, Any]
    lossless: bool
    prompt_ids: list[int]
    output_ids: list[int]
    text: str
    tokens: list[str]
    strings: dict[int, str]
    rounds: list[RoundRecord]
    seconds: float
    prefill_seconds: float
    plain_seconds: float | None = None
    plain_ids: list[int] | None = None
    costs: Costs | None = None
    continuations: list[list[list[float]]] | None = None

    # --- figures ------------------------------------------------------------------------------------------------------

    @property
    def prompt(self) -> str:
        """The prompt as it was asked."""
        return str(self.config["prompt"])

    @property
    def n_tokens(self) -> int:
        return len(self.output_ids)

    @property
    def acceptance(self) -> float:
        """Accepted tokens over places that were looked at, 0 to 1; nan where nothing was drafted."""
        examined = sum(step.n_examined for step in self.rounds)
        return sum(step.n_accepted for step in self.rounds) / examined if examined else math.nan

    @property
    def accepted_per_drafted(self) -> float:
        """Accepted over drafted tokens. It falls with the draft's length by itself: compare equal lengths only."""
        drafted = sum(len(step.tokens) for step in self.rounds)
        return sum(step.n_accepted for step in self.rounds) / drafted if drafted else math.nan

    @property
    def acceptance_by_position(self) -> list[float]:
        """a_1, a_2, ...: how often the i-th token of a chain passed where all before it had."""
        tried: list[int] = []
        passed: list[int] = []
        for step in self.rounds:
            for place in range(step.n_examined):
                if place == len(tried):
                    tried.append(0)
                    passed.append(0)
                tried[place] += 1
                passed[place] += place < step.n_accepted
        return [hits / trials for hits, trials in zip(passed, tried, strict=True)]

    @property
    def block_efficiency(self) -> float:
        """Tokens that one pass of the teacher brought, on average: 1 is plain decoding."""
        return self.n_tokens / len(self.rounds) if self.rounds else math.nan

    @property
    def expected_block_efficiency(self) -> float:
        """1 + a_1 + a_1 a_2 + ...: the same from the acceptances by position."""
        return expected_tokens(self.acceptance_by_position)

    @property
    def thrown_away(self) -> int:
        """Drafted tokens that are not in the text."""
        return sum(len(step.tokens) - step.n_accepted for step in self.rounds)

    @property
    def near_ties(self) -> int:
        """Rounds whose last token a one-row pass decided."""
        return sum(step.near_tie for step in self.rounds)

    @property
    def tokens_per_second(self) -> float:
        return self.n_tokens / self.seconds if self.seconds else math.nan

    @property
    def speedup(self) -> float | None:
        """Measured: seconds of our plain loop over these, token for token; None where it was not run."""
        return self.plain_seconds / self.seconds if self.plain_seconds and self.seconds else None

    @property
    def predicted_speedup(self) -> float | None:
        """Tokens over what the rounds should have cost, by measured costs: sum of v(rows) + c steps. None without."""
        if self.costs is None or not self.rounds:
            return None
        price = sum(self.costs.verify(step.n_rows) + self.costs.draft * step.steps for step in self.rounds)
        return self.n_tokens / price

    @property
    def identical(self) -> bool | None:
        """Whether the plain loop wrote the same text; None where it was not run or the text is sampled."""
        return None if self.plain_ids is None else self.plain_ids == self.output_ids

    # --- as data ------------------------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DecodeRecord) and self.to_dict() == other.to_dict()

    def to_dict(self) -> dict[str, Any]:
        """The record as plain data for JSON; the figures that follow from it stand beside it, for readers of JSON."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config,
            "lossless": self.lossless,
            "prompt_ids": self.prompt_ids,
            "output_ids": self.output_ids,
            "text": self.text,
            "tokens": self.tokens,
            "strings": {str(token): text for token, text in self.strings.items()},
            "rounds": [asdict(step) for step in self.rounds],
            "seconds": self.seconds,
            "prefill_seconds": self.prefill_seconds,
            "plain_seconds": self.plain_seconds,
            "plain_ids": self.plain_ids,
            "costs": self.costs.to_dict() if self.costs is not None else None,
            "continuations": self.continuations,
            "figures": self.figures(),
        }

    def figures(self) -> dict[str, float | int | bool | None]:
        """The figures of the record by name; None where there is none."""
        named = {name: getattr(self, name) for name in FIGURES}
        return {n: None if isinstance(v, float) and not math.isfinite(v) else v for n, v in named.items()}

    def to_json(self, path: str | Path | None = None) -> str:
        """The record as JSON text, also written to ``path`` (whole or not at all) when one is given. Nothing is lost.

        Raises:
            OSError: the file cannot be written.
        """
        text = json.dumps(self.to_dict(), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        if path is not None:
            write_whole(path, text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> "DecodeRecord":
        """The record in a JSON file, or in JSON text (which starts with a brace).

        Raises:
            ValueError: it is not JSON, not a record, cut off, or altered so that its parts do not fit together.
            OSError: the file cannot be read.
        """
        return cls.from_dict(read_json(source, "a decode record"))

    @classmethod
    def from_dict(cls, data: Any) -> "DecodeRecord":
        """The record that ``to_dict`` wrote.

        Raises:
            ValueError: the data is not a record, of a later version, or its parts do not fit together.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError(f"This is not a decode record: it does not say 'format': '{FORMAT}'.")
        if data.get("version") != VERSION:
            raise ValueError(
                f"This decode record has version {data.get('version')!r}; this program reads version {VERSION}."
            )
        try:
            record = cls(
                config=dict(data["config"]),
                lossless=_read_as(bool, data["lossless"]),
                prompt_ids=_whole_numbers(data["prompt_ids"]),
                output_ids=_whole_numbers(data["output_ids"]),
                text=_read_as(str, data["text"]),
                tokens=[_read_as(str, token) for token in data["tokens"]],
                strings={int(token): _read_as(str, text) for token, text in data["strings"].items()},
                rounds=[_round_from(step) for step in data["rounds"]],
                seconds=float(data["seconds"]),
                prefill_seconds=float(data["prefill_seconds"]),
                plain_seconds=None if data["plain_seconds"] is None else float(data["plain_seconds"]),
                plain_ids=None if data["plain_ids"] is None else _whole_numbers(data["plain_ids"]),
                costs=None if data["costs"] is None else Costs.from_dict(data["costs"]),
                continuations=data["continuations"],
            )
            record._check()
            if record.figures() != data["figures"]:
                raise ValueError("its figures do not follow from its rounds")
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, ZeroDivisionError) as error:
            raise ValueError(f"This decode record is broken: {type(error).__name__} at {error}.") from None
        return record

    def _check(self) -> None:
        """That rounds and text fit together.

        Raises:
            ValueError: they do not.
        """
        _read_as(str, self.config["prompt"])
        if self.lossless and float(self.config.get("lenience", 1.0)) < 1.0:
            raise ValueError("it is called lossless, and its lenience is below 1")
        if len(self.tokens) != len(self.output_ids):
            raise ValueError(f"{len(self.tokens)} tokens for {len(self.output_ids)} ids")
        written: list[int] = []
        for number, step in enumerate(self.rounds, 1):
            if step.start != len(written):
                raise ValueError(f"round {number} starts at {step.start}, and the text is {len(written)} tokens long")
            _check_round(step, number)
            written += step.output
        if written != self.output_ids:
            raise ValueError("its rounds do not write its text")
        if self.continuations is not None and len(self.continuations) != len(self.output_ids):
            raise ValueError(f"{len(self.continuations)} continuations for {len(self.output_ids)} tokens")
        for row in self.continuations or []:
            if any(len(entry) != 3 for entry in row):
                raise ValueError("a continuation is not [token, q, confidence]")


FIGURES = (
    "acceptance",
    "accepted_per_drafted",
    "block_efficiency",
    "thrown_away",
    "near_ties",
    "speedup",
    "predicted_speedup",
    "identical",
)


def _check_round(step: RoundRecord, number: int) -> None:
    columns = ("parents", "draft_probs", "teacher_probs", "acceptance", "coins", "verdicts")
    lengths = {name: len(getattr(step, name)) for name in columns}
    if odd := [name for name, length in lengths.items() if length != len(step.tokens)]:
        raise ValueError(f"round {number} has {len(step.tokens)} drafted tokens and {lengths[odd[0]]} {odd[0]}")
    if not step.output or step.kind not in KINDS:
        raise ValueError(f"round {number} adds no token, or one of unknown kind {step.kind!r}")
    if any(not -1 <= parent < node for node, parent in enumerate(step.parents)):
        raise ValueError(f"round {number} has a node before its parent")
    if set(step.verdicts) - {ACCEPTED, REJECTED, UNSEEN}:
        raise ValueError(f"round {number} has a verdict of unknown name")
    path = [node for node, verdict in enumerate(step.verdicts) if verdict == ACCEPTED]
    if any(step.parents[node] != (path[place - 1] if place else -1) for place, node in enumerate(path)):
        raise ValueError(f"round {number} accepts tokens that do not follow each other")
    accepted = [step.tokens[node] for node in path]
    if step.output[: len(accepted)] != accepted[: len(step.output)] or len(step.output) > len(accepted) + 1:
        raise ValueError(f"round {number} does not add the tokens that it accepted")


def _round_from(data: dict[str, Any]) -> RoundRecord:
    known = {f.name for f in fields(RoundRecord)}
    if set(data) != known:
        raise ValueError(f"a round has {sorted(set(data) ^ known)[0]!r} too much or too little")
    for name in ("output", "tokens", "parents"):
        _whole_numbers(data[name])
    for name in ("draft_probs", "teacher_probs", "acceptance"):
        if not all(isinstance(value, int | float) and math.isfinite(value) for value in data[name]):
            raise ValueError(f"a round's {name} are not numbers")
    return RoundRecord(**data)


def _whole_numbers(values: Sequence[Any]) -> list[int]:
    if not isinstance(values, list) or any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise ValueError("whole numbers were expected")
    return values


def _read_as(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{kind.__name__} was expected, {type(value).__name__} came")
    return value
