"""Order among tokens: ranks, ties, the Top-k threshold, budgets. Of equal scores the lower token id comes first."""

import math

import numpy as np
import torch
from torch import Tensor

BLOCK = 128  # tokens a block, where a vocabulary is searched block by block


def topk_threshold(teacher_scores: Tensor, student_scores: Tensor) -> Tensor:
    """The smallest k at which Top-k accepts each row: the rank of the student's argmax in the teacher's order.

    Args:
        teacher_scores, student_scores: (N, V) logits or log-probabilities; only their order counts.
    Returns:
        (N,) int64 from 1 (the teacher's first choice) to V. Ties: the lower token id comes first, for both models.
    """
    return rank_of(teacher_scores, student_scores.argmax(-1, keepdim=True)).squeeze(-1)


def block_maxima(scores: Tensor) -> Tensor:
    """The largest score of each block of BLOCK tokens, the last block shorter: (N, V) to (N, blocks).

    They vectorise where an argmax over a large vocabulary does not: with them, finding it and a token's rank takes a
    tenth of the time on a CPU.
    """
    whole = scores.shape[-1] // BLOCK
    maxima = scores[:, : whole * BLOCK].unflatten(-1, (whole, BLOCK)).amax(-1)
    if whole * BLOCK == scores.shape[-1]:
        return maxima
    return torch.cat([maxima, scores[:, whole * BLOCK :].amax(-1, keepdim=True)], -1)


def argmax_from(scores: Tensor, maxima: Tensor) -> Tensor:
    """(N, 1) int64, each row's argmax, of equal scores the lowest id, from (N, V) scores and their block maxima."""
    if scores.device.type != "cpu":
        return scores.argmax(-1, keepdim=True)
    # NumPy, here and below: over the few numbers that are left, a call of it costs a fifth of one of torch.
    rows, best = np.arange(len(scores)), maxima.numpy().argmax(-1)
    ids, values = _blocks_of(scores.numpy(), rows, best)
    return torch.from_numpy(ids[rows, values.argmax(-1)])[:, None]


def _blocks_of(scores: np.ndarray, rows: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Token ids and scores of M blocks, (M, BLOCK) each; past the end of the vocabulary the score is -inf."""
    vocabulary = scores.shape[-1]
    ids = blocks[:, None] * BLOCK + np.arange(BLOCK)
    if vocabulary % BLOCK == 0:
        return ids, scores.reshape(-1, BLOCK)[rows * (vocabulary // BLOCK) + blocks]
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


def top_tokens(scores: Tensor, n_top: int) -> Tensor:
    """The ids of the n largest scores of each row, largest first, of equal scores the lower id first: (N, n)."""
    values, ids = scores.topk(min(n_top + 1, scores.shape[-1]))
    by_id = ids.argsort(dim=-1)  # topk leaves the order of equal scores open: sort by id, then stably by score
    values, ids = values.gather(-1, by_id), ids.gather(-1, by_id)
    by_score = values.argsort(dim=-1, descending=True, stable=True)
    values, ids = values.gather(-1, by_score), ids.gather(-1, by_score)
    if values.shape[-1] > n_top:
        tied = values[:, n_top] == values[:, n_top - 1]  # and which of them topk took, when they straddle the end
        if tied.any():
            ids[tied, :n_top] = scores[tied].argsort(dim=-1, descending=True, stable=True)[:, :n_top]
    return ids[:, :n_top]
