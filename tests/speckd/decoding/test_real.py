"""Decoding the packaged pair, and decoding on a GPU."""

import pytest
import torch

import speckd
from speckd.data import encode_prompt
from speckd.decoding.costs import Costs
from tests import training_pair

PROMPT = "Name three animals that live in the sea."
COSTS = Costs((1, 2), (1.0, 1.1), 0.25)  # given, so that nobody measures them


@pytest.fixture(scope="module")
def greedy_text(packaged_pair: speckd.Pair) -> list[int]:
    """What transformers' greedy generate writes: twenty tokens."""
    ids = torch.tensor([encode_prompt(packaged_pair.tokenizer, [{"role": "user", "content": PROMPT}])])
    written = packaged_pair.teacher.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=20, pad_token_id=0
    )
    return written[0, ids.shape[1] :].tolist()


@pytest.mark.packaged
@pytest.mark.parametrize(
    ("draft", "policy"),
    [
        ("student:vocab=8192", "cost"),
        ("student", "tree:width=3:depth=2:nodes=6"),
        ("lookup", "fixed:g=4"),
        pytest.param("hispec:draft=4:middle=8", None, marks=pytest.mark.long),
    ],
)
def test_the_packaged_teacher_writes_its_own_greedy_text(
    packaged_pair: speckd.Pair, greedy_text: list[int], draft: str, policy: str | None
) -> None:
    how = {"draft": draft, "policy": policy, "costs": COSTS, "plain": False}
    record = speckd.decode(packaged_pair, PROMPT, max_new_tokens=20, **how)
    assert record.output_ids == greedy_text
    assert record.lossless


@pytest.mark.packaged
def test_where_no_draft_is_named_greedy_and_sampled_text_have_each_its_fastest(packaged_pair: speckd.Pair) -> None:
    quick = {"costs": COSTS, "plain": False}
    told = [
        speckd.decode(packaged_pair, PROMPT, max_new_tokens=2, do_sample=do_sample, **quick).config["draft"]
        for do_sample in (False, True)
    ]
    assert told == ["lookup+eagle", "eagle"]


@pytest.mark.gpu
@pytest.mark.parametrize("draft", ["student", "lookup:longest=2:least=1", "exit:layer=1", "hispec:draft=1:middle=2"])
def test_on_a_gpu_greedy_text_is_the_teachers_own(tmp_path_factory: pytest.TempPathFactory, draft: str) -> None:
    folders = training_pair.save(tmp_path_factory.mktemp("gpu"))
    on_gpu = speckd.load_pair(*folders, device="cuda", dtype="float32")
    record = speckd.decode(on_gpu, "Say 3", draft=draft, max_new_tokens=30)
    assert record.identical and record.config["clock"] == "wall"


@pytest.mark.gpu
@pytest.mark.parametrize("policy", ["fixed:g=3", "tree:width=2:depth=2:nodes=5"])
def test_on_a_gpu_in_16_bits_nothing_is_called_lossless_that_is_not(
    tmp_path_factory: pytest.TempPathFactory, policy: str
) -> None:
    folders = training_pair.save(tmp_path_factory.mktemp("gpu16"))
    pair = speckd.load_pair(*folders, device="cuda", dtype="bfloat16")
    greedy = speckd.decode(pair, "Say 3", draft="student", policy=policy, max_new_tokens=30)
    assert not greedy.lossless
    sampled = speckd.decode(pair, "Say 3", draft="student", policy=policy, max_new_tokens=30, do_sample=True)
    assert sampled.n_tokens == 30 and any(coin is not None for step in sampled.rounds for coin in step.coins)
