"""``python -m speckd study``."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    command = commands.add_parser(
        "study",
        help="many runs in one table",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run every cell of one or more plans (see assets/study) and write one tidy table, runs.csv. A run "
        "that is done is not done again, so the same command goes on after an interruption.",
        epilog="example:\n  python -m speckd study assets/study/screen.toml --output runs/study --processes 2",
    )
    command.add_argument("plans", nargs="+", metavar="PLAN", help="TOML files; their runs are made in this order")
    command.add_argument("--output", default="runs/study", metavar="FOLDER", help="the study's folder (runs/study)")
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda; always float32, so that runs compare")
    command.add_argument("--processes", type=int, default=1, help="of this machine (1)")
    command.add_argument("--engine", choices=("here", "dask"), default="here", help="who runs them (here)")
    command.add_argument("--address", help="of a Dask scheduler; a local cluster is made where none is given")
    command.add_argument("--minutes", type=float, help="stop after so many; what is finished is kept")
    command.add_argument("--part", action="append", help="only this part of the plans; may be given several times")
    command.add_argument(
        "--table", metavar="FILE", help="also add the rows to this table, such as assets/study/runs.csv"
    )
    command.add_argument("--prepare", action="store_true", help="make what all runs share, and run none")
    command.add_argument("--answers", metavar="TABLE", help="answer the plans' questions from this table, and run none")
    command.add_argument("--curves", metavar="FILE", help="with --answers: the runs' curves.jsonl")
    command.add_argument("--into", metavar="FILE", help="write the answers into this file, between its two marks")
    command.add_argument("--dry-run", action="store_true", help="say what it would cost, and run nothing")
    command.set_defaults(command=_study)


def _study(options: argparse.Namespace) -> int:
    from speckd.runs.bench import Machine
    from speckd.runs.cells import read_row
    from speckd.runs.plans import Plan
    from speckd.runs.study import all_cells, estimate, plans_from, run_study
    from speckd.runs.tables import merge_tables, read_table, write_table

    if options.processes < 1:
        raise ValueError(f"processes is {options.processes}: choose 1 or more.")
    plans = plans_from(options.plans)
    if options.answers:
        return _answer(plans, options.answers, options.curves, options.into)
    if options.part:
        names = {part for plan in plans for cell in plan.cells for part in cell.parts}
        if unknown := sorted(set(options.part) - names):
            raise ValueError(f"{unknown[0]!r} is no part of these plans; known are: {', '.join(sorted(names))}.")
        plans = [
            Plan(plan.name, plan.title, [c for c in plan.cells if set(c.parts) & set(options.part)], plan.texts)
            for plan in plans
        ]
    machine = Machine(options.output, options.device)
    if options.dry_run:
        cells = all_cells(plans)
        done = [row for cell in cells if (row := read_row(machine, cell)) is not None]
        left = [cell for cell in cells if read_row(machine, cell) is None]
        print(f"{len(done)} of {len(cells)} runs are done. Left: {estimate(left, done, options.processes)}")
        return 0
    started, begun = time.monotonic(), [0]

    def tell(done: int, total: int, row: dict[str, Any]) -> None:
        begun[0] += 1
        left = (time.monotonic() - started) / begun[0] * (total - done)
        figures = ", ".join(f"{n} {row[n]:.4g}" for n in ("divergence", "acceptance") if row.get(n) is not None)
        what = f"{row['student']}, {row['text']}, {row['gate']}, {row['objective']}, seed {row['seed']}"
        seconds = row["seconds"] + row["figure_seconds"]
        words = f"{what}; {figures or 'no figures'}; {seconds:.0f} s, about {left / 60:.0f} min left"
        print(f"{done}/{total} {row['status']}: {words}", file=sys.stderr, flush=True)

    rows = run_study(
        plans,
        machine,
        processes=options.processes,
        engine=options.engine,
        address=options.address,
        minutes=options.minutes,
        prepare_only=options.prepare,
        on_row=tell,
    )
    if options.table:
        table = Path(options.table)
        write_table(table, merge_tables([read_table(table) if table.exists() else [], rows]))
    print(f"{len(rows)} of {len(all_cells(plans))} runs are in {Path(options.output) / 'runs.csv'}")
    return 0


MARKS = ("<!-- answers -->", "<!-- end of answers -->")


def _answer(plans: list[Any], table: str, curves: str | None, into: str | None) -> int:
    """Print the answers to the plans' questions, or put them into a file that has the marks."""
    from speckd.files import write_whole
    from speckd.runs.findings import findings
    from speckd.runs.tables import read_table

    questions = [question for plan in plans for question in plan.questions]
    if not questions:
        raise ValueError("these plans ask no question: name a plan with [[question]] in it, such as confirm.toml.")
    lines = Path(curves).read_text(encoding="utf-8").splitlines() if curves else []
    words = findings(questions, read_table(table), [json.loads(line) for line in lines])
    if into is None:
        print(words, end="")
        return 0
    path = Path(into)
    text = path.read_text(encoding="utf-8")
    if not all(mark in text for mark in MARKS):
        raise ValueError(f"{into} has no place for the answers: write {MARKS[0]} and {MARKS[1]} where they shall be.")
    before, _, rest = text.partition(MARKS[0])
    write_whole(path, f"{before}{MARKS[0]}\n{words}{MARKS[1]}{rest.partition(MARKS[1])[2]}")
    return 0
