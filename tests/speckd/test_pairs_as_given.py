"""Pairs of models as people have them: in memory, dispatched, quantised, as adapters, or with a teacher elsewhere."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import speckd
from speckd.gated_student import GatedStudent
from speckd.heads import Head, trunk_of
from speckd.pairs import settle, weights_sha256
from tests import tiny


def batch(pair: speckd.Pair) -> dict[str, Any]:
    torch.manual_seed(0)
    labels = torch.randint(0, 250, (2, 9))
    labels[:, :3] = -100
    ids = torch.randint(0, 250, (2, 9))
    ids[labels != -100] = labels[labels != -100]
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": labels,
        "numbers": torch.tensor([1, 2]),
        "teacher_hidden": [None, None],
    }


def loss_of(pair: speckd.Pair) -> float:
    module = GatedStudent(pair.student, pair.teacher, speckd.TopK(k=3, beta=0.5))
    return module.train()(**batch(pair))["loss"].item()


def test_a_pair_of_models_in_memory_is_the_pair_of_their_folders(
    tiny_pair: speckd.Pair, tiny_folders: tuple[Path, Path]
) -> None:
    teacher, student = (AutoModelForCausalLM.from_pretrained(folder) for folder in tiny_folders)
    pair = speckd.Pair.of(teacher, student, AutoTokenizer.from_pretrained(tiny_folders[1]))
    assert pair.vocabulary_size == tiny_pair.vocabulary_size
    assert (pair.teacher_id, pair.student_id) == ("teacher", "student")  # a folder's name, never its place
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(parameter.requires_grad for parameter in student.parameters())  # the student stays as it is
    trace = speckd.inspect(pair, "Why?", response="Because")
    expected = speckd.inspect(tiny_pair, "Why?", response="Because")
    assert torch.equal(trace.topk_threshold, expected.topk_threshold)


def test_models_in_memory_are_told_apart_by_their_numbers(tiny_folders: tuple[Path, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folders[0])
    before = weights_sha256(model)
    assert before == weights_sha256(AutoModelForCausalLM.from_pretrained(tiny_folders[0]))
    with torch.no_grad():
        model.model.norm.weight[0] += 1.0
    assert weights_sha256(model) != before


def test_a_pair_without_one_vocabulary_is_refused(tiny_folders: tuple[Path, Path], tmp_path: Path) -> None:
    tiny.save_model(tmp_path / "other", extra=("one", "two", "three"))
    teacher = AutoModelForCausalLM.from_pretrained(tiny_folders[0])
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="one shared vocabulary"):
        speckd.Pair.of(teacher, other, AutoTokenizer.from_pretrained(tmp_path / "other"))


def test_a_model_without_a_head_over_the_vocabulary_is_refused_by_its_kind(tiny_folders: tuple[Path, Path]) -> None:
    teacher, student = (AutoModelForCausalLM.from_pretrained(folder) for folder in tiny_folders)
    words = AutoTokenizer.from_pretrained(tiny_folders[1])
    for other in (teacher.model, torch.nn.DataParallel(teacher)):
        with pytest.raises(ValueError, match=f"The teacher is a {type(other).__name__}, which has no head"):
            speckd.Pair.of(other, student, words)


def test_a_dispatched_teacher_gives_the_loss_of_the_plain_one(
    tiny_pair: speckd.Pair, tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    spread = {"model.embed_tokens": "cpu", "lm_head": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu"}
    spread |= {f"model.layers.{layer}": "disk" if layer == 1 else "cpu" for layer in range(3)}
    pair = speckd.load_pair(
        str(tiny_folders[0]),
        str(tiny_folders[1]),
        device="cpu",
        teacher_options={"device_map": spread, "offload_folder": str(tmp_path), "attn_implementation": "eager"},
        student_options={"attn_implementation": "eager"},
    )
    assert pair.teacher.model.layers[1].mlp.up_proj.weight.is_meta  # it does lie on the disk
    assert pair.teacher.config._attn_implementation == pair.student.config._attn_implementation == "eager"
    # another implementation of attention adds in another order
    assert loss_of(pair) == pytest.approx(loss_of(tiny_pair), rel=1e-5)


def test_a_head_that_is_offloaded_is_refused_by_name(tiny_folders: tuple[Path, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_folders[0])
    model.lm_head.weight = torch.nn.Parameter(torch.empty(258, 16, device="meta"))
    with pytest.raises(ValueError, match="keep lm_head"):
        Head.of(model)


def test_a_quantised_or_dispatched_model_is_never_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speckd.pairs.check_halves", lambda *_: None)  # this stand-in is no language model

    class Fixed(torch.nn.Linear):
        def to(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("moved")

    for name, value in (("is_quantized", True), ("hf_device_map", {"": 0})):
        model = Fixed(2, 2)
        setattr(model, name, value)
        settled = settle(model, torch.device("cpu"))
        assert not settled.training and not settled.weight.requires_grad


@pytest.mark.parametrize("name", ["trust_remote_code", "use_safetensors", "local_files_only"])
def test_what_protects_the_reader_is_no_option(name: str, tiny_folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match=f"{name} cannot be chosen"):
        speckd.load_pair(str(tiny_folders[0]), str(tiny_folders[1]), device="cpu", teacher_options={name: True})


def test_a_teacher_given_as_an_adapter_is_its_base_with_the_adapter(
    tiny_folders: tuple[Path, Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    folder = tiny.save_adapter(tmp_path / "adapter", tiny_folders[0])
    pair = speckd.load_pair(str(folder), str(tiny_folders[1]), device="cpu", dtype="float32")
    plain = speckd.load_pair(str(tiny_folders[0]), str(tiny_folders[1]), device="cpu", dtype="float32")
    expected = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_folders[0]), folder)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(pair.teacher(ids).logits, expected(ids).logits, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(pair.teacher(ids).logits, plain.teacher(ids).logits, atol=0.1)
    assert pair.teacher_sha256 != plain.teacher_sha256
    assert not hasattr(pair.teacher, "peft_config")  # merged: nothing is paid for it


def test_head_and_trunk_are_public_and_make_the_models_logits(tiny_pair: speckd.Pair) -> None:
    ids = torch.arange(12)[None]
    with torch.no_grad():
        hidden = trunk_of(tiny_pair.teacher)(input_ids=ids).last_hidden_state[0]
        torch.testing.assert_close(
            speckd.Head.of(tiny_pair.teacher).logits(hidden), tiny_pair.teacher(ids).logits[0], rtol=1e-5, atol=1e-5
        )
    assert speckd.trunk_of is trunk_of
