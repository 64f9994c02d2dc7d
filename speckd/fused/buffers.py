"""Memory for the chunks of a loss, kept from step to step.

The system takes large tensors back when they are freed, and gives fresh pages, zeroed one by one, when they are made
again: some 150 MB at every step of a training. A training lends the loss its own buffers instead.
"""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor


class Buffers:
    """Tensors by name, made anew only where a larger one is asked for."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, torch.dtype, torch.device], Tensor] = {}

    def take(self, name: str, rows: int, columns: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """An uninitialised (rows, columns) tensor; what it held the last time is lost."""
        key = (name, dtype, like.device)
        kept = self._kept.get(key)
        if kept is None or len(kept) < rows * columns:
            self._kept.pop(key, None)  # before its successor is made, so that the two never lie side by side
            kept = self._kept[key] = like.new_empty(rows * columns, dtype=dtype)
        return kept[: rows * columns].view(rows, columns)


_lent: ContextVar[Buffers | None] = ContextVar("_lent", default=None)


@contextlib.contextmanager
def lend(buffers: Buffers) -> Iterator[None]:
    """Within it, and in this thread, losses take their chunks' memory from these buffers."""
    token = _lent.set(buffers)
    try:
        yield
    finally:
        _lent.reset(token)


def taken() -> Buffers:
    """The buffers that are lent here, or new ones for one call."""
    return _lent.get() or Buffers()
