"""The probe looks at a student that trains, and changes nothing; a recording tells the run as it was."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import speckd
from speckd.data import read_examples
from speckd.runs.distill import distill
from speckd.runs.recording import read_recording
from speckd.runs.settings import DistillSettings
from speckd.training.probe import LONGEST, Probe, choose_probe
from tests import training_pair

pytestmark = pytest.mark.slow  # it trains: seconds a test


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS))
    return path


def settings(folders: Any, data: Path, output: Path, **others: Any) -> DistillSettings:
    plain: dict[str, Any] = {"device": "cpu", "lora_rank": 2, "steps": 3, "warmup": 1, "learning_rate": 1e-2}
    plain |= {"eval_data": str(data), "eval_limit": 8, "gates": ("topk:k=2", "none")}
    return DistillSettings(data=str(data), output=str(output), teacher=folders[0], student=folders[1], **plain | others)


@pytest.fixture(scope="module")
def race(folders: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, list[Any], list[Any], Path]:
    """A race with a probe: its settings, records, events as they came, and folder."""
    output = tmp_path_factory.mktemp("race") / "run"
    events: list[Any] = []
    asked = settings(folders, data, output, probe_every=1, answers=6, answer_every=2)
    return asked, distill(asked, on_event=events.append), events, output


def test_the_probe_measures_what_inspect_measures(folders: Any, data: Path) -> None:
    pair = speckd.load_pair(*folders, device="cpu")
    example = choose_probe(read_examples(str(data), pair.tokenizer).examples)
    assert example is not None
    probe = Probe(pair, example, seed=5)
    trace = speckd.inspect(pair, example.messages[-1]["content"], response=example.response, seed=5)
    n = min(len(trace.tokens), len(probe.tokens))  # the file's response has its end token, given text has none
    measured = probe.measure()
    assert n >= 4 and probe.tokens[:n] == trace.tokens[:n]
    assert measured["topk_threshold"][:n] == trace.topk_threshold[:n].tolist()
    assert measured["speck_threshold"][:n] == trace.speck_threshold[:n].tolist()
    assert measured["divergence"][:n] == pytest.approx(trace.divergence("forward_kl")[:n].tolist(), rel=1e-3, abs=1e-5)
    assert measured["tvd"][:n] == pytest.approx(trace.divergence("tvd")[:n].tolist(), rel=1e-3, abs=1e-5)
    assert measured["proposal"][:n] == [trace.strings[i] for i in trace.proposal_ids[:n].tolist()]


def test_looking_changes_no_generator_and_no_mode(folders: Any, data: Path) -> None:
    pair = speckd.load_pair(*folders, device="cpu")
    example = choose_probe(read_examples(str(data), pair.tokenizer).examples)
    assert example is not None
    pair.student.train()
    state = torch.random.get_rng_state()
    Probe(pair, example).measure()
    assert torch.equal(state, torch.random.get_rng_state()) and pair.student.training
    assert all(parameter.grad is None for parameter in pair.student.parameters())


def test_a_run_with_a_probe_has_the_losses_of_the_run_without(
    race: Any, folders: Any, data: Path, tmp_path: Path
) -> None:
    without = distill(settings(folders, data, tmp_path / "plain"))
    for watched, alone in zip(race[1], without, strict=True):
        losses = [[row["loss"] for row in record.rows if "loss" in row] for record in (watched, alone)]
        assert losses[0] == losses[1] and len(losses[0]) == 3
        assert watched.after == alone.after


def test_events_come_in_order_and_say_what_the_log_says(race: Any) -> None:
    _, records, events, output = race
    assert events == read_recording(output / "recording.json")
    assert [event["kind"] for event in events if event["kind"] in ("start", "answers", "verdict")] == [
        "start", "answers", "verdict",
    ]  # fmt: skip
    assert events[0]["kind"] == "start" and events[-1]["kind"] == "verdict"
    n = len(events[0]["probe"]["tokens"])
    for racer, record in enumerate(records):
        own = [event for event in events if event.get("racer") == racer and event["kind"] != "answers"]
        rows = [event["row"] for event in own if event["kind"] == "row"]
        assert rows == [row for row in record.rows if "loss" in row]
        probes = [event for event in own if event["kind"] == "probe"]
        assert [event["step"] for event in probes] == [0, 1, 2, 3]
        assert all(len(event[name]) == n for event in probes for name in ("topk_threshold", "tvd", "proposal"))
        held = {event["step"]: event["scores"]["divergence"] for event in own if event["kind"] == "held_out"}
        assert held == {0: record.before["divergence"], 3: record.after["divergence"]}
    first, second = ([e for e in events if e["kind"] == "probe" and e["racer"] == r] for r in (0, 1))
    assert first[0]["divergence"] == second[0]["divergence"] and first[-1]["divergence"] != second[-1]["divergence"]
    answers = next(event for event in events if event["kind"] == "answers")["answers"]
    assert [(one["who"], one["racer"], one["sampled"]) for one in answers] == [
        ("teacher", None, False), ("before", None, False), ("before", None, True),
        ("after", 0, False), ("after", 0, True), ("after", 1, False), ("after", 1, True),
    ]  # fmt: skip
    sayings = [(e["racer"], e["step"], e["text"]) for e in events if e["kind"] == "saying"]
    assert [one[:2] for one in sayings] == [(0, 0), (0, 2), (0, 3), (1, 0), (1, 2), (1, 3)]
    assert sayings[0][2] == sayings[3][2] == answers[1]["trace"]["response"], "before, and what it becomes at the end"
    assert sayings[2][2] == answers[3]["trace"]["response"] and sayings[5][2] == answers[5]["trace"]["response"]


def test_the_stop_file_ends_the_race_and_keeps_what_was_reached(folders: Any, data: Path, tmp_path: Path) -> None:
    flag = tmp_path / "stop"

    def after_two(event: dict[str, Any]) -> None:
        if event["kind"] == "row" and event["row"]["step"] == 2:
            flag.touch()

    asked = settings(folders, data, tmp_path / "run", steps=50)
    records = distill(asked, on_event=after_two, stop_file=str(flag))
    assert len(records) == 1 and records[0].settings["steps"] == 3  # a flag set while step 2 is told ends step 3
    assert (tmp_path / "run" / "topk-k2" / "student" / "adapter_model.safetensors").exists()


def test_a_long_response_is_cut_and_an_empty_one_passed_over() -> None:
    from speckd.data import Example

    empty, short, long = Example([1], [], 1), Example([1], [5] * 4, 2), Example([1], [5] * 400, 3)
    assert choose_probe([empty]) is None and choose_probe([empty, short]) is short
    assert choose_probe([short, long]) is long and LONGEST < 400


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"kind": "run", "events": []}', '{"kind": "run", "events": [{"kind": 3}]}']
)
def test_another_file_is_no_recording(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError, match=r"not a recorded run.*recording\.json"):
        read_recording(tmp_path / "x.json")
