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

import copy
import gc
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from speckd.files import write_whole
from speckd.runs.plans import Cell, Plan, read_plan
from speckd.runs.tables import Row, write_table

Texts = Mapping[str, Mapping[str, Any]]
OnRow = Callable[[int, int, Row], None]
LAST_SECONDS = 40.0  # before the limit: what a run whose student is kept has for its figures
_RENAMED = {"divergence": "objective", "gates": "gate"}  # a setting whose name is a figure's


@dataclass(frozen=True)
class Machine:
    """Where runs are made: the study's folder, and the device with its precision (float32, so that all compare)."""

    folder: str
    device: str = "cpu"
    dtype: str = "float32"

    @property
    def stop_file(self) -> Path:
        """When it appears, runs whose student is kept end after the step at hand, and keep what was reached."""
        return Path(self.folder) / "stop"

    def cell_folder(self, cell: Cell) -> Path:
        return Path(self.folder) / "cells" / cell.name


# --- one process: a bench that takes run after run ----------------------------------------------------------------


class Bench:
    """What a process keeps between runs: the teacher, untouched students, the examiner of each set of prompts."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.pair: Any = None
        self.students: dict[tuple[str, bool], tuple[Any, str, str]] = {}
        self.examiners: dict[str, Any] = {}

    def load(self, teacher: str, student: str, **asked: Any) -> Any:
        """As ``load_pair``, with the teacher that is here and a copy of the student as it was at first."""
        from speckd.pairs import load_pair

        merge = bool(asked.get("merge", False))
        key = (student, merge)
        if key not in self.students:
            device = self.machine.device
            pair = load_pair(teacher, student, device=device, dtype=self.machine.dtype, merge=merge)
            if self.pair is None:
                self.pair = pair
            self.students[key] = (pair.student, pair.student_id, pair.student_sha256)
        model, name, checksum = self.students[key]
        return replace(self.pair, student=copy.deepcopy(model), student_id=name, student_sha256=checksum)

    def examiner(self, cell: Cell) -> Any:
        """The examiner of a cell's prompts."""
        from speckd.data import read_examples
        from speckd.runs.figures import Examiner
        from speckd.runs.tasks import TASKS

        asked = cell.figures
        key = facts_name(cell)
        if key not in self.examiners:
            pair = self.load(cell.settings.get("teacher", "packaged"), cell.settings.get("student", "young"))
            examples = read_examples(asked.data, pair.tokenizer, limit=asked.examples).examples
            facts = read_facts(self.machine, cell)
            tasks = TASKS if asked.tasks else ()
            self.examiners[key] = Examiner(pair, examples, facts, tasks, n_own=asked.own, longest=asked.longest)
        return self.examiners[key]


_benches: dict[Machine, Bench] = {}  # of this process


def bench_of(machine: Machine) -> Bench:
    """This process's bench; made at the first call."""
    if machine not in _benches:
        _quiet()
        _benches[machine] = Bench(machine)
    return _benches[machine]


def _quiet() -> None:
    import torch
    from transformers.utils import logging

    torch.set_num_threads(max(1, int(os.environ.get("OMP_NUM_THREADS", "1"))))
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    # float32 means float32: the default of torch, said aloud because the figures depend on it.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def facts_name(cell: Cell) -> str:
    asked = cell.figures
    return f"{Path(asked.data).stem}-{asked.examples}-{asked.own}-{asked.longest}-{int(asked.tasks)}"


def read_facts(machine: Machine, cell: Cell) -> Any:
    from speckd.runs.figures import TeacherFacts

    path = Path(machine.folder) / "facts" / f"{facts_name(cell)}.json"
    return TeacherFacts(**json.loads(path.read_text(encoding="utf-8")))


def prepare(machine: Machine, cells: Sequence[Cell], texts: Texts) -> None:
    """Make what all runs share, where it is not there yet: texts, the teacher's cache, its own answers."""
    from speckd.data import read_examples
    from speckd.runs.figures import teacher_facts
    from speckd.runs.tasks import TASKS
    from speckd.runs.texts import make_texts
    from speckd.training.teacher_cache import fill_cache

    bench = bench_of(machine)
    settings = cells[0].settings
    make_texts(texts, bench.load(settings.get("teacher", "packaged"), settings.get("student", "young")))
    examples: dict[tuple[Any, ...], list[Any]] = {}
    for cell in cells:
        settings = cell.settings
        pair = bench.pair
        asked: list[tuple[str, int | None]] = [(cell.figures.data, cell.figures.curve)]
        if settings.get("responses", "file") in ("file", "mixed"):
            asked.append((settings["data"], settings.get("limit")))
        for data, limit in asked:
            key = (data, limit, settings.get("max_length", 1024))
            if key not in examples:
                examples[key] = read_examples(data, pair.tokenizer, limit=limit, max_length=key[2]).examples
        path = Path(machine.folder) / "facts" / f"{facts_name(cell)}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            figures = cell.figures
            held_out = read_examples(figures.data, pair.tokenizer, limit=figures.examples).examples
            facts = teacher_facts(pair, held_out, TASKS if figures.tasks else (), figures.longest, figures.own)
            write_whole(path, json.dumps(asdict(facts)) + "\n")
    pair = bench.pair
    everything = [example for part in examples.values() for example in part]
    size = 8 if machine.device == "cpu" else 64
    fill_cache(_cache(machine), pair.teacher, pair.tokenizer, everything, pair.teacher_sha256, batch_size=size)


def _cache(machine: Machine) -> str:
    return str(Path(machine.folder) / "cache")


def run_cell(machine: Machine, cell: Cell) -> Row:
    """Train and measure one cell, unless that is done; returns its row of the table.

    What goes wrong in a run is its row's status, not the study's end; only what no other run would survive is raised.
    """
    folder = machine.cell_folder(cell)
    done = read_row(machine, cell)
    if done is not None:
        return done
    shutil.rmtree(folder, ignore_errors=True)  # the remains of an interrupted run
    folder.mkdir(parents=True)
    row, curves = _train_and_measure(machine, cell, folder)
    write_whole(folder / "curves.json", json.dumps(curves, separators=(",", ":")) + "\n")
    if cell.keep and (folder / "run" / "student").exists():
        shutil.move(folder / "run" / "student", folder / "student")
    shutil.rmtree(folder / "run", ignore_errors=True)
    write_whole(folder / "row.json", json.dumps(row) + "\n")
    gc.collect()
    return row


def _train_and_measure(machine: Machine, cell: Cell, folder: Path) -> tuple[Row, Row]:
    # Long: what a run is watched with is made, used and read in one place.
    from speckd.gates import gate_from_text
    from speckd.runs.distill import distill
    from speckd.runs.figures import steadiness
    from speckd.runs.panel import Panel, PanelCallback
    from speckd.runs.settings import command_of
    from speckd.training.trainer import NonFiniteLoss

    bench = bench_of(machine)
    settings = cell.distill_settings(
        output=str(folder / "run"),
        device=machine.device,
        dtype=machine.dtype,
        cache_folder=_cache(machine),
        save_dtype="bfloat16" if cell.keep else "float32",
    )
    examiner = bench.examiner(cell)
    panels: list[PanelCallback] = []
    log: list[Row] = []
    found: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    timing = {"figure_seconds": 0.0}

    def watch(pair: Any, train: Any) -> list[PanelCallback]:
        if not cell.figures.panel:
            return []
        part = [example for example in train.examples if example.response_ids][: cell.figures.panel]
        if not part:
            return []
        gate = gate_from_text(settings.gates[0])
        panels.append(PanelCallback(Panel(pair, part, gate, settings.divergence, settings.temperature)))
        return list(panels)

    def measure(pair: Any, _: Any) -> None:
        started = time.monotonic()
        figures, beside = examiner.figures(pair.student)
        found.update(figures)
        kept.update(beside)
        timing["figure_seconds"] = time.monotonic() - started

    started = time.monotonic()
    status = "done"
    stop_file = str(machine.stop_file) if cell.keep else None
    before: Row = {}
    try:
        with _no_words():
            records = distill(settings, on_row=lambda _, one: log.append(one), load=bench.load, watch=watch,
                              on_trained=measure, keep_student=cell.keep, stop_file=stop_file)  # fmt: skip
        before = dict(records[0].before)
        if records[0].settings["steps"] < settings.steps:
            status = f"stopped at {records[0].settings['steps']}"
    except NonFiniteLoss as error:
        status, kept["error"] = "not finite", str(error)
    except Exception as error:
        status = f"failed: {type(error).__name__}"
        kept["error"] = traceback.format_exc(limit=8)
    seconds = time.monotonic() - started - timing["figure_seconds"]
    measured = panels[0].found if panels else []
    figures = found | (steadiness(log) if log else {}) | _bites(measured)
    end = figures.get("divergence")
    figures["diverged"] = status == "not finite" or (
        end is not None and bool(before) and _last_curve(log, before) > before["divergence"]
    )
    row = {
        **_facts(cell, status),
        **{name: _short(value) for name, value in figures.items()},
        **_machine_facts(machine),
        "seconds": round(seconds, 2),
        "figure_seconds": round(timing["figure_seconds"], 2),
        "cell": cell.name,
        "command": command_of(replace(settings, output=f"runs/{cell.name}", cache_folder=None, device=None)),
    }
    return row, {"cell": cell.name, **compact(log, before), "panel": measured, **kept}


def _last_curve(log: Sequence[Row], before: Row) -> float:
    curve = [row["eval_divergence"] for row in log if "eval_divergence" in row]
    return float(curve[-1]) if curve else float(before["divergence"])


def _facts(cell: Cell, status: str) -> Row:
    settings = {_RENAMED.get(name, name): value for name, value in cell.settings.items()}
    settings["gate"] = settings["gate"][0]
    settings.setdefault("objective", "forward_kl")
    settings.setdefault("student", "young")
    figures = {f"figures_{name}": value for name, value in vars(cell.figures).items() if name != "tasks"}
    return {
        "study": cell.study,
        "part": "+".join(cell.parts),
        "text": cell.text,
        "status": status,
        **settings,
        **figures,
    }


def _machine_facts(machine: Machine) -> Row:
    import torch

    name = torch.cuda.get_device_name() if machine.device.startswith("cuda") else machine.device
    return {"device": name, "torch": torch.__version__}


def _bites(measured: Sequence[Row]) -> Row:
    """Means over the panel's moments."""
    bites = [one["bite"] for one in measured if one.get("bite")]
    return {f"bite_{name}": sum(bite[name] for bite in bites) / len(bites) for name in (bites[0] if bites else {})}


def _short(value: Any) -> Any:
    return float(f"{value:.5g}") if isinstance(value, float) else value


_CURVE = ("loss", "divergence", "tar", "masked_share", "grad_norm", "teacher_entropy", "student_entropy", "n_tokens")


def compact(log: Sequence[Row], before: Row) -> Row:
    """A run's log in columns, four digits a number: what a picture of its curves needs."""
    steps = [row for row in log if "loss" in row]
    curve = [row for row in log if "eval_divergence" in row]
    names = ("divergence", "tar", "acceptance", "agreement")
    return {
        "train": {"step": [row["step"] for row in steps]}
        | {name: [_four(row.get(name)) for row in steps] for name in _CURVE},
        "held_out": {"step": [0, *(row["step"] for row in curve)]}
        | {n: [_four(before.get(n)), *(_four(row.get(f"eval_{n}")) for row in curve)] for n in names},
    }


def _four(value: Any) -> float | None:
    return None if value is None or value != value or abs(value) == float("inf") else float(f"{value:.4g}")


class _no_words:
    """Nothing of a run's own chatter on standard output; errors are kept in its row."""

    def __enter__(self) -> None:
        self._out, sys.stdout = sys.stdout, open(os.devnull, "w")

    def __exit__(self, *_: object) -> None:
        sys.stdout.close()
        sys.stdout = self._out


def read_row(machine: Machine, cell: Cell) -> Row | None:
    """The row of a finished cell, or None."""
    try:
        return json.loads((machine.cell_folder(cell) / "row.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# --- many processes of this machine -------------------------------------------------------------------------------


def run_here(
    machine: Machine, cells: Sequence[Cell], texts: Texts, processes: int, minutes: float | None
) -> Iterator[Row]:
    """Run cells in processes of this machine, in their order; yields rows as they come.

    Args:
        texts: of the plans, made before the first run. processes: how many; each takes one run after the other.
        minutes: when they are over, runs that are not finished are given up, and begun anew next time.
    """
    context = multiprocessing.get_context("spawn")  # a forked process cannot use a GPU
    limit = time.monotonic() + 60 * minutes if minutes is not None else float("inf")
    machine.stop_file.unlink(missing_ok=True)
    waiting = list(cells)[::-1]
    workers: list[_Worker] = []
    first = _Worker(context, machine)
    first.ask(("prepare", (list(cells), texts)))
    workers += [first, *(_Worker(context, machine) for _ in range(min(processes, len(cells)) - 1))]
    prepared = False
    try:
        while True:
            busy = [worker for worker in workers if worker.cell is not None]
            if time.monotonic() >= limit - LAST_SECONDS and not machine.stop_file.exists():
                machine.stop_file.touch()
            if (prepared and not waiting and not busy) or not workers or time.monotonic() >= limit:
                return
            ready = multiprocessing.connection.wait(
                [worker.connection for worker in workers if worker.asked], min(5.0, max(0.0, limit - time.monotonic()))
            )
            for worker in [worker for worker in workers if worker.connection in ready]:
                try:
                    kind, result = worker.connection.recv()
                except EOFError:  # killed, out of memory: its cell waits for the next call of the study
                    workers.remove(worker)
                    if worker is first and not prepared:
                        raise RuntimeError(
                            "the study's first process ended before the teacher's part was made."
                        ) from None
                    continue
                worker.asked, worker.cell = False, None
                if kind == "failed":
                    raise RuntimeError(result)
                prepared = prepared or kind == "prepared"
                if kind == "row":
                    yield result
            for worker in workers:
                if prepared and waiting and not worker.asked:
                    worker.cell = waiting.pop()
                    worker.ask(("run", worker.cell))
    finally:
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(10)
            worker.connection.close()


class _Worker:
    """A process that takes cells from a pipe."""

    def __init__(self, context: Any, machine: Machine) -> None:
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, machine), daemon=True)
        self.process.start()
        theirs.close()
        self.cell: Cell | None = None
        self.asked = False

    def ask(self, message: tuple[str, Any]) -> None:
        self.asked = True
        self.connection.send(message)


def _serve(connection: Any, machine: Machine) -> None:
    while True:
        try:
            kind, what = connection.recv()
        except EOFError:
            return
        try:
            if kind == "prepare":
                prepare(machine, *what)
                connection.send(("prepared", None))
            else:
                connection.send(("row", run_cell(machine, what)))
        except Exception:
            connection.send(("failed", traceback.format_exc()))
            return


# --- an engine that is there already ------------------------------------------------------------------------------


def run_on_dask(
    machine: Machine, cells: Sequence[Cell], texts: Texts, address: str | None, processes: int
) -> Iterator[Row]:
    """Run cells on a Dask cluster, which must see the study's folder; without an address, on one of this machine."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError:
        raise ValueError("the Dask engine is not installed: run `pip install 'dask[distributed]'`.") from None
    cluster = None
    if address is None:
        cluster = LocalCluster(n_workers=processes, threads_per_worker=1, processes=True, dashboard_address=None)
    try:
        with Client(address or cluster) as client:
            client.submit(prepare, machine, list(cells), texts, pure=False).result()
            futures = [client.submit(run_cell, machine, cell, pure=False, priority=-n) for n, cell in enumerate(cells)]
            for future in as_completed(futures):
                yield future.result()
    finally:
        if cluster is not None:
            cluster.close()


# --- the study ----------------------------------------------------------------------------------------------------


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
        on_row: told (done, all, row) for each finished run.
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
        rows.append(row)
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
