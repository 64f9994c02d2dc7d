"""Products in bfloat16: within one percent of float32's curve, and only where a stopwatch says so."""

from pathlib import Path

import pytest
import torch

import speckd
from speckd.fused.buffers import Buffers, lend
from speckd.training import products
from speckd.training.config import SpecKDConfig
from speckd.training.prepare import prepare_student
from speckd.training.trainer import SpecKDTrainer
from tests import training_pair


def test_auto_follows_the_stopwatch_and_a_gpu_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for gain, chosen in ((2.0, True), (1.1, False)):
        monkeypatch.setattr(products, "gain_here", lambda gain=gain: gain)
        assert products.are_fast("auto", cpu) == chosen
    assert products.are_fast("bf16", cpu) and not products.are_fast("full", cpu)
    assert not any(products.are_fast(asked, gpu) for asked in products.PRODUCTS)
    with pytest.raises(ValueError, match="products is 'fast': choose one of full, bf16, auto"):
        SpecKDConfig(products="fast")


def test_the_setting_holds_within_training_alone() -> None:
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    with products.products_in_bfloat16():
        assert setting.fp32_precision == "bf16"
    with pytest.raises(RuntimeError), products.products_in_bfloat16():
        raise RuntimeError
    assert setting.fp32_precision == before


@pytest.mark.slow
def test_the_curve_is_within_one_percent(tmp_path: Path) -> None:
    folders = training_pair.save(tmp_path)
    curves = []
    for asked in ("full", "bf16"):
        pair = prepare_student(speckd.load_pair(*folders, device="cpu"), lora_rank=2)
        args = SpecKDConfig(
            output_dir=str(tmp_path / asked),
            use_cpu=True,
            disable_tqdm=True,
            max_steps=8,
            warmup_steps=1,
            learning_rate=1e-2,
            gate="none",
            products=asked,
        )
        trainer = SpecKDTrainer(pair, args, training_pair.ROWS)
        trainer.train()
        curves.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert curves[1] == pytest.approx(curves[0], rel=1e-2)


@pytest.mark.parametrize("gate", [speckd.TopK(k=2, beta=0.0), speckd.TopK(k=2, beta=0.1), speckd.SpecK(k=2, beta=0.0)])
def test_buffers_that_are_kept_from_step_to_step_change_no_number(gate: speckd.TopK) -> None:
    torch.manual_seed(0)
    heads = torch.randn(2, 40, 8)
    buffers, found = Buffers(), []
    for n_rows in (7, 12, 5, 12):  # also after larger and smaller ones
        hidden = torch.randn(2, n_rows, 8)
        for kept in (True, False):
            own = hidden[0].clone().requires_grad_()
            with lend(buffers if kept else Buffers()):
                out = speckd.gated_loss(own, heads[0], hidden[1], heads[1], gate, chunk_rows=4)
            out.loss.backward()
            found.append((out.loss, out.divergence, own.grad))
    for kept, fresh in zip(found[::2], found[1::2], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(kept, fresh, strict=True))
