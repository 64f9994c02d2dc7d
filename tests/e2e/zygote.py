"""Servers of the tests, forked from one process that has imported everything: the six seconds that Gradio, torch and
the app take a processor are paid once a test worker, not once a server. Where nothing can be forked, a server is a
process of its own.

`start(...)` is for the tests; the rest runs in the zygote: it reads a line of JSON a server, and answers with the pid.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
_zygote: subprocess.Popen[bytes] | None = None


class Forked:
    """A server's process, with the few methods of Popen that the tests use."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._gone = False

    def poll(self) -> int | None:
        """None while it lives. How it ended nobody knows: the zygote's children are reaped by the system."""
        if not self._gone:
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                self._gone = True
        return 0 if self._gone else None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 60) -> int:
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("server", timeout)
            time.sleep(0.02)  # another process's child tells nobody
        return 0


def start(
    arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path, log: Path
) -> Forked | subprocess.Popen[bytes]:
    """`serve.py arguments` with this environment in this folder, both streams into the log; a group of its own."""
    if not hasattr(os, "fork") or sys.platform == "darwin":  # a Mac's own libraries do not live through a fork
        with log.open("ab") as stream:
            command = [sys.executable, str(ROOT / "tests" / "e2e" / "serve.py"), *arguments]
            return subprocess.Popen(
                command, env=environment, cwd=folder, stdout=stream, stderr=stream, start_new_session=True
            )
    global _zygote
    if _zygote is None or _zygote.poll() is not None:
        _zygote = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.zygote"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
    assert _zygote.stdin and _zygote.stdout
    asked = {"arguments": arguments, "environment": dict(environment), "folder": str(folder), "log": str(log)}
    _zygote.stdin.write(json.dumps(asked).encode() + b"\n")
    _zygote.stdin.flush()
    return Forked(int(_zygote.stdout.readline()))


def _be_born(asked: dict[str, object], log: int) -> None:
    """Become the server that was asked for: what a new process would have, and this one inherited, is set anew."""
    import random
    import tempfile

    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, stream in enumerate((nothing, log, log)):
        os.dup2(stream, number)
    os.environ.clear()
    os.environ.update(asked["environment"])  # type: ignore[call-overload]
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    os.chdir(str(asked["folder"]))
    tempfile.tempdir = None  # TMPDIR may be another
    random.seed()

    from tests.e2e import serve

    sys.argv = [serve.__file__, *asked["arguments"]]  # type: ignore[misc]
    serve.main()


def main() -> None:
    import gc
    import threading

    gc.disable()
    from tests.app import stand_in
    from tests.e2e import learn_page, scripted, serve

    gc.freeze()  # the servers share what is imported, and nobody looks for garbage in it
    gc.enable()
    assert stand_in and learn_page and scripted and serve
    assert threading.active_count() == 1, "a fork takes no thread along"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who ends is gone
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        log = os.open(asked["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        pid = os.fork()
        if pid == 0:
            answers.close()
            try:
                _be_born(asked, log)
            except BaseException:
                import traceback

                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(1)
        os.close(log)
        answers.write(f"{pid}\n".encode())


if __name__ == "__main__":
    main()
