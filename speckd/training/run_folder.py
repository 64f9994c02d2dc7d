"""The folder of a run: made for it, or found to hold this very run, so that it can go on."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from speckd.files import write_whole


def claim_folder(folder: Path, settings: Mapping[str, Any], *, resume: bool, free: Collection[str]) -> None:
    """Make the run's folder and write its settings.json, or check that it holds this very run.

    Args:
        folder: of the run.
        settings: what is asked for.
        resume: go on with what is there.
        free: settings that a resumed run may change.
    Raises:
        ValueError: the folder holds another run, or something else, or this run and ``resume`` is False.
        OSError: it cannot be written.
    """
    asked = json.loads(json.dumps(settings))
    file = folder / "settings.json"
    try:
        if file.exists():
            if not resume:
                raise ValueError(f"{folder} holds a run already: resume it with --resume, or choose another folder.")
            kept = json.loads(file.read_text(encoding="utf-8"))
            differing = sorted(n for n in asked if kept.get(n, asked[n]) != asked[n] and n not in free)
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
