"""SpecKDTrainer: token-gated distillation on transformers' Trainer.

The Trainer brings accelerate, mixed precision, schedulers, checkpoints, callbacks and loggers. What is added here: the
frozen teacher, the gated loss, responses that the student writes as it trains, checkpoints that are complete or
absent, and the figures that a gate needs beside the loss.

The student's trunk and the loss are one module, ``GatedStudent``, so that they lie inside the wrapped model's forward
(DDP and FSDP hook there). The teacher stays outside: it is neither wrapped, nor moved by an optimizer, nor saved.
"""

import contextlib
import json
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import TrainOutput

from speckd.data import (
    LONGEST,
    Example,
    Examples,
    ResponseDataset,
    ShuffledByLength,
    collate,
    read_examples,
)
from speckd.divergences import divergence_named
from speckd.draws import Stream, answer_uniforms, on_policy_coin
from speckd.evaluation import Scores, rouge_of_answers
from speckd.gated_student import FACTS, GatedStudent
from speckd.gates import DEFAULT_K, Gate, gate_from_text
from speckd.pairs import Pair
from speckd.rollouts import Sampling, generate_batch
from speckd.training.teacher_cache import TeacherCache, tokenizer_sha256

MARKER = "complete.json"  # written last into a checkpoint; without it the folder counts for nothing


class NonFiniteLoss(ValueError):
    """The loss or a gradient is not a finite number. The message names the step, the batch and the last checkpoint."""


# --- configuration ------------------------------------------------------------------------------------------------


@dataclass
class SpecKDConfig(TrainingArguments):
    """TrainingArguments with what the gate needs. Defaults are those that healed the packaged student.

    Attributes:
        gate: name of a gate or selector, with knobs where they are not the defaults: "topk", "topk:k=3:beta=0".
        divergence: forward_kl, reverse_kl, jsd, skew_kl, skew_reverse_kl or tvd.
        temperature: tau > 0, divides both models' logits in gate, divergence and sampled responses.
        rejected: "weight" (a rejected token weighs beta) or "sample" (it is kept with probability beta, at weight 1).
        student_share: share of the examples whose response the student writes as it trains (GKD's lambda), 0 to 1.
        max_new_tokens: longest response that the student writes.
        max_length: tokens of prompt and response together.
        on_bad: "stop" at a bad line of data, or "skip" it and count it.
        teacher_cache: folder of the teacher's hidden states, or None.
        stop_file: when this file appears the run ends after the step at hand, and keeps what was reached.
        eval_k: k of the TAR that evaluation reports, whatever the gate.
        eval_rouge: how many held-out prompts both models answer greedily at each evaluation, for ROUGE-L.
        group_by_length: put texts of like length into one step, so that little is padded.
    Raises:
        ValueError: a value makes no sense; the message says what to choose.
    """

    gate: str = "topk"
    divergence: str = "forward_kl"
    temperature: float = 1.0
    rejected: str = "weight"
    student_share: float = 0.0
    max_new_tokens: int = 128
    max_length: int = LONGEST
    on_bad: str = "stop"
    teacher_cache: str | None = None
    stop_file: str | None = None
    eval_k: int = DEFAULT_K
    eval_rouge: int = 0
    group_by_length: bool = True

    learning_rate: float = 3e-3  # for LoRA of rank 64 on a student without most of its layers; a whole model wants less
    lr_scheduler_type: str = "cosine"
    warmup_steps: float = 20
    adam_beta2: float = 0.95
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    logging_steps: float = 1
    logging_nan_inf_filter: bool = False  # it would hide what stops the run
    remove_unused_columns: bool = False
    report_to: Any = field(default_factory=list)
    save_strategy: str = "no"
    save_total_limit: int | None = 2
    dataloader_pin_memory: bool = False
    ddp_find_unused_parameters: bool | None = False  # every trainable weight takes part in every step
    seed: int = 0

    def __post_init__(self) -> None:
        gate = gate_from_text(self.gate)
        divergence_named(self.divergence)
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature!r}: choose a number above 0.")
        if self.rejected not in ("weight", "sample"):
            raise ValueError(f"rejected is {self.rejected!r}: choose 'weight' or 'sample'.")
        if self.rejected == "sample" and not hasattr(gate, "beta"):
            raise ValueError(f"rejected is 'sample', but the gate {gate.name!r} rejects nothing.")
        if not 0 <= self.student_share <= 1:
            raise ValueError(f"student_share is {self.student_share!r}: choose a number from 0 to 1.")
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("there are no steps to train: choose max_steps or num_train_epochs above 0.")
        if not 0 < self.learning_rate <= 10:
            raise ValueError(f"learning_rate is {self.learning_rate!r}: choose a number above 0 and up to 10.")
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ValueError(
                f"save_total_limit is {self.save_total_limit}: keep 2 checkpoints at least, since the older one is the "
                "way back while the newer one is being written."
            )
        if self.load_best_model_at_end:
            raise ValueError("load_best_model_at_end is not offered: evaluate the checkpoints, and keep the best.")
        super().__post_init__()

    @property
    def n_gpu(self) -> int:
        """One at most: several GPUs in one process would be DataParallel. Use `accelerate launch` for more."""
        return min(super().n_gpu, 1)


# --- the module that is wrapped and trained -----------------------------------------------------------------------


# --- the trainer --------------------------------------------------------------------------------------------------


class SpecKDTrainer(Trainer):
    """Trains a pair's student by token-gated distillation.

    Accumulation, batch size and number of processes never change the curve of the same data, with one exception: AdaKD
    and AdaSPEC rank the tokens of one forward pass, so there the batch of a process is part of the method.

    Several processes: DDP by ``accelerate launch``, tested on CPUs. FSDP2 is written for (the trunk and the loss lie in
    the wrapped module's forward, teacher and student share nothing, state is gathered before saving), and has not been
    run; responses from the student are refused there.

    Args:
        pair: from ``load_pair``, its student made ready by ``prepare_student``, or with parameters that ask for
            gradients.
        args: a SpecKDConfig.
        train_dataset, eval_dataset: Examples from ``read_examples``, a JSONL file, or rows in the forms of
            ``speckd.data`` (a datasets.Dataset, a list of dicts).
        gate: instead of the one that ``args.gate`` names.
        reference: the reference model of AdaSPEC.
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
        pair: Pair,
        args: SpecKDConfig,
        train_dataset: Any,
        eval_dataset: Any | None = None,
        *,
        gate: Gate | None = None,
        reference: nn.Module | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[torch.optim.Optimizer | None, Any] = (None, None),
    ) -> None:
        self.pair = pair
        self.gate = gate or gate_from_text(args.gate)
        if self.gate.needs_reference and reference is None:
            raise ValueError(f"the gate {self.gate.name!r} needs a reference model: give reference=...")
        check_trainable(pair)
        pair.teacher.requires_grad_(False).eval().to(args.device)
        if reference is not None:
            reference.requires_grad_(False).eval().to(args.device)
        needs_response = args.student_share < 1
        cache = None
        if args.teacher_cache is not None:
            cache = TeacherCache(args.teacher_cache, pair.teacher_sha256, tokenizer_sha256(pair.tokenizer))
        self.train_examples = _as_examples(train_dataset, pair, args, needs_response)
        self.eval_examples = _as_examples(eval_dataset, pair, args, True) if eval_dataset is not None else None
        if cache is not None and needs_response:
            cache.check(self.train_examples.examples)
        pad_id = pair.tokenizer.pad_token_id or 0
        self._facts = torch.zeros(len(FACTS), dtype=torch.float64)
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
            ),
            args=args,
            train_dataset=ResponseDataset(self.train_examples.examples, cache),
            eval_dataset=_eval_dataset(self.eval_examples, cache),
            processing_class=pair.tokenizer,
            data_collator=lambda rows: collate(rows, pad_id),
            callbacks=callbacks,
            optimizers=optimizers,
        )
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        if not args.disable_tqdm:
            self.add_callback(TrainingBar())
        self.add_callback(_Watch(self))

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
            batches = [self._let_student_write(batch) for batch in batches]
            n_tokens = self._get_num_items_in_batch(batches, device)  # the responses are others now, so count again
        return batches, n_tokens

    def _let_student_write(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Replace some examples' responses by the student's own: decided, and drawn, by step and example alone."""
        if self.is_fsdp_enabled:
            raise ValueError("responses from the student are not offered under FSDP: use a file or the teacher.")
        step, numbers = self.state.global_step, batch["numbers"].tolist()
        chosen = [
            index
            for index, number in enumerate(numbers)
            if on_policy_coin(self.args.seed, step, number) < self.args.student_share
        ]
        if not chosen:
            return batch
        labels, ids = batch["labels"], batch["input_ids"]
        lengths = batch["attention_mask"].sum(-1).tolist()
        n_responses = (labels != -100).sum(-1).tolist()
        rows = [
            {
                "input_ids": ids[index, : lengths[index]].tolist(),
                "n_prompt": lengths[index] - n_responses[index],
                "number": numbers[index],
                "teacher_hidden": batch["teacher_hidden"][index],
            }
            for index in range(len(numbers))
        ]
        prompts = [rows[index]["input_ids"][: rows[index]["n_prompt"]] for index in chosen]
        room = self.args.max_length - max(len(prompt) for prompt in prompts)
        sampling = Sampling(
            do_sample=True,
            max_new_tokens=max(1, min(self.args.max_new_tokens, room)),
            temperature=self.args.temperature,
            seed=self.args.seed,
        )
        student = self.accelerator.unwrap_model(self.model).student
        written = generate_batch(
            student,
            self.pair.tokenizer,
            prompts,
            sampling,
            uniforms=[
                answer_uniforms(self.args.seed, numbers[index], sampling.max_new_tokens, step, Stream.OWN_ANSWER)
                for index in chosen
            ],
            vocabulary_size=self.pair.vocabulary_size,
        )
        for index, prompt, answer in zip(chosen, prompts, written, strict=True):
            rows[index] |= {"input_ids": prompt + answer.response_ids, "teacher_hidden": None}
        return {
            name: value.to(self.args.device) if isinstance(value, Tensor) else value
            for name, value in self.data_collator(rows).items()
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
        inputs = {**inputs, "coin_seed": self.state.global_step}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training:
            self._facts += outputs["facts"].detach().sum(0).cpu()
        return (loss, outputs) if return_outputs else loss

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
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

        loss                what was minimised: sum of V_t D_t over the step's response tokens, in nats
        divergence          the same without the gate, mean D_t: the figure that runs with different gates share
        tar                 token acceptance rate, the share that the gate accepts; without a gate, that Top-k would
        masked_share        1 - loss / divergence: the share of the divergence that the gate took away
        teacher_entropy,
        student_entropy     mean entropy of the two next-token distributions, in nats
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
                logs["teacher_entropy"] = found["teacher_entropy"] / n_tokens
                logs["student_entropy"] = found["student_entropy"] / n_tokens
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
            examples = _as_examples(eval_dataset, self.pair, self.args, True)
        if examples is None:
            raise ValueError("there is no eval_dataset: give held-out examples to the trainer, or to evaluate().")
        started = time.perf_counter()
        dataset = self.eval_dataset if examples is self.eval_examples else _eval_dataset(examples, None)
        loader = self.get_eval_dataloader(dataset)
        # Never accelerator.prepare_model here: it marks the module as prepared, and a training that follows would then
        # not be wrapped by DDP, each process going its own way without a word.
        model = self.model_wrapped
        was_training = model.training
        model.eval()
        facts = []
        with torch.no_grad():
            for batch in loader:
                facts.append(self.accelerator.gather_for_metrics(model(**batch)["facts"]).cpu())
        rouge = self._rouge(examples) if self.args.eval_rouge else None
        model.train(was_training)
        scores = Scores.of(torch.cat(facts), self.args.eval_k, self.args.divergence, rouge)
        names = ("divergence", "tar", "acceptance", "agreement", "teacher_entropy", "student_entropy", "rouge_l")
        metrics = {f"{metric_key_prefix}_{name}": getattr(scores, name) for name in names}
        metrics = {name: value for name, value in metrics.items() if value is not None}
        metrics[f"{metric_key_prefix}_n_tokens"] = scores.n_tokens
        metrics[f"{metric_key_prefix}_runtime"] = round(time.perf_counter() - started, 3)
        self._logged_at += time.perf_counter() - started  # an evaluation is no part of a step's time
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

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

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """The student alone, in the form that AutoModelForCausalLM or PeftModel loads, with the tokenizer."""
        if not self.args.should_save:
            return
        folder = Path(output_dir) if output_dir else self.folder
        if state_dict is not None:
            state_dict = {name.removeprefix("student."): value for name, value in state_dict.items()}
        save_student(self.accelerator.unwrap_model(self.model).student, folder, self.pair.tokenizer, state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As the Trainer does, with a marker written last: a folder without it is the remains of an interruption."""
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)
        with _write_errors(folder):
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_complete(folder, {"step": self.state.global_step})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
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
            with _write_errors(self.folder):
                drop_incomplete(self.folder)
        self._facts.zero_()
        self._logged_at = time.perf_counter()
        if resume_from_checkpoint:
            state = TrainerState.load_from_json(os.path.join(resume_from_checkpoint, TRAINER_STATE_NAME))
            last_step = self.args.max_steps if self.args.max_steps > 0 else state.max_steps
            if state.global_step >= last_step:  # killed between the last step and the end: the Trainer would add a step
                self._load_from_checkpoint(str(resume_from_checkpoint))
                self.state = state
                return TrainOutput(state.global_step, math.nan, {})
        return super().train(resume_from_checkpoint or None, **others)


class _Watch(TrainerCallback):
    """Sets the epoch's order, stops where the stop file appears, and refuses gradients that are not finite."""

    def __init__(self, trainer: SpecKDTrainer) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer._order.set_epoch(int((state.epoch or 0.0) + 1e-6))

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        gradients = [parameter.grad for parameter in self.trainer.model.parameters() if parameter.grad is not None]
        if gradients and not all(bool(gradient.isfinite().all()) for gradient in gradients):
            raise self.trainer.not_finite("a gradient is not finite")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        if args.stop_file and os.path.exists(args.stop_file):
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"
        return control


class TrainingBar(TrainerCallback):
    """One progress bar with loss and TAR in it, on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        from tqdm import tqdm

        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", disable=None)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if self.bar is not None and logs and "tar" in logs:
            words = f"loss {logs['loss']:.3f}, TAR {logs['tar']:.2f}, {logs['tokens_per_second']:.0f} tokens/s"
            self.bar.set_postfix_str(words, refresh=False)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def _as_examples(source: Any, pair: Pair, args: SpecKDConfig, needs_response: bool) -> Examples:
    if isinstance(source, Examples):
        found = source
    elif isinstance(source, Sequence) and source and isinstance(source[0], Example):
        found = Examples(list(source), [], 0, 0, args.max_length)
    else:
        found = read_examples(
            source,
            pair.tokenizer,
            max_length=args.max_length,
            on_bad=args.on_bad,  # type: ignore[arg-type]
            needs_response=needs_response,
        )
    if needs_response and not found.n_response_tokens:
        raise ValueError(
            "the data holds no response token: give responses, or let the teacher or the student write them."
        )
    return found


def _eval_dataset(examples: Examples | None, cache: TeacherCache | None) -> ResponseDataset | None:
    if examples is None:
        return None
    held = cache is not None and all(example in cache for example in examples.examples)
    return ResponseDataset(examples.examples, cache if held else None)


# --- the student: fresh adapters, saving, loading -----------------------------------------------------------------


def check_trainable(pair: Pair) -> None:
    """Refuse a pair that cannot be trained as it is.

    Raises:
        ValueError: no parameter of the student asks for a gradient, its head is wrapped, or a parameter is also the
            teacher's.
    """
    if not any(parameter.requires_grad for parameter in pair.student.parameters()):
        raise ValueError("no parameter of the student is trainable: call prepare_student(pair) before the trainer.")
    if hasattr(pair.student.get_output_embeddings(), "base_layer"):
        raise ValueError(
            "the student's head is wrapped by an adapter, and the fused loss needs one plain matrix: leave the head "
            "out of the adapter's target_modules, or merge the adapter first."
        )
    theirs = {parameter.data_ptr() for parameter in pair.teacher.parameters()}
    if any(parameter.data_ptr() in theirs for parameter in pair.student.parameters()):
        raise ValueError(
            "teacher and student share parameters: training would change the teacher, and FSDP cannot shard them. "
            "Load the two separately."
        )


def prepare_student(
    pair: Pair,
    *,
    lora_rank: int = 64,
    lora_alpha: int | None = None,
    full: bool = False,
    seed: int = 0,
) -> Pair:
    """Make a pair's student trainable.

    A student that is an adapter already (packaged, or a PEFT folder) continues that adapter. Any other gets a fresh
    one on all linear layers but the head, or trains in full.

    Args:
        pair: from ``load_pair``. Its student is changed in place; load a pair of its own for each run.
        lora_rank: of a fresh adapter; at least 1.
        lora_alpha: twice the rank by default.
        full: train every weight of the student instead.
        seed: names the fresh adapter's start.
    Returns:
        The pair, with a student that trains (a PeftModel, or the model itself).
    Raises:
        ValueError: a rank below 1, or ``full`` for a student that is an adapter.
    """
    from dataclasses import replace

    from peft import LoraConfig, PeftModel, get_peft_model

    student = pair.student
    if isinstance(student, PeftModel):
        if full:
            raise ValueError("the student is an adapter: it continues as one. Merge it first to train in full.")
        for name, parameter in student.named_parameters():
            if "lora_" in name:
                parameter.data = parameter.data.float()
                parameter.requires_grad_(True)
        for settings in student.peft_config.values():
            settings.inference_mode = False
        return pair
    if full:
        student.float().requires_grad_(True)
        return pair
    if lora_rank < 1:
        raise ValueError(f"lora_rank is {lora_rank}: choose a whole number from 1 on.")
    settings = LoraConfig(
        r=lora_rank,
        lora_alpha=lora_alpha or 2 * lora_rank,
        target_modules="all-linear",  # PEFT leaves the head out of it
        task_type="CAUSAL_LM",
    )
    # The start must neither depend on the global generator nor change it.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", FutureWarning)  # PEFT asks transformers by a name that goes away in version 6
        torch.manual_seed(seed)
        if pair.teacher_id == "packaged" and pair.student_id == "raw":
            student = _fresh_packaged_student(pair, settings)
        else:
            student = get_peft_model(student, settings)
    return replace(pair, student=student.to(pair.device))


def _fresh_packaged_student(pair: Pair, settings: Any) -> nn.Module:
    """The six-layer student as an adapter over the whole teacher: ``layer_replication`` does the shortening."""
    from peft import get_peft_model

    from speckd.packaged import HUB_TEACHER, KEPT_LAYERS
    from speckd.pairs import load_base

    base = load_base(dtype=pair.dtype)
    base.config.name_or_path = HUB_TEACHER
    settings.layer_replication = [list(part) for part in KEPT_LAYERS]
    settings.target_modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    student = get_peft_model(base, settings)
    student.peft_config["default"].base_model_name_or_path = HUB_TEACHER
    return student


def save_student(
    student: Any,
    folder: Path,
    tokenizer: Any | None = None,
    state_dict: dict[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a student so that plain AutoModelForCausalLM or PeftModel loads it.

    Args:
        student: a PeftModel (its adapter is written) or a whole model.
        folder: is made if needed.
        tokenizer: written beside it.
        state_dict: its weights, where they are not in the model itself (sharded training).
        dtype: what the weights are written as; as they are if None.
    """
    from peft import PeftModel, get_peft_model_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(student, PeftModel):
        if dtype is not None:
            weights = get_peft_model_state_dict(student, state_dict, save_embedding_layers=False)
            from safetensors.torch import save_file

            student.peft_config["default"].save_pretrained(str(folder))
            weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in weights.items()}
            save_file(weights, str(folder / "adapter_model.safetensors"), metadata={"format": "pt"})
        else:
            # "auto" would ask the Hub whether the base's vocabulary was resized
            student.save_pretrained(str(folder), state_dict=state_dict, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours is written with the figures
    else:
        use_cache, student.config.use_cache = student.config.use_cache, True
        student.save_pretrained(str(folder), state_dict=state_dict)
        student.config.use_cache = use_cache
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def load_student(student: Any, folder: Path) -> None:
    """Put the weights of a checkpoint back into the student it was written from."""
    from peft import PeftModel, set_peft_model_state_dict

    if isinstance(student, PeftModel):
        set_peft_model_state_dict(student, load_file(str(folder / "adapter_model.safetensors")))
        return
    weights: dict[str, Tensor] = {}
    for shard in sorted(folder.glob("model*.safetensors")):
        weights |= load_file(str(shard))
    missing, unexpected = student.load_state_dict(weights, strict=False)
    tied = set(getattr(student, "_tied_weights_keys", None) or ())
    if unexpected or set(missing) - tied:
        raise ValueError(f"{folder} does not hold this student's weights: {(unexpected or missing)[0]} does not fit.")


# --- checkpoints: complete or absent ------------------------------------------------------------------------------


def mark_complete(folder: Path, facts: dict[str, Any]) -> None:
    """Declare a folder whole. Everything in it must have been written."""
    partial = folder / f".{MARKER}.tmp"
    partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    os.replace(partial, folder / MARKER)


def _checkpoints(output_dir: str | os.PathLike[str]) -> list[tuple[int, Path]]:
    found = []
    for folder in Path(output_dir).glob("checkpoint-*"):
        number = folder.name.removeprefix("checkpoint-")
        if folder.is_dir() and number.isdigit():
            found.append((int(number), folder))
    return sorted(found)


def last_checkpoint(output_dir: str | os.PathLike[str]) -> Path | None:
    """The complete checkpoint of the highest step, or None."""
    whole = [folder for _, folder in _checkpoints(output_dir) if (folder / MARKER).exists()]
    return whole[-1] if whole else None


def drop_incomplete(output_dir: str | os.PathLike[str]) -> None:
    """Remove the remains of interrupted checkpoints."""
    for _, folder in _checkpoints(output_dir):
        if not (folder / MARKER).exists():
            shutil.rmtree(folder)


@contextlib.contextmanager
def _write_errors(folder: Path) -> Iterator[None]:
    """One clear line for a disk that is full or a folder that cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        full = isinstance(error, RuntimeError) and "write" not in str(error).lower()
        if full:
            raise  # some other failure
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        last = last_checkpoint(folder.parent if folder.name.startswith("checkpoint-") else folder)
        kept = f" The last complete checkpoint is {last.name}." if last is not None else ""
        raise OSError(
            f"{folder} cannot be written ({reason}): free some space or choose another folder.{kept}"
        ) from error


OnRow = Callable[[dict[str, Any]], None]


class RowCallback(TrainerCallback):
    """Hands each row of the log (a training step, an evaluation) to a function, as plain numbers."""

    def __init__(self, on_row: OnRow) -> None:
        self.on_row = on_row

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self.on_row({"step": state.global_step, **logs})


def config_facts(args: SpecKDConfig, gate: Gate) -> dict[str, Any]:
    """The settings that a report and a model card name."""
    return {
        "gate": gate.describe(),
        "divergence": args.divergence,
        "temperature": args.temperature,
        "rejected": args.rejected,
        "student_share": args.student_share,
        "steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "warmup_steps": args.warmup_steps,
        "schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "max_length": args.max_length,
        "seed": args.seed,
    }
