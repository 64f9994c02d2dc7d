"""Measuring what drafts and passes cost here.

A machine that others use is slow by spells, so nothing is timed alone: each job stands between two plain passes over
one row, and their mean is its unit. A median of such ratios scatters half as much as a ratio of medians taken in turns.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from speckd.decoding.costs import Costs
from speckd.decoding.draft_named import check_draft, fastest_draft, fit_draft
from speckd.decoding.drafts import Draft, Fitted
from speckd.decoding.forward import Forward, forward_of
from speckd.decoding.rounds import best_clock, clock_named, log_softmax
from speckd.jobs import ShouldStop, Stopped
from speckd.pairs import Pair

MEASURED_ROWS = (1, 2, 3, 4, 5, 7, 9, 13, 17)  # passes that are timed; others lie on the lines between
COST_REPEATS = 4
CONTEXT = 64  # tokens of text in the caches, where nothing else is asked for
CHAIN = 3  # steps of a draft in one of its timed rounds: the one that reads what is new, and those after it
Job = Callable[[], float]  # does something and returns the seconds of the part that counts

_costs: "WeakKeyDictionary[Any, dict[tuple[str, str], Costs]]" = WeakKeyDictionary()


def known_costs(pair: Pair, fitted: Fitted, target: Forward, should_stop: ShouldStop | None = None) -> Costs:
    """The costs of this teacher and draft, measured once in the life of this process."""
    known = _costs.setdefault(pair.teacher, {})
    key = (fitted.name, type(target).__name__)
    if key not in known:
        meter = Meter([fitted], target, should_stop=should_stop)
        meter.turn(COST_REPEATS)
        known[key] = meter.costs(fitted.name)
    return known[key]


def measure_costs(
    pair: Pair,
    draft: str | None = None,
    *,
    repeats: int = COST_REPEATS,
    context: int = CONTEXT,
    lean: bool = True,
    should_stop: ShouldStop | None = None,
) -> Costs:
    """What a pass over n rows and a step of the draft cost here, in teacher tokens: medians of ratios to plain passes.

    Args:
        pair: from ``load_pair``.
        draft: as in ``decode``.
        repeats: runs of each.
        context: tokens of text in the caches meanwhile.
        lean: False runs the model's own forward.
        should_stop: asked before each pass.
    Returns:
        The costs; for one thread on a CPU by the time that the process worked, so that others there count for little.
    Raises:
        ValueError: the draft does not fit the pair, or has several levels, which these costs cannot say.
        Stopped: ``should_stop`` turned true.
    """
    chosen = draft or fastest_draft(pair)
    check_draft(chosen, None, False)
    target = forward_of(pair.teacher, pair.vocabulary_size, lean)
    fitted = fit_draft(pair, chosen, target, None, False, lean)
    if not fitted.is_predicted:
        raise ValueError(f"The draft {chosen!r} has several levels, and these costs know one: choose another draft.")
    meter = Meter([fitted], target, context, should_stop=should_stop)
    meter.turn(repeats)
    costs = meter.costs(fitted.name)
    _costs.setdefault(pair.teacher, {})[(fitted.name, type(target).__name__)] = costs
    return costs


class Meter:
    """Costs of some drafts over one teacher, measured a job at a time, so that a meter can stand between the rounds of
    texts that are timed.

    Args:
        fitted: the drafts, one level each.
        target: the teacher's forward.
        context: tokens of text in the caches meanwhile.
        rows: numbers of rows that are timed, ascending, the first 1.
        should_stop: asked before each job; then ``Stopped``.
    """

    def __init__(
        self,
        fitted: Sequence[Fitted],
        target: Forward,
        context: int = CONTEXT,
        rows: Sequence[int] = MEASURED_ROWS,
        should_stop: ShouldStop | None = None,
    ) -> None:
        assert rows[0] == 1 and len(rows) > 1 and context > 1
        self.clock = best_clock(target.device)
        self._now = clock_named(self.clock, target.device)
        self._rows, self._stopping = tuple(rows), should_stop or (lambda: False)
        # Tokens of a pass are cheap to say and all alike to a matrix, so any will do.
        self._ids = [(3 + 11 * place) % target.vocabulary_size for place in range(max(context, rows[-1]))]
        self._context = self._ids[:context]
        self._teacher = target.fresh()
        hidden = self._teacher.feed(self._context)
        self._jobs: dict[tuple[str, int], Job] = {("", n): self._pass_of(n) for n in rows[1:]}
        for one in fitted:
            if one.draft is None:
                continue
            if hasattr(one.draft, "feed_teacher"):  # its first layers are the teacher's: passes cost otherwise
                self._jobs |= {(one.name, n): self._verify_handed(one.probe(), n) for n in rows[1:]}
            self._jobs[one.name, 0] = self._draft_round(one.probe(), hidden)
        self._ratios: dict[tuple[str, int], list[float]] = {key: [] for key in self._jobs}
        self._units: list[float] = []
        self._order = list(self._jobs)
        self._n_done = 0

    def step(self) -> None:
        """Time the next job and the plain passes beside it; an odd turn goes through the jobs backwards."""
        if not self._n_done:  # the first run of anything allocates and loads
            for job in [self._pass_of(1), *self._jobs.values()]:
                job()
            self._units.append(self._pass_of(1)())
        turn, place = divmod(self._n_done, len(self._order))
        key = self._order[place if turn % 2 == 0 else -1 - place]
        seconds = self._jobs[key]()
        self._units.append(self._pass_of(1)())
        self._ratios[key].append(2 * seconds / (self._units[-2] + self._units[-1]))
        self._n_done += 1

    def turn(self, repeats: int = 1) -> None:
        """Time every job so many times."""
        for _ in range(repeats * len(self._order)):
            self.step()

    def costs(self, name: str) -> Costs:
        """The costs with one of the drafts.

        Args:
            name: of the fitted draft; every job was timed at least once.
        """
        owner = name if (name, self._rows[1]) in self._ratios else ""
        keys = [(owner, n) for n in self._rows[1:]]
        step = statistics.median(self._ratios[name, 0]) if (name, 0) in self._ratios else 0.0
        spreads = [spread(self._ratios[key]) for key in [*keys, (name, 0)] if key in self._ratios]
        ratios = tuple(statistics.median(self._ratios[key]) for key in keys)
        unit = statistics.median(self._units)
        return Costs(self._rows, (1.0, *ratios), step, unit, max(spreads), self.clock)

    # --- jobs --------------------------------------------------------------------------------------------------------

    def _pass_of(self, n_rows: int) -> Job:
        """One pass of the teacher, the choice of its tokens included."""

        def run() -> float:
            if self._stopping():
                raise Stopped
            began = self._now()
            self._teacher.logits(self._teacher.feed(self._ids[:n_rows])).argmax(-1).tolist()
            self._teacher.crop(len(self._context))
            return self._now() - began

        return run

    def _verify_handed(self, draft: Any, n_rows: int) -> Job:
        """One pass, where the draft ran the first layers of all rows but the last one's; the text grows by one each."""
        teacher = draft.teacher
        teacher.feed(self._context[:-1])
        waiting = list(self._context)

        def run() -> float:
            if self._stopping():
                raise Stopped
            draft.commit(waiting, None, [])
            for node in range(n_rows - 2):
                draft.extend([self._ids[node]], [node - 1])
            began = self._now()
            length = teacher.length
            teacher.logits(draft.feed_teacher(self._ids[:n_rows])).argmax(-1).tolist()
            teacher.crop(length + 1)
            waiting[:] = self._ids[:1]
            return self._now() - began

        return run

    def _draft_round(self, draft: Draft, hidden: Tensor) -> Job:
        """Seconds of a step of the draft on a text of this length, the choice of its token included: the mean of a
        round's, the first of which reads what is new."""
        zeros = torch.zeros((1, hidden.shape[1]), dtype=hidden.dtype, device=hidden.device)
        states = torch.cat([zeros, hidden[:-1]]) if draft.wants_features else None
        draft.commit(self._context, states, [])

        def chosen(row: Tensor) -> float:
            logprobs = log_softmax(row, 1.0)
            return float(logprobs[int(logprobs.argmax())].exp())

        def run() -> float:
            if self._stopping():
                raise Stopped
            began = self._now()
            row = draft.commit(self._ids[:1], hidden[-1:] if draft.wants_features else None, [])
            if row is not None:
                chosen(row)
            for node in range(CHAIN - 1):
                chosen(draft.extend([self._ids[node]], [node - 1])[0])
            return (self._now() - began) / CHAIN

        return run


def spread(values: Sequence[float]) -> float:
    """The quartile distance of some values, as a share of their median; 0 for fewer than four."""
    if len(values) < 4:
        return 0.0
    low, middle, high = statistics.quantiles(values, n=4)
    return (high - low) / middle if middle else 0.0
