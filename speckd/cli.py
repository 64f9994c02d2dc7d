"""The command line: ``python -m speckd inspect | prepare``.

A person's mistake is one line on standard error and exit code 2. Results go to standard output, progress to standard
error, files are complete or absent.
"""

import argparse
import contextlib
import importlib
import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tqdm import tqdm

from speckd.draws import K_MAX
from speckd.files import write_whole
from speckd.gates import DEFAULT_BETA, DEFAULT_K, Gate, gate_named
from speckd.inspection import SOURCES, check_request, inspect
from speckd.jobs import OnProgress, Progress
from speckd.packaged import STUDENTS, packaged_teacher
from speckd.pairs import load_pair
from speckd.trace import Trace

PROGRAM = "python -m speckd"
USER_ERROR = 2
INTERRUPTED = 130
# Modules with a register(subparsers) of their own, imported when the parser is made.
MORE_COMMANDS: tuple[str, ...] = ("speckd.distill_commands",)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: what stands after the program's name; the shell's by default.
    Returns:
        The exit code: 0, 2 for a person's mistake or a model out of reach, 130 when interrupted.
    """
    options = make_parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except KeyboardInterrupt:
        print("\nStopped; nothing half-written is left.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        sys.stderr.close()
        return 0
    except (ValueError, OSError) as error:
        print(f"speckd: {printable(say(error))}", file=sys.stderr)
        return USER_ERROR


def say(error: Exception) -> str:
    """An expected error as one line."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}."
    return " ".join(str(error).split())


def make_parser() -> argparse.ArgumentParser:
    """The parser of every command; ``--help`` teaches."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Token-gated knowledge distillation: the student proposes, the teacher verifies.",
        epilog="Each command explains itself: python -m speckd inspect --help",
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _register_prepare(commands)
    _register_inspect(commands)
    for module in MORE_COMMANDS:
        importlib.import_module(module).register(commands)
    return parser


@contextlib.contextmanager
def progress_bars() -> Iterator[OnProgress]:
    """Turn Progress events into one tqdm bar a stage, on standard error, nothing when that is not a terminal."""
    bar: tqdm | None = None
    stage = ""

    def follow(event: Progress) -> None:
        nonlocal bar, stage
        if bar is None or stage != event.stage:
            if bar is not None:
                bar.close()
            stage = event.stage
            bar = tqdm(total=event.total, desc=event.stage, leave=False, disable=None, bar_format=_BAR)
        bar.total = event.total
        if stage != "generate":  # its text is the response so far
            bar.set_postfix_str(event.text, refresh=False)
        bar.update(event.done - bar.n)

    try:
        yield follow
    finally:
        if bar is not None:
            bar.close()


_BAR = "{desc:>9} {bar:30} {percentage:3.0f}% {postfix}"


# --- prepare ------------------------------------------------------------------------------------------------------


def _register_prepare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "prepare",
        help="convert the packaged teacher once",
        description="Convert the packaged teacher into the cache folder (SPECKD_CACHE, else ~/.cache/speckd). It takes "
        "about half a minute once; everything else does it by itself when it is needed.",
    )
    command.set_defaults(command=_prepare)


def _prepare(_: argparse.Namespace) -> int:
    with progress_bars() as follow:
        folder = packaged_teacher(follow)
    print(f"The packaged teacher is ready in {folder}")
    return 0


# --- inspect ------------------------------------------------------------------------------------------------------


def _register_inspect(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser(
        "inspect",
        help="see the gate on one text",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=textwrap.dedent(
            """\
            See the gate on one text: what the student proposed at each token, what the teacher thought of it, and what
            the distillation loss would have ignored.

            Rejected tokens stand in brackets, with the gate's threshold after a bar: [dance|59] was the response's
            token where the student's proposal has rank 59 in the teacher's order, so Top-k accepts it from k = 59 on.
            """
        ),
        epilog=textwrap.dedent(
            """\
            examples:
              python -m speckd inspect "Why is the sky blue?"
              python -m speckd inspect "Why is the sky blue?" --student young --gate speck --k 2
              python -m speckd inspect "Why is the sky blue?" --response "Because air scatters blue light." --table
              python -m speckd inspect "Tell me a story." --sample --seed 7 --html story.html --csv story.csv
            """
        ),
    )
    command.set_defaults(command=_inspect)
    command.add_argument("prompt", metavar="QUESTION", help="what to ask")
    add_pair_options(command)
    text = command.add_argument_group("the response")
    text.add_argument("--source", choices=SOURCES[:2], default=None, help="who writes it (default: teacher)")
    text.add_argument("--response", metavar="TEXT", help="a given response instead of a written one")
    text.add_argument("--sample", action="store_true", help="draw it at the temperature instead of greedily")
    text.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="its longest length (default: 64)")
    text.add_argument("--temperature", type=float, default=1.0, metavar="TAU", help="above 0 (default: 1)")
    text.add_argument("--seed", type=int, default=0, help="names the sample, the draws and the coins (default: 0)")
    add_gate_options(command)
    output = command.add_argument_group("output")
    output.add_argument("--table", action="store_true", help="also print one line a token")
    output.add_argument("--json", metavar="FILE", help="write the whole trace as JSON")
    output.add_argument("--csv", metavar="FILE", help="write the whole trace as a table, one row a token")
    output.add_argument("--html", metavar="FILE", help="write one self-contained page in which the gate is alive")
    output.add_argument("--color", choices=("auto", "always", "never"), default="auto", help=argparse.SUPPRESS)


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


def _inspect(options: argparse.Namespace) -> int:
    gate = gate_from(options)  # mistakes first: they cost nothing before the models are loaded
    from speckd.divergences import divergence_named

    divergence_named(options.divergence)
    check_request(
        options.prompt, options.response, options.source, options.max_new_tokens, options.temperature, options.seed
    )
    for file in (options.json, options.csv, options.html):
        if file and not Path(file).absolute().parent.is_dir():
            raise ValueError(f"{file}: its folder does not exist. Make it first.")
    with progress_bars() as follow:
        pair = load_pair(
            options.teacher,
            options.student,
            device=options.device,
            dtype=options.dtype,
            revision=options.revision,
            student_revision=options.student_revision,
            merge=True,
            on_progress=follow,
        )
        trace = inspect(
            pair,
            options.prompt,
            response=options.response,
            source=options.source,
            do_sample=options.sample,
            max_new_tokens=options.max_new_tokens,
            temperature=options.temperature,
            seed=options.seed,
            on_progress=follow,
        )
    colour = options.color == "always" or (options.color == "auto" and sys.stdout.isatty())
    width = shutil.get_terminal_size((100, 24)).columns
    print(strip(trace, gate, width, colour))
    print()
    if options.table:
        print(table(trace, gate, options.divergence))
        print()
    print(summary(trace, gate, options.divergence))
    if options.json:
        trace.to_json(options.json)
    if options.csv:
        trace.to_csv(options.csv)
    if options.html:
        from speckd.html import to_html

        knobs = {"gate": gate.name, "k": options.k, "beta": options.beta, "divergence": options.divergence}
        write_whole(options.html, to_html(trace, knobs=knobs))
    return 0


# --- words for the terminal ---------------------------------------------------------------------------------------


def strip(trace: Trace, gate: Gate, width: int = 100, colour: bool = False) -> str:
    """The response as running text, rejected tokens in brackets with their threshold: ``[dance|59]``."""
    accepted, thresholds = trace.accepted(gate).tolist(), gate.trace_scores(trace).tolist()
    lines, used = [""], 0
    for token, is_accepted, threshold in zip(trace.tokens, accepted, thresholds, strict=True):
        body = token.lstrip(" ")
        space = " " * (len(token) - len(body))
        shown = printable(body)
        if not is_accepted:
            shown = f"[{shown}|{'none' if gate.name == 'speck' and threshold > K_MAX else int(threshold)}]"
        length = len(space) + sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in shown)
        if used and used + length > width:
            lines.append("")
            space, used, length = "", 0, length - len(space)
        lines[-1] += space + (f"\x1b[2m{shown}\x1b[0m" if colour and not is_accepted else shown)
        used += length
        if body.endswith("\n"):
            lines.append("")
            used = 0
    return "\n".join(lines).rstrip()


def table(trace: Trace, gate: Gate, divergence: str = "forward_kl") -> str:
    """One line a token: the response's token, the student's proposal, the teacher's verdict, and the loss."""
    unit = "" if divergence == "tvd" else " (nats)"
    head = ("#", "token", "proposal", "rank", "p/q", "1-TVD", f"{divergence}{unit}", "weight", "")
    rows = [head]
    columns = (
        trace.tokens,
        trace.proposal_ids.tolist(),
        trace.topk_threshold.tolist(),
        trace.proposal_acceptance.tolist(),
        trace.acceptance_probability().tolist(),
        trace.divergence(divergence).tolist(),
        trace.weights(gate).tolist(),
        trace.accepted(gate).tolist(),
    )
    for place, (token, proposal, rank, ratio, chance, distance, weight, accepted) in enumerate(
        zip(*columns, strict=True), start=1
    ):
        rows.append(
            (
                str(place),
                printable(token)[:18],
                printable(trace.strings[proposal])[:18],
                str(rank),
                f"{ratio:.2f}",
                f"{chance:.2f}",
                f"{distance:.3g}",
                f"{weight:.3g}",
                "accepted" if accepted else "rejected",
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    left = {1, 2, 8}
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def summary(trace: Trace, gate: Gate, divergence: str = "forward_kl") -> str:
    """TAR, the gated and the plain mean loss, how much of the loss is masked, and what made the trace."""
    gated, plain = trace.loss(gate, divergence), trace.divergence(divergence).double().mean().item()
    masked = f"{1 - gated / plain:.1%}" if 0 < plain < float("inf") else "undefined"
    accepted = int(trace.accepted(gate).sum())
    unit = "" if divergence == "tvd" else " nats"
    config = trace.config
    how = (
        "given"
        if config["source"] == "given"
        else f"{config['source']}, {'sampled' if config['do_sample'] else 'greedy'}"
    )
    return (
        f"{gate.describe()}: {accepted} of {trace.n_tokens} tokens accepted (TAR {trace.tar(gate):.3f})\n"
        f"mean {divergence}: {gated:.3g}{unit} gated, {plain:.3g}{unit} plain; {masked} of the loss is masked\n"
        f"response: {how}; teacher {config['teacher']}, student {config['student']}; "
        f"temperature {config['temperature']:g}, seed {config['seed']}"
    )


def printable(text: str) -> str:
    """Text that cannot steer a terminal: line breaks as arrows, other control and direction characters as escapes."""
    shown = []
    for letter in text:
        if letter == "\n":
            shown.append("⏎")
        elif letter == "\t":
            shown.append("⇥")
        elif unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
            shown.append(letter.encode("unicode_escape", "surrogatepass").decode("ascii"))
        else:
            shown.append(letter)
    return "".join(shown)
