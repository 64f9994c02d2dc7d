"""Hidden states in, gated distillation loss out: never the full (N, V) logits, and no second projection in backward.

Letters of the papers: p is the teacher's distribution, q the student's, D the divergence of one row, V_t its weight.
Axes: N rows (response tokens), V vocabulary, H hidden size.

How it is fast and small:

* Rows are walked in chunks. A chunk is projected once a model into two buffers, and everything after that runs on a
  few rows at a time, small enough to stay in the cache.
* dD/dlogits has a closed form for every divergence (fused/closed_forms.py), so the gradient of the hidden state is
  taken while the logits are still there; backward multiplies it by one number. TRL and Liger project again in backward.
* Rows of weight 0 leave before their gradient is taken. The others move up, into the places of those that left, and
  wait there for the next chunk's, because a larger matrix product costs less a row. It is a third of the work.
* No row is normalised before that product where a factor can follow it: a row has H numbers then, instead of V.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from speckd.divergences import divergence_named
from speckd.draws import row_uniforms
from speckd.fused.gated_sum import GatedSum, Measure, Work
from speckd.gates import Gate
from speckd.heads import Head

SEED_STRIDE = 0x9E3779B97F4A7C15  # odd, so that no two calls of one run share a seed


@dataclass(frozen=True)
class GatedLoss:
    """What ``gated_loss`` found: the loss, which carries gradient, and the facts of every row, which do not.

    Attributes:
        loss: () sum_t V_t D_t / n_tokens, in nats; a differentiable 0 where nothing is left of it.
        divergence: (N,) D of every row, in nats, whatever its weight.
        accepted: (N,) bool, the gate's verdict. A soft weight rejects nothing: all True.
        weights: (N,) float32, V_t as it entered the loss.
        tar: the token acceptance rate, the mean of accepted; nan for no rows.
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


def plain_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    gate: Gate,
    divergence: str = "forward_kl",
    temperature: float = 1.0,
    *,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    seed: int = 0,
    reference_logits: Tensor | None = None,
) -> GatedLoss:
    """The definition of the gated loss, to read and to test by: ``gated_loss`` equals it, and never holds (N, V).

    Args:
        student_logits, teacher_logits: (N, V) of the response rows, over one shared vocabulary; gradient reaches the
            student's alone.
        gate, divergence, temperature, sequences, positions, seed: as in ``gated_loss``.
        reference_logits: (N, V) of AdaSPEC's reference; other gates take none.
    Returns:
        GatedLoss; everything but ``loss`` is detached.
    Raises:
        ValueError: an unknown divergence, or names that do not fit the rows.
    Source: SelecTKD (arXiv 2510.24021).
    """
    n = len(student_logits)
    sequences, positions = _names(sequences, n, "sequences"), _names(positions, n, "positions")
    student = (student_logits / temperature).log_softmax(-1)  # (N, V)
    teacher = (teacher_logits / temperature).log_softmax(-1).detach()
    third = {} if reference_logits is None else {"reference_logprobs": (reference_logits / temperature).log_softmax(-1)}
    uniforms = row_uniforms(coin_seed(gate, seed), sequences, positions, gate.n_draws)  # (N, n_draws, 2)
    scores = gate.score(teacher, student.detach(), uniforms, **third)  # (N,)
    accepted = torch.ones_like(scores, dtype=torch.bool) if gate.soft else gate.accept(scores, sequences)
    weights = gate.weigh(scores, sequences)  # V_t = beta + (1 - beta) accepted_t
    distance = divergence_named(divergence)(teacher, student)  # D(p_t || q_t)
    loss = torch.where(weights > 0, weights * distance, 0.0).sum() / max(n, 1)
    return GatedLoss(loss, distance.detach(), accepted, weights, accepted.float().mean().item())


def coin_seed(gate: Gate, seed: int) -> int:
    """What names the coins of one call: the gate's own seed and the caller's (a trainer's step), 0 to 2**63 - 1."""
    return (getattr(gate, "seed", 0) + seed * SEED_STRIDE) % 2**63


def gated_loss(
    student_hidden: Tensor,
    student_head: nn.Module | Tensor | Head,
    teacher_hidden: Tensor,
    teacher_head: nn.Module | Tensor | Head,
    gate: Gate,
    divergence: str = "forward_kl",
    temperature: float = 1.0,
    *,
    mixture: float | None = None,
    rejected: Literal["weight", "sample"] = "weight",
    n_tokens: float | Tensor | None = None,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    seed: int = 0,
    reference_hidden: Tensor | None = None,
    reference_head: nn.Module | Tensor | Head | None = None,
    chunk_rows: int | None = None,
    extras: bool = False,
) -> GatedLoss:
    """The gated distillation loss of the given rows: L = (1/n) sum_t V_t D(p_t || q_t).

    Args:
        student_hidden: (N, H_s) last hidden state of each response row, one position before the row's token.
        student_head: a module with weight (V, H_s) and perhaps bias, such a tensor, or a ``Head`` with the model's
            scale and soft cap. Gradient reaches its weight and bias where they ask for it. Where the two heads differ
            in V, both are cut to the shared rows before anything is computed.
        teacher_hidden, teacher_head: (N, H_t) and the same of the teacher; no gradient reaches them.
        gate: which rows count in full. A selector that ranks tokens (``row_local`` is False) ranks those of this call,
            and costs a scoring pass first.
        divergence: a name of ``speckd.divergences.DIVERGENCES``.
        temperature: tau > 0; divides both models' logits everywhere. There is no factor tau**2.
        mixture: b of jsd or a of the skew divergences, in (0, 1); the divergence's default if None.
        rejected: "weight" gives a rejected row the weight beta; "sample" keeps it with probability beta and then at
            weight 1: the same in expectation, at the cost of a hard mask. These coins are not the gate's.
        n_tokens: the divisor: the response tokens of the whole accumulated, distributed batch. If None, N.
        sequences, positions: (N,) integers >= 0 that name each row, for coins and for selectors within a sequence:
            sequence 0 and the row's index if None.
        seed: names the coins of this call beside the gate's own seed, 0 or more; a trainer gives its step. At 0 the
            coins are the gate's own, as in a trace.
        reference_hidden, reference_head: (N, H_r) and the same of AdaSPEC's reference; other gates take none.
        chunk_rows: rows that are projected at a time; chosen from V if None. Changes results by rounding alone.
        extras: report entropies, acceptance probability and agreement too (about 5% more time).
    Returns:
        GatedLoss; everything but ``loss`` is detached.
    Raises:
        ValueError: shapes, names or numbers that do not fit; the message says what to do.
    Precision: float64 in, float64 throughout. Else logits and everything after them are float32, and only the factors
        of a matrix product have the hidden state's dtype (autocast's where it is on).
    Source: SelecTKD (arXiv 2510.24021).
    """
    # Long: half of it names its arguments.
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: choose a number above 0. Greedy answers are do_sample=False.")
    if rejected not in ("weight", "sample"):
        raise ValueError(f"rejected is {rejected!r}: choose 'weight' or 'sample'.")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}: choose a whole number, 0 or more.")
    n_rows = len(student_hidden)
    work = Work(
        gate=gate,
        measure=Measure.of(divergence, mixture),
        temperature=float(temperature),
        sampled=rejected == "sample",
        coin_seed=coin_seed(gate, seed),
        sequences=_names(sequences, n_rows, "sequences"),
        positions=_names(positions, n_rows, "positions"),
        chunk_rows=chunk_rows,
        extras=extras,
    )
    student = _head(student_head, "student")
    others = {"teacher": (teacher_hidden, _head(teacher_head, "teacher"))}
    if gate.needs_reference:
        if reference_hidden is None or reference_head is None:
            raise ValueError(f"{gate.name} needs a reference model: give reference_hidden and reference_head.")
        others["reference"] = (reference_hidden, _head(reference_head, "reference"))
    for whose, (hidden, head) in {"student": (student_hidden, student), **others}.items():
        _check_shapes(whose, hidden, head, n_rows)
    others = {whose: (hidden.detach(), _detached(head)) for whose, (hidden, head) in others.items()}

    total = GatedSum.apply(student_hidden, student.weight, student.bias, student, others, work)
    found = work.found
    if n_tokens is None:
        n_tokens = max(n_rows, 1)
    elif isinstance(n_tokens, Tensor):
        n_tokens = torch.where(n_tokens > 0, n_tokens, 1).to(total)  # nothing to divide: the sum is 0 as well
    elif not n_tokens > 0:
        if n_rows:
            raise ValueError(f"n_tokens is {n_tokens} for {n_rows} rows: give the response tokens of the whole batch.")
        n_tokens = 1
    accepted = found.pop("accepted")
    tar = accepted.float().mean().item() if n_rows else float("nan")
    return GatedLoss(total / n_tokens, accepted=accepted, tar=tar, **found)


# --- what is asked for --------------------------------------------------------------------------------------------


def _head(head: nn.Module | Tensor | Head, whose: str) -> Head:
    if isinstance(head, Tensor):
        head = Head(head)
    elif not isinstance(head, Head):
        if hasattr(head, "lora_A") or hasattr(head, "base_layer"):
            raise ValueError(
                f"the {whose}'s head is wrapped by an adapter, and the fused loss needs one plain weight matrix. "
                "Leave the head out of the adapter's target_modules, name it in modules_to_save, or merge the adapter."
            )
        weight, bias = head.weight, getattr(head, "bias", None)
        assert isinstance(weight, Tensor), f"the {whose}'s head has no weight matrix"
        head = Head(weight, bias)
    # A sharded parameter (FSDP2) outside its module's forward. Not isinstance: importing DTensor takes seconds.
    return replace(head, weight=_gathered(head.weight), bias=_gathered(head.bias) if head.bias is not None else None)


def _gathered(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def _detached(head: Head) -> Head:
    return replace(head, weight=head.weight.detach(), bias=head.bias.detach() if head.bias is not None else None)


def _check_shapes(whose: str, hidden: Tensor, head: Head, n_rows: int) -> None:
    if hidden.dim() != 2 or len(hidden) != n_rows:
        raise ValueError(
            f"the {whose}'s hidden states have shape {tuple(hidden.shape)}, where ({n_rows}, H) was expected: "
            "select the response rows of every model with the same mask."
        )
    if head.weight.dim() != 2 or head.weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"the {whose}'s hidden states have width {hidden.shape[1]}, its head has shape "
            f"{tuple(head.weight.shape)}: a head is (V, {hidden.shape[1]}). Are both of the same model?"
        )


def _names(names: Tensor | None, n_rows: int, what: str) -> Tensor:
    if names is None:
        return torch.zeros(n_rows, dtype=torch.int64) if what == "sequences" else torch.arange(n_rows)
    if names.shape != (n_rows,):
        raise ValueError(f"{what} has shape {tuple(names.shape)}: give one whole number a row, ({n_rows},).")
    return names.detach().cpu()
