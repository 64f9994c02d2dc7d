"""Every use of randomness has uniforms of its own."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from speckd.draws import Stream, answer_uniforms, draw_from_nucleus, near_boundary, on_policy_coin, row_uniforms

SEEDS = st.integers(0, 2**63 - 1)
SMALL = st.integers(0, 3)


def uniforms_of(stream: Stream, seed: int, step: int, number: int) -> np.ndarray:
    """The first uniforms that a use draws for one example at one step, in the way that it draws them."""
    if stream in (Stream.ANSWER, Stream.OWN_ANSWER):
        return answer_uniforms(seed, number, 8, step if stream is Stream.OWN_ANSWER else 0, stream)
    if stream is Stream.ON_POLICY:
        return np.array([on_policy_coin(seed, step, number)])
    return row_uniforms(seed, torch.tensor([number]), torch.tensor([step]), 4, stream).numpy().ravel()


def test_no_two_uses_have_one_number() -> None:
    assert len({int(stream) for stream in Stream}) == len(Stream)
    assert [Stream.GATE, Stream.ANSWER, Stream.ON_POLICY] == [0, 1, 2]  # traces and shipped answers hang on these


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS, step=SMALL, number=SMALL, other_step=SMALL, other_number=SMALL)
def test_no_two_uses_share_a_uniform(seed: int, step: int, number: int, other_step: int, other_number: int) -> None:
    for one, other in itertools.combinations(Stream, 2):
        first, second = uniforms_of(one, seed, step, number), uniforms_of(other, seed, other_step, other_number)
        assert not np.isin(np.round(first, 7), np.round(second, 7)).any(), (one, other)


def test_kept_rejected_tokens_have_coins_of_their_own() -> None:
    """The case that was found: at seed 0, step 0 the coin of token 0 was the uniform of the answer's second."""
    coins = row_uniforms(0, torch.tensor([7]), torch.tensor([0]), 1, Stream.REJECTED)
    answer = answer_uniforms(0, 7, 16)
    assert not np.isin(np.floor(answer * 2**24) / 2**24, coins.numpy()).any()


@pytest.mark.parametrize("stream", [Stream.OWN_ANSWER, Stream.ON_POLICY])
def test_neither_step_nor_seed_repeats_another(stream: Stream) -> None:
    """Seed 0 at step 1,000,003 and seed 1 at step 0 once drew the same answers."""
    drawn = [uniforms_of(stream, seed, step, 5)[0] for seed in (0, 1) for step in (0, 1, 1_000_003)]
    assert len(set(drawn)) == len(drawn)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_where_no_boundary_is_near_a_rounding_never_draws_another_token(top_p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    told, changed, error = 0, 0, 1e-2  # large, so that it matters
    for _ in range(300):
        logits = 2 * torch.randn(40, generator=generator)
        uniform = torch.rand(1, generator=generator, dtype=torch.float64)
        drawn = draw_from_nucleus(logits[None], uniform, 0.8, top_p)
        off = [logits + error * (2 * torch.rand(40, generator=generator) - 1) for _ in range(20)]
        moved = any(draw_from_nucleus(other[None], uniform, 0.8, top_p) != drawn for other in off)
        near = near_boundary(logits, float(uniform), 0.8, top_p, error)
        assert near or not moved
        told, changed = told + near, changed + moved
    assert 0 < changed <= told < 150
    assert not near_boundary(torch.tensor([2.0, 1.0]), 0.3, 1.0, top_p, 0.0)
