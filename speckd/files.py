"""Files that are whole or absent, and data as JSON can hold them: it knows neither infinity nor nan."""

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def write_whole(path: str | Path, text: str) -> None:
    """Write a text file so that it is complete or absent, also when the disk is full or the program is killed.

    Raises:
        OSError: it cannot be written; what was there before stays.
    """
    target = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp's file is private; a file that was asked for is not
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place of ``target`` once all is written: that is complete or as before.

    The caller makes it, or lets whoever writes there make it.
    """
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    if target.exists():
        shutil.rmtree(target)
    os.replace(partial, target)


def rounded(values: "Tensor") -> list[float | str]:
    """Four significant digits: what a picture can show. JSON has no infinity, so it is written as text."""
    return [float(f"{x:.4g}") if abs(x) != float("inf") else "inf" for x in values.double().tolist()]


def as_json(data: Any) -> str:
    """Plain data as compact JSON text, in its own letters.

    Raises:
        ValueError: a number is infinite or nan: ``plain`` first.
    """
    return json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def plain(value: Any) -> Any:
    """Plain data for JSON: infinity as text, nan as null."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")
    return value
