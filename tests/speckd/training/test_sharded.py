"""FSDP2 on two processes: the curve of one process, checkpoints, resuming, and a student that plain libraries load."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from speckd.cli.main import main
from speckd.runs.distill import distill
from speckd.runs.settings import DistillSettings
from speckd.training import sharded
from speckd.training.config import SpecKDConfig
from speckd.training.trainer import SpecKDTrainer
from tests import training_pair

FIGURES = ("loss", "grad_norm", "divergence", "tar", "n_tokens", "student_entropy")


def record(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "run.json").read_text())


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "student").glob("*.safetensors")))


@pytest.mark.slow
def test_two_processes_that_shard_the_student_are_one(tmp_path: Path) -> None:
    """Full and LoRA in one start of two processes: train, checkpoint, resume, write, load."""
    teacher, student = training_pair.save(tmp_path)
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS))
    shared = ["distill", str(data), "--teacher", teacher, "--student", student, "--device", "cpu", "--steps", "4"]
    shared += ["--gate", "speck", "--eval-data", str(data), "--learning-rate", "1e-2", "--warmup", "1"]
    kinds = {"lora": ["--lora-rank", "2"], "full": ["--full"]}

    def command(kind: str, name: str, batch: int) -> list[str]:
        return [*shared, *kinds[kind], "--batch-size", str(batch), "--output", str(tmp_path / name)]

    saving = ["--save-every", "2", "--keep-checkpoints"]
    full = command("full", "full", 4) + saving
    kept = tmp_path / "full" / "checkpoints"
    lost = [tmp_path / "full" / "run.json", tmp_path / "full" / "student", kept / "checkpoint-4"]
    steps: list[list[Any]] = [
        ["FSDP_STATE_DICT_TYPE=FULL_STATE_DICT", *command("lora", "lora", 4)],
        ["FSDP_STATE_DICT_TYPE=SHARDED_STATE_DICT", *full],
        ["forget", *lost],  # as if it had been killed on its way to step 4
        [*full, "--resume"],
    ]
    words = [str(word) for step in steps for word in ["--then", *step]][1:]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*launch, "-m", "tests.fsdp2_on_cpu", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert (kept / "checkpoint-2" / "pytorch_model_fsdp_0").is_dir()  # real shards, not a copy in each process
    assert (kept / "checkpoint-2" / "model.safetensors").exists()  # and the student beside them, to be loaded anywhere
    for kind in kinds:
        assert main([*command(kind, f"one-{kind}", 8)]) == 0
        one, two = record(tmp_path / f"one-{kind}"), record(tmp_path / kind)
        for name in FIGURES:
            ours = [row[name] for row in two["rows"] if name in row]
            assert len(ours) == 4
            assert ours == pytest.approx([row[name] for row in one["rows"] if name in row], rel=2e-4), (kind, name)
        assert two["after"]["divergence"] == pytest.approx(one["after"]["divergence"], rel=2e-4)
        expected, came = weights(tmp_path / f"one-{kind}"), weights(tmp_path / kind)
        assert set(came) >= set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(came[name], value, rtol=1e-3, atol=2e-4)
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "full" / "student")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student), tmp_path / "lora" / "student")
    ids = torch.arange(20, 40)[None]
    for kind, model in (("full", whole), ("lora", adapted)):
        name = tmp_path / f"one-{kind}" / "student"
        base = AutoModelForCausalLM.from_pretrained(name if kind == "full" else student)
        alone = base if kind == "full" else PeftModel.from_pretrained(base, name)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(ids).logits, alone.eval()(ids).logits, rtol=1e-2, atol=5e-3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"responses": "student"}, "responses='student' needs the whole student in each process, and FSDP shards it"),
        ({"answers": 8, "eval_data": "b"}, "answers needs the whole student"),
        ({"rouge": 8, "eval_data": "b"}, "rouge needs the whole student"),
    ],
)
def test_what_needs_a_whole_student_is_refused_before_anything_is_loaded(
    settings: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")

    def load(*_: Any, **__: Any) -> Any:
        raise AssertionError("nothing is to be loaded")

    with pytest.raises(ValueError, match=words):
        distill(DistillSettings("a", str(tmp_path / "run"), **settings), load=load)
    assert not (tmp_path / "run").exists()


def test_ways_of_sharding_that_are_not_offered_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP of version 1 is not offered: choose version 2"):
        sharded.check({})
    monkeypatch.setenv("FSDP_VERSION", "2")
    with pytest.raises(ValueError, match="student_share needs the whole student"):
        SpecKDTrainer(args=SpecKDConfig(student_share=0.5, use_cpu=True), model="no/such", teacher_model="no/such")
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    sharded.check({"student_share": 0.5})
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ValueError, match="DeepSpeed is not offered by SpecKDTrainer"):
        sharded.check({})
