"""The trainer as people come to it: TRL's way of calling, mixed losses, packing, the best student, a far teacher."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments

import speckd
from speckd.data import Example, read_examples
from speckd.gated_student import GatedStudent, check_packing
from speckd.heads import hidden_rows, trunk_of
from speckd.training.best import FACTS, FOLDER
from speckd.training.config import SpecKDConfig
from speckd.training.prepare import prepare_student
from speckd.training.teacher_cache import tokenizer_sha256
from speckd.training.teacher_file import LocalTeacher, TeacherFileError, write_teacher_file
from speckd.training.trainer import SpecKDTrainer
from tests import training_pair

pytestmark = pytest.mark.slow  # it trains: seconds a test


ROWS = training_pair.ROWS
SETTINGS = {"max_steps": 4, "warmup_steps": 1, "learning_rate": 1e-2, "use_cpu": True, "disable_tqdm": True}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return training_pair.save(tmp_path_factory.mktemp("pair"))


def pair_of(folders: tuple[str, str], teacher: Any = None) -> speckd.Pair:
    return prepare_student(speckd.load_pair(teacher or folders[0], folders[1], device="cpu"), lora_rank=2)


def make(folders: tuple[str, str], output: Path, eval_rows: Any = None, **settings: Any) -> SpecKDTrainer:
    args = SpecKDConfig(output_dir=str(output), **(SETTINGS | settings))
    return SpecKDTrainer(pair_of(folders), args, ROWS, eval_rows)


def curve(trainer: SpecKDTrainer, name: str = "loss") -> list[float]:
    return [row[name] for row in trainer.state.log_history if "loss" in row]


def weights(trainer: SpecKDTrainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in trainer.pair.student.named_parameters() if p.requires_grad}


# --- as TRL's users write it --------------------------------------------------------------------------------------


def test_models_in_memory_or_by_name_give_the_curve_of_their_pair(folders: Any, tmp_path: Path) -> None:
    from peft import LoraConfig

    args = {"output_dir": str(tmp_path / "a"), **SETTINGS}
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    tokenizer = AutoTokenizer.from_pretrained(folders[1])
    curves = []
    for named in (True, False):
        models = [folder if named else AutoModelForCausalLM.from_pretrained(folder) for folder in folders]
        torch.manual_seed(0)
        trainer = SpecKDTrainer(
            model=models[1],
            teacher_model=models[0],
            args=SpecKDConfig(**args),
            train_dataset=ROWS,
            processing_class=None if named else tokenizer,
            peft_config=lora,
        )
        trainer.train()
        curves.append(curve(trainer))
    assert curves[0] == curves[1] and len(curves[0]) == 4


def test_a_student_by_name_without_an_adapter_trains_in_full(folders: Any, tmp_path: Path) -> None:
    args = SpecKDConfig(output_dir=str(tmp_path), **SETTINGS | {"learning_rate": 1e-3})
    trainer = SpecKDTrainer(model=folders[1], teacher_model=folders[0], args=args, train_dataset=ROWS)
    assert all(parameter.requires_grad for parameter in trainer.pair.student.parameters())
    trainer.train()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"teacher_model": "x"}, "a student and a teacher are needed"),
        ({"pair": "x"}, "give a Pair"),
        ({"model": torch.nn.Linear(1, 1), "teacher_model": torch.nn.Linear(1, 1)}, "give processing_class="),
    ],
)
def test_what_is_missing_is_one_sentence(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        SpecKDTrainer(args=SpecKDConfig(output_dir=str(tmp_path), **SETTINGS), train_dataset=ROWS, **given)
    with pytest.raises(ValueError, match="args is a TrainingArguments: give a SpecKDConfig"):
        SpecKDTrainer(args=TrainingArguments(output_dir=str(tmp_path), use_cpu=True), train_dataset=ROWS, **given)


def test_jsd_beta_of_0_and_1_are_the_two_kls(folders: Any, tmp_path: Path) -> None:
    for beta, name in ((0.0, "forward_kl"), (1.0, "reverse_kl")):
        one = make(folders, tmp_path / "1", jsd_beta=beta, max_steps=2)
        two = make(folders, tmp_path / "2", divergence=name, max_steps=2)
        one.train(), two.train()
        assert curve(one) == curve(two)
    between = make(folders, tmp_path / "3", jsd_beta=0.3, max_steps=1)
    assert (between.args.divergence, between.args.mixture) == ("jsd", 0.3)
    with pytest.raises(ValueError, match="jsd_beta is 2"):
        SpecKDConfig(output_dir=str(tmp_path), jsd_beta=2)
    with pytest.raises(ValueError, match="leave those out"):
        SpecKDConfig(output_dir=str(tmp_path), jsd_beta=0.0, divergence="tvd")


# --- mixed with cross-entropy -------------------------------------------------------------------------------------


def batch_of(pair: speckd.Pair, n: int = 5) -> dict[str, Any]:
    from speckd.evaluation import batch_of as make_batch

    return make_batch(read_examples(ROWS[:n], pair.tokenizer).examples, None, pair.tokenizer.pad_token_id)


def test_a_share_of_cross_entropy_is_mixed_in(folders: Any) -> None:
    pair = pair_of(folders)
    batch = batch_of(pair)
    shares = {
        share: GatedStudent(pair.student, pair.teacher, speckd.TopK(), ce_share=share).train()(**batch)
        for share in (0.0, 0.25, 1.0)
    }
    logits = pair.student(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].transpose(1, 2), batch["labels"][:, 1:])
    torch.testing.assert_close(shares[1.0]["loss"], expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(shares[0.25]["loss"], 0.75 * shares[0.0]["loss"] + 0.25 * expected, rtol=1e-5, atol=1e-6)
    wanted = [p for p in pair.student.parameters() if p.requires_grad]
    ours = torch.autograd.grad(shares[1.0]["loss"], wanted)
    theirs = torch.autograd.grad(expected, wanted)
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


def test_the_log_tells_the_cross_entropy_and_the_loss_is_the_stated_mix(folders: Any, tmp_path: Path) -> None:
    trainer = make(folders, tmp_path, ce_share=0.3, gate="topk:k=1:beta=0")
    trainer.train()
    for row in trainer.state.log_history[:-1]:
        gated = (1 - row["masked_share"]) * row["divergence"]
        assert row["loss"] == pytest.approx(0.7 * gated + 0.3 * row["cross_entropy"], rel=1e-4)


# --- packing ------------------------------------------------------------------------------------------------------


def test_packing_never_changes_the_loss_and_lets_no_padding_through_a_trunk(folders: Any) -> None:
    pair = pair_of(folders)
    batch = batch_of(pair, 7)
    assert (batch["attention_mask"] == 0).sum() > 10  # unequal texts
    seen: list[torch.Size] = []
    hook = trunk_of(pair.student).register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape), with_kwargs=True
    )
    found = [
        GatedStudent(pair.student, pair.teacher, speckd.TopK(k=2), packing=packing).train()(**batch)
        for packing in (False, True)
    ]
    hook.remove()
    assert seen[1] == (1, int(batch["attention_mask"].sum())) and seen[0] == batch["input_ids"].shape
    torch.testing.assert_close(found[1]["loss"], found[0]["loss"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1]["facts"], found[0]["facts"], rtol=1e-4, atol=1e-4)


def test_a_packed_run_has_the_curve_of_a_padded_one(folders: Any, tmp_path: Path) -> None:
    runs = [make(folders, tmp_path / str(packing), packing=packing) for packing in (False, True)]
    for run in runs:
        run.train()
    assert curve(runs[1]) == pytest.approx(curve(runs[0]), rel=1e-4)
    assert curve(runs[1], "tar") == curve(runs[0], "tar")


def test_a_model_whose_texts_would_see_each_other_is_refused(folders: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[0])
    check_packing(model)
    plain = model.model.forward
    model.model.forward = lambda input_ids, attention_mask=None, position_ids=None, **more: plain(
        input_ids=input_ids, attention_mask=attention_mask, **more
    )
    with pytest.raises(ValueError, match="cannot be packed"):
        check_packing(model)


def test_packed_states_are_the_padded_ones_without_the_padding(folders: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(folders[0])
    ids, mask = torch.randint(0, 250, (3, 12)), torch.ones(3, 12, dtype=torch.int64)
    mask[0, 4:] = 0
    mask[2, 9:] = 0
    with torch.no_grad():
        padded = trunk_of(model)(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()]
        packed = hidden_rows(model, ids, mask.bool(), mask, packed=True)
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-4)


# --- the best student ---------------------------------------------------------------------------------------------


def falling_and_rising(folders: Any, tmp_path: Path, **settings: Any) -> SpecKDTrainer:
    """A run whose held-out divergence is told to fall, then rise: 3, 1, 2, 4, ... at steps 1, 2, 3, 4, ..."""
    trainer = make(folders, tmp_path, ROWS[:4], eval_strategy="steps", eval_steps=1, keep_best="divergence", **settings)
    told = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    log = trainer.log
    kept: dict[int, dict[str, torch.Tensor]] = {}

    def tell(logs: dict[str, float], *more: Any) -> None:
        if "eval_divergence" in logs:
            logs["eval_divergence"] = next(told)
            kept[trainer.state.global_step] = weights(trainer)
        log(logs, *more)

    trainer.log = tell  # type: ignore[method-assign]
    trainer.seen = kept  # type: ignore[attr-defined]
    return trainer


def test_training_ends_with_the_student_that_was_best_on_held_out_text(folders: Any, tmp_path: Path) -> None:
    trainer = falling_and_rising(folders, tmp_path)
    trainer.train()
    assert trainer.best == {"step": 2, "figure": "divergence", "value": 1.0}
    assert trainer.state.global_step == 4
    for name, value in weights(trainer).items():
        assert torch.equal(value, trainer.seen[2][name])  # type: ignore[attr-defined]
    assert any(not torch.equal(value, trainer.seen[4][name]) for name, value in weights(trainer).items())  # type: ignore[attr-defined]
    assert json.loads((tmp_path / FOLDER / FACTS).read_text())["step"] == 2


def test_patience_ends_a_run_that_no_longer_gets_better(folders: Any, tmp_path: Path) -> None:
    trainer = falling_and_rising(folders, tmp_path, patience=2, max_steps=8)
    trainer.train()
    assert trainer.state.global_step == 4 and trainer.best["step"] == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"keep_best": "beauty", "eval_strategy": "epoch"}, "choose one of divergence"),
        ({"keep_best": "tar"}, "keep_best needs evaluations"),
        ({"keep_best": "rouge_l", "eval_strategy": "epoch"}, "no evaluation measures it"),
        ({"patience": 3}, "the figure that it watches"),
        ({"ce_share": 1.5}, "ce_share is 1.5"),
        ({"mixture": 0.5}, "has no mixture"),
    ],
)
def test_a_setting_that_makes_no_sense_is_one_sentence(settings: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=words):
        SpecKDConfig(output_dir=str(tmp_path), **settings)


# --- a teacher elsewhere ------------------------------------------------------------------------------------------


def file_of(folders: Any, path: Path, n_kept: int) -> Any:
    pair = speckd.load_pair(*folders, device="cpu")
    examples = read_examples(ROWS, pair.tokenizer).examples
    source = LocalTeacher(pair.teacher, "tiny", pair.teacher_sha256, n_kept=n_kept)
    return write_teacher_file(path, source, examples, tokenizer_sha256(pair.tokenizer))


@pytest.fixture(scope="module")
def file(folders: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return file_of(folders, tmp_path_factory.mktemp("file") / "t.teach", 100)


def train_from(folders: Any, output: Path, teacher: Any, rows: Any = ROWS, **settings: Any) -> SpecKDTrainer:
    args = SpecKDConfig(output_dir=str(output), **(SETTINGS | {"eval_strategy": "no"} | settings))
    return SpecKDTrainer(pair_of(folders, teacher), args, rows, ROWS[:5])


def test_training_from_a_file_follows_training_with_the_teacher(folders: Any, file: Any, tmp_path: Path) -> None:
    ours = train_from(folders, tmp_path / "file", file_of(folders, tmp_path / "all.teach", 257))
    fewer = train_from(folders, tmp_path / "fewer", file)
    theirs = train_from(folders, tmp_path / "model", None)
    ours.train(), theirs.train(), fewer.train()
    # all tokens but one are kept, their log-probabilities in half precision
    assert curve(ours) == pytest.approx(curve(theirs), rel=0.01)
    assert curve(ours, "tar") == pytest.approx(curve(theirs, "tar"), abs=0.02)
    assert 0.3 * curve(theirs)[0] < curve(fewer)[0] < curve(theirs)[0]  # fewer outcomes, less divergence to see
    assert curve(fewer, "tar")[0] == curve(theirs, "tar")[0]  # and the very same verdicts
    assert "teacher_entropy" not in ours.state.log_history[0]
    scores = ours.evaluate()
    assert "eval_acceptance" not in scores and 0 < scores["eval_tar"] <= 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"gate": "speck"}, "'speck' needs the teacher's whole distribution"),
        ({"gate": "hellinger"}, "'hellinger' needs the teacher's whole distribution"),
        ({"gate": "teacher_entropy"}, "'teacher_entropy' needs the teacher's whole distribution"),
        ({"gate": "topk:k=101"}, "k is 101"),
        ({"temperature": 2.0}, "taken at temperature 1"),
        ({"eval_rouge": 2}, "leave eval_rouge out"),
        ({"student_share": 0.5}, "leave student_share out"),
        ({"teacher_cache": "x"}, "leave teacher_cache out"),
    ],
)
def test_what_a_file_cannot_tell_is_refused_before_training(
    folders: Any, file: Any, tmp_path: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        train_from(folders, tmp_path, file, **settings)


def test_a_text_that_the_file_does_not_hold_is_refused_before_training(folders: Any, file: Any, tmp_path: Path) -> None:
    with pytest.raises(TeacherFileError, match="is not in it"):
        train_from(folders, tmp_path, file, rows=[*ROWS, {"prompt": "new", "response": "text"}])


class Near:
    """A server without the network: asked for whatever texts come."""

    def __init__(self, pair: speckd.Pair) -> None:
        self.source = LocalTeacher(pair.teacher, "near", "", n_kept=100)
        self.n_kept, self.temperature, self.teacher_id, self.teacher_sha256 = 100, 1.0, "near", ""
        self.vocabulary_size = self.source.vocabulary_size
        self.requests: list[int] = []

    def top_tokens(self, examples: list[Example]) -> list[Any]:
        self.requests.append(len(examples))
        return self.source.top_tokens(examples)


def test_a_server_is_asked_for_each_batch_also_for_what_the_student_writes(
    folders: Any, file: Any, tmp_path: Path
) -> None:
    near = Near(speckd.load_pair(*folders, device="cpu"))
    given = train_from(folders, tmp_path / "given", near)
    given.train()
    expected = train_from(folders, tmp_path / "file", file)
    expected.train()
    assert curve(given) == pytest.approx(curve(expected), rel=1e-3)
    assert near.requests == [8, 8, 8, 8]
    own = train_from(folders, tmp_path / "own", near, student_share=1.0, max_new_tokens=6)
    own.train()
    assert len(near.requests) == 8 and curve(own) != curve(given)
