"""A Trace: everything that a picture needs of one text, measured once; every gate is then a comparison.

N is the number of response tokens, K the draws kept a token (50), M the top list's length (10). Tensors are on the CPU.
"""

import csv
import dataclasses
import json
import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from speckd import html
from speckd.divergences import DIVERGENCES
from speckd.draws import K_MAX, Draws
from speckd.files import read_json, read_text, write_whole
from speckd.gates import Gate, RandomTokens

FORMAT = "speckd.trace"
VERSION = 1
RANKS = ("adakd", "student_entropy", "teacher_entropy_low", "teacher_entropy_high", "random")


@dataclass(frozen=True)
class TopTokens:
    """The most probable tokens of one model at each row, and what the other model thinks of them.

    Attributes:
        ids: (N, M) int64, most probable first; equal probabilities: the lower id first.
        prob: (N, M) float32, under this model.
        other_prob: (N, M) float32, under the other one.
        other_rank: (N, M) int64, place in the other one's order, 1 is best.
    """

    ids: Tensor
    prob: Tensor
    other_prob: Tensor
    other_rank: Tensor


@dataclass(frozen=True, eq=False)
class Trace:
    """Teacher and student over one text, token by token.

    Attributes:
        config: what made it: prompt, source, prefix_ids where it was steered, do_sample, max_new_tokens, temperature,
            seed, k_max, n_top, teacher, student, their sha256, dtype, device, vocabulary_size, and the versions of
            speckd, torch and transformers.
        response: the response as text.
        input_ids: (T,) int64, prompt and response.
        n_prompt: how many of them are the prompt's.
        tokens: the N response tokens as text; a token that is part of a character shows its bytes, as ``<F0 9F>``.
        strings: text of every token id that occurs in the tables below.
        proposal_ids: (N,) int64, the student's argmax: its proposal.
        topk_threshold: (N,) int64 >= 1, the smallest k at which Top-k accepts.
        speck_threshold: (N,) int64 >= 1, the first draw that passes; K + 1 where none does.
        proposal_teacher_prob, proposal_student_prob: (N,) float32, of the proposal.
        proposal_acceptance: (N,) float32, min(1, p/q) of the proposal.
        token_teacher_prob, token_student_prob: (N,) float32, of the response's own token.
        token_teacher_rank, token_student_rank: (N,) int64 >= 1, of the response's own token.
        teacher_entropy, student_entropy: (N,) float32, nats.
        hellinger: (N,) float32, 0 to 1.
        divergences: name -> (N,) float32, nats; ``tvd`` has no unit.
        teacher_top, student_top: the ten most probable tokens of each.
        draws: (N, K) draws of the student with their coins.
        ranks: selector -> (N,) int64, the token's place under it, 1 is kept first.
    """

    config: dict[str, Any]
    response: str
    input_ids: Tensor
    n_prompt: int
    tokens: list[str]
    strings: dict[int, str]
    proposal_ids: Tensor
    topk_threshold: Tensor
    speck_threshold: Tensor
    proposal_teacher_prob: Tensor
    proposal_student_prob: Tensor
    proposal_acceptance: Tensor
    token_teacher_prob: Tensor
    token_student_prob: Tensor
    token_teacher_rank: Tensor
    token_student_rank: Tensor
    teacher_entropy: Tensor
    student_entropy: Tensor
    hellinger: Tensor
    divergences: dict[str, Tensor]
    teacher_top: TopTokens
    student_top: TopTokens
    draws: Draws
    ranks: dict[str, Tensor]

    # --- what a gate makes of it: no model is run -----------------------------------------------------------------

    @property
    def n_tokens(self) -> int:
        """N, the number of response tokens."""
        return len(self.tokens)

    @property
    def prompt(self) -> str:
        """The prompt as it was asked."""
        return self.config["prompt"]

    def accepted(self, gate: Gate) -> Tensor:
        """Which tokens the gate accepts: (N,) bool.

        Raises:
            ValueError: the gate is soft, or asks for more draws than the trace holds.
        """
        self._check(gate)
        return gate.accept(gate.trace_scores(self))

    def weights(self, gate: Gate) -> Tensor:
        """V_t of each token under the gate: (N,) float32.

        Raises:
            ValueError: the gate asks for more draws than the trace holds.
        """
        self._check(gate)
        return gate.weigh(gate.trace_scores(self))

    def tar(self, gate: Gate) -> float:
        """The token acceptance rate under the gate: the mean of ``accepted``, 0 to 1.

        Raises:
            ValueError: the gate is soft, or asks for more draws than the trace holds.
        """
        return self.accepted(gate).double().mean().item()

    def loss(self, gate: Gate, divergence: str = "forward_kl") -> float:
        """L = (1/N) sum_t V_t D_t, in nats: divided by the number of response tokens, not by the sum of weights.

        A weight of 0 silences even an infinite divergence.
        """
        weights, values = self.weights(gate).double(), self.divergence(divergence).double()
        return torch.where(weights == 0, 0.0, weights * values).mean().item()

    def _check(self, gate: Gate) -> None:
        if gate.name == "speck" and gate.n_draws > self.draws.coins.shape[-1]:
            raise ValueError(f"k is {gate.n_draws}: this trace holds {self.draws.coins.shape[-1]} draws a token.")

    def divergence(self, name: str = "forward_kl") -> Tensor:
        """The divergence of each token: (N,) float32, nats (``tvd``: no unit).

        Raises:
            ValueError: there is none of that name.
        """
        if name not in self.divergences:
            raise ValueError(f"{name!r} is not in this trace. Choose one of: {', '.join(self.divergences)}.")
        return self.divergences[name]

    def acceptance_probability(self, k: int = 1) -> Tensor:
        """The chance that at least one of k random draws is accepted, 1 - TVD**k: (N,) float32.

        Raises:
            ValueError: k is not a whole number, 1 or more.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise ValueError(f"k is {k!r}: choose a whole number, 1 or more.")
        return 1.0 - self.divergences["tvd"] ** k

    def kept_at_budget(self, selector: str, n_tokens: int) -> Tensor:
        """The n tokens that a ranking keeps first: (N,) bool. So every selector can be held to one gate's budget.

        Args:
            selector: one of adakd, student_entropy, teacher_entropy_low, teacher_entropy_high, random.
            n_tokens: the budget, 0 to N.
        Raises:
            ValueError: there is no such ranking.
        """
        if selector not in self.ranks:
            raise ValueError(f"{selector!r} is not a ranking of this trace. Choose one of: {', '.join(self.ranks)}.")
        return self.ranks[selector] <= n_tokens

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Trace) and self.to_dict() == other.to_dict()

    # --- as data --------------------------------------------------------------------------------------------------

    def to_dict(self, n_draws: int | None = None) -> dict[str, Any]:
        """The trace as plain data for JSON, column by column; infinities are written as the string "inf".

        Args:
            n_draws: keep only the first draws of each token (the page shows 16); the thresholds stay those of all.
        """
        columns = {name: _plain(getattr(self, name)) for name in _COLUMNS}
        return {
            "format": FORMAT,
            "version": VERSION,
            "config": self.config,
            "prompt": self.prompt,
            "response": self.response,
            "n_prompt": self.n_prompt,
            "input_ids": self.input_ids.tolist(),
            "tokens": self.tokens,
            "strings": {str(token_id): text for token_id, text in self.strings.items()},
            **columns,
            "divergence": {name: _plain(values) for name, values in self.divergences.items()},
            "teacher_top": {field.name: _plain(getattr(self.teacher_top, field.name)) for field in _TOP_FIELDS},
            "student_top": {field.name: _plain(getattr(self.student_top, field.name)) for field in _TOP_FIELDS},
            "draws": {
                "ids": _plain(self.draws.token_ids[:, :n_draws]),
                "acceptance": _plain(self.draws.acceptance[:, :n_draws]),
                "coin": _plain(self.draws.coins[:, :n_draws]),
            },
            "ranks": {name: _plain(values) for name, values in self.ranks.items()},
        }

    @classmethod
    def from_dict(cls, data: Any) -> "Trace":
        """The trace that ``to_dict`` wrote.

        Raises:
            ValueError: the data is not a trace, of a later version, or its columns do not fit together.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError("This is not a trace: it does not say 'format': 'speckd.trace'.")
        if data.get("version") != VERSION:
            raise ValueError(f"This trace has version {data.get('version')!r}; this program reads version {VERSION}.")
        try:
            trace = cls(
                config=dict(data["config"]),
                response=str(data["response"]),
                input_ids=torch.tensor(data["input_ids"], dtype=torch.int64),
                n_prompt=int(data["n_prompt"]),
                tokens=[str(token) for token in data["tokens"]],
                strings={int(token_id): str(text) for token_id, text in data["strings"].items()},
                **{name: _column(data[name], dtype) for name, dtype in _COLUMNS.items()},
                divergences={name: _column(data["divergence"][name], torch.float32) for name in DIVERGENCES},
                teacher_top=_top_tokens(data["teacher_top"]),
                student_top=_top_tokens(data["student_top"]),
                draws=Draws(
                    _column(data["draws"]["ids"], torch.int64),
                    _column(data["draws"]["acceptance"], torch.float32),
                    _column(data["draws"]["coin"], torch.float32),
                ),
                ranks={name: _column(data["ranks"][name], torch.int64) for name in RANKS},
            )
            if not isinstance(trace.prompt, str):
                raise ValueError("its prompt is not text")
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError) as error:
            raise ValueError(f"This trace is broken: {type(error).__name__} at {error}.") from None
        trace._check_lengths()
        return trace

    def _check_lengths(self) -> None:
        n = self.n_tokens
        if len(self.input_ids) - self.n_prompt != n or self.n_prompt < 0:
            raise ValueError(
                f"This trace is broken: {len(self.input_ids)} token ids less {self.n_prompt} of the prompt, {n} tokens."
            )
        tables = [self.teacher_top, self.student_top, self.draws]
        named = {name: getattr(self, name) for name in _COLUMNS} | self.divergences | self.ranks
        for table in tables:
            named |= {f"{type(table).__name__}.{key}": value for key, value in vars(table).items()}
        for name, values in named.items():
            if values.shape[0] != n:
                raise ValueError(f"This trace is broken: {name} has {values.shape[0]} rows for {n} tokens.")

    def _repr_html_(self) -> str:
        """The picture of a downloaded page, for a notebook: strip, verdict, the gate's controls."""
        return html.framed(html.to_html(self), height=860)

    def to_json(self, path: str | Path | None = None) -> str:
        """The trace as JSON text, also written to ``path`` (whole or not at all) when one is given. Nothing is lost.

        Raises:
            OSError: the file cannot be written.
        """
        text = json.dumps(self.to_dict(), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        if path is not None:
            write_whole(path, text + "\n")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> "Trace":
        """The trace in a JSON file, or in JSON text (which starts with a brace).

        Raises:
            ValueError: it is not JSON, not a trace, or broken.
            OSError: the file cannot be read.
        """
        return cls.from_dict(read_json(source, "a trace"))

    def to_csv(self, path: str | Path) -> None:
        """The trace as a table: one row a response token, one column a quantity; nothing is lost.

        Text and lists are written as JSON inside their cell, so a token such as ``=1+1`` begins with a quotation mark
        and no spreadsheet takes it for a formula. What belongs to the whole trace stands in the first row's last cell.

        Raises:
            OSError: the file cannot be written.
        """
        data = self.to_dict()
        whole = {name: data.pop(name) for name in list(data) if name not in _COLUMNS and name not in _CSV_TABLES}
        columns: dict[str, list[Any]] = {"position": list(range(self.n_tokens)), "token": whole.pop("tokens")}
        columns["token_id"] = self.input_ids[self.n_prompt :].tolist()
        columns |= {name: data[name] for name in _COLUMNS}
        columns |= {f"{table}.{key}": values for table in _CSV_TABLES for key, values in data[table].items()}
        columns["trace"] = [whole if row == 0 else "" for row in range(self.n_tokens)]
        rows = [list(columns), *map(list, zip(*columns.values(), strict=True))]
        with tempfile.SpooledTemporaryFile(mode="w+", newline="", encoding="utf-8") as text:
            writer = csv.writer(text)
            for row in rows[:1]:
                writer.writerow(row)
            for row in rows[1:]:
                writer.writerow([_csv_cell(cell) for cell in row])
            text.seek(0)
            write_whole(path, text.read())

    @classmethod
    def from_csv(cls, path: str | Path) -> "Trace":
        """The trace that ``to_csv`` wrote.

        Raises:
            ValueError: the file is not such a table, or is broken.
            OSError: the file cannot be read.
        """
        csv.field_size_limit(2**31 - 1)  # the first row's last cell holds all strings
        rows = list(csv.DictReader(read_text(Path(path), "a trace", newline="").splitlines(keepends=True)))
        if not rows or "trace" not in rows[0] or not rows[0]["trace"]:
            raise ValueError("This table is not a trace: it has no column 'trace' with a first cell.")
        try:
            data = json.loads(rows[0]["trace"])
            data["tokens"] = [json.loads(row["token"]) for row in rows]
            data |= {name: [_csv_value(row[name]) for row in rows] for name in _COLUMNS}
            for name in rows[0]:
                table, _, key = name.partition(".")
                if key:
                    data.setdefault(table, {})[key] = [_csv_value(row[name]) for row in rows]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"This table is a broken trace: {type(error).__name__} at {error}.") from None
        return cls.from_dict(data)


_COLUMNS: dict[str, torch.dtype] = {
    "proposal_ids": torch.int64,
    "topk_threshold": torch.int64,
    "speck_threshold": torch.int64,
    "proposal_teacher_prob": torch.float32,
    "proposal_student_prob": torch.float32,
    "proposal_acceptance": torch.float32,
    "token_teacher_prob": torch.float32,
    "token_student_prob": torch.float32,
    "token_teacher_rank": torch.int64,
    "token_student_rank": torch.int64,
    "teacher_entropy": torch.float32,
    "student_entropy": torch.float32,
    "hellinger": torch.float32,
}
_TOP_FIELDS = dataclasses.fields(TopTokens)
_CSV_TABLES = ("divergence", "teacher_top", "student_top", "draws", "ranks")


def selector_ranks(trace_scores: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """The places of N tokens under every ranking selector.

    Args:
        trace_scores: hellinger, student_entropy and teacher_entropy, each (N,).
        seed: names the coins of the random control.
    """
    from speckd.draws import random_scores
    from speckd.ranks import ranks_by

    n_tokens = len(trace_scores["hellinger"])
    return {
        "adakd": ranks_by(trace_scores["hellinger"]),
        "student_entropy": ranks_by(trace_scores["student_entropy"]),
        "teacher_entropy_low": ranks_by(trace_scores["teacher_entropy"], descending=False),
        "teacher_entropy_high": ranks_by(trace_scores["teacher_entropy"]),
        "random": ranks_by(random_scores(seed, n_tokens), descending=False),
    }


def _plain(values: Tensor) -> list[Any]:
    """A tensor as lists: float32 in its shortest exact decimal, infinities as the string "inf"."""
    if not values.is_floating_point():
        return values.tolist()
    flat = values.float().numpy().astype(str).ravel().tolist()  # numpy writes the shortest text that reads back equal
    numbers: list[Any] = [float(text) for text in flat]
    if not np.isfinite(values.numpy()).all():
        numbers = [number if math.isfinite(number) else str(number) for number in numbers]
    if values.ndim == 1:
        return numbers
    width = values.shape[-1]
    return (
        [numbers[start : start + width] for start in range(0, len(numbers), width)] if width else [[] for _ in values]
    )


def _column(values: Any, dtype: torch.dtype) -> Tensor:
    array = np.array(values)
    if dtype is torch.float32:
        return torch.from_numpy(array.astype(np.float64).astype(np.float32))
    if array.size and not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"whole numbers were expected, {array.ravel()[0]!r} came")
    return torch.from_numpy(array.astype(np.int64))


def _top_tokens(data: Any) -> TopTokens:
    return TopTokens(
        ids=_column(data["ids"], torch.int64),
        prob=_column(data["prob"], torch.float32),
        other_prob=_column(data["other_prob"], torch.float32),
        other_rank=_column(data["other_rank"], torch.int64),
    )


def _csv_cell(value: Any) -> str:
    if isinstance(value, int | float):
        return repr(value)
    return "" if value == "" else json.dumps(value, ensure_ascii=True, separators=(",", ":"))


def _csv_value(cell: str) -> Any:
    return json.loads(cell)


# A trace's draws are at most K_MAX; the gate refuses a larger k before a trace is asked.
assert K_MAX == 50 and RandomTokens.name in RANKS
