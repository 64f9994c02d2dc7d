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


def read_text(path: Path, what: str, newline: str | None = None) -> str:
    """The text of a file that should be ``what`` ("a trace").

    Raises:
        ValueError: it holds no text. OSError: it cannot be read.
    """
    try:
        with path.open(encoding="utf-8", newline=newline) as file:
            return file.read()
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not a text file, so it is not {what}.") from None


def read_json(source: str | Path, what: str) -> Any:
    """What JSON text says (it starts with a brace), or a JSON file, that should be ``what``.

    Raises:
        ValueError: it is not JSON. OSError: the file cannot be read.
    """
    text = source if isinstance(source, str) and source.lstrip().startswith("{") else read_text(Path(source), what)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"This is not {what}: its JSON breaks off or is malformed ({error}).") from None


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
