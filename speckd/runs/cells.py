"""One run of a study: a cell trained and measured, its row of the table, and its curves."""

import gc
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from speckd.files import write_whole
from speckd.runs.bench import Machine, bench_of, cache_folder
from speckd.runs.plans import Cell
from speckd.runs.tables import Row

_RENAMED = {"divergence": "objective", "gates": "gate"}  # a setting whose name is a figure's
_CURVE = ("loss", "divergence", "tar", "masked_share", "grad_norm", "teacher_entropy", "student_entropy", "n_tokens")


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
        cache_folder=cache_folder(machine),
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
