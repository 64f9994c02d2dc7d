"""The Distill tab's own figures: the default race, the same run by its command, and what those who leave leave behind.

    python tests/bench/bench_distill_tab.py [--leavers 10] [--steps 30] [--no-command] [--no-race]

Wall seconds mean something on an idle machine alone, so each is printed with the processor seconds of the process that
trains and the machine's load. Memory is what the page and the trainer hold between two runs.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from app.engine import Engine
from app.requests import TrainingRequest
from app.settings import Settings
from app.training import HOME, Trainings
from speckd.runs.settings import command_of

TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--leavers", type=int, default=10, help="visitors who close the page mid-run (10)")
    options.add_argument("--steps", type=int, default=0, help="of the race; the page's default if 0")
    options.add_argument("--no-command", action="store_true", help="leave the command line's own run out")
    options.add_argument("--no-race", action="store_true", help="only those who leave")
    chosen = options.parse_args()
    settings = Settings()
    trainings = Trainings(settings, Engine(settings))
    asked = {"steps": chosen.steps} if chosen.steps else {}
    request = TrainingRequest.read(asked, settings)
    try:
        began = time.monotonic()
        trainings.warm()
        while trainings.status()["text"] != "The trainer is ready.":
            time.sleep(0.1)  # the process tells its state now and then
        tell("trainer ready", time.monotonic() - began, processor(trainings))
        if not chosen.no_race:
            page = race(trainings, request)
            if not chosen.no_command:
                ratios = [one / other for one, other in zip(page, command(request), strict=True)]
                print(f"a step in the page / the same step of its command: median {statistics.median(ratios):.2f}")
        leavers(trainings, request, chosen.leavers)
    finally:
        trainings.close()


def tell(what: str, seconds: float, processor_seconds: float | None = None) -> None:
    of_it = "" if processor_seconds is None else f"  {processor_seconds:7.1f} s of processor"
    print(f"{what:40} {seconds:7.1f} s{of_it}   load {os.getloadavg()[0]:.1f}", flush=True)


def processor(trainings: Trainings) -> float:
    """Processor seconds of the process that trains, so far; 0 while there is none."""
    pid = trainings._process.pid
    if pid is None:
        return 0.0
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(pid: int | None) -> float:
    """Megabytes that a process holds for itself."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_")) / 1000


def events_of(trainings: Trainings, request: TrainingRequest, name: str) -> Iterator[dict[str, Any]]:
    for update in trainings.run(request, name, name):
        yield from update.events


def step_seconds(events: Iterable[dict[str, Any]]) -> list[float]:
    """Seconds of each training step, as the trainer measured them."""
    rows = [event["row"] for event in events if event["kind"] == "row"]
    return [row["n_tokens"] / row["tokens_per_second"] for row in rows]


def race(trainings: Trainings, request: TrainingRequest) -> list[float]:
    """The seconds of each step."""
    began, before, seen = time.monotonic(), processor(trainings), set()
    told = []
    for event in events_of(trainings, request, "race"):
        now = time.monotonic() - began
        if event["kind"] not in seen:
            seen.add(event["kind"])
            tell(f"first {event['kind']}", now, processor(trainings) - before)
        told.append(event)
    steps = step_seconds(told)
    tell(f"end, {len(steps)} steps of {len(request.gates)} racers", now, processor(trainings) - before)
    trainings.leave("race")
    return steps


def command(request: TrainingRequest) -> list[float]:
    """The seconds of each step."""
    with tempfile.TemporaryDirectory() as folder:
        settings = replace(request.settings(str(Path(folder) / "run"), ""), cache_folder=None)
        began = time.monotonic()
        words = [sys.executable, *shlex.split(command_of(settings))[1:]]
        subprocess.run(words, cwd=HOME, check=True, capture_output=True)
        children = os.times()
        tell("the same by its command, with loading", time.monotonic() - began, children.children_user)
        return step_seconds(json.loads((Path(folder) / "run" / "recording.json").read_text())["events"])


def leavers(trainings: Trainings, request: TrainingRequest, count: int) -> None:
    """Visitors who close the page in the middle of the second step."""
    held = []
    for number in range(count + 1):
        for update in trainings.run(request, f"leaver{number}", f"leaver{number}"):
            if any(event["kind"] == "row" for event in update.events):
                run, left = trainings._runs[f"leaver{number}"], time.monotonic()
                trainings.leave(f"leaver{number}")
        while run.folder.exists():
            time.sleep(0.01)
        seconds = time.monotonic() - left
        settle(trainings)
        held.append((memory(os.getpid()), memory(trainings._process.pid)))
        print(
            f"left: ended after {seconds:4.1f} s; page {held[-1][0]:.0f} MB, trainer {held[-1][1]:.0f} MB", flush=True
        )
    for who, column in (("page", 0), ("trainer", 1)):
        print(f"{who}: {held[-1][column] / held[0][column] - 1:+.1%} of memory after {count} more visitors who left")


def settle(trainings: Trainings) -> None:
    """Until the trainer has a fresh pair ready and rests."""
    before = -1.0
    while trainings._process.pid is None or abs(processor(trainings) - before) > 0.05:
        before = processor(trainings)
        time.sleep(1.0)


if __name__ == "__main__":
    main()
