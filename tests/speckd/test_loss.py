"""The gated loss: worked by hand, against plain autograd for every gate and divergence, at its limits, and in parts."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import speckd
from speckd.divergences import DIVERGENCES, entropy, forward_kl, jsd, skew_kl, skew_reverse_kl, tvd
from speckd.draws import draw_tokens, row_uniforms
from speckd.fused import gated_sum, together
from speckd.gates import (
    GATES,
    AdaKD,
    AdaSPEC,
    AllOpen,
    Gate,
    HellingerWeight,
    RandomTokens,
    SpecK,
    StudentEntropy,
    TeacherEntropy,
    TopK,
)
from speckd.heads import Head
from speckd.loss import GatedLoss, gated_loss, plain_loss
from speckd.ranks import argmax_from, block_maxima, topk_threshold, topk_threshold_up_to

N, V, H_STUDENT, H_TEACHER = 30, 301, 6, 9  # V is no multiple of a block, so that the last one is short
EVERY_GATE: list[Gate] = [
    TopK(k=3, beta=0.1),
    TopK(k=3, beta=0.0),
    TopK(k=200, beta=0.1),  # past what block maxima can answer
    SpecK(k=3, beta=0.1, seed=5),
    SpecK(k=2, beta=0.0),
    AllOpen(),
    HellingerWeight(),
    AdaKD(fraction=0.5, beta=0.2),
    StudentEntropy(fraction=0.3),
    TeacherEntropy(fraction=0.4, keep="highest"),
    RandomTokens(rate=0.5, beta=0.1, seed=3),
    AdaSPEC(fraction=0.4, beta=0.1),
]


class Rows:
    """Random rows of a student, a teacher that is near it, and a reference: heads of unequal width and padding."""

    def __init__(self, dtype: torch.dtype = torch.float64, n: int = N, v: int = V, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        student_hidden, student_weight = random(n, H_STUDENT), random(v, H_STUDENT)
        self.teacher_hidden = torch.cat([student_hidden + 0.3 * random(n, H_STUDENT), random(n, 3)], -1).to(dtype)
        self.teacher_weight = torch.cat([student_weight, 0.3 * random(v, 3)], -1).to(dtype)
        self.reference_hidden = (student_hidden + 0.2 * random(n, H_STUDENT)).to(dtype)
        self.reference_weight = student_weight.to(dtype)
        self.student_hidden = student_hidden.to(dtype).requires_grad_()
        self.student_weight = student_weight.to(dtype).requires_grad_()
        self.student_bias = (0.1 * random(v)).to(dtype).requires_grad_()
        self.sequences = torch.arange(n) // 12
        self.positions = torch.arange(n) % 12

    @property
    def leaves(self) -> tuple[Tensor, ...]:
        return self.student_hidden, self.student_weight, self.student_bias

    def loss(self, gate: Gate, divergence: str = "forward_kl", **more: Any) -> GatedLoss:
        if gate.needs_reference:
            more |= {"reference_hidden": self.reference_hidden, "reference_head": self.reference_weight}
        more = {"sequences": self.sequences, "positions": self.positions} | more
        head = more.pop("head", Head(self.student_weight, self.student_bias))
        teacher_head = more.pop("teacher_head", self.teacher_weight)
        return gated_loss(self.student_hidden, head, self.teacher_hidden, teacher_head, gate, divergence, **more)

    def gradients(self, value: Tensor) -> list[Tensor]:
        return list(torch.autograd.grad(value, self.leaves))


def logprobs(hidden: Tensor, head: Head, temperature: float = 1.0) -> Tensor:
    return (head.logits(hidden) / temperature).log_softmax(-1)


def reference_loss(rows: Rows, gate: Gate, divergence: str, temperature: float = 1.0) -> Tensor:
    """The same loss by its definition: full logits and autograd."""
    student = Head(rows.student_weight, rows.student_bias).logits(rows.student_hidden)
    teacher = Head(rows.teacher_weight).logits(rows.teacher_hidden)
    more = {}
    if gate.needs_reference:
        more["reference_logits"] = Head(rows.reference_weight).logits(rows.reference_hidden)
    names = {"sequences": rows.sequences, "positions": rows.positions}
    return plain_loss(student, teacher, gate, divergence, temperature, **names, **more).loss


def relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm().clamp_min(1e-30))


# --- by hand ------------------------------------------------------------------------------------------------------


def test_two_rows_by_hand() -> None:
    # Heads are the identity, so the hidden states are the logits. p = (1/2, 1/4, 1/4) twice.
    # Row 0: q = (1/2, 1/4, 1/4), accepted, D = 0. Row 1: q = (1/4, 1/4, 1/2), its argmax is the teacher's third choice
    # (of two equal ones the lower id comes first), so rejected at k = 2;
    # D = 1/2 log 2 + 0 + 1/4 log(1/2) = 1/4 log 2, and L = (0 + 0.1 * 1/4 log 2) / 2.
    teacher = torch.tensor([[0.5, 0.25, 0.25]] * 2, dtype=torch.float64).log()
    student = torch.tensor([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], dtype=torch.float64).log().requires_grad_()
    eye = torch.eye(3, dtype=torch.float64)
    out = gated_loss(student, eye, teacher, eye, TopK(k=2, beta=0.1))
    assert out.accepted.tolist() == [True, False]
    assert out.tar == 0.5
    assert out.weights.tolist() == pytest.approx([1.0, 0.1])
    assert out.divergence.tolist() == pytest.approx([0.0, 0.25 * math.log(2)])
    assert out.loss.item() == pytest.approx(0.1 * 0.25 * math.log(2) / 2)
    out.loss.backward()  # V (q - p) / n
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([0.0] * 3)
    assert student.grad[1].tolist() == pytest.approx([0.1 * -0.25 / 2, 0.0, 0.1 * 0.25 / 2])


# --- against plain autograd ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("gate", EVERY_GATE, ids=lambda gate: gate.describe())
@pytest.mark.parametrize(
    ("dtype", "loss_tolerance", "gradient_tolerance"), [(torch.float64, 1e-6, 1e-5), (torch.float32, 1e-5, 1e-4)]
)
def test_loss_and_gradient_are_autograds(
    gate: Gate,
    divergence: str,
    dtype: torch.dtype,
    loss_tolerance: float,
    gradient_tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gated_sum, "BLOCK_ELEMENTS", 3 * V)  # several blocks to a chunk, as in a large vocabulary
    rows = Rows(dtype)
    out, expected = rows.loss(gate, divergence, chunk_rows=7), reference_loss(rows, gate, divergence)
    assert out.loss.dtype == dtype
    assert relative(out.loss, expected) < loss_tolerance
    for found, plain in zip(rows.gradients(out.loss), rows.gradients(expected), strict=True):
        assert found.dtype == dtype
        assert relative(found, plain) < gradient_tolerance


def test_every_gate_is_in_the_parity_test() -> None:
    assert {type(gate) for gate in EVERY_GATE} == {*GATES.values(), AdaSPEC}


@pytest.mark.parametrize(
    "gate",
    [TopK(k=3), TopK(k=1, beta=0.0), SpecK(k=3), StudentEntropy(fraction=0.3), AdaKD()],
    ids=lambda gate: gate.describe(),
)
def test_the_models_own_formula_for_logits_reaches_the_gate_and_the_gradient(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Temperature, scale, soft cap and both biases at once, each different for the two models.
    monkeypatch.setattr(gated_sum, "BLOCK_ELEMENTS", 3 * V)
    rows = Rows()
    rows.student_hidden.data *= 2  # far enough into the cap to bend
    student = Head(rows.student_weight, rows.student_bias, scale=0.7, softcap=3.0)
    teacher = Head(rows.teacher_weight, torch.linspace(-1, 1, V, dtype=torch.float64), scale=1.3, softcap=8.0)
    out = rows.loss(gate, head=student, teacher_head=teacher, temperature=1.5, chunk_rows=11)
    p, q = logprobs(rows.teacher_hidden, teacher, 1.5), logprobs(rows.student_hidden, student, 1.5)
    uniforms = row_uniforms(0, rows.sequences, rows.positions, gate.n_draws) if gate.n_draws else None
    weights = gate.weigh(gate.score(p, q.detach(), uniforms), rows.sequences)
    expected = (weights * forward_kl(p, q)).mean()
    assert relative(out.loss, expected) < 1e-9
    for found, plain in zip(rows.gradients(out.loss), rows.gradients(expected), strict=True):
        assert relative(found, plain) < 1e-7


@pytest.mark.parametrize(
    ("name", "function"), [("jsd", jsd), ("skew_kl", skew_kl), ("skew_reverse_kl", skew_reverse_kl)]
)
def test_mixture_is_the_divergences_own_parameter(name: str, function: Any) -> None:
    rows = Rows()
    out = rows.loss(AllOpen(), name, mixture=0.3)
    student = logprobs(rows.student_hidden, Head(rows.student_weight, rows.student_bias))
    expected = function(logprobs(rows.teacher_hidden, Head(rows.teacher_weight)), student, 0.3).mean()
    assert relative(out.loss, expected) < 1e-9
    assert relative(rows.gradients(out.loss)[0], rows.gradients(expected)[0]) < 1e-7


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradcheck(divergence: str) -> None:
    rows = Rows(n=4, v=7)
    gate = TopK(k=2, beta=0.3)

    def value(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return gated_loss(
            hidden, Head(weight, bias, 0.8, 4.0), rows.teacher_hidden, rows.teacher_weight, gate, divergence, 1.2
        ).loss

    assert torch.autograd.gradcheck(value, rows.leaves)


def test_large_logits_take_the_shifted_way_and_agree() -> None:
    rows = Rows(torch.float32)
    with torch.no_grad():
        rows.student_bias += 300.0  # exp overflows float32 from 89 on
        rows.teacher_hidden *= 12.0
    out, expected = rows.loss(TopK(), "reverse_kl"), reference_loss(rows, TopK(), "reverse_kl")
    assert out.divergence.isfinite().all()
    assert relative(out.loss, expected) < 1e-4  # the logits themselves are rounded to 300 * 2**-24
    assert relative(rows.gradients(out.loss)[0], rows.gradients(expected)[0]) < 1e-3


def test_half_precision_rounds_only_the_factors_of_the_products() -> None:
    rows = Rows(torch.bfloat16)
    out = rows.loss(TopK(k=3))
    assert out.loss.dtype == out.divergence.dtype == torch.float32
    found = rows.gradients(out.loss)
    assert [gradient.dtype for gradient in found] == [torch.bfloat16] * 3
    wide = Rows(torch.float32)
    with torch.no_grad():
        for name in ("student_hidden", "student_weight", "student_bias", "teacher_hidden", "teacher_weight"):
            getattr(wide, name).copy_(getattr(rows, name).float())
    expected = reference_loss(wide, TopK(k=3), "forward_kl")
    assert relative(out.loss, expected) < 1e-5  # a product of two bfloat16 is exact in float32
    for gradient, plain in zip(found, wide.gradients(expected), strict=True):
        assert relative(gradient.float(), plain) < 4e-3  # half of bfloat16's last place, 2**-9, over all entries


def test_autocast_decides_the_dtype_of_the_factors() -> None:
    rows = Rows(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = rows.loss(TopK(k=3))
    exact = rows.loss(TopK(k=3))
    assert out.loss.dtype == torch.float32
    assert 0 < relative(out.loss, exact.loss) < 0.1
    assert rows.gradients(out.loss)[1].dtype == torch.float32


# --- chunks, padding, accumulation --------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", EVERY_GATE, ids=lambda gate: gate.describe())
def test_chunk_size_changes_nothing(gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    whole = rows.loss(gate, extras=True)
    monkeypatch.setattr(gated_sum, "BLOCK_ELEMENTS", 3 * V)
    for size in (1, 8, N, 1000):
        parts = rows.loss(gate, extras=True, chunk_rows=size)
        assert torch.equal(parts.accepted, whole.accepted)
        assert torch.equal(parts.weights > 0, whole.weights > 0)
        assert relative(parts.loss, whole.loss) < 1e-12
        assert torch.allclose(parts.divergence, whole.divergence, rtol=1e-9, atol=1e-12)
        for a, b in zip(rows.gradients(parts.loss), rows.gradients(rows.loss(gate).loss), strict=True):
            assert relative(a, b) < 1e-10


@pytest.mark.parametrize("gate", [TopK(k=3), SpecK(k=3), RandomTokens(beta=0.1)], ids=lambda gate: gate.name)
def test_accumulated_parts_in_any_order_are_the_whole_batch(gate: Gate) -> None:
    rows = Rows()
    whole = rows.loss(gate)
    for n_tokens in (N, torch.tensor(N), torch.tensor(float(N))):
        total = torch.zeros((), dtype=torch.float64)
        for part in (slice(20, N), slice(0, 3), slice(3, 20)):
            total = (
                total
                + gated_loss(
                    rows.student_hidden[part],
                    Head(rows.student_weight, rows.student_bias),
                    rows.teacher_hidden[part],
                    rows.teacher_weight,
                    gate,
                    n_tokens=n_tokens,
                    sequences=rows.sequences[part],
                    positions=rows.positions[part],
                ).loss
            )
        assert relative(total, whole.loss) < 1e-12
        for a, b in zip(rows.gradients(total), rows.gradients(rows.loss(gate).loss), strict=True):
            assert relative(a, b) < 1e-10


def test_padding_that_was_never_selected_never_changes_the_loss() -> None:
    rows = Rows()
    mask = torch.rand(N, generator=torch.Generator().manual_seed(1)) < 0.5
    names = {"sequences": rows.sequences[mask], "positions": rows.positions[mask]}

    def loss_of(hidden: Tensor) -> Tensor:
        return gated_loss(
            hidden[mask], rows.student_weight, rows.teacher_hidden[mask], rows.teacher_weight, SpecK(), **names
        ).loss

    garbage = rows.student_hidden.detach().masked_fill(~mask[:, None], 1e30).requires_grad_()
    assert torch.equal(loss_of(garbage), loss_of(rows.student_hidden))
    loss_of(garbage).backward()
    assert garbage.grad is not None
    assert not garbage.grad[~mask].any()


def test_vocabularies_are_cut_to_the_shared_rows_before_the_softmax() -> None:
    rows = Rows()
    student_padding, teacher_padding = torch.full((5, H_STUDENT), 9.0), torch.full((70, H_TEACHER), 9.0)
    padded = torch.cat([rows.student_weight, student_padding.double()]).detach().requires_grad_()
    bias = torch.cat([rows.student_bias, torch.full((5,), 50.0).double()]).detach().requires_grad_()
    teacher_head = torch.cat([rows.teacher_weight, teacher_padding.double()])
    short = torch.cat([rows.teacher_weight])
    out = rows.loss(TopK(k=3), head=Head(padded, bias), teacher_head=short)
    both = rows.loss(TopK(k=3), head=Head(padded[:V], bias[:V]), teacher_head=teacher_head)
    exact = rows.loss(TopK(k=3))
    assert torch.equal(out.loss, exact.loss)
    assert torch.equal(both.loss, exact.loss)
    of_weight, of_bias = torch.autograd.grad(out.loss, (padded, bias))
    assert of_weight.shape == padded.shape
    assert not of_weight[V:].any()
    assert not of_bias[V:].any()
    assert torch.equal(of_weight[:V], rows.gradients(exact.loss)[1])


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_an_open_gate_is_plain_distillation(divergence: str) -> None:
    rows = Rows()
    plain = rows.loss(AllOpen(), divergence)
    for gate in (TopK(k=1, beta=1.0), SpecK(k=1, beta=1.0), TopK(k=V, beta=0.0), RandomTokens(rate=1.0)):
        out = rows.loss(gate, divergence)
        assert relative(out.loss, plain.loss) < 1e-12
        gradient = rows.gradients(rows.loss(gate, divergence).loss)[0]
        assert relative(gradient, rows.gradients(rows.loss(AllOpen(), divergence).loss)[0]) < 1e-12
    assert plain.tar == 1.0


@pytest.mark.parametrize("divergence", DIVERGENCES)
@pytest.mark.parametrize("gate", [RandomTokens(rate=0.0), StudentEntropy(fraction=0.0)], ids=lambda gate: gate.name)
def test_a_closed_gate_gives_zero_loss_and_zero_gradient(gate: Gate, divergence: str) -> None:
    rows = Rows()
    out = rows.loss(gate, divergence)
    assert out.loss.item() == 0.0
    assert out.tar == 0.0
    assert (out.divergence > 0).all()  # what was rejected is reported all the same
    for gradient in rows.gradients(out.loss):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("gate", EVERY_GATE, ids=lambda gate: gate.describe())
def test_no_rows_give_a_differentiable_zero(gate: Gate) -> None:
    rows = Rows(n=0)
    for n_tokens in (None, 0, 12, torch.tensor(0)):
        out = rows.loss(gate, extras=True, n_tokens=n_tokens)
        assert out.loss.item() == 0.0
        assert math.isnan(out.tar)
        assert out.divergence.shape == out.accepted.shape == out.weights.shape == out.agreement.shape == (0,)
        for gradient in rows.gradients(out.loss):
            assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_tokens_that_both_models_forbid_count_nothing(divergence: str, dtype: torch.dtype) -> None:
    rows = Rows(dtype)
    forbidden = torch.arange(V) % 10 == 3
    bias = torch.zeros(V, dtype=dtype).masked_fill(forbidden, -torch.inf)
    heads = Head(rows.student_weight, bias), Head(rows.teacher_weight, bias)
    out = rows.loss(TopK(k=3), divergence, head=heads[0], teacher_head=heads[1], extras=True)
    kept = ~forbidden
    small = rows.loss(
        TopK(k=3),
        divergence,
        head=Head(rows.student_weight[kept]),
        teacher_head=Head(rows.teacher_weight[kept]),
        extras=True,
    )
    for name in ("loss", "divergence", "teacher_entropy", "student_entropy", "acceptance_probability"):
        assert torch.allclose(getattr(out, name), getattr(small, name), rtol=1e-5), name
    found, plain = (torch.autograd.grad(result.loss, rows.student_hidden)[0] for result in (out, small))
    assert relative(found, plain) < 1e-4


def test_an_infinite_divergence_of_a_rejected_row_stays_out_of_the_loss() -> None:
    rows = Rows()
    bias = torch.zeros(V, dtype=torch.float64)
    bias[7] = -torch.inf
    forbidding = Head(rows.student_weight, bias)
    out = rows.loss(RandomTokens(rate=0.0), head=forbidding)
    assert out.divergence.isinf().all()  # the teacher finds token 7 possible
    assert out.loss.item() == 0.0
    gradient = torch.autograd.grad(out.loss, rows.student_hidden)[0]
    assert torch.equal(gradient, torch.zeros_like(gradient))
    assert rows.loss(AllOpen(), head=forbidding).loss.isinf()  # and is not hidden where it counts
    assert rows.loss(AllOpen(), "jsd", head=forbidding).loss.isfinite()


# --- gradient's bookkeeping ---------------------------------------------------------------------------------------


def test_gradient_scales_with_what_comes_from_above_and_can_be_asked_for_twice() -> None:
    rows = Rows()
    once = rows.gradients(rows.loss(TopK(k=3)).loss)
    out = rows.loss(TopK(k=3))
    for factor in (-2.5, 0.0, 4.0):  # the second and third time the rows are walked again
        found = torch.autograd.grad(out.loss * factor, rows.leaves, retain_graph=True)
        for a, b in zip(found, once, strict=True):
            assert torch.allclose(a, factor * b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 1), (0, 1, 2), ()])
def test_gradient_flows_to_what_asks_for_it_and_never_to_the_teacher(wanted: tuple[int, ...]) -> None:
    rows = Rows()
    expected = rows.gradients(rows.loss(TopK(k=3)).loss)
    for index, leaf in enumerate(rows.leaves):
        leaf.requires_grad_(index in wanted)
    rows.teacher_hidden.requires_grad_()
    rows.teacher_weight.requires_grad_()
    out = rows.loss(TopK(k=3))
    assert out.loss.requires_grad == bool(wanted)
    if wanted:
        out.loss.backward()
    assert rows.teacher_hidden.grad is rows.teacher_weight.grad is None
    for index, leaf in enumerate(rows.leaves):
        if index in wanted:
            assert leaf.grad is not None
            assert relative(leaf.grad, expected[index]) < 1e-12
        else:
            assert leaf.grad is None


def test_a_head_shared_with_the_teacher_trains_on_the_students_side_alone() -> None:
    rows = Rows()
    teacher_hidden = rows.teacher_hidden[:, :H_STUDENT]
    head = nn.Linear(H_STUDENT, V).double()
    gated_loss(rows.student_hidden, head, teacher_hidden, head, AllOpen()).loss.backward()
    student = head(rows.student_hidden).log_softmax(-1)
    teacher = head(teacher_hidden).log_softmax(-1).detach()
    expected = torch.autograd.grad(forward_kl(teacher, student).mean(), head.weight)[0]
    assert head.weight.grad is not None
    assert relative(head.weight.grad, expected) < 1e-9


def test_nothing_but_the_loss_carries_gradient() -> None:
    out = Rows().loss(TopK(k=3), extras=True)
    assert out.loss.requires_grad
    for name in ("divergence", "weights", "teacher_entropy", "student_entropy", "acceptance_probability"):
        assert not getattr(out, name).requires_grad


def test_rejected_rows_are_left_out_of_the_gradients_product(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Rows()
    seen = []
    pull_back = together.Projection.pull_back

    def count(self: Any, gradient: Tensor, factors: Tensor) -> Tensor:
        seen.append(len(gradient))
        return pull_back(self, gradient, factors)

    monkeypatch.setattr(together.Projection, "pull_back", count)
    out = rows.loss(TopK(k=3, beta=0.0), chunk_rows=7)
    assert 0 < sum(seen) == int(out.accepted.sum()) < N
    assert min(seen[:-1]) >= 7  # those of several chunks waited for one product


# --- what else is reported ----------------------------------------------------------------------------------------


def test_extras_are_the_per_token_functions() -> None:
    rows = Rows()
    out = rows.loss(TopK(k=3), extras=True, temperature=0.8)
    p = logprobs(rows.teacher_hidden, Head(rows.teacher_weight), 0.8)
    q = logprobs(rows.student_hidden, Head(rows.student_weight, rows.student_bias), 0.8).detach()
    assert torch.allclose(out.teacher_entropy, entropy(p))
    assert torch.allclose(out.student_entropy, entropy(q))
    assert torch.allclose(out.acceptance_probability, 1.0 - tvd(p, q))
    assert torch.equal(out.agreement, p.argmax(-1) == q.argmax(-1))
    assert torch.equal(out.agreement, rows.loss(TopK(k=1), temperature=0.8).accepted)
    assert rows.loss(TopK(k=3)).agreement is None


def test_a_soft_weight_rejects_nothing() -> None:
    out = Rows().loss(HellingerWeight())
    assert out.tar == 1.0
    assert ((out.weights > 0) & (out.weights < 1)).all()


@pytest.mark.parametrize("gate", [TopK(k=3), SpecK(k=3, seed=4), RandomTokens(seed=2)], ids=lambda gate: gate.name)
def test_by_default_the_coins_are_a_traces(gate: Gate) -> None:
    # A trace names its tokens (sequence 0, place in the response).
    rows = Rows()
    uniforms = row_uniforms(getattr(gate, "seed", 0), torch.zeros(N).long(), torch.arange(N), 50)
    q = logprobs(rows.student_hidden, Head(rows.student_weight, rows.student_bias)).detach()
    scores = gate.score(logprobs(rows.teacher_hidden, Head(rows.teacher_weight)), q, uniforms)
    assert torch.equal(rows.loss(gate, sequences=None, positions=None).accepted, gate.accept(scores))


def test_another_seed_throws_other_coins_and_the_same_seed_the_same() -> None:
    rows = Rows(n=200)
    gate = RandomTokens(rate=0.5)
    first, again, other = (rows.loss(gate, seed=seed).accepted for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert 50 < int((first != other).sum()) < 150  # 200 fair coins: outside by chance once in 10**12


# --- sampled rejection --------------------------------------------------------------------------------------------


def test_sampled_rejection_has_the_weighted_loss_as_its_expectation() -> None:
    rows = Rows()
    gate = TopK(k=3, beta=0.3)
    expected = rows.loss(gate)
    gradient = torch.autograd.grad(expected.loss, rows.student_hidden, retain_graph=True)[0]
    n_calls, kept = 150, torch.zeros(N)
    losses, gradients = [], torch.zeros_like(gradient)
    for seed in range(n_calls):
        out = rows.loss(gate, rejected="sample", seed=seed)
        assert torch.equal(out.accepted, expected.accepted)  # the verdict itself is not sampled
        assert set(out.weights.tolist()) <= {0.0, 1.0}
        assert (out.weights[out.accepted] == 1.0).all()
        kept += out.weights
        losses.append(out.loss.item())
        gradients += torch.autograd.grad(out.loss, rows.student_hidden)[0] / n_calls
    share = kept[~expected.accepted].sum() / (n_calls * int((~expected.accepted).sum()))
    n_coins = n_calls * int((~expected.accepted).sum())
    assert abs(share - 0.3) < 5 * math.sqrt(0.3 * 0.7 / n_coins)  # five standard errors: a false alarm in 10**6
    spread = torch.tensor(losses).std().item() / math.sqrt(n_calls)
    assert abs(sum(losses) / n_calls - expected.loss.item()) < 5 * spread
    assert relative(gradients[expected.accepted], gradient[expected.accepted]) < 1e-6
    # One rejected row's gradient is (its kept share / beta) times the weighted one, so the rows' shares say it all.
    ratio = gradients[~expected.accepted].norm(dim=1) / gradient[~expected.accepted].norm(dim=1)
    assert torch.allclose(ratio, (kept[~expected.accepted] / n_calls / 0.3).double(), rtol=1e-5)


def test_sampled_rejection_throws_coins_of_its_own() -> None:
    # Random at rate 0.5 with beta 0.5: were the coins shared, "coin < rate" and "coin < beta" would be one event and
    # no rejected row would ever be kept.
    out = Rows(n=400, v=20).loss(RandomTokens(rate=0.5, beta=0.5), rejected="sample")
    rejected = ~out.accepted
    assert 0.3 < out.weights[rejected].mean() < 0.7  # about 200 fair coins: outside by chance once in 10**7


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_sampled_rejection_at_its_ends_is_the_weighted_one(beta: float) -> None:
    rows = Rows()
    gate = TopK(k=3, beta=beta)
    assert torch.equal(rows.loss(gate, rejected="sample").weights, rows.loss(gate).weights)


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"rejected": "drop"}, "'weight' or 'sample'"),
        ({"n_tokens": 0}, "n_tokens is 0 for 30 rows"),
        ({"seed": -1}, "seed"),
        ({"positions": torch.arange(3)}, "positions"),
        ({"mixture": 0.5}, "forward_kl has no mixture"),
        ({"divergence": "jsd", "mixture": 1.0}, "strictly between 0 and 1"),
        ({"divergence": "kl"}, "forward_kl"),
        ({"head": torch.zeros(V, H_STUDENT + 1).double()}, "width 6"),
    ],
)
def test_a_mistake_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Rows().loss(TopK(), **({"divergence": "forward_kl"} | change))


def test_unequal_rows_and_a_missing_reference_are_named() -> None:
    rows = Rows()
    with pytest.raises(ValueError, match="same mask"):
        gated_loss(rows.student_hidden[:5], rows.student_weight, rows.teacher_hidden, rows.teacher_weight, TopK())
    with pytest.raises(ValueError, match="reference"):
        gated_loss(rows.student_hidden, rows.student_weight, rows.teacher_hidden, rows.teacher_weight, AdaSPEC())


def test_an_adapters_head_is_refused_and_a_saved_copy_is_taken() -> None:
    peft = pytest.importorskip("peft")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk, self.lm_head = nn.Linear(4, H_STUDENT), nn.Linear(H_STUDENT, V)

    rows = Rows(torch.float32)
    wrapped = peft.get_peft_model(Model(), peft.LoraConfig(target_modules=["lm_head"])).base_model.model.lm_head
    with pytest.raises(ValueError, match="adapter"):
        rows.loss(TopK(), head=wrapped)
    config = peft.LoraConfig(target_modules=["trunk"], modules_to_save=["lm_head"])
    saved = peft.get_peft_model(Model(), config).base_model.model.lm_head
    rows.loss(TopK(), head=saved).loss.backward()
    assert saved.weight.grad is not None


# --- by blocks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vocabulary", [5, 128, 700, 4101])
@pytest.mark.parametrize("step", [0.0, 0.5, 3.0])
def test_ranks_by_block_are_the_ranks(vocabulary: int, step: float) -> None:
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(60, vocabulary, generator=generator)
    student = teacher + 0.7 * torch.randn(60, vocabulary, generator=generator)
    if step:  # many ties
        teacher, student = (teacher / step).round(), (student / step).round()
    teacher[0], student[1], teacher[2, ::2] = 0.0, 0.0, -torch.inf
    teacher_maxima = block_maxima(teacher)
    proposals = argmax_from(student, block_maxima(student))
    assert torch.equal(proposals.squeeze(-1), student.argmax(-1))
    for k in (1, 2, 5, 20):
        found = topk_threshold_up_to(k, teacher, teacher_maxima, proposals)
        assert torch.equal(found, topk_threshold(teacher, student).clamp(max=k + 1))


@pytest.mark.parametrize("vocabulary", [3, 128, 4101])
def test_draws_by_block_are_those_of_the_whole_cumulative_distribution(vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3.0 * torch.randn(40, vocabulary, generator=generator, dtype=torch.float64)
    logits[:, 1] = -torch.inf
    uniforms = torch.rand(40, 50, generator=generator, dtype=torch.float64)
    uniforms[:, 0], uniforms[:, 1] = 0.0, 1.0 - 2.0**-53
    probabilities = logits.softmax(-1)
    cumulative = probabilities.cumsum(-1)
    expected = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    expected = torch.minimum(expected, torch.searchsorted(cumulative, cumulative[:, -1:].contiguous()))
    found = draw_tokens(probabilities, uniforms)
    assert (probabilities.gather(-1, found) > 0).all()
    assert torch.equal(found, expected)


@pytest.mark.parametrize("n_draws", [1, 2, 3, 50])
def test_uniforms_are_numpys_own_philox_stream(n_draws: int) -> None:
    sequences, positions = torch.tensor([0, 3, 2**40]), torch.tensor([0, 2**31, 5])
    for seed, stream in ((0, 0), (2**63 - 1, 1), (12345678901234567, 7)):
        found = row_uniforms(seed, sequences, positions, n_draws, stream)
        for row, (s, t) in enumerate(zip(sequences.tolist(), positions.tolist(), strict=True)):
            generator = np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, t, s]))
            pairs = torch.from_numpy(generator.random((n_draws, 2)))
            assert torch.equal(found[row, :, 0], pairs[:, 0])
            assert torch.equal(found[row, :, 1], (pairs[:, 1] * 2**24).floor() / 2**24)


def test_public_names() -> None:
    assert speckd.gated_loss is gated_loss
    assert speckd.GatedLoss is GatedLoss
