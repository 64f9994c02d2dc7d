"""The auxiliary loss of a mixture of experts, which keeps its router from sending every token to the same few experts.

transformers adds it to a model's own loss, where the configuration asks for ``output_router_logits``. Here the model's
own loss is never computed, so it is added by hand, with the family's own function.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class RouterLoss:
    """How a family computes its router's auxiliary loss.

    Attributes:
        function: the family's own, of (router logits of each layer, experts, experts a token, mask).
        n_experts, n_chosen: of a layer; chosen for each token.
        coefficient: by which its configuration weighs it.
        is_on: whether its configuration asks for it.
    """

    function: Callable[..., Any]
    n_experts: int
    n_chosen: int
    coefficient: float
    is_on: bool

    @classmethod
    def of(cls, model: Any) -> "RouterLoss | None":
        """The auxiliary loss of a causal language model; None where its family has none."""
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        function = getattr(sys.modules[type(base).__module__], "load_balancing_loss_func", None)
        names = ("num_experts", "num_experts_per_tok", "router_aux_loss_coef")
        n_experts, n_chosen, coefficient = (getattr(base, name, None) for name in names)
        if function is None or n_experts is None or n_chosen is None or coefficient is None:
            return None
        return cls(
            function, n_experts, n_chosen, coefficient, bool(getattr(base.config, "output_router_logits", False))
        )

    def __call__(self, trunk_output: Any, attention_mask: Tensor | None) -> Tensor:
        """() with gradient: least where the experts are used evenly."""
        loss: Tensor = self.function(trunk_output.router_logits, self.n_experts, self.n_chosen, attention_mask)
        return loss


def is_mixture(model: Any) -> bool:
    """Whether a model has experts."""
    return any("experts" in name.split(".") for name, _ in model.named_modules())


def weight_of(model: Any, asked: float | None) -> float:
    """By how much the auxiliary loss counts: as asked for, else as the model's configuration says.

    Raises:
        ValueError: it is asked for, and the model has none.
    """
    own = RouterLoss.of(model)
    if asked and own is None:
        raise ValueError(
            f"router_loss is {asked:g}, and the student has no router's auxiliary loss that transformers knows: leave "
            "it out."
        )
    if asked is None:
        return own.coefficient if own is not None and own.is_on else 0.0
    return asked
