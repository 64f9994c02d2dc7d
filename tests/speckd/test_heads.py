"""Trunk and head together are the model, for every family that loads; what is not is refused by name."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import speckd
from speckd.heads import Head, check_halves, hidden_rows, positions_of, trunk_of
from tests import tiny
from tests.families import FAMILIES, CannotBeMade, tiny_model

# One of each kind: plain, tied, with a bias, with a factor, its inverse, a cap, a norm of its own, experts, states.
SAMPLE = ["llama", "gpt2", "phi", "gptj", "cohere", "granite", "hyperclovax", "falcon_h1", "minicpm3", "gemma2"]
SAMPLE += [
    "recurrent_gemma",
    "gemma4_unified_text",
    "nanochat",
    "opt",
    "mixtral",
    "deepseek_v3",
    "mamba2",
    "llama4_text",
    "mllama",
    "inkling_text",
]
REFUSED = {  # a transformation between trunk and head that is no factor
    *("bert", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert", "roberta"),
    *("roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl", "xmod", "modernbert-decoder"),
    *("prophetnet", "xlm"),
}


def halves_differ_by(model: Any) -> float:
    """Largest difference of the logits, in units of their spread."""
    ids = torch.tensor([[5, 9, 33, 17, 4, 60, 21, 12]])
    with torch.no_grad():
        expected = model(input_ids=ids, use_cache=False).logits[0].float()
        hidden = hidden_rows(model, ids, torch.ones_like(ids, dtype=torch.bool))
        came = Head.of(model).logits(hidden)[:, : expected.shape[-1]]
    return float((came - expected).abs().max() / expected.std())


def check(family: str) -> None:
    try:
        model = tiny_model(family)
    except CannotBeMade as reason:
        pytest.skip(str(reason))
    if family in REFUSED:
        with pytest.raises(ValueError, match=type(model).__name__):
            check_halves(model)
    else:
        check_halves(model)
        assert halves_differ_by(model) < 1e-4


def sample() -> list[Any]:
    """Where a pure-Python scan stands in for a kernel, seconds go by."""
    known = [name for name in SAMPLE if name in FAMILIES]
    return [pytest.param(name, marks=pytest.mark.slow if name == "falcon_h1" else ()) for name in known]


@pytest.mark.parametrize("family", sample())
def test_trunk_and_head_are_the_model(family: str) -> None:
    check(family)


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_trunk_and_head_are_the_model_in_every_family(family: str) -> None:
    check(family)


@pytest.mark.parametrize("family", ["bert", "modernbert-decoder"])
def test_a_family_that_transforms_its_hidden_state_before_the_head_is_refused_by_name(family: str) -> None:
    check(family)


def test_a_family_not_yet_written_is_caught_at_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model whose forward doubles its logits, as no configuration tells."""
    from transformers import LlamaForCausalLM

    folder = str(tiny.save_model(tmp_path / "model"))
    shutil.copytree(folder, tmp_path / "other")
    plain = LlamaForCausalLM.forward

    def doubled(self: Any, *given: Any, **named: Any) -> Any:
        output = plain(self, *given, **named)
        output.logits = 2 * output.logits
        return output

    speckd.load_pair(folder, str(tmp_path / "other"), device="cpu")
    monkeypatch.setattr(LlamaForCausalLM, "forward", doubled)
    with pytest.raises(ValueError, match="The teacher, LlamaForCausalLM, does more to its logits"):
        speckd.load_pair(folder, str(tmp_path / "other"), device="cpu")


def test_a_model_that_wants_more_than_one_text_is_refused_by_name() -> None:
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = {"vocab_size": 64, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    with pytest.raises(ValueError, match="The student, T5ForConditionalGeneration, cannot be read as trunk and head"):
        check_halves(T5ForConditionalGeneration(T5Config(**sizes)), "student")


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_an_adapter_in_the_models_input_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    from peft import PrefixTuningConfig, PromptTuningConfig, get_peft_model

    base = tiny.save_model(tmp_path / "base")
    kinds = {"prefix": PrefixTuningConfig, "prompt": PromptTuningConfig}
    model = AutoModelForCausalLM.from_pretrained(base)
    adapted = get_peft_model(model, kinds[kind](task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(ValueError, match=f"{kind.upper()}_TUNING, which writes into the model's input"):
        trunk_of(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="Choose an adapter on the layers, such as LoRA"):
        speckd.load_pair(str(base), str(tmp_path / "adapter"), device="cpu")


def test_the_longest_text_is_what_the_configuration_says_a_factor_of_yarn_included() -> None:
    from types import SimpleNamespace

    def limit(**config: Any) -> int:
        return positions_of(SimpleNamespace(config=SimpleNamespace(**config)))

    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    assert limit(max_position_embeddings=32768, rope_parameters=yarn) == 131072  # as Qwen's cards advise
    assert limit(max_position_embeddings=131072, rope_scaling=yarn) == 131072  # a configuration that has it in both
    llama3 = {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}
    assert limit(max_position_embeddings=131072, rope_parameters=llama3) == 131072
    assert limit(n_positions=64) == 64 and limit(max_target_positions=448) == 448  # GPT-2; Whisper's decoder
    assert limit() == limit(max_position_embeddings=None) == 2**31  # ALiBi, states: no limit


def test_the_one_walk_gives_the_same_rows_alone_and_in_a_batch() -> None:
    model = tiny_model("llama")
    ids = torch.tensor([[5, 9, 33, 17, 4, 60], [7, 8, 9, 0, 0, 0]])
    mask = torch.tensor([[1] * 6, [1] * 3 + [0] * 3])
    rows = torch.tensor([[False, True, False, False, True, False], [True, False, True, False, False, False]])
    with torch.no_grad():
        together = hidden_rows(model, ids, rows, mask)
        alone = [hidden_rows(model, ids[:1], rows[:1]), hidden_rows(model, ids[1:, :3], rows[1:, :3])]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-6)
