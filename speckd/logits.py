"""The gated loss of logits that a training loop already holds: for a loop of one's own, in one call.

Where the hidden states are at hand, ``gated_loss`` gives the same numbers without ever holding (N, V) logits.
"""

import math
from typing import Any, Literal

import torch
from torch import Tensor

from speckd.data import IGNORED
from speckd.divergences import DIVERGENCES, divergence_named
from speckd.draws import Stream, row_uniforms
from speckd.gates import Gate, gate_of
from speckd.loss import GatedLoss, coin_seed


def gated_kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor,
    gate: Gate | str,
    divergence: str = "forward_kl",
    temperature: float = 1.0,
    *,
    mixture: float | None = None,
    rejected: Literal["weight", "sample"] = "weight",
    n_tokens: float | Tensor | None = None,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    seed: int = 0,
    reference_logits: Tensor | None = None,
    shifted: bool = False,
) -> GatedLoss:
    """The gated distillation loss of a batch, from both models' logits: L = (1/n) sum_t V_t D(p_t || q_t).

        for step, batch in enumerate(loader):
            with torch.no_grad():
                teacher_logits = teacher(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            student_logits = student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
            found = speckd.gated_kd(student_logits, teacher_logits, batch["labels"], speckd.TopK(k=5), seed=step)
            found.loss.backward()

    Args:
        student_logits, teacher_logits: (B, T, V) as a causal language model returns them; gradient reaches the
            student's. Where V differs (padded heads of one family), both are cut to the shared rows.
        labels: (B, T), a token's own id where it is part of the response and -100 elsewhere, unshifted, as
            transformers' models take them.
        gate, divergence, temperature, mixture, rejected, n_tokens: as in ``gated_loss``. A selector that ranks tokens
            ranks those of this call.
        sequences, positions: (N,) names of the response rows, for coins; the row of the batch and the place within its
            response if None.
        seed: names the coins of this call; give the step, or Spec-k sees the same coins in every step.
        reference_logits: (B, T, V) of AdaSPEC's reference; other gates take none.
        shifted: whether logits and labels are aligned already, logits[:, t] predicting labels[:, t].
    Returns:
        GatedLoss: ``loss`` carries gradient; ``tar``, ``accepted``, ``divergence`` and ``weights`` do not.
    Raises:
        ValueError: shapes, names or numbers that do not fit.
    """
    gate = gate_of(gate)
    _check(student_logits, teacher_logits, labels, temperature, rejected)
    measure = _measure(divergence, mixture)
    all_logits = [student_logits, teacher_logits, *([] if reference_logits is None else [reference_logits])]
    if not shifted:
        all_logits, labels = [logits[:, :-1] for logits in all_logits], labels[:, 1:]
    rows = labels != IGNORED  # (B, T)
    if sequences is None:
        sequences = rows.nonzero()[:, 0]
    if positions is None:
        positions = (rows.cumsum(-1) - 1)[rows]
    if not len(sequences) == len(positions) == rows.sum():
        raise ValueError(
            f"{len(sequences)} sequences and {len(positions)} positions name {rows.sum()} response rows: one each."
        )
    vocabulary = min(logits.shape[-1] for logits in all_logits)
    logprobs = [_logprobs(logits[rows], vocabulary, temperature) for logits in all_logits]  # (N, V) each
    student, teacher = logprobs[0], logprobs[1].detach()
    with torch.no_grad():
        coins = coin_seed(gate, seed)
        uniforms = row_uniforms(coins, sequences, positions, gate.n_draws) if gate.n_draws else None
        third = {"reference_logprobs": logprobs[2]} if gate.needs_reference and len(logprobs) > 2 else {}
        scores = gate.score(teacher, student.detach(), uniforms, **third)
        accepted = torch.ones_like(rows[rows]) if gate.soft else gate.accept(scores, sequences)
        if rejected == "sample" and not gate.soft:
            lucky = row_uniforms(coins, sequences, positions, 1, Stream.REJECTED)[:, 0, 1].to(accepted.device)
            weights = (accepted | (lucky < gate.beta)).float()
        else:
            weights = gate.weigh(scores, sequences).float()
    distance = measure(teacher, student)  # (N,)
    kept = torch.where(weights > 0, distance, 0.0)  # a masked row adds nothing, though its distance were infinite
    divisor = _divisor(n_tokens, len(accepted), student)
    tar = accepted.float().mean().item() if len(accepted) else float("nan")
    return GatedLoss((weights * kept).sum() / divisor, distance.detach(), accepted, weights, tar)


def _check(student_logits: Any, teacher_logits: Any, labels: Any, temperature: float, rejected: str) -> None:
    """Refuse what does not fit together.

    Raises:
        ValueError: with what was expected and what came.
    """
    given = {"student logits": student_logits, "teacher logits": teacher_logits, "labels": labels}
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} are a {type(value).__name__}: give a tensor, such as the output's .logits.")
    if student_logits.dim() != 3 or student_logits.shape[:2] != labels.shape:
        raise ValueError(
            f"student logits have shape {tuple(student_logits.shape)}, labels {tuple(labels.shape)}: give (B, T, V) "
            "logits with the (B, T) labels of the same batch."
        )
    if teacher_logits.shape[:2] != student_logits.shape[:2]:
        raise ValueError(
            f"teacher logits have shape {tuple(teacher_logits.shape)}, the student's {tuple(student_logits.shape)}: "
            "run both models on the same batch."
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature is {temperature}: choose a number above 0.")
    if rejected not in ("weight", "sample"):
        raise ValueError(f"rejected is {rejected!r}: choose 'weight' or 'sample'.")


def _logprobs(logits: Tensor, vocabulary: int, temperature: float) -> Tensor:
    logits = logits[:, :vocabulary]
    if logits.dtype != torch.float64:
        logits = logits.float()
    return torch.log_softmax(logits / temperature, -1)


def _measure(name: str, mixture: float | None):  # type: ignore[no-untyped-def]
    """The divergence of that name, with its mixture where it has one."""
    function = divergence_named(name)
    if mixture is None:
        return function
    if name not in ("jsd", "skew_kl", "skew_reverse_kl"):
        raise ValueError(f"{name} has no mixture: leave it out, or choose jsd, skew_kl or skew_reverse_kl.")
    return lambda teacher, student: DIVERGENCES[name](teacher, student, mixture)  # type: ignore[call-arg]


def _divisor(n_tokens: float | Tensor | None, n_rows: int, like: Tensor) -> float | Tensor:
    if n_tokens is None:
        return max(n_rows, 1)
    if isinstance(n_tokens, Tensor):
        return torch.where(n_tokens > 0, n_tokens, 1).to(like)
    if not n_tokens > 0 and n_rows:
        raise ValueError(f"n_tokens is {n_tokens} for {n_rows} rows: give the response tokens of the whole batch.")
    return max(n_tokens, 1)
