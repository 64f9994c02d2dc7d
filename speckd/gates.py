"""The gate: which tokens of a response carry the distillation loss, and the selectors it is compared with.

Letters of the papers: p is the teacher, q the student, V_t the weight of token t, beta the weight of a rejected token.

Every gate answers in two steps, so that one run of the models serves every setting of its knobs:

1. ``score`` looks at the two distributions of each row and returns one number a row: a *threshold* for the two
   propose-and-verify gates (the smallest k that accepts the token), a distance or an entropy for the selectors;
2. ``accept`` compares the scores with the knob. No model is run, and no gradient ever flows through either step.

Where a gate draws, its uniforms come from ``draws.py``: no chunking, batching or number of processes changes a
single coin.
"""

import json
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from speckd.divergences import entropy, forward_kl, hellinger
from speckd.draws import K_MAX, draw_and_verify, random_scores
from speckd.ranks import budget_size, ranks_by, topk_threshold

DEFAULT_K = 5  # SelecTKD, also best in its ablation
DEFAULT_BETA = 0.01  # SelecTKD


def _check_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value!r}: choose a number from 0 to 1.")


def _check_k(k: int, largest: int | None, why: str = "") -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}: choose a whole number, 1 or more.")
    if largest is not None and k > largest:
        raise ValueError(f"k is {k}: choose a whole number from 1 to {largest}{why}.")


@dataclass(frozen=True)
class Gate:
    """What every gate and selector offers. Subclasses say how a row is scored and when a score is accepted.

    Attributes:
        beta: weight of a rejected token, 0 (hard mask) to 1 (no gate).
        name: short name, as the command line and a log write it.
        column: the column of a Trace that holds this gate's scores; "" where none does. A subclass with a ``score`` of
            its own has none unless it names one.
        soft: whether it weighs every token by a rule of its own.
        rejects: whether there are tokens that it rejects. Where not, beta means nothing.
        reads_logprobs: whether its score depends on the two distributions at all.
        row_local: whether a token's verdict depends on its own row alone. Where it does not, the whole batch must be
            scored before the first weight is known.
        needs_reference: whether a third model takes part in the score.
        n_draws: pairs of uniforms that one row needs.
    """

    name: ClassVar[str] = ""
    column: ClassVar[str] = ""
    soft: ClassVar[bool] = False
    rejects: ClassVar[bool] = True
    reads_logprobs: ClassVar[bool] = True
    row_local: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False
    beta = 0.0  # no field here: the gates that have the knob declare it, after their own

    def __init_subclass__(cls) -> None:
        if "score" in vars(cls) and "column" not in vars(cls):
            cls.column = ""

    @property
    def n_draws(self) -> int:
        return 0

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        """One number a row, from (N, V) log-probabilities and, where n_draws > 0, (N, n_draws, 2) uniforms: (N,)."""
        raise NotImplementedError

    def trace_scores(self, trace: Any) -> Tensor:
        """The same scores, read from a trace instead of computed: (N,)."""
        return getattr(trace, self.column)

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        """Which rows are accepted, from their scores and, for selectors within a sequence, (N,) sequence ids: (N,)."""
        raise NotImplementedError

    def weigh(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        """V_t = beta + (1 - beta) * accepted_t of each row: (N,) float32."""
        return self.weights_of(self.accept(scores, sequences))

    def weights_of(self, accepted: Tensor) -> Tensor:
        """The weights that follow from the verdicts, where no rule of the gate's own says more: (N,) float32."""
        return self.beta + (1.0 - self.beta) * accepted.float()

    def at(self, progress: float) -> "Gate":
        """The gate that rules when this share of the training, 0 to 1, is done: itself, unless it is a schedule."""
        return self

    def describe(self) -> str:
        """The gate with its knobs, in the words of a log: ``topk(k=5, beta=0.01)``."""
        knobs = ", ".join(f"{knob.name}={getattr(self, knob.name)}" for knob in fields(self))
        return f"{self.name}({knobs})"

    def title(self) -> str:
        """The gate in the words of a legend: ``Top-k, k = 5, beta = 0.01``."""
        said = (knob for knob in fields(self) if knob.name not in _RARE or getattr(self, knob.name) != knob.default)
        knobs = [f"{knob.name} = {getattr(self, knob.name)}" for knob in said if knob.name != "seed"]
        return ", ".join([TITLES.get(self.name, self.name), *knobs])


_RARE = ("divergence", "open_until")  # knobs that a title names where somebody turned them
TITLES = {
    "topk": "Top-k",
    "speck": "Spec-k",
    "none": "plain distillation",
    "hellinger": "Hellinger weight",
    "adakd": "AdaKD",
    "student_entropy": "student entropy",
    "teacher_entropy": "teacher entropy",
    "adaspec": "AdaSPEC",
    "random": "random tokens",
}


@dataclass(frozen=True)
class TopK(Gate):
    """Accepted when the student's most probable token is among the teacher's k most probable.

    Args:
        k: 1 to the size of the vocabulary; 5 in the paper.
        beta: weight of a rejected token, 0 to 1; 0.01 in the paper. With 0 it is SpecKD's hard mask.
    Raises:
        ValueError: k or beta is out of range.
    Source: SelecTKD (arXiv 2510.24021), the greedy rule.
    """

    k: int = DEFAULT_K
    beta: float = DEFAULT_BETA
    name: ClassVar[str] = "topk"
    column: ClassVar[str] = "topk_threshold"

    def __post_init__(self) -> None:
        _check_k(self.k, None)
        _check_share("beta", self.beta)

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return topk_threshold(teacher_logprobs, student_logprobs)

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return scores <= self.k


@dataclass(frozen=True)
class SpecK(Gate):
    """Accepted when at least one of k independent draws from the student passes speculative decoding's test.

    Args:
        k: 1 to 50; 5 in the paper.
        beta: weight of a rejected token, 0 to 1; 0.01 in the paper.
        seed: names the coins in training; a trace has coins of its own, from the seed that made it.
    Raises:
        ValueError: k or beta is out of range.
    Source: SelecTKD (arXiv 2510.24021), the non-greedy rule. Its chance is 1 - TVD**k.
    """

    k: int = DEFAULT_K
    beta: float = DEFAULT_BETA
    seed: int = 0
    name: ClassVar[str] = "speck"
    column: ClassVar[str] = "speck_threshold"

    def __post_init__(self) -> None:
        _check_k(self.k, K_MAX, ", the draws that a trace keeps for each token")
        _check_share("beta", self.beta)

    @property
    def n_draws(self) -> int:
        return self.k

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        assert uniforms is not None, "Spec-k needs uniforms of its own: row_uniforms(...)"
        return draw_and_verify(teacher_logprobs, student_logprobs, uniforms[:, : self.k]).threshold()

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return scores <= self.k


@dataclass(frozen=True)
class AllOpen(Gate):
    """Accepts every token: plain distillation, the baseline beside every gate."""

    name: ClassVar[str] = "none"
    rejects: ClassVar[bool] = False
    reads_logprobs: ClassVar[bool] = False

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return torch.zeros(len(student_logprobs), device=student_logprobs.device)

    def trace_scores(self, trace: Any) -> Tensor:
        return torch.zeros(trace.n_tokens)

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return torch.ones_like(scores, dtype=torch.bool)


# --- the selectors ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HellingerWeight(Gate):
    """Weighs each token by the Hellinger distance of the two distributions: soft, so nothing is accepted or rejected.

    Source: the design that SelecTKD turns down, since it reacts to the tail and ignores rank.
    """

    name: ClassVar[str] = "hellinger"
    column: ClassVar[str] = "hellinger"
    soft: ClassVar[bool] = True
    rejects: ClassVar[bool] = False

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return hellinger(teacher_logprobs, student_logprobs)

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        raise ValueError("the Hellinger weight is soft: it has weights, and accepts or rejects nothing.")

    def weigh(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return scores.float()


@dataclass(frozen=True)
class _Ranked(Gate):
    """Keeps a fraction of the tokens, first in the order of a score."""

    fraction: float = 0.5
    beta: float = 0.0
    row_local: ClassVar[bool] = False
    within_sequence: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_share("fraction", self.fraction)
        _check_share("beta", self.beta)

    @property
    def descending(self) -> bool:
        return True

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        groups = sequences if self.within_sequence else None
        ranks = ranks_by(scores, self.descending, groups)
        if groups is None:
            return ranks <= budget_size(self.fraction, len(scores))
        accepted = torch.zeros_like(ranks, dtype=torch.bool)
        for name in groups.unique():
            member = groups == name
            accepted |= member & (ranks <= budget_size(self.fraction, int(member.sum())))
        return accepted


@dataclass(frozen=True)
class AdaKD(_Ranked):
    """Keeps the fraction of the batch's tokens where the two models differ most, by Hellinger distance.

    Args:
        fraction: share of the batch's response tokens that is kept, 0 to 1.
        beta: weight of the others; 0 keeps nothing of them.
    Source: AdaKD (arXiv 2510.11615).
    """

    name: ClassVar[str] = "adakd"
    column: ClassVar[str] = "hellinger"

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return hellinger(teacher_logprobs, student_logprobs)


@dataclass(frozen=True)
class StudentEntropy(_Ranked):
    """Keeps the positions of each sequence where the student is least sure.

    Args:
        fraction: share of each sequence's response tokens that is kept; 0.2 in the paper.
        beta: weight of the others; 0 keeps nothing of them.
    Source: SE-KD (Rethinking Selective KD). It keeps much of what a gate would drop.
    """

    fraction: float = 0.2
    name: ClassVar[str] = "student_entropy"
    column: ClassVar[str] = "student_entropy"
    within_sequence: ClassVar[bool] = True

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return entropy(student_logprobs)


@dataclass(frozen=True)
class TeacherEntropy(_Ranked):
    """Keeps the positions of each sequence where the teacher is surest (or least sure).

    Args:
        fraction: share of each sequence's response tokens that is kept, 0 to 1.
        beta: weight of the others; 0 keeps nothing of them.
        keep: "lowest" entropies (the teacher is sure) or "highest".
    Source: SE-KD's ablation.
    """

    keep: Literal["lowest", "highest"] = field(default="lowest")
    name: ClassVar[str] = "teacher_entropy"
    column: ClassVar[str] = "teacher_entropy"
    within_sequence: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep not in ("lowest", "highest"):
            raise ValueError(f"keep is {self.keep!r}: choose 'lowest' or 'highest'.")

    @property
    def descending(self) -> bool:
        return self.keep == "highest"

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return entropy(teacher_logprobs)


@dataclass(frozen=True)
class AdaSPEC(_Ranked):
    """Keeps the fraction of the batch's tokens that a reference copy of the student shows to be learnable.

    Delta_t = KL(p || q) - KL(p || q_ref): how much of the student's distance the reference, a student that was already
    distilled without a gate, has closed. For training only: a trace holds no reference.

    Args:
        fraction: share of the batch's response tokens that is kept; 0.4 in the paper.
        beta: weight of the others; 0 keeps nothing of them.
    Source: AdaSPEC (arXiv 2510.19779).
    """

    fraction: float = 0.4
    name: ClassVar[str] = "adaspec"
    needs_reference: ClassVar[bool] = True

    def score(
        self,
        teacher_logprobs: Tensor,
        student_logprobs: Tensor,
        uniforms: Tensor | None = None,
        reference_logprobs: Tensor | None = None,
    ) -> Tensor:
        if reference_logprobs is None:
            raise ValueError("AdaSPEC compares the student with a reference model: give its hidden states and head.")
        return forward_kl(teacher_logprobs, student_logprobs) - forward_kl(teacher_logprobs, reference_logprobs)

    def trace_scores(self, trace: Any) -> Tensor:
        raise ValueError("AdaSPEC needs a reference model, which a trace does not hold: it is for training only.")


@dataclass(frozen=True)
class RandomTokens(Gate):
    """Keeps each token with the given rate, by a coin of its own: the control that every selector must beat.

    Args:
        rate: chance of each token, 0 to 1.
        beta: weight of the others; 0 keeps nothing of them.
        seed: names the coins.
    """

    rate: float = 0.5
    beta: float = 0.0
    seed: int = 0
    name: ClassVar[str] = "random"
    reads_logprobs: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check_share("rate", self.rate)
        _check_share("beta", self.beta)

    @property
    def n_draws(self) -> int:
        return 1

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        assert uniforms is not None, "the random selector needs uniforms of its own: row_uniforms(...)"
        return uniforms[:, 0, 1].to(student_logprobs.device)

    def trace_scores(self, trace: Any) -> Tensor:
        return random_scores(self.seed, trace.n_tokens)

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return scores < self.rate


GATES: dict[str, type[Gate]] = {
    gate.name: gate
    for gate in (TopK, SpecK, AllOpen, HellingerWeight, AdaKD, StudentEntropy, TeacherEntropy, RandomTokens)
}


TRAINING_GATES: dict[str, type[Gate]] = {}  # by name, those that no trace can show; controls.py puts them here


def gate_named(name: str, **knobs: object) -> Gate:
    """The gate or selector of that name, with the knobs it knows.

    Args:
        name: one of topk, speck, none, hellinger, adakd, student_entropy, teacher_entropy, random; or for training only
            tip, position, matched, topk_schedule, margin, trim, adaspec.
        knobs: any of its fields; a knob that it does not have is a mistake.
    Raises:
        ValueError: an unknown name (the message lists the known ones), an unknown knob, or a value out of range.
    """
    try:
        gate = (GATES | TRAINING_GATES)[name]
    except KeyError:
        known_names = ", ".join([*GATES, *TRAINING_GATES])
        raise ValueError(f"{name!r} is not a gate here. Choose one of: {known_names}.") from None
    known = {knob.name for knob in fields(gate)}
    if unknown := sorted(set(knobs) - known):
        raise ValueError(
            f"gate {name!r} has no {unknown[0]!r}; its settings are: {', '.join(sorted(known)) or 'none'}."
        )
    return gate(**knobs)


def gate_of(given: object) -> Gate:
    """A gate as it is, or the one that a text names.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(given, str):
        return gate_from_text(given)
    if not isinstance(given, Gate):
        raise ValueError(f"gate is {given!r}: give one such as speckd.TopK(k=5), or its text, such as 'topk:k=5'.")
    return given


def gate_from_text(text: str) -> Gate:
    """The gate that a text names: its name, then ``:knob=value`` as often as needed, as in "topk:k=3:beta=0".

    Raises:
        ValueError: an unknown gate or knob, or a value out of range; the message lists the known ones.
    """
    name, *settings = text.strip().split(":")
    knobs: dict[str, object] = {}
    for setting in settings:
        knob, separator, value = setting.partition("=")
        if not separator:
            raise ValueError(f"gate {text!r}: write its settings as name:knob=value, such as topk:k=3:beta=0.")
        try:
            knobs[knob.strip()] = json.loads(value)
        except json.JSONDecodeError:
            knobs[knob.strip()] = value.strip()
    return gate_named(name, **knobs)
