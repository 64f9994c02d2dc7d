"""Side branches of the teacher's exits: trained beside a trunk that stays as it is, and exact whatever they say."""

from pathlib import Path

import pytest
import torch

import speckd
from speckd.data import Example
from speckd.decoding import exits
from speckd.decoding.branches import Branch, read_branches, save_branches
from speckd.decoding.decode import decode
from speckd.decoding.eagle import cut_head
from speckd.heads import Head, trunk_of
from speckd.training.exits import ExitSettings, agreement, parse_exits, read_rows, train_branches
from tests import training_pair


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> speckd.Pair:
    return speckd.load_pair(*training_pair.save(tmp_path_factory.mktemp("exits")), device="cpu", dtype="float32")


def examples(pair: speckd.Pair) -> list[Example]:
    generator = torch.Generator().manual_seed(0)
    texts = torch.randint(3, 90, (6, 14), generator=generator).tolist()
    return [Example(text[:4], text[4 : 10 + number % 4], number) for number, text in enumerate(texts)]


def test_a_fresh_branch_says_what_the_raw_exit_says(pair: speckd.Pair) -> None:
    norm = trunk_of(pair.teacher).norm
    hidden = torch.randn(5, norm.weight.shape[0], generator=torch.Generator().manual_seed(1))
    branch = Branch(hidden.shape[1], 8, norm.variance_epsilon, norm.weight)
    torch.testing.assert_close(branch(hidden), norm(hidden))


def test_training_brings_a_branch_nearer_and_leaves_the_trunk_alone(pair: speckd.Pair) -> None:
    before = {name: weight.clone() for name, weight in pair.teacher.state_dict().items()}
    rows = read_rows(pair, examples(pair), [1, 2], None, lambda _: None, batch_size=4)
    assert len(rows) == sum(len(one.response_ids) for one in examples(pair))
    vocabulary, whole, norm = torch.arange(0, 90), Head.of(pair.teacher), trunk_of(pair.teacher).norm
    head = cut_head(whole, vocabulary)
    overlap = {}
    for steps in (1, 40):
        settings = ExitSettings("", "", layers=(1, 2), inner=16, steps=steps, rows=32, learning_rate=1e-2)
        branches = train_branches(settings, head, norm.weight, norm.variance_epsilon, rows, lambda _: None)
        figures = agreement(branches, head, vocabulary, whole, rows)
        overlap[steps] = [figures[layer]["acceptance"] for layer in ("1", "2")]
    assert all(late > early for late, early in zip(overlap[40], overlap[1], strict=True))
    assert all(torch.equal(weight, before[name]) for name, weight in pair.teacher.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize(("draft", "policy"), [("exit:layer=2", "fixed:g=2"), ("hispec:draft=1:middle=2", None)])
def test_greedy_text_is_the_teachers_own_whatever_branches_say(
    pair: speckd.Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, draft: str, policy: str | None
) -> None:
    torch.manual_seed(0)
    norm = trunk_of(pair.teacher).norm
    branches = {layer: Branch(norm.weight.shape[0], 8, norm.variance_epsilon, norm.weight) for layer in (1, 2)}
    for branch in branches.values():
        torch.nn.init.normal_(branch.down.weight, std=0.3)
    file = save_branches(tmp_path, branches, torch.arange(3, 80), pair.teacher_sha256)
    monkeypatch.setattr(exits, "shipped_branches", lambda: file)
    raw = decode(pair, "Say 3", draft=f"{draft}:raw=1", policy=policy, max_new_tokens=20)
    branched = decode(pair, "Say 3", draft=draft, policy=policy, max_new_tokens=20)
    assert branched.output_ids == raw.output_ids and branched.identical and raw.identical
    assert [step.tokens for step in branched.rounds] != [step.tokens for step in raw.rounds], "no branch was asked"
    assert {token for step in branched.rounds for token in step.tokens} <= set(range(3, 80))


def test_branches_of_another_teacher_are_left_alone_and_damaged_ones_named(tmp_path: Path) -> None:
    file = save_branches(tmp_path, {1: Branch(8, 4, 1e-5)}, torch.arange(5), "a" * 64)
    assert read_branches(file, "b" * 64) is None
    assert read_branches(file, "a" * 64) is not None
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match="make them again"):
        read_branches(file, "a" * 64)


def test_a_mistake_in_the_exits_name_is_one_sentence() -> None:
    assert parse_exits("exits:layers=4+8:vocab=100") == {"layers": (4, 8), "vocabulary": 100}
    for text in ("exits:depth=3", "exits:layers=x"):
        with pytest.raises(ValueError, match=r"exits"):
            parse_exits(text)
