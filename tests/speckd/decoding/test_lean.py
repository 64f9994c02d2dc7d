"""The lean forward gives the model's own numbers, and what it does not know it leaves alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from speckd.decoding.forward import ModelForward, difference, forward_of
from speckd.decoding.lean import LeanForward, Matrix
from tests.tiny import save_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = save_model(tmp_path_factory.mktemp("lean") / "teacher", layers=3)
    return LlamaForCausalLM.from_pretrained(folder).eval()


def test_lean_hidden_states_are_the_models(llama: Any) -> None:
    lean = forward_of(llama)
    assert isinstance(lean, LeanForward)
    own = ModelForward(llama)
    ids = list(range(40, 70))
    expected, came = own.feed(ids), torch.cat([lean.feed(ids[:11]), lean.feed(ids[11:12]), lean.feed(ids[12:])])
    torch.testing.assert_close(came, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(lean.logits(came), own.logits(expected), rtol=1e-4, atol=1e-3)


def test_a_tree_sees_its_ancestors_alone_and_its_kept_path_is_a_text(llama: Any) -> None:
    text, path, other = [50, 51, 52], [60, 61], 70
    lean = forward_of(llama)
    lean.feed(text)
    # 60 and 70 follow the text, 61 follows 60
    mask = torch.tensor([[True, False, False], [False, True, False], [True, False, True]])
    rows = lean.feed([path[0], other, path[1]], positions=[3, 3, 4], mask=mask)
    straight = forward_of(llama)
    straight.feed(text)
    torch.testing.assert_close(rows[[0, 2]], straight.feed(path), rtol=1e-4, atol=1e-4)
    lean.keep(3, [0, 2])
    assert lean.length == 5
    torch.testing.assert_close(lean.feed([80]), straight.feed([80]), rtol=1e-4, atol=1e-4)


def test_cropped_rows_leave_no_trace_and_the_cache_outgrows_its_room(llama: Any) -> None:
    lean, straight = forward_of(llama), forward_of(llama)
    ids = [(11 * place) % 200 for place in range(300)]
    lean.feed(ids[:200])
    lean.feed([5] * 90)
    lean.crop(200)
    torch.testing.assert_close(lean.feed(ids[200:]), straight.feed(ids)[200:], rtol=1e-4, atol=1e-4)


def test_part_of_the_depth_is_what_feed_does(llama: Any) -> None:
    whole, parts = forward_of(llama), forward_of(llama)
    assert isinstance(parts, LeanForward)
    expected = whole.feed([5, 6, 7])
    early = parts.run(parts.embed([5, 6, 7]), 0, 1)
    assert (parts.length_at(0), parts.length_at(1)) == (3, 0)
    torch.testing.assert_close(parts.norm(parts.run(early, 1, 3)), expected)


def test_a_changed_model_is_packed_anew(llama: Any) -> None:
    before = forward_of(llama).feed([5, 6, 7])
    weight = llama.model.layers[0].mlp.down_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(300.0)
    try:
        changed = forward_of(llama).feed([5, 6, 7])
        torch.testing.assert_close(changed, ModelForward(llama).feed([5, 6, 7]), rtol=1e-4, atol=1e-4)
        assert not torch.allclose(changed, before, atol=1e-2)
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_a_family_with_biases_runs_lean_too() -> None:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Qwen2ForCausalLM(config).eval()
    for layer in model.model.layers:
        nn.init.normal_(layer.self_attn.q_proj.bias)
    lean = forward_of(model)
    assert isinstance(lean, LeanForward)
    assert difference(ModelForward(model), lean.fresh(), cropped=True) < 1e-5


def test_a_model_of_another_build_runs_by_its_own_forward() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64)).eval()
    assert isinstance(forward_of(model), ModelForward)


def test_a_model_that_only_looks_like_llama_runs_by_its_own_forward(tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(save_model(tmp_path / "odd")).eval()

    class Odd(type(model.model.layers[0].mlp)):  # type: ignore[misc]
        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return 300.0 * super().forward(rows)

    model.model.layers[1].mlp.__class__ = Odd
    assert isinstance(forward_of(model), ModelForward)


@pytest.mark.parametrize("in_bfloat16", [True, False])
def test_a_packed_matrix_loses_nothing(in_bfloat16: bool) -> None:
    torch.manual_seed(0)
    weight = 3e-5 * torch.randn(96, 64)  # far below float16's normal numbers: a power of two is taken out
    weight = weight.bfloat16().float() if in_bfloat16 else weight
    matrix = Matrix([weight[:32], weight[32:]], bias=torch.ones(96))
    if matrix.form == "plain":
        pytest.skip("this machine has no packed products")
    assert in_bfloat16 or matrix.form != "half", "float32 weights do not fit half the bytes"
    for n_rows in (1, 5, 100):
        rows = torch.randn(n_rows, 64)
        exact = rows.double() @ weight.double().T
        torch.testing.assert_close(matrix(rows).double() - 1, exact, rtol=1e-3, atol=2e-6)
