"""One model over one sequence: rows go in, hidden states come out, and the cache is cut back, never recomputed.

Everything in this package talks to a model through ``Forward``. ``ModelForward`` is the model's own forward pass and
fits any causal language model on any device; a lean one for Llama-like trunks is taken where it passes its check
against the model. A Forward holds one sequence's cache and is not shared between threads; ``fresh`` gives another over
the same weights, which costs nothing.

n is the number of new rows, m the rows of the cache (prompt and text so far), H the hidden width, V the vocabulary.
"""

from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from speckd.decoding.lean import lean_forward_of
from speckd.heads import Head, trunk_of

Ids = Sequence[int] | Tensor
NEAR_TIE_FACTOR = 10.0  # two logits closer than this many measured errors of a batched pass are decided by one row
_PROBE_ROWS = 12  # rows of the text on which a forward is checked and its error measured
_CHECK_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of the largest hidden state; 5e-2 for 16 bits


class Forward(Protocol):
    """What the rounds, the drafts and the clock need of a model.

    Attributes:
        length: rows in the cache.
        n_layers: layers of the trunk.
        width: H.
        vocabulary_size: V, rows that ``logits`` returns; padded rows of the head are cut.
        device, dtype: of the weights and of the hidden states.
    """

    n_layers: int
    width: int
    vocabulary_size: int
    device: torch.device
    dtype: torch.dtype

    @property
    def length(self) -> int: ...

    def fresh(self) -> "Forward":
        """An empty forward over the same weights."""
        ...

    def feed(self, ids: Ids, positions: Sequence[int] | None = None, mask: Tensor | None = None) -> Tensor:
        """Append rows to the cache.

        Args:
            ids: n token ids.
            positions: their places in the text; by default those after the cache's last row, one by one.
            mask: (n, k) bool with n <= k <= length + n: which of the *last k rows*, the new ones included, each row
                sees; all rows before those are seen by all. A row sees itself. By default causal.
        Returns:
            (n, H), the hidden states that the head reads.
        """
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """The head on some rows: (n, H) to (n, V) float32."""
        ...

    def crop(self, length: int) -> None:
        """Cut every layer's cache to its first ``length`` rows (a layer that holds fewer is left as it is)."""
        ...

    def keep(self, start: int, rows: Sequence[int]) -> None:
        """Of the rows from ``start`` on keep ``start + row`` for these rows, ascending: an accepted path of a tree."""
        ...


class LayeredForward(Forward, Protocol):
    """A forward that also runs part of its depth: for drafts that leave the teacher early.

    ``feed(ids)`` is ``norm(run(embed(ids), 0, n_layers))``. Layers may hold caches of different length.
    """

    def embed(self, ids: Ids) -> Tensor:
        """(n, H) the input of the first layer."""
        ...

    def run(
        self,
        hidden: Tensor,
        first: int,
        last: int,
        positions: Sequence[int] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Layers first to last - 1 on (n, H), appended to those layers' caches, which hold equally many rows."""
        ...

    def norm(self, hidden: Tensor) -> Tensor:
        """The trunk's last normalisation, as the head expects it."""
        ...

    def length_at(self, layer: int) -> int:
        """Rows in one layer's cache."""
        ...


def ids_tensor(ids: Ids, device: torch.device) -> Tensor:
    """(n,) int64 on the device."""
    return torch.as_tensor(ids, dtype=torch.int64).to(device)


class ModelForward:
    """The model's own forward pass, with a cache of transformers' that can be cropped.

    Args:
        model: a causal language model in evaluation mode.
        vocabulary_size: rows of the head that name tokens; all of them by default.
    """

    def __init__(self, model: Any, vocabulary_size: int | None = None) -> None:
        self.model, self.trunk, self.head = model, trunk_of(model), Head.of(model)
        self.vocabulary_size = vocabulary_size or self.head.weight.shape[0]
        self.n_layers = self.trunk.config.num_hidden_layers
        self.width = self.head.weight.shape[1]
        self.device, self.dtype = self.head.weight.device, self.head.weight.dtype
        self._embedded_on = model.get_input_embeddings().weight.device  # a large model may lie on several devices
        self._reset()

    def _reset(self) -> None:
        from transformers import DynamicCache

        self.cache: Any = DynamicCache(config=self.trunk.config)
        self._length = 0
        # Sliding layers forget rows beyond their window unless they are told that a crop may come.
        if hasattr(self.cache, "activate_past_recording"):
            self.cache.activate_past_recording()

    @property
    def length(self) -> int:
        return self._length

    def fresh(self) -> "ModelForward":
        return ModelForward(self.model, self.vocabulary_size)

    def feed(self, ids: Ids, positions: Sequence[int] | None = None, mask: Tensor | None = None) -> Tensor:
        row_ids = ids_tensor(ids, self._embedded_on)
        extra: dict[str, Tensor] = {}
        if positions is not None:
            extra["position_ids"] = ids_tensor(positions, self._embedded_on)[None]
        if mask is not None:
            extra["attention_mask"] = self._additive(mask, self._length)
        with torch.inference_mode():
            output = self.trunk(input_ids=row_ids[None], past_key_values=self.cache, use_cache=True, **extra)
        self._length += len(row_ids)
        return output.last_hidden_state[0].to(self.device)

    def _additive(self, mask: Tensor, length: int) -> Tensor:
        """A mask of the last k rows as transformers wants it: (1, 1, n, length + n), 0 or the lowest number."""
        n_rows, n_last = mask.shape
        whole = torch.zeros((n_rows, length + n_rows), dtype=self.dtype, device=self.device)
        blocked = ~mask.to(self.device)
        whole[:, length + n_rows - n_last :].masked_fill_(blocked, torch.finfo(self.dtype).min)
        return whole[None, None]

    def logits(self, hidden: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.head.logits(hidden, self.vocabulary_size)

    def crop(self, length: int) -> None:
        if length <= 0:
            self._reset()
            return
        for layer in self.cache.layers:
            if (surplus := layer.get_seq_length() - length) > 0:
                layer.crop(-surplus)
        self._length = min(self._length, length)

    def keep(self, start: int, rows: Sequence[int]) -> None:
        if list(rows) != list(range(len(rows))):
            order = torch.tensor([*range(start), *(start + row for row in rows)], device=self.device)
            for layer in self.cache.layers:
                layer.keys, layer.values = layer.keys.index_select(-2, order), layer.values.index_select(-2, order)
            self._length = len(order)
        self.crop(start + len(rows))

    # --- part of the depth --------------------------------------------------------------------------------------

    def embed(self, ids: Ids) -> Tensor:
        with torch.inference_mode():
            return self.trunk.embed_tokens(ids_tensor(ids, self._embedded_on))

    def run(
        self,
        hidden: Tensor,
        first: int,
        last: int,
        positions: Sequence[int] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        length, n_rows = self.length_at(first), len(hidden)
        places = range(length, length + n_rows) if positions is None else positions
        position_ids = ids_tensor(list(places), self.device)[None]
        if mask is None and n_rows > 1:
            mask = torch.ones((n_rows, n_rows), dtype=torch.bool).tril()
        additive = None if mask is None else self._additive(mask, length)
        with torch.inference_mode():
            states = hidden[None]
            rotary = self.trunk.rotary_emb(states, position_ids=position_ids)
            for layer in self.trunk.layers[first:last]:
                states = layer(
                    states,
                    attention_mask=additive,
                    position_embeddings=rotary,
                    position_ids=position_ids,
                    past_key_values=self.cache,
                    use_cache=True,
                )
        if last == self.n_layers:
            self._length = length + n_rows
        return states[0]

    def norm(self, hidden: Tensor) -> Tensor:
        with torch.inference_mode():
            return self.trunk.norm(hidden)

    def length_at(self, layer: int) -> int:
        layers = self.cache.layers
        return layers[layer].get_seq_length() if layer < len(layers) else 0


# --- which one, and how exact ---------------------------------------------------------------------------------------


_cuts_back: "WeakKeyDictionary[Any, bool]" = WeakKeyDictionary()


def forward_of(model: Any, vocabulary_size: int | None = None, lean: bool = True) -> Forward:
    """The fastest forward of this model that gives the model's own logits.

    Args:
        model: a causal language model in evaluation mode.
        vocabulary_size: rows of the head that name tokens.
        lean: False for the model's own forward in any case.
    Raises:
        ValueError: the model's cache cannot be cut back, so that rejected tokens could not be taken out of it.
    """
    own = ModelForward(model, vocabulary_size)
    if lean and own.device.type == "cpu":
        faster = lean_forward_of(model, own.vocabulary_size, lambda candidate: _error_against(own, candidate))
        if faster is not None:
            return faster
    if model not in _cuts_back:
        try:
            _cuts_back[model] = difference(own.fresh(), own.fresh(), cropped=True) <= tolerance(own.dtype)
        except (AttributeError, RuntimeError, TypeError, NotImplementedError):
            _cuts_back[model] = False
    if not _cuts_back[model]:
        raise ValueError(
            f"{type(model).__name__} keeps a cache that cannot be cut back to an earlier token, and rejected drafts "
            "have to be taken out again: choose a model with plain attention."
        )
    return own


def _error_against(own: Forward, candidate: Forward) -> float | None:
    """The largest difference of a logit on the probe, or None where the two are not the same model."""
    farthest = max(difference(own.fresh(), candidate.fresh(), cropped) for cropped in (False, True))
    first, second = own.fresh(), candidate.fresh()
    ids = probe_ids(own.vocabulary_size)
    expected, came = first.logits(first.feed(ids)), second.logits(second.feed(ids))
    error = float((came - expected).abs().max())
    same = farthest <= tolerance(own.dtype) and error <= tolerance(own.dtype) * float(expected.abs().max())
    return error if same else None


def tolerance(dtype: torch.dtype) -> float:
    """How far two passes of one model may differ, as a share of the largest hidden state."""
    return _CHECK_TOLERANCE.get(dtype, 5e-2)


def probe_ids(vocabulary_size: int) -> list[int]:
    """The token ids on which forwards are compared: spread over the vocabulary, always the same."""
    return [(7 + 4241 * place) % vocabulary_size for place in range(_PROBE_ROWS)]


def difference(first: Forward, second: Forward, cropped: bool = False) -> float:
    """The largest difference of two forwards' hidden states on the probe, as a share of the largest one.

    Args:
        first, second: empty; both read the probe at once.
        cropped: the second reads it half, then four rows that are taken out again, then the rest.
    """
    ids = probe_ids(first.vocabulary_size)
    expected = first.feed(ids)
    if not cropped:
        came = second.feed(ids)
    else:
        half = len(ids) // 2
        came = second.feed(ids[:half])
        second.feed(ids[:4])
        second.crop(half)
        came = torch.cat([came, second.feed(ids[half:])])
    return float((came - expected).abs().max() / expected.abs().max())


def difference_in_layers(forward: LayeredForward, layer: int) -> float:
    """The same difference between a whole pass and one that stops after ``layer`` layers and goes on from there."""
    ids = probe_ids(forward.vocabulary_size)
    expected = forward.feed(ids)
    forward.crop(0)
    came = forward.norm(forward.run(forward.run(forward.embed(ids), 0, layer), layer, forward.n_layers))
    return float((came - expected).abs().max() / expected.abs().max())


def batched_error(forward: Forward, context: Ids | None = None) -> float:
    """How far the logits of a batched pass lie from those of one-row passes: the largest difference on the probe.

    Matrix products of several rows sum in another order than those of one. Where the two best logits lie closer than
    ``NEAR_TIE_FACTOR`` times this, a one-row pass decides.
    """
    ids = probe_ids(forward.vocabulary_size) if context is None else list(context)
    batched, single = forward.fresh(), forward.fresh()
    half = len(ids) // 2
    batched.feed(ids[:half])
    single.feed(ids[:half])
    at_once = batched.logits(batched.feed(ids[half:]))
    one_by_one = torch.cat([single.logits(single.feed([token])) for token in ids[half:]])
    return float((at_once - one_by_one).abs().max())


_errors: "WeakKeyDictionary[Any, dict[type, float]]" = WeakKeyDictionary()


def near_tie_of(target: Forward, model: Any) -> float:
    """The lead, in logits, up to which a one-row pass decides: ten times the measured error of a batched pass.

    In 16 bits passes of several rows round otherwise at many places, so nothing is asked again there (-1).
    """
    if target.dtype not in (torch.float32, torch.float64):
        return -1.0
    known = _errors.setdefault(model, {})
    if type(target) not in known:
        known[type(target)] = max(batched_error(target), getattr(target, "error", 0.0))
    return NEAR_TIE_FACTOR * known[type(target)]
