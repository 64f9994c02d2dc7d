"""Hidden states in, gated distillation loss out: never the full (N, V) logits.

Letters of the papers: p is the teacher, q the student, D the divergence of one row, V_t its weight. Axes: N rows
(response tokens), V vocabulary, H hidden size.

The loss walks the rows in chunks. Each chunk is projected once a model, the gate decides its rows, and the gradient
with respect to the student's hidden state is taken in the same pass, so that backward only multiplies.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speckd.divergences import divergence_named, entropy, tvd
from speckd.gates import Gate, row_uniforms


@dataclass(frozen=True)
class GatedLoss:
    """What ``gated_loss`` found: the loss, which carries gradient, and the facts of every row, which do not.

    Attributes:
        loss: () sum_t V_t D_t / n_tokens, in nats; a differentiable 0 where nothing is left of it.
        divergence: (N,) D of every row, in nats, whatever its weight.
        accepted: (N,) bool, the gate's verdict. For a soft weight, which accepts nothing: where the weight is not 0.
        weights: (N,) float32, V_t as it entered the loss.
        tar: the token acceptance rate, mean of accepted; nan for no rows.
        teacher_entropy, student_entropy: (N,) nats, where asked for.
        acceptance_probability: (N,) 1 - TVD, the chance of one random draw, where asked for.
        agreement: (N,) bool, both models have the same most probable token, where asked for.
    """

    loss: Tensor
    divergence: Tensor
    accepted: Tensor
    weights: Tensor
    tar: float
    teacher_entropy: Tensor | None = None
    student_entropy: Tensor | None = None
    acceptance_probability: Tensor | None = None
    agreement: Tensor | None = None


def gated_loss(
    student_hidden: Tensor,
    student_head: nn.Module | Tensor,
    teacher_hidden: Tensor,
    teacher_head: nn.Module | Tensor,
    gate: Gate,
    divergence: str = "forward_kl",
    temperature: float = 1.0,
    *,
    rejected: Literal["weight", "sample"] = "weight",
    n_tokens: float | Tensor | None = None,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    seed: int = 0,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    student_scale: float = 1.0,
    teacher_scale: float = 1.0,
    reference_hidden: Tensor | None = None,
    reference_head: nn.Module | Tensor | None = None,
    chunk_rows: int | None = None,
    extras: bool = False,
) -> GatedLoss:
    """The gated distillation loss of the given rows: L = (1/n) sum_t V_t D(p_t || q_t).

    Args:
        student_hidden: (N, H_s) last hidden state of each response row (one position before its token).
        student_head: a module with weight (V, H_s) and perhaps bias, or such a tensor. Gradient reaches what asks for it.
        teacher_hidden, teacher_head: the same of the teacher, with its own H_t; no gradient reaches them.
        gate: which rows count in full.
        divergence: a name of ``speckd.divergences.DIVERGENCES``.
        temperature: tau > 0; divides both models' logits everywhere. No tau**2 factor.
        rejected: "weight" gives a rejected row the weight beta; "sample" keeps it with probability beta at weight 1,
            the same in expectation. Its coins are its own.
        n_tokens: what the sum is divided by: the response tokens of the whole accumulated, distributed batch. N if None.
        sequences, positions: (N,) integers that name each row, for its coins and for selectors within a sequence.
            Sequence 0 and the row's index if None.
        seed: names this call's coins beside the gate's own seed, for example the training step. 0: the gate's alone.
        student_softcap, teacher_softcap: c of c tanh(logit / c), where the model has it.
        student_scale, teacher_scale: factor of the logits before the cap.
        reference_hidden, reference_head: the reference model of AdaSPEC; other gates need none.
        chunk_rows: rows that are projected at a time; chosen from V if None. It never changes the result but by rounding.
        extras: also report entropies, acceptance probability and agreement.
    Returns:
        GatedLoss; everything but ``loss`` is detached.
    Raises:
        ValueError: shapes, names or numbers that do not fit; the message says what to do.
    Source: SelecTKD (arXiv 2510.24021).
    """
    if temperature <= 0:
        raise ValueError(f"temperature is {temperature}: choose a number above 0; greedy answers are do_sample=False.")
    if rejected not in ("weight", "sample"):
        raise ValueError(f"rejected is {rejected!r}: choose 'weight' or 'sample'.")
    measure = divergence_named(divergence)
    n_rows = len(student_hidden)
    device = student_hidden.device
    sequences = torch.zeros(n_rows, dtype=torch.int64) if sequences is None else sequences.cpu()
    positions = torch.arange(n_rows) if positions is None else positions.cpu()
    student_weight, student_bias = _head(student_head, "student")
    teacher_weight, teacher_bias = _head(teacher_head, "teacher")
    vocabulary = min(len(student_weight), len(teacher_weight))
    rows = chunk_rows or 64

    def logprobs(hidden: Tensor, weight: Tensor, bias: Tensor | None, scale: float, softcap: float | None) -> Tensor:
        dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logits = hidden.to(dtype) @ weight[:vocabulary].to(dtype).t() * scale
        if bias is not None:
            logits = logits + bias[:vocabulary].to(dtype) * scale
        if softcap is not None:
            logits = softcap * torch.tanh(logits / softcap)
        return torch.log_softmax(logits / temperature, -1)

    def chunks() -> Iterator[tuple[slice, Tensor, Tensor]]:
        for start in range(0, n_rows, rows):
            part = slice(start, start + rows)
            with torch.no_grad():
                teacher = logprobs(teacher_hidden[part], teacher_weight, teacher_bias, teacher_scale, teacher_softcap)
            student = logprobs(student_hidden[part], student_weight, student_bias, student_scale, student_softcap)
            yield part, teacher, student

    coin_seed = (getattr(gate, "seed", 0) + seed * 0x9E3779B97F4A7C15) % 2**63
    scores, distances, facts = [], [], []
    with torch.no_grad():
        for part, teacher, student in chunks():
            uniforms = None
            if gate.n_draws:
                uniforms = row_uniforms(coin_seed, sequences[part], positions[part], gate.n_draws)
            scores.append(gate.score(teacher, student, uniforms))
            distances.append(measure(teacher, student))
            if extras:
                agree = teacher.argmax(-1) == student.argmax(-1)
                facts.append((entropy(teacher), entropy(student), 1.0 - tvd(teacher, student), agree))
    zero = student_hidden.sum() * 0.0
    if n_rows == 0:
        empty = zero.detach().new_zeros(0)
        return GatedLoss(zero, empty, empty.bool(), empty, float("nan"))
    score = torch.cat(scores)
    weights = gate.weigh(score, sequences.to(device)).to(device)
    try:
        accepted = gate.accept(score, sequences.to(device))
    except ValueError:
        accepted = weights > 0
    if rejected == "sample":
        coins = row_uniforms((coin_seed + 1) % 2**63, sequences, positions, 1)[:, 0, 1].to(device)
        weights = torch.where(accepted, 1.0, (coins < getattr(gate, "beta", 0.0)).float())
    total = zero
    for part, teacher, student in chunks():
        kept = weights[part] > 0
        if kept.any():
            total = total + (weights[part][kept] * measure(teacher[kept], student[kept])).sum()
    named: dict[str, Any] = {}
    if extras:
        names = ("teacher_entropy", "student_entropy", "acceptance_probability", "agreement")
        named = {name: torch.cat(values) for name, values in zip(names, zip(*facts, strict=True), strict=True)}
    loss = total / (n_rows if n_tokens is None else n_tokens)
    return GatedLoss(loss, torch.cat(distances), accepted, weights, accepted.float().mean().item(), **named)


def _head(head: nn.Module | Tensor, whose: str) -> tuple[Tensor, Tensor | None]:
    if isinstance(head, Tensor):
        return head, None
    if hasattr(head, "base_layer") or hasattr(head, "lora_A"):
        raise ValueError(
            f"the {whose}'s head is wrapped by an adapter: the fused loss needs one plain weight matrix. "
            "Leave the head out of the adapter's target_modules, or merge it."
        )
    return head.weight, getattr(head, "bias", None)
