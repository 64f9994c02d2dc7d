"""One process of a study: what it keeps between runs, and what all runs of a study share, made before the first.

Heavy imports wait: a process that only reads tables never loads a model's library.
"""

import copy
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from speckd.files import write_whole
from speckd.runs.plans import Cell

Texts = Mapping[str, Mapping[str, Any]]


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
    fill_cache(cache_folder(machine), pair.teacher, pair.tokenizer, everything, pair.teacher_sha256, batch_size=size)


def cache_folder(machine: Machine) -> str:
    return str(Path(machine.folder) / "cache")
