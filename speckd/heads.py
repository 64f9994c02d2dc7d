"""A model in two halves: the trunk, whose hidden states are few numbers, and the head, which makes logits of them.

Everything that is measured or trained here reads a model this way, so it is true only where the two halves together
are the model. ``check_halves`` runs both at load and refuses a model by name where they are not: an adapter that lives
in the model's inputs, or a family that does more to its logits than is read here.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

MLP_POSITIONS = 1024  # positions that a layer's MLP, three to four times as wide as the model, works on at a time
_PROBE_TOKENS = 8  # of the check at load: enough to tell two models apart, few enough to cost nothing
# Largest difference of two logits that are the same number, as a share of the logits' spread.
_SAME = {torch.float32: 1e-3, torch.float64: 1e-6}
_SAME_16_BITS = 5e-2


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
            ValueError: an adapter wraps the head, or the model has none, so that one matrix alone is not what the
                model computes.
        """
        linear = model.get_output_embeddings()
        if linear is None or not isinstance(getattr(linear, "weight", None), Tensor):
            raise ValueError(f"{_family(model)} has no head of one matrix that could be read: choose another model.")
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
        config = _text_config(model)
        return cls(linear.weight, getattr(linear, "bias", None), _scale(config), _softcap(config))

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


def _text_config(model: Any) -> Any:
    """The configuration of the text half: a model that also sees or hears keeps it one level down."""
    config = model.config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def _scale(config: Any) -> float:
    """The factor of the logits: families name it differently, and two use one name for a factor and for its inverse."""
    cohere = config.model_type.startswith(
        "cohere"
    )  # MPT's configuration has the name too, and its model no such factor
    scale = (getattr(config, "logit_scale", None) or 1.0) if cohere else 1.0
    scale *= getattr(config, "lm_head_multiplier", None) or 1.0  # Falcon-H1
    scaling = getattr(config, "logits_scaling", None) or 1.0
    scale = scale * scaling if config.model_type == "hyperclovax" else scale / scaling  # Granite, MiniCPM3 divide
    return scale / (getattr(config, "logits_mup_width_multiplier", None) or 1.0)  # Inkling


def _softcap(config: Any) -> float | None:
    """c of c * tanh(logits / c): Gemma, RecurrentGemma, xLSTM."""
    names = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    return next((cap for name in names if (cap := getattr(config, name, None))), None)


def trunk_of(model: Any) -> Any:
    """The decoder without its head; adapters stay in force, since they sit on its layers.

    Raises:
        ValueError: the adapter lives in the model's inputs, not in its layers; or no trunk can be told from the head.
    """
    base = model
    if hasattr(model, "peft_config"):
        base = model.get_base_model()
        kinds = {_name(settings.peft_type) for settings in model.peft_config.values() if settings.is_prompt_learning}
        if kinds:
            raise ValueError(
                f"The adapter is of the kind {', '.join(sorted(kinds))}, which writes into the model's input or cache; "
                "here a model is read layer by layer. Choose an adapter on the layers, such as LoRA."
            )
    trunk = base.get_decoder()
    if trunk is base:  # Llama 4 and Mllama are named after the module that holds them, not after their own trunk
        trunk = getattr(base, "model", None)
    if trunk is None or not hasattr(trunk, "config"):
        raise ValueError(f"{_family(model)} has no trunk that can be told from its head: choose another model.")
    return trunk


def positions_of(model: Any) -> int:
    """The longest text that a model reads, in tokens; 2**31 where its configuration names no limit."""
    if not hasattr(model, "config"):  # a teacher that is elsewhere knows only what it wrote
        return 2**31
    config = _text_config(model)
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "max_target_positions")
    found = (getattr(config, name, None) for name in names)
    limit = next((int(limit) for limit in found if isinstance(limit, int) and limit > 0), 2**31)
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None)
    if isinstance(rope, dict) and rope.get("original_max_position_embeddings"):
        # YaRN as Qwen's cards advise it: a factor over the length before, which max_position_embeddings goes on naming.
        limit = max(limit, int(rope["original_max_position_embeddings"] * (rope.get("factor") or 1.0)))
    return limit


def _name(kind: Any) -> str:
    return str(getattr(kind, "value", kind))


def _family(model: Any) -> str:
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    return type(base).__name__


def input_device(model: Any, otherwise: torch.device) -> torch.device:
    """Where a model takes its token ids: the device of its embedding, also when it is spread over several."""
    found = model.get_input_embeddings().weight.device
    return otherwise if found.type == "meta" else found  # offloaded: its hooks bring the inputs where they belong


# --- one walk from text to hidden rows ----------------------------------------------------------------------------


def hidden_rows(
    model: Any,
    input_ids: Tensor,
    rows: Tensor,
    attention_mask: Tensor | None = None,
    on_layer: Callable[[int, int], None] | None = None,
    *,
    packed: bool = False,
    on_output: Callable[[Any], None] | None = None,
    **asked: Any,
) -> Tensor:
    """The hidden states at some positions of a batch: for a trace, for the teacher's cache and for training.

    Args:
        model: a causal language model. Gradient flows where it is enabled.
        input_ids: (B, T).
        rows: (B, T) bool, the positions whose hidden state is wanted: those *before* the tokens they predict.
        attention_mask: (B, T), 1 where there is text; all of it by default.
        on_layer: called with (layers done, layers) after each layer.
        packed: let no padding through the trunk: all texts go as one row. Where positions begin anew transformers sees
            that a text begins, and lets no token look into another text (``check_packing`` tells whether it does).
        on_output: called with what the trunk returned, for what else it says.
        asked: what else the trunk is asked for, such as ``output_router_logits``.
    Returns:
        (N, H), sequence by sequence, in the order of the text.
    """
    trunk = trunk_of(model)
    layers = getattr(trunk, "layers", [])
    done = 0

    def count(*_: Any) -> None:  # a hook's return value would replace the layer's output
        nonlocal done
        done += 1
        if on_layer is not None:
            on_layer(done, len(layers))

    hooks = [layer.register_forward_hook(count) for layer in layers] if on_layer is not None else []
    where = input_device(model, input_ids.device)
    given = {"input_ids": input_ids.to(where)}
    if packed and attention_mask is not None:
        kept = attention_mask.to(where).bool()
        given = {"input_ids": given["input_ids"][kept][None], "position_ids": (kept.cumsum(-1) - 1)[kept][None]}
        rows = rows.to(where)[kept][None]
    elif attention_mask is not None:
        given["attention_mask"] = attention_mask.to(where)
    slicing = contextlib.nullcontext() if torch.is_grad_enabled() else _mlps_in_slices(layers)
    try:
        with slicing:
            output = trunk(use_cache=False, **given, **asked)
    finally:
        for hook in hooks:
            hook.remove()
    if on_output is not None:
        on_output(output)
    hidden = output.last_hidden_state  # (B, T, H)
    return hidden[rows.to(hidden.device)]  # a copy: the other positions are let go


@contextlib.contextmanager
def _mlps_in_slices(layers: Sequence[Any]) -> Iterator[None]:
    """Let each layer's MLP work on a slice of the positions at a time: the same numbers, since it treats every position
    alone, without the activations that would make a long text's peak memory grow."""

    def sliced(forward: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
        def run(hidden: Tensor) -> Any:
            if hidden.shape[1] <= MLP_POSITIONS:
                return forward(hidden)
            return torch.cat([forward(part) for part in hidden.split(MLP_POSITIONS, dim=1)], dim=1)  # (1, T, H)

        return run

    # Mixtures of experts return more than a tensor, so only plain MLPs are sliced.
    mlps = [layer.mlp for layer in layers if hasattr(getattr(layer, "mlp", None), "down_proj")]
    before = [vars(mlp).get("forward") for mlp in mlps]  # a model spread over devices has forwards of its own
    for mlp in mlps:
        mlp.forward = sliced(mlp.forward)
    try:
        yield
    finally:
        for mlp, own in zip(mlps, before, strict=True):
            if own is None:
                del mlp.forward  # the class's own shows again
            else:
                mlp.forward = own


# --- the check at load --------------------------------------------------------------------------------------------


@torch.no_grad()
def check_halves(model: Any, what: str = "model") -> None:
    """Refuse a model whose logits are not those of its trunk and head: no number of it would be true here.

    A few tokens are run through the model and through its halves. That catches what no list of families can: adapters
    in the input, norms and factors between trunk and head, families not yet written.

    Args:
        model: a causal language model, on any device.
        what: what to call it in the sentence of the error, "teacher" or "student".
    Raises:
        ValueError: the two differ, or the model has no such halves.
    """
    was_training = model.training
    model.eval()
    try:
        head, trunk = Head.of(model), trunk_of(model)
        device = input_device(model, torch.device("cpu"))
        n_tokens = model.get_input_embeddings().weight.shape[0]
        ids = torch.tensor([[(7 + 4241 * place) % n_tokens for place in range(_PROBE_TOKENS)]], device=device)
        try:
            expected = model(input_ids=ids, use_cache=False).logits[0].float()  # (T, V)
            hidden = hidden_rows(model, ids, torch.ones_like(ids, dtype=torch.bool))
            came = head.logits(hidden.to(head.weight.device, head.weight.dtype)).to(expected.device)
        except (RuntimeError, TypeError, AttributeError, NotImplementedError, ValueError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
            raise ValueError(f"The {what}, {_family(model)}, cannot be read as trunk and head ({reason}).") from error
    finally:
        model.train(was_training)
    shared = min(came.shape[-1], expected.shape[-1])  # some families cut padded rows off
    spread = expected[:, :shared].std()
    tolerance = _SAME.get(head.weight.dtype, _SAME_16_BITS)
    difference = (came[:, :shared].float() - expected[:, :shared]).abs().max()
    if not torch.isfinite(expected).all():
        return  # broken weights: whoever measures says at which token
    if difference > tolerance * spread:
        raise ValueError(
            f"The {what}, {_family(model)}, does more to its logits than its trunk ({type(trunk).__name__}) and its "
            f"head tell: they differ by {difference / spread:.2g} of the logits' spread, so every figure would be of "
            "another model. Choose another model; an adapter that wraps it can be merged first."
        )
