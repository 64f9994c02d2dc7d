"""SpecKDTrainer: token-gated distillation on transformers' Trainer.

The Trainer brings accelerate, mixed precision, schedulers, checkpoints, callbacks and loggers. What is added here: the
frozen teacher, the gated loss, responses that the student writes as it trains, checkpoints that are complete or
absent, and the figures that a gate needs beside the loss.

The student's trunk and the loss are one module, ``GatedStudent``, so that they lie inside the wrapped model's forward
(DDP and FSDP hook there). The teacher stays outside: it is neither wrapped, nor moved by an optimizer, nor saved.
"""

import math
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput

from speckd.data import (
    Examples,
    ResponseDataset,
    ShuffledByLength,
    collate,
)
from speckd.evaluation import Scores, rouge_of_answers
from speckd.forms import OWN_NAMES
from speckd.fused.buffers import Buffers, lend
from speckd.gated_student import FACTS, GatedStudent, check_packing
from speckd.gates import Gate, gate_of
from speckd.pairs import Pair, is_elsewhere, settle
from speckd.routers import is_mixture
from speckd.training import card, defaults, sharded
from speckd.training.best import KeepBest
from speckd.training.callbacks import TrainingBar, Watch
from speckd.training.checkpoints import MARKER, drop_incomplete, last_checkpoint, mark_complete, write_errors
from speckd.training.config import SpecKDConfig, config_facts
from speckd.training.given import check_elsewhere, eval_dataset_of, examples_of, pair_of
from speckd.training.on_policy import ask_teacher, let_student_write
from speckd.training.prepare import check_trainable, disable_dropout, load_student, save_student
from speckd.training.products import are_fast, products_in_bfloat16
from speckd.training.record import RunRecord, verdict
from speckd.training.teacher_cache import TeacherCache, tokenizer_sha256
from speckd.training.teacher_file import TeacherFile


class NonFiniteLoss(ValueError):
    """The loss or a gradient is not a finite number. The message names the step, the batch and the last checkpoint."""


class SpecKDTrainer(Trainer):
    """Trains a pair's student by token-gated distillation.

    Accumulation, batch size and number of processes never change the curve of the same data, with one exception: AdaKD
    and AdaSPEC rank the tokens of one forward pass, so there the batch of a process is part of the method.

    Several processes: DDP or FSDP2 by ``accelerate launch``; both are tested on CPUs. Under FSDP2 trunk and loss lie in
    the wrapped module's forward, and the student is gathered before it is written; what would run the whole student in
    each process (its own answers, ROUGE-L, keeping the best) is refused before anything is loaded.

    Args:
        pair: from ``load_pair``, its student made ready by ``prepare_student``, or with parameters that ask for
            gradients.
        args: a SpecKDConfig; its defaults if None.
        train_dataset, eval_dataset: Examples from ``read_examples``, a JSONL file, or rows in the forms of
            ``speckd.data`` (a datasets.Dataset, a list of dicts).
        gate: instead of the one that ``args.gate`` names.
        reference: the reference model of AdaSPEC.
        model, teacher_model, processing_class, peft_config: as TRL's trainers take them, instead of a pair: a model or
            its name; a model, its name, or a teacher that is elsewhere (``TeacherFile``, ``TeacherServer``); their
            tokenizer (that of a model given by name if None); and a PEFT adapter to put on the student.
        callbacks, optimizers: as in Trainer.
    Raises:
        ValueError: nothing is trainable, the data holds no response token, or teacher and student share parameters.
    """

    args: SpecKDConfig
    model: Any
    eval_dataset: Any

    loss_is_scaled_for_ga = True  # normalised by the tokens of the whole step: the Trainer must not divide again

    def __init__(
        self,
        pair: Pair | None = None,
        args: SpecKDConfig | None = None,
        train_dataset: Any = None,
        eval_dataset: Any | None = None,
        *,
        model: Any = None,
        teacher_model: Any = None,
        processing_class: Any = None,
        peft_config: Any = None,
        gate: Gate | str | None = None,
        reference: nn.Module | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
    ) -> None:
        # Long: the Trainer wants everything at once.
        args = args if args is not None else SpecKDConfig()
        if not isinstance(args, SpecKDConfig):
            raise ValueError(f"args is a {type(args).__name__}: give a SpecKDConfig, which takes the same settings.")
        needs_whole = {name: getattr(args, name) for name in ("student_share", "eval_rouge", "keep_best")}
        sharded.check(needs_whole, args)
        if pair is None:
            pair = pair_of(model, teacher_model, processing_class, peft_config, args)
        elif not isinstance(pair, Pair) or any(given is not None for given in (model, teacher_model, peft_config)):
            raise ValueError("give a Pair (speckd.load_pair, speckd.Pair.of), or model= and teacher_model=, not both.")
        if train_dataset is None:
            raise ValueError("there is nothing to train on: give train_dataset.")
        self.pair = pair
        self.gate = gate_of(args.gate if gate is None else gate)
        if self.gate.needs_reference and reference is None:
            raise ValueError(f"the gate {self.gate.name!r} needs a reference model: give reference=...")
        check_trainable(pair)
        if args.rate_is_default and not hasattr(pair.student, "peft_config"):
            args.learning_rate = defaults.LEARNING_RATE_FULL  # a whole student: an adapter's rate would break it
        if is_elsewhere(pair.teacher):
            check_elsewhere(pair, args, self.gate)
        else:
            settle(pair.teacher, args.device)
        if reference is not None:
            settle(reference, args.device)
        if args.packing:
            self._check_packing(reference)
        if args.disable_dropout:
            disable_dropout(pair.student)
        is_dict = isinstance(eval_dataset, dict) and not hasattr(eval_dataset, "num_rows")  # a DatasetDict has that
        if is_dict and not {*OWN_NAMES} & {*(eval_dataset or ())}:
            raise ValueError(
                "eval_dataset is a dict of data sets: give one, and score the others with trainer.evaluate(other)."
            )
        needs_response = args.student_share < 1
        self.train_examples = examples_of(train_dataset, pair, args, needs_response)
        self.eval_examples = examples_of(eval_dataset, pair, args, True) if eval_dataset is not None else None
        cache = self._known_of_teacher(args, needs_response)
        pad_id = pair.tokenizer.pad_token_id or 0
        self._facts = torch.zeros(len(FACTS), dtype=torch.float64)
        self._buffers = Buffers()
        self._batch_numbers: list[int] = []
        self._logged_at = time.perf_counter()
        self._rouge_references: list[str] | None = None
        super().__init__(
            model=GatedStudent(
                pair.student,
                pair.teacher,
                self.gate,
                args.divergence,
                args.temperature,
                args.rejected,
                reference,
                args.eval_k,
                mixture=args.mixture,
                ce_share=args.ce_share,
                packing=args.packing,
                router_loss=args.router_loss,
            ),
            args=args,
            train_dataset=ResponseDataset(self.train_examples.examples, cache),
            eval_dataset=eval_dataset_of(self.eval_examples, cache),
            processing_class=pair.tokenizer,
            data_collator=lambda rows: collate(rows, pad_id),
            callbacks=callbacks,
            optimizers=optimizers,
        )
        # One decision for all processes: the first one's stopwatch.
        self.products_are_fast = broadcast_object_list([are_fast(args.products, args.device)])[0]
        self._say_what_is_left_out()
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        if not args.disable_tqdm:
            self.add_callback(TrainingBar())
        self.add_callback(Watch(self))
        self.kept: KeepBest | None = self._keep_best(args, eval_dataset) if args.keep_best is not None else None

    def _say_what_is_left_out(self) -> None:
        """A mixture of experts that trains without its auxiliary loss may end with few experts in use: say so."""
        if self.args.router_loss is None and not self.model.router_weight and is_mixture(self.pair.student):
            warnings.warn(
                "the student is a mixture of experts, and its router's auxiliary loss takes no part: say router_loss "
                "to add it, or 0 where that is meant.",
                stacklevel=3,
            )

    def _check_packing(self, reference: nn.Module | None) -> None:
        teacher = None if is_elsewhere(self.pair.teacher) else self.pair.teacher
        for model in (self.pair.student, teacher, reference):
            if model is not None:
                check_packing(model)

    def _known_of_teacher(self, args: SpecKDConfig, needs_response: bool) -> Any | None:
        """What is known of the teacher ahead of training, its file or its cache, once it holds the examples."""
        pair = self.pair
        if args.teacher_cache is not None:
            cache = TeacherCache(args.teacher_cache, pair.teacher_sha256, tokenizer_sha256(pair.tokenizer))
            if needs_response:
                cache.check(self.train_examples.examples)
            return cache
        if not isinstance(pair.teacher, TeacherFile):
            return None
        checksum = tokenizer_sha256(pair.tokenizer)
        for examples in (self.train_examples, self.eval_examples):
            pair.teacher.check(examples.examples if examples is not None else [], checksum, args.temperature)
        return pair.teacher

    def _keep_best(self, args: SpecKDConfig, eval_dataset: Any | None) -> KeepBest:
        if eval_dataset is None:
            raise ValueError("keep_best needs held-out data: give eval_dataset.")
        assert args.keep_best is not None
        kept = KeepBest(self, args.keep_best, args.patience)
        self.add_callback(kept)
        return kept

    @property
    def best(self) -> dict[str, Any]:
        """{"step", "figure", "value"} of the student that was kept, where ``keep_best`` asks for it; else empty."""
        return self.kept.best if self.kept is not None else {}

    @property
    def folder(self) -> Path:
        """Where checkpoints are."""
        return Path(self.args.output_dir or "trainer_output")

    # --- data

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        """Our own order, from seed and epoch alone: a resumed run and a split step see the same examples."""
        lengths = [len(example.prompt_ids) + len(example.response_ids) for example in self.train_examples.examples]
        step_size = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        self._order = ShuffledByLength(lengths, step_size, seed, group=16 if self.args.group_by_length else 1)
        return self._order

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """The batches of one optimizer step, some of their responses written by the student, and the tokens in all."""
        batches, n_tokens = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._batch_numbers = [number for batch in batches for number in batch["numbers"].tolist()]
        if self.args.student_share > 0:
            student = self.accelerator.unwrap_model(self.model).student
            asked = replace(self.pair, student=student), self.args, self.state.global_step
            batches = [self._on_device(let_student_write(batch, *asked)) for batch in batches]
            n_tokens = self._get_num_items_in_batch(batches, device)  # the responses are others now, so count again
        return [ask_teacher(batch, self.pair.teacher) for batch in batches], n_tokens

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {
            name: value.to(self.args.device) if isinstance(value, Tensor) else value for name, value in batch.items()
        }

    # --- one step

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The gated loss of one batch; what it found beside the loss is added up for the log."""
        step = self.state.global_step
        inputs = {**inputs, "coin_seed": step, "progress": step / max(1, self.state.max_steps)}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._facts += outputs["facts"].detach().sum(0).cpu()
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        with products_in_bfloat16(self.products_are_fast), lend(self._buffers):
            loss = super().training_step(model, inputs, num_items_in_batch)
        if not torch.isfinite(loss):
            raise self.not_finite(f"the loss is {loss.item()}")
        return loss

    def not_finite(self, what: str) -> NonFiniteLoss:
        """The error that ends a run whose numbers are no longer finite."""
        last = last_checkpoint(self.folder)
        numbers = ", ".join(str(number) for number in self._batch_numbers[:8])
        back = (
            f"The last good checkpoint is {last.name}; go on from it with a smaller learning rate"
            if last is not None
            else "There is no checkpoint yet; start again with a smaller learning rate"
        )
        return NonFiniteLoss(
            f"step {self.state.global_step + 1}: {what}, with the examples of lines {numbers}. {back} "
            f"(it is {self.args.learning_rate:g}), or look at those examples."
        )

    # --- the log

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the gate's figures to a training step's row: means over the response tokens since the last row.

        loss                what was minimised: sum of V_t D_t over the step's response tokens, in nats, mixed with the
                            cross-entropy where ce_share asks for it, and with the router's where router_loss does
        divergence          the same without the gate, mean D_t: the figure that runs with different gates share
        tar                 token acceptance rate, the share that the gate accepts; without a gate, that Top-k would
        masked_share        1 - sum V_t D_t / sum D_t: the share of the divergence that the gate took away
        teacher_entropy,
        student_entropy     mean entropy of the two next-token distributions, in nats
        cross_entropy       mean of -log q(y_t) over the response's own tokens, where it takes part
        grad_norm           of all trainable weights, before clipping
        n_tokens,
        tokens_per_second   response tokens of the step, over all processes; evaluations are not counted in the time
        """
        if "loss" in logs and self.is_in_train:
            facts = self.accelerator.reduce(self._facts.to(self.args.device), "sum").tolist()
            found = dict(zip(FACTS, facts, strict=True))
            n_tokens, now = found["n_tokens"], time.perf_counter()
            if n_tokens:
                logs["divergence"] = found["divergence"] / n_tokens
                logs["tar"] = found["accepted"] / n_tokens
                logs["masked_share"] = (
                    1 - found["weighted_divergence"] / found["divergence"] if found["divergence"] else 0.0
                )
                if not is_elsewhere(self.pair.teacher):  # K tokens do not tell it
                    logs["teacher_entropy"] = found["teacher_entropy"] / n_tokens
                logs["student_entropy"] = found["student_entropy"] / n_tokens
                if self.args.ce_share:
                    logs["cross_entropy"] = found["cross_entropy"] / n_tokens
            logs["n_tokens"] = n_tokens
            logs["tokens_per_second"] = n_tokens / max(now - self._logged_at, 1e-9)
            self._facts.zero_()
            self._logged_at = now
        super().log(logs, start_time)

    # --- evaluation

    def evaluate(
        self, eval_dataset: Any | None = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Held-out figures of the student as it is now; see ``Scores``. ROUGE-L where ``args.eval_rouge`` asks for it.

        Args:
            eval_dataset: examples or rows instead of the trainer's own.
        Returns:
            name -> number, with the prefix before each name.
        """
        examples = self.eval_examples
        if eval_dataset is not None and not isinstance(eval_dataset, ResponseDataset):
            examples = examples_of(eval_dataset, self.pair, self.args, True)
        if examples is None:
            raise ValueError("there is no eval_dataset: give held-out examples to the trainer, or to evaluate().")
        started = time.perf_counter()
        dataset = self.eval_dataset if examples is self.eval_examples else eval_dataset_of(examples, None)
        loader = self.get_eval_dataloader(dataset)
        # Never accelerator.prepare_model here: it marks the module as prepared, and a training that follows would then
        # not be wrapped by DDP, each process going its own way without a word.
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        facts = []
        with torch.no_grad():
            for batch in loader:
                batch = ask_teacher(batch, self.pair.teacher)
                facts.append(self.accelerator.gather_for_metrics(model(**batch)["facts"]).cpu())
        rouge = self._rouge(examples) if self.args.eval_rouge else None
        model.train(was_training)
        scores = Scores.of(torch.cat(facts), self.args.eval_k, self.args.divergence, rouge)
        names = ["divergence", "tar", "acceptance", "agreement", "teacher_entropy", "student_entropy", "rouge_l"]
        if is_elsewhere(self.pair.teacher):
            names = [name for name in names if name not in ("acceptance", "teacher_entropy")]
        metrics = {f"{metric_key_prefix}_{name}": getattr(scores, name) for name in names}
        metrics = {name: value for name, value in metrics.items() if value is not None}
        metrics[f"{metric_key_prefix}_n_tokens"] = scores.n_tokens
        metrics[f"{metric_key_prefix}_runtime"] = round(time.perf_counter() - started, 3)
        self._logged_at += time.perf_counter() - started  # an evaluation is no part of a step's time
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def predict(self, *_: Any, **__: Any) -> Any:
        """Not offered: there are no labels to predict here.

        Raises:
            ValueError: always, with the way to figures and to answers.
        """
        raise ValueError(
            "predict() is not offered: evaluate() gives held-out figures, and speckd.rollouts writes a model's answers."
        )

    def _rouge(self, examples: Examples) -> float:
        """ROUGE-L of greedy answers; every process computes the same, the teacher's answers are made once."""
        from speckd.evaluation import greedy_answers

        part = examples.examples[: self.args.eval_rouge]
        batch_size = self.args.per_device_eval_batch_size
        if self._rouge_references is None or len(self._rouge_references) != len(part):
            self._rouge_references = greedy_answers(
                self.pair.teacher, self.pair.tokenizer, part, self.args.max_new_tokens, batch_size
            )
        return rouge_of_answers(self.pair, part, self.args.max_new_tokens, batch_size, self._rouge_references)

    # --- checkpoints

    def keep_student(self, folder: Path) -> None:
        """Write the student as it is now."""
        save_student(self.accelerator.unwrap_model(self.model).student, folder)

    def take_student(self, folder: Path) -> None:
        """Put back the student that ``keep_student`` wrote."""
        load_student(self.accelerator.unwrap_model(self.model).student, folder)

    def student_weights(self) -> dict[str, Tensor] | None:
        """The student's whole weights where it is sharded, in the first process; None where the student has them.

        Under FSDP every process has to call it.
        """
        if not sharded.is_sharded(self.model):
            return None
        found = sharded.whole_weights(self.model)
        return {name.removeprefix("student."): value for name, value in found.items()}

    def record(self) -> RunRecord:
        """The training so far, as reports and the model card tell it: settings, log, and the last held-out figures."""
        rows = [dict(row) for row in self.state.log_history if "train_runtime" not in row]
        step = self.best.get("step", self.state.global_step)
        scores = [row for row in rows if "eval_divergence" in row and row["step"] == step]
        after = scores[-1] if scores else {}
        facts = config_facts(self.args, self.gate) | {
            "teacher": self.pair.teacher_id,
            "start": self.pair.student_id,
            "steps": self.state.global_step,
            "data": self.train_examples.summary(),
        }
        figures = {name.removeprefix("eval_"): value for name, value in after.items() if name.startswith("eval_")}
        return RunRecord(self.gate.title(), facts, rows, {}, figures)

    def create_model_card(self, *_: Any, model_name: str | None = None, **__: Any) -> None:
        """Write the student's card, the same that ``python -m speckd distill`` writes, where ``push_to_hub`` looks."""
        if not self.is_world_process_zero():
            return
        record = self.record()
        name = self.hub_model_id or model_name or "student"
        words = card.model_card(self.pair, record, name, verdict([record]))
        (self.folder / "README.md").write_text(words, encoding="utf-8")

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the student. Of a sharded one the whole, whatever form FSDP's own checkpoints have."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir, self.student_weights())
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The student alone, in the form that AutoModelForCausalLM or PeftModel loads, with the tokenizer."""
        if not self.args.should_save:
            return
        folder = Path(output_dir) if output_dir else self.folder
        save_student(self.accelerator.unwrap_model(self.model).student, folder, self.pair.tokenizer, state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer does, with a marker written last: a folder without it is the remains of an interruption."""
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)
        with write_errors(folder):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_complete(folder, {"step": self.state.global_step})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if sharded.is_sharded(model or self.model):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        load_student(self.accelerator.unwrap_model(model or self.model).student, Path(resume_from_checkpoint))

    def train(  # type: ignore[override]
        self, resume_from_checkpoint: str | bool | None = None, **others: Any
    ) -> Any:
        """Train. ``resume_from_checkpoint=True`` goes on from the last *complete* checkpoint, or starts where none is.

        Returns:
            The Trainer's TrainOutput.
        Raises:
            NonFiniteLoss: the loss or a gradient is no longer finite.
            ValueError: the named checkpoint is not complete.
        """
        if resume_from_checkpoint is True:
            last = last_checkpoint(self.folder)
            resume_from_checkpoint = str(last) if last is not None else None
        elif resume_from_checkpoint:
            folder = Path(resume_from_checkpoint)
            if not (folder / MARKER).exists():
                raise ValueError(
                    f"{folder} is not a complete checkpoint: it has no {MARKER}. Go on from another one, or start anew."
                )
        if self.args.should_save:
            with write_errors(self.folder):
                drop_incomplete(self.folder)
        self._facts.zero_()
        self._logged_at = time.perf_counter()
        if resume_from_checkpoint:
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            last_step = self.args.max_steps if self.args.max_steps > 0 else state.max_steps
            if state.global_step >= last_step:  # killed between the last step and the end: the Trainer would add a step
                self._load_from_checkpoint(str(resume_from_checkpoint))
                self.state = state
                if self.kept is not None:
                    self.kept.on_train_begin(self.args, state, self.control)
                    self.kept.on_train_end(self.args, state, self.control)
                return TrainOutput(state.global_step, math.nan, {})
        return super().train(resume_from_checkpoint or None, **others)
