"""What a run writes: its folder, its record and report, and the student, whole or absent."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from speckd.files import whole_folder, write_whole
from speckd.pairs import Pair
from speckd.runs.report import RunRecord, to_csv, to_html, to_markdown
from speckd.runs.settings import DistillSettings, command_of
from speckd.runs.telling import model_card, seed_spread, verdict
from speckd.training.prepare import save_student
from speckd.training.run_folder import claim_folder

# Settings that a resumed run may change.
FREE = (
    "output", "cache_folder", "device", "name", "report_to", "keep_checkpoints", "eval_every", "in_turn",
    "push_to_hub", "hub_private",
)  # fmt: skip


def open_folder(folder: Path, settings: DistillSettings, resume: bool) -> None:
    """Make the run's folder, or check that it holds this very run."""
    claim_folder(folder, asdict(settings), resume=resume, free=FREE)


def write_record(output: Path, record: RunRecord) -> None:
    write_whole(output / "run.json", json.dumps(asdict(record)) + "\n")


def read_record(output: Path) -> RunRecord | None:
    """The record of a finished run, or None."""
    if not (output / "run.json").exists() or not (output / "student").is_dir():
        return None
    return RunRecord(**json.loads((output / "run.json").read_text(encoding="utf-8")))


def write_report(output: Path, records: Sequence[RunRecord], settings: DistillSettings) -> None:
    title = "SpecKD: " + (" against ".join(record.name for record in records))
    words, command = verdict(records, seed_spread(settings)), command_of(settings)
    write_whole(output / "log.csv", to_csv(records))
    write_whole(output / "report.md", to_markdown(records, title, words, command))
    write_whole(output / "report.html", to_html(records, title, words, command))


def write_student(
    output: Path,
    pair: Pair,
    record: RunRecord,
    settings: DistillSettings,
    weights: dict[str, torch.Tensor] | None,
) -> None:
    """The student with its card: whole or absent."""
    target = output / "student"
    try:
        with whole_folder(target) as partial:
            save_student(pair.student, partial, pair.tokenizer, weights, dtype=getattr(torch, settings.save_dtype))
            (partial / "README.md").write_text(model_card(pair, record, settings), encoding="utf-8")
    except OSError as error:
        raise OSError(
            f"{target} cannot be written ({error.strerror or error}): free some space, then run the same command with "
            "--resume."
        ) from error


def drop_checkpoints(folder: Path) -> None:
    """Remove the checkpoints, and nothing else: loggers such as TensorBoard keep their events beside them."""
    for checkpoint in folder.glob("checkpoint-*"):
        shutil.rmtree(checkpoint, ignore_errors=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
