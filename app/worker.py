"""The training process: `python -m app.worker`, started and fed by app/training.py.

It is a process of its own because a Trainer seeds the global generators, and `generate` draws from them: in one process
with the other models, a run would change another visitor's answer. It does one job at a time, speaks JSON lines
(orders on standard input, messages on standard output), and ends when its parent does: its input closes.

An order: {"settings": fields of DistillSettings, "stop_file": path, "leave_file": path}.
Messages: {"state": "loading" | "ready", "text": ..., "share": ...} while it warms up; during a job {"progress": [stage,
done, total]} and {"event": an event of speckd/runs/recording.py}; at a job's end {"done": true}, {"stopped": true}
(before the first step), {"left": true} or {"failed": one sentence}.
"""

import contextlib
import ctypes
import functools
import gc
import json
import logging
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from app.checks import without_words

log = logging.getLogger(__name__)

Say = Callable[[dict[str, Any]], None]


class Left(Exception):
    """The visitor is gone: nobody wants the rest of this job."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in the terminal is for the page, which ends this process
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    os.dup2(2, 1)  # what libraries print goes to standard error, never between the messages
    orders: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin, orders), daemon=True).start()

    def say(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message, allow_nan=False) + "\n")

    bench = Bench(say)
    warm = orders.get()  # the first order says what to have ready
    bench.warm(**warm)
    while True:
        bench.work(**orders.get())


def _listen(orders_in: TextIO, orders: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in orders_in:
        orders.put(json.loads(line))
    os._exit(0)  # the page is gone; whatever runs here has no reader


class Bench:
    """Where jobs are done, with a fresh pair and the teacher's hidden states lying ready for the next one."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._spare: tuple[tuple[str, str], Any] | None = None

    def warm(self, teacher: str, student: str, settings: dict[str, Any]) -> None:
        """Import what a job imports, load the usual pair, and fill the teacher cache of the usual data."""
        from speckd.runs.distill import fill_teacher_cache
        from speckd.runs.settings import DistillSettings

        try:
            self._say({"state": "loading", "text": "The trainer is getting ready.", "share": None})
            self._lay_ready(teacher, student)
            assert self._spare is not None
            usual = DistillSettings(**settings)
            _check_cache(self._spare[1], usual.cache_folder)
            fill_teacher_cache(self._spare[1], usual, self._progress)
            self._say({"state": "ready", "text": "The trainer is ready.", "share": None})
        except Exception as error:
            log.warning("The trainer starts cold: %s", without_words(error))
            self._say({"state": "ready", "text": "The trainer starts cold.", "share": None})

    def work(self, settings: dict[str, Any], stop_file: str, leave_file: str) -> None:
        """Do one job."""
        from speckd import Stopped
        from speckd.data import BadLine
        from speckd.runs.distill import distill
        from speckd.runs.settings import DistillSettings

        stepped = False

        def check() -> None:
            if os.path.exists(leave_file):
                raise Left

        def tell(event: dict[str, Any]) -> None:
            nonlocal stepped
            check()
            stepped = stepped or event["kind"] == "row"
            self._say({"event": event})

        def progress(done: Any) -> None:
            check()
            if not stepped and os.path.exists(stop_file):  # from the first step on the trainer hears it
                raise Stopped
            self._progress(done)

        usual = None
        try:
            asked = DistillSettings(**settings)
            usual = (asked.teacher, asked.student)
            load = functools.partial(self._load, cache_folder=asked.cache_folder)
            distill(asked, stop_file=stop_file, on_event=tell, on_progress=progress, load=load)
            outcome: dict[str, Any] = {"done": True}
        except Left:
            outcome = {"left": True}
        except Stopped:
            outcome = {"stopped": True}
        except BadLine as error:  # its last sentence is for the command line
            outcome = {
                "failed": self._plain(error, settings).split(" Mend the line")[0] + " Mend that line, then start again."
            }
        except (ValueError, OSError) as error:
            outcome = {"failed": self._plain(error, settings)}
        except MemoryError:
            outcome = {"failed": "There was not enough memory for this: choose a smaller batch or smaller models."}
        except Exception as error:
            if "out of memory" in str(error).lower():
                outcome = {"failed": "The GPU's memory was not enough for this: choose a smaller batch."}
            else:
                log.error("A training failed: %s", without_words(error))
                outcome = {"failed": "Something went wrong inside; the log says what. Nothing you set was lost."}
        self._tidy()
        self._say(outcome)
        if usual is not None and usual[0] == "packaged":  # while nobody waits
            self._lay_ready(*usual)

    @staticmethod
    def _plain(error: Exception, settings: dict[str, Any]) -> str:
        """The error's words without the folder of this run."""
        return str(error).replace(str(Path(settings["output"]).parent) + "/", "")

    def _progress(self, done: Any) -> None:
        self._say({"progress": [done.stage, done.done, done.total]})

    def _load(self, teacher: str, student: str, *, cache_folder: str | None, **others: Any) -> Any:
        pair = self._ready_or_loaded(teacher, student, **others)
        _check_cache(pair, cache_folder)
        return pair

    def _ready_or_loaded(self, teacher: str, student: str, **others: Any) -> Any:
        from speckd.pairs import load_pair

        on_progress = others.pop("on_progress", None)
        if self._spare is not None and self._spare[0] == (teacher, student) and not any(others.values()):
            (_, pair), self._spare = self._spare, None  # it will be trained, so it is given away for good
            return pair
        return load_pair(teacher, student, on_progress=on_progress, **others)

    def _lay_ready(self, teacher: str, student: str) -> None:
        from speckd.pairs import load_pair

        if self._spare is None or self._spare[0] != (teacher, student):
            self._spare = None
            self._spare = ((teacher, student), load_pair(teacher, student))

    def _tidy(self) -> None:
        """Give the job's memory back, to the system too."""
        import torch

        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if sys.platform == "linux":
            with contextlib.suppress(AttributeError):  # another C library, with another allocator
                ctypes.CDLL(None).malloc_trim(0)


def _check_cache(pair: Any, folder: str | None) -> None:
    """The page's teacher cache may be that of another teacher (a wheel was installed since), or damaged: it goes."""
    from speckd.training.teacher_cache import CacheMismatch, TeacherCache, tokenizer_sha256

    if folder is None or not Path(folder).exists():
        return
    try:
        TeacherCache(folder, pair.teacher_sha256, tokenizer_sha256(pair.tokenizer))
    except CacheMismatch:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    main()
