"""The project as a Hugging Face Space: `python -m app.space build FOLDER | check | upload OWNER/NAME`.

`make space` and `make space-check` call it. A Space gets a list of what it needs and nothing else: no tests, no tools,
no packaged teacher (there it comes from the Hub, at a pinned revision).
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

ROOT = Path(__file__).parents[1]
FILES = ("README.md", "LICENSE", "NOTICE", "app.py", "requirements.txt")
FOLDERS = {  # folder -> the kinds of files that it gives
    "app": (".py", ".js", ".css", ".md"),
    "speckd": (".py", ".js", ".css", ".html", ".typed"),
    "assets/pictures": (".png",),
    "assets/prompts": (".jsonl", ".md"),
    "assets/responses": (".jsonl", ".md"),
    "assets/runs": (".json", ".md"),
    "assets/students": (".json", ".safetensors", ".md"),
    "assets/traces": (".json",),
}
LARGEST = 10_000_000  # bytes; the Hub takes larger files through LFS or Xet alone, and this project has none
THUMBNAIL = "assets/pictures/inspect-light.png"
PORT = 7860  # the only one that a Space opens
TITLE = "SpecKD Lab"
STARTED, SHOWN = 300, 60  # seconds to wait for the server and for the page


class CannotDeploy(Exception):
    """One sentence that says what to do."""


# --- the folder ---------------------------------------------------------------------------------------------------


def files(root: Path = ROOT) -> list[str]:
    """What a Space needs, as paths below the project's folder.

    Raises:
        CannotDeploy: a file is too large or missing.
    """
    names = list(FILES)
    for folder, kinds in FOLDERS.items():
        for path in sorted((root / folder).rglob("*")):
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith((".", "__pycache__")) for part in path.parts[len(root.parts) :])
            if path.is_file() and not path.is_symlink() and path.suffix in kinds and not hidden:
                names.append(name)
    for name in names:
        if not (root / name).is_file():
            raise CannotDeploy(f"{name} is missing: run this from a whole checkout.")
        if (size := (root / name).stat().st_size) > LARGEST:
            raise CannotDeploy(f"{name} has {size / 1e6:.1f} MB: above {LARGEST / 1e6:.0f} MB a file needs Git LFS.")
    return names


def build(folder: Path, space: str = "owner/name", root: Path = ROOT) -> int:
    """Copy what a Space needs into an empty folder; the number of bytes.

    Raises:
        CannotDeploy: the folder is not empty, or the project is not whole.
    """
    if folder.exists() and any(folder.iterdir()):
        raise CannotDeploy(f"{folder} is not empty: name a new folder.")
    for name in files(root):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(root / name, folder / name)
    card = folder / "README.md"
    card.write_text(with_thumbnail(card.read_text(encoding="utf-8"), space), encoding="utf-8")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def with_thumbnail(card: str, space: str) -> str:
    """The card with the address of its own picture: it can only be known when the Space has a name."""
    _, front, rest = re.split(r"^---\n", card, maxsplit=2, flags=re.MULTILINE)
    return f"---\n{front}thumbnail: https://huggingface.co/spaces/{space}/resolve/main/{THUMBNAIL}\n---\n{rest}"


# --- uploading ----------------------------------------------------------------------------------------------------


def upload(space: str) -> str:
    """Make the Space's files those of this project; the Space's address.

    Raises:
        CannotDeploy: no token, no such name, no network, no permission, or a Space that holds something else.
    """
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError

    owner, _, name = space.partition("/")
    if not all(re.fullmatch(r"(?!-)[\w.-]{1,96}(?<![-.])", part, re.ASCII) for part in (owner, name)):
        raise CannotDeploy(
            f"{space!r} is not the name of a Space: give it as owner/name (make space SPACE=owner/name)."
        )
    token = get_token()
    if not token:
        raise CannotDeploy("There is no token: run `hf auth login`, or set HF_TOKEN, with a token that may write.")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "space"
        build(folder, space)
        try:
            api.create_repo(space, repo_type="space", space_sdk="gradio", exist_ok=True)
            there = set(api.list_repo_files(space, repo_type="space")) - {".gitattributes", "README.md"}
            if there and "speckd/__init__.py" not in there:
                raise CannotDeploy(f"The Space {space} holds something else already: choose another name.")
            # what is no longer needed goes: the Space is this project, and nothing beside it
            api.upload_folder(
                repo_id=space,
                repo_type="space",
                folder_path=folder,
                delete_patterns="*",
                commit_message=f"{TITLE} as in its repository",
            )
        except CannotDeploy:
            raise
        except HfHubHTTPError as error:
            status = error.response.status_code if error.response is not None else None
            if status in (401, 403):
                raise CannotDeploy(
                    f"The Hub does not let this token write to {space}: make one with write access to it."
                ) from None
            raise CannotDeploy(f"The Hub refused the upload (status {status}): {_first_line(error)}") from None
        except Exception as error:
            # the Hub client's transport (httpx, or httpx2) raises errors of its own
            if not isinstance(error, OSError) and not type(error).__module__.startswith(("httpx", "httpcore")):
                raise
            raise CannotDeploy(f"The Hub cannot be reached ({_first_line(error)}): connect, then try again.") from None
    return f"{api.endpoint}/spaces/{space}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


# --- a rehearsal --------------------------------------------------------------------------------------------------


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

    from tests.browser import FLAGS, MISSING, find_browser

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
            raise CannotDeploy(f"The page does not work: {_first_line(error)}") from error
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


# --- the command --------------------------------------------------------------------------------------------------


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
    parser = argparse.ArgumentParser(prog="python -m app.space", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    to_build = commands.add_parser("build", help="copy what a Space needs into a folder")
    to_build.add_argument("folder", type=Path)
    to_upload = commands.add_parser("upload", help="make a Space's files those of this project")
    to_upload.add_argument("space", help="owner/name")
    to_check = commands.add_parser("check", help="everything but the upload, with what it takes")
    to_check.add_argument("--python", default="", help="interpreter for the fresh environment")
    to_check.add_argument("--port", type=int, default=PORT)
    asked = parser.parse_args(arguments)
    try:
        if asked.command == "build":
            print(f"{build(asked.folder) / 1e6:.1f} MB in {asked.folder}")
        elif asked.command == "upload":
            print(f"The Space is at {upload(asked.space)}; it builds now, for some minutes.")
        else:
            for name, value in check(asked.python or wanted_python(), asked.port).items():
                print(f"{name + ':':26} {value}")
    except CannotDeploy as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
