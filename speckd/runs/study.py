"""``python -m speckd study plan.toml``: many runs of ``distill``, each with its figures, in one tidy table.

A study's folder:

    cache/              the teacher's hidden states, for all runs
    facts/              the teacher's own answers, for the figures
    cells/NAME/         one run: row.json (its line of the table, written last), curves.json, student/ where kept
    runs.csv            the table
    curves.jsonl        the curves of all runs, a line a run

A run is done when its row.json is there, so a study that was killed goes on where it stopped. Runs go to processes of
this machine, or to an engine that is there already (Dask). A process loads the teacher once and takes one run after the
other; which process takes which run changes no figure.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from speckd.files import write_whole
from speckd.runs.bench import Machine, prepare
from speckd.runs.cells import read_row
from speckd.runs.engines import run_here, run_on_dask
from speckd.runs.plans import Cell, Plan, read_plan
from speckd.runs.tables import Row, write_table

OnRow = Callable[[int, int, Row], None]


def run_study(
    plans: Sequence[Plan],
    machine: Machine,
    *,
    processes: int = 1,
    engine: str = "here",
    address: str | None = None,
    minutes: float | None = None,
    prepare_only: bool = False,
    on_row: OnRow | None = None,
) -> list[Row]:
    """Run what is left of some plans, and write the table.

    Args:
        plans: from ``read_plan``; their cells run in this order.
        machine: folder and device.
        processes: of this machine.
        engine: "here" or "dask". address: of a Dask scheduler; a local cluster is made where none is given.
        minutes: give up after so many; what is finished is kept.
        prepare_only: make what all runs share (texts, the teacher's cache and answers), and run none.
        on_row: called with (done, all, row) for each finished run.
    Returns:
        The rows of all finished cells, in the plans' order.
    """
    cells = all_cells(plans)
    left = [cell for cell in cells if read_row(machine, cell) is None]
    n_done = len(cells) - len(left)
    texts = {f"{plan.name}.{name}": text for plan in plans for name, text in plan.texts.items()}
    if prepare_only:
        Path(machine.folder).mkdir(parents=True, exist_ok=True)
        prepare(machine, cells, texts)
    elif left:
        if engine == "dask":
            rows = run_on_dask(machine, left, texts, address, processes)
        else:
            rows = run_here(machine, left, texts, processes, minutes)
        for row in rows:
            n_done += 1
            if on_row is not None:
                on_row(n_done, len(cells), row)
            if n_done % 10 == 0:
                write_results(machine, cells)
    return write_results(machine, cells)


def all_cells(plans: Iterable[Plan]) -> list[Cell]:
    """The cells of some plans, each once."""
    found: dict[str, Cell] = {}
    for plan in plans:
        for cell in plan.cells:
            found.setdefault(cell.name, cell)
    return list(found.values())


def write_results(machine: Machine, cells: Sequence[Cell]) -> list[Row]:
    """Write runs.csv and curves.jsonl of all finished cells; returns the rows."""
    rows, lines = [], []
    for cell in cells:
        row = read_row(machine, cell)
        if row is None:
            continue
        rows.append(row | {"study": cell.study, "part": "+".join(cell.parts)})  # as the plans call them now
        lines.append((machine.cell_folder(cell) / "curves.json").read_text(encoding="utf-8"))
    folder = Path(machine.folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "runs.csv", rows)
    write_whole(folder / "curves.jsonl", "".join(lines))
    return rows


def estimate(cells: Sequence[Cell], rows: Sequence[Row], processes: int) -> str:
    """What a study would cost, in words: from runs of it that are done, else from the table that ships."""
    steps = sum(int(cell.settings.get("steps", 0)) for cell in cells)
    known = [row for row in rows if row.get("seconds") and row.get("steps")]
    words = f"{len(cells)} runs, {steps:,} steps"
    if not known:
        return f"{words}; how long a step takes here is not known before the first runs."
    a_step = sum(float(row["seconds"]) for row in known) / sum(int(row["steps"]) for row in known)
    figures = sum(float(row.get("figure_seconds") or 0) for row in known) / len(known)
    minutes = (steps * a_step + len(cells) * figures) / processes / 60
    cost = f"{a_step:.2g} s a step, {figures:.2g} s a run"
    return f"{words}; about {minutes:,.0f} minutes in {processes} processes ({cost})."


def plans_from(paths: Sequence[str | Path]) -> list[Plan]:
    """Read several plans."""
    return [read_plan(path) for path in paths]
