"""Servers of the tests, forked from one process that has imported everything: the six seconds that Gradio, torch and
the app take a processor are paid once a test run, not once a server. Where nothing can be forked, a server is a process
of its own.

`start(...)` is for the tests; the rest runs in the zygote: it reads a line of JSON a server, and answers with the pid.
The workers of a run share it: the first one that wants a server starts it, and it ends with the last one.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds in which somebody comes
_line: socket.socket | None = None  # to the zygote


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
    global _line
    if _line is None:
        _line = _to_the_zygote()
    asked = {"arguments": arguments, "environment": dict(environment), "folder": str(folder), "log": str(log)}
    _line.sendall(json.dumps(asked).encode() + b"\n")
    return Forked(int(_line.makefile("rb").readline()))


def _to_the_zygote() -> socket.socket:
    """A connection to the zygote of this test run, which is started where it is not there yet."""
    import fcntl

    run = os.environ.get("PYTEST_XDIST_TESTRUNUID", str(os.getpid()))[:16]  # a socket's path may not be long
    address = Path(tempfile.gettempdir()) / f"speckd-zygote-{run}"
    with address.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        line = socket.socket(socket.AF_UNIX)
        with contextlib.suppress(OSError):
            line.connect(str(address))
            return line
        address.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.e2e.zygote", str(address)]
        nothing = subprocess.DEVNULL  # a worker's own streams belong to its talk with pytest
        zygote = subprocess.Popen(command, cwd=ROOT, stdin=nothing, stdout=nothing, start_new_session=True)
        while True:
            assert zygote.poll() is None, "the process that servers are forked from ended"
            with contextlib.suppress(OSError):
                line.connect(str(address))
                return line
            time.sleep(0.02)  # a socket that opens tells nobody


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


def main(address: str) -> None:
    import gc
    import threading

    gc.disable()
    import peft
    from transformers.models.llama import modeling_llama  # of the packaged pair; neither loads before it is asked for

    from tests.app import stand_in
    from tests.e2e import learn_page, scripted, serve

    gc.freeze()  # the servers share what is imported, and nobody looks for garbage in it
    gc.enable()
    assert stand_in and learn_page and scripted and serve and peft and modeling_llama
    assert threading.active_count() == 1, "a fork takes no thread along"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who ends is gone
    door = socket.socket(socket.AF_UNIX)
    door.bind(address)
    door.listen()
    try:
        _serve_workers(door)
    finally:
        for left in (Path(address), Path(address).with_suffix(".lock")):
            left.unlink(missing_ok=True)


def _serve_workers(door: socket.socket) -> None:
    """Fork what is asked for until the last worker has gone."""
    lines: dict[socket.socket, bytes] = {}
    with selectors.DefaultSelector() as waiting:
        waiting.register(door, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select(PATIENCE):
                if key.fileobj is door:
                    line, _ = door.accept()
                    lines[line] = b""
                    waiting.register(line, selectors.EVENT_READ)
                    continue
                line = key.fileobj
                read = line.recv(1 << 16)
                lines[line] += read
                while b"\n" in lines[line]:
                    asked, lines[line] = lines[line].split(b"\n", 1)
                    line.sendall(f"{_fork(json.loads(asked), [door, *lines])}\n".encode())
                if not read:
                    waiting.unregister(line)
                    line.close()
                    del lines[line]
            if not lines:
                return


def _fork(asked: dict[str, object], ours: list[socket.socket]) -> int:
    """A server's process; what is ours it closes."""
    log = os.open(str(asked["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    pid = os.fork()
    if pid == 0:
        for one in ours:
            one.close()
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
    return pid


if __name__ == "__main__":
    main(sys.argv[1])
