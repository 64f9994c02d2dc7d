"""Gates for training alone: selectors that look at a whole batch, controls at a gate's own budget, and schedules.

A trace cannot show them: they rank the tokens of one training batch, count what another gate would keep of it, or
depend on how far the training has come. They answer the question behind every gate: is it *this* choice of tokens that
helps, or would any choice of so many tokens, dropped outliers, or a smaller step have done the same?

Letters of the papers: p is the teacher, q the student.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from speckd.divergences import divergence_named, entropy, forward_kl, hellinger
from speckd.gates import (
    DEFAULT_BETA,
    DEFAULT_K,
    TITLES,
    TRAINING_GATES,
    AdaSPEC,
    Gate,
    TopK,
    _check_k,
    _check_share,
    _Ranked,
)
from speckd.ranks import ranks_by, topk_threshold

ORDERS = ("random", "clip", "first", "last", "student_entropy", "adakd", "tip")


def _for_training(name: str) -> ValueError:
    return ValueError(
        f"the gate {name!r} is for training only: it looks at a whole batch, which a trace does not hold."
    )


def tip_score(student_entropy: Tensor, divergence: Tensor) -> Tensor:
    """TIP's score h + d - h d of each token, h the student's entropy and d the divergence, each scaled to 0..1.

    Args:
        student_entropy, divergence: (N,) nats, of the tokens of one batch.
    Returns:
        (N,) from 0 to 1; where all tokens have one entropy (or divergence) it counts as 0.
    Source: TIP (arXiv 2604.14084).
    """
    h, d = (_scaled(values.double()) for values in (student_entropy, divergence))
    return h + d - h * d


def _scaled(values: Tensor) -> Tensor:
    low, high = values.aminmax() if len(values) else (values.new_zeros(()), values.new_zeros(()))
    return ((values - low) / (high - low).clamp(min=1e-12)).clamp(0.0, 1.0)


@dataclass(frozen=True)
class TIP(_Ranked):
    """Keeps the fraction of the batch's tokens where the student is unsure or far from the teacher.

    Args:
        fraction: share of the batch's response tokens that is kept, 0 to 1.
        beta: weight of the others; 0 keeps nothing of them.
    Source: TIP (arXiv 2604.14084): under 10% of the tokens nearly equal all.
    """

    fraction: float = 0.1
    name: ClassVar[str] = "tip"

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        """(N, 2): entropy and divergence, since the score itself needs the whole batch's."""
        return torch.stack([entropy(student_logprobs), forward_kl(teacher_logprobs, student_logprobs)], -1)

    def trace_scores(self, trace: Any) -> Tensor:
        raise _for_training(self.name)

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return super().accept(tip_score(scores[:, 0], scores[:, 1]), sequences)


@dataclass(frozen=True)
class Position(_Ranked):
    """Keeps the first, or the last, fraction of each response.

    Args:
        fraction: share of each response's tokens that is kept, 0 to 1.
        beta: weight of the others; 0 keeps nothing of them.
        keep: "first" or "last".
    Source: IW-OPD (arXiv 2606.22600) finds that the first 30% do as well as all; here a control.
    """

    keep: Literal["first", "last"] = field(default="first")
    name: ClassVar[str] = "position"
    reads_logprobs: ClassVar[bool] = False
    within_sequence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep not in ("first", "last"):
            raise ValueError(f"keep is {self.keep!r}: choose 'first' or 'last'.")

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return torch.zeros(len(student_logprobs), device=student_logprobs.device)

    def trace_scores(self, trace: Any) -> Tensor:
        return torch.zeros(trace.n_tokens)

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        # A text's rows stand in its order, so the row's index is its place.
        places = torch.arange(len(scores), device=scores.device)
        return super().accept(-places if self.keep == "first" else places, sequences)


@dataclass(frozen=True)
class Matched(Gate):
    """Keeps as many tokens as Top-k would keep of the same batch, but chooses them by another rule: the gate's control.

    Args:
        by: the rule: "random" (a coin each), "clip" (all but those of the largest divergence: the gradient of a
            divergence clipped at the cap that clips a share of 1 - TAR), "first" or "last" (of each response),
            "student_entropy" (of each response, where the student is least sure), "adakd", "tip".
        k, beta: of the Top-k gate whose budget it spends; a token that is not kept weighs beta.
        seed: names the coins of "random".
        divergence: which one "clip" looks at.
    Raises:
        ValueError: an unknown rule, or a number out of range.
    """

    by: str = "random"
    k: int = DEFAULT_K
    beta: float = DEFAULT_BETA
    seed: int = 0
    divergence: str = "forward_kl"
    name: ClassVar[str] = "matched"
    row_local: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.by not in ORDERS:
            raise ValueError(f"by is {self.by!r}: choose one of {', '.join(ORDERS)}.")
        _check_k(self.k, None)
        _check_share("beta", self.beta)
        divergence_named(self.divergence)

    @property
    def n_draws(self) -> int:
        return 1 if self.by == "random" else 0

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        """(N, 2 or more) float64: whether Top-k accepts, and what the rule orders by."""
        accepted = (topk_threshold(teacher_logprobs, student_logprobs) <= self.k).double()
        return torch.stack([accepted, *self._order(teacher_logprobs, student_logprobs, uniforms)], -1)

    def _order(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None) -> list[Tensor]:
        if self.by == "random":
            assert uniforms is not None, "the random control needs uniforms of its own: row_uniforms(...)"
            return [uniforms[:, 0, 1].to(student_logprobs.device)]
        if self.by == "clip":
            return [-divergence_named(self.divergence)(teacher_logprobs, student_logprobs).double()]
        if self.by == "student_entropy":
            return [entropy(student_logprobs).double()]
        if self.by == "adakd":
            return [hellinger(teacher_logprobs, student_logprobs).double()]
        if self.by == "tip":
            return [entropy(student_logprobs).double(), forward_kl(teacher_logprobs, student_logprobs).double()]
        return []

    def trace_scores(self, trace: Any) -> Tensor:
        raise _for_training(self.name)

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        budget, places = scores[:, 0] > 0, torch.arange(len(scores), device=scores.device)
        if self.by in ("first", "last", "student_entropy"):
            order = scores[:, 1] if self.by == "student_entropy" else (-places if self.by == "first" else places)
            names = sequences if sequences is not None else torch.zeros_like(places)
            spent = torch.zeros_like(places)  # each row: how many tokens its own response may keep
            for name in names.unique():
                member = names == name
                spent[member] = budget[member].sum()
            return ranks_by(order, True, names) <= spent
        order = tip_score(scores[:, 1], scores[:, 2]) if self.by == "tip" else scores[:, 1]
        return ranks_by(order, True) <= budget.sum()


@dataclass(frozen=True)
class TopKSchedule(Gate):
    """Top-k that begins wide and closes while the training goes on.

    Args:
        k, beta: of the gate at the end of training.
        k_from: k at the start; it falls to k in equal ratios over the whole training.
        open_until: share of the training, from its start, in which every token counts in full.
    Raises:
        ValueError: k_from is below k, or a number is out of range.
    """

    k: int = DEFAULT_K
    beta: float = DEFAULT_BETA
    k_from: int = 20
    open_until: float = 0.0
    name: ClassVar[str] = "topk_schedule"

    def __post_init__(self) -> None:
        _check_k(self.k, None)
        _check_k(self.k_from, None)
        _check_share("beta", self.beta)
        _check_share("open_until", self.open_until)
        if self.k_from < self.k:
            raise ValueError(f"k_from is {self.k_from}, below k {self.k}: the gate closes, so begin with a larger k.")

    def at(self, progress: float) -> Gate:
        if progress < self.open_until:
            return TopK(k=self.k, beta=1.0)
        share = min(1.0, max(0.0, (progress - self.open_until) / max(1e-9, 1.0 - self.open_until)))
        return TopK(k=round(self.k_from * (self.k / self.k_from) ** share), beta=self.beta)

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return topk_threshold(teacher_logprobs, student_logprobs)

    def trace_scores(self, trace: Any) -> Tensor:
        return trace.topk_threshold

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return scores <= self.k


@dataclass(frozen=True)
class Margin(Gate):
    """Accepted where the teacher gives the student's proposal at least a fixed part of what it gives its own favourite.

    p(y^) >= ratio * max p with y^ = argmax q. Where the teacher is sure only its favourite passes, where it wavers many
    tokens do: a rank cannot say so. This project's own rule, after min-p sampling.

    Args:
        ratio: above 0, up to 1.
        beta: weight of a rejected token, 0 to 1.
    Raises:
        ValueError: a number is out of range.
    """

    ratio: float = 0.1
    beta: float = DEFAULT_BETA
    name: ClassVar[str] = "margin"

    def __post_init__(self) -> None:
        _check_share("ratio", self.ratio)
        _check_share("beta", self.beta)
        if not self.ratio > 0:
            raise ValueError("ratio is 0: every token would pass. Choose a number above 0, or the gate 'none'.")

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        """(N,) log(max p / p(y^)), 0 or more."""
        proposals = student_logprobs.argmax(-1, keepdim=True)
        return teacher_logprobs.amax(-1) - teacher_logprobs.gather(-1, proposals)[:, 0]

    def trace_scores(self, trace: Any) -> Tensor:
        raise ValueError("the gate 'margin' is for training only: a trace does not hold its score.")

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return scores <= -math.log(self.ratio) + 1e-6  # rounding of equal probabilities


@dataclass(frozen=True)
class Trim(_Ranked):
    """Leaves out the tokens of a batch on which teacher and student differ most, as a trimmed mean does.

    This project's own rule: in its study the control "clip" gained more acceptance than the gate whose budget it spent,
    at a price in forward KL. Shares of its own have only been screened (assets/study/README.md).

    Args:
        fraction: share of the batch's response tokens that is kept, 0 to 1.
        beta: weight of the others; 0 keeps nothing of them.
        open_until: share of the training, from its start, in which every token counts in full.
        divergence: the one that is looked at.
    Raises:
        ValueError: a number out of range, or an unknown divergence.
    """

    fraction: float = 0.5
    beta: float = DEFAULT_BETA
    open_until: float = 0.0
    divergence: str = "forward_kl"
    name: ClassVar[str] = "trim"

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("open_until", self.open_until)
        divergence_named(self.divergence)

    @property
    def descending(self) -> bool:
        return False

    def at(self, progress: float) -> Gate:
        return replace(self, beta=1.0) if progress < self.open_until else self

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        """(N,) nats."""
        return divergence_named(self.divergence)(teacher_logprobs, student_logprobs)

    def trace_scores(self, trace: Any) -> Tensor:
        raise _for_training(self.name)


TRAINING_GATES.update({gate.name: gate for gate in (TIP, Position, Matched, TopKSchedule, Margin, Trim, AdaSPEC)})
TITLES.update(
    {
        "tip": "TIP",
        "position": "place in the response",
        "matched": "Top-k's budget",
        "topk_schedule": "Top-k that closes",
        "margin": "margin in probability",
        "trim": "trimmed",
    }
)
