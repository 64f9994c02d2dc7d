"""Policies, costs, predictions and replays: by hand where a hand can."""

import math

import pytest

from speckd.decoding.costs import Costs, best_length, break_even, expected_tokens, predicted_speedup
from speckd.decoding.policies import POLICIES, CostAware, policy_from_text
from speckd.decoding.record import DecodeRecord, RoundRecord
from speckd.decoding.replay import n_right, oracle, replay
from tests.speckd.decoding.test_exactness import decode_greedily

COSTS = Costs((1, 2, 5), (1.0, 1.1, 1.7), 0.07, seconds=0.06)


def test_costs_lie_on_lines_between_the_measured_rows_and_beyond() -> None:
    assert COSTS.verify(1) == 1.0
    assert COSTS.verify(2) == 1.1
    assert COSTS.verify(3) == pytest.approx(1.3)
    assert COSTS.verify(7) == pytest.approx(2.1)
    assert Costs.from_dict(COSTS.to_dict()) == COSTS


def test_break_even_of_one_drafted_token_is_v2_plus_c_minus_one() -> None:
    assert break_even(COSTS) == pytest.approx(0.17)
    assert break_even(Costs((1, 2), (1.0, 1.9), 0.2)) is None


def test_expected_tokens_are_one_plus_the_products() -> None:
    assert expected_tokens([]) == 1.0
    assert expected_tokens([0.5, 0.4]) == pytest.approx(1 + 0.5 + 0.2)
    a, g = 0.7, 5
    assert expected_tokens([a] * g) == pytest.approx((1 - a ** (g + 1)) / (1 - a))  # DistillSpec's closed form


def test_the_best_length_is_the_best_of_all_predictions() -> None:
    for acceptance in (0.05, 0.3, 0.6, 0.9):
        length, speed = best_length(COSTS, acceptance)
        speeds = [predicted_speedup(COSTS, [acceptance] * g) for g in range(17)]
        assert speed == pytest.approx(max(speeds)) and speeds[length] == pytest.approx(max(speeds))
    assert best_length(COSTS, 0.05) == (0, 1.0)


@pytest.mark.parametrize("rows", [(2, 3), (1, 1), ()])
def test_costs_that_make_no_sense_are_refused(rows: tuple[int, ...]) -> None:
    with pytest.raises(ValueError):
        Costs(rows, tuple(1.0 for _ in rows), 0.1)


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_is_read_back_from_its_own_words(name: str) -> None:
    policy = POLICIES[name]()
    assert policy_from_text(policy.describe()) == policy


def test_ddd_is_read_as_the_paper_has_it() -> None:
    policy = policy_from_text("ddd:x=-0.3:width=10:n=11")
    assert (policy.x, policy.width, policy.n, policy.steps) == (-0.3, 10, 11, (5, 7, 9))  # type: ignore[attr-defined]


def test_ddd_stops_where_its_beams_hold_too_little_and_writes_each_check_down() -> None:
    _, _, never, expected = decode_greedily("ddd:x=-100:width=3:n=4:steps=1+2:nodes=20")
    _, _, always, same = decode_greedily("ddd:x=0:width=3:n=4:steps=1+2:nodes=20")
    assert expected == same == [token for step in always for token in step.output]
    assert all(len(step.drafted.checks) == 2 for step in never[:-2])
    assert all(len(step.drafted.checks) == 1 and step.drafted.steps == 1 for step in always[:-1])
    step, value = always[0].drafted.checks[0]
    held = math.log(sum(math.exp(path) for path in always[0].drafted.paths))
    assert step == 1 and value == pytest.approx(held)


def test_a_tree_is_no_larger_than_asked_and_its_likeliest_paths_stay() -> None:
    _, _, done, _ = decode_greedily("tree:width=4:depth=3:nodes=6")
    for step in done:
        assert len(step.drafted.tokens) <= 6
        for node, parent in enumerate(step.drafted.parents):
            assert parent < node
            if parent >= 0:
                assert step.drafted.paths[node] <= step.drafted.paths[parent]


def test_a_tree_leaves_out_what_is_less_likely_than_asked() -> None:
    _, _, done, expected = decode_greedily("tree:width=4:depth=3:nodes=20:p=0.2")
    assert expected == [token for step in done for token in step.output]
    paths = [path for step in done for path in step.drafted.paths]
    assert paths and min(paths) >= math.log(0.2)
    _, _, all_of_them, _ = decode_greedily("tree:width=4:depth=3:nodes=20")
    assert sum(len(step.drafted.tokens) for step in all_of_them) > len(paths)


def test_a_stopping_rule_drafts_less_where_the_draft_is_unsure() -> None:
    lengths = {}
    for threshold in (0.0, 0.6, 0.95):
        _, _, done, _ = decode_greedily(f"confidence:p={threshold}:most=6")
        lengths[threshold] = sum(len(step.drafted.tokens) for step in done) / len(done)
        for step in done:
            assert all(confidence >= threshold for confidence in step.drafted.confidences)
    assert lengths[0.0] > lengths[0.6] > lengths[0.95]


def test_the_cost_policy_stops_asking_a_draft_that_never_passes_but_tries_again() -> None:
    rule = CostAware().begin(Costs((1, 2, 3), (1.0, 1.2, 1.4), 0.3))
    asked = 0
    for _ in range(64):
        if rule.looks(0, 0.0):
            asked += 1
            rule.learn([0.9], 0, 1)
        else:
            rule.learn([], 0, 0)
    assert 8 <= asked < 32


def test_the_cost_policy_drafts_far_where_everything_passes_and_passes_are_cheap() -> None:
    rule = CostAware(most=8).begin(Costs((1, 2, 17), (1.0, 1.01, 1.16), 0.02))
    for _ in range(40):
        n = 0
        while n < 8 and rule.looks(n, 0.0) and rule.takes(n, 0.0, 0.95):
            n += 1
        rule.learn([0.95] * n, n, n)
    assert n == 8


# --- replay ---------------------------------------------------------------------------------------------------------


def recorded(output: list[int], said: list[list[int]], confidence: float = 0.8) -> DecodeRecord:
    """A record that holds just what a replay reads."""
    rounds = [
        RoundRecord(i, [t], "teacher", [], [], [], [], [], [], [], False, 0, 0.0, 1.0) for i, t in enumerate(output)
    ]
    continuations = [[[token, confidence, confidence] for token in row] for row in said]
    config = {"prompt": "x", "max_new_tokens": len(output)}
    return DecodeRecord(
        config,
        True,
        [0],
        output,
        "",
        [""] * len(output),
        {},
        rounds,
        1.0,
        0.0,
        costs=COSTS,
        continuations=continuations,
    )


def test_a_replay_by_hand() -> None:
    record = recorded([1, 2, 3, 4, 5], [[1, 2, 9], [2, 9], [3, 4], [9], [5]])
    assert n_right(record) == [2, 1, 2, 0, 0]  # the last token of a text is always the teacher's own
    played = replay(record, "fixed:g=2")
    assert played.starts == [0, 3, 4]
    assert played.drafted == [2, 1, 0] and played.accepted == [2, 0, 0]
    assert played.time == pytest.approx(COSTS.verify(3) + 2 * 0.07 + COSTS.verify(2) + 0.07 + 1.0)
    assert played.speedup == pytest.approx(5 / played.time)


def test_the_oracle_is_never_slower_than_any_policy_and_is_the_best_of_all_ways() -> None:
    record = recorded([1, 2, 3, 4, 5, 6], [[1, 2, 3], [2, 9, 9], [3, 4, 5], [9, 9, 9], [5, 9], [6]])
    ceiling = oracle(record)
    right = n_right(record)

    def cheapest(place: int) -> float:
        if place >= 6:
            return 0.0
        return min(COSTS.verify(g + 1) + g * COSTS.draft + cheapest(place + g + 1) for g in range(right[place] + 1))

    assert ceiling.time == pytest.approx(cheapest(0))
    for policy in ("fixed:g=1", "fixed:g=3", "confidence:p=0.5", "path:p=0.6", "cost"):
        assert replay(record, policy).time >= ceiling.time - 1e-12
    assert ceiling.thrown_away == 0


@pytest.mark.parametrize(
    ("policy", "words"),
    [("tree", "cannot be replayed"), ("fixed:g=12", "cannot be replayed"), ("slow", "is not a policy")],
)
def test_what_cannot_be_replayed_is_said(policy: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replay(recorded([1], [[1]]), policy)
