"""Trainings for visitors: what is refused, what the process does, and that nobody meets another's things."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

import speckd
from app import requests, training
from app.engine import Engine
from app.process import TrainingProcess, fresh_root, process_runs
from app.requests import TrainingRequest
from app.settings import ON_A_SPACE, Settings
from app.training import Run, Trainings, Update
from speckd.cli.distill import settings_from
from speckd.runs.distill import distill
from speckd.runs.settings import DistillSettings
from tests import training_pair

pytestmark = pytest.mark.slow  # it trains: seconds a test


LAPTOP = Settings()


# --- requests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"steps": 0}, "number of steps is 0: choose a whole number from 1"),
        ({"steps": 2.5}, "number of steps"),
        ({"learning_rate": 1e6}, r"learning rate is 1e\+06: choose a number from 1e-07 to 1"),
        ({"learning_rate": float("nan")}, "learning rate"),
        ({"batch_size": 10**9}, "batch size"),
        ({"lora_rank": 0}, "LoRA rank"),
        ({"seed": -1}, "seed"),
        ({"gates": []}, "one or two gates"),
        ({"gates": ["topk"] * 3}, "one or two gates"),
        ({"gates": ["topk", "topk:k=5"]}, "two gates are the same"),
        ({"gates": ["topk:k=0"]}, "k is 0"),
        ({"gates": ["__import__"]}, "is not known"),
        ({"gates": [7]}, "gate is not text"),
        ({"responses": "oracle"}, "choose one of file, teacher, student, mixed"),
        ({"data": "stolen"}, "choose shipped, pasted or uploaded"),
        ({"data": "pasted", "text": " \n "}, "no prompts yet"),
        ({"data": "pasted", "text": "Why?"}, "let the teacher or the student write"),
        ({"data": "uploaded", "text": ""}, "file is empty"),
        ({"data": "uploaded", "text": '{"prompt": "a", "response": "b"}\n{"prompt"\n{}'}, "Line 2 is not JSON"),
        ({"data": "uploaded", "text": '{"prompt": "a", "response": "b"}\n\n[1]'}, "Line 3 is no JSON object"),
        ({"data": "uploaded", "text": "x" * (LAPTOP.max_data_bytes + 1)}, "MB and the limit here is"),
        ({"data": "uploaded", "text": {"a": 1}}, "data is not text"),
        ({"student": " "}, "student has no name"),
        ({"teacher": "x" * 501}, "name of a model is too long"),
    ],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_one_sentence(asked: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as refusal:
        TrainingRequest.read(asked, LAPTOP)
    assert "\n" not in str(refusal.value)


def test_a_space_trains_the_packaged_pair_alone_and_within_bounds() -> None:
    for asked in ({"teacher": "a/b"}, {"student": "../x"}, {"student": "trained:abc"}):
        with pytest.raises(ValueError, match="only the packaged pair"):
            TrainingRequest.read(asked, ON_A_SPACE)
    with pytest.raises(ValueError, match="from 1 to 60"):
        TrainingRequest.read({"steps": 61}, ON_A_SPACE)
    assert TrainingRequest.read({}, ON_A_SPACE).student == "young"


def test_a_line_may_hold_any_character_that_json_allows() -> None:
    text = json.dumps({"prompt": "a\u2028b\x85c", "response": "d"}, ensure_ascii=False)
    assert TrainingRequest.read({"data": "uploaded", "text": text + "\n"}, LAPTOP).text == text + "\n"


def test_no_more_of_own_data_is_read_than_the_run_meets() -> None:
    own = TrainingRequest.read({"data": "pasted", "text": "Why?\n" * 999, "responses": "teacher", "steps": 5}, LAPTOP)
    assert own.settings("out", "data.jsonl").limit == 5 * 4
    shipped = TrainingRequest.read({}, LAPTOP).settings("out", "")
    assert shipped.limit == requests.SHIPPED_EXAMPLES


def test_a_rank_is_only_asked_for_where_a_fresh_adapter_is_made() -> None:
    def rank(student: str) -> int:
        return TrainingRequest.read({"student": student, "lora_rank": 8}, LAPTOP).settings("out", "").lora_rank

    assert [rank(student) for student in ("young", "healed", "raw")] == [64, 64, 8]


def test_each_batch_size_has_a_teacher_cache_of_its_own() -> None:
    folders = {TrainingRequest.read({"batch_size": n}, LAPTOP).settings("out", "").cache_folder for n in (2, 4, 4)}
    assert len(folders) == 2  # padding moves a last digit, and the command makes its cache in batches of this size


def test_the_offered_command_asks_for_the_very_settings_of_the_run(tmp_path: Path) -> None:
    from speckd.cli.main import make_parser

    request = TrainingRequest.read({"gates": ["speck:k=3", "none"], "seed": 7, "steps": 11}, LAPTOP)
    run = Run("id", "", tmp_path, request)
    asked = request.settings(str(tmp_path / "run"), "")
    command = Trainings(LAPTOP, Engine(LAPTOP))._kept(run, asked)["command"]
    words = command.split()
    assert words[:4] == ["python", "-m", "speckd", "distill"] and str(tmp_path) not in command
    parsed = settings_from(make_parser().parse_args(words[3:]))
    differing = {name for name in vars(parsed) if getattr(parsed, name) != getattr(asked, name)}
    assert differing == {"output", "cache_folder"}


# --- with a tiny pair, in a process of its own --------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def rows() -> str:
    return "".join(json.dumps(row) + "\n" for row in training_pair.ROWS)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, rows: str) -> Path:
    held_out = tmp_path_factory.mktemp("held") / "held-out.jsonl"
    held_out.write_text(rows)
    return held_out


@pytest.fixture(scope="module")
def process() -> Iterator[TrainingProcess]:
    """One process for all: what a run left in it must not reach the next."""
    one = TrainingProcess()
    yield one
    one.kill()


@pytest.fixture
def trainings(
    pair: Any, home: Path, process: TrainingProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Trainings]:
    """Real trainings of a tiny pair: the process gets ready with nothing, since the packaged one is not wanted here."""
    monkeypatch.setattr(requests, "HELD_OUT", str(home))
    monkeypatch.setattr(requests, "ANSWER_TOKENS", 6)  # written seven times a run, and at every fifth step
    monkeypatch.setattr(requests, "DEFAULTS", {**requests.DEFAULTS, "teacher": pair[0], "student": pair[1]})
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    one = Trainings(LAPTOP, Engine(LAPTOP))
    one._process = process
    yield one


def ask(rows: str, **others: Any) -> TrainingRequest:
    small: dict[str, Any] = {"data": "uploaded", "text": rows, "steps": 4, "lora_rank": 2, "learning_rate": 0.01}
    return TrainingRequest.read({**small, **others}, LAPTOP)


def losses(events: Any, racer: int = 0) -> list[float]:
    return [e["row"]["loss"] for e in events if e["kind"] == "row" and e["racer"] == racer]


def follow(trainings: Trainings, request: TrainingRequest, name: str, session: str = "a") -> list[Update]:
    return list(trainings.run(request, name, session))


@pytest.mark.slow
def test_a_run_in_the_page_is_the_run_of_the_command(trainings: Trainings, rows: str, tmp_path: Path) -> None:
    request = ask(rows, gates=["topk:k=2", "none"])
    updates = follow(trainings, request, "one")
    events = [event for update in updates for event in update.events]
    assert updates[-1].state == "done" and [event["kind"] for event in events][-2:] == ["verdict", "kept"]
    data = tmp_path / "data.jsonl"
    data.write_text(trainings.keep("one", None, "data"))
    records = distill(request.settings(str(tmp_path / "again"), str(data)))
    for racer, record in enumerate(records):
        assert losses(events, racer) == [row["loss"] for row in record.rows if "loss" in row]
        assert len(losses(events, racer)) == 4
    # Every event came once, in order, and the page can ask for those it missed.
    assert [u.first for u in updates if u.events] == sorted(u.first for u in updates if u.events)
    assert trainings.events("one", 0) == events and trainings.events("one", 5) == events[5:]
    assert trainings.keep("one", 1, "csv").startswith("run,step,") and "<svg" in trainings.keep("one", None, "html")


def test_a_trained_student_goes_to_inspect_and_to_nobody_else(trainings: Trainings, rows: str) -> None:
    follow(trainings, ask(rows, gates=["topk:k=2"]), "one", "mine")
    run = trainings._runs["one"]
    assert run.folder.is_dir()
    assert trainings.events("another", 0) == []
    with pytest.raises(ValueError, match="no longer keeps this run"):
        trainings.keep("another", None, "csv")
    trainings.leave("other")
    assert run.folder.is_dir()
    trainings.leave("mine")
    assert not run.folder.exists() and trainings.events("one", 0) == []


def test_stop_ends_within_a_step_and_keeps_what_was_reached(trainings: Trainings, rows: str) -> None:
    events, state = [], ""
    for update in trainings.run(ask(rows, steps=500, gates=["topk:k=2", "none"]), "one", "a"):
        events += update.events
        if len(losses(events)) >= 2:
            trainings.stop("one")
        state = update.state
    assert state == "stopped" and 2 <= len(losses(events)) < 100
    assert len(losses(events)) == len(losses(events, 1)), "racers in turn end with as many steps each"
    assert events[-1]["kind"] == "kept" and {"adapter 0", "adapter 1"} == set(events[-1]["files"])


def test_a_visitor_who_leaves_ends_the_work_and_takes_everything_along(trainings: Trainings, rows: str) -> None:
    request = ask(rows, steps=1000)
    running = trainings.run(request, "one", "a")
    for update in running:
        if any(event["kind"] == "row" for event in update.events):
            break
    run = trainings._runs["one"]
    left = time.monotonic()
    trainings.leave("a")
    while run.folder.exists():
        assert time.monotonic() - left < 5, "the work did not end within five seconds"
        time.sleep(0.02)  # looking at a folder is the only way to see that it is gone
    assert [update.state for update in follow(trainings, ask(rows), "two", "b")][-1] == "done"


def test_two_visitors_wait_in_line_and_get_the_curves_that_they_get_alone(trainings: Trainings, rows: str) -> None:
    requests = [ask(rows, seed=1, steps=6), ask(rows, seed=2, steps=6)]
    alone = [losses(e for u in follow(trainings, r, f"alone{i}") for e in u.events) for i, r in enumerate(requests)]
    seen: dict[int, list[Update]] = {}
    threads = [
        threading.Thread(target=lambda i=i: seen.__setitem__(i, follow(trainings, requests[i], f"run{i}", f"s{i}")))
        for i in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    together = [losses(event for update in seen[i] for event in update.events) for i in (0, 1)]
    assert together == alone and alone[0] != alone[1]
    assert any(update.state == "waiting" and "ahead of yours" in update.text for i in (0, 1) for update in seen[i])


@pytest.mark.long
def test_a_run_needs_a_name_of_its_own(trainings: Trainings, rows: str) -> None:
    assert "no name of its own" in follow(trainings, ask(rows), "")[-1].text
    first = follow(trainings, ask(rows), "one", "a")
    again = follow(trainings, ask(rows), "one", "b")
    assert first[-1].state == "done" and again[-1].state == "failed"
    assert trainings._runs["one"].session == "a"


def test_stop_before_the_first_step_is_heard_while_the_teacher_writes(trainings: Trainings) -> None:
    prompts = "\n".join(f"Say {n}" for n in range(200))
    request = ask("", data="pasted", text=prompts, responses="teacher", steps=100, batch_size=2)
    states = []
    for update in trainings.run(request, "one", "a"):
        if update.text == "The teacher writes.":
            trainings.stop("one")
        states.append((update.state, update.text))
    assert states[-1] == ("stopped", "Stopped before the first step.")
    assert ("preparing", "The teacher writes.") in states


def test_a_student_is_handed_out_under_its_key_alone(trainings: Trainings, rows: str) -> None:
    import io
    import zipfile

    from starlette.applications import Starlette
    from starlette.testclient import TestClient

    last = follow(trainings, ask(rows, gates=["topk:k=2"]), "one")[-1]
    address = last.events[0]["files"]["adapter 0"]
    with TestClient(Starlette(routes=trainings.routes())) as client:
        found = client.get(f"/{address}")
        assert found.headers["content-type"] == "application/zip" and "no-store" in found.headers["cache-control"]
        names = zipfile.ZipFile(io.BytesIO(found.content)).namelist()
        assert "student/adapter_model.safetensors" in names and all(name.startswith("student/") for name in names)
        key = trainings._runs["one"].key
        wrong = ("kept/x/0.zip", "kept/%C3%A9/0.zip", f"kept/{key}/1.zip", f"kept/{key}/..%2f0.zip", "kept/one/0.zip")
        assert [client.get(f"/{other}").status_code for other in wrong] == [404] * len(wrong)
        trainings.leave("a")
        assert client.get(f"/{address}").status_code == 404


@pytest.mark.long
def test_runs_that_nobody_asks_for_make_room(trainings: Trainings, rows: str) -> None:
    trainings.settings = Settings(kept_runs=2, max_idle_seconds=3_600)
    for name in ("one", "two"):
        follow(trainings, ask(rows, gates=["topk:k=2"], steps=1), name, name)
    folders = [trainings._runs[name].folder for name in ("one", "two")]
    trainings._runs["two"].seen -= 3_601  # an hour passes
    follow(trainings, ask(rows, gates=["topk:k=2"], steps=1), "three", "c")
    assert set(trainings._runs) == {"three"} and not any(folder.exists() for folder in folders)


def test_a_loan_of_a_gpu_takes_as_many_steps_as_fit(trainings: Trainings, rows: str) -> None:
    trainings.settings = Settings(zero_gpu=True, gpu_seconds=30)
    last = follow(trainings, ask(rows, steps=400), "one")[-1]
    assert last.state == "failed" and "lent for 30 seconds" in last.text
    most = int((30 - training.LOAN_START) / training.LOAN_STEP / 2)
    assert f"choose {most} steps or fewer" in last.text


def test_a_process_that_dies_is_one_sentence_and_the_next_run_works(trainings: Trainings, rows: str) -> None:
    updates = []
    for update in trainings.run(ask(rows, steps=1000), "one", "a"):
        updates.append(update)
        if any(event["kind"] == "row" for event in update.events) and trainings._process.pid:
            os.kill(trainings._process.pid, signal.SIGKILL)
    assert updates[-1].state == "failed" and "ended unexpectedly" in updates[-1].text
    assert follow(trainings, ask(rows), "two")[-1].state == "done"


def test_a_training_that_cannot_go_on_is_one_sentence_without_a_path(trainings: Trainings, rows: str) -> None:
    last = follow(trainings, ask('{"prompt": "a", "response": "b"}\n{"response": "c"}\n'), "one")[-1]
    assert last.state == "failed" and "2" in last.text and "/" not in last.text.replace("prompt/response", "")
    assert follow(trainings, ask(rows), "two")[-1].state == "done"


def test_the_process_ends_when_the_page_does(tmp_path: Path) -> None:
    parent = (
        "import subprocess, sys; p = subprocess.Popen([sys.executable, '-m', 'app.worker'], stdin=subprocess.PIPE);"
        "print(p.pid, flush=True); sys.stdin.read()"
    )
    page = subprocess.Popen([sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert page.stdout is not None
    worker = int(page.stdout.readline())
    page.kill()
    page.wait()
    deadline = time.monotonic() + 20
    while process_runs(worker) and not _is_zombie(worker):
        assert time.monotonic() < deadline, "the trainer outlived the page"
        time.sleep(0.05)  # a process that is not our child tells nobody when it ends


def _is_zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def test_what_a_killed_server_left_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    base = fresh_root().parent
    stale = base / str(gone.pid)
    stale.mkdir()
    (stale / "data.jsonl").write_text("secret")
    mine = fresh_root()
    assert mine.is_dir() and not stale.exists()


def test_a_folder_laid_out_by_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "trap").mkdir()
    (tmp_path / f"speckd-lab-{os.getuid()}").symlink_to(tmp_path / "trap")
    root = fresh_root()
    assert root.is_dir() and not list((tmp_path / "trap").iterdir()) and root.resolve().parents[1] == tmp_path.resolve()
    assert root.parent.stat().st_mode & 0o077 == 0


def test_a_cache_of_another_teacher_is_made_anew(pair: Any, rows: str, home: Path, tmp_path: Path) -> None:
    from app.worker import Bench
    from speckd.training.teacher_cache import CacheWriter, TeacherCache, tokenizer_sha256

    cache = tmp_path / "cache"
    CacheWriter(cache, "another teacher", "another tokenizer")
    (tmp_path / "data.jsonl").write_text(rows)
    asked = ask(rows, teacher=pair[0], student=pair[1], steps=1)
    settings = asked.settings(str(tmp_path / "run"), str(tmp_path / "data.jsonl"))
    settings = replace(settings, eval_data=str(home), cache_folder=str(cache), gates=("none",))
    said: list[dict[str, Any]] = []
    Bench(said.append).work(asdict(settings), str(tmp_path / "stop"), str(tmp_path / "leave"))
    assert said[-1] == {"done": True}
    loaded = speckd.load_pair(*pair)
    assert TeacherCache(cache, loaded.teacher_sha256, tokenizer_sha256(loaded.tokenizer)).index


def test_the_process_speaks_of_its_state_before_anything_runs() -> None:
    assert TrainingProcess().status["state"] == "ready" and TrainingProcess().pid is None


def test_the_default_run_is_a_valid_one() -> None:
    asked = TrainingRequest.read({}, LAPTOP).settings("x", "y")
    assert isinstance(asked, DistillSettings) and 20 <= asked.steps <= 40 and len(asked.gates) == 2
