"""A teacher and a student small enough for every test: real transformers models with random weights, saved to disk."""

import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(extra: tuple[str, ...] = ()) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of 256 bytes, two turn marks and the extra words."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate([*letters, *extra])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", bos_token="<|im_start|>")
    made.chat_template = CHAT_TEMPLATE
    made.pad_token = made.eos_token
    return made


def save_model(
    folder: Path,
    *,
    layers: int = 2,
    width: int = 16,
    padded_rows: int = 0,
    extra: tuple[str, ...] = (),
    seed: int = 0,
    context: int = 512,
    sharpness: float = 40.0,
) -> Path:
    """A tiny Llama with its tokenizer, in a folder that load_pair reads."""
    words = tokenizer(extra)
    config = LlamaConfig(
        vocab_size=len(words) + padded_rows,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        eos_token_id=words.eos_token_id,
        bos_token_id=words.bos_token_id,
        pad_token_id=words.pad_token_id,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    with torch.no_grad():  # random initial weights make every distribution flat; spread them so that there is an order
        model.model.embed_tokens.weight.mul_(sharpness)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def save_adapter(folder: Path, base: Path, **settings: object) -> Path:
    """A LoRA adapter with random weights over a saved tiny model."""
    from peft import LoraConfig, get_peft_model

    model = LlamaForCausalLM.from_pretrained(base)
    torch.manual_seed(7)
    adapted = get_peft_model(
        model, LoraConfig(r=2, init_lora_weights=False, **{"target_modules": "all-linear", **settings})
    )
    adapted.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(base)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder
