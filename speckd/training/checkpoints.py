"""Checkpoints that are complete or absent: one without its marker is the remains of an interruption."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARKER = "complete.json"  # written last into a checkpoint; without it the folder counts for nothing


def mark_complete(folder: Path, facts: dict[str, Any]) -> None:
    """Declare a folder whole. Everything in it must have been written."""
    partial = folder / f".{MARKER}.tmp"
    partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    os.replace(partial, folder / MARKER)


def _checkpoints(output_dir: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if folder.is_dir() and number.isdigit():
            found.append((int(number), folder))
    return sorted(found)


def last_checkpoint(output_dir: str | os.PathLike[str]) -> Path | None:
    """The complete checkpoint of the highest step, or None."""
    whole = [folder for _, folder in _checkpoints(output_dir) if (folder / MARKER).exists()]
    return whole[-1] if whole else None


def drop_incomplete(output_dir: str | os.PathLike[str]) -> None:
    """Remove the remains of interrupted checkpoints."""
    for _, folder in _checkpoints(output_dir):
        if not (folder / MARKER).exists():
            shutil.rmtree(folder)


@contextlib.contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """One clear line for a disk that is full or a folder that cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = isinstance(error, RuntimeError) and "write" not in str(error).lower()
        if full:
            raise  # some other failure
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        last = last_checkpoint(folder.parent if folder.name.startswith("checkpoint-") else folder)
        kept = f" The last complete checkpoint is {last.name}." if last is not None else ""
        raise OSError(
            f"{folder} cannot be written ({reason}): free some space or choose another folder.{kept}"
        ) from error
