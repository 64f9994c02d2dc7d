"""What the gated loss costs: against TRL's chunked divergence, plain autograd, and the matrix products alone.

    python tests/bench/bench_loss.py [--rows 1024] [--repeats 7] [--only speed,memory,growth,gates]
    python tests/bench/bench_loss.py --device cuda --dtype bfloat16 --rows 8192 --only speed,gates

Times are medians of runs taken in turns in one process (A B C, A B C, ...), so that a busy machine slows all alike.
Memory is the growth of the peak resident size over the inputs, each case in a process of its own (on a CPU alone).

The peer is TRL 1.16.0's ``ChunkedDivergenceFunction``, which ``make bench`` installs; by hand
``pip install --constraint constraints.txt trl``. Without it, its rows are left out.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import speckd
from speckd.gates import Gate
from speckd.loss import gated_loss

HIDDEN, VOCABULARY = 576, 49_152  # SmolLM2-135M's
ACCEPTANCE = 0.7
PEER_VERSION = "1.16.0"


class Rows:
    """Random hidden states and one head, with Top-k's acceptance rate at k = 5 set by how far the student strays."""

    def __init__(self, n_rows: int, place: dict[str, Any] | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        place = place or {}
        head = torch.randn(VOCABULARY, HIDDEN, generator=generator) / math.sqrt(HIDDEN)
        self.head, self.teacher_head = head.to(**place), head.clone().to(**place)
        # Scaled so that the teacher's entropy is a few nats, as a language model's is, not a flat distribution's 10.8.
        teacher = torch.randn(n_rows, HIDDEN, generator=generator) * 4.0
        noise = torch.randn(n_rows, HIDDEN, generator=generator)
        self.teacher, self.student = teacher.to(**place), (teacher + STRAY * noise).to(**place).requires_grad_()


STRAY = 1.45  # gives a token acceptance rate of about 0.7 at k = 5


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=int, default=1024)
    options.add_argument("--repeats", type=int, default=7)
    options.add_argument("--only", default="speed,gates,growth,memory", help="parts to run, with commas between")
    options.add_argument("--device", default="cpu")
    options.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    options.add_argument("--peak-of", nargs=2, metavar=("CASE", "ROWS"), help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.peak_of:
        print(json.dumps(peak_bytes(chosen.peak_of[0], int(chosen.peak_of[1]))))
        return
    place = {"device": chosen.device, "dtype": getattr(torch, chosen.dtype)}
    where = torch.cuda.get_device_name() if chosen.device == "cuda" else f"{torch.get_num_threads()} threads"
    print(f"{where}; torch {torch.__version__}; {chosen.dtype}; H {HIDDEN}, V {VOCABULARY}")
    parts = {"speed": speed_table, "gates": gates_table, "growth": growth_table, "memory": memory_table}
    for name in chosen.only.split(","):
        parts[name](chosen.rows, chosen.repeats, place)


# --- the contestants ----------------------------------------------------------------------------------------------


def ours(rows: Rows, gate: Gate, divergence: str = "forward_kl") -> float:
    out = gated_loss(rows.student, rows.head, rows.teacher, rows.teacher_head, gate, divergence)
    out.loss.backward()
    rows.student.grad = None
    return out.tar


def plain(rows: Rows) -> None:
    """What one writes first: both models' full logits, and autograd."""
    student = (rows.student @ rows.head.t()).log_softmax(-1)
    with torch.no_grad():
        teacher = (rows.teacher @ rows.teacher_head.t()).log_softmax(-1)
        weights = speckd.TopK().weigh(speckd.TopK().score(teacher, student))
    (weights * speckd.forward_kl(teacher, student)).mean().backward()
    rows.student.grad = None


def peer() -> Callable[[Rows, float], None] | None:
    """TRL's function, ungated as it is: its beta names the divergence, 0 being forward KL."""
    try:
        import trl
        from trl.kernels.chunked_divergence import ChunkedDivergenceFunction
    except ImportError as reason:
        print(f"The peer's rows are left out: pip install --constraint constraints.txt trl ({reason}).")
        return None
    if trl.__version__ != PEER_VERSION:
        print(f"The peer is TRL {trl.__version__}, where the stated ratios are against {PEER_VERSION}.")

    def run(rows: Rows, beta: float = 0.0) -> None:
        divergence, _ = ChunkedDivergenceFunction.apply(
            rows.student, rows.head, None, rows.teacher, rows.teacher_head, None, beta
        )
        divergence.mean().backward()
        rows.student.grad = None

    return run


def three_products(rows: Rows) -> None:
    """The least that any exact method does: two projections and the gradient's product, by the chunk size of ours."""
    logits, gradient = rows.head.new_empty(256, VOCABULARY), rows.head.new_empty(256, HIDDEN)
    with torch.no_grad():
        for start in range(0, len(rows.student), 256):
            n = len(rows.student[start : start + 256])
            torch.mm(rows.teacher[start : start + 256], rows.teacher_head.t(), out=logits[:n])
            torch.mm(rows.student[start : start + 256], rows.head.t(), out=logits[:n])
            torch.mm(logits[:n], rows.head, out=gradient[:n])


# --- the tables ---------------------------------------------------------------------------------------------------


def in_turns(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, one after another in every round; the first round warms up and is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in work.items():
            start = time.perf_counter()
            run()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: dict[str, list[float]], first: str, second: str) -> float:
    """The median of the ratios of neighbours: what both suffered from the machine divides out."""
    return statistics.median(a / b for a, b in zip(seconds[first], seconds[second], strict=True))


def table(head: list[str], body: list[list[str]]) -> None:
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in body:
        print("| " + " | ".join(row) + " |")


def speed_table(n_rows: int, repeats: int, place: dict[str, Any]) -> None:
    rows = Rows(n_rows, place)
    tar = ours(rows, speckd.TopK())
    work: dict[str, Callable[[], object]] = {
        "three matrix products": lambda: three_products(rows),
        "ours, Top-k, beta 0": lambda: ours(rows, speckd.TopK(beta=0.0)),
        "ours, Top-k, beta 0.01": lambda: ours(rows, speckd.TopK()),
    }
    if (run := peer()) is not None:
        work["TRL (no gate)"] = lambda: run(rows, 0.0)
    if n_rows <= 1024 or place["device"] == "cuda":
        work["plain autograd"] = lambda: plain(rows)
    seconds = in_turns(work, repeats)
    print(f"\nForward KL, forward and backward, {n_rows} rows, TAR {tar:.2f}, medians of {repeats}")
    body = []
    for name in work:
        cells = [
            name,
            f"{statistics.median(seconds[name]):.3f}",
            f"{ratio(seconds, name, 'three matrix products'):.2f}",
        ]
        for case in ("ours, Top-k, beta 0", "ours, Top-k, beta 0.01"):
            cells.append(f"{ratio(seconds, name, case):.2f}")
        body.append(cells)
    table(["what", "seconds", "/ three products", "/ ours, beta 0", "/ ours, beta 0.01"], body)


def gates_table(n_rows: int, repeats: int, place: dict[str, Any]) -> None:
    rows = Rows(n_rows, place)
    gates: dict[str, Gate] = {
        "none": speckd.AllOpen(),
        "topk, beta 0.01": speckd.TopK(),
        "topk, beta 0": speckd.TopK(beta=0.0),
        "speck, beta 0.01": speckd.SpecK(),
        "speck, beta 0": speckd.SpecK(beta=0.0),
        "hellinger": speckd.HellingerWeight(),
        "random 0.5": speckd.RandomTokens(),
        "student_entropy 0.2": speckd.StudentEntropy(),
        "adakd 0.5": speckd.AdaKD(),
    }
    work: dict[str, Callable[[], object]] = {name: (lambda gate=gate: ours(rows, gate)) for name, gate in gates.items()}
    seconds = in_turns(work, repeats)
    print(f"\nGates, forward KL, {n_rows} rows, medians of {repeats}")
    body = [[name, f"{statistics.median(seconds[name]):.3f}", f"{ratio(seconds, name, 'none'):.3f}"] for name in work]
    table(["gate", "seconds", "/ none"], body)
    work = {name: (lambda name=name: ours(rows, speckd.TopK(), name)) for name in speckd.DIVERGENCES}
    seconds = in_turns(work, repeats)
    body = [
        [name, f"{statistics.median(seconds[name]):.3f}", f"{ratio(seconds, name, 'forward_kl'):.2f}"] for name in work
    ]
    table(["divergence", "seconds", "/ forward_kl"], body)


def growth_table(n_rows: int, repeats: int, place: dict[str, Any]) -> None:
    few, many = Rows(1024, place), Rows(8192, place)
    gate = speckd.TopK()
    seconds = in_turns({"1024": lambda: ours(few, gate), "8192": lambda: ours(many, gate)}, repeats)
    memory = {n: peak_in_a_process("ours", n) for n in (1024, 8192)}
    print(f"\nGrowth from 1,024 to 8,192 rows, Top-k, beta 0.01, medians of {repeats}")
    table(
        ["what", "1,024", "8,192", "8,192 / 1,024"],
        [
            ["milliseconds a row"]
            + [f"{1000 * statistics.median(seconds[str(n)]) / n:.3f}" for n in (1024, 8192)]
            + [f"{ratio(seconds, '8192', '1024') / 8:.3f}"],
            ["peak MiB beyond inputs and gradient"]
            + [f"{memory[n] / 2**20:.1f}" for n in (1024, 8192)]
            + [f"{memory[8192] / memory[1024]:.3f}"],
        ],
    )


def memory_table(n_rows: int, repeats: int, place: dict[str, Any]) -> None:
    memory = {case: peak_in_a_process(case, 4096) for case in ("ours", "ours, beta 0", "plain")}
    print("\nPeak memory beyond inputs and the returned gradient, 4,096 rows")
    table(
        ["what", "MiB", "/ plain autograd"],
        [[case, f"{value / 2**20:.0f}", f"{value / memory['plain']:.3f}"] for case, value in memory.items()],
    )


def peak_in_a_process(case: str, n_rows: int) -> int:
    command = [sys.executable, __file__, "--peak-of", case, str(n_rows)]
    # Every freed tensor goes back to the system at once: a peak that reuses leftovers would look too small.
    exact = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**18)}
    return int(json.loads(subprocess.run(command, check=True, capture_output=True, text=True, env=exact).stdout))


def peak_bytes(case: str, n_rows: int) -> int:
    """Growth of the peak resident size while the case runs, less the (N, H) gradient that it returns."""
    cases: dict[str, Callable[[Rows], object]] = {
        "ours": lambda rows: ours(rows, speckd.TopK()),
        "ours, beta 0": lambda rows: ours(rows, speckd.TopK(beta=0.0)),
        "plain": plain,
    }
    work = cases[case]
    work(Rows(8))  # threads, kernels and workspaces that any first call sets up
    rows = Rows(n_rows)
    with open("/proc/self/clear_refs", "w") as references:
        references.write("5")  # Linux: the peak counts from here; a child's ru_maxrss begins with its parent's
    before = status_bytes("VmRSS")
    work(rows)
    return status_bytes("VmHWM") - before - rows.student.nbytes


def status_bytes(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024


if __name__ == "__main__":
    main()
