"""The page in a server process whose files, log and memory a test can look at."""

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.request import urlopen

from tests.e2e import zygote

ROOT = Path(__file__).parents[2]


class Server:
    """`tests/e2e/serve.py` with a home, a temporary folder and a working folder of its own. Use it in a `with`.

    Args:
        folder: an empty one; everything that the server writes should land in it.
        arguments: of serve.py.
        more: variables of the environment.
    """

    def __init__(self, folder: Path, *arguments: str, **more: str) -> None:
        self.folder = folder
        for name in ("home", "tmp", "work"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            **os.environ,
            "PORT": str(self.port),
            "HF_HUB_OFFLINE": "1",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "SPECKD_CACHE": os.environ.get("SPECKD_CACHE") or str(Path.home() / ".cache" / "speckd"),
            **more,
        }
        self._arguments = arguments
        (folder / "log").write_bytes(b"")

    def __enter__(self) -> "Server":
        self.process = zygote.start(self._arguments, self._environment, self.folder / "work", self.folder / "log")
        deadline = time.monotonic() + 180
        while True:
            assert self.process.poll() is None, f"the server ended: {self.log()[-2000:]}"
            try:
                with urlopen(self.url + "/config", timeout=5):
                    return self
            except OSError:
                assert time.monotonic() < deadline, "the server did not answer within three minutes"
                time.sleep(0.2)  # a port that opens tells nobody

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.end()

    def end(self, how: int = signal.SIGTERM) -> None:
        """End the server and whatever it started."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            try:
                self.process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                pass
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def log(self) -> str:
        """What the server wrote so far, both streams."""
        return (self.folder / "log").read_bytes().decode(errors="replace")

    def files(self) -> dict[str, int]:
        """Every file that it left in its folders, with its size."""
        found = {}
        for name in ("home", "tmp", "work"):
            for path in (self.folder / name).rglob("*"):
                if path.is_file():
                    found[path.relative_to(self.folder).as_posix()] = path.stat().st_size
        return found

    def memory(self) -> float:
        """Megabytes of the server's own process."""
        import psutil

        return psutil.Process(self.process.pid).memory_info().rss / 1e6

    def threads(self) -> int:
        import psutil

        return psutil.Process(self.process.pid).num_threads()


def component(config: dict[str, Any], name: str) -> int:
    """The number of a panel in gradio's configuration, by its elem_id."""
    (found,) = (one["id"] for one in config["components"] if one["props"].get("elem_id") == name)
    return found


def event(config: dict[str, Any], name: str, trigger: str = "run") -> int:
    """The number of the function that a panel's event calls."""
    target = [component(config, name), trigger]
    (found,) = (one["id"] for one in config["dependencies"] if target in one["targets"])
    return found
