"""A tiny random model of any family of transformers, made from its configuration alone: nothing is downloaded."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAMILIES = tuple(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
VOCABULARY = 64
LARGEST = 4_000_000  # parameters; a family that our sizes do not shrink is skipped

_WIDTHS = "hidden_size d_model n_embd n_embed embedding_size"
_LAYERS = "num_hidden_layers n_layer n_layers num_layers decoder_layers"
_HEADS = "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads"
_INNER = "intermediate_size ffn_dim decoder_ffn_dim encoder_ffn_dim ffn_hidden_size d_ff dim_ff n_inner"
_INNER += " intermediate_size_mlp"
_EXPERTS = "num_experts num_local_experts n_routed_experts"
_EXPERT_WIDTHS = "moe_intermediate_size shared_expert_intermediate_size"
_POSITIONS = "max_position_embeddings n_positions n_ctx"
_SIZES = {
    "vocab_size": VOCABULARY,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "unpadded_vocab_size": VOCABULARY - 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 8,
    "kv_channels": 8,
    "encoder_layers": 1,
    "num_experts_per_tok": 2,
    "rotary_dim": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    **dict.fromkeys(_WIDTHS.split(), 32),
    **dict.fromkeys(_LAYERS.split(), 2),
    **dict.fromkeys(_HEADS.split(), 4),
    **dict.fromkeys(_INNER.split(), 48),
    **dict.fromkeys(_EXPERTS.split(), 4),
    **dict.fromkeys(_EXPERT_WIDTHS.split(), 16),
    **dict.fromkeys(_POSITIONS.split(), 64),
}
# Factors and caps that are neither 1 nor absent, so that a model which forgets one is another model.
_FACTORS = {
    "logit_scale": 0.3,
    "logits_scaling": 3.0,
    "lm_head_multiplier": 0.25,
    "logits_mup_width_multiplier": 2.0,
    "final_logit_softcapping": 2.0,
    "logits_soft_cap": 2.0,
    "output_logit_soft_cap": 2.0,
}


# What some families want instead, tried in turn; None leaves a size to the family.
_VARIANTS: tuple[dict[str, Any], ...] = (
    {},
    {"num_key_value_heads": 4},  # one latent for all heads: DeepSeek's attention
    {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 8},
    {"num_heads": 8, "head_dim": 8, "expand": 2},
    {"attention_types": [[["global", "local"], 1]], "num_layers": 2},
    {"n_shared_experts": 1, "n_group": 1, "topk_group": 1},
    {"num_kv_shared_layers": 0},
    {"layer_types": ["full_attention"] * 2},
    {"num_hidden_layers": None},
)


class CannotBeMade(Exception):
    """Our sizes do not fit this family, or it needs a library that is not here."""


def tiny_model(family: str, seed: int = 0) -> Any:
    """A random model of the family, in evaluation mode, with weights large enough that its logits differ."""
    refused: CannotBeMade | None = None
    for variant in _VARIANTS:
        try:
            return _made(family, variant, seed)
        except CannotBeMade as reason:
            refused = refused or reason
    assert refused is not None
    raise refused


def _made(family: str, variant: dict[str, Any], seed: int) -> Any:
    try:
        config = _config(family, variant)
        with torch.device("meta"):
            size = sum(parameter.numel() for parameter in AutoModelForCausalLM.from_config(config).parameters())
        if size > LARGEST:
            raise CannotBeMade(f"{size:,} parameters")
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config).eval()
        with torch.no_grad():
            model.get_output_embeddings().weight.normal_()
            ids = torch.arange(3, 11)[None]
            model(input_ids=ids, use_cache=False)
    except CannotBeMade:
        raise
    except Exception as error:
        raise CannotBeMade(f"{type(error).__name__}: {error}") from error
    return model


def _config(family: str, variant: dict[str, Any]) -> Any:
    plain = CONFIG_MAPPING[family]()
    text = getattr(plain, "text_config", None)
    if text is not None and not isinstance(text, dict):
        return type(plain)(text_config={"model_type": text.model_type, **_shrunk(text, variant)})
    return type(plain)(**_shrunk(plain, variant))


def _shrunk(config: Any, variant: dict[str, Any]) -> dict[str, Any]:
    known = config.to_dict()
    sizes = {name: value for name, value in _SIZES.items() if not isinstance(known.get(name, []), list | dict)}
    sizes |= {name: value for name, value in _FACTORS.items() if name in known} | variant
    return {name: value for name, value in sizes.items() if value is not None}
