"""Visits that break off: `python tests/bench/drop_sessions.py --sessions 200`, against a real server on this machine.

A visit opens the page's lines, asks a question, keeps the answer, starts a training, and goes without a word. Memory
and threads are taken after a first wave (the server has then imported and cached what it ever will) and at the end.
"""

import argparse
import gc
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.bench.load_page import until_ready
from tests.e2e.server import Server, component, event

STEADY = 12.0  # seconds without a change in the number of threads: nothing more will go
REST = 25.0  # seconds at most for the server to notice and tidy; a pool's idle threads go after ten


@dataclass
class Report:
    """Megabytes and threads of the server's process."""

    sessions: int
    memory_before: float
    memory_after: float
    threads_before: int
    threads_after: int
    files_after: int

    def __str__(self) -> str:
        memory = (self.memory_after / self.memory_before - 1) * 100
        return (
            f"{self.sessions} sessions opened and dropped\n"
            f"memory {self.memory_before:.0f} -> {self.memory_after:.0f} MB ({memory:+.1f}%), "
            f"threads {self.threads_before} -> {self.threads_after}, files left {self.files_after}, "
            f"load average {os.getloadavg()[0]:.1f}"
        )


def visit(server: Server, config: dict[str, Any], name: str) -> None:
    """One visit that breaks off in the middle."""
    with (
        httpx.Client(base_url=server.url, timeout=120) as line,
        line.stream("GET", f"/gradio_api/heartbeat/{name}") as heart,
    ):
        beats = heart.iter_lines()  # dropped, it would close the line
        next(beats)
        line.get("/")
        call = {"data": [], "session_hash": name}
        question = {"run": name, "question": {"prompt": f"Who is {name}?", "max_new_tokens": 8}}
        body = {**call, "fn_index": event(config, "inspector"), "event_data": question}
        assert line.post("/gradio_api/queue/join", json=body).status_code == 200
        with line.stream("GET", "/gradio_api/queue/data", params={"session_hash": name}) as lines:
            for number, _ in enumerate(lines.iter_lines()):
                if number == 4 and hash(name) % 2:  # every other one goes in the middle of an answer
                    return
        training = {"run": f"t{name}", "request": {"steps": 1, "data": "uploaded", "text": '{"prompt": "a"}'}}
        body = {**call, "fn_index": event(config, "distiller"), "event_data": training}
        assert line.post("/gradio_api/queue/join", json=body).status_code == 200
        with line.stream("GET", "/gradio_api/queue/data", params={"session_hash": name}) as lines:
            for told in lines.iter_lines():
                if "process_generating" in told:  # it has begun, and its data lies in a file
                    return


def wave(server: Server, config: dict[str, Any], names: list[str]) -> None:
    staying = [threading.Thread(target=visit, args=(server, config, name), daemon=True) for name in names]
    for thread in staying:
        thread.start()
    for thread in staying:
        thread.join(timeout=180)
    assert not any(thread.is_alive() for thread in staying)


def rested(server: Server, threads: int) -> tuple[float, int]:
    """Memory and threads once the server has noticed that everyone is gone."""
    end = time.monotonic() + REST
    seen, since = -1, time.monotonic()
    with httpx.Client(base_url=server.url, timeout=60) as line:
        while server.threads() > threads and time.monotonic() < min(end, since + STEADY):
            line.get("/config")  # the pool lets an idle thread go when somebody asks for one
            time.sleep(0.5)
            if server.threads() != seen:
                seen, since = server.threads(), time.monotonic()
    return server.memory(), server.threads()


def drop(server: Server, sessions: int, at_once: int = 20) -> Report:
    """Open and drop so many sessions, in waves; three waves before the count begins."""
    with httpx.Client(base_url=server.url, timeout=60) as line:
        config = line.get("/config").json()
        assert component(config, "inspector") >= 0
    for first in range(3):
        wave(server, config, [f"warm{first}x{number}" for number in range(at_once)])
    memory_before, threads_before = rested(server, 0)
    for start in range(0, sessions, at_once):
        wave(server, config, [f"drop{start + number}" for number in range(min(at_once, sessions - start))])
    memory_after, threads_after = rested(server, threads_before)
    gc.collect()
    left = [name for name in server.files() if name.endswith("data.jsonl")]
    return Report(sessions, memory_before, memory_after, threads_before, threads_after, len(left))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sessions", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=20)
    parser.add_argument("--models", action="store_true", help="the packaged pair instead of stand-ins")
    asked = parser.parse_args()
    kind = "--models" if asked.models else "--stand-in"
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), kind, SPACE_ID="someone/lab") as server:
        until_ready(server)
        report = drop(server, asked.sessions, asked.at_once)
    print(report)
    good = report.memory_after <= 1.05 * report.memory_before and report.threads_after <= 1.05 * report.threads_before
    return 0 if good and not report.files_after else 1


if __name__ == "__main__":
    sys.exit(main())
