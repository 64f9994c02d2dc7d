"""The only file of the app that runs models: pairs are loaded here, and every visitor's work waits here in one line.

A run is a generator of Step: first where it stands in the line, then what is loading, then the text as it grows, and at
last the trace, a sentence about what went wrong, or that it was stopped. It never raises for anything a visitor can do.
"""

import contextvars
import gc
import logging
import os
import queue
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import speckd
from app.checks import without_words
from app.decoding import DecodeRequest, decode
from app.line import TICK, Line, Until
from app.requests import TRAINED, Question
from app.settings import Settings
from app.steps import Step

log = logging.getLogger(__name__)

BREATH = 0.06  # seconds between two steps that are told
LAST_WORDS = 3.0  # seconds that a stopped decoding has to hand over its rounds


class Engine:
    """The pairs in memory, and the line of those who wait for them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._pairs: OrderedDict[tuple[str, str], speckd.Pair] = OrderedDict()
        self._line = Line()
        self._status = Step("done", "The models load with the first question.")
        self._warming: threading.Thread | None = None
        self._trained: dict[str, tuple[Path, str]] = {}
        self._counting = threading.Lock()
        self._under_way = 0
        # A Space that lends GPUs looks for functions that borrow one before it serves the page.
        self._borrowed = _on_borrowed_gpu(settings.gpu_seconds) if settings.zero_gpu else None

    # --- students that visitors trained ---------------------------------------------------------------------------

    def keep_trained(self, name: str, folder: Path, label: str) -> None:
        """Let questions name a trained student: ``name`` begins with TRAINED and can't be guessed."""
        self._trained[name] = (folder, label)

    def forget_trained(self, name: str) -> None:
        self._trained.pop(name, None)
        self._pairs.pop(("packaged", name), None)

    # --- the packaged pair, loaded behind the recorded picture ----------------------------------------------------

    def warm(self) -> None:
        """Load the packaged pair in a thread of its own; the page opens meanwhile."""
        if self._warming is None:
            self._status = Step("loading", "Loading the models.")
            self._warming = threading.Thread(target=self._warm, name="warm", daemon=True)
            self._warming.start()

    def _warm(self) -> None:
        with self._line.turn(lambda ahead: None):
            try:
                self._pair("packaged", "healed", self._set_status, lambda: False)
                self._status = Step("done", "The models are ready.")
            except (speckd.ModelUnavailable, ValueError) as error:
                self._status = Step("failed", f"{error} The recorded answers work without it.")
            except Exception:
                log.exception("The packaged pair could not be loaded")
                self._status = Step(
                    "failed", "The models could not be loaded; the log says why. The recorded answers work."
                )

    def _set_status(self, step: Step) -> None:
        self._status = step

    def status(self) -> Step:
        """Where the loading of the packaged pair stands."""
        return self._status

    # --- one question ---------------------------------------------------------------------------------------------

    def run(self, question: Question, stop: threading.Event) -> Iterator[Step]:
        """Answer a question, step by step. The last Step's state is "done", "stopped" or "failed".

        Args:
            question: checked by ``Question.read``, or by ``DecodeRequest.read`` for a decoding.
            stop: set it and the run ends within a moment, wherever it is.
        """
        with self._counting:
            full = self._under_way >= self.settings.max_waiting
            self._under_way += not full
        if full:
            yield Step("failed", "Many questions are waiting already: try again in a minute.")
            return
        steps: queue.SimpleQueue[Step] = queue.SimpleQueue()
        context = contextvars.copy_context()  # who asks: a GPU on loan is counted against them
        arguments = (self._work, question, stop, steps.put)
        threading.Thread(target=context.run, args=arguments, name="run", daemon=True).start()
        n_written = 0
        while True:
            try:
                step = steps.get(timeout=TICK)
                while not step.is_end and not steps.empty():  # only the newest is worth showing
                    step = steps.get()
            except queue.Empty:
                step = None
            if isinstance(question, DecodeRequest) and stop.is_set():
                step = step if step is not None and step.is_end else _last_words(steps)
            if step is not None and step.state == "stopped" and step.record is not None:
                yield step
                return
            if stop.is_set() or (step is not None and step.state == "stopped"):
                # The work itself ends at its next look; nobody has to wait for that.
                yield Step("stopped", f"Stopped after {n_written} tokens." if n_written else "Stopped.")
                return
            if step is not None:
                n_written = step.n_tokens or n_written
                yield step
                if step.is_end:
                    return
                stop.wait(BREATH)  # what comes meanwhile is merged: a page needs no more, and the models need the time

    def answer(self, question: Question) -> speckd.Trace:
        """The trace of a question, for those who wait without a page.

        Raises:
            ValueError: one sentence about what went wrong.
        """
        *_, last = self.run(question, threading.Event())
        if last.trace is None:
            raise ValueError(last.text)
        return last.trace

    def decode(self, request: DecodeRequest) -> speckd.DecodeRecord:
        """The record of a decoding, for those who wait without a page.

        Raises:
            ValueError: one sentence about what went wrong.
        """
        *_, last = self.run(request, threading.Event())
        if last.record is None or last.state != "done":
            raise ValueError(last.text)
        return last.record

    def _work(self, question: Question, stop: threading.Event, post: Callable[[Step], None]) -> None:
        def waiting(ahead: int) -> None:
            runs = "one run is" if ahead == 1 else f"{ahead} runs are"
            post(Step("waiting", f"Waiting: {runs} ahead of yours."))

        late = ""
        try:
            with self._line.turn(waiting, stop.is_set):
                late = _too_late("Loading the models", self.settings.max_loading_seconds, "choose smaller ones")
                loading = Until(stop, self.settings.max_loading_seconds)
                pair = self._pair(question.teacher, question.student, post, loading.is_set)
                _check_length(pair, question, self.settings)
                late = _too_late("The answer", self.settings.max_question_seconds, "ask for fewer tokens")
                last = self._answer(pair, question, post, Until(stop, self.settings.max_question_seconds))
                if last.state == "stopped" and not stop.is_set():
                    last = replace(last, state="failed", text=late)
        except speckd.Stopped:
            last = Step("stopped", "Stopped.") if stop.is_set() or not late else Step("failed", late)
        except (speckd.ModelUnavailable, ValueError) as error:
            last = Step("failed", str(error))
        except MemoryError:
            last = Step("failed", "There was not enough memory for this: choose a shorter text or smaller models.")
        except Exception as error:
            if "out of memory" in str(error).lower():
                words = "The GPU's memory was not enough for this: choose a shorter text or smaller models."
            else:
                log.error("A run failed: %s", without_words(error))
                words = "Something went wrong inside; the log says what. Your question is still there: try again."
            last = Step("failed", words)
        if last.state == "failed":  # only now has the error let go of what it held
            _release_memory()
        with self._counting:
            self._under_way -= 1
        post(last)

    def _pair(
        self, teacher: str, student: str, post: Callable[[Step], None], should_stop: Callable[[], bool]
    ) -> speckd.Pair:
        """The pair from memory, or loaded; the one used longest ago makes room. Only called in one's turn."""
        key = (teacher, student)
        if key in self._pairs:
            self._pairs.move_to_end(key)
            return self._pairs[key]

        def progress(p: speckd.Progress) -> None:
            if should_stop():
                raise speckd.Stopped
            doing = "Preparing the packaged teacher, once" if p.stage == "convert" else "Loading the models"
            post(Step("loading", f"{doing}.", p.done / p.total if p.total else None))

        post(Step("loading", "Loading the models.", 0.0))
        while len(self._pairs) >= self.settings.kept_pairs:
            self._pairs.popitem(last=False)
        if student.startswith(TRAINED):
            if student not in self._trained:
                raise ValueError("This trained student is no longer here: train it again in Distill.")
            folder, label = self._trained[student]
            pair = speckd.load_pair(teacher, str(folder), merge=True, on_progress=progress)
            self._pairs[key] = replace(pair, student_id=label)  # a trace names the student, never a folder
        else:
            pinned = self.settings.pair(teacher, student)
            commits: dict[str, Any] = pinned.revisions if pinned else {}
            self._pairs[key] = speckd.load_pair(teacher, student, merge=True, on_progress=progress, **commits)
        return self._pairs[key]

    def _answer(self, pair: speckd.Pair, question: Question, post: Callable[[Step], None], stop: "Until") -> Step:
        if self._borrowed is None:
            return _answer(pair, question, post, stop.is_set)
        lent = (question.teacher, question.student)
        _lent.clear()
        _lent[lent] = pair
        folder_of, _ = self._trained.get(question.student, (question.student, ""))
        pinned = self.settings.pair(*lent)
        source = (question.teacher, str(folder_of), pinned.revisions if pinned else {})
        with tempfile.TemporaryDirectory() as folder:  # a GPU loan is another process: there a file says stop
            flag = Path(folder) / "stop"
            watching = threading.Event()
            threading.Thread(target=_pass_on, args=(stop, watching, flag), daemon=True).start()
            try:
                for step in self._borrowed(lent, source, question, str(flag)):
                    if step.is_end:
                        return step
                    post(step)
            finally:
                watching.set()
        raise speckd.Stopped


def _last_words(steps: "queue.SimpleQueue[Step]") -> Step | None:
    """The end of a decoding that was stopped, with the rounds that were over; None where it does not come in time."""
    end = time.monotonic() + LAST_WORDS
    while (left := end - time.monotonic()) > 0:
        try:
            step = steps.get(timeout=left)
        except queue.Empty:
            return None
        if step.is_end:
            return step
    return None


def _answer(
    pair: speckd.Pair, question: Question, post: Callable[[Step], None], should_stop: Callable[[], bool]
) -> Step:
    """The last step of a question or of a decoding."""
    if isinstance(question, DecodeRequest):
        return decode(pair, question, post, should_stop)
    return _done(_inspect(pair, question, post, should_stop))


def _inspect(
    pair: speckd.Pair, question: Question, post: Callable[[Step], None], should_stop: Callable[[], bool]
) -> speckd.Trace:
    def progress(p: speckd.Progress) -> None:
        share = p.done / p.total if p.total else None
        if p.stage == "generate":
            writer = "student" if question.source == "student" else "teacher"
            text = f"The {writer} writes: token {p.done} of at most {p.total}."
            post(Step("writing", text, share, partial=p.text, n_tokens=p.done))
        else:
            doing = {"teacher": "The teacher reads it", "student": "The student reads it"}.get(
                p.stage, "Comparing the two"
            )
            post(Step("measuring", f"{doing}.", share))

    return speckd.inspect(
        pair,
        question.prompt,
        response=question.response,
        source=question.source,
        do_sample=question.do_sample,
        max_new_tokens=question.max_new_tokens,
        temperature=question.temperature,
        seed=question.seed,
        prefix_ids=list(question.prefix_ids) or None,
        on_progress=progress,
        should_stop=should_stop,
    )


def _too_late(what: str, seconds: int, way_out: str) -> str:
    time = f"{seconds // 60} minutes" if seconds >= 120 else f"{seconds} seconds"
    return f"{what} took longer than {time}, the limit here: {way_out}."


def _release_memory() -> None:
    """What a failed run held goes back; a GPU's allocator keeps it otherwise."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _done(trace: speckd.Trace) -> Step:
    return Step("done", f"{len(trace.tokens)} tokens.", 1.0, trace=trace)


def _check_length(pair: speckd.Pair, question: Question, settings: Settings) -> None:
    """Raises ValueError when the text has more tokens than this place allows; only the tokenizer can tell."""
    for text, name, limit in (
        (question.prompt, "question", settings.max_prompt_tokens),
        (question.response or "", "given text", settings.max_new_tokens),
    ):
        n_tokens = len(pair.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0
        if n_tokens > limit:
            raise ValueError(f"The {name} has {n_tokens:,} tokens and the limit here is {limit:,}: shorten it.")


# --- a line with one person served at a time ----------------------------------------------------------------------


# --- a GPU on loan (Hugging Face's ZeroGPU). Written after its documentation; unrun until a Space runs it. ---------


_lent: dict[tuple[str, str], speckd.Pair] = {}  # the pair that a loan's process finds in the memory it was forked with


def _on_borrowed_gpu(seconds: int) -> Callable[..., Iterator[Step]]:
    import spaces  # only there on such a Space

    return spaces.GPU(duration=seconds)(_inspect_on_loan)


def _inspect_on_loan(
    lent: tuple[str, str], source: tuple[str, str, dict[str, str]], question: Question, flag: str
) -> Iterator[Step]:
    """In the loan's process: arguments and steps travel pickled (so never a model), and a file says stop. A process
    that began before the pair was loaded loads it again."""
    pair = _lent.get(lent)
    if pair is None:
        teacher, student, commits = source
        pair = _lent[lent] = speckd.load_pair(
            teacher,
            student,
            merge=True,
            revision=commits.get("revision"),
            student_revision=commits.get("student_revision"),
        )
    steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
    error: list[BaseException] = []

    def work() -> None:
        try:
            steps.put(_answer(pair, question, steps.put, lambda: os.path.exists(flag)))
        except BaseException as problem:
            error.append(problem)
        finally:
            steps.put(None)

    threading.Thread(target=work, daemon=True).start()
    while (step := steps.get()) is not None:
        yield step
    if error:
        raise error[0]


def _pass_on(stop: "Until", over: threading.Event, flag: Path) -> None:
    while not over.is_set():
        if stop.wait(TICK):
            if flag.parent.exists():
                flag.touch()
            return
