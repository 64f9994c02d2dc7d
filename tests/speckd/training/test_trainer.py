"""The trainer: one loss however a step is split, runs that can be killed, and students that plain libraries load."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import speckd
from speckd.cli.main import main
from speckd.data import read_examples
from speckd.gates import AdaSPEC, AllOpen, TopK, gate_from_text
from speckd.training.callbacks import RowCallback
from speckd.training.checkpoints import MARKER, last_checkpoint
from speckd.training.config import SpecKDConfig
from speckd.training.prepare import prepare_student
from speckd.training.teacher_cache import CacheMismatch, fill_cache
from speckd.training.trainer import NonFiniteLoss, SpecKDTrainer
from tests import tiny, training_pair

ROWS = training_pair.ROWS


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("pair"))


def make(folders: tuple[str, str], output: Path, *, rows: Any = ROWS, eval_rows: Any = None, **others: Any) -> Any:
    prepared = {name: others.pop(name) for name in ("full", "lora_rank") if name in others}
    made = {name: others.pop(name) for name in ("callbacks", "reference", "gate_object") if name in others}
    if "gate_object" in made:
        made["gate"] = made.pop("gate_object")
    pair = prepare_student(speckd.load_pair(*folders, device="cpu"), **{"lora_rank": 2} | prepared)
    settings = {"max_steps": 4, "warmup_steps": 1, "learning_rate": 1e-2, "per_device_train_batch_size": 8}
    args = SpecKDConfig(output_dir=str(output), use_cpu=True, disable_tqdm=True, **settings | others)
    return SpecKDTrainer(pair, args, rows, eval_rows, **made)


def curve(trainer: SpecKDTrainer, name: str = "loss") -> list[float]:
    return [row[name] for row in trainer.state.log_history if "loss" in row]


def weights(trainer: SpecKDTrainer) -> dict[str, torch.Tensor]:
    student = trainer.pair.student
    return {name: value.detach().clone() for name, value in student.named_parameters() if value.requires_grad}


# --- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "gate",
    [
        "speck",
        "student_entropy",
        *(pytest.param(gate, marks=pytest.mark.long) for gate in ("topk", "none", "random")),
    ],
)
def test_batch_size_and_accumulation_never_change_the_curve(folders: Any, tmp_path: Path, gate: str) -> None:
    runs = []
    for number, (batch, accumulate) in enumerate([(8, 1), (4, 2), (1, 8)]):
        trainer = make(
            folders,
            tmp_path / str(number),
            gate=gate,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate,
        )
        trainer.train()
        runs.append((curve(trainer), curve(trainer, "tar"), curve(trainer, "grad_norm"), weights(trainer)))
    for other in runs[1:]:
        assert other[0] == pytest.approx(runs[0][0], rel=1e-5)
        assert other[1] == runs[0][1]  # coins and verdicts are the very same
        assert other[2] == pytest.approx(runs[0][2], rel=1e-3)
        for name, value in other[3].items():
            # Adam divides by the root of a tiny second moment, so rounding in the gradient shows most there
            torch.testing.assert_close(value, runs[0][3][name], rtol=1e-3, atol=1e-4)


def test_the_loss_is_the_mean_over_the_response_tokens_of_the_step(folders: Any, tmp_path: Path) -> None:
    trainer = make(folders, tmp_path, gate="topk:k=3:beta=0.25", max_steps=1)
    before = {name: value.clone() for name, value in trainer.pair.student.state_dict().items()}
    seen: list[int] = []
    trainer.add_callback(RowCallback(lambda row: seen.extend(trainer._batch_numbers) if "loss" in row else None))
    trainer.train()
    trainer.pair.student.load_state_dict(before)
    total = tokens = plain = accepted = 0.0
    for number in seen:  # a plain loop over single examples, with none of the trainer's own code
        example = read_examples(ROWS, trainer.pair.tokenizer).examples[number - 1]
        ids = torch.tensor([example.prompt_ids + example.response_ids])
        start = len(example.prompt_ids) - 1
        with torch.no_grad():
            p = trainer.pair.teacher(ids).logits[0, start:-1].log_softmax(-1)
            q = trainer.pair.student(ids).logits[0, start:-1].log_softmax(-1)
        divergence = speckd.forward_kl(p, q)
        gate = TopK(k=3, beta=0.25)
        total += (gate.weigh(gate.score(p, q)) * divergence).sum().item()
        accepted += gate.accept(gate.score(p, q)).sum().item()
        plain += divergence.sum().item()
        tokens += len(example.response_ids)
    row = next(row for row in trainer.state.log_history if "loss" in row)
    assert row["loss"] == pytest.approx(total / tokens, rel=1e-4)
    assert row["divergence"] == pytest.approx(plain / tokens, rel=1e-4)
    assert row["tar"] == pytest.approx(accepted / tokens)
    assert row["masked_share"] == pytest.approx(1 - total / plain, rel=1e-4)
    assert row["n_tokens"] == tokens


def test_an_open_gate_is_plain_distillation_and_still_shows_the_tar(folders: Any, tmp_path: Path) -> None:
    plain = make(folders, tmp_path / "a", gate="none", max_steps=2)
    open_gate = make(folders, tmp_path / "b", gate="topk:beta=1.0", max_steps=2)
    for trainer in (plain, open_gate):
        trainer.train()
    assert curve(plain) == curve(open_gate) and curve(plain, "tar") == curve(open_gate, "tar")
    assert curve(plain, "masked_share") == pytest.approx([0, 0], abs=1e-6)
    assert isinstance(plain.gate, AllOpen) and 0 < curve(plain, "tar")[0] < 1


def test_a_gate_that_accepts_nothing_at_beta_0_moves_nothing(folders: Any, tmp_path: Path) -> None:
    trainer = make(folders, tmp_path, gate="random:rate=0.0", max_steps=2)
    before = weights(trainer)
    trainer.train()
    assert curve(trainer) == [0, 0] and curve(trainer, "masked_share") == [1, 1]
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


@pytest.mark.slow
def test_training_lowers_the_held_out_divergence(folders: Any, tmp_path: Path) -> None:
    trainer = make(folders, tmp_path, gate="none", max_steps=25, eval_rows=ROWS[:4], full=True, learning_rate=3e-3)
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    assert after["eval_divergence"] < 0.7 * before["eval_divergence"]
    assert before["eval_n_tokens"] == sum(len(row["response"]) + 1 for row in ROWS[:4])


def test_the_teacher_does_not_move_and_stays_in_evaluation_mode(folders: Any, tmp_path: Path) -> None:
    trainer = make(folders, tmp_path, full=True)
    before = {name: value.clone() for name, value in trainer.pair.teacher.state_dict().items()}
    trainer.train()
    assert not trainer.pair.teacher.training
    assert not any(parameter.requires_grad for parameter in trainer.pair.teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in trainer.pair.teacher.state_dict().items())
    teacher_storage = {parameter.data_ptr() for parameter in trainer.pair.teacher.parameters()}
    assert not teacher_storage & {parameter.data_ptr() for parameter in trainer.model.parameters()}


@pytest.mark.slow
def test_activation_checkpointing_never_changes_the_curve(folders: Any, tmp_path: Path) -> None:
    plain, checkpointed = make(folders, tmp_path / "a"), make(folders, tmp_path / "b", activation_checkpointing=True)
    for trainer in (plain, checkpointed):
        trainer.train()
    assert curve(checkpointed) == pytest.approx(curve(plain), rel=1e-5)


@pytest.mark.slow
def test_bfloat16_trunks_follow_the_float32_curve(folders: Any, tmp_path: Path) -> None:
    full, half = make(folders, tmp_path / "a", gate="none"), make(folders, tmp_path / "b", gate="none", bf16=True)
    for trainer in (full, half):
        trainer.train()
    assert curve(half) == pytest.approx(curve(full), rel=0.05)  # 8 bits of precision in every layer


def test_a_reference_model_serves_adaspec_and_is_asked_for(folders: Any, tmp_path: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(folders[1])
    trainer = make(folders, tmp_path / "a", gate_object=AdaSPEC(fraction=0.4), reference=reference, max_steps=2)
    trainer.train()
    assert 0.2 < curve(trainer, "tar")[1] < 0.7
    with pytest.raises(ValueError, match="needs a reference model"):
        make(folders, tmp_path / "b", gate_object=AdaSPEC())


@pytest.mark.slow
def test_the_trainer_is_a_public_name_that_costs_nothing_until_it_is_used() -> None:
    command = "import sys, speckd; assert 'speckd.training.trainer' not in sys.modules and 'peft' not in sys.modules"
    subprocess.run([sys.executable, "-c", command], check=True)
    assert speckd.SpecKDTrainer is SpecKDTrainer
    with pytest.raises(AttributeError, match="no attribute 'SpecKDTriner'"):
        speckd.SpecKDTriner  # noqa: B018


# --- the teacher cache --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_teacher_cache_gives_the_same_curve_without_the_teachers_trunk(
    folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = speckd.load_pair(*folders, device="cpu")
    examples = read_examples(ROWS, pair.tokenizer).examples
    fill_cache(tmp_path / "cache", pair.teacher, pair.tokenizer, examples, pair.teacher_sha256)
    without = make(folders, tmp_path / "a", gate="none")
    without.train()
    cached = make(folders, tmp_path / "b", gate="none", teacher_cache=str(tmp_path / "cache"))
    monkeypatch.setattr(cached.pair.teacher.model, "forward", lambda *_, **__: pytest.fail("the trunk was run"))
    cached.train()
    assert curve(cached) == pytest.approx(curve(without), rel=2e-3)  # the cache keeps 11 bits of each number


def test_a_cache_made_from_other_text_is_refused_before_the_first_step(folders: Any, tmp_path: Path) -> None:
    pair = speckd.load_pair(*folders, device="cpu")
    examples = read_examples(ROWS[:20], pair.tokenizer).examples
    fill_cache(tmp_path / "cache", pair.teacher, pair.tokenizer, examples, pair.teacher_sha256)
    with pytest.raises(CacheMismatch, match="example 21"):
        make(folders, tmp_path / "a", teacher_cache=str(tmp_path / "cache"))


# --- responses from the student -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_student_writes_the_same_responses_however_a_step_is_split(folders: Any, tmp_path: Path) -> None:
    runs = []
    for number, (batch, accumulate) in enumerate([(8, 1), (2, 4)]):
        trainer = make(
            folders,
            tmp_path / str(number),
            student_share=0.5,
            max_new_tokens=6,
            max_steps=2,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulate,
        )
        trainer.train()
        runs.append((curve(trainer), curve(trainer, "n_tokens")))
    assert runs[0][1] == runs[1][1] and runs[0][0] == pytest.approx(runs[1][0], rel=1e-4)
    from_file = make(folders, tmp_path / "file", max_steps=2)
    from_file.train()
    assert curve(from_file, "n_tokens") != runs[0][1]  # about half of the responses are others


def test_prompts_alone_suffice_where_the_student_writes_everything(folders: Any, tmp_path: Path) -> None:
    prompts = [{"prompt": row["prompt"]} for row in ROWS]
    trainer = make(folders, tmp_path, rows=prompts, student_share=1.0, max_new_tokens=5, max_steps=2)
    trainer.train()
    assert all(0 < count <= 8 * 5 for count in curve(trainer, "n_tokens"))
    with pytest.raises(ValueError, match="no response with text"):
        make(folders, tmp_path / "b", rows=prompts)


# --- stopping, killing, resuming ----------------------------------------------------------------------------------


def test_a_stop_file_ends_the_run_after_the_step_and_keeps_what_was_reached(folders: Any, tmp_path: Path) -> None:
    stop = tmp_path / "stop"

    def watch(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            stop.touch()

    trainer = make(
        folders,
        tmp_path / "run",
        max_steps=50,
        stop_file=str(stop),
        save_strategy="steps",
        save_steps=40,
        callbacks=[RowCallback(watch)],
    )
    trainer.train()
    assert trainer.state.global_step <= 3
    assert last_checkpoint(tmp_path / "run") is not None


@pytest.mark.slow
def test_a_checkpoint_without_its_marker_counts_for_nothing(folders: Any, tmp_path: Path) -> None:
    trainer = make(folders, tmp_path, save_strategy="steps", save_steps=2)
    trainer.train()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-4"
    (tmp_path / "checkpoint-4" / MARKER).unlink()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"
    with pytest.raises(ValueError, match="not a complete checkpoint"):
        make(folders, tmp_path).train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    resumed = make(folders, tmp_path)
    resumed.train(resume_from_checkpoint=True)
    assert not (tmp_path / "checkpoint-4").exists()  # the remains are gone
    assert curve(resumed) == curve(trainer)


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["speck", pytest.param("none", marks=pytest.mark.long)])
def test_a_resumed_run_ends_where_the_unbroken_run_ends(folders: Any, tmp_path: Path, gate: str) -> None:
    """Over the end of an epoch (26 examples, steps of 8: three steps), with coins and a schedule."""
    others = {"gate": gate, "max_steps": 8, "save_strategy": "steps", "save_steps": 1, "save_total_limit": None}
    whole = make(folders, tmp_path / "whole", **others)
    whole.train()
    for stop in (2, 3, 5):
        resumed = make(folders, tmp_path / "whole", **others)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stop}"))
        assert curve(resumed) == curve(whole), f"resumed after step {stop}"
        for name, value in weights(resumed).items():
            assert torch.equal(value, weights(whole)[name])


@pytest.mark.slow
def test_a_run_killed_after_its_last_step_adds_no_step_of_its_own(folders: Any, tmp_path: Path) -> None:
    others = {"max_steps": 4, "save_strategy": "steps", "save_steps": 1}  # in the middle of the second epoch
    whole, resumed = (make(folders, tmp_path, **others) for _ in range(2))
    whole.train()
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4 and curve(resumed) == curve(whole)
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(resumed).items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "moments", [pytest.param((6,), id="once"), pytest.param((1, 6), id="twice", marks=pytest.mark.long)]
)
def test_a_run_killed_at_any_moment_resumes_to_the_curve_of_the_unbroken_run(
    folders: Any, tmp_path: Path, moments: tuple[int, ...]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    command = ["distill", str(data), "--teacher", folders[0], "--student", folders[1]]
    command += ["--device", "cpu", "--lora-rank", "2", "--steps", "14", "--batch-size", "4", "--save-every", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*command, "--output", str(whole)]) == 0

    for wanted in moments:  # the second kill is one of a resumed run
        again = ["--resume"] if broken.exists() else []
        line = [sys.executable, "-m", "speckd", *command, "--output", str(broken), *again]
        process = subprocess.Popen(line, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            found = last_checkpoint(broken / "checkpoints") if broken.exists() else None
            if found is not None and int(found.name.split("-")[1]) >= wanted:
                break
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        process.stdout.close()
        assert not (broken / "student").exists()
    assert main([*command, "--output", str(broken), "--resume"]) == 0

    def losses(folder: Path) -> list[float]:
        return [row["loss"] for row in json.loads((folder / "run.json").read_text())["rows"] if "loss" in row]

    assert len(losses(whole)) == 14 and losses(broken) == losses(whole)
    ours, theirs = (load_file(str(folder / "student" / "adapter_model.safetensors")) for folder in (broken, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


# --- what stops a run ---------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_batch_and_checkpoint(folders: Any, tmp_path: Path) -> None:
    def poison(row: dict[str, Any]) -> None:
        if row["step"] == 2:
            with torch.no_grad():
                next(iter(trainer.pair.teacher.parameters())).fill_(math.nan)

    trainer = make(
        folders,
        tmp_path,
        max_steps=9,
        save_strategy="steps",
        save_steps=1,
        callbacks=[RowCallback(poison)],
        gate="none",
    )
    with pytest.raises(NonFiniteLoss, match=r"step 3: the loss is nan, with the examples of lines \d+.*checkpoint-2"):
        trainer.train()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_a_gradient_that_is_not_finite_stops_before_the_weights_are_touched(folders: Any, tmp_path: Path) -> None:
    trainer = make(folders, tmp_path, full=True)
    parameter = next(value for value in trainer.pair.student.parameters() if value.requires_grad)
    parameter.register_hook(lambda gradient: gradient * math.inf)
    before = weights(trainer)
    with pytest.raises(NonFiniteLoss, match=r"a gradient is not finite.*There is no checkpoint yet"):
        trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in weights(trainer).items())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_one_clear_line(folders: Any, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OSError, match="cannot be written"):
        make(folders, tmp_path / "run").train()


def test_a_full_disk_loses_nothing_and_says_so(folders: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(folders, tmp_path, save_strategy="steps", save_steps=1)
    saved = trainer._save_optimizer_and_scheduler

    def fill_up(folder: str) -> None:
        if folder.endswith("checkpoint-3"):
            raise OSError(28, "No space left on device")
        saved(folder)

    monkeypatch.setattr(trainer, "_save_optimizer_and_scheduler", fill_up)
    with pytest.raises(OSError, match=r"No space left on device.*last complete checkpoint is checkpoint-2"):
        trainer.train()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gate": "topq"}, "is not a gate here"),
        ({"gate": "topk:q=1"}, "has no 'q'"),
        ({"gate": "topk:k"}, "name:knob=value"),
        ({"divergence": "kl"}, "is not a divergence here"),
        ({"temperature": 0.0}, "above 0"),
        ({"max_steps": 0}, "no steps to train"),
        ({"learning_rate": 1e6}, "choose a number above 0 and up to 10"),
        ({"student_share": 1.5}, "from 0 to 1"),
        ({"rejected": "drop"}, "'weight' or 'sample'"),
        ({"save_total_limit": 1}, "keep 2 checkpoints"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_sentence(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SpecKDConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_a_gate_is_named_with_its_knobs() -> None:
    assert gate_from_text("topk:k=3:beta=0") == TopK(k=3, beta=0)
    assert gate_from_text("teacher_entropy:keep=highest").keep == "highest"


def test_several_gpus_in_one_process_are_never_split_by_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = SpecKDConfig(output_dir=str(tmp_path), use_cpu=True)
    monkeypatch.setattr(args, "_n_gpu", 4, raising=False)
    assert args.n_gpu == 1 and args.train_batch_size == 8  # DataParallel would be four times that


def test_a_student_that_cannot_be_trained_is_refused(folders: Any, tmp_path: Path) -> None:
    args = SpecKDConfig(output_dir=str(tmp_path), use_cpu=True, max_steps=1)
    with pytest.raises(ValueError, match="call prepare_student"):
        SpecKDTrainer(speckd.load_pair(*folders, device="cpu"), args, ROWS)
    pair = prepare_student(speckd.load_pair(folders[0], folders[0], device="cpu"), full=True)
    pair.student.model.embed_tokens.weight = pair.teacher.model.embed_tokens.weight
    with pytest.raises(ValueError, match="share parameters"):
        SpecKDTrainer(pair, args, ROWS)


# --- what is saved ------------------------------------------------------------------------------------------------


def test_a_saved_adapter_loads_with_peft_and_a_saved_model_with_transformers(folders: Any, tmp_path: Path) -> None:
    ids = torch.arange(12)[None]
    adapter = make(folders, tmp_path / "a", max_steps=2)
    adapter.train()
    adapter.save_model(str(tmp_path / "adapter"))
    base = AutoModelForCausalLM.from_pretrained(folders[1])
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, adapter.pair.student.eval()(ids).logits)
    whole = make(folders, tmp_path / "b", max_steps=2, full=True)
    whole.train()
    whole.save_model(str(tmp_path / "model"))
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, whole.pair.student.eval()(ids).logits)
    assert loaded.config.use_cache
    saved = {path.name for folder in ("adapter", "model") for path in (tmp_path / folder).iterdir()}
    assert not any("teacher" in name or name.endswith((".bin", ".pt")) for name in saved)


def test_an_adapter_continues_as_the_same_adapter(folders: Any, tmp_path: Path) -> None:
    start = tiny.save_adapter(tmp_path / "start", Path(folders[0]))
    trainer = make((folders[0], str(start)), tmp_path / "run", max_steps=2)
    assert len(trainer.pair.student.peft_config) == 1
    before = weights(trainer)
    trainer.train()
    assert any(not torch.equal(value, before[name]) for name, value in weights(trainer).items())
    assert all("lora_" in name for name in before)
    trainer.save_model(str(tmp_path / "out"))
    assert (
        load_file(str(tmp_path / "out" / "adapter_model.safetensors")).keys()
        == load_file(str(start / "adapter_model.safetensors")).keys()
    )


def test_rows_of_the_log_are_handed_out_as_plain_numbers(folders: Any, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    trainer = make(
        folders,
        tmp_path,
        callbacks=[RowCallback(rows.append)],
        eval_rows=ROWS[:3],
        eval_strategy="steps",
        eval_steps=2,
        eval_rouge=2,
        max_new_tokens=8,
    )
    trainer.train()
    steps = [row for row in rows if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    named = [
        "loss",
        "divergence",
        "tar",
        "masked_share",
        "teacher_entropy",
        "student_entropy",
        "grad_norm",
        "tokens_per_second",
    ]
    assert all(name in row for name in named for row in steps)
    held_out = [row for row in rows if "eval_tar" in row]
    assert [row["step"] for row in held_out] == [2, 4]
    named = ["divergence", "tar", "acceptance", "agreement", "rouge_l"]
    assert all(f"eval_{name}" in row for name in named for row in held_out)
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.packaged
@pytest.mark.slow
def test_the_raw_packaged_student_learns_and_ships_as_a_plain_adapter(tmp_path: Path) -> None:
    pair = prepare_student(speckd.load_pair(student="raw", device="cpu"), lora_rank=4)
    assert pair.student.get_base_model().config.num_hidden_layers == 6
    rows = [{"prompt": "Say yes.", "response": "Yes."}] * 2
    args = SpecKDConfig(
        output_dir=str(tmp_path), use_cpu=True, disable_tqdm=True, max_steps=3, warmup_steps=0, gate="none"
    )
    trainer = SpecKDTrainer(pair, args, rows)
    trainer.train()
    assert curve(trainer)[-1] < curve(trainer)[0]
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = speckd.load_pair(student=str(tmp_path / "adapter"), device="cpu").student
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, pair.student.eval()(ids).logits, rtol=1e-4, atol=1e-4)
