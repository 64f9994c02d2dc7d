"""A rehearsal of a Space: `python tests/space_check.py` (`make space-check`) does everything but the upload.

The files that a Space gets are installed into a fresh environment, started with a Space's variables, and opened in a
browser; what was measured is printed.
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).parents[1]))

from app.space import PORT, ROOT, CannotDeploy, build, files
from tests.browser import FLAGS, MISSING, find_browser

STARTED, SHOWN = 300, 60  # seconds to wait for the server and for the page


def check(python: str, port: int = PORT) -> dict[str, str]:
    """Everything but the upload: build, install, start, open in a browser. What was measured, for people.

    Args:
        python: the interpreter to make the fresh environment with.
        port: a Space has 7860; another one where that is taken.
    Raises:
        CannotDeploy: something does not work; the sentence says what.
    """
    import psutil

    with tempfile.TemporaryDirectory(prefix="speckd-space-") as place:
        home = Path(place)
        folder, environment = home / "space", home / "venv"
        size = build(folder)
        _say("installing requirements.txt alone: minutes")
        began = time.monotonic()
        _install(python, environment, folder / "requirements.txt")
        told = {
            "Python": subprocess.check_output([environment / "bin" / "python", "-V"], text=True).split()[-1],
            "the Space's files": f"{size / 1e6:.1f} MB, {len(files())} files",
            "installed packages": f"{_bytes_below(environment) / 1e6:,.0f} MB",
            "installing": f"{time.monotonic() - began:.0f} s",
        }
        _say("starting app.py as a Space does")
        began = time.monotonic()
        with _server(environment / "bin" / "python", folder, home, port) as process:
            url = f"http://127.0.0.1:{port}/"
            _wait_for(url, process)
            told["until the server answers"] = f"{time.monotonic() - began:.1f} s"
            _say("opening the page")
            told |= look_at(url)
            tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
            resident = [one.memory_info().rss / 1e6 for one in tree]
            told["memory"] = f"{sum(resident):,.0f} MB (page {resident[0]:,.0f}, trainer {sum(resident[1:]):,.0f})"
        return told


def space_environment(home: Path, port: int) -> dict[str, str]:
    """A Space's variables; no Hub, and a home in which nothing lies yet."""
    ours = {"PATH", "LANG", "LC_ALL", "SSL_CERT_FILE", "OMP_NUM_THREADS"}
    return {
        **{name: value for name, value in os.environ.items() if name in ours},
        "HOME": str(home / "user"),
        "SYSTEM": "spaces",
        "SPACE_ID": "owner/name",
        "SPACE_HOST": "owner-name.hf.space",
        "PORT": str(port),
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def _install(python: str, environment: Path, requirements: Path) -> None:
    if Path(python).resolve() == Path(sys.executable).resolve():
        venv.create(environment, with_pip=True)
    elif subprocess.run([python, "-m", "venv", environment]).returncode:
        raise CannotDeploy(f"{python!r} makes no environment: name another interpreter, make space-check PYTHON=...")
    command: list[str | Path] = [
        environment / "bin" / "python",
        "-m",
        "pip",
        "--disable-pip-version-check",
        "install",
        "--quiet",
    ]
    # constraints.txt names the build of torch that was tested; a Space resolves the range by itself
    command += ["--constraint", ROOT / "constraints.txt", "--requirement", requirements]
    if subprocess.run(command).returncode:
        raise CannotDeploy("requirements.txt alone does not install; pip says above what is wrong.")


@contextmanager
def _server(python: Path, folder: Path, home: Path, port: int) -> "Iterator[subprocess.Popen[bytes]]":
    (home / "user").mkdir()
    log = (home / "log").open("w+b")
    process = subprocess.Popen(
        [python, "app.py"],
        cwd=folder,
        env=space_environment(home, port),
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    except CannotDeploy:
        log.seek(0)
        sys.stderr.write(log.read().decode(errors="replace")[-3_000:])
        raise
    finally:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)  # whatever it started
        except ProcessLookupError:
            pass
        log.close()


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + STARTED
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise CannotDeploy("app.py ended by itself; the log above says why.")
        try:
            with urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise CannotDeploy(f"app.py did not answer within {STARTED} seconds.")


def look_at(url: str) -> dict[str, str]:
    """Open the page as a visitor: recorded answers live without models, and what is missing is said in a sentence."""
    from playwright.sync_api import Error, sync_playwright

    path = find_browser()
    if path is None:
        raise CannotDeploy(MISSING)
    errors: list[str] = []
    foreign: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 800})
            page.set_default_timeout(SHOWN * 1_000)
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.on(
                "request",
                lambda r: foreign.append(r.url) if not r.url.startswith((url, "data:", "blob:")) else None,
            )
            began = time.monotonic()
            page.goto(url)
            page.wait_for_selector(".sk-strip .sk-token")
            first = time.monotonic() - began
            page.wait_for_selector(".sk-lanes .sk-plot[data-drawn]")
            whole = time.monotonic() - began
            before = page.locator(".sk-strip .sk-accepted").count()
            page.locator(".sk-slider").first.evaluate(
                "node => { node.value = 50; node.dispatchEvent(new Event('input', { bubbles: true })); }"
            )
            page.wait_for_function("n => document.querySelectorAll('.sk-strip .sk-accepted').length > n", arg=before)
            page.wait_for_selector(".sk-status[data-state=failed]")
            told = page.locator(".sk-status-text").first.inner_text()
            page.locator(".sk-ask-text").fill("Why is the sea salty?")
            page.locator(".sk-run").first.click()
            page.wait_for_function(
                "before => { const s = document.querySelector('.sk-status'); return s.dataset.state === 'failed' && "
                "!document.querySelector('.sk-progress.sk-moving') && s.innerText !== before; }",
                arg=told,
            )
            answer = page.locator(".sk-status-text").first.inner_text()
        except Error as error:
            raise CannotDeploy(f"The page does not work: {str(error).splitlines()[0]}") from error
        finally:
            browser.close()
    if "Traceback" in told + answer or "Hub" not in answer:
        raise CannotDeploy(f"Without models the page says {answer!r}: it should say what is missing, calmly.")
    if foreign or errors:
        raise CannotDeploy(f"The page asked another host or wrote errors: {[*foreign, *errors][:3]}")
    return {
        "first picture": f"{first:.1f} s after opening, heatmap {whole:.1f} s",
        "without models it says": told,
        "to a question it says": answer,
    }


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _say(words: str) -> None:
    print(f"- {words}", file=sys.stderr, flush=True)


def wanted_python(front_matter: Mapping[str, Any] | None = None) -> str:
    """An interpreter of the front matter's version where one is at hand, else this one."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^python_version: \"?(3\.\d+)", text, re.MULTILINE)
    name = f"python{found[1]}" if found else ""
    path = shutil.which(name) if name else None
    if path and subprocess.run([path, "-c", ""], capture_output=True).returncode == 0:
        return path
    return sys.executable


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", default="", help="interpreter for the fresh environment")
    parser.add_argument("--port", type=int, default=PORT)
    asked = parser.parse_args(arguments)
    try:
        for name, value in check(asked.python or wanted_python(), asked.port).items():
            print(f"{name + ':':26} {value}")
    except CannotDeploy as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
