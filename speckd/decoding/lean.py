"""A lean forward of Llama-like models on a CPU: the model's numbers with fewer copies and half the bytes.

transformers' modules grow their cache by copying it at every token, and run three products where one would do. Here
keys and values lie in one block that is filled from left to right; q, k and v are one product, gate and up another.

A decoded token costs what its weights cost to read. Weights that were stored in bfloat16, as nearly all are, fit
float16 exactly once a power of two is taken out: so they are kept in half the bytes and multiplied in float32 all the
same (FBGEMM's half-precision product, whose sums run in another order). Every matrix is checked, and one that does not
fit stays in float32. With weights in this form eight rows cost little more than one, which is what verifying a draft
needs. The operators are private ones of torch: where they are missing, plain products are the way back.

Nothing here is trusted: a lean forward is held against the model's own before it is used (``lean_forward_of``).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from speckd.heads import Head, trunk_of

Ids = Sequence[int] | Tensor

FIRST_ROOM = 256  # rows of cache to begin with; it doubles when it is full
MANY_ROWS = 48  # from here on a plain product is as fast as a packed one, as when a prompt is read


# --- one matrix -----------------------------------------------------------------------------------------------------


class Matrix:
    """rows W^T + b for a few rows at a time, W packed in the smallest form that loses nothing.

    Args:
        parts: (out_i, in) float32 matrices, read as one on top of the other. They are kept, not copied.
        bias: (out,), or None.
        pack: False leaves the weights as they are.
    Attributes:
        form: "half" (packed float16), "packed" (packed float32) or "plain".
    """

    def __init__(self, parts: Sequence[Tensor], bias: Tensor | None = None, pack: bool = True) -> None:
        self.parts, self.bias = [part.detach() for part in parts], bias
        self.n_rows = sum(len(part) for part in parts)
        self.form, self._scale = "plain", 1.0
        self._packed: Any = None
        self._whole: Tensor | None = None
        weight = torch.cat(self.parts) if len(self.parts) > 1 else self.parts[0]
        if pack and weight.device.type == "cpu" and weight.dtype == torch.float32:
            try:
                self._pack_half(weight) or self._pack_whole(weight)
            except (RuntimeError, AttributeError, NotImplementedError):  # the operators are private: they may be gone
                self.form, self._packed = "plain", None
        if self.form == "plain":
            self._whole = weight

    def _pack_half(self, weight: Tensor) -> bool:
        if torch.backends.quantized.engine not in ("x86", "fbgemm"):
            return False
        power = 14 - math.frexp(weight.abs().max().item() or 1.0)[1]  # so the largest weight lies in [2**13, 2**14)
        scaled = weight * 2.0**power
        if not torch.equal(scaled.half().float(), scaled):
            return False
        self._packed, self._scale = torch.ops.quantized.linear_prepack_fp16(scaled, None), 2.0**-power
        self.form = "half"
        return True

    def _pack_whole(self, weight: Tensor) -> bool:
        self._packed, self.form = torch.ops.mkldnn._reorder_linear_weight(weight, 8), "packed"
        self(weight[:2])
        return True

    def __call__(self, rows: Tensor) -> Tensor:
        """(n, in) float32 to (n, out)."""
        if self._whole is not None:
            return functional.linear(rows, self._whole, self.bias)
        if len(rows) >= MANY_ROWS:
            product = torch.cat([functional.linear(rows, part) for part in self.parts], -1)
        elif self.form == "half":
            # A power of two is exact on either side: it goes to the narrower one.
            if rows.shape[1] < self.n_rows:
                product = torch.ops.quantized.linear_dynamic_fp16(rows * self._scale, self._packed)
            else:
                product = torch.ops.quantized.linear_dynamic_fp16(rows, self._packed).mul_(self._scale)
        else:
            product = torch.ops.mkldnn._linear_pointwise(rows, self._packed, None, "none", [], "")
        return product if self.bias is None else product.add_(self.bias)


def _matrix(linears: Sequence[Any], pack: bool) -> Matrix:
    """Some linear layers over the same input as one Matrix."""
    if not all(type(linear) is nn.Linear for linear in linears):
        raise NotLean("a layer is no plain matrix (an adapter that is not merged, or quantised weights)")
    biases = [linear.bias for linear in linears]
    if any(bias is not None for bias in biases):
        rows = [torch.zeros(len(linear.weight)) if linear.bias is None else linear.bias for linear in linears]
        return Matrix([linear.weight for linear in linears], torch.cat(rows).detach(), pack)
    return Matrix([linear.weight for linear in linears], None, pack)


# --- one layer ------------------------------------------------------------------------------------------------------


class Layer:
    """One decoder layer: attention over the rows so far, then the gated MLP, each after a normalisation.

    Args:
        qkv, out, gate_up, down: its four products.
        norms: weights of the two normalisations; eps: what they add to the mean square.
        n_heads, n_kv: heads of queries, and of keys and values.
    """

    def __init__(
        self,
        qkv: Matrix,
        out: Matrix,
        gate_up: Matrix,
        down: Matrix,
        norms: tuple[Tensor, Tensor],
        eps: float,
        n_heads: int,
        n_kv: int,
        head_width: int,
        scaling: float,
    ) -> None:
        self.qkv, self.out, self.gate_up, self.down, self.norms, self.eps = qkv, out, gate_up, down, norms, eps
        self.n_heads, self.n_kv, self.head_width, self.scaling = n_heads, n_kv, head_width, scaling

    def __call__(
        self,
        rows: Tensor,
        turn: tuple[Tensor, Tensor],
        mask: Tensor | None,
        cache: "LayerCache",
        only_last: bool = False,
    ) -> Tensor:
        """(n, H) to (n, H); the rows' keys and values are appended to the cache.

        Args:
            turn: cosine and sine (n, 1, head width) of the rows' places.
            mask: (n, 1, length + n) to add to the scores, or None where every row sees everything.
            only_last: return the last row alone, (1, H): what it reads of the others is in the cache.
        """
        n, width = len(rows), self.head_width
        heads = self.qkv(_rms_norm(rows, self.norms[0], self.eps)).view(n, self.n_heads + 2 * self.n_kv, width)
        n_turned = self.n_heads + self.n_kv
        turned = _rotate(heads[:, :n_turned], *turn)
        keys, values = cache.append(turned[:, self.n_heads :], heads[:, n_turned:])  # (kv, length + n, width)
        if only_last:
            rows, turned, mask, n = rows[-1:], turned[-1:], None if mask is None else mask[-1:], 1
        # Each key serves a group of query heads: their rows stand side by side in one product.
        group = self.n_heads // self.n_kv
        queries = turned[:, : self.n_heads].reshape(n, self.n_kv, group, width).transpose(0, 1)
        scores = torch.bmm(queries.reshape(self.n_kv, n * group, width), keys.transpose(1, 2)).mul_(self.scaling)
        if mask is not None:
            scores = scores.view(self.n_kv, n, group, -1).add_(mask).view(self.n_kv, n * group, -1)
        mixed = torch.bmm(torch.softmax(scores, -1), values)  # (kv, n * group, width)
        mixed = mixed.view(self.n_kv, n, group, width).transpose(0, 1).reshape(n, self.n_heads * width)
        rows = rows + self.out(mixed)
        gate, up = self.gate_up(_rms_norm(rows, self.norms[1], self.eps)).chunk(2, -1)
        return rows + self.down(functional.silu(gate).mul_(up))


def _rms_norm(rows: Tensor, weight: Tensor, eps: float) -> Tensor:
    return rows * torch.rsqrt(rows.square().mean(-1, keepdim=True).add_(eps)) * weight


def _rotate(heads: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions: (n, heads, width), pairs half a width apart."""
    half = heads.shape[-1] // 2
    return heads * cosine + torch.cat([-heads[..., half:], heads[..., :half]], -1) * sine


class LayerCache:
    """Keys and values of one layer, in a block with room to grow."""

    def __init__(
        self, n_kv: int, width: int, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        self.length = 0
        self.block = torch.empty(2, n_kv, FIRST_ROOM, width, device=device, dtype=dtype)

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add (n, kv, width) rows; returns all keys and all values, (kv, length, width) each."""
        end = self.length + len(keys)
        if end > self.block.shape[2]:
            larger = self.block.new_empty(2, self.block.shape[1], 2 * end, self.block.shape[3])
            larger[:, :, : self.length] = self.block[:, :, : self.length]
            self.block = larger
        self.block[0, :, self.length : end] = keys.transpose(0, 1)
        self.block[1, :, self.length : end] = values.transpose(0, 1)
        self.length = end
        return self.block[0, :, :end], self.block[1, :, :end]

    def crop(self, length: int) -> None:
        self.length = min(self.length, length)

    def keep(self, start: int, rows: Sequence[int]) -> None:
        if list(rows) != list(range(len(rows))):
            picked = self.block[:, :, [start + row for row in rows]]
            self.block[:, :, start : start + len(rows)] = picked
        self.length = start + len(rows)


def additive(mask: Tensor | None, n: int, length: int, device: torch.device | None = None) -> Tensor | None:
    """A mask over the last k rows (see Forward.feed) as numbers to add to scores: (n, 1, length + n), or None."""
    if mask is None:
        if n == 1:
            return None
        mask = torch.ones(n, n, dtype=torch.bool, device=device).tril()
    whole = torch.zeros(n, 1, length + n, device=device)
    whole[:, 0, length + n - mask.shape[1] :].masked_fill_(~mask, -torch.inf)
    return whole


# --- the trunk ------------------------------------------------------------------------------------------------------


class NotLean(ValueError):
    """A model that this forward does not know. Its own forward is the way."""


class Weights:
    """The weights of a Llama-like model, packed once and shared by all forwards over it.

    Raises:
        NotLean: the model is built otherwise, or is not in float32 on a CPU.
    """

    def __init__(self, model: Any, pack: bool = True) -> None:
        trunk = trunk_of(model)
        config = trunk.config
        head = Head.of(model)
        if head.scale != 1.0 or head.softcap is not None:
            raise NotLean("its logits are scaled or capped")
        self.embedding: Tensor = getattr(getattr(trunk, "embed_tokens", None), "weight", torch.empty(0, 0)).detach()
        for weight in (head.weight, self.embedding):
            if not weight.numel() or weight.device.type != "cpu" or weight.dtype != torch.float32:
                raise NotLean("it is not in float32 on a CPU")
        if getattr(config, "hidden_act", None) != "silu" or not hasattr(trunk, "rotary_emb"):
            raise NotLean("its layers are not Llama's")
        self.layers = [_layer(layer, pack) for layer in trunk.layers]
        self.norm, self.eps = trunk.norm.weight.detach(), trunk.norm.variance_epsilon
        self.head = Matrix([head.weight], None if head.bias is None else head.bias.detach(), pack)
        self.rotary = trunk.rotary_emb
        self.turns: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    def turn(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine of some places, (n, 1, head width) each, from the model's own table."""
        last = int(positions.max())
        if last >= len(self.turns[0]):
            places = torch.arange(2 * max(last + 1, FIRST_ROOM))[None]
            cosine, sine = self.rotary(self.embedding[:1], places)  # (1, places, head width)
            self.turns = (cosine[0, :, None].contiguous(), sine[0, :, None].contiguous())
        return self.turns[0][positions], self.turns[1][positions]


_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}


def _layer(layer: Any, pack: bool) -> Layer:
    """One of the model's layers, where it has Llama's parts and no others."""
    parts = {name for name, child in layer.named_children()}
    if parts != _LAYER_PARTS:
        raise NotLean("its layers are not Llama's")
    attention, mlp = layer.self_attn, layer.mlp
    inner = {name for name, child in attention.named_children()}
    if inner - {"rotary_emb"} != _ATTENTION_PARTS or not hasattr(mlp, "gate_proj"):
        raise NotLean("its layers are not Llama's")
    if getattr(attention, "sliding_window", None):
        raise NotLean("its attention slides")
    width = attention.head_dim
    before, between = layer.input_layernorm, layer.post_attention_layernorm
    return Layer(
        _matrix([attention.q_proj, attention.k_proj, attention.v_proj], pack),
        _matrix([attention.o_proj], pack),
        _matrix([mlp.gate_proj, mlp.up_proj], pack),
        _matrix([mlp.down_proj], pack),
        (before.weight.detach(), between.weight.detach()),
        before.variance_epsilon,
        n_heads=attention.q_proj.out_features // width,
        n_kv=attention.k_proj.out_features // width,
        head_width=width,
        scaling=attention.scaling,
    )


class LeanForward:
    """A Forward (see forward.py) over packed weights, with a cache of its own.

    Attributes:
        error: the largest difference of its logits from the model's own on the probe, where it was measured.
    """

    def __init__(self, weights: Weights, vocabulary_size: int, error: float = 0.0) -> None:
        self.weights, self.vocabulary_size, self.error = weights, vocabulary_size, error
        self.n_layers, self.width = len(weights.layers), weights.embedding.shape[1]
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self.caches = [LayerCache(layer.n_kv, layer.head_width) for layer in weights.layers]

    @property
    def length(self) -> int:
        return self.caches[-1].length

    def fresh(self) -> "LeanForward":
        return LeanForward(self.weights, self.vocabulary_size, self.error)

    @torch.inference_mode()
    def feed(self, ids: Ids, positions: Sequence[int] | None = None, mask: Tensor | None = None) -> Tensor:
        return self.norm(self.run(self.embed(ids), 0, self.n_layers, positions, mask))

    @torch.inference_mode()
    def embed(self, ids: Ids) -> Tensor:
        return self.weights.embedding[torch.as_tensor(ids, dtype=torch.int64)]

    @torch.inference_mode()
    def run(
        self,
        hidden: Tensor,
        first: int,
        last: int,
        positions: Sequence[int] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        n, length = len(hidden), self.length_at(first)
        places = torch.arange(length, length + n)
        if positions is not None:
            places = torch.as_tensor(positions, dtype=torch.int64)
        turn, blocked = self.weights.turn(places), additive(mask, n, length)
        for layer, cache in zip(self.weights.layers[first:last], self.caches[first:last], strict=True):
            hidden = layer(hidden, turn, blocked, cache)
        return hidden

    @torch.inference_mode()
    def norm(self, hidden: Tensor) -> Tensor:
        return _rms_norm(hidden, self.weights.norm, self.weights.eps)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        return self.weights.head(hidden)[:, : self.vocabulary_size]

    def length_at(self, layer: int) -> int:
        return self.caches[layer].length

    def crop(self, length: int) -> None:
        for cache in self.caches:
            cache.crop(max(0, length))

    @torch.inference_mode()
    def keep(self, start: int, rows: Sequence[int]) -> None:
        for cache in self.caches:
            cache.keep(start, rows)


# --- is it the model? -----------------------------------------------------------------------------------------------

_made: "WeakKeyDictionary[Any, tuple[Any, LeanForward | None]]" = WeakKeyDictionary()


def lean_forward_of(
    model: Any, vocabulary_size: int, error_of: Callable[[LeanForward], float | None]
) -> LeanForward | None:
    """A lean forward of this model, or None where the model's own forward is the way.

    Packing takes about two seconds; packed weights are kept for as long as the model lives and is not changed.

    Args:
        model: a causal language model in evaluation mode.
        vocabulary_size: rows of the head that name tokens.
        error_of: holds an empty lean forward against the model's own; the largest difference of a logit, or None where
            the two are not the same model.
    """
    base = model.get_base_model() if hasattr(model, "peft_config") else model
    state = [(weight.data_ptr(), weight._version) for weight in base.parameters()]
    known = _made.get(base)
    if known is None or known[0] != state:
        known = (state, _checked(model, vocabulary_size, error_of))
        _made[base] = known
    forward = known[1]
    return None if forward is None else LeanForward(forward.weights, vocabulary_size, forward.error)


def _checked(model: Any, vocabulary_size: int, error_of: Callable[[LeanForward], float | None]) -> LeanForward | None:
    try:
        lean = LeanForward(Weights(model), vocabulary_size)
        error = error_of(lean)
    except (NotLean, AttributeError, TypeError, RuntimeError, ValueError):  # built otherwise: not ours to run
        return None
    if error is None:
        return None
    lean.error = error
    return lean
