"""The command: from files to a student, a log and a report; one that resumes, races and refuses in one line."""

import csv
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from speckd.cli.distill import settings_from
from speckd.cli.main import main, make_parser
from speckd.runs.distill import distill
from speckd.runs.settings import DistillSettings, command_of, racer_folder
from speckd.runs.telling import model_card, verdict
from tests import training_pair

pytestmark = pytest.mark.slow  # it trains: seconds a test


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS))
    return path


def settings(folders: tuple[str, str], data: Path, output: Path, **others: Any) -> DistillSettings:
    plain = {"device": "cpu", "lora_rank": 2, "steps": 3, "warmup": 1, "learning_rate": 1e-2, "eval_data": str(data)}
    return DistillSettings(
        data=str(data), output=str(output), teacher=folders[0], student=folders[1], **{**plain, **others}
    )


def test_a_run_leaves_a_student_a_log_and_a_report(folders: Any, data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    record = distill(settings(folders, data, output, eval_every=2, save_every=1, rouge=2, max_new_tokens=6))[0]
    names = {path.name for path in output.iterdir()}
    assert {"student", "log.csv", "log.jsonl", "report.md", "report.html", "settings.json"} <= names
    assert "checkpoints" not in names and not any(name.endswith(".partial") for name in names)
    losses = [row["loss"] for row in record.rows if "loss" in row]
    in_csv = [float(row["loss"]) for row in csv.DictReader((output / "log.csv").open()) if row["loss"]]
    live = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert in_csv == losses == [row["loss"] for row in live if "loss" in row] and len(losses) == 3
    assert record.after["divergence"] < record.before["divergence"] and 0 <= record.after["rouge_l"] <= 1
    base = AutoModelForCausalLM.from_pretrained(folders[1])
    student = PeftModel.from_pretrained(base, str(output / "student"))
    card = (output / "student" / "README.md").read_text()
    assert "library_name: peft" in card and "python -m speckd distill" in card and "PeftModel.from_pretrained" in card
    assert f"{record.after['divergence']:.3f}" in card
    assert "base_model:" not in card  # a folder of this machine is nobody else's
    for name, named in (
        ("owner/name", True),
        ("gpt2", True),
        ('owner/name")\nimport this', False),
        ("no owner", False),
    ):
        student.peft_config["default"].base_model_name_or_path = name
        pair = SimpleNamespace(student=student, teacher_id="owner/name", teacher_sha256="")
        card = model_card(pair, record, settings(folders, data, output))
        assert (f"base_model: {name}" in card) == named and "import this" not in card


def test_racers_start_from_one_student_and_see_the_same_batches(folders: Any, data: Path, tmp_path: Path) -> None:
    gates = ("none", "topk:beta=1.0", "speck:k=1")
    records = distill(settings(folders, data, tmp_path / "race", gates=gates))
    assert len({json.dumps(record.before) for record in records}) == 1
    columns = {
        name: [[row[name] for row in record.rows if "loss" in row] for record in records]
        for name in ("loss", "n_tokens")
    }
    assert columns["n_tokens"][0] == columns["n_tokens"][1] == columns["n_tokens"][2]
    assert columns["loss"][0] == columns["loss"][1] != columns["loss"][2]  # beta 1 is no gate
    assert {path.name for path in (tmp_path / "race").iterdir()} >= {"none", "topk-beta1.0", "speck-k1", "report.html"}
    assert all(name in (tmp_path / "race" / "report.md").read_text() for name in ("none()", "speck(k=1"))
    alone = distill(settings(folders, data, tmp_path / "alone", gates=("speck:k=1",)))[0]
    assert [row["loss"] for row in alone.rows if "loss" in row] == columns["loss"][2]


def test_the_same_settings_give_the_same_curve_with_and_without_the_cache(
    folders: Any, data: Path, tmp_path: Path
) -> None:
    runs = [
        distill(settings(folders, data, tmp_path / name, teacher_cache=cached))[0]
        for name, cached in (("a", True), ("b", True), ("c", False))
    ]
    losses = [[row["loss"] for row in run.rows if "loss" in row] for run in runs]
    assert losses[0] == losses[1] and losses[2] == pytest.approx(losses[0], rel=1e-3)


def test_the_teacher_writes_the_responses_once_and_fills_its_cache_by_the_way(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": row["prompt"]}) + "\n" for row in training_pair.ROWS[:10]))
    asked = settings(
        folders, prompts, tmp_path / "run", responses="teacher", max_new_tokens=7, eval_data=None, batch_size=4
    )
    seen: list[str] = []
    distill(asked, on_progress=lambda progress: seen.append(progress.stage))
    assert "generate" in seen and "teacher" not in seen  # no second pass of the trunk
    lines = (tmp_path / "run" / "responses.jsonl").read_text().splitlines()
    assert len(lines) == 12 and json.loads(lines[-1]) == {"complete": 10}


def test_the_student_writes_responses_as_it_trains(folders: Any, data: Path, tmp_path: Path) -> None:
    record = distill(settings(folders, data, tmp_path / "run", responses="mixed", max_new_tokens=5, steps=2))[0]
    assert record.settings["student_share"] == 0.5 and len(record.rows) == 2


def test_a_finished_run_is_not_done_again_and_other_settings_are_refused(
    folders: Any, data: Path, tmp_path: Path
) -> None:
    asked = settings(folders, data, tmp_path / "run")
    first = distill(asked)[0]
    with pytest.raises(ValueError, match="holds a run already: resume it with --resume"):
        distill(asked)
    before = (tmp_path / "run" / "run.json").stat().st_mtime_ns
    assert distill(asked, resume=True)[0].after == first.after
    assert (tmp_path / "run" / "run.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match=r"other settings \(learning_rate, steps\)"):
        distill(settings(folders, data, tmp_path / "run", steps=4, learning_rate=0.5), resume=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("x")
    with pytest.raises(ValueError, match="no run of ours"):
        distill(settings(folders, data, tmp_path / "notes"))


def test_a_stop_file_keeps_the_student_that_was_reached(folders: Any, data: Path, tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    record = distill(settings(folders, data, tmp_path / "run", steps=50), stop_file=str(stop))[0]
    assert record.settings["steps"] == 1 and (tmp_path / "run" / "student" / "adapter_model.safetensors").exists()


def test_the_student_can_be_written_in_half_precision(folders: Any, data: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    distill(settings(folders, data, tmp_path / "run", save_dtype="bfloat16", steps=1))
    weights = load_file(str(tmp_path / "run" / "student" / "adapter_model.safetensors"))
    assert {value.dtype for value in weights.values()} == {torch.bfloat16}


def test_the_command_that_a_report_names_repeats_the_settings() -> None:
    asked = DistillSettings(
        data="my data.jsonl",
        output="runs/x",
        student="healed",
        gates=("none", "topk:k=3"),
        steps=40,
        full=True,
        teacher_cache=False,
        report_to=("tensorboard",),
        learning_rate=1e-4,
        on_bad="skip",
    )
    words = command_of(asked)
    assert words.startswith("python -m speckd distill 'my data.jsonl' --output runs/x")
    import shlex

    options = make_parser().parse_args(shlex.split(words)[3:])
    assert settings_from(options) == asked
    assert settings_from(make_parser().parse_args(["distill", "d", "--output", "o"])) == DistillSettings("d", "o")


def test_k_and_beta_reach_the_gates_that_have_them() -> None:
    line = [
        "distill",
        "d",
        "--output",
        "o",
        "--compare",
        "none,topk,speck:k=2,student_entropy",
        "--k",
        "3",
        "--beta",
        "0",
    ]
    gates = settings_from(make_parser().parse_args(line)).gates
    assert gates == ("none", "topk:k=3:beta=0.0", "speck:k=2:beta=0.0", "student_entropy:beta=0.0")


def test_the_verdict_is_true_to_the_numbers() -> None:
    from speckd.runs.report import RunRecord

    def run(name: str, divergence: float) -> RunRecord:
        return RunRecord(name, {"steps": 9}, [], {"divergence": 4, "tar": 0.1}, {"divergence": divergence, "tar": 0.2})

    assert "from 4.000 to 2.500" in verdict([run("a", 2.5)])
    race = [run("a", 2.5), run("b", 2.25)]
    assert verdict(race).startswith("B reached the lower held-out divergence: 2.250 nats a token, 0.250 below a.")
    assert verdict(race).endswith("a change of seed may move these figures as much.")
    assert verdict(race, seed_spread=0.1).endswith("by about 0.100, so it is more than chance.")
    assert verdict(race, seed_spread=0.3).endswith("by about 0.300, so it says nothing.")


@pytest.mark.parametrize(
    ("others", "words"),
    [
        ({"responses": "oracle"}, "choose one of file, teacher, student, mixed"),
        ({"gates": ("topk", "topk")}, "two of the gates are the same"),
        ({"gates": ("topq",)}, "is not a gate here"),
        ({"steps": 0, "epochs": 0.0}, "no steps to train"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rouge": 3}, "ROUGE-L needs held-out prompts"),
        ({"probe_every": 1}, "The probe is a held-out response"),
        ({"probe_every": -1, "eval_data": "x"}, "are counts"),
        ({"save_dtype": "int8"}, "save_dtype"),
    ],
)
def test_settings_that_make_no_sense_are_one_sentence(others: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DistillSettings("d", "o", **others)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["absent.jsonl"], "There is no file 'absent.jsonl'"),
        (["DATA", "--teacher", "/nowhere/at/all"], "There is no folder"),
        (["BAD"], "line 2: it is not JSON"),
        (["DATA", "--learning-rate", "1000000"], "up to 10"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    folders: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: list[str], words: str
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps(training_pair.ROWS[0]) + "\nnonsense\n")
    line = [{"DATA": str(data), "BAD": str(bad)}.get(word, word) for word in line]
    models = [] if "--teacher" in line else ["--teacher", folders[0]]
    command = ["distill", *line, *models, "--student", folders[1], "--device", "cpu", "--steps", "1"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert len([text for text in error.splitlines() if text.startswith("speckd: ")]) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_line(folders: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OSError, match="cannot be written"):
        distill(settings(folders, data, tmp_path / "closed" / "run"))


def test_evaluate_scores_several_students(
    folders: Any, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", str(data), "--teacher", folders[0], "--device", "cpu", "--json", str(tmp_path / "scores.json")]
    assert main([*line, "--student", folders[1], "--student", folders[0]]) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores[folders[1]]["divergence"] > 0.1 and scores[folders[0]]["divergence"] == pytest.approx(0, abs=1e-5)
    assert f"{scores[folders[1]]['tar']:.4f}" in capsys.readouterr().out


def test_racers_in_turn_have_the_very_curves_that_they_have_alone(folders: Any, data: Path, tmp_path: Path) -> None:
    gates = ("topk:k=3:beta=0.01", "speck:k=2")
    more = {"steps": 4, "responses": "mixed", "max_new_tokens": 6, "probe_every": 2, "answers": 4}
    events: list[dict[str, Any]] = []
    asked = settings(folders, data, tmp_path / "race", gates=gates, in_turn=True, **more)
    together = distill(asked, on_event=events.append)
    for record, gate in zip(together, gates, strict=True):
        alone = distill(settings(folders, data, tmp_path / gate.split(":")[0], gates=(gate,), **more))[0]
        columns = ("loss", "divergence", "tar", "grad_norm", "student_entropy")
        curves = [[[row[name] for name in columns] for row in run.rows if "loss" in row] for run in (record, alone)]
        assert curves[0] == curves[1] and len(curves[0]) == 4
        assert record.after == alone.after
        weights = [
            (tmp_path / folder / "student" / "adapter_model.safetensors").read_bytes()
            for folder in (f"race/{racer_folder(gate)}", gate.split(":")[0])
        ]
        assert weights[0] == weights[1], "the students are the same too, bit for bit"
    steps = [(event["row"]["step"], event["racer"]) for event in events if event["kind"] == "row"]
    assert steps == [(step, racer) for step in (1, 2, 3, 4) for racer in (0, 1)]
    whose = [(answer["who"], answer["racer"]) for answer in events[-2]["answers"] if not answer["sampled"]]
    assert whose == [("teacher", None), ("before", None), ("after", 0), ("after", 1)]


def test_a_racer_in_turn_that_fails_ends_the_race(folders: Any, data: Path, tmp_path: Path) -> None:
    def fail(event: dict[str, Any]) -> None:
        if event["kind"] == "row" and (event["racer"], event["row"]["step"]) == (1, 2):
            raise OSError("the disk is full")

    asked = settings(folders, data, tmp_path / "race", gates=("topk", "none"), in_turn=True, steps=5, eval_data=None)
    with pytest.raises(OSError, match="the disk is full"):
        distill(asked, on_event=fail)
    assert not (tmp_path / "race" / "recording.json").exists()
