"""On a CUDA device everything gives what it gives on a CPU. Skipped where torch sees none."""

import json
from pathlib import Path

import pytest
import torch

import speckd
from speckd.gates import Gate
from speckd.rollouts import Sampling, generate_batch
from tests import training_pair

pytestmark = pytest.mark.gpu
GATES: list[Gate] = [
    speckd.AllOpen(),
    speckd.TopK(k=3, beta=0.1),
    speckd.TopK(k=3, beta=0.0),
    speckd.SpecK(k=3, beta=0.1, seed=5),
    speckd.HellingerWeight(),
    speckd.AdaKD(fraction=0.5),
    speckd.StudentEntropy(fraction=0.3),
    speckd.RandomTokens(rate=0.5, seed=3),
]


def rows(device: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Student's and teacher's hidden states and heads: (300, 24), (1009, 24), (300, 32), (1009, 32)."""
    generator = torch.Generator().manual_seed(0)
    hidden, head = torch.randn(300, 24, generator=generator), torch.randn(1009, 24, generator=generator)
    more, beside = torch.randn(300, 8, generator=generator), 0.2 * torch.randn(1009, 8, generator=generator)
    made = (hidden, head, torch.cat([hidden, more], 1), torch.cat([head, beside], 1))
    return tuple(part.to(device, dtype) for part in made)


@pytest.mark.parametrize("divergence", speckd.DIVERGENCES)
@pytest.mark.parametrize("gate", GATES, ids=lambda gate: gate.describe())
def test_the_loss_and_its_gradient_are_those_of_the_cpu(gate: Gate, divergence: str) -> None:
    found = {}
    for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32)):
        student, head, teacher, teacher_head = rows(device, dtype)
        student.requires_grad_()
        out = speckd.gated_loss(student, head, teacher, teacher_head, gate, divergence, seed=4)
        out.loss.backward()
        assert student.grad is not None
        found[device] = (out.loss.item(), student.grad.double().cpu(), out.accepted.cpu())
    assert found["cuda"][0] == pytest.approx(found["cpu"][0], rel=2e-5)
    assert (found["cuda"][1] - found["cpu"][1]).norm() < 1e-4 * found["cpu"][1].norm()
    assert (found["cuda"][2] == found["cpu"][2]).float().mean() > 0.99  # a near tie may fall otherwise


def test_bfloat16_rows_give_nearly_the_float32_loss() -> None:
    losses = []
    for dtype in (torch.float32, torch.bfloat16):
        out = speckd.gated_loss(*rows("cuda", dtype), speckd.TopK(k=3, beta=0.1))
        losses.append(out.loss.item())
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_a_short_training_has_the_cpus_curve(tmp_path: Path) -> None:
    from speckd.runs.distill import distill
    from speckd.runs.settings import DistillSettings

    teacher, student = training_pair.save(tmp_path)
    data = tmp_path / "data.jsonl"
    lines = (json.dumps(row) + "\n" for row in training_pair.ROWS)
    data.write_text("".join(lines))
    curves = {}
    for device in ("cpu", "cuda"):
        settings = DistillSettings(
            str(data), str(tmp_path / device), teacher=teacher, student=student, device=device, dtype="float32",
            eval_data=str(data), steps=4, batch_size=4, warmup=1, learning_rate=1e-3,
        )  # fmt: skip
        [record] = distill(settings)
        curves[device] = [row["loss"] for row in record.rows if "loss" in row]
    assert len(curves["cuda"]) == 4
    assert curves["cuda"] == pytest.approx(curves["cpu"], rel=1e-3)


@pytest.mark.packaged
def test_an_inspection_has_the_cpus_verdicts() -> None:
    traces = [
        speckd.inspect(speckd.load_pair(device=device, dtype="float32"), "Why is the sky blue?", max_new_tokens=48)
        for device in ("cpu", "cuda")
    ]
    assert traces[0].tokens == traces[1].tokens
    for gate in (speckd.TopK(k=5), speckd.SpecK(k=2)):
        assert (traces[0].accepted(gate) == traces[1].accepted(gate)).float().mean() > 0.95
    assert torch.allclose(traces[0].divergence(), traces[1].divergence(), rtol=1e-3, atol=1e-3)


@pytest.mark.packaged
def test_a_sampled_answer_is_the_cpus() -> None:
    written = []
    for device in ("cpu", "cuda"):
        pair = speckd.load_pair(device=device, dtype="float32")
        prompt = pair.tokenizer.apply_chat_template(
            [{"role": "user", "content": "Tell me a story."}], add_generation_prompt=True, return_dict=False
        )
        [answer] = generate_batch(pair.teacher, pair.tokenizer, [prompt], Sampling(do_sample=True, max_new_tokens=24))
        written.append(answer.response_ids)
    assert written[0] == written[1]
