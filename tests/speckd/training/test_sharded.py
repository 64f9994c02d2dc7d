"""Two processes, each with a whole student or a part of it (FSDP2): the curve of one, checkpoints, resuming, and a
student that plain libraries load."""

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


KINDS = {"lora": ["--lora-rank", "2"], "full": ["--full"]}


class Runs:
    """What is trained in two processes, and in one to compare."""

    def __init__(self, root: Path) -> None:
        self.root = root
        teacher, self.student = training_pair.save(root)
        data = root / "data.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in training_pair.ROWS))
        self._shared = ["distill", str(data), "--teacher", teacher, "--student", self.student, "--device", "cpu"]
        self._shared += ["--gate", "speck", "--eval-data", str(data)]

    def plain(self, name: str, batch: int) -> list[str]:
        """Seven steps of a LoRA student: the last batch is not full."""
        lora = ["--lora-rank", "2", "--steps", "7"]
        return [*self._shared, *lora, "--batch-size", str(batch), "--output", str(self.root / name)]

    def sharded(self, kind: str, name: str, batch: int) -> list[str]:
        four = ["--steps", "4", "--learning-rate", "1e-2", "--warmup", "1"]
        return [*self._shared, *four, *KINDS[kind], "--batch-size", str(batch), "--output", str(self.root / name)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """One start of two processes: whole students, then sharded ones that train, checkpoint and resume."""
    made = Runs(tmp_path_factory.mktemp("two"))
    full = [*made.sharded("full", "full", 4), "--save-every", "2", "--keep-checkpoints"]
    kept = made.root / "full" / "checkpoints"
    lost = [made.root / "full" / "run.json", made.root / "full" / "student", kept / "checkpoint-4"]
    steps: list[list[Any]] = [
        ["ACCELERATE_USE_FSDP=false", *made.plain("two", 4)],
        ["ACCELERATE_USE_FSDP=true", "FSDP_STATE_DICT_TYPE=FULL_STATE_DICT", *made.sharded("lora", "lora", 4)],
        ["FSDP_STATE_DICT_TYPE=SHARDED_STATE_DICT", *full],
        ["forget", *lost],  # as if it had been killed on its way to step 4
        [*full, "--resume"],
    ]
    words = [str(word) for step in steps for word in ["--then", *step]][1:]
    # `accelerate launch --cpu` means MPI, and runs one process without a word where there is none; --multi_gpu means
    # torchrun, and two processes find each other by gloo on a machine without a GPU too.
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    done = subprocess.run(
        [*launch, "-m", "tests.fsdp2_on_cpu", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return made


@pytest.mark.slow
def test_two_processes_have_the_curve_of_one(runs: Runs) -> None:
    assert main(runs.plain("one", 8)) == 0
    first, second = record(runs.root / "one"), record(runs.root / "two")
    for name in FIGURES:
        ours = [row[name] for row in second["rows"] if name in row]
        assert len(ours) == 7
        assert ours == pytest.approx([row[name] for row in first["rows"] if name in row], rel=1e-4), name
    assert second["after"]["n_tokens"] == first["after"]["n_tokens"]  # no example counted twice to fill a batch
    assert second["after"]["divergence"] == pytest.approx(first["after"]["divergence"], rel=1e-4)


@pytest.mark.slow
def test_two_processes_that_shard_the_student_are_one(runs: Runs) -> None:
    """Full and LoRA: train, checkpoint, resume, write, load."""
    root, kept = runs.root, runs.root / "full" / "checkpoints"
    assert (kept / "checkpoint-2" / "pytorch_model_fsdp_0").is_dir()  # real shards, not a copy in each process
    assert (kept / "checkpoint-2" / "model.safetensors").exists()  # and the student beside them, to be loaded anywhere
    for kind in KINDS:
        assert main(runs.sharded(kind, f"one-{kind}", 8)) == 0
        one, two = record(root / f"one-{kind}"), record(root / kind)
        for name in FIGURES:
            ours = [row[name] for row in two["rows"] if name in row]
            assert len(ours) == 4
            assert ours == pytest.approx([row[name] for row in one["rows"] if name in row], rel=2e-4), (kind, name)
        assert two["after"]["divergence"] == pytest.approx(one["after"]["divergence"], rel=2e-4)
        expected, came = weights(root / f"one-{kind}"), weights(root / kind)
        assert set(came) >= set(expected)
        for name, value in expected.items():
            torch.testing.assert_close(came[name], value, rtol=1e-3, atol=2e-4)
    whole = AutoModelForCausalLM.from_pretrained(root / "full" / "student")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(runs.student), root / "lora" / "student")
    ids = torch.arange(20, 40)[None]
    for kind, model in (("full", whole), ("lora", adapted)):
        name = root / f"one-{kind}" / "student"
        base = AutoModelForCausalLM.from_pretrained(name if kind == "full" else runs.student)
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
