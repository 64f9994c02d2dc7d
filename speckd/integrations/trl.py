"""The gate in TRL's own trainers: one instance is gated, and neither its class nor TRL's modules are touched.

    from trl import DistillationTrainer
    from speckd.integrations.trl import gate

    trainer = gate(DistillationTrainer(model=..., teacher_model=..., args=..., train_dataset=...), speckd.TopK(k=5))
    trainer.train()

TRL goes on doing what it does: it generates (vLLM, tools, images), pads, counts, shards, steps and logs. What changes
is its loss. ``DistillationTrainer`` keeps its method ``_compute_loss``, run with one name bound to the gated loss;
``GKDTrainer`` asks itself for ``generalized_jsd_loss``, and finds the gated one. TRL's ``beta`` is the teacher's weight
in the generalised JSD, not the weight of a rejected token: that one belongs to the gate.

Tested with TRL 1.16. Where a method does not look as expected, the trainer is refused, never gated by half.
"""

from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor

from speckd.divergences import divergence_of_jsd_beta
from speckd.gates import Gate, gate_of
from speckd.heads import Head
from speckd.logits import gated_kd
from speckd.loss import GatedLoss, gated_loss

_LOSS_OF_DISTILLATION = "_chunked_divergence_loss"
_SEQUENCES_A_CALL = 2**16  # names for the sequences of one forward pass, so that no two of a step share a coin


def gate(trainer: Any, gate: Gate | str, *, temperature: float | None = None) -> Any:
    """Put a gate into one TRL trainer; a second call replaces the gate.

    Its log then carries, beside TRL's own figures, means over the response tokens since the last row: ``divergence``
    (mean D_t, what the loss would be without the gate), ``tar`` (the share of tokens that the gate accepts) and
    ``masked_share`` (the share of the divergence that the gate took away). Selectors that rank tokens rank those of one
    forward pass.

    Args:
        trainer: a DistillationTrainer or GKDTrainer, before ``train()``.
        gate: such as ``speckd.TopK(k=5, beta=0.01)``, or its text.
        temperature: tau of gate and divergence; the trainer's own if None. GKDTrainer's own never reaches its loss,
            which is taken at 1, so there it must be asked for.
    Returns:
        The same trainer.
    Raises:
        ValueError: it is another trainer, or the gate needs a third model.
    """
    gate = gate_of(gate)
    if gate.needs_reference:
        raise ValueError(
            f"the gate {gate.name!r} needs a reference model, which TRL has no place for: use SpecKDTrainer."
        )
    if temperature is not None and not temperature > 0:
        raise ValueError(f"temperature is {temperature}: choose a number above 0.")
    gated = _Gated(trainer, gate, temperature)
    cls = type(trainer)
    names = {base.__name__ for base in cls.__mro__ if base.__module__.startswith("trl.")}
    if "DistillationTrainer" in names:
        own = _with_name_bound(cls, "_compute_loss", _LOSS_OF_DISTILLATION, gated.loss_of_hidden_states)
        trainer._compute_loss = MethodType(own, trainer)
    elif "GKDTrainer" in names and "generalized_jsd_loss" in cls.compute_loss.__code__.co_names:
        trainer.generalized_jsd_loss = gated.loss_of_logits
    else:
        raise ValueError(
            f"{cls.__name__} is neither TRL's DistillationTrainer nor its GKDTrainer, or one whose loss is its own: "
            "call speckd.gated_kd(student_logits, teacher_logits, labels, gate) in its compute_loss."
        )
    trainer.log = gated.log
    return trainer


def _with_name_bound(cls: type, method: str, name: str, value: Any) -> FunctionType:
    """A copy of a class's method in which one global name means something else; the class keeps its own."""
    function = getattr(cls, method, None)
    if not isinstance(function, FunctionType) or name not in function.__code__.co_names:
        raise ValueError(
            f"{cls.__name__} computes its loss in a way that is not known here ({method} does not call {name}): this "
            "was written for TRL 1.16."
        )
    copy = FunctionType(
        function.__code__,
        {**function.__globals__, name: value},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class _Gated:
    """What one gated trainer remembers: its gate, and sums over the response tokens since the last row of the log."""

    def __init__(self, trainer: Any, gate: Gate, temperature: float | None) -> None:
        self.trainer, self.gate, self.temperature = trainer, gate, temperature
        self.sums = {mode: torch.zeros(4, dtype=torch.float64) for mode in ("train", "eval")}
        self.step, self.calls = -1, 0  # the optimizer step that the last call belonged to, and its calls so far

    @property
    def mode(self) -> str:
        return "train" if self.trainer.model.training else "eval"

    def loss_of_hidden_states(
        self,
        student_hidden_states: Tensor,
        teacher_hidden_states: Tensor,
        student_lm_head_weight: Tensor,
        teacher_lm_head_weight: Tensor,
        completion_mask: Tensor,
        beta: float,
        num_items_in_batch: Tensor | int | None = None,
        student_lm_head_bias: Tensor | None = None,
        teacher_lm_head_bias: Tensor | None = None,
        student_logit_scale: float = 1.0,
        teacher_logit_scale: float = 1.0,
        student_final_logit_softcapping: float | None = None,
        teacher_final_logit_softcapping: float | None = None,
        temperature: float = 1.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stands where TRL's ``_chunked_divergence_loss`` does: (B, K, H) in; loss, entropy sum and tokens out."""
        rows = completion_mask != 0  # (B, K)
        divergence, mixture = divergence_of_jsd_beta(beta)
        found = gated_loss(
            student_hidden_states[rows],
            Head(student_lm_head_weight, student_lm_head_bias, student_logit_scale, student_final_logit_softcapping),
            teacher_hidden_states[rows],
            Head(teacher_lm_head_weight, teacher_lm_head_bias, teacher_logit_scale, teacher_final_logit_softcapping),
            self.gate,
            divergence,
            temperature if self.temperature is None else self.temperature,
            mixture=mixture,
            n_tokens=num_items_in_batch,
            extras=True,
            **self._names(rows),
        )
        self._count(found)
        assert found.student_entropy is not None
        return found.loss, found.student_entropy.sum(), rows.sum()

    def loss_of_logits(
        self,
        student_logits: Tensor,
        teacher_logits: Tensor,
        labels: Tensor | None = None,
        beta: float = 0.5,
        temperature: float = 1.0,
        reduction: str = "batchmean",
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """Stands where GKDTrainer's ``generalized_jsd_loss`` does: (B, T, V) logits and labels that fit them."""
        if labels is None or reduction != "batchmean":
            raise ValueError("the gated loss is a mean over response tokens: give labels, and reduction='batchmean'.")
        divergence, mixture = divergence_of_jsd_beta(beta)
        found = gated_kd(
            student_logits,
            teacher_logits,
            labels,
            self.gate,
            divergence,
            temperature if self.temperature is None else self.temperature,
            mixture=mixture,
            n_tokens=num_items_in_batch,
            shifted=True,
            **self._names(labels != -100),
        )
        self._count(found)
        return found.loss

    def _names(self, rows: Tensor) -> dict[str, Any]:
        """The names of a call's rows, for coins: their step, their sequence in it, and their place in the sequence."""
        step = self.trainer.state.global_step
        self.step, self.calls = step, self.calls + 1 if step == self.step else 0
        accelerator = self.trainer.accelerator
        first = (self.calls * accelerator.num_processes + accelerator.process_index) * _SEQUENCES_A_CALL
        return {
            "sequences": first + rows.nonzero()[:, 0],
            "positions": (rows.cumsum(-1) - 1)[rows],
            "seed": step if self.mode == "train" else 0,
        }

    def _count(self, found: GatedLoss) -> None:
        weighted = (found.weights * found.divergence).sum()
        n_tokens = torch.tensor(len(found.accepted), device=weighted.device)
        facts = torch.stack([n_tokens, found.accepted.sum(), found.divergence.sum(), weighted])
        self.sums[self.mode] += facts.detach().double().cpu()

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """The trainer's own log, with the gate's figures added to the row."""
        mode = self.mode
        device = self.trainer.accelerator.device
        sums = self.sums[mode].to(device, torch.float32 if device.type == "mps" else torch.float64)
        n_tokens, accepted, divergence, weighted = self.trainer.accelerator.reduce(sums, "sum").tolist()
        self.sums[mode].zero_()
        if n_tokens:
            prefix = "" if mode == "train" else "eval_"
            logs[f"{prefix}divergence"] = divergence / n_tokens
            logs[f"{prefix}tar"] = accepted / n_tokens
            logs[f"{prefix}masked_share"] = 1 - weighted / divergence if divergence else 0.0
        type(self.trainer).log(self.trainer, logs, start_time)
