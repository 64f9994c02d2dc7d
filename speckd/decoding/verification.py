"""The teacher's verdict on one round of drafted tokens: rules of the papers, in their order; no model is run here.

p is the teacher's distribution, q the draft's. A round's tokens are nodes 0, 1, 2, ... of a tree, each with a parent
(-1 is the text so far). Row 0 of the teacher's logits predicts what follows the text, row i + 1 what follows node i.

    greedy    a node passes where it is the teacher's argmax; the teacher's argmax follows the last one that passed.
    chain     node x ~ q passes with min(1, p(x) / q(x)); after the first that fails, one token is drawn from the
              normalised positive part of p - q; where all pass, one from p. The text has exactly p's distribution
              (Leviathan et al., arXiv 2211.17192; Chen et al., arXiv 2302.01318).
    tree      candidates that were chosen, not drawn, are point masses: child x passes with p(x); if it fails, x is
              taken out of p, p is normalised again and the next sibling tried; if all fail, one token is drawn from
              what is left (EAGLE, arXiv 2401.15077).
    lenience  epsilon below 1 accepts with min(1, p(x) / (epsilon q(x))), greedily where p(x) >= epsilon max p: faster,
              and no longer the teacher's text (DistillSpec, arXiv 2310.08461).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from speckd.decoding.coins import Coins
from speckd.draws import Stream

Pick = Callable[[Tensor, int], int]  # (V,) logits and the place in the response to the token that must stand there
Near = Callable[[Tensor, int], bool]  # the same to whether logits a rounding away might lead to another token


@dataclass
class Verdict:
    """What the teacher made of one round.

    Attributes:
        path: the accepted nodes, from the text on.
        rejected: the nodes that were looked at and failed, in the order of their trial.
        token: the token that follows the last accepted node.
        kind: how it came: "teacher" (greedy: the teacher's own token), "bonus" (drawn from p after everything on the
            path passed) or "resampled" (drawn from what p has left over).
        acceptance: node -> the probability with which it was to pass, where a coin decided.
        coins: node -> its coin.
        leftover: (V,) the weights that a resampled token was drawn from, normalised; None otherwise.
        undecided: the node after which two tokens lie too close for a batched pass, or None. Path and rejected hold
            what was decided before; ``token`` is then -1 and a one-row pass has to say it.
    """

    path: list[int] = field(default_factory=list)
    rejected: list[int] = field(default_factory=list)
    token: int = -1
    kind: str = "teacher"
    acceptance: dict[int, float] = field(default_factory=dict)
    coins: dict[int, float] = field(default_factory=dict)
    leftover: Tensor | None = None
    undecided: int | None = None


def children_of(parents: Sequence[int]) -> dict[int, list[int]]:
    """Each node's children, in the order in which they are tried."""
    children: dict[int, list[int]] = {}
    for node, parent in enumerate(parents):
        children.setdefault(parent, []).append(node)
    return children


def best_two(row: Tensor) -> tuple[int, float]:
    """The token with the largest of (V,) logits, the lowest id of equal ones, and its lead over the second."""
    if row.device.type != "cpu":
        first_two = row.topk(2).values
        return int(row.argmax()), float(first_two[0] - first_two[1])
    values = row.numpy()  # NumPy's argmax over a vocabulary takes a tenth of torch's topk
    best = int(values.argmax())
    below, above = values[:best].max(initial=-np.inf), values[best + 1 :].max(initial=-np.inf)
    return best, float(values[best] - max(below, above))


def probabilities(logits: Tensor, temperature: float) -> Tensor:
    """softmax(logits / temperature) of one row, in float64: ratios of small probabilities decide here."""
    return torch.softmax(logits.double() / temperature, -1)


def verify_greedy(
    tokens: Sequence[int], parents: Sequence[int], logits: Tensor, near_tie: float = 0.0, lenience: float = 1.0
) -> Verdict:
    """Follow the teacher's argmax through the drafted tree.

    Args:
        tokens, parents: of the n nodes.
        logits: (n + 1, V) of the teacher.
        near_tie: a lead at or below this, in logits, is not decided here: ``undecided`` says after which node.
        lenience: epsilon in (0, 1]; 1 is lossless.
    """
    verdict, children, node = Verdict(), children_of(parents), -1
    while True:
        row = logits[node + 1]
        best, lead = best_two(row)
        if lead <= near_tie:
            verdict.undecided = node
            return verdict
        offered = children.get(node, [])
        passing = [child for child in offered if tokens[child] == best]
        if not passing and lenience < 1.0:
            # p(x) >= epsilon max p, in logarithms; the likeliest of those that pass goes on
            floor = float(row[best]) + float(torch.tensor(lenience).log())
            passing = sorted((c for c in offered if float(row[tokens[c]]) >= floor), key=lambda c: -row[tokens[c]])
        if not passing:
            verdict.rejected += offered
            verdict.token = best
            return verdict
        verdict.rejected += [child for child in offered if child != passing[0]]
        node = passing[0]
        verdict.path.append(node)


def verify_picks(
    tokens: Sequence[int], parents: Sequence[int], logits: Tensor, start: int, pick: Pick, near: Near | None = None
) -> Verdict:
    """Accept the nodes that equal what plain decoding would have written with its own uniforms.

    Args:
        tokens, parents, logits: as in ``verify_greedy``.
        start: place in the response of the round's first token.
        pick: plain decoding's own choice, from (V,) logits and a place in the response.
        near: where it is true nothing is decided here: ``undecided`` says after which node.
    """
    verdict, children, node = Verdict(), children_of(parents), -1
    while True:
        if near is not None and near(logits[node + 1], start + len(verdict.path)):
            verdict.undecided, verdict.token = node, -1
            return verdict
        verdict.token = pick(logits[node + 1], start + len(verdict.path))
        offered = children.get(node, [])
        passing = [child for child in offered if tokens[child] == verdict.token]
        verdict.rejected += [child for child in offered if child not in passing[:1]]
        if not passing:
            return verdict
        node = passing[0]
        verdict.path.append(node)


def verify_chain(
    tokens: Sequence[int],
    draft_probabilities: Sequence[Tensor],
    logits: Tensor,
    coins: Coins,
    start: int,
    temperature: float = 1.0,
    lenience: float = 1.0,
) -> Verdict:
    """Speculative sampling of a chain that was drawn from q.

    Args:
        tokens: the g drafted tokens.
        draft_probabilities: g rows (V,) float64, q at each of them; 0 outside a cut vocabulary.
        logits: (g + 1, V) of the teacher, not yet divided by the temperature.
        coins: names the uniforms.
        start: place in the response of the round's first token.
        temperature: tau, for p; q has its own already.
        lenience: epsilon in (0, 1]; 1 is lossless.
    """
    verdict = Verdict(kind="bonus")
    for node, token in enumerate(tokens):
        p, q = probabilities(logits[node], temperature), draft_probabilities[node]
        chance = min(1.0, float(p[token]) / (lenience * float(q[token])))
        passed, coin = coins.accepts(chance, start, node)
        verdict.acceptance[node], verdict.coins[node] = chance, coin
        if not passed:
            verdict.rejected.append(node)
            verdict.leftover = residual(p, q)
            verdict.kind = "resampled"
            verdict.token = coins.draw(verdict.leftover, Stream.RESAMPLE, start)
            return verdict
        verdict.path.append(node)
    verdict.token = coins.draw(probabilities(logits[len(tokens)], temperature), Stream.RESAMPLE, start)
    return verdict


def residual(p: Tensor, q: Tensor) -> Tensor:
    """The normalised positive part of p - q, (V,); p itself where rounding leaves nothing of it."""
    left = (p - q).clamp_(min=0.0)
    total = left.sum()
    return left / total if total > 0 else p


def verify_tree(
    tokens: Sequence[int],
    parents: Sequence[int],
    logits: Tensor,
    coins: Coins,
    start: int,
    temperature: float = 1.0,
    lenience: float = 1.0,
) -> Verdict:
    """Speculative sampling through a tree of chosen candidates: siblings are tried in turn, each as a point mass.

    Args: as in ``verify_greedy`` and ``verify_chain``; siblings bear different tokens.
    """
    verdict, children, node = Verdict(), children_of(parents), -1
    while True:
        left = probabilities(logits[node + 1], temperature)
        passed_on = False
        for child in children.get(node, []):
            chance = min(1.0, float(left[tokens[child]]) / lenience)
            passed, coin = coins.accepts(chance, start, child)
            verdict.acceptance[child], verdict.coins[child] = chance, coin
            if passed:
                verdict.path.append(child)
                node, passed_on = child, True
                break
            verdict.rejected.append(child)
            left[tokens[child]] = 0.0
            total = left.sum()
            left = left / total if total > 0 else probabilities(logits[node + 1], temperature)
        if not passed_on:
            break
    tried = bool(children.get(node))
    verdict.kind, verdict.leftover = ("resampled", left) if tried else ("bonus", None)
    verdict.token = coins.draw(left, Stream.RESAMPLE, start)
    return verdict
