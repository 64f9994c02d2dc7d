"""What a run writes: its folder, its record and report, and the student, whole or absent."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch

from speckd.files import write_whole
from speckd.pairs import Pair
from speckd.runs.report import RunRecord, to_csv, to_html, to_markdown
from speckd.runs.settings import DistillSettings, command_of
from speckd.runs.telling import model_card, seed_spread, verdict
from speckd.training.prepare import save_student


def open_folder(folder: Path, settings: DistillSettings, resume: bool) -> None:
    """Make the run's folder, or check that it holds this very run."""
    asked = json.loads(json.dumps(asdict(settings)))
    file = folder / "settings.json"
    try:
        if file.exists():
            if not resume:
                raise ValueError(f"{folder} holds a run already: resume it with --resume, or choose another folder.")
            kept = json.loads(file.read_text(encoding="utf-8"))
            free = {
                "output",
                "cache_folder",
                "device",
                "name",
                "report_to",
                "keep_checkpoints",
                "eval_every",
                "in_turn",
                "push_to_hub",
                "hub_private",
            }
            differing = sorted(
                name for name in asked if kept.get(name, asked[name]) != asked[name] and name not in free
            )
            if differing:
                raise ValueError(
                    f"{folder} holds a run with other settings ({', '.join(differing)}): repeat the first command with "
                    "--resume added, or choose another folder."
                )
        elif folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty, and no run of ours: choose another folder.")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(asked, indent=2) + "\n")
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror or error}): free some space or choose another folder."
        ) from error


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
    """The student under a temporary name, then renamed: whole or absent."""
    partial, target = output / ".student.partial", output / "student"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_student(pair.student, partial, pair.tokenizer, weights, dtype=getattr(torch, settings.save_dtype))
        (partial / "README.md").write_text(model_card(pair, record, settings), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
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
