"""Every uniform that is drawn anywhere, and what is drawn with it.

Randomness is counter-based: each row owns its uniforms, named by (seed, sequence, position). So neither chunking,
batching nor the number of processes changes a single coin. Uses of randomness differ in their *stream*, the second word
of the Philox key: no two of them ever share a uniform, at any seed and step.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import torch
from torch import Tensor

from speckd.ranks import BLOCK


class Stream(IntEnum):
    """The one list of random uses. A number that is given out is never given to another use."""

    GATE = 0  # Spec-k's draws and coins, random tokens: also in every trace
    ANSWER = 1  # the tokens of sampled answers
    ON_POLICY = 2  # whether the student writes this example's response at this step
    REJECTED = 3  # whether rejected="sample" keeps a rejected token
    DRAFT = 4  # what a draft draws in decoding
    VERIFY = 5  # the coin by which a drafted token passes
    RESAMPLE = 6  # the token that follows the last accepted one
    OWN_ANSWER = 7  # the tokens of the responses that a student writes as it trains


K_MAX = 50  # draws that a trace keeps a row; the largest k of Spec-k


def row_uniforms(seed: int, sequences: Tensor, positions: Tensor, n_draws: int, stream: int = Stream.GATE) -> Tensor:
    """The uniforms that belong to each row, whatever chunk, batch or process it is computed in.

    Row (s, t) reads the Philox stream with key (seed, stream) from counter (t, s) on, so the first k draws are the
    same for every n_draws >= k, and two streams have nothing to do with each other.

    Args:
        seed: 0 to 2**63 - 1.
        sequences, positions: (N,) integers >= 0 that name each row: its sequence (or example) and its place there.
        n_draws: pairs a row.
        stream: whose coins they are: one of ``Stream``.
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
    whole = vocabulary // BLOCK
    body, tail = probabilities[:, : whole * BLOCK], probabilities[:, whole * BLOCK :]
    sums = body.unflatten(-1, (whole, BLOCK)).sum(-1, dtype=torch.float64)
    if tail.shape[-1]:
        sums = torch.cat([sums, tail.sum(-1, dtype=torch.float64, keepdim=True)], -1)
    cumulative = sums.cumsum(-1)  # (N, blocks)
    total = cumulative[:, -1:].contiguous()
    target = uniforms * total
    block = torch.searchsorted(cumulative, target, right=True)
    block = torch.minimum(block, torch.searchsorted(cumulative, total))  # (N, K); rounding never leads past the end
    rest = target - (cumulative.gather(-1, block) - sums.gather(-1, block))
    ids = block[..., None] * BLOCK + torch.arange(BLOCK, device=block.device)  # (N, K, BLOCK)
    rows = torch.arange(n_rows, device=block.device)[:, None, None]
    inside = probabilities[rows, ids.clamp(max=vocabulary - 1)].double().masked_fill(ids >= vocabulary, 0.0).cumsum(-1)
    pick = torch.searchsorted(inside, rest[..., None], right=True)
    last_possible = torch.searchsorted(inside, inside[..., -1:].contiguous())
    return (block[..., None] * BLOCK + torch.minimum(pick, last_possible)).squeeze(-1)


def random_scores(seed: int, n_tokens: int) -> Tensor:
    """The coin of each token of one sequence, under the random selector: (n_tokens,) float64 in [0, 1)."""
    positions = torch.arange(n_tokens)
    return row_uniforms(seed, torch.zeros_like(positions), positions, 1)[:, 0, 1]


_NUCLEUS_GUESS = 512  # tokens that usually hold the nucleus; a full sort of 49,152 costs ten times as much


def answer_uniforms(
    seed: int, answer: int, max_new_tokens: int, step: int = 0, stream: int = Stream.ANSWER
) -> np.ndarray:
    """The uniforms that pick each token of one answer: (max_new_tokens,) float64 in [0, 1).

    Args:
        seed: 0 to 2**63 - 1.
        answer: the number of the prompt or example that is answered.
        max_new_tokens: how many.
        step: of training, where a student answers as it trains (stream OWN_ANSWER); else 0.
        stream: whose uniforms they are: ANSWER or OWN_ANSWER.
    """
    philox = np.random.Philox(key=[seed, stream], counter=[0, 0, step, answer])
    return np.random.Generator(philox).random(max_new_tokens)


def draw_from_nucleus(logits: Tensor, uniforms: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """Draw one token a row from the smallest set of likely tokens that holds top_p, by inverse CDF.

    Args:
        logits: (B, V).
        uniforms: (B,) float64 in [0, 1).
        temperature, top_p: as in Sampling.
    Returns:
        (B,) token ids.
    """
    logprobs = torch.log_softmax(logits.float() / temperature, -1)
    n_likely = min(_NUCLEUS_GUESS if top_p < 1 else logprobs.shape[-1], logprobs.shape[-1])
    while True:
        values, ids = logprobs.topk(n_likely)  # sorted, likeliest first
        cumulative = values.double().exp().cumsum(-1)  # (B, n_likely)
        if n_likely == logprobs.shape[-1] or bool((cumulative[:, -1] >= top_p).all()):
            break
        n_likely = min(8 * n_likely, logprobs.shape[-1])
    # The nucleus ends with the token that reaches top_p. That token is in it.
    size = (cumulative < min(top_p, 1.0)).sum(-1).clamp(max=n_likely - 1)  # (B,)
    mass = cumulative.gather(-1, size[:, None])
    picks = torch.searchsorted(cumulative, uniforms[:, None].to(cumulative) * mass, right=True)
    return ids.gather(-1, torch.minimum(picks, size[:, None])).squeeze(-1)


def near_boundary(logits: Tensor, uniform: float, temperature: float, top_p: float, error: float) -> bool:
    """Whether ``draw_from_nucleus`` might draw another token if each logit were off by ``error``.

    That is where the uniform falls beside the edge of the drawn token, where the drawn token is as likely as one beside
    it, so that the two might stand the other way round, or where the nucleus might end a token sooner or later.

    Args:
        logits: (V,).
        uniform, temperature, top_p: as in ``draw_from_nucleus``.
        error: the largest error of a logit, 0 or more.
    """
    logprobs = torch.log_softmax(logits.float() / temperature, -1)
    values = logprobs.topk(min(_NUCLEUS_GUESS if top_p < 1 else len(logprobs), len(logprobs))).values
    cumulative = values.double().exp().cumsum(-1)
    slack = error / temperature  # of a log-probability, and no less than of a sum of probabilities up to 1
    last, goal = len(cumulative) - 1, min(top_p, 1.0)
    if float(cumulative[-1]) < top_p < 1:  # a nucleus of a thousand tokens: most of its draws hang on roundings
        return True
    reached = [min(int(torch.searchsorted(cumulative, goal + off)), last) for off in (-slack, slack)]
    low, high = (float(cumulative[place]) for place in reached)  # the mass of the nucleus lies between these
    target = torch.tensor([uniform * low - slack, uniform * high + slack], dtype=torch.float64)
    first, second = torch.searchsorted(cumulative, target, right=True).clamp(max=last).tolist()
    if first != second:
        return True
    beside = [float(values[other]) for other in (first - 1, first + 1) if 0 <= other <= last]
    return any(abs(float(values[first]) - other) < 2 * slack for other in beside)


def on_policy_coin(seed: int, step: int, number: int) -> float:
    """Uniform in [0, 1) that belongs to one example at one step."""
    stream = np.random.Philox(key=[seed, Stream.ON_POLICY], counter=[0, 0, step, number])
    return float(np.random.Generator(stream).random())
