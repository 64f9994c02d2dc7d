"""Where the browser tests find a Chromium, and how they start it.

`python tests/browser.py` (`make browser`) prints the one that will be used, and installs one where there is none.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

# Root inside a container has no sandbox; a machine for tests has no GPU; and the browser itself must stay as silent on
# the network as the page has to be.
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
# For tests, never for measurements: a page that lives for a second earns nothing by what is compiled for long use, and
# that took a fifth of the browser's time.
THRIFTY = [*FLAGS, "--js-flags=--no-turbofan", "--in-process-gpu"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# Tests take the headless shell where it is there: the same Chromium without windows, for a quarter less of a processor.
SHELL = "chromium-headless-shell"
MAC_APPS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
MISSING = (
    "No Chromium was found for the browser tests: install one (apt-get install chromium, or playwright install "
    "chromium), or name one in SPECKD_BROWSER."
)


def find_browser(names: tuple[str, ...] = NAMES) -> str | None:
    """Path of a Chromium that starts, or None.

    Looks at SPECKD_BROWSER first (alone, where it is set), then at the names on PATH, then at playwright's own.
    """
    named = os.environ.get("SPECKD_BROWSER")
    if named:
        return named if _starts(named) else None
    on_path = (shutil.which(name) for name in names)
    for path in (*on_path, *MAC_APPS):
        if path and _starts(path):
            return path
    path = _playwright_path()  # last: asking takes a second
    return path if path and _starts(path) else None


def browser_is_required() -> bool:
    """Whether a missing browser fails the tests: always, unless SPECKD_REQUIRE_BROWSER=0 says that it may skip them."""
    return os.environ.get("SPECKD_REQUIRE_BROWSER", "1") != "0"


def _starts(path: str) -> bool:
    # Not only a look at the file: Ubuntu's chromium-browser is a script that only names a snap.
    if not Path(path).is_file():
        return False
    try:
        return subprocess.run([path, "--version"], capture_output=True, timeout=60).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _playwright_path() -> str | None:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None

    with sync_playwright() as playwright:
        return playwright.chromium.executable_path


def _install() -> None:
    """Let playwright fetch its Chromium; where that cannot be had, let apt-get (as root) install Debian's."""
    ways = {"playwright install chromium": [[sys.executable, "-m", "playwright", "install", "chromium"]]}
    if hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        ways["apt-get install chromium"] = [["apt-get", "update"], ["apt-get", "install", "-y", "chromium"]]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for name, commands in ways.items():
        print(f"No Chromium here yet: {name}", flush=True)
        try:
            for command in commands:
                subprocess.run(command, env=environment, capture_output=True, timeout=600, check=True)
        except (OSError, subprocess.SubprocessError) as error:
            output = (getattr(error, "stderr", None) or b"").decode(errors="replace").strip()
            print(f"  did not work: {(output or str(error)).splitlines()[0]}", flush=True)
        if find_browser():
            return


if __name__ == "__main__":
    if not find_browser():
        if named := os.environ.get("SPECKD_BROWSER"):
            sys.exit(f"SPECKD_BROWSER names {named}, which does not start.")
        _install()
    path = find_browser((SHELL, *NAMES))
    if path is None:
        sys.exit(MISSING)
    print(f"Browser for the tests: {path}")
