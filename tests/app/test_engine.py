"""Questions, and the line of those who wait; the models are stand-ins that tests steer step by step."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

import speckd
from app.engine import Engine, Step
from app.requests import Question, read_gate
from app.settings import ON_A_SPACE, Settings

OPEN = Settings()


def read(settings: Settings = OPEN, **data: Any) -> Question:
    return Question.read({"prompt": "Why?", **data}, settings)


def test_a_question_has_sensible_defaults() -> None:
    assert read() == Question("Why?")
    assert read(source="given", response="Because.", do_sample=True).do_sample is False


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"prompt": ""}, "empty"),
        ({"prompt": " \n\t"}, "empty"),
        ({"prompt": None}, "empty"),
        ({"prompt": 7}, "not text"),
        ({"prompt": "🧪" * 10_000}, "8,000"),
        ({"source": "oracle"}, "source"),
        ({"source": ["teacher"]}, "source"),
        ({"source": "given", "response": " "}, "given text is empty"),
        ({"source": "given", "response": "x" * 30_000}, "20,000"),
        ({"max_new_tokens": 0}, "length"),
        ({"max_new_tokens": 10_000}, "1,024"),
        ({"max_new_tokens": True}, "length"),
        ({"max_new_tokens": None}, "length"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**40}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"prefix_ids": "12"}, "token ids"),
        ({"prefix_ids": [-1]}, "token ids"),
        ({"prefix_ids": [1] * 1024}, "1024"),
        ({"teacher": "x" * 600}, "too long"),
    ],
)
def test_bad_question_is_one_sentence(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match="(?i)" + words) as error:
        read(**data)
    assert len(str(error.value)) < 250 and "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["<img onerror=x>", "${1}", "{{x}}", "\\", "\x00", "\u202eabc", "\ud83e"])
def test_hostile_text_is_a_question_like_any_other(text: str) -> None:
    assert read(prompt=text).prompt.encode("utf-8")  # half a surrogate pair is replaced, everything else kept


def test_a_space_takes_the_packaged_pair_alone() -> None:
    assert read(ON_A_SPACE, student="young").student == "young"
    for data in ({"teacher": "a/b", "student": "c/d"}, {"student": "/etc"}, {"student": "c/d"}):
        with pytest.raises(ValueError, match="packaged"):
            read(ON_A_SPACE, **data)


def test_a_prefix_leaves_room_for_one_more_token() -> None:
    assert read(prefix_ids=[1, 2, 3], max_new_tokens=2).max_new_tokens == 4


@pytest.mark.parametrize(
    "data",
    [
        {"gate": "evil"},
        {"k": 0},
        {"k": 51},
        {"k": 2.5},
        {"beta": -0.1},
        {"beta": 1.1},
        {"beta": "x"},
        {"divergence": "kl"},
    ],
)
def test_bad_gate_is_one_sentence(data: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read_gate(data)


def test_gate_is_read() -> None:
    assert read_gate({"gate": "speck", "k": 3, "beta": 0}) == (speckd.SpecK(k=3, beta=0.0), "forward_kl")
    assert read_gate({"gate": "none", "divergence": "jsd"}) == (speckd.AllOpen(), "jsd")


class Models:
    """Stands in for load_pair and inspect: every call waits until the test lets it go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()
        self.loaded: list[tuple[str, str]] = []
        self.at_once = 0
        self.most_at_once = 0
        self.error: Exception | None = None
        monkeypatch.setattr(speckd, "load_pair", self.load_pair)
        monkeypatch.setattr(speckd, "inspect", self.inspect)

    def load_pair(self, teacher: str, student: str, merge: bool = False, on_progress: Any = None) -> Any:
        if teacher == "missing":
            raise speckd.ModelUnavailable("There is no folder 'missing'.")
        self.loaded.append((teacher, student))
        on_progress(speckd.Progress("load", 1, 2))
        return SimpleNamespace(tokenizer=lambda text, **_: {"input_ids": list(text)})

    def inspect(self, pair: Any, prompt: str, *, on_progress: Any, should_stop: Any, **arguments: Any) -> Any:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            on_progress(speckd.Progress("generate", 1, 4, "Bec"))
            self.begun.set()
            while not self.go.wait(0.01):
                if should_stop():
                    raise speckd.Stopped
            if self.error:
                raise self.error
            return SimpleNamespace(tokens=["a", "b"])
        finally:
            self.at_once -= 1


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Models:
    return Models(monkeypatch)


def ends(steps: Iterator[Step]) -> Step:
    *_, last = steps
    return last


def test_a_run_tells_its_steps_and_ends_with_the_trace(models: Models) -> None:
    models.go.set()
    steps = list(Engine(OPEN).run(read(), threading.Event()))
    assert steps[-1].state == "done" and steps[-1].trace is not None
    assert {step.state for step in steps[:-1]} <= {"loading", "writing", "measuring"}


def test_stop_ends_a_run_within_a_second_and_the_next_one_works(models: Models) -> None:
    engine, stop = Engine(OPEN), threading.Event()
    steps = engine.run(read(), stop)
    states = [next(steps).state]
    models.begun.wait(5)
    stop.set()
    states += [step.state for step in steps]
    assert states[-1] == "stopped"
    models.go.set()
    assert ends(engine.run(read(), threading.Event())).state == "done"


def test_visitors_wait_in_line_and_are_told(models: Models) -> None:
    engine = Engine(OPEN)
    first = engine.run(read(), threading.Event())
    next(first)
    models.begun.wait(5)
    second = engine.run(read(), threading.Event())
    waiting = next(second)
    assert waiting.state == "waiting" and "one run is ahead" in waiting.text
    stop = threading.Event()
    third = engine.run(read(), stop)
    assert "2 runs are ahead" in next(third).text
    stop.set()
    assert ends(third).state == "stopped", "who leaves the line is gone at once"
    models.go.set()
    assert ends(first).state == "done" and ends(second).state == "done"
    assert models.most_at_once == 1


def test_two_pairs_at_most_are_kept(models: Models) -> None:
    models.go.set()
    engine = Engine(OPEN)
    for student in ("healed", "young", "healed", "raw", "healed", "young"):
        assert ends(engine.run(read(student=student), threading.Event())).state == "done"
    assert [student for _, student in models.loaded] == ["healed", "young", "raw", "young"]
    assert len(engine._pairs) == 2


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ValueError("The text is longer than the models' context."), "longer than"),
        (MemoryError(), "memory"),
        (RuntimeError("CUDA out of memory. Tried to allocate"), "GPU's memory"),
        (RuntimeError("secret path /home/x"), "log says what"),
    ],
)
def test_an_error_is_one_calm_sentence(models: Models, error: Exception, words: str) -> None:
    models.go.set()
    models.error = error
    last = ends(Engine(OPEN).run(read(), threading.Event()))
    assert last.state == "failed" and words in last.text and "/home" not in last.text and "Traceback" not in last.text


def test_a_missing_model_is_said_and_the_line_moves_on(models: Models) -> None:
    models.go.set()
    engine = Engine(OPEN)
    last = ends(engine.run(read(teacher="missing", student="x"), threading.Event()))
    assert last == Step("failed", "There is no folder 'missing'.")
    assert ends(engine.run(read(), threading.Event())).state == "done"


def test_too_many_tokens_are_counted_by_the_tokenizer(models: Models) -> None:
    models.go.set()
    engine = Engine(Settings(max_prompt_tokens=10))
    assert "limit here is 10" in ends(engine.run(read(prompt="x" * 11), threading.Event())).text


def test_without_models_the_page_is_told_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise speckd.ModelUnavailable("The packaged teacher is not installed: run `pip install x`.")

    monkeypatch.setattr(speckd, "load_pair", missing)
    engine = Engine(OPEN)
    engine.warm()
    assert engine._warming
    engine._warming.join(10)
    status = engine.status()
    assert status.state == "failed" and "not installed" in status.text and "recorded" in status.text


def test_a_borrowed_gpu_gets_steps_back_and_hears_stop(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    fake = SimpleNamespace(GPU=lambda duration: lambda function: function)
    monkeypatch.setitem(sys.modules, "spaces", fake)
    engine = Engine(Settings(zero_gpu=True))
    models.go.set()
    assert ends(engine.run(read(), threading.Event())).state == "done"
    models.go.clear()
    models.begun.clear()
    stop = threading.Event()
    steps = engine.run(read(), stop)
    next(steps)
    models.begun.wait(5)
    stop.set()
    assert ends(steps).state == "stopped"
    models.go.set()
    assert ends(engine.run(read(), threading.Event())).state == "done"
