"""Each divergence: a case by hand, a plain loop, its properties, and what happens at the edges."""

import math

import pytest
import torch

from speckd import divergences as div

NAMES = list(div.DIVERGENCES)
HALVES, QUARTERS = [0.5, 0.5], [0.25, 0.75]
JSD_BY_HAND = 0.5 * (0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625)) + 0.5 * (
    0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625)
)
BY_HAND = {  # p = (1/2, 1/2), q = (1/4, 3/4)
    "forward_kl": 0.5 * math.log(2) + 0.5 * math.log(2 / 3),
    "reverse_kl": 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2),
    "jsd": JSD_BY_HAND,
    "skew_kl": 0.5 * math.log(0.5 / 0.275) + 0.5 * math.log(0.5 / 0.725),  # 0.1 p + 0.9 q = (0.275, 0.725)
    "skew_reverse_kl": 0.25 * math.log(0.25 / 0.475) + 0.75 * math.log(0.75 / 0.525),  # 0.9 p + 0.1 q
    "tvd": 0.25,
}


def logs(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def random_rows(seed: int, n: int = 40, v: int = 23, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, v, generator=generator, dtype=torch.float64)).log_softmax(-1).to(dtype)


def by_loop(name: str, p: list[float], q: list[float]) -> float:
    """The textbook sum, one token at a time."""

    def kl(a: list[float], b: list[float]) -> float:
        total = 0.0
        for x, y in zip(a, b, strict=True):
            if x > 0:
                total += math.inf if y == 0 else x * math.log(x / y)
        return total

    def mix(weight: float) -> list[float]:
        return [weight * x + (1 - weight) * y for x, y in zip(p, q, strict=True)]

    return {
        "forward_kl": lambda: kl(p, q),
        "reverse_kl": lambda: kl(q, p),
        "jsd": lambda: 0.5 * kl(p, mix(0.5)) + 0.5 * kl(q, mix(0.5)),
        "skew_kl": lambda: kl(p, mix(0.1)),
        "skew_reverse_kl": lambda: kl(q, mix(0.9)),
        "tvd": lambda: 0.5 * sum(abs(x - y) for x, y in zip(p, q, strict=True)),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_a_case_worked_by_hand(name: str) -> None:
    value = div.DIVERGENCES[name](logs(HALVES), logs(QUARTERS))
    assert value.item() == pytest.approx(BY_HAND[name], rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_a_plain_loop_on_random_rows(name: str) -> None:
    p, q = random_rows(1), random_rows(2)
    expected = [by_loop(name, a, b) for a, b in zip(p.exp().tolist(), q.exp().tolist(), strict=True)]
    torch.testing.assert_close(div.DIVERGENCES[name](p, q).tolist(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_a_plain_loop_where_probabilities_are_zero(name: str) -> None:
    p, q = logs([0.5, 0.5, 0.0, 0.0], [0.2, 0.8, 0.0, 0.0]), logs([0.25, 0.25, 0.5, 0.0], [0.0, 1.0, 0.0, 0.0])
    expected = [by_loop(name, a, b) for a, b in zip(p.exp().tolist(), q.exp().tolist(), strict=True)]
    torch.testing.assert_close(div.DIVERGENCES[name](p, q).tolist(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_is_never_negative_and_zero_only_for_equal_models(name: str) -> None:
    p, q = random_rows(3, dtype=torch.float32), random_rows(4, dtype=torch.float32)
    assert (div.DIVERGENCES[name](p, q) > 1e-4).all()
    # float32 rounding of one row's sum: 23 terms of size 1 or less
    torch.testing.assert_close(div.DIVERGENCES[name](p, p), torch.zeros(40), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("name", "bound"), [("jsd", math.log(2)), ("skew_kl", -math.log(0.1)), ("tvd", 1.0)])
def test_bounded_divergences_reach_their_bound_for_disjoint_models(name: str, bound: float) -> None:
    value = div.DIVERGENCES[name](logs([1.0, 0.0]), logs([0.0, 1.0]))
    assert value.item() == pytest.approx(bound, rel=1e-12)


def test_jsd_weight_belongs_to_the_teacher() -> None:
    # b = 0.9: m = 0.9 p + 0.1 q = (0.475, 0.525)
    expected = 0.9 * by_loop("forward_kl", HALVES, [0.475, 0.525]) + 0.1 * by_loop(
        "forward_kl", QUARTERS, [0.475, 0.525]
    )
    assert div.jsd(logs(HALVES), logs(QUARTERS), teacher_weight=0.9).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("weight", [0.0, 1.0, -0.1, 1.5])
def test_a_jsd_weight_outside_the_open_interval_says_what_to_ask_for(weight: float) -> None:
    with pytest.raises(ValueError, match="forward_kl or reverse_kl by name"):
        div.jsd(logs(HALVES), logs(QUARTERS), teacher_weight=weight)


def test_unequal_shapes_are_refused_with_both_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(1, 2\).*\(1, 3\)"):
        div.forward_kl(logs(HALVES), logs([0.2, 0.3, 0.5]))


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="forward_kl, reverse_kl, jsd"):
        div.divergence_named("kl")


def test_hellinger_and_entropy_by_hand() -> None:
    overlap = math.sqrt(0.5 * 0.25) + math.sqrt(0.5 * 0.75)
    assert div.hellinger(logs(HALVES), logs(QUARTERS)).item() == pytest.approx(math.sqrt(1 - overlap), rel=1e-12)
    assert div.hellinger(logs([1.0, 0.0]), logs([0.0, 1.0])).item() == pytest.approx(1.0)
    assert div.hellinger(logs([1.0, 0.0]), logs([1.0, 0.0])).item() == 0.0
    assert div.entropy(logs(HALVES, [1.0, 0.0])).tolist() == pytest.approx([math.log(2), 0.0])


@pytest.mark.parametrize("name", NAMES)
def test_infinite_logits_mean_probability_zero_and_stay_finite_where_the_definition_is(name: str) -> None:
    logits = torch.tensor([[2.0, 1.0, -torch.inf]])  # a banned token, for both models
    p, q = logits.log_softmax(-1), torch.tensor([[0.5, 1.5, -torch.inf]]).log_softmax(-1)
    value = div.DIVERGENCES[name](p, q)
    assert value.isfinite().all() and (value > 0).all()
