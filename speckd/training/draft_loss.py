"""The loss of a draft: what it says at each unrolled step against the teacher, weighed by a gate."""

from collections.abc import Callable

import torch
from torch import Tensor

from speckd.decoding.eagle import EagleLayer
from speckd.divergences import divergence_named
from speckd.gates import Gate, gate_from_text
from speckd.heads import Head
from speckd.training.draft_figures import logits_of, unrolled
from speckd.training.draft_text import Batch

ACCEPTANCE = "acceptance"


def acceptance_loss(teacher_logprobs: Tensor, draft_logprobs: Tensor) -> Tensor:
    """-log of the chance that a draw from the draft is accepted, sum min(p, q), of each row.

    Its gradient is that of the total variation, weighed by one over the acceptance: rows with little grow first.

    Args:
        teacher_logprobs, draft_logprobs: (N, V'); the teacher's may sum to less than one over the draft's vocabulary.
    Returns:
        (N,) 0 or more.
    Source: SpecForge's lk_loss.
    """
    return -torch.minimum(teacher_logprobs, draft_logprobs).logsumexp(-1)


def loss_named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a row by its name: "acceptance", or one of the divergences."""
    if name == ACCEPTANCE:
        return acceptance_loss
    try:
        return divergence_named(name)
    except ValueError as error:
        raise ValueError(f"{error} For a draft there is {ACCEPTANCE!r} too.") from None


def gate_of(text: str) -> Gate:
    """The gate of a draft's loss: one that judges each row by itself, without coins.

    Raises:
        ValueError: another gate.
    """
    gate = gate_from_text(text)
    if gate.name not in ("none", "topk", "hellinger"):
        raise ValueError(f"gate {gate.name!r} does not judge rows of a draft: choose none, topk or hellinger.")
    return gate


def batch_loss(
    layer: EagleLayer,
    head: Head,
    embedding: Tensor,
    batch: Batch,
    gate: Gate,
    *,
    divergence: str,
    temperature: float,
    depth: int,
    decay: float,
) -> Tensor:
    """The weighted mean over unrolled steps of the mean loss of their rows: sum decay**j L_j / sum decay**j."""
    loss_of = loss_named(divergence)
    steps = unrolled(layer, embedding, batch, depth)
    tau = temperature
    with torch.no_grad():
        teacher_logits = logits_of(head, batch.root_features.flatten(0, 1))  # (B R, V')
        if tau == 1.0:  # of the whole vocabulary's softmax
            teacher_logprobs = teacher_logits - batch.log_total.flatten()[:, None]
        else:
            teacher_logprobs = torch.log_softmax(teacher_logits / tau, -1)
    total = teacher_logprobs.new_zeros(())
    weights = 0.0
    for step, expected in enumerate(steps):
        rows, targets = batch.rows_at(step)
        if not len(rows):
            break
        draft_logprobs = torch.log_softmax(logits_of(head, expected.flatten(0, 1)[rows]) / tau, -1)
        p = teacher_logprobs if step == 0 and len(targets) == len(teacher_logprobs) else teacher_logprobs[targets]
        losses = loss_of(p, draft_logprobs)  # (N,)
        if gate.name != "none":
            with torch.no_grad():
                kept = gate.weigh(gate.score(p, draft_logprobs))
            losses = losses * kept.to(losses.dtype)
        total = total + decay**step * losses.mean()
        weights += decay**step
    return total / weights
