"""Many visitors at once, against a real server here: `python tests/bench/load_page.py --visitors 40 --minutes 5`.

Each visitor asks over a gradio client and checks that its own prompt comes back, then opens the answer and keeps it as
CSV and HTML, as the page's script does. Meanwhile the page itself is fetched twice a second. With --stand-in no model
is run, so the server alone is measured. Bounded by its time; loopback only.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.e2e.server import Server, component

POLITE = ("waiting already", "queue is full", "busy")  # what a full house may say
WARM = 0.25  # of the time; memory counts from then on
WRONG_KEPT = 20  # errors kept for the report


@dataclass
class Report:
    """What happened."""

    answers: int = 0
    exports: int = 0
    turned_away: int = 0
    mixed_up: int = 0
    errors: list[str] = field(default_factory=list)
    page_seconds: list[float] = field(default_factory=list)
    answer_seconds: list[float] = field(default_factory=list)
    memory_warm: float = 0.0
    memory_end: float = 0.0
    threads_end: int = 0
    waiting_load: float = 0.0

    def __str__(self) -> str:
        growth = (self.memory_end / self.memory_warm - 1) * 100 if self.memory_warm else 0.0
        page, answers = self.page_seconds or [0.0], self.answer_seconds or [0.0]
        lines = [
            f"answers {self.answers}, exports {self.exports}, politely turned away {self.turned_away}",
            f"mixed up {self.mixed_up}, errors {len(self.errors)}",
            f"the page: p50 {statistics.median(page):.2f} s, p99 {sorted(page)[int(0.99 * len(page))]:.2f} s, "
            f"max {max(page):.2f} s (fetch {page.index(max(page)) + 1} of {len(page)})",
            f"an answer: p50 {statistics.median(answers):.1f} s, max {max(answers):.1f} s",
            f"memory: {self.memory_warm:.0f} MB after warm-up, {self.memory_end:.0f} MB at the end ({growth:+.1f}%)",
            f"threads at the end {self.threads_end}, load average {self.waiting_load:.1f}",
        ]
        return "\n".join([*lines, *(f"  {words}: {n}" for words, n in Counter(self.errors).items())])


class Visitor:
    """One who asks and keeps, again and again."""

    def __init__(self, server: Server, number: int, report: Report, lock: threading.Lock) -> None:
        self.server, self.number, self.report, self.lock = server, number, report, lock
        self.random = random.Random(number)

    def stay(self, end: float) -> None:
        try:
            from gradio_client import Client

            client = Client(self.server.url, verbose=False)
            with httpx.Client(base_url=self.server.url, timeout=300) as line:
                panel = component(line.get("/config").json(), "inspector")
                turn = 0
                while not turn or time.monotonic() < end:  # once at least, however slowly the crowd comes in
                    turn += 1
                    self.ask(client, line, panel, turn)
                    time.sleep(self.random.uniform(0.1, 0.5))  # a person reads a little
            client.close()
        except Exception as error:
            self.wrong(f"{type(error).__name__}: {error}")

    def ask(self, client: Any, line: httpx.Client, panel: int, turn: int) -> None:
        prompt = f"Visitor {self.number} asks for the {turn}th time: what is {self.random.randrange(10**9)}?"
        began = time.monotonic()
        try:
            trace = client.predict(prompt=prompt, max_new_tokens=8, seed=self.number, api_name="/inspect")
        except Exception as error:
            if any(words in str(error).lower() for words in POLITE):
                with self.lock:
                    self.report.turned_away += 1
                time.sleep(self.random.uniform(1, 3))
            else:
                self.wrong(f"inspect: {type(error).__name__}: {str(error)[:200]}")
            return
        with self.lock:
            self.report.answers += 1
            self.report.answer_seconds.append(time.monotonic() - began)
            self.report.mixed_up += trace["prompt"] != prompt
        self.keep(line, panel, prompt, trace)

    def keep(self, line: httpx.Client, panel: int, prompt: str, trace: dict[str, Any]) -> None:
        trace.pop("gate", None)
        opened = self.serve(line, panel, "open_trace", json.dumps(trace))
        if "id" not in opened:
            self.wrong(f"open: {opened}"[:200])
            return
        for kind in ("csv", "html"):
            kept = self.serve(line, panel, "export", {"id": opened["id"], "kind": kind})
            with self.lock:
                self.report.exports += "text" in kept
                self.report.mixed_up += "text" in kept and str(self.number) not in kept["text"]
                self.report.mixed_up += "text" in kept and prompt.split(": ")[1][:-1] not in kept["text"]
            if "text" not in kept:
                self.wrong(f"export: {kept}"[:200])

    def serve(self, line: httpx.Client, panel: int, name: str, data: Any) -> dict[str, Any]:
        body = {"component_id": panel, "fn_name": name, "session_hash": f"load{self.number}", "data": data}
        answer = line.post("/gradio_api/component_server", json=body)
        return answer.json() if answer.status_code == 200 else {"status": answer.status_code}

    def wrong(self, words: str) -> None:
        with self.lock:
            if len(self.report.errors) < WRONG_KEPT:
                self.report.errors.append(words)


def fetch(url: str, seconds: float) -> tuple[list[float], list[int]]:
    """Fetch the page twice a second: how long each took, and its status. For a process of its own, whose clock waits
    for none of the visitors."""
    taken, statuses = [], []
    end = time.monotonic() + seconds
    with httpx.Client(base_url=url, timeout=60) as line:
        while time.monotonic() < end:
            began = time.monotonic()
            statuses.append(line.get("/").status_code)
            taken.append(time.monotonic() - began)
            time.sleep(0.5)
    return taken, statuses


def load(server: Server, visitors: int, seconds: float) -> Report:
    """Let visitors ask and keep for so long."""
    report, lock = Report(), threading.Lock()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        apart.submit(fetch, server.url, 0.0).result()  # it is up before the crowd comes
        end = time.monotonic() + seconds
        staying = [
            threading.Thread(target=Visitor(server, number, report, lock).stay, args=(end,), daemon=True)
            for number in range(visitors)
        ]
        for thread in staying:
            thread.start()
        fetching = apart.submit(fetch, server.url, seconds)
        time.sleep(WARM * seconds)
        report.memory_warm = server.memory()
        report.page_seconds, statuses = fetching.result()
    report.errors += [f"the page: status {status}" for status in statuses if status != 200]
    for thread in staying:
        thread.join(timeout=300)
    report.errors += ["a visitor never came back"] * sum(thread.is_alive() for thread in staying)
    report.memory_end, report.threads_end = server.memory(), server.threads()
    report.waiting_load = os.getloadavg()[0]
    return report


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--visitors", type=int, default=40)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--stand-in", action="store_true", help="no models: the server alone")
    asked = parser.parse_args()
    kind = ["--stand-in"] if asked.stand_in else ["--models"]
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder), *kind, SPACE_ID="someone/lab") as server:
        until_ready(server)
        report = load(server, asked.visitors, 60 * asked.minutes)
        if "Traceback" in server.log():
            report.errors.append(f"a traceback in the log: {server.log()[-500:]}")
    print(f"{asked.visitors} visitors for {asked.minutes:g} minutes, {kind[0][2:]}")
    print(report)
    good = not report.errors and not report.mixed_up and max(report.page_seconds) < 1.0
    return 0 if good and report.memory_end < 1.1 * report.memory_warm else 1


def until_ready(server: Server, seconds: float = 300) -> None:
    """Until the models are loaded."""
    end = time.monotonic() + seconds
    with httpx.Client(base_url=server.url, timeout=60) as line:
        panel = component(line.get("/config").json(), "inspector")
        body = {"component_id": panel, "fn_name": "status", "session_hash": "load", "data": None}
        while time.monotonic() < end:
            if line.post("/gradio_api/component_server", json=body).json()["state"] != "loading":
                return
            time.sleep(0.5)
    raise TimeoutError("the models did not load")


if __name__ == "__main__":
    sys.exit(main())
