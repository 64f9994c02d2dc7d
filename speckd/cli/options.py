"""Options that several commands share."""

import argparse

from speckd.draws import K_MAX
from speckd.gates import DEFAULT_BETA, DEFAULT_K, Gate, gate_named
from speckd.jobs import OnProgress
from speckd.packaged import STUDENTS
from speckd.pairs import Pair, load_pair


def add_pair_options(command: argparse.ArgumentParser) -> None:
    """The options that choose teacher, student, device and dtype."""
    pair = command.add_argument_group("the pair")
    pair.add_argument("--teacher", default="packaged", metavar="NAME", help="packaged, a Hub id or a folder")
    pair.add_argument(
        "--student", default="healed", metavar="NAME", help=f"{', '.join(STUDENTS)}, a Hub id, a folder or an adapter"
    )
    pair.add_argument("--revision", metavar="COMMIT", help="of a teacher on the Hub")
    pair.add_argument("--student-revision", metavar="COMMIT", help="of a student on the Hub")
    pair.add_argument("--device", help="cpu, cuda, cuda:0 (default: a GPU where there is one)")
    pair.add_argument("--dtype", help="float32 or bfloat16 (default: bfloat16 on a GPU, float32 on a CPU)")


def pair_from(options: argparse.Namespace, follow: OnProgress, student: str | None = None) -> Pair:
    """The pair that the options choose, to be read and not to be trained: an adapter is merged.

    Args:
        student: instead of the one that the options name.
    """
    return load_pair(
        options.teacher,
        student or options.student,
        device=options.device,
        dtype=options.dtype,
        revision=options.revision,
        student_revision=options.student_revision,
        merge=True,
        on_progress=follow,
    )


def add_gate_options(command: argparse.ArgumentParser) -> None:
    """The options of one propose-and-verify gate."""
    gate = command.add_argument_group("the gate")
    gate.add_argument("--gate", choices=("topk", "speck", "none"), default="topk", help="default: topk")
    gate.add_argument("--k", type=int, default=DEFAULT_K, help=f"1 to {K_MAX} for speck (default: {DEFAULT_K})")
    gate.add_argument(
        "--beta", type=float, default=DEFAULT_BETA, help=f"weight of a rejected token, 0 to 1 ({DEFAULT_BETA})"
    )
    gate.add_argument("--divergence", default="forward_kl", metavar="NAME", help="default: forward_kl")


def gate_from(options: argparse.Namespace) -> Gate:
    """The gate that the options describe.

    Raises:
        ValueError: k or beta is out of range.
    """
    return gate_named("none") if options.gate == "none" else gate_named(options.gate, k=options.k, beta=options.beta)
