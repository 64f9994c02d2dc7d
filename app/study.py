"""The shipped study as the Map shows it: cells, one cell's runs, the written questions, what the gate masks.

Everything is computed from the tables in assets/study when it is asked for, by the functions that write the study's
answers (speckd/runs/statistics.py). Nothing here needs a model. Read once, and again when a file has changed: a study
that goes on while the page is open shows its new runs to whoever opens the Map next.
"""

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from speckd.files import as_json
from speckd.runs.findings import MAP_FIGURES, PLACEBO, growth_by_arm
from speckd.runs.plans import Plan, read_plan
from speckd.runs.statistics import (
    FEWEST,
    HIGHER_IS_BETTER,
    LEVEL,
    PLAIN,
    SETTING,
    Difference,
    answers,
    effects,
    paired,
)
from speckd.runs.tables import read_table
from speckd.words import STUDY_CONTROLS

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parents[1] / "assets" / "study"
ROOT = FOLDER.parents[1]
PLANS = ("confirm", "screen")
SCREENING = "screen"
LEAST_LOOKS = 5  # that a mean growth stands on: one look, far off, would set the scale of the picture
MASKS = ("young", "half-way", "healed", "gated", "raw")  # students of whom masks-*.json tells
N_TEXTS = 3  # answers that a run keeps (speckd/runs/figures.py)
_LONGEST_KEY = 400  # characters of a cell's name
Row = dict[str, Any]


class Study:
    """A study's folder: its table, curves and plans, each read when first wanted.

    Raises:
        ValueError: one sentence, when its table cannot be read or was altered.
    """

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.stamp = stamp_of(folder)
        self.rows: list[Row] = read_table(folder / "runs.csv")
        self._curves: dict[str, str] | None = None
        self._maps: dict[str, str] = {}
        self._cells: dict[str, list[Row]] = {}

    # --- the map ---

    def map(self, control: Any = PLAIN) -> str:
        """All cells against one control, as JSON text.

        Raises:
            ValueError: there is no such control.
        """
        if not isinstance(control, str) or control not in STUDY_CONTROLS:
            raise ValueError(
                f"Nothing is held against {str(control)!r:.40}: choose one of {', '.join(STUDY_CONTROLS)}."
            )
        if control not in self._maps:
            self._maps[control] = as_json(self._map(control))
        return self._maps[control]

    def _map(self, control: str) -> Row:
        arms: dict[str, Row] = {}
        cells = self.cells(control)
        for cell in cells:
            arm = arms.setdefault(key_of(cell), {
                "key": key_of(cell), **{name: cell[name] for name in SETTING}, "gate": cell["gate"],
                "parts": cell["parts"], "screening": cell["study"] == SCREENING, "figures": {},
            })  # fmt: skip
            arm["figures"][cell["figure"]] = {
                name: real(cell[name]) for name in ("mean", "low", "high", "q", "n", "visible", "verdict")
            }
        return {"control": control, "stamp": self.stamp, "arms": list(arms.values()),
                "n_cells": len(cells), "n_runs": len(self.rows), "fewest": FEWEST, "level": LEVEL}  # fmt: skip

    def cells(self, control: str = PLAIN) -> list[Row]:
        """All cells against one arm, as ``effects`` gives them."""
        if control not in self._cells:
            self._cells[control] = effects(self.rows, MAP_FIGURES, control)
        return self._cells[control]

    # --- one cell ---

    def cell(self, key: Any, control: Any = PLAIN) -> Row:
        """What the runs of one cell say, arm and control side by side.

        Returns:
            seeds: for each pair its seed, machine, and for both arms curves, panel, texts, command, status and
            diverged; prompts: the questions of the texts; means: each figure's mean in both arms.
        Raises:
            ValueError: there is no such cell.
        """
        if not all(isinstance(one, str) and len(one) <= _LONGEST_KEY for one in (key, control)):
            raise ValueError("There is no such cell on the map.")
        of_gate: dict[str, dict[tuple[int, str], Row]] = {"arm": {}, "control": {}}
        for row in self.rows:
            if key_of(row) == key:
                of_gate["arm"][row["seed"], str(row.get("device"))] = row
            elif row["gate"] == control and key_of({**row, "gate": key.rpartition("/")[2]}) == key:
                of_gate["control"][row["seed"], str(row.get("device"))] = row
        pairs = sorted(of_gate["arm"].keys() & of_gate["control"].keys())
        if not pairs:
            raise ValueError("There is no such cell on the map.")
        first = of_gate["arm"][pairs[0]]
        return {
            "key": key, "control": control, "gate": first["gate"], "setting": {name: first[name] for name in SETTING},
            "parts": [] if first["part"] is None else str(first["part"]).split("+"),
            "seeds": [
                {"seed": seed, "device": device,
                 **{side: self._run(of_gate[side][seed, device]) for side in ("arm", "control")}}
                for seed, device in pairs
            ],
            "means": {name: [_mean([of_gate[side][pair].get(name) for pair in pairs]) for side in ("arm", "control")]
                      for name in MAP_FIGURES},
            "prompts": self._prompts(first),
        }  # fmt: skip

    def _run(self, row: Row) -> Row:
        told = {"command": row["command"], "status": row["status"], "diverged": bool(row.get("diverged"))}
        line = self.curves().get(row["cell"])
        if line is None:
            return told
        kept = json.loads(line)
        panel = [{"step": one.get("step"), "bite": one.get("bite"), "kept": one.get("kept", {}),
                  "jaccard": one.get("jaccard", {})} for one in kept.get("panel") or []]  # fmt: skip
        return told | {"held_out": kept.get("held_out"), "panel": panel, "texts": (kept.get("texts") or {})}

    def curves(self) -> dict[str, str]:
        """cell -> its line of curves.jsonl; a line that is broken is left out, and the log says so."""
        if self._curves is None:
            found: dict[str, str] = {}  # several visitors may ask at once: nobody meets one that is half filled
            try:
                lines = (self.folder / "curves.jsonl").read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                log.warning("The study's curves cannot be read: %s", error)
                lines = []
            for number, line in enumerate(lines, start=1):
                try:
                    found[json.loads(line)["cell"]] = line
                except (ValueError, KeyError, TypeError):
                    log.warning("curves.jsonl, line %d: this is no run's curves, and is left out", number)
            self._curves = found
        return self._curves

    def _prompts(self, row: Row) -> list[str]:
        """The questions that the kept answers belong to: the first of the run's figures."""
        path = ROOT / str(row.get("figures_data") or "")
        if not path.is_relative_to(ROOT / "assets") or not path.is_file():
            return []
        with path.open(encoding="utf-8") as file:
            lines = [line for _, line in zip(range(N_TEXTS), file, strict=False)]
        return [str(json.loads(line).get("prompt", "")) for line in lines]

    # --- beside the map ---

    def questions(self) -> list[Row]:
        """The written questions of the first plan that asks any, with their answers; the noise floor at the end."""
        plan = next((plan for plan in self.plans if plan.questions), None)
        if plan is None:
            return []
        rows = [row for row in self.rows if row["study"] == plan.name]
        told = []
        for answer in answers(plan.questions, rows):
            asked, one = answer.question, answer.difference
            told.append({
                "name": asked.name, "figure": asked.figure, "part": asked.part, "less": asked.less, "arm": asked.arm,
                "against": asked.against, "also": asked.also, "below": asked.below, **numbers(one),
                "adjusted": answer.adjusted, "second": numbers(answer.second) if answer.second else None,
                "answer": outcome(answer),
            })  # fmt: skip
        figure, part = plan.questions[0].figure, plan.questions[0].part
        arms = ({"part": part, "gate": gate} for gate in (PLACEBO, PLAIN))
        floor = Difference.of(list(paired(rows, figure, *arms).values()))
        if floor.n:
            told.append({"name": "", "figure": figure, "part": part, "arm": PLACEBO, "against": PLAIN,
                         **numbers(floor), "answer": "floor"})  # fmt: skip
        return told

    @cached_property
    def plans(self) -> list[Plan]:
        found = []
        for name in PLANS:
            try:
                found.append(read_plan(self.folder / f"{name}.toml"))
            except ValueError as error:
                log.warning("A plan of the study cannot be read: %s", error)
        return found

    def planned(self) -> int:
        """Runs that the plans ask for."""
        return len({cell.name for plan in self.plans for cell in plan.cells})

    def growth(self) -> Row:
        """Growth of held-out TAR a step against 1 - TAR, plain and with Top-k (Theorem 1), where looks are many."""
        curves = [json.loads(line) for line in self.curves().values()]
        names = {str(row["cell"]): row for row in self.rows}
        plain, gated = growth_by_arm([run for run in curves if run.get("held_out")], names)
        often = ([one for one in found if one["n"] >= LEAST_LOOKS] for found in (plain, gated))
        return dict(zip(("plain", "gated"), often, strict=True))

    def masks(self) -> dict[str, Row]:
        """What the gate masks in the held-out answers, by student: made by ``python -m speckd inspect --data``."""
        found = {}
        for student in MASKS:
            path = self.folder / f"masks-{student}.json"
            try:
                found[student] = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                log.warning("What the gate masks of %s cannot be read: %s", student, error)
        return found

    def beside(self) -> str:
        """All that stands beside the map, as JSON text."""
        done = len({row["cell"] for row in self.rows})
        told = {"stamp": self.stamp, "planned": self.planned(), "done": done, "questions": self.questions()}
        return as_json({**told, "growth": self.growth(), "masks": self.masks()})


def key_of(row: Mapping[str, Any]) -> str:
    """The name of an arm in its setting: what stands in the page's address."""
    return "/".join(str(row[name]) for name in (*SETTING, "gate"))


def outcome(answer: Any) -> str:
    """A written question's answer as one word of the page: yes, no, half, none or few."""
    one, asked = answer.difference, answer.question
    if one.n < 2:
        return "few"
    if answer.adjusted >= LEVEL:
        return "none"
    if (one.mean > 0) != HIGHER_IS_BETTER[asked.figure]:
        return "no"
    return "half" if answer.second is not None and not answer.second.high < asked.below else "yes"


def numbers(one: Difference) -> Row:
    return {name: real(value) for name, value in vars(one).items()}


def real(value: Any) -> Any:
    """A number of five digits as JSON can carry it; nothing where there is none."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    return value


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if isinstance(value, int | float) and math.isfinite(value)]
    return real(sum(known) / len(known)) if known else None


_read: dict[Path, Study] = {}


def study(folder: Path = FOLDER) -> Study:
    """The study of a folder, read anew when one of its files has changed.

    Raises:
        ValueError: one sentence, when its table cannot be read or was altered.
    """
    known = _read.get(folder)
    if known is None or known.stamp != stamp_of(folder):
        known = _read[folder] = Study(folder)
    return known


def stamp_of(folder: Path) -> str:
    """A name for the state of a study's files: another one once any of them has changed."""
    facts = []
    for name in ("runs.csv", "curves.jsonl", "confirm.toml", "screen.toml"):
        try:
            found = (folder / name).stat()
            facts.append((found.st_mtime_ns, found.st_size))
        except OSError:
            facts.append((0, 0))
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
