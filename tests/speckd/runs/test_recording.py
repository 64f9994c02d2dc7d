"""What a run says of itself: its events as plain data, and a verdict that claims no more than the numbers do."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from speckd import Stopped
from speckd.rollouts import is_complete
from speckd.runs import telling
from speckd.runs.distill import distill
from speckd.runs.recording import FACTS, Recorder, read_recording
from speckd.runs.report import RunRecord
from speckd.runs.settings import DistillSettings
from speckd.runs.telling import seed_spread, verdict
from tests import training_pair
from tests.bench.seed_spread import spread

pytestmark = pytest.mark.slow  # it trains: seconds a test


HELD_OUT = {"divergence": 3.0, "tar": 0.5}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS))
    return path


@pytest.fixture
def asked(folders: tuple[str, str], data: Path, tmp_path: Path) -> DistillSettings:
    plain: dict[str, Any] = {"device": "cpu", "lora_rank": 2, "steps": 4, "warmup": 1, "learning_rate": 1e-2}
    return DistillSettings(
        data=str(data), output=str(tmp_path / "run"), teacher=folders[0], student=folders[1], eval_data=str(data),
        eval_limit=8, **plain,
    )  # fmt: skip


def test_no_number_of_an_event_is_more_than_json_can_say(asked: DistillSettings, tmp_path: Path) -> None:
    told: list[Any] = []
    recorder = Recorder(asked, told.append)
    recorder.events.append({"kind": "start"})
    recorder.row(0, {"step": 1, "loss": math.inf, "grad_norm": math.nan, "divergence": 1.5})
    assert told[0]["row"] == {"step": 1, "loss": "inf", "grad_norm": None, "divergence": 1.5}
    recorder.write(tmp_path / "recording.json")
    assert read_recording(tmp_path / "recording.json") == [{"kind": "start"}, *told]


def test_a_held_out_point_is_told_once_a_step(asked: DistillSettings) -> None:
    told: list[Any] = []
    recorder = Recorder(asked, told.append)
    recorder.row(0, {"step": 4, "eval_divergence": 2.0, "eval_tar": 0.5, "eval_runtime": 1.0})
    recorder.held_out(0, 4, HELD_OUT)
    recorder.held_out(1, 4, HELD_OUT)
    assert [(event["racer"], event["step"]) for event in told] == [(0, 4), (1, 4)]
    assert told[0]["scores"] == {"divergence": 2.0, "tar": 0.5}


def test_the_last_evaluation_of_the_schedule_is_the_one_after_training(asked: DistillSettings) -> None:
    events: list[Any] = []
    often, seldom = replace(asked, eval_every=2), replace(asked, output=asked.output + "-2", eval_every=0)
    watched, alone = distill(often, on_event=events.append)[0], distill(seldom)[0]
    assert watched.after == alone.after and watched.before == alone.before
    points = {event["step"]: event["scores"] for event in events if event["kind"] == "held_out"}
    assert list(points) == [0, 2, 4] and points[4]["divergence"] == watched.after["divergence"]
    assert set(events[0]["settings"]) == set(FACTS) and events[0]["settings"]["learning_rate"] == 1e-2


def test_stop_is_heard_while_the_teacher_writes_and_its_answers_are_kept(
    asked: DistillSettings, tmp_path: Path
) -> None:
    flag = tmp_path / "stop"
    writes = replace(asked, responses="teacher", batch_size=2, max_new_tokens=4)

    def after_some(progress: Any) -> None:
        if progress.stage == "generate":
            flag.touch()

    with pytest.raises(Stopped, match="answers so far are kept"):
        distill(writes, stop_file=str(flag), on_progress=after_some)
    file = Path(writes.output) / "responses.jsonl"
    written = file.read_text().splitlines()
    assert not is_complete(file) and 1 < len(written) < len(training_pair.ROWS)
    record = distill(writes, resume=True)[0]
    assert record.settings["steps"] == 4
    assert file.read_text().splitlines()[: len(written)] == written and is_complete(file)


# --- the verdict --------------------------------------------------------------------------------------------------


def record(name: str, divergence: float, steps: int = 9, tar: float = 1.0, masked: float = 0.0) -> RunRecord:
    rows = [{"step": 1, "loss": 1.0, "tar": tar, "masked_share": masked}]
    return RunRecord(name, {"steps": steps}, rows, HELD_OUT, {**HELD_OUT, "divergence": divergence})


def test_a_race_that_was_stopped_is_not_called_a_comparison() -> None:
    words = verdict([record("a", 2.5), record("b", 2.9, steps=3)], seed_spread=0.01)
    assert words.endswith("But that is 9 steps against 3: the run was stopped, so it is no comparison.")
    assert "more than chance" not in words


def test_only_a_gate_that_weighs_is_said_to_reject() -> None:
    words = verdict([record("top-k", 2.5, tar=0.69, masked=0.2), record("plain", 2.4, tar=0.7)])
    assert "Top-k rejected 31% of the training tokens." in words and "Plain rejected" not in words


@pytest.fixture
def measured(asked: DistillSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DistillSettings]:
    race = replace(asked, gates=("topk", "none"))
    scores = {seed: [{"divergence": 2.0, "tar": 0.5}, {"divergence": 2.0 + gap, "tar": 0.6}]
              for seed, gap in ((0, 0.1), (1, 0.3), (2, 0.2))}  # fmt: skip
    file = tmp_path / "seed-spread.json"
    file.write_text(json.dumps(spread(race, scores)))
    monkeypatch.setattr(telling, "SEED_SPREAD", file)
    yield race


def test_the_spread_is_half_the_range_of_the_difference_between_racers(measured: DistillSettings) -> None:
    assert seed_spread(measured) == pytest.approx(0.1)
    kept = json.loads(telling.SEED_SPREAD.read_text())
    assert kept["differences"] == {"divergence": [0.1, 0.3, 0.2], "tar": [0.1, 0.1, 0.1]} and kept["seeds"] == [0, 1, 2]


@pytest.mark.parametrize(
    "others", [{"seed": 5}, {"output": "elsewhere"}, {"probe_every": 1, "answers": 9}, {"gates": ("none", "topk")}]
)
def test_the_spread_holds_for_every_seed_and_folder(measured: DistillSettings, others: dict[str, Any]) -> None:
    assert seed_spread(replace(measured, **others)) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "others", [{"steps": 5}, {"learning_rate": 0.1}, {"student": "raw"}, {"gates": ("topk:k=3", "none")}, {"limit": 3}]
)
def test_the_spread_of_other_settings_is_not_known(measured: DistillSettings, others: dict[str, Any]) -> None:
    assert seed_spread(replace(measured, **others)) is None


def test_without_the_file_the_spread_is_not_known(measured: DistillSettings) -> None:
    telling.SEED_SPREAD.unlink()
    assert seed_spread(measured) is None
