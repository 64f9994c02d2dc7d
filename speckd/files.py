"""Files that are whole or absent."""

import os
import tempfile
from pathlib import Path


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
