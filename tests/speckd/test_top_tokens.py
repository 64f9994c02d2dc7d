"""The loss against a teacher of which only the K likeliest tokens are known."""

import pytest
import torch

import speckd
from speckd.heads import Head
from speckd.top_tokens import TopTokens, top_tokens_loss

N, H, V = 23, 6, 40


def case(seed: int = 0, dtype: torch.dtype = torch.float64):
    torch.manual_seed(seed)
    hidden = torch.randn(N, H, dtype=dtype)
    weight = torch.randn(V, H, dtype=dtype)
    teacher = hidden @ weight.T + 1.5 * torch.randn(N, V, dtype=dtype)
    return hidden, weight, teacher


def plain(hidden, weight, teacher_logits, n_kept, divergence, temperature):
    """By the definition: probabilities, a loop over the rows, and the others summed into one outcome."""
    values = []
    for row in range(len(hidden)):
        p = torch.softmax(teacher_logits[row] / temperature, -1)
        q = torch.softmax(hidden[row] @ weight.T / temperature, -1)
        top = p.argsort(descending=True, stable=True)[:n_kept]
        others = torch.ones(V, dtype=torch.bool)
        others[top] = False
        both = [torch.cat([x[top], x[others].sum()[None]]).log()[None] for x in (p, q)]
        values.append(speckd.DIVERGENCES[divergence](*both)[0])
    return torch.stack(values)


@pytest.mark.parametrize("divergence", list(speckd.DIVERGENCES))
@pytest.mark.parametrize("n_kept", [1, 5, V - 1])
def test_loss_and_gradient_are_those_of_the_definition(divergence: str, n_kept: int) -> None:
    hidden, weight, logits = case()
    top = TopTokens.of(logits, n_kept, 1.3)
    inputs = [hidden.clone().requires_grad_(), weight.clone().requires_grad_()]
    out = top_tokens_loss(inputs[0], Head(inputs[1]), top, speckd.TopK(k=1, beta=0.3), divergence, 1.3, chunk_rows=5)
    ours = torch.autograd.grad(out.loss, inputs)
    rows = plain(*inputs, logits, n_kept, divergence, 1.3)
    expected = (out.weights * rows).mean()
    theirs = torch.autograd.grad(expected, inputs)
    # the teacher's rows are kept in float32
    torch.testing.assert_close(out.loss, expected, rtol=1e-5, atol=1e-6)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("divergence", list(speckd.DIVERGENCES))
def test_it_is_never_above_the_exact_divergence_and_reaches_it_with_all_tokens_but_one(divergence: str) -> None:
    hidden, weight, logits = case()
    exact = speckd.gated_loss(hidden, weight, logits, torch.eye(V, dtype=torch.float64), speckd.AllOpen(), divergence)
    before = torch.zeros(N)
    for n_kept in (1, 4, 16, V - 1):
        found = top_tokens_loss(hidden, Head(weight), TopTokens.of(logits, n_kept), speckd.AllOpen(), divergence)
        assert (found.divergence <= exact.divergence + 1e-5).all()
        assert (found.divergence >= before - 1e-5).all()  # a finer split sees more
        before = found.divergence
    torch.testing.assert_close(before, exact.divergence, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_k_decides_as_with_the_whole_distribution_ties_included(k: int) -> None:
    hidden, weight, logits = case(dtype=torch.float32)
    logits = (2 * logits).round()  # many equal scores
    gate = speckd.TopK(k=k, beta=0.0)
    exact = speckd.gated_loss(hidden, weight, logits, torch.eye(V), gate)
    found = top_tokens_loss(hidden, Head(weight), TopTokens.of(logits, 8), gate)
    assert torch.equal(found.accepted, exact.accepted)
    assert 0 < found.tar < 1


@pytest.mark.parametrize(
    "gate",
    [speckd.SpecK(), speckd.HellingerWeight(), speckd.TeacherEntropy(), speckd.StudentEntropy(), speckd.AdaKD()],
    ids=lambda gate: gate.name,
)
def test_gates_that_need_more_than_k_tokens_are_refused_by_name(gate: speckd.Gate) -> None:
    hidden, weight, logits = case()
    with pytest.raises(ValueError, match=f"{gate.name!r} needs the teacher's whole distribution"):
        top_tokens_loss(hidden, Head(weight), TopTokens.of(logits, 8), gate)


def test_a_k_above_the_tokens_kept_is_refused() -> None:
    hidden, weight, logits = case()
    with pytest.raises(ValueError, match="k is 9, and only the teacher's 8"):
        top_tokens_loss(hidden, Head(weight), TopTokens.of(logits, 8), speckd.TopK(k=9))


def test_random_tokens_and_kept_rejected_ones_are_those_of_the_exact_loss() -> None:
    hidden, weight, logits = case()
    eye = torch.eye(V, dtype=torch.float64)
    top = TopTokens.of(logits, 8)
    names = {"sequences": torch.arange(N) // 7, "positions": torch.arange(N) % 7, "seed": 3}
    for gate, rejected in ((speckd.RandomTokens(0.5, 0.1), "weight"), (speckd.TopK(k=1, beta=0.4), "sample")):
        exact = speckd.gated_loss(hidden, weight, logits, eye, gate, rejected=rejected, **names)
        found = top_tokens_loss(hidden, Head(weight), top, gate, rejected=rejected, **names)
        assert torch.equal(found.weights, exact.weights)


def test_extras_are_exact_where_they_can_be_and_absent_where_they_cannot() -> None:
    hidden, weight, logits = case()
    exact = speckd.gated_loss(hidden, weight, logits, torch.eye(V, dtype=torch.float64), speckd.TopK(), extras=True)
    found = top_tokens_loss(hidden, Head(weight), TopTokens.of(logits, 8), speckd.TopK(), extras=True)
    torch.testing.assert_close(found.student_entropy, exact.student_entropy)
    assert torch.equal(found.agreement, exact.agreement)
    assert found.teacher_entropy is None and found.acceptance_probability is None


def test_the_mass_kept_is_that_of_the_k_tokens() -> None:
    *_, logits = case()
    expected = torch.softmax(logits, -1).sort(-1, descending=True).values[:, :8].sum(-1)
    torch.testing.assert_close(TopTokens.of(logits, 8).mass, expected.float())


def test_no_rows_give_a_differentiable_0() -> None:
    _, weight, logits = case()
    hidden = torch.zeros(0, H, dtype=torch.float64, requires_grad=True)
    out = top_tokens_loss(hidden, Head(weight), TopTokens.of(logits[:0], 8), speckd.TopK(), extras=True)
    out.loss.backward()
    assert out.loss == 0 and len(out.accepted) == 0


def test_a_soft_cap_and_a_scale_reach_the_loss() -> None:
    hidden, weight, logits = case()
    head = Head(weight, scale=0.5, softcap=3.0)
    top = TopTokens.of(logits, V - 1)
    exact = speckd.gated_loss(hidden, head, logits, torch.eye(V, dtype=torch.float64), speckd.AllOpen())
    found = top_tokens_loss(hidden, head, top, speckd.AllOpen())
    torch.testing.assert_close(found.loss, exact.loss, rtol=1e-4, atol=1e-5)
