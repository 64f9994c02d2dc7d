"""A model's head: the matrix that turns a hidden state into logits, with what the model does to them afterwards."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Head:
    """A linear head and the fixed functions that some families apply to its logits.

    Attributes:
        weight: (V, H).
        bias: (V,) or None.
        scale: factor of the logits (Cohere's logit_scale, one over Granite's logits_scaling); 1 elsewhere.
        softcap: c of c * tanh(logits / c) (Gemma 2's final_logit_softcapping), or None.
    """

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None

    @classmethod
    def of(cls, model: Any) -> "Head":
        """The head of a causal language model, its configuration's scale and softcap included.

        Raises:
            ValueError: an adapter wraps the head, so that one matrix alone is not what the model computes.
        """
        linear = model.get_output_embeddings()
        if hasattr(linear, "base_layer"):
            raise ValueError(
                "An adapter wraps the model's head, and here one plain matrix is read: merge the adapter "
                "(merge_and_unload), or leave the head out of its target_modules."
            )
        if linear.weight.is_meta:
            raise ValueError(
                "The model's head is offloaded, and here it is read at every step: keep lm_head and the embedding on a "
                "device in device_map."
            )
        config = model.config
        scale = getattr(config, "logit_scale", None) or 1.0
        scale /= getattr(config, "logits_scaling", None) or 1.0
        return cls(
            linear.weight, getattr(linear, "bias", None), scale, getattr(config, "final_logit_softcapping", None)
        )

    def logits(self, hidden: Tensor, vocabulary_size: int | None = None) -> Tensor:
        """Logits of some rows, over the first ``vocabulary_size`` tokens.

        Args:
            hidden: (N, H), in the weight's dtype.
            vocabulary_size: rows of the vocabulary to compute; all by default.
        Returns:
            (N, V) float32 (float64 where the hidden state is).
        """
        bias = self.bias[:vocabulary_size] if self.bias is not None else None
        logits = nn.functional.linear(hidden, self.weight[:vocabulary_size], bias)  # (N, V)
        if logits.dtype not in (torch.float32, torch.float64):
            logits = logits.float()
        if self.scale != 1.0:
            logits = logits * self.scale
        if self.softcap is not None:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits


def trunk_of(model: Any) -> Any:
    """The decoder without its head; adapters stay in force, since they sit on its layers."""
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    return base.get_decoder()


def input_device(model: Any, otherwise: torch.device) -> torch.device:
    """Where a model takes its token ids: the device of its embedding, also when it is spread over several."""
    found = model.get_input_embeddings().weight.device
    return otherwise if found.type == "meta" else found  # offloaded: its hooks bring the inputs where they belong
