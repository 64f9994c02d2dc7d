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
import os
import queue
import secrets
import shutil
import subprocess
import sys
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
from app.checks import as_real, as_text, as_whole, without_words
from app.engine import LARGEST_SEED, PACKAGED_STUDENTS, TICK, TRAINED, Engine, Line
from app.settings import Settings
from speckd.gates import gate_from_text
from speckd.packaged import cache_folder
from speckd.runs.settings import DistillSettings, command_of, racer_folder

log = logging.getLogger(__name__)

HOME = Path(__file__).parents[1]
PROMPTS, ANSWERS, HELD_OUT = (
    "assets/prompts/train.jsonl",
    "assets/responses/train.jsonl",
    "assets/responses/heldout-greedy.jsonl",
)
SHIPPED_EXAMPLES = 96  # of the shipped data, so that their teacher cache is made once and stays small
HELD_OUT_EXAMPLES = 16
LENGTH, OWN_LENGTH = 128, 256  # tokens of prompt and response: the shipped texts are short, a visitor's may be longer
GATES = ("topk", "speck", "none", "hellinger", "adakd", "student_entropy", "teacher_entropy", "random")
RESPONSES = ("file", "teacher", "student", "mixed")
ADAPTERS = ("young", "healed")  # students that go on with the adapter that they have
KINDS = {"csv": "log.csv", "html": "report.html", "md": "report.md", "data": "data.jsonl"}
BREATH = 0.15  # seconds between two updates that are told
PATIENCE = 3.0  # seconds that a process has to leave a job by itself
LOAN_START, LOAN_STEP = 20.0, 0.4  # seconds of a GPU loan: all but the steps, and a step until one was measured
DEFAULTS: dict[str, Any] = {
    "student": "young",
    "teacher": "packaged",
    "data": "shipped",
    "text": "",
    "responses": "file",
    "gates": ["topk:k=5:beta=0.01", "none"],
    "steps": 30,
    "batch_size": 4,
    "learning_rate": 0.001,
    "lora_rank": 64,
    "seed": 0,
}


@dataclass(frozen=True)
class TrainingRequest:
    """What a visitor asks for. Made by ``read``, which checks it; ``settings`` turns it into a run's settings."""

    student: str
    teacher: str
    data: str
    text: str
    responses: str
    gates: tuple[str, ...]
    steps: int
    batch_size: int
    learning_rate: float
    lora_rank: int
    seed: int

    @classmethod
    def read(cls, data: Mapping[str, Any], settings: Settings) -> "TrainingRequest":
        """The request in the data that a page or a client sent.

        Raises:
            ValueError: one sentence for a person, when something is missing, too long or out of range.
        """
        if not isinstance(data, Mapping):
            raise ValueError("The request is no set of fields: send student, gates and the rest by their names.")
        asked = {**DEFAULTS, **{name: value for name, value in data.items() if name in DEFAULTS and value is not None}}
        teacher, student = (as_text(asked[name], f"The {name}").strip() for name in ("teacher", "student"))
        if not teacher or not student:
            raise ValueError(f"The {'student' if teacher else 'teacher'} has no name: give a Hub id or a folder.")
        if (teacher != "packaged" or student not in PACKAGED_STUDENTS) and not settings.own_models:
            raise ValueError(
                f"Here only the packaged pair can be trained, from the student {', '.join(PACKAGED_STUDENTS)}. "
                "Run the page on your own machine for other models."
            )
        if max(len(teacher), len(student)) > 500:
            raise ValueError("The name of a model is too long: give a Hub id such as owner/name, or a folder.")
        gates = asked["gates"]
        if not isinstance(gates, list | tuple) or not 1 <= len(gates) <= 2:
            raise ValueError("A race has one or two gates.")
        gates = tuple(_gate(gate) for gate in gates)
        if len(gates) == 2 and gate_from_text(gates[0]) == gate_from_text(gates[1]):
            raise ValueError("The two gates are the same: a race needs different ones.")
        kind, responses = asked["data"], asked["responses"]
        if kind not in ("shipped", "pasted", "uploaded"):
            raise ValueError(f"The data {kind!r:.40} is not known: choose shipped, pasted or uploaded.")
        if responses not in RESPONSES:
            raise ValueError(f"Responses from {responses!r:.40}: choose one of {', '.join(RESPONSES)}.")
        text = as_text(asked["text"], "The data") if kind != "shipped" else ""
        if len(text.encode()) > settings.max_data_bytes:
            raise ValueError(
                f"The data has {len(text.encode()) / 1e6:.1f} MB and the limit here is "
                f"{settings.max_data_bytes / 1e6:.1f} MB: send fewer lines."
            )
        if kind == "pasted":
            if not text.strip():
                raise ValueError("There are no prompts yet: paste some, one on each line.")
            if responses in ("file", "mixed"):
                raise ValueError("Pasted prompts have no responses: let the teacher or the student write them.")
        if kind == "uploaded":
            _check_lines(text)
        return cls(
            student=student,
            teacher=teacher,
            data=kind,
            text=text,
            responses=responses,
            gates=gates,
            steps=as_whole(asked["steps"], "The number of steps", 1, settings.max_training_steps),
            batch_size=as_whole(asked["batch_size"], "The batch size", 1, settings.max_training_batch, " texts"),
            learning_rate=as_real(asked["learning_rate"], "The learning rate", 1e-7, 1.0),
            lora_rank=as_whole(asked["lora_rank"], "The LoRA rank", 1, settings.max_lora_rank),
            seed=as_whole(asked["seed"], "The seed", 0, LARGEST_SEED),
        )

    def settings(self, output: str, data_file: str) -> DistillSettings:
        """The settings of the run, as the command line would have them.

        Args:
            output: the run's folder.
            data_file: where the visitor's own data lies; the shipped data has its place.
        """
        shipped = self.data == "shipped"
        writes = self.responses in ("teacher", "student")
        seen = self.steps * self.batch_size  # a run meets no more examples than these
        rank: dict[str, Any] = {} if self.student in ADAPTERS else {"lora_rank": self.lora_rank}
        cache = None  # made once for the page, and anew with each batch size: padding moves a last digit
        if shipped and not writes and self.teacher == "packaged":
            cache = str(cache_folder() / f"page-teacher-cache-{self.batch_size}")
        return DistillSettings(
            data=(PROMPTS if writes else ANSWERS) if shipped else data_file,
            output=output,
            teacher=self.teacher,
            student=self.student,
            eval_data=HELD_OUT,
            eval_limit=HELD_OUT_EXAMPLES,
            limit=SHIPPED_EXAMPLES if shipped and not writes else seen,
            max_length=LENGTH if shipped else OWN_LENGTH,
            responses=self.responses,
            max_new_tokens=64,
            gates=self.gates,
            steps=self.steps,
            warmup=max(1, self.steps // 10),
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            **rank,
            seed=self.seed,
            eval_every=max(1, -(-self.steps // 3)),
            probe_every=1 if self.steps <= 100 else self.steps // 50,
            answers=40,
            cache_folder=cache,
        )


def _gate(spec: Any) -> str:
    text = as_text(spec, "The gate").strip()
    if len(text) > 120 or text.split(":")[0] not in GATES:
        raise ValueError(f"The gate {text!r:.60} is not known: choose one of {', '.join(GATES)}.")
    gate_from_text(text)
    return text


def _check_lines(text: str) -> None:
    """Raises ValueError for the first line that is no JSON object, by its number."""
    n = 0
    for number, line in enumerate(text.split("\n"), start=1):  # JSON text may hold other ends of lines
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            raise ValueError(f"Line {number} is not JSON: put one object on each line.") from None
        if not isinstance(row, dict):
            raise ValueError(f'Line {number} is no JSON object: write {{"prompt": ..., "response": ...}} on each line.')
        n += 1
    if not n:
        raise ValueError("The file is empty: send one JSON object a line, with a prompt and a response.")


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
        events: see speckd/recording.py.
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
            runs = "one training is" if ahead == 1 else f"{ahead} trainings are"
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
        messages = _on_borrowed_gpu(self.settings, order) if self.settings.zero_gpu else self._process.work(order, run)
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
        self._began: tuple[float, int] | None = None  # when the first step ended, and which it was
        self.step_seconds: float | None = None  # of the steps so far, with what is done between them

    def hear(self, event: Mapping[str, Any], stopped: bool) -> tuple[str, str, float | None, float | None]:
        """State, text, share and seconds left after an event."""
        kind = event["kind"]
        if stopped:
            return "training", "Stopping: the figures of what was reached are being taken.", None, None
        if kind == "row":
            now, all_steps = time.monotonic(), self._steps * self._racers
            done = event["racer"] * self._steps + event["row"]["step"]
            began, first = self._began = self._began or (now, done)
            if done > first:
                self.step_seconds = (now - began) / (done - first)
            left = self.step_seconds * (all_steps - done) if self.step_seconds is not None else None
            racer = f" of racer {'AB'[event['racer']]}" if self._racers > 1 else ""
            return "training", f"Step {event['row']['step']} of {self._steps}{racer}.", done / all_steps, left
        if kind in ("answers", "verdict"):
            return "training", "Comparing.", 1.0, None
        if kind == "start":
            return "training", "The models are loaded.", 0.0, None
        return "training", "Taking the held-out figures.", None, None


# --- the process --------------------------------------------------------------------------------------------------


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

    def work(self, order: dict[str, Any], run: Run) -> Iterator[dict[str, Any]]:
        """Messages of one job, up to its end. A visitor who left ends it, if need be with the process."""
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
                if not run.left.is_set():
                    yield {"failed": "The trainer ended unexpectedly, perhaps for want of memory: try a smaller batch."}
                return
            if message.keys() & {"done", "left", "stopped"}:
                return
            if run.left.is_set():
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


# --- files --------------------------------------------------------------------------------------------------------


def fresh_root() -> Path:
    """A folder for this server's runs. Those of servers that are gone are removed."""
    base = Path(tempfile.gettempdir()) / f"speckd-lab-{os.getuid() if hasattr(os, 'getuid') else 'runs'}"
    base.mkdir(mode=0o700, exist_ok=True)
    if base.is_symlink() or (hasattr(os, "getuid") and base.stat().st_uid != os.getuid()):  # somebody else's trap
        base = Path(tempfile.mkdtemp(prefix="speckd-lab-"))
    for folder in base.iterdir():
        if folder.name.isdigit() and not _runs(int(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)
    root = base / str(os.getpid())
    root.mkdir(mode=0o700, exist_ok=True)
    return root


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


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
