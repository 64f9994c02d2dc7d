"""What practitioners trip over: dropout, rates, modules to save, what is written and what is kept."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import speckd
from speckd.runs.settings import DistillSettings, command_of
from speckd.runs.writing import drop_checkpoints
from speckd.training import defaults
from speckd.training.config import SpecKDConfig
from speckd.training.prepare import disable_dropout, load_student, prepare_student, save_student
from speckd.training.trainer import SpecKDTrainer
from tests import tiny, training_pair
from tests.families import tiny_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("pair"))


def trainer_of(pair: speckd.Pair, output: Path, eval_rows: Any = None, **settings: Any) -> SpecKDTrainer:
    args = SpecKDConfig(
        output_dir=str(output), use_cpu=True, disable_tqdm=True, max_steps=2, warmup_steps=1, **settings
    )
    return SpecKDTrainer(pair, args, training_pair.ROWS[:16], eval_rows)


def test_dropout_is_off_in_the_student_by_default(folders: tuple[str, str], tmp_path: Path) -> None:
    pair = prepare_student(speckd.load_pair(*folders, device="cpu"), full=True)
    for layer in pair.student.model.layers:
        layer.self_attn.attention_dropout = 0.5
    trainer_of(pair, tmp_path)
    assert all(layer.self_attn.attention_dropout == 0.0 for layer in pair.student.model.layers)
    gpt2 = tiny_model("gpt2")  # its dropout is of modules
    gpt2.train()
    ids = torch.arange(3, 11)[None]
    assert not torch.equal(gpt2(ids).logits, gpt2(ids).logits)
    disable_dropout(gpt2)
    assert torch.equal(gpt2(ids).logits, gpt2(ids).logits)


def test_whole_modules_of_an_adapter_are_trained_too(tmp_path: Path) -> None:
    base = tiny.save_model(tmp_path / "base", sharpness=10.0)
    adapter = tiny.save_adapter(tmp_path / "adapter", base, target_modules=["q_proj"], modules_to_save=["down_proj"])
    pair = prepare_student(speckd.load_pair(str(base), str(adapter), device="cpu"))
    whole = {name: value for name, value in pair.student.named_parameters() if ".modules_to_save." in name}
    before = {name: value.detach().clone() for name, value in whole.items()}
    trainer_of(pair, tmp_path / "run", learning_rate=1e-2).train()
    assert whole and all(not torch.equal(value, before[name]) for name, value in whole.items())


def test_an_adapter_reaches_the_experts_of_a_mixture_or_says_that_it_does_not(folders: tuple[str, str]) -> None:
    from dataclasses import replace

    pair = speckd.load_pair(*folders, device="cpu")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        student = prepare_student(replace(pair, student=tiny_model("mixtral")), lora_rank=2).student
    reached = any(".experts." in name and "lora_" in name for name, _ in student.named_parameters())
    assert reached != any("reaches none of them" in str(one.message) for one in said)


@pytest.mark.parametrize("kind", ["IA3", "LoHa", "OFT"])
def test_an_adapter_of_any_kind_goes_on_training(kind: str, folders: tuple[str, str], tmp_path: Path) -> None:
    import peft

    settings = {
        "IA3": peft.IA3Config(target_modules=["k_proj"], feedforward_modules=[], task_type="CAUSAL_LM"),
        "LoHa": peft.LoHaConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        "OFT": peft.OFTConfig(oft_block_size=4, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    }
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folders[1]), settings[kind])
    model.save_pretrained(tmp_path / "adapter")
    pair = prepare_student(speckd.load_pair(folders[0], str(tmp_path / "adapter"), device="cpu"))
    before = {name: value.detach().clone() for name, value in pair.student.named_parameters() if value.requires_grad}
    trainer_of(pair, tmp_path / "run", learning_rate=1e-2).train()
    after = dict(pair.student.named_parameters())
    # Not all of them: a factor whose partner begins at zero has no gradient in the first step.
    assert any(not torch.equal(after[name], value) for name, value in before.items())


def test_an_adapter_of_any_name_is_written_where_peft_looks_and_goes_on_from_there(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    import peft

    def lora(**given: Any) -> Any:
        settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        return peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folders[1]), settings, **given)

    student, ids = lora(adapter_name="mine"), torch.arange(8)[None]
    expected = student(ids).logits
    for dtype in (None, torch.float32):
        save_student(student, tmp_path / str(dtype), dtype=dtype)
        base = AutoModelForCausalLM.from_pretrained(folders[1])
        assert torch.equal(peft.PeftModel.from_pretrained(base, tmp_path / str(dtype))(ids).logits, expected)
    other = lora(adapter_name="mine")
    load_student(other, tmp_path / "None")
    assert torch.equal(other(ids).logits, expected)
    other.add_adapter("more", peft.LoraConfig(r=2, target_modules=["v_proj"]))
    other.base_model.set_adapter(["mine", "more"])
    with pytest.raises(ValueError, match=r"2 active adapters \(mine, more\)"):
        save_student(other, tmp_path / "both")


def test_an_adapter_of_which_nothing_trains_is_refused_by_its_name(folders: tuple[str, str], tmp_path: Path) -> None:
    import peft

    settings = peft.AdaptionPromptConfig(adapter_len=4, adapter_layers=1, task_type="CAUSAL_LM")
    model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(folders[1]), settings)
    model.save_pretrained(tmp_path / "adapter")
    pair = speckd.load_pair(folders[0], str(tmp_path / "adapter"), device="cpu")
    with pytest.raises(ValueError, match="of the kind ADAPTION_PROMPT, and PEFT trains none"):
        prepare_student(pair)


@pytest.mark.parametrize("family", ["mixtral", "qwen3_moe", "gpt_oss"])
def test_the_routers_auxiliary_loss_enters_as_transformers_computes_it(family: str) -> None:
    from speckd.data import collate
    from speckd.gated_student import GatedStudent
    from speckd.gates import AllOpen

    student, teacher = tiny_model(family), tiny_model("llama")
    rows = [{"input_ids": list(range(3, 15)), "n_prompt": 4, "number": 1}]
    rows.append({"input_ids": list(range(20, 27)), "n_prompt": 3, "number": 2})
    batch = collate(rows, pad_id=0)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    aux = student(**given, output_router_logits=True).aux_loss
    plain, weighed = (
        GatedStudent(student, teacher, AllOpen(), router_loss=weight).train()(**batch)["loss"] for weight in (0.0, 0.5)
    )
    assert (weighed - plain).item() == pytest.approx(0.5 * aux.item(), rel=1e-4)
    assert GatedStudent(student, teacher, AllOpen()).router_weight == 0.0  # its configuration does not ask for it
    student.config.output_router_logits = True
    assert GatedStudent(student, teacher, AllOpen()).router_weight == student.router_aux_loss_coef
    with pytest.raises(ValueError, match=r"router_loss is 0\.5, and the student has no router's auxiliary loss"):
        GatedStudent(teacher, student, AllOpen(), router_loss=0.5)


def test_a_mixture_that_trains_without_its_auxiliary_loss_is_told_so(folders: tuple[str, str], tmp_path: Path) -> None:
    from dataclasses import replace

    pair = speckd.load_pair(*folders, device="cpu")
    pair = prepare_student(replace(pair, student=tiny_model("mixtral")), full=True)
    with pytest.warns(UserWarning, match="its router's auxiliary loss takes no part: say router_loss"):
        trainer_of(pair, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trainer_of(pair, tmp_path, router_loss=0.0)


def test_a_whole_student_has_a_learning_rate_of_its_own() -> None:
    adapter, whole = DistillSettings("a", "b"), DistillSettings("a", "b", full=True)
    assert (adapter.learning_rate, whole.learning_rate) == (defaults.LEARNING_RATE, defaults.LEARNING_RATE_FULL)
    assert DistillSettings("a", "b", full=True, learning_rate=1e-3).learning_rate == 1e-3
    assert "--learning-rate" not in command_of(whole)


def test_the_trainer_too_chooses_a_rate_for_a_whole_student(folders: tuple[str, str], tmp_path: Path) -> None:
    def rate(full: bool, **settings: float) -> float:
        pair = prepare_student(speckd.load_pair(*folders, device="cpu"), lora_rank=2, full=full)
        return trainer_of(pair, tmp_path, **settings).args.learning_rate

    assert (rate(False), rate(True)) == (defaults.LEARNING_RATE, defaults.LEARNING_RATE_FULL)
    assert rate(True, learning_rate=3e-3) == 3e-3  # what was said is what is done, also where it is the other default


def test_the_summary_says_which_turns_are_trained(folders: tuple[str, str]) -> None:
    from speckd.data import read_examples

    words = speckd.load_pair(*folders, device="cpu").tokenizer
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]
    rows = [{"messages": turns}, {"prompt": "a", "response": "b"}]
    assert "1 conversations of several answers: all turns" in read_examples(rows, words).summary()
    assert "only the assistant's last turn is" in read_examples(rows, words, turns="last").summary()
    assert "conversations" not in read_examples(rows[1:], words).summary()


def test_a_whole_student_is_written_in_the_dtype_that_was_asked_for(folders: tuple[str, str], tmp_path: Path) -> None:
    pair = prepare_student(speckd.load_pair(*folders, device="cpu"), full=True)
    save_student(pair.student, tmp_path / "half", dtype=torch.bfloat16)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "half")
    for name, value in pair.student.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value.bfloat16())
    assert next(pair.student.parameters()).dtype == torch.float32


def test_events_of_a_logger_stay_when_checkpoints_go(tmp_path: Path) -> None:
    for name in ("checkpoint-2", "runs"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "checkpoints" / "runs" / "events").write_text("x")
    drop_checkpoints(tmp_path / "checkpoints")
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["runs"]
    (tmp_path / "alone" / "checkpoint-1").mkdir(parents=True)
    drop_checkpoints(tmp_path / "alone")
    assert not (tmp_path / "alone").exists()


@pytest.mark.parametrize(
    "setting",
    [
        {"neftune_noise_alpha": 5.0},
        {"label_smoothing_factor": 0.1},
        {"remove_unused_columns": True},
        {"use_liger_kernel": True},
        {"train_sampling_strategy": "sequential"},
        {"deepspeed": {"zero_optimization": {"stage": 2}}},
        {"metric_for_best_model": "eval_loss"},
        {"gradient_accumulation_steps": 0},
        {"per_device_train_batch_size": 0},
    ],
)
def test_settings_of_transformers_that_mean_nothing_here_are_refused_by_name(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"(?i){next(iter(setting))} is "):
        SpecKDConfig(**setting)


def test_a_schedule_that_waits_for_a_figure_watches_the_divergence(tmp_path: Path) -> None:
    evaluated = {"eval_strategy": "steps", "eval_steps": 1}
    args = SpecKDConfig(output_dir=str(tmp_path), lr_scheduler_type="reduce_lr_on_plateau", use_cpu=True, **evaluated)
    assert (args.metric_for_best_model, args.greater_is_better) == ("divergence", False)


def test_predict_and_several_eval_sets_are_answered_in_one_sentence(folders: tuple[str, str], tmp_path: Path) -> None:
    pair = prepare_student(speckd.load_pair(*folders, device="cpu"), lora_rank=2)
    with pytest.raises(ValueError, match=r"give one, and score the others with trainer.evaluate\(other\)"):
        trainer_of(pair, tmp_path, eval_rows={"a": training_pair.ROWS, "b": training_pair.ROWS})
    with pytest.raises(ValueError, match=r"predict\(\) is not offered"):
        trainer_of(pair, tmp_path).predict([])


def test_a_conversation_of_several_turns_trains_on_each_and_its_cache_holds_their_rows(
    folders: tuple[str, str], tmp_path: Path
) -> None:
    from speckd.data import read_examples
    from speckd.training.teacher_cache import fill_cache

    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]
    pair = prepare_student(speckd.load_pair(*folders, device="cpu"), lora_rank=2)
    examples = read_examples([{"messages": turns}] * 8, pair.tokenizer)
    cache = fill_cache(tmp_path / "cache", pair.teacher, pair.tokenizer, examples.examples, pair.teacher_sha256)
    assert len(cache.rows(examples.examples[0])) == examples.examples[0].n_trained == 4
    losses = []
    for folder in (None, str(tmp_path / "cache")):
        fresh = prepare_student(speckd.load_pair(*folders, device="cpu"), lora_rank=2)
        args = SpecKDConfig(output_dir=str(tmp_path / "run"), use_cpu=True, disable_tqdm=True, max_steps=1)
        args.teacher_cache = folder
        trainer = SpecKDTrainer(fresh, args, examples)
        trainer.train()
        losses.append(trainer.state.log_history[0]["loss"])
        assert trainer.state.log_history[0]["n_tokens"] == 8 * 4
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)  # the cache keeps float16
