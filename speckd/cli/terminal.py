"""What the terminal shows: progress bars, the strip, the table, and words that cannot steer it."""

import contextlib
import unicodedata
from collections.abc import Iterator

from tqdm import tqdm

from speckd.draws import K_MAX
from speckd.gates import Gate
from speckd.jobs import OnProgress, Progress
from speckd.trace import Trace

USER_ERROR = 2
INTERRUPTED = 130


def say(error: Exception) -> str:
    """An expected error as one line."""
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return f"{name}{error.strerror}."
    return " ".join(str(error).split())


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
