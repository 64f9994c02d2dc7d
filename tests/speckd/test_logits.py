"""gated_kd: what gated_loss says of the same rows, from logits, with a batch's labels."""

import pytest
import torch

import speckd

GATES = [
    speckd.TopK(k=2, beta=0.0),
    speckd.TopK(k=2, beta=0.25),
    speckd.SpecK(k=2, beta=0.1, seed=3),
    speckd.AllOpen(),
    speckd.HellingerWeight(),
    speckd.AdaKD(fraction=0.4),
    speckd.StudentEntropy(fraction=0.3),
    speckd.TeacherEntropy(fraction=0.3, keep="highest"),
    speckd.RandomTokens(rate=0.5, beta=0.2),
]


def batch(seed: int = 0, width: int = 8, vocabulary: int = 12):
    """A batch of three: hidden states and heads of both models, and labels with unequal prompts and padding."""
    torch.manual_seed(seed)
    hidden = {whose: torch.randn(3, 9, width, dtype=torch.float64) for whose in ("student", "teacher")}
    heads = {whose: torch.randn(vocabulary, width, dtype=torch.float64) for whose in ("student", "teacher")}
    labels = torch.randint(0, vocabulary, (3, 9))
    for row, (start, end) in enumerate([(2, 9), (4, 7), (1, 8)]):
        labels[row, :start] = -100
        labels[row, end:] = -100
    return hidden, heads, labels


@pytest.mark.parametrize("rejected", ["weight", "sample"])
@pytest.mark.parametrize("divergence", list(speckd.DIVERGENCES))
@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.name)
def test_it_is_gated_loss_of_the_same_rows(gate: speckd.Gate, divergence: str, rejected: str) -> None:
    hidden, heads, labels = batch()
    student = hidden["student"].requires_grad_()
    logits = {whose: hidden[whose] @ heads[whose].T for whose in hidden}
    found = speckd.gated_kd(
        logits["student"], logits["teacher"], labels, gate, divergence, 1.3, rejected=rejected, seed=4
    )
    (ours,) = torch.autograd.grad(found.loss, student)

    rows = labels[:, 1:] != -100
    expected = speckd.gated_loss(
        student[:, :-1][rows],
        heads["student"],
        hidden["teacher"][:, :-1][rows],
        heads["teacher"],
        gate,
        divergence,
        1.3,
        rejected=rejected,
        seed=4,
        sequences=rows.nonzero()[:, 0],
        positions=(rows.cumsum(-1) - 1)[rows],
    )
    (theirs,) = torch.autograd.grad(expected.loss, student)
    assert torch.equal(found.accepted, expected.accepted) and found.tar == expected.tar
    # float64 on both sides; the fused form takes its gradient in closed form
    torch.testing.assert_close(found.loss, expected.loss, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.divergence, expected.divergence, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


def test_five_lines_train_a_model() -> None:
    hidden, heads, labels = batch()
    head = heads["student"].clone().requires_grad_()
    optimizer = torch.optim.SGD([head], lr=0.5)
    teacher_logits = hidden["teacher"] @ heads["teacher"].T
    losses = []
    for step in range(20):
        out = speckd.gated_kd(hidden["student"] @ head.T, teacher_logits, labels, speckd.TopK(k=5), seed=step)
        out.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(out.divergence.mean().item())
    assert losses[-1] < 0.8 * losses[0]


def test_labels_that_are_shifted_already_give_the_same_loss() -> None:
    hidden, heads, labels = batch()
    student, teacher = (hidden[whose] @ heads[whose].T for whose in ("student", "teacher"))
    one = speckd.gated_kd(student, teacher, labels, speckd.TopK(k=2))
    two = speckd.gated_kd(student[:, :-1], teacher[:, :-1], labels[:, 1:], speckd.TopK(k=2), shifted=True)
    assert one.loss == two.loss


def test_padded_rows_of_one_head_never_count() -> None:
    hidden, heads, labels = batch()
    student, teacher = (hidden[whose] @ heads[whose].T for whose in ("student", "teacher"))
    padded = torch.cat([teacher, torch.full((3, 9, 4), 50.0, dtype=torch.float64)], -1)
    one = speckd.gated_kd(student, teacher, labels, speckd.TopK(k=2))
    assert torch.equal(speckd.gated_kd(student, padded, labels, speckd.TopK(k=2)).loss, one.loss)


def test_a_closed_gate_gives_a_loss_and_a_gradient_of_exactly_0_also_where_a_distance_is_infinite() -> None:
    hidden, heads, labels = batch()
    student = (hidden["student"] @ heads["student"].T).requires_grad_()
    with torch.no_grad():
        student[..., 0] = -torch.inf
    out = speckd.gated_kd(student, hidden["teacher"] @ heads["teacher"].T, labels, speckd.RandomTokens(0.0, 0.0))
    out.loss.backward()
    assert out.loss == 0.0 and out.tar == 0.0 and student.grad is not None
    assert torch.equal(student.grad.nan_to_num(7.0), torch.zeros_like(student))


def test_an_empty_batch_has_a_differentiable_loss_of_0() -> None:
    hidden, heads, labels = batch()
    student = (hidden["student"] @ heads["student"].T).requires_grad_()
    out = speckd.gated_kd(student, hidden["teacher"] @ heads["teacher"].T, torch.full_like(labels, -100), speckd.TopK())
    out.loss.backward()
    assert out.loss == 0.0 and out.tar != out.tar


def test_the_divisor_is_that_of_the_whole_step() -> None:
    hidden, heads, labels = batch()
    student, teacher = (hidden[whose] @ heads[whose].T for whose in ("student", "teacher"))
    whole = speckd.gated_kd(student, teacher, labels, speckd.AllOpen())
    n_tokens = int((labels[:, 1:] != -100).sum())
    parts = [
        speckd.gated_kd(student[[row]], teacher[[row]], labels[[row]], speckd.AllOpen(), n_tokens=n_tokens).loss
        for row in range(3)
    ]
    torch.testing.assert_close(sum(parts), whole.loss)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": torch.zeros(3, 8, dtype=torch.int64)}, "the \\(B, T\\) labels of the same batch"),
        ({"teacher_logits": torch.zeros(3, 8, 12)}, "run both models on the same batch"),
        ({"temperature": 0.0}, "above 0"),
        ({"rejected": "drop"}, "'weight' or 'sample'"),
        ({"mixture": 0.5}, "has no mixture"),
        ({"n_tokens": 0}, "response tokens of the whole batch"),
    ],
)
def test_a_mistake_is_named(changes: dict, words: str) -> None:
    hidden, heads, labels = batch()
    given = {
        "student_logits": hidden["student"] @ heads["student"].T,
        "teacher_logits": hidden["teacher"] @ heads["teacher"].T,
        "labels": labels,
        "gate": speckd.TopK(),
    }
    with pytest.raises(ValueError, match=words):
        speckd.gated_kd(**(given | changes))


@pytest.mark.parametrize(
    ("beta", "expected"), [(0, ("forward_kl", None)), (1.0, ("reverse_kl", None)), (0.3, ("jsd", 0.3))]
)
def test_trl_beta_of_0_and_1_means_the_two_kls(beta: float, expected: tuple) -> None:
    from speckd.divergences import divergence_of_jsd_beta

    assert divergence_of_jsd_beta(beta) == expected
    with pytest.raises(ValueError, match="jsd_beta"):
        divergence_of_jsd_beta(1.5)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"gate": "nonsense"}, "is not a gate here"),
        ({"gate": speckd.TopK}, "give one such as speckd.TopK"),
        ({"student_logits": {"logits": 1}}, "student logits are a dict"),
        ({"labels": [[1, 2]]}, "labels are a list"),
        ({"temperature": float("inf")}, "choose a number above 0"),
        ({"sequences": torch.arange(3)}, "3 sequences and 8 positions name 8 response rows"),
    ],
)
def test_what_is_no_logits_gate_or_name_is_one_sentence(changes: dict, says: str) -> None:
    logits = torch.randn(2, 5, 7)
    given = {"student_logits": logits, "teacher_logits": logits, "labels": torch.ones(2, 5).long()}
    with pytest.raises(ValueError, match=says):
        speckd.gated_kd(**{**given, "gate": speckd.TopK(k=2), **changes})
