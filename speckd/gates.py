"""The gate: which tokens of a response carry the distillation loss, and the selectors it is compared with.

Letters of the papers: p is the teacher, q the student, V_t the weight of token t, beta the weight of a rejected token.

Every gate answers in two steps, so that one run of the models serves every setting of its knobs:

1. ``score`` looks at the two distributions of each row and returns one number a row: a *threshold* for the two
   propose-and-verify gates (the smallest k that accepts the token), a distance or an entropy for the selectors;
2. ``accept`` compares the scores with the knob. No model is run, and no gradient ever flows through either step.

Randomness is counter-based: each row owns its uniforms, named by (seed, sequence, position). So neither chunking,
batching nor the number of processes changes a single coin.
"""

import math
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from speckd.divergences import entropy, forward_kl, hellinger

if TYPE_CHECKING:
    from speckd.trace import Trace

K_MAX = 50  # draws that a trace keeps a row; the largest k of Spec-k
DEFAULT_K = 5  # SelecTKD, also best in its ablation
DEFAULT_BETA = 0.01  # SelecTKD
DRAW_BLOCK = 128  # tokens a block, where a vocabulary is searched block by block


# --- uniforms, draws and thresholds -------------------------------------------------------------------------------


def row_uniforms(seed: int, sequences: Tensor, positions: Tensor, n_draws: int, stream: int = 0) -> Tensor:
    """The uniforms that belong to each row, whatever chunk, batch or process it is computed in.

    Row (s, t) reads the Philox stream with key (seed, stream) from counter (t, s) on, so the first k draws are the
    same for every n_draws >= k, and two streams have nothing to do with each other.

    Args:
        seed: 0 to 2**63 - 1.
        sequences, positions: (N,) integers >= 0 that name each row: its sequence (or example) and its place there.
        n_draws: pairs a row.
        stream: 0 for the gate's own coins; others for whoever needs coins beside them.
    Returns:
        (N, n_draws, 2) float64 in [0, 1): u, which picks the token, and the coin r. Coins are multiples of 2**-24,
        so that they are exact in float32 too and a stored trace decides as the run did.
    Raises:
        ValueError: the seed is out of range.
    """
    if not 0 <= seed < 2**63:
        raise ValueError(f"seed is {seed}: choose a whole number from 0 to 2**63 - 1.")
    n_blocks = -(-2 * n_draws // 4)  # one Philox call gives four words
    n_rows = len(positions)
    shape = (n_rows, n_blocks)
    # NumPy's own generator takes ten microseconds a row to set up, so its rounds are done here for all rows at once;
    # a test holds the two equal. Its counter is raised before the first word, hence the 1.
    counter = [np.broadcast_to(np.arange(1, n_blocks + 1, dtype=np.uint64), shape), np.zeros(shape, dtype=np.uint64)]
    counter += [np.broadcast_to(_uint64(names)[:, None], shape) for names in (positions, sequences)]
    words = np.stack(_philox(counter, seed, stream), axis=-1).reshape(n_rows, 4 * n_blocks)[:, : 2 * n_draws]
    uniforms = ((words >> np.uint64(11)) * 2.0**-53).reshape(n_rows, n_draws, 2)
    uniforms[..., 1] = np.floor(uniforms[..., 1] * 2**24) / 2**24
    return torch.from_numpy(uniforms)


def _uint64(names: Tensor) -> np.ndarray:
    return names.detach().cpu().numpy().astype(np.uint64)


def _philox(counter: list[np.ndarray], key_low: int, key_high: int) -> list[np.ndarray]:
    """Philox4x64-10 (Salmon et al. 2011) of many counters under one key: four uint64 words each."""
    c0, c1, c2, c3 = counter
    with np.errstate(over="ignore"):
        for _ in range(10):
            high0, low0 = _wide_product(c0, 0xD2E7470EE14C6C93)
            high1, low1 = _wide_product(c2, 0xCA5A826395121157)
            c0, c1 = high1 ^ c1 ^ np.uint64(key_low), low1
            c2, c3 = high0 ^ c3 ^ np.uint64(key_high), low0
            key_low = (key_low + 0x9E3779B97F4A7C15) % 2**64
            key_high = (key_high + 0xBB67AE8584CAA73B) % 2**64
    return [c0, c1, c2, c3]


def _wide_product(a: np.ndarray, constant: int) -> tuple[np.ndarray, np.ndarray]:
    """The upper and the lower 64 bits of a * constant, from products of 32-bit halves."""
    half, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    b_high, b_low = np.uint64(constant >> 32), np.uint64(constant & 0xFFFFFFFF)
    a_high, a_low = a >> half, a & mask
    low_low, high_low, low_high = a_low * b_low, a_high * b_low, a_low * b_high
    middle = (low_low >> half) + (high_low & mask) + (low_high & mask)
    high = a_high * b_high + (high_low >> half) + (low_high >> half) + (middle >> half)
    return high, a * np.uint64(constant)


def topk_threshold(teacher_scores: Tensor, student_scores: Tensor) -> Tensor:
    """The smallest k at which Top-k accepts each row: the rank of the student's argmax in the teacher's order.

    Args:
        teacher_scores, student_scores: (N, V) logits or log-probabilities; only their order counts.
    Returns:
        (N,) int64 from 1 (the teacher's first choice) to V. Ties: the lower token id comes first, for both models.
    """
    return rank_of(teacher_scores, student_scores.argmax(-1, keepdim=True)).squeeze(-1)


def block_maxima(scores: Tensor) -> Tensor:
    """The largest score of each block of DRAW_BLOCK tokens, the last block shorter: (N, V) to (N, blocks).

    They vectorise where an argmax over a large vocabulary does not: with them, finding it and a token's rank takes a
    tenth of the time on a CPU.
    """
    whole = scores.shape[-1] // DRAW_BLOCK
    maxima = scores[:, : whole * DRAW_BLOCK].unflatten(-1, (whole, DRAW_BLOCK)).amax(-1)
    if whole * DRAW_BLOCK == scores.shape[-1]:
        return maxima
    return torch.cat([maxima, scores[:, whole * DRAW_BLOCK :].amax(-1, keepdim=True)], -1)


def argmax_from(scores: Tensor, maxima: Tensor) -> Tensor:
    """(N, 1) int64, each row's argmax, of equal scores the lowest id, from (N, V) scores and their block maxima."""
    if scores.device.type != "cpu":
        return scores.argmax(-1, keepdim=True)
    # NumPy, here and below: over the few numbers that are left, a call of it costs a fifth of one of torch.
    rows, best = np.arange(len(scores)), maxima.numpy().argmax(-1)
    ids, values = _blocks_of(scores.numpy(), rows, best)
    return torch.from_numpy(ids[rows, values.argmax(-1)])[:, None]


def _blocks_of(scores: np.ndarray, rows: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and scores of M blocks, (M, DRAW_BLOCK) each; past the end of the vocabulary the score is -inf."""
    vocabulary = scores.shape[-1]
    ids = blocks[:, None] * DRAW_BLOCK + np.arange(DRAW_BLOCK)
    if vocabulary % DRAW_BLOCK == 0:
        return ids, scores.reshape(-1, DRAW_BLOCK)[rows * (vocabulary // DRAW_BLOCK) + blocks]
    values = scores[rows[:, None], np.minimum(ids, vocabulary - 1)]
    values[ids >= vocabulary] = -np.inf
    return ids, values


def topk_threshold_up_to(k: int, teacher_scores: Tensor, teacher_maxima: Tensor, token_ids: Tensor) -> Tensor:
    """The rank of one token a row in the teacher's order, exact up to k and k + 1 beyond: all that a verdict needs.

    Whatever beats the token lies in a block whose maximum is no less. Where more than k blocks have a larger maximum,
    the token is past k; else they are few, and all that is looked into.

    Args:
        k: the largest rank of interest.
        teacher_scores: (N, V) logits.
        teacher_maxima: (N, blocks) from ``block_maxima``.
        token_ids: (N, 1) the tokens.
    Returns:
        (N,) int64 from 1 to k + 1. Ties: the lower token id comes first.
    """
    if teacher_scores.device.type != "cpu":
        return rank_of(teacher_scores, token_ids).squeeze(-1).clamp(max=k + 1)
    scores, maxima, tokens = teacher_scores.numpy(), teacher_maxima.numpy(), token_ids[:, 0].numpy()
    own = scores[np.arange(len(tokens)), tokens]
    ranks = np.where((maxima > own[:, None]).sum(-1) > k, k + 1, 1)
    rows, blocks = np.nonzero((maxima >= own[:, None]) & (ranks == 1)[:, None])
    ids, values = _blocks_of(scores, rows, blocks)
    own_of, token_of = own[rows, None], tokens[rows, None]
    ahead = (values > own_of) | ((values == own_of) & (ids < token_of))
    n_ahead = np.bincount(rows, ahead.sum(-1), minlength=len(ranks)).astype(np.int64)
    return torch.from_numpy(np.minimum(ranks + n_ahead, k + 1))


def rank_of(scores: Tensor, token_ids: Tensor) -> Tensor:
    """The rank of the given tokens in each row's order, 1 is best; of equal scores the lower token id comes first.

    Args:
        scores: (N, V) logits or log-probabilities.
        token_ids: (N, M) integers.
    Returns:
        (N, M) int64 from 1 to V.
    """
    if scores.device.type == "cpu":
        return _rank_of_on_cpu(scores, token_ids)
    own = scores.gather(-1, token_ids)  # (N, M)
    order = torch.arange(scores.shape[-1], device=scores.device)
    ranks = torch.empty_like(token_ids)
    for column in range(token_ids.shape[-1]):  # one (N, V) comparison at a time: never (N, M, V)
        value, token = own[:, column, None], token_ids[:, column, None]
        ahead = (scores > value) | ((scores == value) & (order < token))
        ranks[:, column] = ahead.sum(-1) + 1
    return ranks


def _rank_of_on_cpu(scores: Tensor, token_ids: Tensor) -> Tensor:
    """One pass over a row finds all that reach its lowest asked token: few, and the counting is among those alone."""
    rows, ids = scores.detach().numpy(), token_ids.numpy()
    ranks = np.empty(ids.shape, dtype=np.int64)
    for row, (values, tokens) in enumerate(zip(rows, ids, strict=True)):
        asked = values[tokens]
        reaching = np.flatnonzero(values >= asked.min())  # ids, ascending
        scored = values[reaching]
        for column, (own, place) in enumerate(zip(asked, np.searchsorted(reaching, tokens), strict=True)):
            ahead = np.count_nonzero(scored[:place] >= own) + np.count_nonzero(scored[place + 1 :] > own)
            ranks[row, column] = ahead + 1
    return torch.from_numpy(ranks)


@dataclass(frozen=True)
class Draws:
    """What the student drew at each row, and the coin that decided each draw.

    Attributes:
        token_ids: (N, K) int64, independent draws y ~ q.
        acceptance: (N, K) float32, min(1, p(y)/q(y)).
        coins: (N, K) float32 in [0, 1); a draw passes where its coin is below its acceptance.
    """

    token_ids: Tensor
    acceptance: Tensor
    coins: Tensor

    def threshold(self) -> Tensor:
        """(N,) int64: index, from 1, of the first draw that passes; K + 1 where none does."""
        passed = self.coins < self.acceptance  # (N, K)
        n_draws = passed.shape[-1]
        order = torch.arange(1, n_draws + 1, device=passed.device)
        return torch.where(passed, order, n_draws + 1).amin(-1)


def draw_and_verify(teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor) -> Draws:
    """Let the student draw, and the teacher verify each draw with a coin.

    y_j is the token where the student's cumulative distribution first exceeds u_j (float64: in float32 the sum over a
    large vocabulary drifts by more than a rare token's probability). Draw j passes when r_j < min(1, p(y_j)/q(y_j)).

    Args:
        teacher_logprobs, student_logprobs: (N, V) log-probabilities.
        uniforms: (N, K, 2) float64 from ``row_uniforms``.
    Returns:
        Draws of (N, K).
    Source: Leviathan et al. (arXiv 2211.17192); the non-greedy rule of SelecTKD (arXiv 2510.24021).
    """
    uniforms = uniforms.to(student_logprobs.device)
    token_ids = draw_tokens(student_logprobs.exp(), uniforms[..., 0])
    log_ratio = teacher_logprobs.gather(-1, token_ids) - student_logprobs.gather(-1, token_ids)
    return Draws(token_ids, log_ratio.clamp(max=0.0).exp().float(), uniforms[..., 1].float())


def draw_tokens(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """Draw tokens by the inverse of the cumulative distribution, in two steps: first a block of tokens, then in it.

    Args:
        probabilities: (N, V) non-negative, each row up to a factor of its own.
        uniforms: (N, K) float64 in [0, 1).
    Returns:
        (N, K) int64; never a token of probability 0. All sums are float64.
    """
    n_rows, vocabulary = probabilities.shape
    whole = vocabulary // DRAW_BLOCK
    body, tail = probabilities[:, : whole * DRAW_BLOCK], probabilities[:, whole * DRAW_BLOCK :]
    sums = body.unflatten(-1, (whole, DRAW_BLOCK)).sum(-1, dtype=torch.float64)
    if tail.shape[-1]:
        sums = torch.cat([sums, tail.sum(-1, dtype=torch.float64, keepdim=True)], -1)
    cumulative = sums.cumsum(-1)  # (N, blocks)
    total = cumulative[:, -1:].contiguous()
    target = uniforms * total
    block = torch.searchsorted(cumulative, target, right=True)
    block = torch.minimum(block, torch.searchsorted(cumulative, total))  # (N, K); rounding never leads past the end
    rest = target - (cumulative.gather(-1, block) - sums.gather(-1, block))
    ids = block[..., None] * DRAW_BLOCK + torch.arange(DRAW_BLOCK, device=block.device)  # (N, K, DRAW_BLOCK)
    rows = torch.arange(n_rows, device=block.device)[:, None, None]
    inside = probabilities[rows, ids.clamp(max=vocabulary - 1)].double().masked_fill(ids >= vocabulary, 0.0).cumsum(-1)
    pick = torch.searchsorted(inside, rest[..., None], right=True)
    last_possible = torch.searchsorted(inside, inside[..., -1:].contiguous())
    return (block[..., None] * DRAW_BLOCK + torch.minimum(pick, last_possible)).squeeze(-1)


def ranks_by(scores: Tensor, descending: bool = True, sequences: Tensor | None = None) -> Tensor:
    """Each token's place under a score, 1 is kept first; equal scores keep their order in the text.

    Args:
        scores: (N,) numbers.
        descending: whether the largest score comes first.
        sequences: (N,) the sequence of each token; with it, places are counted within each sequence.
    Returns:
        (N,) int64 from 1.
    """
    ranks = torch.empty(len(scores), dtype=torch.int64, device=scores.device)
    groups = [torch.arange(len(scores), device=scores.device)]
    if sequences is not None:
        groups = [(sequences == name).nonzero().flatten() for name in sequences.unique()]
    for group in groups:
        order = scores[group].argsort(descending=descending, stable=True)
        ranks[group[order]] = torch.arange(1, len(group) + 1, device=scores.device)
    return ranks


def budget_size(fraction: float, n_tokens: int) -> int:
    """How many of n tokens a fraction buys: rounded half up, at least one where the fraction is not 0."""
    return min(n_tokens, max(1, math.floor(fraction * n_tokens + 0.5))) if fraction > 0 else 0


# --- the gates ----------------------------------------------------------------------------------------------------


def _check_share(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} is {value!r}: choose a number from 0 to 1.")


def _check_k(k: int, largest: int | None, why: str = "") -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k is {k!r}: choose a whole number from 1 on.")
    if largest is not None and k > largest:
        raise ValueError(f"k is {k}: choose a whole number from 1 to {largest}{why}.")


@dataclass(frozen=True)
class Gate:
    """What every gate and selector offers. Subclasses say how a row is scored and when a score is accepted.

    Attributes:
        beta: weight of a rejected token, 0 (hard mask) to 1 (no gate).
        name: short name, as the command line and a log write it.
        row_local: whether a token's verdict depends on its own row alone. Where it does not, the whole batch must be
            scored before the first weight is known.
        needs_reference: whether a third model takes part in the score.
        n_draws: pairs of uniforms that one row needs.
    """

    name: ClassVar[str] = ""
    row_local: ClassVar[bool] = True
    needs_reference: ClassVar[bool] = False

    @property
    def n_draws(self) -> int:
        return 0

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        """One number a row, from (N, V) log-probabilities and, where n_draws > 0, (N, n_draws, 2) uniforms: (N,)."""
        raise NotImplementedError

    def trace_scores(self, trace: "Trace") -> Tensor:
        """The same scores, read from a trace instead of computed: (N,)."""
        raise NotImplementedError

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        """Which rows are accepted, from their scores and, for selectors within a sequence, (N,) sequence ids: (N,)."""
        raise NotImplementedError

    def weigh(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        """V_t = beta + (1 - beta) * accepted_t of each row: (N,) float32."""
        return self.weights_of(self.accept(scores, sequences))

    def weights_of(self, accepted: Tensor) -> Tensor:
        """The weights that follow from the verdicts, where no rule of the gate's own says more: (N,) float32."""
        beta = getattr(self, "beta", 0.0)
        return beta + (1.0 - beta) * accepted.float()

    def describe(self) -> str:
        """The gate with its knobs, in the words of a log: ``topk(k=5, beta=0.01)``."""
        knobs = ", ".join(f"{knob.name}={getattr(self, knob.name)}" for knob in fields(self))
        return f"{self.name}({knobs})"

    def title(self) -> str:
        """The gate in the words of a legend: ``Top-k, k = 5, beta = 0.01``."""
        knobs = [f"{knob.name} = {getattr(self, knob.name)}" for knob in fields(self) if knob.name != "seed"]
        return ", ".join([TITLES.get(self.name, self.name), *knobs])


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

    def __post_init__(self) -> None:
        _check_k(self.k, None)
        _check_share("beta", self.beta)

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return topk_threshold(teacher_logprobs, student_logprobs)

    def trace_scores(self, trace: "Trace") -> Tensor:
        return trace.topk_threshold

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

    def __post_init__(self) -> None:
        _check_k(self.k, K_MAX, ", the draws that a trace keeps for each token")
        _check_share("beta", self.beta)

    @property
    def n_draws(self) -> int:
        return self.k

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        assert uniforms is not None, "Spec-k needs uniforms of its own: row_uniforms(...)"
        return draw_and_verify(teacher_logprobs, student_logprobs, uniforms[:, : self.k]).threshold()

    def trace_scores(self, trace: "Trace") -> Tensor:
        return trace.speck_threshold

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return scores <= self.k


@dataclass(frozen=True)
class AllOpen(Gate):
    """Accepts every token: plain distillation, the baseline beside every gate."""

    name: ClassVar[str] = "none"

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return torch.zeros(len(student_logprobs), device=student_logprobs.device)

    def trace_scores(self, trace: "Trace") -> Tensor:
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

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return hellinger(teacher_logprobs, student_logprobs)

    def trace_scores(self, trace: "Trace") -> Tensor:
        return trace.hellinger

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

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return hellinger(teacher_logprobs, student_logprobs)

    def trace_scores(self, trace: "Trace") -> Tensor:
        return trace.hellinger


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
    within_sequence: ClassVar[bool] = True

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        return entropy(student_logprobs)

    def trace_scores(self, trace: "Trace") -> Tensor:
        return trace.student_entropy


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

    def trace_scores(self, trace: "Trace") -> Tensor:
        return trace.teacher_entropy


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

    def trace_scores(self, trace: "Trace") -> Tensor:
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

    def __post_init__(self) -> None:
        _check_share("rate", self.rate)
        _check_share("beta", self.beta)

    @property
    def n_draws(self) -> int:
        return 1

    def score(self, teacher_logprobs: Tensor, student_logprobs: Tensor, uniforms: Tensor | None = None) -> Tensor:
        assert uniforms is not None, "the random selector needs uniforms of its own: row_uniforms(...)"
        return uniforms[:, 0, 1].to(student_logprobs.device)

    def trace_scores(self, trace: "Trace") -> Tensor:
        return random_scores(self.seed, trace.n_tokens)

    def accept(self, scores: Tensor, sequences: Tensor | None = None) -> Tensor:
        return scores < self.rate


def random_scores(seed: int, n_tokens: int) -> Tensor:
    """The coin of each token of one sequence, under the random selector: (n_tokens,) float64 in [0, 1)."""
    positions = torch.arange(n_tokens)
    return row_uniforms(seed, torch.zeros_like(positions), positions, 1)[:, 0, 1]


GATES: dict[str, type[Gate]] = {
    gate.name: gate
    for gate in (TopK, SpecK, AllOpen, HellingerWeight, AdaKD, StudentEntropy, TeacherEntropy, RandomTokens)
}


def gate_named(name: str, **knobs: object) -> Gate:
    """The gate or selector of that name, with the knobs it knows.

    Args:
        name: one of topk, speck, none, hellinger, adakd, student_entropy, teacher_entropy, random.
        knobs: any of its fields; a knob that it does not have is a mistake.
    Raises:
        ValueError: an unknown name (the message lists the known ones), an unknown knob, or a value out of range.
    """
    try:
        gate = GATES[name]
    except KeyError:
        raise ValueError(f"{name!r} is not a gate here. Choose one of: {', '.join(GATES)}.") from None
    known = {knob.name for knob in fields(gate)}
    if unknown := sorted(set(knobs) - known):
        raise ValueError(
            f"gate {name!r} has no {unknown[0]!r}; its settings are: {', '.join(sorted(known)) or 'none'}."
        )
    return gate(**knobs)
