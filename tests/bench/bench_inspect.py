"""What inspect costs over the two bare forward passes it cannot do without: time, and peak memory.

    python tests/bench/bench_inspect.py [--repeats 5] [--tokens 200]
    python tests/bench/bench_inspect.py --device cuda --dtype bfloat16

Time: inspect of a given text against ``teacher(ids)`` and ``student(ids)`` over the same tokens, in turns in one
process; medians. Memory: each length in a process of its own, the growth of the peak resident size over the loaded
pair after a warm-up, against one (T, V) float32 matrix at T = 1,024; on a CPU alone.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch

import speckd

TEXT = (
    "The sky looks blue because sunlight is scattered by the air. Short waves are scattered far more than long ones, "
    "so from every direction some blue light reaches the eye. At sunset the path through the air is longer, most of "
    "the blue is lost on the way, and the red and orange that remain colour the clouds. "
)
LENGTHS = (256, 1024, 2048, 4096)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--tokens", type=int, default=200)
    options.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    options.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.memory_of:
        print(peak_of(chosen.memory_of))
        return
    pair = speckd.load_pair(device=chosen.device, dtype=chosen.dtype)
    time_ratio(pair, chosen.tokens, chosen.repeats)
    if chosen.device == "cpu":
        memory_table()


def text_of(pair: speckd.Pair, n_tokens: int) -> str:
    """A text of exactly so many tokens."""
    ids = pair.tokenizer(TEXT * (n_tokens // 40 + 1))["input_ids"]
    text = pair.tokenizer.decode(ids[:n_tokens])
    assert len(pair.tokenizer(text)["input_ids"]) == n_tokens
    return text


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.inference_mode()
def time_ratio(pair: speckd.Pair, n_tokens: int, repeats: int) -> None:
    text = text_of(pair, n_tokens)
    ids = speckd.inspect(pair, "Why is the sky blue?", response=text).input_ids[None].to(pair.device)

    def bare() -> None:
        pair.teacher(ids)
        pair.student(ids)

    def ours() -> None:
        speckd.inspect(pair, "Why is the sky blue?", response=text)

    bare()
    rows = [(seconds(bare), seconds(ours)) for _ in range(repeats)]
    bare_median, ours_median = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(own / other for other, own in rows)
    print(f"{n_tokens} response tokens of {ids.shape[1]}, {torch.get_num_threads()} threads, medians of {repeats}")
    print("| two bare forward passes | inspect | ratio |\n|---|---|---|")
    print(f"| {bare_median:.3f} s | {ours_median:.3f} s | {ratio:.2f} |")


def peak_of(n_tokens: int) -> float:
    """MiB that one inspect of a text of so many tokens adds to the resident size of the loaded, warmed-up pair."""
    pair = speckd.load_pair()
    prompt_length = speckd.inspect(pair, "Why?", response=text_of(pair, 40)).n_prompt  # warm-up
    text = text_of(pair, n_tokens - prompt_length)
    with open("/proc/self/clear_refs", "w") as references:
        references.write("5")  # Linux: the peak counts from here, not from loading
    before = _status_mib("VmRSS")
    speckd.inspect(pair, "Why?", response=text)
    return _status_mib("VmHWM") - before


def _status_mib(name: str) -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1024


def memory_table() -> None:
    matrix_mib = 1024 * 49_152 * 4 / 2**20
    print(f"\npeak memory beyond the loaded pair; one (1,024, 49,152) float32 matrix is {matrix_mib:.0f} MiB")
    print("| T | peak extra MiB | of that matrix |\n|---|---|---|")
    for length in LENGTHS:
        # Every large buffer goes back to the system when it is freed: the peak of what is in use, not of what is kept.
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
        command = [sys.executable, __file__, "--memory-of", str(length)]
        done = subprocess.run(command, capture_output=True, check=True, env=environment)
        extra_mib = float(done.stdout.splitlines()[-1])
        print(f"| {length} | {extra_mib:.0f} | {extra_mib / matrix_mib:.2f} |")


if __name__ == "__main__":
    main()
