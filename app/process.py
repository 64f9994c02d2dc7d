"""The process that trains: started once, given one order after the other, ended when it does not end by itself."""

import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from app.line import TICK
from app.requests import TrainingRequest
from app.settings import Settings

HOME = Path(__file__).parents[1]

PATIENCE = 3.0  # seconds that a process has to leave a job by itself


class TrainingProcess:
    """The process that trains: started when it is wanted, started again when it died."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "app.worker")) -> None:
        self._command = command
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._messages: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self.status: dict[str, Any] = {
            "state": "ready",
            "text": "The trainer starts with the first run.",
            "share": None,
        }

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process unless it runs, and let it get ready."""
        with self._lock:
            if self.pid is not None:
                return
            self._messages = queue.SimpleQueue()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", cwd=HOME
            )
            threading.Thread(target=self._listen, args=(self._process, self._messages), daemon=True).start()
            usual = TrainingRequest.read({}, Settings())
            with tempfile.TemporaryDirectory() as nowhere:
                settings = usual.settings(nowhere, "")
            self._send({"teacher": usual.teacher, "student": usual.student, "settings": asdict(settings)})

    def kill(self) -> None:
        with self._lock:
            if self._process is not None:
                self._process.kill()
                self._process.wait()

    def work(self, order: dict[str, Any], left: threading.Event) -> Iterator[dict[str, Any]]:
        """Messages of one job, up to its end, or until its visitor has ``left``: if need be, the process ends too."""
        self.start()
        try:
            self._send(order)
        except OSError:
            yield {"failed": "The trainer could not be started: try again."}
            return
        gone: float | None = None
        while True:
            try:
                message = self._messages.get(timeout=TICK)
            except queue.Empty:
                message = {}
            if message is None:
                if not left.is_set():
                    yield {"failed": "The trainer ended unexpectedly, perhaps for want of memory: try a smaller batch."}
                return
            if message.keys() & {"done", "left", "stopped"}:
                return
            if left.is_set():
                gone = gone or time.monotonic()
                if time.monotonic() - gone > PATIENCE:
                    self.kill()
                    threading.Thread(target=self.start, daemon=True).start()
                    return
                continue
            if message:
                yield message
                if "failed" in message:
                    return

    def _send(self, order: dict[str, Any]) -> None:
        assert self._process is not None and self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def _listen(self, process: "subprocess.Popen[str]", messages: "queue.SimpleQueue[dict[str, Any] | None]") -> None:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if "state" in message:
                self.status = message
            messages.put(message)
        messages.put(None)


def fresh_root() -> Path:
    """A folder for this server's runs. Those of servers that are gone are removed."""
    base = Path(tempfile.gettempdir()) / f"speckd-lab-{os.getuid() if hasattr(os, 'getuid') else 'runs'}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.is_symlink() or (hasattr(os, "getuid") and base.stat().st_uid != os.getuid()):  # somebody else's trap
        base = Path(tempfile.mkdtemp(prefix="speckd-lab-"))
    for folder in base.iterdir():
        if folder.name.isdigit() and not process_runs(int(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)
    root = base / str(os.getpid())
    root.mkdir(mode=0o700, exist_ok=True)
    return root


def process_runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
