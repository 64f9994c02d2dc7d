"""SpecKDConfig: TrainingArguments with what the gate needs."""

import math
from dataclasses import dataclass, field
from typing import Any

from transformers import TrainingArguments

from speckd.conversations import template_switches
from speckd.divergences import divergence_of_jsd_beta
from speckd.fused.gated_sum import Measure
from speckd.gates import DEFAULT_K, Gate, gate_from_text
from speckd.training import defaults
from speckd.training.best import SMALLER_IS_BETTER, check_figure
from speckd.training.products import PRODUCTS
from speckd.training.sharded import NO_DEEPSPEED


@dataclass
class SpecKDConfig(TrainingArguments):
    """TrainingArguments with what the gate needs. Defaults are those that healed the packaged student.

    Attributes:
        gate: name of a gate or selector, with knobs where they are not the defaults: "topk", "topk:k=3:beta=0".
        divergence: forward_kl, reverse_kl, jsd, skew_kl, skew_reverse_kl or tvd.
        mixture: b of jsd or a of the skew divergences, in (0, 1); the divergence's default if None.
        jsd_beta: TRL's beta, instead of divergence and mixture: 0 is forward_kl, 1 reverse_kl, between them jsd.
        temperature: tau > 0, divides both models' logits in gate, divergence and sampled responses.
        rejected: "weight" (a rejected token weighs beta) or "sample" (it is kept with probability beta, at weight 1).
        student_share: share of the examples whose response the student writes as it trains (GKD's lambda), 0 to 1.
        max_new_tokens: longest response that the student writes.
        max_length: tokens of prompt and response together.
        on_bad: "stop" at a bad line of data, or "skip" it and count it.
        chat_template_kwargs: switches of the chat template, such as {"enable_thinking": False}; a dict, or its JSON.
        turns: "all" turns of the assistant in a conversation are trained, or the "last" alone.
        disable_dropout: switch the student's dropout off, so that the curve does not depend on the number of processes.
        teacher_cache: folder of the teacher's hidden states, or None.
        stop_file: when this file appears the run ends after the step at hand, and keeps what was reached.
        ce_share: s of the loss (1 - s) L + s CE, with the cross-entropy of the response's own tokens, 0 to 1.
        router_loss: weight of the auxiliary loss of a mixture of experts; None as the student's configuration says.
        packing: let no padded token through a trunk; the loss is the same. Models that cannot be packed are refused.
        products: how a CPU multiplies float32 matrices in training: "full", "bf16" (factors rounded to bfloat16, sums
            in float32; evaluation stays full), or "auto", bf16 where a short measurement finds it faster here.
        keep_best: a held-out figure (divergence, tar, acceptance, agreement, rouge_l): the student of the evaluation
            where it was best is the one that training ends with. None keeps the last.
        patience: end after so many evaluations in a row without a better figure; 0 never.
        eval_k: k of the TAR that evaluation reports, whatever the gate.
        eval_rouge: how many held-out prompts both models answer greedily at each evaluation, for ROUGE-L.
        group_by_length: put texts of like length into one step, so that little is padded.
        learning_rate: if None, an adapter's, and for a student that trains in full a smaller one (``defaults``).
    Raises:
        ValueError: a value makes no sense; the message says what to choose.
    """

    gate: str = defaults.GATE
    divergence: str = defaults.DIVERGENCE
    temperature: float = defaults.TEMPERATURE
    mixture: float | None = None
    jsd_beta: float | None = None
    rejected: str = "weight"
    ce_share: float = 0.0
    router_loss: float | None = None
    packing: bool = False
    products: str = "full"
    keep_best: str | None = None
    patience: int = 0
    student_share: float = 0.0
    max_new_tokens: int = defaults.MAX_NEW_TOKENS
    max_length: int = defaults.MAX_LENGTH
    on_bad: str = "stop"
    chat_template_kwargs: dict | str | None = None
    turns: str = "all"
    disable_dropout: bool = True
    teacher_cache: str | None = None
    stop_file: str | None = None
    eval_k: int = DEFAULT_K
    eval_rouge: int = 0
    group_by_length: bool = True

    learning_rate: float = None  # type: ignore[assignment] # is said in __post_init__
    lr_scheduler_type: str = defaults.SCHEDULE
    warmup_steps: float = defaults.WARMUP_STEPS
    adam_beta2: float = 0.95
    per_device_train_batch_size: int = defaults.BATCH_SIZE
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
        self.rate_is_default = self.learning_rate is None  # the trainer, which sees the student, chooses then
        if self.learning_rate is None:
            self.learning_rate = defaults.LEARNING_RATE
        gate = gate_from_text(self.gate)
        if self.jsd_beta is not None:
            said = divergence_of_jsd_beta(self.jsd_beta)
            if (self.divergence, self.mixture) not in ((defaults.DIVERGENCE, None), said):
                raise ValueError("jsd_beta says divergence and mixture at once: leave those out.")
            self.divergence, self.mixture = said
        Measure.of(self.divergence, self.mixture)
        if not 0 <= self.ce_share <= 1:
            raise ValueError(f"ce_share is {self.ce_share!r}: choose a number from 0 to 1.")
        if self.router_loss is not None and not 0 <= self.router_loss < math.inf:
            raise ValueError(f"router_loss is {self.router_loss!r}: choose a weight of 0 or more.")
        if self.products not in PRODUCTS:
            raise ValueError(f"products is {self.products!r}: choose one of {', '.join(PRODUCTS)}.")
        if self.patience < 0 or (self.patience and not self.keep_best):
            raise ValueError(
                f"patience is {self.patience}: choose 0 or more, and keep_best, the figure that it watches."
            )
        if self.keep_best is not None:
            check_figure(self.keep_best, self)
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature!r}: choose a number above 0.")
        if self.rejected not in ("weight", "sample"):
            raise ValueError(f"rejected is {self.rejected!r}: choose 'weight' or 'sample'.")
        if self.rejected == "sample" and not gate.rejects:
            raise ValueError(f"rejected is 'sample', but the gate {gate.name!r} rejects nothing.")
        if not 0 <= self.student_share <= 1:
            raise ValueError(f"student_share is {self.student_share!r}: choose a number from 0 to 1.")
        self.chat_template_kwargs = template_switches(self.chat_template_kwargs)
        if self.turns not in ("all", "last"):
            raise ValueError(f"turns is {self.turns!r}: choose 'all' or 'last'.")
        self._check_transformers_settings()
        if self.max_steps == 0 or (self.max_steps < 0 and self.num_train_epochs <= 0):
            raise ValueError("there are no steps to train: choose max_steps or num_train_epochs above 0.")
        if not 0 < self.learning_rate <= 10:
            raise ValueError(f"learning_rate is {self.learning_rate!r}: choose a number above 0 and up to 10.")
        if self.save_total_limit is not None and self.save_total_limit < 2:
            raise ValueError(
                f"save_total_limit is {self.save_total_limit}: keep 2 checkpoints at least, since the older one is the "
                "way back while the newer one is being written."
            )
        super().__post_init__()

    def _check_transformers_settings(self) -> None:
        """Refuse by name what would break a batch, mean nothing here, or be ignored."""
        if self.neftune_noise_alpha is not None or self.label_smoothing_factor:
            name = "neftune_noise_alpha" if self.neftune_noise_alpha is not None else "label_smoothing_factor"
            raise ValueError(f"{name} is not offered: the loss is against the teacher's distribution. Leave it out.")
        if self.remove_unused_columns:
            raise ValueError(
                "remove_unused_columns is True: a batch has columns that no model's forward names. Leave it out."
            )
        if self.use_liger_kernel:
            raise ValueError(
                "use_liger_kernel is not offered: the loss never makes the logits that it saves. Leave it out."
            )
        strategy = str(getattr(self, "train_sampling_strategy", "random"))
        if strategy not in ("random", "group_by_length"):
            raise ValueError(
                f"train_sampling_strategy is {strategy!r}: the order is shuffled by seed and epoch, so that a resumed "
                "run sees the same. Say group_by_length, or leave it out."
            )
        for name in ("gradient_accumulation_steps", "per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose a whole number, 1 or more.")
        if self.deepspeed is not None:
            raise ValueError(NO_DEEPSPEED)  # before transformers looks for a library that may not be here
        scheduler = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        if self.metric_for_best_model is None and scheduler == "reduce_lr_on_plateau":
            self.metric_for_best_model, self.greater_is_better = "divergence", False  # the Trainer would say "loss"
        metric = self.metric_for_best_model
        if metric is not None and metric.removeprefix("eval_") not in SMALLER_IS_BETTER:
            raise ValueError(
                f"metric_for_best_model is {metric!r}, and evaluations tell {', '.join(SMALLER_IS_BETTER)}: choose one."
            )
        if self.load_best_model_at_end:
            raise ValueError("load_best_model_at_end is not offered: say keep_best='divergence'.")

    @property
    def n_gpu(self) -> int:
        """One at most: several GPUs in one process would be DataParallel. Use `accelerate launch` for more."""
        return min(super().n_gpu, 1)


def config_facts(args: SpecKDConfig, gate: Gate) -> dict[str, Any]:
    """The settings that a report and a model card name."""
    return {
        "gate": gate.describe(),
        "divergence": args.divergence + (f" ({args.mixture:g})" if args.mixture is not None else ""),
        "temperature": args.temperature,
        "rejected": args.rejected,
        "student_share": args.student_share,
        "ce_share": args.ce_share,
        "steps": args.max_steps,
        "learning_rate": args.learning_rate,
        "warmup_steps": args.warmup_steps,
        "schedule": str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)),
        "batch_size": args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "max_length": args.max_length,
        "seed": args.seed,
    }
