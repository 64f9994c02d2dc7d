"""Plotly for a page without a server: its cartesian build alone, a third of the whole, from its npm package.

deno fetches it, which pip installs for the checks of the page's scripts, and keeps it. Version and checksum are pinned:
the version is that of the bundle in the plotly package, for which the figures are written.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from app.panels import plotly_script

PACKAGE = "plotly.js-cartesian-dist-min"
VERSION = "4.1.1"
FILE = "plotly-cartesian.min.js"
SHA256 = "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a"
SECONDS = 120
WHOLE = "whole"  # instead: the bundle that the plotly package brings


class CannotFetch(Exception):
    """One sentence that says what to do."""


def script(source: str = "") -> bytes:
    """Plotly's script.

    Args:
        source: a file; "whole" for the plotly package's own bundle; empty for the cartesian build, fetched once.
    Raises:
        CannotFetch: it is not here and cannot be had, or is not the file that was asked for.
    """
    if source == WHOLE:
        return plotly_script().read_bytes()
    path = Path(source) if source else _fetched()
    try:
        text = path.read_bytes()
    except OSError as error:
        raise CannotFetch(f"{path} cannot be read ({error.strerror}): name a file with Plotly's script.") from None
    if not source and hashlib.sha256(text).hexdigest() != SHA256:
        raise CannotFetch(f"{PACKAGE} {VERSION} is not the file that was checked: its checksum is another.")
    return text


def _fetched() -> Path:
    kept = Path(os.environ.get("DENO_DIR") or Path.home() / ".cache" / "speckd" / "deno")
    places = f"npm/*/{PACKAGE}/{VERSION}/{FILE}"
    found = next(kept.glob(places), None)
    if found is not None:
        return found
    deno = shutil.which("deno", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if deno is None:
        raise CannotFetch(f"deno is not here, which fetches {PACKAGE}: run this as `make site`.")
    command = [deno, "cache", "--quiet", "--no-config", f"npm:{PACKAGE}@{VERSION}"]
    environment = {**os.environ, "DENO_DIR": str(kept), "DENO_NO_UPDATE_CHECK": "1"}
    try:
        subprocess.run(command, env=environment, capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        pass  # as if nothing had come
    found = next(kept.glob(places), None)
    if found is None:
        raise CannotFetch(
            f"{PACKAGE} {VERSION} could not be fetched from the npm index: connect once (it is kept), or run "
            f"`make site PLOTLY={WHOLE}`, which takes the bundle of the plotly package, three times as large."
        )
    return found
