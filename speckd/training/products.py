"""Matrix products in bfloat16 where the processor has units for them (AMX), chosen by a measurement.

Everything stays float32: weights, activations, softmax, sums, optimizer. What changes is how two float32 matrices are
multiplied: oneDNN rounds the factors to bfloat16 (8 bits of precision) and adds up in float32. On a processor without
such units nothing is gained, so "auto" asks a stopwatch.
"""

import contextlib
import time
from collections.abc import Iterator
from functools import cache

import torch

PRODUCTS = ("full", "bf16", "auto")
GAIN = 1.25  # how many times faster "auto" wants them to be
_SHAPE = (384, 576, 8192)  # the rows of a step, a width and a part of a vocabulary
_TURNS = 3


@contextlib.contextmanager
def products_in_bfloat16(wanted: bool = True) -> Iterator[None]:
    """Within it, float32 products on the CPU round their factors to bfloat16; a GPU's are not touched."""
    setting = getattr(torch.backends.mkldnn, "matmul", None)
    if not wanted or setting is None:
        yield
        return
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


@cache
def gain_here() -> float:
    """How many times faster a product of a step is that way, on this machine and now: the fastest of each, in turns."""
    rows, width, tokens = _SHAPE
    hidden, weight = torch.ones(rows, width), torch.ones(tokens, width)
    out = torch.empty(rows, tokens)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(_TURNS + 1):
        for fast, times in seconds.items():
            with products_in_bfloat16(fast):
                started = time.perf_counter()
                torch.mm(hidden, weight.t(), out=out)
                if turn:  # the first turn warms up
                    times.append(time.perf_counter() - started)
    return min(seconds[False]) / min(seconds[True])


def are_fast(asked: str, device: torch.device) -> bool:
    """Whether a training on a device takes its products in bfloat16.

    Args:
        asked: "full" never, "bf16" always, "auto" where a short measurement finds it faster.
    """
    if device.type != "cpu" or asked == "full":
        return False
    return asked == "bf16" or gain_here() >= GAIN
