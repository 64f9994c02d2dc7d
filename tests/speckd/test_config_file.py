"""A run's options from a file, a teacher's file from the shell, and training from it."""

import json
from pathlib import Path
from typing import Any

import pytest

from speckd.cli.distill import settings_from
from speckd.cli.main import main, make_parser
from tests import training_pair


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("pair"))


def settings(tmp_path: Path, text: str, *more: str) -> Any:
    (tmp_path / "run.yaml").write_text(text)
    parser = make_parser()
    arguments = ["distill", "--config", str(tmp_path / "run.yaml"), *more]
    options = parser.parse_args(arguments)
    options.configure(options.config)
    return settings_from(parser.parse_args(arguments))


def test_a_file_says_any_option_and_the_command_line_stands_above_it(tmp_path: Path) -> None:
    text = """
    data: answers.jsonl
    output: run
    steps: 40
    batch-size: 4
    learning_rate: 1e-3
    gate: [none, "topk:k=3"]
    teacher_cache: false
    packing: true
    ce_share: 0.2
    teacher_options: {device_map: auto}
    report_to: [tensorboard, wandb]
    """
    made = settings(tmp_path, text, "--steps", "80", "--output", "other")
    assert (made.data, made.output, made.steps, made.batch_size) == ("answers.jsonl", "other", 80, 4)
    assert (made.learning_rate, made.ce_share, made.packing, made.teacher_cache) == (1e-3, 0.2, True, False)
    assert made.gates == ("none", "topk:k=3") and made.report_to == ("tensorboard", "wandb")
    assert json.loads(made.teacher_options) == {"device_map": "auto"}
    assert settings(tmp_path, text, "--gate", "speck").gates == ("speck",)


def test_the_settings_that_a_run_wrote_are_such_a_file(tmp_path: Path) -> None:
    from dataclasses import asdict

    made = settings(tmp_path, "data: a\noutput: b\nsteps: 3\ngates: [topk, none]\nkeep_best: null")
    again = settings(tmp_path, json.dumps(asdict(made)))
    assert again == made


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stepz: 4", "Did you mean 'steps'"),
        ("steps: many", "a number is needed"),
        ("packing: maybe", "write true or false"),
        ("steps: true", "takes a value of its own"),
        ("on_bad: cry", "choose one of stop, skip"),
        ("[1, 2]", "no list of options"),
        ("steps: [", "is not YAML"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, text: str, words: str, capsys: Any) -> None:
    (tmp_path / "run.yaml").write_text(text)
    assert main(["distill", "--config", str(tmp_path / "run.yaml")]) == 2
    assert words in capsys.readouterr().err


def test_what_is_missing_is_named(tmp_path: Path, capsys: Any) -> None:
    assert main(["distill", "answers.jsonl"]) == 2
    assert "--output is missing" in capsys.readouterr().err
    assert main(["distill", "--config", str(tmp_path / "absent.yaml")]) == 2
    assert "There is no file" in capsys.readouterr().err


@pytest.mark.slow
def test_teach_makes_a_file_and_distill_trains_from_it_keeping_the_best(
    folders: tuple[str, str], tmp_path: Path, capsys: Any
) -> None:
    data, held_out, file = tmp_path / "a.jsonl", tmp_path / "b.jsonl", tmp_path / "t.teach"
    data.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS[:16]))
    held_out.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS[16:]))
    made = ["teach", str(data), str(held_out), "--output", str(file), "--teacher", folders[0], "--kept", "32"]
    assert main([*made, "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert "bytes a token" in said and "The 32 tokens hold" in said
    run = tmp_path / "run"
    (tmp_path / "run.yaml").write_text(
        json.dumps(
            {
                "data": str(data),
                "eval_data": str(held_out),
                "teacher_file": str(file),
                "student": folders[1],
                "device": "cpu",
                "steps": 4,
                "eval_every": 1,
                "keep_best": "divergence",
                "lora_rank": 2,
                "batch_size": 4,
                "ce_share": 0.1,
                "packing": True,
            }
        )
    )
    assert main(["distill", "--config", str(tmp_path / "run.yaml"), "--output", str(run)]) == 0
    record = json.loads((run / "run.json").read_text())
    evaluated = {row["step"]: row["eval_divergence"] for row in record["rows"] if "eval_divergence" in row}
    best = min(evaluated, key=lambda step: evaluated[step])
    assert record["settings"]["kept"] == f"step {best}, best by divergence"
    assert record["after"]["divergence"] == evaluated[best]
    assert "acceptance" not in record["after"] and (run / "student" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--teacher-file", "a", "--teacher-server", "http://b"], "give one"),
        (["--teacher-file", "a", "--responses", "teacher"], "needs the teacher itself"),
        (["--teacher-file", "a", "--responses", "student"], "or ask a server"),
        (["--keep-best", "divergence"], "give eval_data and eval_every"),
        (["--teacher-options", "auto"], "is not a JSON object"),
    ],
)
def test_what_does_not_go_together_is_one_line(tmp_path: Path, more: list[str], words: str, capsys: Any) -> None:
    assert main(["distill", "answers.jsonl", "--output", str(tmp_path / "run"), *more]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.slow
def test_adaspec_trains_from_the_shell_with_the_reference_that_is_named(
    folders: tuple[str, str], tmp_path: Path, capsys: Any
) -> None:
    data = tmp_path / "a.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS[:8]))
    made = ["distill", str(data), "--teacher", folders[0], "--student", folders[1], "--device", "cpu", "--steps", "2"]
    made += ["--lora-rank", "2", "--batch-size", "4", "--gate", "adaspec:fraction=0.4"]
    assert main([*made, "--output", str(tmp_path / "run"), "--reference", folders[0]]) == 0
    rows = json.loads((tmp_path / "run" / "run.json").read_text())["rows"]
    assert all(row["tar"] == pytest.approx(0.4, abs=0.02) for row in rows if "loss" in row)
    assert main([*made, "--output", str(tmp_path / "other"), "--reference", "nowhere/at/all"]) == 2
    assert "There is no folder" in capsys.readouterr().err
