"""The gate inside TRL's trainers: with an open gate they are what they were, and a closed one teaches nothing."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import speckd
from speckd.integrations.trl import gate
from tests import training_pair

pytestmark = pytest.mark.slow  # it trains: seconds a test


QUIET: dict[str, Any] = {
    "max_steps": 3,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 0,
    "bf16": False,
    "gradient_checkpointing": False,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("trl"))


def distillation(folders: tuple[str, str], tmp_path: Path, beta: float = 0.0, **settings: Any) -> Any:
    from datasets import Dataset
    from trl import DistillationConfig, DistillationTrainer

    args = DistillationConfig(output_dir=str(tmp_path), beta=beta, max_completion_length=12, **(QUIET | settings))
    prompts = [{"prompt": [{"role": "user", "content": f"Say {n}"}]} for n in range(24)]
    teacher, student = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    return DistillationTrainer(
        model=student,
        teacher_model=teacher,
        args=args,
        train_dataset=Dataset.from_list(prompts),
        eval_dataset=Dataset.from_list(prompts[:4]),
        processing_class=AutoTokenizer.from_pretrained(folders[1], padding_side="left"),
    )


def gkd(folders: tuple[str, str], tmp_path: Path, beta: float = 0.5, **settings: Any) -> Any:
    from datasets import Dataset
    from trl.experimental.gkd import GKDConfig, GKDTrainer

    args = GKDConfig(output_dir=str(tmp_path), beta=beta, lmbda=0.0, max_new_tokens=12, **(QUIET | settings))
    rows = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["response"]},
            ]
        }
        for row in training_pair.ROWS
    ]
    teacher, student = (AutoModelForCausalLM.from_pretrained(folder) for folder in folders)
    return GKDTrainer(
        model=student,
        teacher_model=teacher,
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(folders[1]),
    )


def rows_of(trainer: Any) -> list[dict[str, float]]:
    torch.manual_seed(5)
    trainer.train()
    return [row for row in trainer.state.log_history if "loss" in row]


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_with_an_open_gate_loss_gradient_and_entropy_are_those_of_distillation_trainer(
    folders: tuple[str, str], tmp_path: Path, beta: float
) -> None:
    theirs = rows_of(distillation(folders, tmp_path, beta))
    ours = rows_of(gate(distillation(folders, tmp_path, beta), speckd.AllOpen()))
    assert len(theirs) == len(ours) == 3
    for their_row, our_row in zip(theirs, ours, strict=True):
        for name in ("loss", "grad_norm", "entropy"):
            # float32 sums of 256 terms in another order
            assert our_row[name] == pytest.approx(their_row[name], rel=2e-4, abs=1e-6), name
        assert our_row["tar"] == 1.0 and our_row["masked_share"] == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_with_an_open_gate_loss_and_gradient_are_those_of_gkd_trainer(
    folders: tuple[str, str], tmp_path: Path, beta: float
) -> None:
    theirs = rows_of(gkd(folders, tmp_path, beta))
    ours = rows_of(gate(gkd(folders, tmp_path, beta), speckd.TopK(k=10_000)))
    for their_row, our_row in zip(theirs, ours, strict=True):
        for name in ("loss", "grad_norm"):
            assert our_row[name] == pytest.approx(their_row[name], rel=2e-4, abs=1e-6), name
        assert our_row["tar"] == 1.0


@pytest.mark.parametrize("make", [distillation, gkd])
def test_with_beta_0_and_tar_0_the_loss_is_0_and_nothing_moves(
    folders: tuple[str, str], tmp_path: Path, make: Any
) -> None:
    closed = speckd.RandomTokens(rate=0.0, beta=0.0)
    trainer = gate(make(folders, tmp_path), closed)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    for row in rows_of(trainer):
        assert row["loss"] == 0.0 and row["grad_norm"] == 0.0 and row["tar"] == 0.0
        assert row["masked_share"] == 1.0 and row["divergence"] > 0.0
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


@pytest.mark.parametrize("make", [distillation, gkd])
def test_a_gate_between_takes_a_share_away_and_the_log_says_which(
    folders: tuple[str, str], tmp_path: Path, make: Any
) -> None:
    trainer = gate(make(folders, tmp_path), speckd.TopK(k=1, beta=0.0))
    for row in rows_of(trainer):
        assert 0.0 < row["tar"] < 1.0 and 0.0 < row["masked_share"] < 1.0
        assert row["loss"] == pytest.approx((1 - row["masked_share"]) * row["divergence"], rel=1e-3)


def test_evaluation_is_gated_too_under_names_of_its_own(folders: tuple[str, str], tmp_path: Path) -> None:
    trainer = gate(distillation(folders, tmp_path), speckd.TopK(k=1, beta=0.0))
    trainer.evaluate()
    row = trainer.state.log_history[-1]
    assert 0.0 < row["eval_tar"] < 1.0
    assert row["eval_loss"] == pytest.approx((1 - row["eval_masked_share"]) * row["eval_divergence"], rel=1e-3)


def test_neither_the_class_nor_a_module_of_trl_is_changed(folders: tuple[str, str], tmp_path: Path) -> None:
    import trl.trainer.distillation_trainer as module
    from trl import DistillationTrainer

    before = dict(vars(module)), dict(vars(DistillationTrainer))
    gate(distillation(folders, tmp_path), speckd.TopK())
    assert (dict(vars(module)), dict(vars(DistillationTrainer))) == before


def test_the_stand_in_takes_what_trl_gives_its_own_loss() -> None:
    from trl.experimental.gkd import GKDTrainer
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    from speckd.integrations.trl import _Gated

    def parameters(function: Any) -> list[tuple[str, Any]]:
        return [(p.name, p.default) for p in inspect.signature(function).parameters.values() if p.name != "self"]

    assert parameters(_Gated.loss_of_hidden_states) == parameters(_chunked_divergence_loss)
    assert parameters(_Gated.loss_of_logits) == parameters(GKDTrainer.generalized_jsd_loss)


def test_a_trainer_that_is_not_known_is_refused_with_the_way_out() -> None:
    with pytest.raises(ValueError, match="gated_kd"):
        gate(object(), speckd.TopK())


def test_a_gate_that_needs_a_third_model_is_refused() -> None:
    with pytest.raises(ValueError, match="reference"):
        gate(object(), speckd.AdaSPEC())
    with pytest.raises(ValueError, match="give one such as speckd"):
        gate(object(), speckd.TopK)  # type: ignore[arg-type]
