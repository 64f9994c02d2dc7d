"""A text that grows round by round, and its record: lists, chances and words, computed off the clock."""

import math
from typing import Any

import torch
from torch import Tensor

from speckd._version import __version__
from speckd.conversations import stop_token_ids
from speckd.data import token_text
from speckd.decoding.coins import Coins
from speckd.decoding.costs import Costs
from speckd.decoding.drafts import Fitted
from speckd.decoding.forward import Forward, near_tie_of
from speckd.decoding.record import DecodeRecord, RoundRecord
from speckd.decoding.request import Request
from speckd.decoding.rounds import Round, Rounds, Rule, best_clock, log_softmax
from speckd.jobs import ShouldStop
from speckd.pairs import Pair

Entries = list[list[Any]]  # [token, p, q] of some tokens; q is None where the draft does not know the token
N_TOP = 8  # tokens of each list that a record keeps


class Decoding:
    """A text that grows, and what a record says of it.

    Attributes:
        steps: the rounds: iterate over them and ``add`` each.
        plain_seconds, plain_ids: of the plain loop beside it, where there was one (see PlainBeside).
    """

    def __init__(
        self,
        pair: Pair,
        request: Request,
        target: Forward,
        fitted: Fitted,
        prompt_ids: list[int],
        room: int,
        costs: Costs | None,
        should_stop: ShouldStop | None = None,
    ) -> None:
        self.pair, self.request, self.target, self.fitted = pair, request, target, fitted
        self.prompt_ids, self.costs = prompt_ids, costs
        self.rule, self.stops = _rule(request, target, pair), stop_token_ids(pair.teacher, pair.tokenizer)
        self.steps: Rounds = fitted.rounds(
            target, self.rule, request.policy, prompt_ids, room, costs=costs, stops=self.stops, should_stop=should_stop
        )
        self.output_ids: list[int] = []
        self.rounds: list[RoundRecord] = []
        self.hidden: list[Tensor] = []
        self.plain_seconds: float | None = None
        self.plain_ids: list[int] | None = None
        self.continuations: list[list[list[float]]] | None = None

    def add(self, done: Round) -> None:
        vocabulary = self.fitted.draft.vocabulary if self.fitted.draft is not None else None
        self.rounds.append(record_round(done, self.request.temperature, vocabulary))
        self.output_ids += done.output
        self.hidden.append(done.hidden)

    def record(self) -> DecodeRecord:
        tokenizer, request = self.pair.tokenizer, self.request
        ids = set(self.prompt_ids + self.output_ids)
        for step in self.rounds:
            ids |= set(step.tokens) | {int(entry[0]) for entry in step.leftover}
            ids |= {int(entry[0]) for row in step.teacher_top + step.draft_top for entry in row}
        ids |= {int(entry[0]) for row in self.continuations or [] for entry in row}
        exact = self.target.dtype in (torch.float32, torch.float64) or request.do_sample
        return DecodeRecord(
            config=self._config(),
            lossless=request.lenience == 1.0 and exact,
            prompt_ids=self.prompt_ids,
            output_ids=self.output_ids,
            text=tokenizer.decode(self.output_ids),
            tokens=[token_text(tokenizer, token) for token in self.output_ids],
            strings={token: token_text(tokenizer, token) for token in sorted(ids)},
            rounds=self.rounds,
            seconds=sum(step.draft_seconds + step.verify_seconds for step in self.rounds),
            prefill_seconds=self.steps.prefill_seconds,
            plain_seconds=self.plain_seconds,
            plain_ids=None if request.do_sample else self.plain_ids,
            costs=self.costs,
            continuations=self.continuations,
        )

    def _config(self) -> dict[str, Any]:
        import transformers

        request, pair = self.request, self.pair
        return {
            "prompt": request.prompt,
            "draft": self.fitted.name,
            "policy": request.policy.describe(),
            "max_new_tokens": request.max_new_tokens,
            "do_sample": request.do_sample,
            "temperature": request.temperature,
            "seed": request.seed,
            "lenience": request.lenience,
            "teacher": pair.teacher_id,
            "student": pair.student_id,
            "teacher_sha256": pair.teacher_sha256,
            "student_sha256": pair.student_sha256,
            "dtype": str(pair.dtype).removeprefix("torch."),
            "device": pair.device.type,
            "threads": torch.get_num_threads(),
            "clock": best_clock(self.target.device),
            "forward": type(self.target).__name__,
            "vocabulary_size": pair.vocabulary_size,
            "speckd": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
        }


def _rule(request: Request, target: Forward, pair: Pair) -> Rule:
    return Rule(
        coins=Coins(request.seed) if request.do_sample else None,
        temperature=request.temperature,
        near_tie=-1.0 if request.do_sample else near_tie_of(target, pair.teacher),
        lenience=request.lenience,
    )


def record_round(done: Round, temperature: float, vocabulary: Tensor | None) -> RoundRecord:
    """A finished round as data; what it takes to say more than the verdict is computed here, off the clock."""
    drafted, verdict = done.drafted, done.verdict
    teacher = torch.log_softmax(done.logits.double() / temperature, -1)  # (n + 1, V)
    parents = drafted.parents
    p = [float(teacher[parent + 1, token].exp()) for parent, token in zip(parents, drafted.tokens, strict=True)]
    q = [math.exp(value) for value in drafted.logprobs]
    ratios = [min(1.0, a / b) if b > 0 else 1.0 for a, b in zip(p, q, strict=True)]
    verdicts = ["unseen"] * len(parents)
    for node in verdict.path:
        verdicts[node] = "accepted"
    for node in verdict.rejected:
        verdicts[node] = "rejected"
    n_places = min(len(verdict.path) + 1, len(done.output))
    rows: dict[int, Tensor | None] = {}  # a place's row of the draft, by the node that it precedes
    for node, parent in enumerate(parents):
        rows.setdefault(parent, drafted.rows[node] if node < len(drafted.rows) else None)
    teacher_top, draft_top = [], []
    for before in [-1, *verdict.path][:n_places]:
        ours, theirs = _two_lists(teacher[before + 1], rows.get(before), vocabulary, temperature)
        teacher_top.append(ours)
        draft_top.append(theirs)
    ended_by_draft = len(done.output) <= len(verdict.path)
    return RoundRecord(
        start=done.start,
        output=done.output,
        kind="teacher" if ended_by_draft and verdict.kind == "resampled" else verdict.kind,
        tokens=drafted.tokens,
        parents=parents,
        draft_probs=q,
        teacher_probs=p,
        acceptance=[verdict.acceptance.get(node, ratio) for node, ratio in enumerate(ratios)],
        coins=[verdict.coins.get(node) for node in range(len(parents))],
        verdicts=verdicts,
        near_tie=done.near_tie,
        steps=drafted.steps,
        draft_seconds=done.draft_seconds,
        verify_seconds=done.verify_seconds,
        checks=[[float(step), value] for step, value in drafted.checks],
        leftover=_likeliest(verdict.leftover),
        teacher_top=teacher_top,
        draft_top=draft_top,
        floors=done.floors,
    )


def _likeliest(weights: Tensor | None) -> list[list[float]]:
    if weights is None:
        return []
    values, ids = weights.topk(min(N_TOP, weights.shape[-1]))
    return [[token, value] for token, value in zip(ids.tolist(), values.tolist(), strict=True) if value > 0]


def _two_lists(
    teacher: Tensor, row: Tensor | None, vocabulary: Tensor | None, temperature: float
) -> tuple[Entries, Entries]:
    """[token, p, q] of the teacher's likeliest tokens, and of the draft's."""
    ids = teacher.topk(min(N_TOP, teacher.shape[-1])).indices.tolist()
    if row is None:
        return [[token, float(teacher[token].exp()), None] for token in ids], []
    draft = log_softmax(row.double(), temperature)
    theirs = draft.topk(min(N_TOP, draft.shape[-1])).indices.tolist()

    def q_of(token: int) -> float | None:
        if vocabulary is None:
            return float(draft[token].exp())
        place = int(torch.searchsorted(vocabulary, token))
        known = place < len(vocabulary) and int(vocabulary[place]) == token
        return float(draft[place].exp()) if known else None

    def token_at(place: int) -> int:
        return place if vocabulary is None else int(vocabulary[place])

    drafts: Entries = [
        [token_at(place), float(teacher[token_at(place)].exp()), float(draft[place].exp())]
        for place in theirs
        if not math.isinf(float(draft[place]))
    ]
    return [[token, float(teacher[token].exp()), q_of(token)] for token in ids], drafts
