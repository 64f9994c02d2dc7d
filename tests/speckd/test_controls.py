"""Gates for training alone: selectors over a batch, controls at a gate's budget, schedules."""

import pytest
import torch

from speckd.controls import ORDERS, TIP, Margin, Matched, Position, TopKSchedule, Trim, tip_score
from speckd.divergences import forward_kl
from speckd.draws import row_uniforms
from speckd.gates import TopK, gate_from_text
from speckd.loss import gated_loss
from speckd.ranks import topk_threshold

N, V = 40, 50


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, V) log-probabilities of teacher and student, and (N,) sequence ids: three texts of unequal length."""
    generator = torch.Generator().manual_seed(5)
    p = (2 * torch.randn(N, V, generator=generator)).log_softmax(-1)
    q = (p + 1.5 * torch.randn(N, V, generator=generator)).log_softmax(-1)
    return p, q, torch.tensor([7] * 5 + [2] * 15 + [9] * 20)


def accepted(gate: Matched, p: torch.Tensor, q: torch.Tensor, sequences: torch.Tensor) -> torch.Tensor:
    uniforms = row_uniforms(0, sequences, torch.arange(N), 1) if gate.n_draws else None
    return gate.accept(gate.score(p, q, uniforms), sequences)


@pytest.mark.parametrize("by", ORDERS)
def test_a_control_keeps_as_many_tokens_as_top_k(by: str, rows: tuple[torch.Tensor, ...]) -> None:
    p, q, sequences = rows
    budget = topk_threshold(p, q) <= 3
    assert 0 < budget.sum() < N
    assert accepted(Matched(by=by, k=3), p, q, sequences).sum() == budget.sum()


def test_clip_drops_the_largest_divergences(rows: tuple[torch.Tensor, ...]) -> None:
    p, q, sequences = rows
    kept = accepted(Matched(by="clip", k=3), p, q, sequences)
    divergence = forward_kl(p, q)
    assert divergence[kept].max() <= divergence[~kept].min()


@pytest.mark.parametrize(("by", "end"), [("first", 0), ("last", -1)])
def test_places_are_kept_within_each_text(by: str, end: int, rows: tuple[torch.Tensor, ...]) -> None:
    p, q, sequences = rows
    kept = accepted(Matched(by=by, k=3), p, q, sequences)
    budget = topk_threshold(p, q) <= 3
    for name in (7, 2, 9):
        part = kept[sequences == name].tolist()
        n = int(budget[sequences == name].sum())
        assert sum(part) == n
        assert all(part[:n] if end == 0 else part[len(part) - n :])


def test_position_keeps_its_fraction_of_each_text(rows: tuple[torch.Tensor, ...]) -> None:
    p, q, sequences = rows
    gate = Position(fraction=0.4, keep="last")
    kept = gate.accept(gate.score(p, q), sequences)
    assert kept[:5].tolist() == [False] * 3 + [True] * 2
    assert kept[5:20].sum() == 6 and kept[20:].sum() == 8


def test_tip_score_by_hand() -> None:
    found = tip_score(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([4.0, 0.0, 2.0]))
    assert found.tolist() == [1.0, 0.5, 1.0]  # h = 0, .5, 1; d = 1, 0, .5


def test_tip_keeps_the_highest_scores_of_the_batch(rows: tuple[torch.Tensor, ...]) -> None:
    p, q, _ = rows
    gate = TIP(fraction=0.25)
    scores = gate.score(p, q)
    kept = gate.accept(scores)
    values = tip_score(scores[:, 0], scores[:, 1])
    assert kept.sum() == 10 and values[kept].min() >= values[~kept].max()


def test_a_margin_of_one_accepts_agreement_alone(rows: tuple[torch.Tensor, ...]) -> None:
    p, q, _ = rows
    agreed = p.argmax(-1) == q.argmax(-1)
    assert torch.equal(Margin(ratio=1.0).accept(Margin(ratio=1.0).score(p, q)), agreed)
    loose = Margin(ratio=0.05).accept(Margin(ratio=0.05).score(p, q))
    assert loose.sum() > agreed.sum() and bool((loose | ~agreed).all())


def test_a_schedule_opens_first_and_closes_in_equal_ratios() -> None:
    gate = TopKSchedule(k=5, k_from=20, open_until=0.5)
    assert gate.at(0.0) == TopK(k=5, beta=1.0) and gate.at(0.49).beta == 1.0  # type: ignore[attr-defined]
    assert [gate.at(share).k for share in (0.5, 0.75, 1.0)] == [20, 10, 5]  # type: ignore[attr-defined]
    assert TopK().at(0.3) == TopK()


def test_trimming_leaves_out_the_largest_divergences_once_it_has_begun(rows: tuple[torch.Tensor, ...]) -> None:
    p, q, _ = rows
    gate = Trim(fraction=0.75, beta=0.0, open_until=0.5)
    assert gate.title() == "trimmed, fraction = 0.75, beta = 0.0, open_until = 0.5"
    assert Trim().title() == "trimmed, fraction = 0.5, beta = 0.01"
    assert bool((gate.at(0.49).weigh(gate.score(p, q)) == 1).all())
    kept = gate.at(0.5).weigh(gate.score(p, q)) > 0
    divergence = forward_kl(p, q)
    assert kept.sum() == 30 and divergence[kept].max() <= divergence[~kept].min()


@pytest.mark.parametrize(
    "text",
    [
        "tip:fraction=0.3",
        "trim:fraction=0.6:divergence=jsd",
        "matched:by=clip:k=3",
        "matched:by=first:k=3",
        "margin",
        "position",
    ],
)
def test_the_fused_loss_weighs_as_the_gate_says(text: str, rows: tuple[torch.Tensor, ...]) -> None:
    gate = gate_from_text(text)
    _, _, sequences = rows
    generator = torch.Generator().manual_seed(1)
    hidden = [torch.randn(N, 8, generator=generator, dtype=torch.float64) for _ in range(2)]
    heads = [torch.randn(V, 8, generator=generator, dtype=torch.float64) for _ in range(2)]
    found = gated_loss(hidden[0], heads[0], hidden[1], heads[1], gate, sequences=sequences, chunk_rows=7)
    q, p = ((h @ w.t()).log_softmax(-1) for h, w in zip(hidden, heads, strict=True))
    weights = gate.weigh(gate.score(p, q), sequences).double()
    assert torch.allclose(found.weights.double(), weights)
    assert found.loss.item() == pytest.approx((weights * forward_kl(p, q)).mean().item())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("matched:by=luck", "choose one of random, clip"),
        ("topk_schedule:k=5:k_from=2", "the gate closes"),
        ("position:keep=middle", "'first' or 'last'"),
        ("margin:ratio=0", "every token would pass"),
        ("trim:open_until=2", "open_until"),
    ],
)
def test_a_wrong_knob_is_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        gate_from_text(text)
