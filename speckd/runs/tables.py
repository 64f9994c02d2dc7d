"""A study's table as a file: written whole, and read with an eye to what may have happened to it since.

A table of figures that was cut off or altered would still draw a map, and a wrong one. So what can be known to be wrong
is said, with its line, before anything is made of it.
"""

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from speckd.files import write_whole
from speckd.runs.settings import DistillSettings

Row = dict[str, Any]
FIRST_COLUMNS = (
    "study", "part", "objective", "student", "text", "gate", "learning_rate", "steps", "seed", "status",
    "divergence", "acceptance", "tar5", "own_reverse_kl", "greedy_reverse_kl", "own_teacher_nats", "rouge_l", "tasks",
    "block_efficiency_greedy", "block_efficiency_sampled", "grad_norm_spread", "largest_jump", "diverged",
    "bite_tokens", "bite_gradient",
)  # fmt: skip
LAST_COLUMNS = ("seconds", "figure_seconds", "device", "torch", "cell", "command")
# What every row must say, and what its numbers may be.
_TOLD = ("study", "part", "objective", "student", "text", "gate", "status", "cell", "command")
_WHOLE = ("steps", "seed")
_SHARES = ("acceptance", "agreement", "tvd", "tar1", "tar5", "tar20", "rouge_l", "tasks", "tasks_chosen", "bite_tokens",
           "kept_weight")  # fmt: skip
_AMOUNTS = ("learning_rate", "divergence", "reverse_kl", "jsd", "largest_jump", "grad_norm_spread", "seconds")
_ANEW = "take the file from the repository anew, or write it with `python -m speckd study`"


def write_table(path: Path, rows: Sequence[Row]) -> None:
    """A table with every column that any row has; what a row lacks is empty."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    middle = [name for name in names if name not in FIRST_COLUMNS and name not in LAST_COLUMNS]
    text = io.StringIO()
    table = csv.DictWriter(text, [*FIRST_COLUMNS, *middle, *LAST_COLUMNS], restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_whole(path, text.getvalue())


def read_table(path: str | Path) -> list[Row]:
    """The rows of a table, numbers as numbers, empty cells as None.

    Raises:
        ValueError: one sentence, where the file cannot be read, is no table of a study, was cut off, or holds what no
            run can have measured.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror}): {_ANEW}.") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not text in UTF-8: {_ANEW}.") from None
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[Row] = []
    try:
        names = next(reader, [])
        _check_header(path, names)
        seen: dict[tuple[Any, Any], int] = {}
        for cells in reader:
            where = f"{path.name}, line {reader.line_num}"
            if len(cells) != len(names):
                what = f"{len(cells)} cells where the header names {len(names)} columns"
                raise ValueError(f"{where}: {what}; it was cut off or altered: {_ANEW}.")
            row = {name: _value(name, cell) for name, cell in zip(names, cells, strict=True)}
            _check_row(where, row)
            run = (row["cell"], row.get("device"))
            if run in seen:
                raise ValueError(f"{where}: the run {run[0]} stands in line {seen[run]} already: {_ANEW}.")
            seen[run] = reader.line_num
            rows.append(row)
    except csv.Error as error:
        raise ValueError(f"{path.name}, line {reader.line_num}: {error}; it was altered: {_ANEW}.") from None
    if not text.endswith("\n"):  # the command is the last column, and would be shorter unseen
        raise ValueError(f"{path.name}: its last line has no end, so it was cut off: {_ANEW}.")
    return rows


def _check_header(path: Path, names: Sequence[str]) -> None:
    if missing := [name for name in (*_TOLD, *_WHOLE, "learning_rate") if name not in names]:
        raise ValueError(f"{path.name}: it has no column {missing[0]!r}, so it is no table of a study: {_ANEW}.")
    if double := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{path.name}: the column {double[0]!r} stands there twice: {_ANEW}.")


def _check_row(where: str, row: Row) -> None:
    for name in _TOLD:
        if row[name] is None:
            raise ValueError(f"{where}: {name} is empty; the file was cut off or altered: {_ANEW}.")
    for name in _WHOLE:
        if type(row[name]) is not int or row[name] < 0:
            raise ValueError(f"{where}: {name} is {row[name]!r}, expected a whole number, 0 or more: {_ANEW}.")
    for name in _SHARES:
        _check_number(where, name, row.get(name), 1.0)
    for name in _AMOUNTS:
        _check_number(where, name, row.get(name), math.inf)
    if not str(row["command"]).startswith("python -m speckd distill "):
        raise ValueError(f"{where}: its command is {row['command']!r:.60}, expected `python -m speckd distill ...`.")
    words = str(row["command"]).split()  # a command that was cut off would make another run, unseen
    usual: dict[str, Any] = {field.name: field.default for field in fields(DistillSettings)}  # what it need not say
    for option, value, default in (("seed", row["seed"], usual["seed"]), ("gate", row["gate"], usual["gates"][0])):
        told = words[words.index(f"--{option}") + 1 :] if f"--{option}" in words else [default]
        if not told or str(told[0]) != str(value):
            raise ValueError(f"{where}: its command lacks --{option} {value}, so it was cut off or altered: {_ANEW}.")


def _check_number(where: str, name: str, value: Any, most: float) -> None:
    """A figure that a run did not reach is empty, and one of a run that broke is nan or inf."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        expected = "a number from 0 to 1" if most == 1 else "a number, 0 or more"
        raise ValueError(f"{where}: {name} is {value!r}, expected {expected}: {_ANEW}.")


def _value(name: str, text: str) -> Any:
    if text == "":
        return None
    if name in _TOLD:  # a cell's checksum such as 4120e9558123 is no number
        return text
    if text in ("True", "False"):
        return text == "True"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def merge_tables(tables: Iterable[Sequence[Row]]) -> list[Row]:
    """Rows of several tables, a cell and device once; of two, the later one stays."""
    found: dict[tuple[Any, Any], Row] = {}
    for rows in tables:
        for row in rows:
            found[(row.get("cell"), row.get("device"))] = row
    return list(found.values())
