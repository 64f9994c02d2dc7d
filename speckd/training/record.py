"""One trained student as words and tables: its record, its figures in Markdown, and the sentences that they allow."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from speckd.words import REPORT_HELD_OUT, REPORT_TRAINING

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """One trained student, as its report tells it.

    Attributes:
        name: of the racer, as a legend names it.
        settings: name -> value, in the order to be shown.
        rows: the log: training rows have "loss", evaluations have names that begin with "eval_".
        before, after: held-out figures of the student before and after, names as in ``Scores``.
        seconds: of training.
    """

    name: str
    settings: Mapping[str, Any]
    rows: Sequence[Row]
    before: Mapping[str, Any] = field(default_factory=dict)
    after: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def number(value: Any, digits: int = 3) -> str:
    """A number for a person: three significant digits, thousands apart, a dash for nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    places = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{places}f}" if places <= 8 else f"{value:.2e}"


def held_out_table(runs: Sequence[RunRecord]) -> list[list[str]]:
    """The held-out figures: head, then one line a figure: its name, before, and each run's after with its change."""
    shared_start = all(run.before == runs[0].before for run in runs)
    head = ["Held out", *(["before"] if shared_start else []), *(run.name for run in runs)]
    table = [head]
    for name, (words, unit) in REPORT_HELD_OUT.items():
        if not any(run.after.get(name) is not None or run.before.get(name) is not None for run in runs):
            continue
        line = [f"{words} ({unit})"]
        if shared_start:
            line.append(number(runs[0].before.get(name)))
        for run in runs:
            line.append(_with_change(run.before.get(name), run.after.get(name)))
        table.append(line)
    return table


def _with_change(before: Any, after: Any) -> str:
    if after is None:
        return "-"
    if before is None:
        return number(after)
    change = after - before
    return f"{number(after)} ({'+' if change >= 0 else '−'}{number(abs(change))})"


def to_markdown(runs: Sequence[RunRecord], title: str, words: str = "", command: str = "") -> str:
    """The report in Markdown: the sentence, the held-out table, what was run, and the command that repeats it."""
    parts = [f"# {_as_words(title)}", ""]
    if words:
        parts += [_as_words(words), ""]
    parts += [*_markdown_table(held_out_table(runs)), ""]
    last = [["Training", *(run.name for run in runs)]]
    for name, (label, unit) in REPORT_TRAINING.items():
        values = [_last(run.rows, name) for run in runs]
        if any(value is not None for value in values):
            last.append([f"{label} at the end ({unit})", *(number(value) for value in values)])
    last.append(["Seconds of training", *(number(float(run.seconds)) for run in runs)])
    parts += [*_markdown_table(last), ""]
    parts += [*_markdown_table(settings_table(runs)), ""]
    if command:
        parts += ["The command that repeats it:", "", "```sh", command.replace("```", "` ` `"), "```", ""]
    return "\n".join(parts)


def settings_table(runs: Sequence[RunRecord]) -> list[list[str]]:
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    table = [["Setting", *(run.name for run in runs)]]
    table += [[name, *(_setting(run.settings.get(name)) for run in runs)] for name in names]
    return table


def _setting(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else ("-" if value is None else str(value))


def _markdown_table(table: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(_as_words(cell) for cell in line) + " |" for line in table]
    return [lines[0], "|---|" + "---:|" * (len(table[0]) - 1), *lines[1:]]


def _as_words(text: str) -> str:
    """Text that Markdown shows as it is: no tag, no link, no picture, no second cell or line."""
    for sign, shown in (
        ("&", "&amp;"),
        ("<", "&lt;"),
        ("|", "\\|"),
        ("[", "\\["),
        ("`", "\\`"),
        ("\r", " "),
        ("\n", " "),
    ):
        text = text.replace(sign, shown)
    return text


def _last(rows: Sequence[Row], name: str) -> Any:
    """The mean of the last tenth of a curve (at least one row): single steps jump about."""
    values = [row[name] for row in rows if name in row and isinstance(row[name], int | float)]
    if not values:
        return None
    tail = values[-max(1, len(values) // 10) :]
    return float(sum(tail) / len(tail))


# --- in sentences ---------------------------------------------------------------------------------------------------


def verdict(records: Sequence[RunRecord], seed_spread: float | None = None) -> str:
    """What happened, in a few sentences true to the numbers.

    Args:
        records: of one race, or one run.
        seed_spread: by how much a change of seed moves the difference between two racers' held-out divergences; None
            where nobody measured it for these settings.
    """
    if not records or not records[0].after:
        return "No held-out text was given, so nothing is known but the training curves."
    if len(records) == 1:
        before, after = records[0].before, records[0].after
        if not before:
            steps = records[0].settings["steps"]
            return f"After {steps} steps the held-out divergence is {after['divergence']:.3f} nats a token."
        words = (
            f"In {records[0].settings['steps']} steps the held-out divergence went from {before['divergence']:.3f} to "
            f"{after['divergence']:.3f} nats a token, and TAR from {before['tar']:.3f} to {after['tar']:.3f}."
        )
        return " ".join([words, *_masked(records)])
    best, second = sorted(records, key=lambda record: record.after["divergence"])[:2]
    gap = second.after["divergence"] - best.after["divergence"]
    words = (
        f"{_first(best.name)} reached the lower held-out divergence: {best.after['divergence']:.3f} nats a token, "
        f"{gap:.3f} below {second.name}."
    )
    steps = [record.settings["steps"] for record in (best, second)]
    if steps[0] != steps[1]:
        doubt = f"But that is {steps[0]} steps against {steps[1]}: the run was stopped, so it is no comparison."
    elif seed_spread is None:
        doubt = "One seed each: a change of seed may move these figures as much."
    elif gap > seed_spread:
        doubt = f"A change of seed moves that difference by about {seed_spread:.3f}, so it is more than chance."
    else:
        doubt = f"A change of seed moves that difference by about {seed_spread:.3f}, so it says nothing."
    return " ".join([words, *_masked(records), doubt])


def _masked(records: Sequence[RunRecord]) -> list[str]:
    """One sentence for each racer whose gate rejected something."""
    sentences = []
    for record in records:
        rows = [row for row in record.rows if "loss" in row and row.get("tar") is not None]
        rejected = 1 - sum(row["tar"] for row in rows) / len(rows) if rows else 0.0
        if rejected > 0 and any(row.get("masked_share", 0) for row in rows):  # plain distillation only counts them
            sentences.append(f"{_first(record.name)} rejected {rejected:.0%} of the training tokens.")
    return sentences


def _first(name: str) -> str:
    """A racer's name as a sentence begins with it."""
    return name[:1].upper() + name[1:]
