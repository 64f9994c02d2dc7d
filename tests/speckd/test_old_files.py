"""What the library wrote before the house moved is read by today's readers, and says the same."""

import json
import shutil
from dataclasses import asdict, fields
from pathlib import Path

import pytest

import speckd
from speckd.runs.recording import read_recording
from speckd.runs.report import number, to_html, to_markdown
from speckd.runs.settings import DistillSettings
from speckd.runs.writing import open_folder, read_record

OLD = Path(__file__).parents[1] / "old"  # its README says how the files were made


@pytest.fixture(scope="module")
def trace() -> speckd.Trace:
    return speckd.Trace.from_json(OLD / "trace.json")


def test_an_old_trace_is_read_with_every_column(trace: speckd.Trace) -> None:
    written = json.loads((OLD / "trace.json").read_text(encoding="utf-8"))
    assert trace.to_dict() == written, "today's writer says what the old one said"
    assert trace.tokens[:3] == ["The", " answer", " to"]
    # What the old page said of it at k = 1, 3, 20, and of Spec-k at 1 and 50.
    assert [round(trace.tar(speckd.TopK(k=k)), 4) for k in (1, 3, 20)] == [0.25, 0.5, 0.6667]
    assert [trace.tar(speckd.SpecK(k=k)) for k in (1, 50)] == [0.25, 1.0]


def test_an_old_table_of_a_trace_is_the_same_trace(trace: speckd.Trace) -> None:
    assert speckd.Trace.from_csv(OLD / "trace.csv") == trace


@pytest.mark.parametrize("racer", ["topk-k5-beta0.01", "none"])
def test_an_old_record_is_read_and_makes_todays_report(racer: str, tmp_path: Path) -> None:
    folder = tmp_path / racer
    shutil.copytree(OLD / "run" / racer, folder)
    (folder / "student").mkdir()  # its weights are not kept with the tests
    record = read_record(folder)
    assert record is not None and asdict(record) == json.loads((folder / "run.json").read_text(encoding="utf-8"))
    steps = [row["step"] for row in record.rows if "loss" in row]
    assert steps == [1, 2] and record.before["divergence"] > 0
    assert number(record.after["divergence"]) in to_markdown([record], "old")
    assert "<svg" in to_html([record], "old")


@pytest.mark.parametrize("racer", ["topk-k5-beta0.01", "none"])
def test_an_old_runs_folder_can_be_gone_on_with(racer: str, tmp_path: Path) -> None:
    folder = tmp_path / racer
    shutil.copytree(OLD / "run" / racer, folder)
    kept = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    assert set(kept) <= {field.name for field in fields(DistillSettings)}, "no setting lost its name"
    kept = {name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()}
    settings = DistillSettings(**kept)
    open_folder(folder, settings, resume=True)
    with pytest.raises(ValueError, match="other settings \\(learning_rate\\)"):
        open_folder(folder, DistillSettings(**{**kept, "learning_rate": 9e-9}), resume=True)


def test_an_old_recording_is_read() -> None:
    events = read_recording(OLD / "run" / "recording.json")
    assert [event["kind"] for event in events][:1] == ["start"] and events[-1]["kind"] == "verdict"
    assert {event["racer"] for event in events if event["kind"] == "row"} == {0, 1}
