"""The gates and selectors: worked by hand, against plain loops, at their edges, and their coins against theory."""

import math

import pytest
import torch

from speckd import gates
from speckd.divergences import tvd
from speckd.draws import K_MAX, draw_and_verify, row_uniforms
from speckd.gates import (
    AdaKD,
    AllOpen,
    HellingerWeight,
    RandomTokens,
    SpecK,
    StudentEntropy,
    TeacherEntropy,
    TopK,
    gate_named,
)
from speckd.ranks import rank_of, ranks_by, topk_threshold


def logs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows).log()


def random_logprobs(seed: int, n: int, v: int, spread: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(n, v, generator=generator)).log_softmax(-1)


def uniforms_for(n: int, draws: int = K_MAX, seed: int = 0) -> torch.Tensor:
    positions = torch.arange(n)
    return row_uniforms(seed, torch.zeros_like(positions), positions, draws)


# --- Top-k --------------------------------------------------------------------------------------------------------

TEACHER = logs([0.5, 0.3, 0.15, 0.05], [0.5, 0.3, 0.15, 0.05], [0.5, 0.3, 0.15, 0.05])
STUDENT = logs([0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.7, 0.1], [0.1, 0.1, 0.1, 0.7])


def test_topk_threshold_by_hand_is_the_rank_of_the_students_argmax() -> None:
    assert topk_threshold(TEACHER, STUDENT).tolist() == [1, 3, 4]


@pytest.mark.parametrize(("k", "accepted"), [(1, [1, 0, 0]), (2, [1, 0, 0]), (3, [1, 1, 0]), (4, [1, 1, 1])])
def test_topk_accepts_from_its_threshold_on(k: int, accepted: list[int]) -> None:
    gate = TopK(k=k, beta=0.25)
    scores = gate.score(TEACHER, STUDENT)
    assert gate.accept(scores).tolist() == [bool(value) for value in accepted]
    assert gate.weigh(scores).tolist() == [1.0 if value else 0.25 for value in accepted]


def test_topk_agrees_with_sorting_in_a_plain_loop() -> None:
    teacher, student = random_logprobs(1, 50, 31).round(decimals=1), random_logprobs(2, 50, 31).round(decimals=1)
    expected = []
    for p, q in zip(teacher.tolist(), student.tolist(), strict=True):  # rounded, so that there are many ties
        proposal = min(range(31), key=lambda v: (-q[v], v))
        expected.append(sorted(range(31), key=lambda v: (-p[v], v)).index(proposal) + 1)
    assert topk_threshold(teacher, student).tolist() == expected


def test_ties_go_to_the_lower_token_id_in_both_models() -> None:
    flat = logs([0.25] * 4)
    assert topk_threshold(flat, flat).item() == 1  # the student proposes token 0, which leads the teacher's order
    assert rank_of(flat, torch.tensor([[0, 1, 2, 3]])).tolist() == [[1, 2, 3, 4]]


def test_k_of_the_whole_vocabulary_accepts_everything_and_identical_models_pass_at_one() -> None:
    teacher, student = random_logprobs(3, 30, 17), random_logprobs(4, 30, 17)
    assert TopK(k=17).accept(topk_threshold(teacher, student)).all()
    assert TopK(k=1).accept(topk_threshold(teacher, teacher)).all()


def test_a_proposal_the_teacher_gives_probability_zero_ranks_behind_every_possible_token() -> None:
    assert topk_threshold(logs([0.6, 0.4, 0.0]), logs([0.1, 0.1, 0.8])).item() == 3


# --- Spec-k -------------------------------------------------------------------------------------------------------


def test_draws_by_hand_follow_the_inverse_cdf_and_the_coin() -> None:
    teacher, student = logs([0.5, 0.25, 0.25]), logs([0.25, 0.5, 0.25])
    # u picks 0 below 0.25, 1 below 0.75, else 2; p/q = 2, 0.5, 1
    pairs = torch.tensor([[[0.5, 0.5], [0.30, 0.49], [0.1, 0.99], [0.99, 0.99]]], dtype=torch.float64)
    draws = draw_and_verify(teacher, student, pairs)
    assert draws.token_ids.tolist() == [[1, 1, 0, 2]]
    assert draws.acceptance.tolist() == [pytest.approx([0.5, 0.5, 1.0, 1.0])]
    assert draws.threshold().tolist() == [2]  # the first coin, 0.5, is not below 0.5; the second is


def test_no_draw_passing_gives_one_more_than_the_draws() -> None:
    draws = draw_and_verify(logs([1.0, 0.0]), logs([0.0, 1.0]), uniforms_for(1))
    assert draws.threshold().tolist() == [K_MAX + 1]
    assert not SpecK(k=K_MAX).accept(draws.threshold()).any()


def test_identical_models_accept_the_first_draw_always() -> None:
    teacher = random_logprobs(5, 64, 29)
    assert (draw_and_verify(teacher, teacher, uniforms_for(64)).threshold() == 1).all()


def test_a_draw_is_never_a_token_the_student_finds_impossible() -> None:
    student = logs([0.0, 0.5, 0.0, 0.5, 0.0])
    edges = torch.tensor([[[0.0, 0.5], [1 - 2**-53, 0.5], [0.5, 0.5]]], dtype=torch.float64)
    assert draw_and_verify(student, student, edges).token_ids.tolist() == [[1, 3, 3]]


def test_speck_threshold_agrees_with_a_plain_loop() -> None:
    teacher, student, uniforms = random_logprobs(6, 40, 13), random_logprobs(7, 40, 13), uniforms_for(40, seed=3)
    expected = []
    for row in range(40):
        p, q = teacher[row].double().exp().tolist(), student[row].double().exp().tolist()
        found = K_MAX + 1
        for j, (u, r) in enumerate(uniforms[row].tolist(), start=1):
            cumulative, token = 0.0, 0
            for token in range(13):
                cumulative += q[token]
                if cumulative > u * sum(q):
                    break
            if r < min(1.0, p[token] / q[token]):
                found = j
                break
        expected.append(found)
    assert draw_and_verify(teacher, student, uniforms).threshold().tolist() == expected


@pytest.mark.slow
@pytest.mark.parametrize("k", [2, pytest.param(1, marks=pytest.mark.long), pytest.param(5, marks=pytest.mark.long)])
def test_acceptance_frequency_agrees_with_one_minus_tvd_to_the_k(k: int) -> None:
    # 200,000 rows of one pair of distributions. Within three standard errors: a false alarm once in 370 seeds.
    n = 200_000
    teacher, student = logs([0.5, 0.3, 0.15, 0.05]), logs([0.1, 0.2, 0.3, 0.4])
    chance = 1 - tvd(teacher, student).item() ** k
    accepted = 0
    for start in range(0, n, 20_000):
        uniforms = row_uniforms(11, torch.zeros(20_000, dtype=torch.int64), torch.arange(start, start + 20_000), k)
        rows = draw_and_verify(teacher.expand(20_000, -1), student.expand(20_000, -1), uniforms)
        accepted += int(SpecK(k=k).accept(rows.threshold()).sum())
    standard_error = math.sqrt(chance * (1 - chance) / n)
    assert abs(accepted / n - chance) < 3 * standard_error


# --- uniforms -----------------------------------------------------------------------------------------------------


def test_uniforms_belong_to_the_row_whatever_the_chunk_and_the_number_of_draws() -> None:
    whole = uniforms_for(10, draws=50)
    assert torch.equal(uniforms_for(10, draws=3), whole[:, :3])
    picked = row_uniforms(0, torch.zeros(3, dtype=torch.int64), torch.tensor([7, 2, 9]), 50)
    assert torch.equal(picked, whole[[7, 2, 9]])


def test_seed_sequence_and_position_each_name_other_uniforms() -> None:
    one, zero = torch.tensor([1]), torch.tensor([0])
    first = row_uniforms(0, zero, zero, 1)
    for other in (row_uniforms(1, zero, zero, 1), row_uniforms(0, one, zero, 1), row_uniforms(0, zero, one, 1)):
        assert not torch.equal(first, other)


def test_coins_are_exact_in_float32() -> None:
    coins = uniforms_for(100)[..., 1]
    assert torch.equal(coins.float().double(), coins)
    assert (coins >= 0).all() and (coins < 1).all()


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="seed is"):
        uniforms_for(1, seed=seed)


# --- selectors ----------------------------------------------------------------------------------------------------


def test_ranks_by_hand_with_ties_in_text_order_and_within_sequences() -> None:
    scores = torch.tensor([0.2, 0.9, 0.2, 0.5])
    assert ranks_by(scores).tolist() == [3, 1, 4, 2]
    assert ranks_by(scores, descending=False).tolist() == [1, 4, 2, 3]
    assert ranks_by(scores, sequences=torch.tensor([0, 0, 1, 1])).tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize(("fraction", "n", "kept"), [(0.2, 5, 1), (0.5, 5, 3), (0.01, 5, 1), (0.0, 5, 0), (1.0, 5, 5)])
def test_a_budget_is_rounded_half_up_and_at_least_one(fraction: float, n: int, kept: int) -> None:
    assert gates.budget_size(fraction, n) == kept


FLAT, SURE = [0.25] * 4, [0.97, 0.01, 0.01, 0.01]


def test_entropy_selectors_keep_what_their_papers_say() -> None:
    rows = logs(FLAT, SURE, [0.4, 0.3, 0.2, 0.1], [0.7, 0.1, 0.1, 0.1], [0.9, 0.05, 0.03, 0.02])
    other = torch.flip(rows, (0,))
    student = StudentEntropy(fraction=0.4)
    assert student.accept(student.score(other, rows)).tolist() == [True, False, True, False, False]
    surest = TeacherEntropy(fraction=0.4, keep="lowest")
    assert surest.accept(surest.score(rows, other)).tolist() == [False, True, False, False, True]
    least_sure = TeacherEntropy(fraction=0.4, keep="highest")
    assert least_sure.accept(least_sure.score(rows, other)).tolist() == [True, False, True, False, False]


def test_student_entropy_spends_its_budget_in_each_sequence() -> None:
    rows = logs(FLAT, FLAT, SURE, SURE)
    gate = StudentEntropy(fraction=0.5)
    scores = gate.score(rows, rows)
    assert gate.accept(scores, torch.tensor([0, 0, 1, 1])).tolist() == [True, False, True, False]
    assert gate.accept(scores).tolist() == [True, True, False, False]


def test_adakd_keeps_the_largest_hellinger_distances_of_the_batch() -> None:
    teacher, student = logs(FLAT, SURE, FLAT), logs(FLAT, FLAT, [0.4, 0.2, 0.2, 0.2])
    gate = AdaKD(fraction=1 / 3)
    assert gate.accept(gate.score(teacher, student)).tolist() == [False, True, False]


def test_the_hellinger_weight_has_weights_and_no_acceptance() -> None:
    teacher, student = logs([1.0, 0.0], [0.5, 0.5]), logs([0.0, 1.0], [0.5, 0.5])
    gate = HellingerWeight()
    scores = gate.score(teacher, student)
    assert gate.weigh(scores).tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    with pytest.raises(ValueError, match="soft"):
        gate.accept(scores)


def test_random_tokens_keep_their_rate() -> None:
    # 20,000 coins at rate 0.3: three standard errors are 0.0097; a false alarm once in 370 seeds
    gate = RandomTokens(rate=0.3)
    rows = torch.zeros(20_000, 1)
    kept = gate.accept(gate.score(rows, rows, uniforms_for(20_000, 1)))
    assert abs(kept.double().mean().item() - 0.3) < 0.0097


def test_all_open_weighs_every_token_in_full() -> None:
    gate = AllOpen()
    assert gate.weigh(gate.score(TEACHER, STUDENT)).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_the_ends_of_beta_are_the_hard_mask_and_plain_distillation(beta: float) -> None:
    weights = TopK(k=1, beta=beta).weigh(torch.tensor([1, 2]))
    assert weights.tolist() == [1.0, beta]


# --- mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: TopK(k=0), "k is 0"),
        (lambda: TopK(k=2.5), "k is 2.5"),
        (lambda: TopK(k=True), "k is True"),
        (lambda: TopK(beta=1.1), "beta is 1.1"),
        (lambda: TopK(beta=float("nan")), "beta is nan"),
        (lambda: SpecK(k=51), "from 1 to 50"),
        (lambda: AdaKD(fraction=-0.1), "fraction is -0.1"),
        (lambda: RandomTokens(rate=2), "rate is 2"),
        (lambda: TeacherEntropy(keep="middle"), "choose 'lowest' or 'highest'"),
        (lambda: gate_named("top-k"), "Choose one of: topk, speck, none"),
        (lambda: gate_named("topk", fraction=0.5), "has no 'fraction'; its settings are: beta, k"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_clear_sentence(make: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_every_gate_is_found_by_its_name_and_describes_itself() -> None:
    for name in gates.GATES:
        assert gate_named(name).describe().startswith(f"{name}(")
    assert gate_named("topk", k=3).describe() == "topk(k=3, beta=0.01)"
