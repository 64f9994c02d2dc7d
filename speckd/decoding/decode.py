"""``speckd.decode``: one text, decoded by drafts and verdicts, with a record of every round.

Nothing here decides what is accepted (verification.py) or in which order things happen (rounds.py): this file checks
what is asked for, puts teacher, draft and policy together, times them, and turns rounds into a record.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from speckd._version import __version__
from speckd.conversations import encode_prompt, stop_token_ids
from speckd.data import token_text
from speckd.decoding.coins import Coins
from speckd.decoding.costs import Costs
from speckd.decoding.draft_named import check_draft, fastest_draft, fit_draft
from speckd.decoding.drafts import Draft, Fitted
from speckd.decoding.forward import NEAR_TIE_FACTOR, Forward, batched_error, forward_of
from speckd.decoding.measuring import known_costs
from speckd.decoding.policies import Plain, Policy, policy_from_text
from speckd.decoding.record import CONTINUATION, DecodeRecord, RoundRecord
from speckd.decoding.rounds import Round, Rounds, Rule, best_clock, log_softmax
from speckd.decoding.verification import probabilities
from speckd.draws import Stream
from speckd.jobs import OnProgress, Progress, ShouldStop, Stopped
from speckd.pairs import Pair

Entries = list[list[Any]]  # [token, p, q] of some tokens; q is None where the draft does not know the token
N_TOP = 8  # tokens of each list that a record keeps


class DecodingStopped(Stopped):
    """``should_stop`` turned true. What was decoded before stands in ``record``; None where there was nothing yet."""

    record: DecodeRecord | None = None


@dataclass
class Request:
    """What one call asks for, checked: see ``decode``."""

    prompt: str
    draft: str
    policy: Policy
    max_new_tokens: int
    do_sample: bool
    temperature: float
    seed: int
    lenience: float


def decode(
    pair: Pair,
    prompt: str,
    *,
    draft: str | None = None,
    policy: str | Policy | None = None,
    max_new_tokens: int = 64,
    do_sample: bool = False,
    temperature: float = 1.0,
    seed: int = 0,
    lenience: float = 1.0,
    plain: bool = True,
    continuations: bool = False,
    costs: Costs | None = None,
    lean: bool = True,
    on_round: Callable[[RoundRecord], None] | None = None,
    on_progress: OnProgress | None = None,
    should_stop: ShouldStop | None = None,
) -> DecodeRecord:
    """Let the teacher write a text, faster, by verifying what a draft proposes.

    Greedy text is the teacher's own, token for token; sampled text has exactly its distribution. Both hold for every
    draft and every policy, as long as ``lenience`` is 1.

    Args:
        pair: from ``load_pair``; its teacher writes.
        prompt: the question, put into the pair's chat template.
        draft: "student", "student:vocab=8192", "eagle", "lookup+eagle" (the layer where lookup finds nothing),
            "exit:layer=8", "lookup", "hispec:draft=4:middle=8" or "none"; by default the fastest lossless one here.
        policy: how far a round drafts: "fixed:g=4", "confidence:p=0.4", "path:p=0.3", "cost",
            "tree:width=4:depth=3:nodes=8", "ddd:x=-0.3:width=10:n=11"; by default "cost".
        max_new_tokens: the longest response, 1 or more.
        do_sample: draw from p at the temperature; otherwise greedy.
        temperature: tau > 0, divides both models' logits.
        seed: names every uniform of a sampled text.
        lenience: epsilon in (0, 1]; below 1 more is accepted and the text is no longer the teacher's.
        plain: also run our own plain loop over the same number of tokens, to compare with: in turns with the rounds, so
            that a slow spell of the machine meets both.
        continuations: also keep, for each place of a greedy text, what the draft would have said there.
        costs: from ``measure_costs``; measured when they are needed and not given.
        lean: False runs the model's own forward in any case.
        on_round: told each finished round.
        on_progress: called with a Progress: stages "costs" and "decode" (text: the response so far).
        should_stop: asked before each step of the draft and each pass of the teacher.
    Returns:
        The record; the same text for the same arguments and machine.
    Raises:
        ValueError: an argument makes no sense, or draft and teacher do not fit.
        DecodingStopped: ``should_stop`` turned true; ``record`` holds the finished rounds.
    """
    report, stopping = on_progress or (lambda _: None), should_stop or (lambda: False)
    request = check_decode(
        prompt, draft or fastest_draft(pair), policy, max_new_tokens, do_sample, temperature, seed, lenience
    )
    prompt_ids = encode_prompt(pair.tokenizer, [{"role": "user", "content": prompt}])
    room = room_of(pair, len(prompt_ids), max_new_tokens)
    target = forward_of(pair.teacher, pair.vocabulary_size, lean)
    fitted = fit_draft(pair, request.draft, target, request.policy, do_sample, lean)
    if costs is None and fitted.draft is not None and fitted.is_predicted and (plain or request.policy.name == "cost"):
        report(Progress("costs", 0, 1, "measuring what drafts and passes cost here"))
        costs = known_costs(pair, fitted, target, stopping)
    job = Decoding(pair, request, target, fitted, prompt_ids, room, costs, stopping)
    beside = PlainBeside(job, stopping) if plain else None
    try:
        for done in job.steps:
            job.add(done)
            if on_round is not None:
                on_round(job.rounds[-1])
            report(Progress("decode", len(job.output_ids), room, pair.tokenizer.decode(job.output_ids)))
            if beside is not None:
                beside.catch_up()
        if continuations and not do_sample and fitted.draft is not None:
            job.continuations = continue_everywhere(fitted, prompt_ids, job, stopping)
    except Stopped:
        stopped = DecodingStopped()
        stopped.record = job.record() if job.rounds else None
        raise stopped from None
    return job.record()


def check_decode(
    prompt: str,
    draft: str,
    policy: str | Policy | None,
    max_new_tokens: int,
    do_sample: bool,
    temperature: float,
    seed: int,
    lenience: float = 1.0,
) -> Request:
    """Check what ``decode`` is asked for before any model is run.

    Raises:
        ValueError: an argument makes no sense; the message is one sentence that says what to do.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("The prompt is empty. Write a question or an instruction.")
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("The prompt holds half a character (a lone surrogate). Remove it.") from None
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 1:
        raise ValueError(f"max_new_tokens is {max_new_tokens!r}: choose a whole number from 1 on.")
    if isinstance(temperature, bool) or not isinstance(temperature, int | float) or not 0 < temperature < math.inf:
        raise ValueError(
            f"temperature is {temperature!r}: choose a number above 0. For greedy text use do_sample=False."
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed!r}: choose a whole number from 0 to 2**63 - 1.")
    if isinstance(lenience, bool) or not isinstance(lenience, int | float) or not 0 < lenience <= 1:
        raise ValueError(f"lenience is {lenience!r}: choose a number above 0 and up to 1, which is lossless.")
    if policy is None:
        policy = "none" if draft == "none" else "fixed" if draft.startswith("hispec") else "cost"
    chosen = policy if isinstance(policy, Policy) else policy_from_text(policy)
    check_draft(draft, chosen, do_sample)
    return Request(prompt, draft, chosen, max_new_tokens, bool(do_sample), float(temperature), seed, float(lenience))


def room_of(pair: Pair, n_prompt: int, max_new_tokens: int) -> int:
    """How many tokens may be written: what was asked for, or what the models' context leaves.

    Raises:
        ValueError: it leaves nothing.
    """
    lengths = [getattr(model.config, "max_position_embeddings", None) for model in (pair.teacher, pair.student)]
    limit = min((length for length in lengths if length), default=2**31)
    if n_prompt + 1 > limit:
        raise ValueError(f"The prompt is {n_prompt} tokens long; these models read at most {limit}. Shorten it.")
    return min(max_new_tokens, limit - n_prompt)


def stop_ids(pair: Pair) -> list[int]:
    """The tokens that end a response of the teacher."""
    return stop_token_ids(pair.teacher, pair.tokenizer)


_errors: "WeakKeyDictionary[Any, dict[type, float]]" = WeakKeyDictionary()


def near_tie_of(target: Forward, model: Any) -> float:
    """The lead, in logits, up to which a one-row pass decides: ten times the measured error of a batched pass.

    In 16 bits passes of several rows round otherwise at many places, so nothing is asked again there (-1).
    """
    if target.dtype not in (torch.float32, torch.float64):
        return -1.0
    known = _errors.setdefault(model, {})
    if type(target) not in known:
        known[type(target)] = max(batched_error(target), getattr(target, "error", 0.0))
    return NEAR_TIE_FACTOR * known[type(target)]


def _rule(request: Request, target: Forward, pair: Pair) -> Rule:
    return Rule(
        coins=Coins(request.seed) if request.do_sample else None,
        temperature=request.temperature,
        near_tie=-1.0 if request.do_sample else near_tie_of(target, pair.teacher),
        lenience=request.lenience,
    )


# --- from rounds to a record ----------------------------------------------------------------------------------------


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
        self.rule, self.stops = _rule(request, target, pair), stop_ids(pair)
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


# --- beside it ------------------------------------------------------------------------------------------------------


class PlainBeside:
    """Our own plain loop over the same text, a few tokens at a time between the rounds.

    A sampled text is another one each time, so there the given tokens are followed, each after a draw of its own.

    Args:
        job: beside which it runs, and which is told its seconds and what it wrote.
    """

    def __init__(self, job: Decoding, should_stop: ShouldStop | None = None) -> None:
        self.job, coins = job, job.rule.coins

        def follow(logits: Tensor, place: int) -> int:
            assert coins is not None
            coins.draw(probabilities(logits, job.rule.temperature), Stream.RESAMPLE, place)
            return job.output_ids[place]

        rule = Rule(near_tie=-1.0) if coins is None else Rule(pick=follow, temperature=job.rule.temperature)
        run = Rounds(job.target.fresh(), None, rule, Plain(), job.prompt_ids, 2**31, should_stop=should_stop)
        self._steps = iter(run)
        self._written: list[int] = []
        self._seconds = 0.0

    def catch_up(self) -> None:
        """Write as many tokens as the text has by now. A text that was left behind, by Stop, has no plain seconds."""
        job = self.job
        job.plain_seconds = job.plain_ids = None
        while len(self._written) < len(job.output_ids):
            done = next(self._steps)
            self._seconds += done.draft_seconds + done.verify_seconds
            self._written += done.output
        job.plain_seconds, job.plain_ids = self._seconds, list(self._written)


def continue_everywhere(
    fitted: Fitted, prompt_ids: Sequence[int], job: Decoding, should_stop: ShouldStop
) -> list[list[list[float]]]:
    """For each place of the response, what the draft would say from there on: [token, q, confidence], 8 deep.

    A greedy chain policy reads nothing else, so it is replayed from these without a model.
    """
    assert fitted.draft is not None
    draft, temperature = fitted.draft.fresh(), job.request.temperature
    features = None
    if draft.wants_features:
        target = job.target.fresh()
        zeros = torch.zeros((1, target.width), dtype=target.dtype, device=target.device)
        read = [zeros, target.feed(prompt_ids[:-1])] if len(prompt_ids) > 1 else [zeros]
        features = [torch.cat(read), *torch.cat(job.hidden).split(1)]
    rows = []
    news: Sequence[int] = prompt_ids
    for place in range(len(job.output_ids)):
        if should_stop():
            raise Stopped
        row = draft.commit(news, features[place] if features is not None else None, [])
        rows.append(_one_chain(draft, row, temperature))
        news = job.output_ids[place : place + 1]
    return rows


def _one_chain(draft: Draft, row: Tensor | None, temperature: float) -> list[list[float]]:
    said: list[list[float]] = []
    while row is not None and len(said) < CONTINUATION and not bool(torch.isneginf(row).all()):
        logprobs = log_softmax(row, temperature)
        place = int(logprobs.argmax())
        token = place if draft.vocabulary is None else int(draft.vocabulary[place])
        confidence = float(logprobs[place].exp())
        said.append([token, math.exp(float(logprobs[place])), confidence])
        if len(said) < CONTINUATION:
            row = draft.extend([token], [len(said) - 2])[0]
    return said
