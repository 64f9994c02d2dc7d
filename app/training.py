"""Short trainings for visitors: one at a time, in a process of its own, watched event by event.

A training is ``distill`` of ``speckd.runs``, called as the command line calls it; here are only the line of those who
wait, the process (app/worker.py), and what a visitor may keep of a run until they leave.

    <root>/<run>/            one run, named by a random id that only its visitor's page knows
        data.jsonl           what the visitor sent
        run/                 the folder of speckd.distill
        stop, leave          flags that the process reads at each step
"""

import contextlib
import contextvars
import io
import json
import logging
import queue
import secrets
import shutil
import tempfile
import threading
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import speckd
from app.checks import without_words
from app.engine import Engine
from app.line import TICK, Line
from app.process import TrainingProcess, fresh_root
from app.requests import TRAINED, TrainingRequest
from app.settings import Settings
from speckd.gates import gate_from_text
from speckd.runs.settings import DistillSettings, command_of, racer_folder

log = logging.getLogger(__name__)

KINDS = {"csv": "log.csv", "html": "report.html", "md": "report.md", "data": "data.jsonl"}
BREATH = 0.15  # seconds between two updates that are told
LOAN_START, LOAN_STEP = 20.0, 0.4  # seconds of a GPU loan: all but the steps, and a step until one was measured


# --- one visitor's run --------------------------------------------------------------------------------------------


@dataclass
class Run:
    """A training and what it left."""

    id: str
    session: str
    folder: Path
    request: TrainingRequest
    events: list[dict[str, Any]] = field(default_factory=list)
    key: str = field(default_factory=lambda: secrets.token_urlsafe(16))  # names its files for their visitor
    stopped: bool = False  # the visitor asked for its end
    left: threading.Event = field(default_factory=threading.Event)  # the visitor is gone
    over: bool = False
    seen: float = field(default_factory=time.monotonic)  # when its visitor last asked for it

    def stop(self) -> None:
        self.stopped = True
        with contextlib.suppress(OSError):
            (self.folder / "stop").touch()

    def leave(self) -> None:
        self.left.set()
        with contextlib.suppress(OSError):
            (self.folder / "leave").touch()


@dataclass(frozen=True)
class Update:
    """Where a run stands, and the events since the last update.

    Attributes:
        state: "waiting", "loading", "preparing", "training", or one of the ends: "done", "stopped", "failed".
        text: one sentence for a person.
        share: how much is done, 0 to 1; None where nobody knows.
        seconds_left: an estimate from the steps so far.
        first: index of the first event here.
        events: see speckd/runs/recording.py.
    """

    state: str
    text: str
    share: float | None = None
    seconds_left: float | None = None
    first: int = 0
    events: tuple[dict[str, Any], ...] = ()


class Trainings:
    """Everything about trainings that the page asks for."""

    def __init__(self, settings: Settings, engine: Engine) -> None:
        self.settings, self._engine = settings, engine
        self._line = Line()
        self._lock = threading.Lock()
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._process = TrainingProcess()
        self._root: Path | None = None
        self._step_seconds = LOAN_STEP  # of a GPU loan

    def warm(self) -> None:
        """Start the process that trains; it gets ready by itself."""
        if not self.settings.zero_gpu:
            threading.Thread(target=self._process.start, name="warm-trainer", daemon=True).start()

    def status(self) -> dict[str, Any]:
        return self._process.status

    def run(self, request: TrainingRequest, name: str, session: str) -> Iterator[Update]:
        """Train, and tell how it goes. The last update's state is "done", "stopped" or "failed".

        Args:
            request: checked by ``TrainingRequest.read``.
            name: the run's random id. session: whose it is; a visitor's earlier run is ended by a new one.
        """
        with self._lock:
            taken = name in self._runs
            busy = [run for run in self._runs.values() if session and run.session == session and not run.over]
            waiting = sum(not run.over for run in self._runs.values())
        if not name or taken:  # a second run under a name could be read by those who know the first
            yield Update("failed", "This run has no name of its own: start it again.")
            return
        for run in busy:
            run.leave()
        if waiting - len(busy) >= self.settings.max_waiting:
            yield Update("failed", "Many trainings are waiting already: try again in a few minutes.")
            return
        try:
            run = self._open(request, name, session)
        except OSError as error:
            yield Update("failed", f"The server can write no file ({error.strerror}): try again later.")
            return
        updates: queue.SimpleQueue[Update] = queue.SimpleQueue()
        context = contextvars.copy_context()  # who asks: a GPU on loan is counted against them
        arguments = (self._work, run, updates.put)
        threading.Thread(target=context.run, args=arguments, name="training", daemon=True).start()
        finished = False
        try:
            while not finished:
                try:
                    update = updates.get(timeout=TICK)
                except queue.Empty:
                    if run.left.is_set():
                        return
                    continue
                while update.state not in ("done", "stopped", "failed") and not updates.empty():
                    later = updates.get()
                    update = replace(later, first=update.first, events=update.events + later.events)
                finished = update.state in ("done", "stopped", "failed")
                yield update
                if not finished:  # what comes meanwhile is told together: a fast machine would drown the browser
                    run.left.wait(BREATH)
        finally:
            if not finished:  # nobody listens any more
                run.leave()

    def stop(self, name: str) -> bool:
        """Ask a run to end after its step; whether there was such a run."""
        run = self._find(name)
        if run is not None and not run.over:
            run.stop()
        return run is not None

    def events(self, name: str, first: int) -> list[dict[str, Any]]:
        run = self._find(name)
        return run.events[max(0, first) :] if run is not None else []

    def keep(self, name: str, racer: int | None, kind: str) -> str:
        """A file of a run as text: "csv", "html", "md", or "data", what was sent.

        Raises:
            ValueError: one sentence, when there is no such run or file.
        """
        run = self._find(name)
        if kind not in KINDS:
            raise ValueError(f"A run can't be kept as {kind!r:.20}: choose csv, html or md.")
        if run is None:
            raise ValueError("The server no longer keeps this run: run it again, then keep it.")
        folder = run.folder if kind == "data" else run.folder / "run"
        if racer is not None and kind != "data" and len(run.request.gates) > 1:
            if not 0 <= racer < len(run.request.gates):
                raise ValueError("There is no such racer.")
            folder = folder / racer_folder(run.request.gates[racer])
        try:
            return (folder / KINDS[kind]).read_text(encoding="utf-8")
        except OSError:
            raise ValueError("This run ended before it wrote that file.") from None

    def leave(self, session: str) -> None:
        """A page was closed: its runs end and what they left is removed."""
        with self._lock:
            own = [run for run in self._runs.values() if session and run.session == session]
        for run in own:
            run.leave()
            if run.over:
                self._remove(run)

    def close(self) -> None:
        """The server ends."""
        self._process.kill()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def routes(self) -> list[Route]:
        """Where a visitor fetches a trained adapter: the key in the address is known to them alone."""

        def adapter(request: Request) -> Response:
            key, name = request.path_params["key"], request.path_params["name"]
            with self._lock:
                run = next(
                    (run for run in self._runs.values() if secrets.compare_digest(run.key.encode(), key.encode())), None
                )
            racer = name.removesuffix(".zip")
            folder = None
            if run is not None and racer.isascii() and racer.isdigit() and int(racer) < len(run.request.gates):
                folder = self._student(run, int(racer))
            if folder is None:
                return Response("There is no such student here.", status_code=404, media_type="text/plain")
            headers = {"Content-Disposition": 'attachment; filename="speckd-student.zip"', "Cache-Control": "no-store"}
            return Response(_zipped(folder), media_type="application/zip", headers=headers)

        return [Route("/kept/{key}/{name}", adapter)]

    # --- inside -----------------------------------------------------------------------------------------------------

    def _find(self, name: str) -> Run | None:
        with self._lock:
            run = self._runs.get(name)
        if run is not None:
            run.seen = time.monotonic()
        return run

    def _open(self, request: TrainingRequest, name: str, session: str) -> Run:
        with self._lock:
            if self._root is None:
                self._root = fresh_root()
            run = Run(name, session, Path(tempfile.mkdtemp(dir=self._root)), request)
            self._runs[name] = run
            over = [one for one in self._runs.values() if one.over]
            old = over[: max(0, len(self._runs) - self.settings.kept_runs)]
            old += [
                one for one in over if time.monotonic() - one.seen > self.settings.max_idle_seconds and one not in old
            ]
        for one in old:
            self._remove(one)
        try:
            if request.data == "uploaded":
                (run.folder / "data.jsonl").write_text(request.text, encoding="utf-8")
            elif request.data == "pasted":
                prompts = [line.strip() for line in request.text.splitlines() if line.strip()]
                lines = [json.dumps({"prompt": prompt}, ensure_ascii=False) + "\n" for prompt in prompts]
                (run.folder / "data.jsonl").write_text("".join(lines), encoding="utf-8")
        except OSError:
            self._remove(run)  # else it would stand in line forever
            raise
        return run

    def _remove(self, run: Run) -> None:
        with self._lock:
            if self._runs.get(run.id) is run:
                del self._runs[run.id]
        for racer in range(len(run.request.gates)):
            self._engine.forget_trained(f"{TRAINED}{run.key}-{racer}")
        shutil.rmtree(run.folder, ignore_errors=True)

    def _student(self, run: Run, racer: int) -> Path | None:
        folder = run.folder / "run"
        if len(run.request.gates) > 1:
            folder = folder / racer_folder(run.request.gates[racer])
        return folder / "student" if (folder / "student" / "README.md").exists() else None

    def _work(self, run: Run, post: Callable[[Update], None]) -> None:
        def waiting(ahead: int) -> None:
            others = ahead - self._own_ahead(run)
            if others <= 0:
                post(Update("waiting", "Waiting: your earlier run is ending."))
                return
            runs = "one training is" if others == 1 else f"{others} trainings are"
            post(Update("waiting", f"Waiting: {runs} ahead of yours."))

        try:
            with self._line.turn(waiting, lambda: run.left.is_set() or run.stopped):
                last = self._train(run, post)
        except speckd.Stopped:
            last = Update("stopped", "Stopped before it began.")
        except Exception as error:
            log.error("A training failed: %s", without_words(error))
            last = Update("failed", "Something went wrong inside; the log says what. Nothing you set was lost.")
        shutil.rmtree(run.folder / "run" / "teacher-cache", ignore_errors=True)  # large, and of no use to anyone
        run.over = True
        if run.left.is_set():
            self._remove(run)
        post(last)

    def _own_ahead(self, run: Run) -> int:
        """How many earlier runs of the same visitor have not ended yet."""
        with self._lock:
            return sum(
                one is not run and bool(run.session) and one.session == run.session and not one.over
                for one in self._runs.values()
            )

    def _train(self, run: Run, post: Callable[[Update], None]) -> Update:
        settings = run.request.settings(str(run.folder / "run"), str(run.folder / "data.jsonl"))
        order = {
            "settings": asdict(settings),
            "stop_file": str(run.folder / "stop"),
            "leave_file": str(run.folder / "leave"),
        }
        clock = _Clock(run.request.steps, len(run.request.gates))
        longest = float(self.settings.max_training_seconds)
        if self.settings.zero_gpu:
            longest = self.settings.gpu_seconds - 5.0
            room = (self.settings.gpu_seconds - LOAN_START) / self._step_seconds
            most = max(1, int(room / len(run.request.gates)))
            if run.request.steps > most:
                lent = f"The GPU is lent for {self.settings.gpu_seconds} seconds"
                return Update("failed", f"{lent}, and a run here takes longer: choose {most} steps or fewer.")
        post(Update("loading", "Starting the trainer.", None))
        limit = time.monotonic() + longest
        too_long = False
        messages = (
            _on_borrowed_gpu(self.settings, order) if self.settings.zero_gpu else self._process.work(order, run.left)
        )
        for message in messages:
            if time.monotonic() > limit and not run.stopped:
                too_long = True
                run.stop()
            if "event" in message:
                first = len(run.events)
                run.events.append(message["event"])
                state, text, share, left = clock.hear(message["event"], run.stopped)
                post(Update(state, text, share, left, first, (message["event"],)))
            elif "progress" in message:
                stage, done, total = message["progress"]
                doing = {"teacher": "The teacher reads the texts, once", "generate": "The teacher writes"}
                share = done / total if total else None
                post(Update("preparing", f"{doing.get(stage, 'Loading the models')}.", share, first=len(run.events)))
            elif "state" in message:
                post(Update("loading", message["text"], None, first=len(run.events)))
            elif "failed" in message:
                return Update("failed", message["failed"], first=len(run.events))
        if run.left.is_set():
            return Update("stopped", "Stopped.", first=len(run.events))
        if clock.step_seconds is not None:
            self._step_seconds = clock.step_seconds
        if not any(event["kind"] == "row" for event in run.events):
            return Update("stopped", "Stopped before the first step.", first=len(run.events))
        kept = self._kept(run, settings)
        first = len(run.events)
        run.events.append(kept)
        if too_long:
            text = f"Stopped after {longest / 60:.0f} minutes, the limit here; what was reached is kept."
        else:
            text = "Stopped; what was reached is kept." if run.stopped else "Done."
        return Update("stopped" if run.stopped else "done", text, 1.0, None, first, (kept,))

    def _kept(self, run: Run, settings: DistillSettings) -> dict[str, Any]:
        """The event that says what the visitor may take along."""
        students, files = [], {}
        for racer, gate in enumerate(run.request.gates):
            folder = self._student(run, racer)
            if folder is None:
                continue
            label = (
                f"trained here: {gate_from_text(gate).title()}, {run.request.steps} steps from {run.request.student}"
            )
            if run.request.teacher == "packaged":
                self._engine.keep_trained(f"{TRAINED}{run.key}-{racer}", folder, label)
                students.append({"racer": racer, "value": f"{TRAINED}{run.key}-{racer}", "label": label})
            files[f"adapter {racer}"] = f"kept/{run.key}/{racer}.zip"
        own = settings.data if run.request.data == "shipped" else "data.jsonl"
        command = command_of(replace(settings, data=own, output="runs/mine", cache_folder=None))
        return {"kind": "kept", "command": command, "students": students, "files": files}


class _Clock:
    """Says how far a race is, and how long the rest may take."""

    def __init__(self, steps: int, racers: int) -> None:
        self._steps, self._racers = steps, racers
        self._done = [0] * racers  # steps of each racer
        self._last: tuple[str, float | None, float | None] = ("The models are loaded.", 0.0, None)
        self._began: tuple[float, int] | None = None  # when the first step ended, and how many were done then
        self.step_seconds: float | None = None  # of the steps so far, with what is done between them

    def hear(self, event: Mapping[str, Any], stopped: bool) -> tuple[str, str, float | None, float | None]:
        """State, text, share and seconds left after an event."""
        kind = event["kind"]
        if stopped:
            return "training", "Stopping: the figures of what was reached are being taken.", None, None
        if kind == "row":
            now, all_steps = time.monotonic(), self._steps * self._racers
            self._done[event["racer"]] = event["row"]["step"]
            done = sum(self._done)
            began, first = self._began = self._began or (now, done)
            if done > first:
                self.step_seconds = (now - began) / (done - first)
            left = self.step_seconds * (all_steps - done) if self.step_seconds is not None else None
            racer = f" of racer {'AB'[event['racer']]}" if self._racers > 1 else ""
            self._last = f"Step {event['row']['step']} of {self._steps}{racer}.", done / all_steps, left
            return "training", *self._last
        if kind in ("answers", "verdict"):
            return "training", "Comparing.", 1.0, None
        if kind == "start":
            return "training", "The models are loaded.", 0.0, None
        if kind in ("probe", "saying"):
            return "training", *self._last
        return "training", "Taking the held-out figures.", None, None


# --- the process --------------------------------------------------------------------------------------------------


# --- files --------------------------------------------------------------------------------------------------------


def _zipped(folder: Path) -> bytes:
    """The files of a trained student, in a ZIP archive."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:  # weights do not compress
        for path in sorted(folder.iterdir()):
            if path.is_file() and not path.is_symlink():
                file.write(path, f"student/{path.name}")
    return archive.getvalue()


# --- a GPU on loan (Hugging Face's ZeroGPU). Written after its documentation; unrun until a Space runs it. ---------


def _on_borrowed_gpu(settings: Settings, order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    import spaces  # only there on such a Space

    yield from spaces.GPU(duration=settings.gpu_seconds)(_train_on_loan)(order)


def _train_on_loan(order: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """In the loan's process: messages travel back, and files hold the student, whose weights are on the CPU by then."""
    from app.worker import Bench

    messages: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=Bench(messages.put).work, kwargs=order, daemon=True).start()
    while True:
        message = messages.get()
        if message.keys() & {"done", "left", "stopped"}:
            return
        yield message
        if "failed" in message:
            return
