"""The student's trunk and the gated loss in one forward, and the facts of every row summed for each example."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speckd.data import response_rows, row_names
from speckd.gates import DEFAULT_K, AllOpen, Gate, TopK
from speckd.heads import Head, input_device, trunk_of
from speckd.loss import gated_loss

FACTS = (
    "n_tokens",
    "divergence",
    "accepted",
    "weighted_divergence",
    "teacher_entropy",
    "student_entropy",
    "acceptance",
    "agreement",
)


def sum_facts(loss: Any, owners: Tensor, n_examples: int) -> Tensor:
    """Add up what the loss found at each row, for each example: (B, len(FACTS)) float64 on the rows' device.

    Args:
        loss: the GatedLoss of the rows, with its extras where they are wanted (0 where they are not).
        owners: (N,) the example of each row, from 0 to n_examples - 1.
        n_examples: B.
    """
    rows = loss.divergence.new_zeros((len(owners), len(FACTS)), dtype=torch.float64)  # (N, F)
    divergence = loss.divergence.double()
    rows[:, 0] = 1.0
    rows[:, 1] = divergence
    rows[:, 2] = loss.accepted.double()
    # 0 times an infinite divergence is a masked row, not a number that is undefined.
    rows[:, 3] = torch.where(loss.weights == 0, 0.0, loss.weights.double() * divergence)
    extras = (loss.teacher_entropy, loss.student_entropy, loss.acceptance_probability, loss.agreement)
    for column, values in enumerate(extras, start=4):
        if values is not None:
            rows[:, column] = values.double()
    return rows.new_zeros((n_examples, len(FACTS))).index_add_(0, owners.to(rows.device), rows)


class GatedStudent(nn.Module):
    """The student's trunk and the gated loss in one forward.

    Args:
        student: the causal language model to train.
        teacher: frozen; its head serves the loss, its trunk is run for rows that no cache holds. It is kept out of the
            module's own parameters, so that it is neither wrapped nor saved.
        gate: which tokens count. divergence, temperature, rejected: as in ``gated_loss``.
        reference: the reference model of AdaSPEC; other gates need none.
        eval_k: k of the Top-k acceptance that is counted in evaluation mode.
    """

    accepts_loss_kwargs = True  # the Trainer then counts the response tokens of the whole step and passes the number
    main_input_name = "input_ids"

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module,
        gate: Gate,
        divergence: str = "forward_kl",
        temperature: float = 1.0,
        rejected: str = "weight",
        reference: nn.Module | None = None,
        eval_k: int = DEFAULT_K,
    ) -> None:
        super().__init__()
        self.student: Any = student
        self._outside: tuple[Any, Any] = (teacher, reference)  # a tuple hides them from nn.Module
        # Plain distillation, with the Top-k verdict watched: a weight of 1 whether accepted or not.
        self.gate = TopK(k=eval_k, beta=1.0) if isinstance(gate, AllOpen) else gate
        self.watch = TopK(k=eval_k, beta=1.0)
        self.divergence, self.temperature, self.rejected = divergence, temperature, rejected

    @property
    def teacher(self) -> Any:
        return self._outside[0]

    @property
    def config(self) -> Any:
        return self.student.config

    @property
    def generation_config(self) -> Any:
        return getattr(self.student, "generation_config", None)

    @property
    def _no_split_modules(self) -> Any:  # FSDP's automatic wrapping asks for it
        return getattr(self.student, "_no_split_modules", None)

    def activation_checkpointing_enable(self, **settings: Any) -> None:
        self.student.activation_checkpointing_enable(**settings)
        if hasattr(self.student, "enable_input_require_grads"):
            self.student.enable_input_require_grads()  # with frozen embeddings nothing would need a gradient otherwise

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        numbers: Tensor,
        teacher_hidden: Sequence[Tensor | None],
        num_items_in_batch: Tensor | float | None = None,
        coin_seed: int = 0,
        progress: float = 0.0,
    ) -> dict[str, Tensor]:
        """The loss of one batch, from ``collate``.

        Args:
            input_ids, attention_mask, labels: (B, T). numbers: (B,).
            teacher_hidden: B entries, (n, H_t) or None where the teacher is to be run.
            num_items_in_batch: response tokens of the whole optimizer step; those of this batch if None.
            coin_seed: names the coins of this step.
            progress: share of the training that is done, 0 to 1, for a gate that is a schedule.
        Returns:
            loss: () with gradient in training mode. facts: (B, F) sums over each example's rows, in FACTS' order.
        """
        rows = response_rows(labels)  # (B, T-1)
        owners = rows.nonzero()[:, 0]  # (N,)
        sequences, positions = row_names(labels, numbers)
        teacher, reference = self._outside
        theirs = self._teacher_rows(teacher, input_ids, attention_mask, rows, teacher_hidden)  # (N, H_t)
        own = self._rows(self.student, input_ids, attention_mask, rows)  # (N, H_s)
        gate = self.gate.at(progress) if self.training else self.watch
        third: dict[str, Any] = {}
        if gate.needs_reference:
            assert reference is not None
            with torch.no_grad():
                third["reference_hidden"] = self._rows(reference, input_ids, attention_mask, rows)
            third["reference_head"] = Head.of(reference)
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            found = gated_loss(
                own,
                Head.of(self.student),
                theirs.to(own.device),
                Head.of(teacher),
                gate,
                self.divergence,
                self.temperature,
                rejected=self.rejected if self.training else "weight",  # type: ignore[arg-type]
                n_tokens=num_items_in_batch,
                sequences=sequences,
                positions=positions,
                seed=coin_seed,
                extras=True,
                **third,
            )
        return {"loss": found.loss, "facts": sum_facts(found, owners, len(input_ids))}

    @staticmethod
    def _rows(model: Any, input_ids: Tensor, attention_mask: Tensor, rows: Tensor) -> Tensor:
        where = input_device(model, input_ids.device)
        hidden = trunk_of(model)(
            input_ids=input_ids.to(where), attention_mask=attention_mask.to(where), use_cache=False
        ).last_hidden_state  # (B, T, H)
        return hidden[:, :-1][rows.to(hidden.device)]  # (N, H)

    def _teacher_rows(
        self,
        teacher: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        rows: Tensor,
        cached: Sequence[Tensor | None],
    ) -> Tensor:
        """The teacher's (N, H) rows: from the cache where it holds them, else by one pass over the others."""
        weight = teacher.get_output_embeddings().weight
        absent = [index for index, hidden in enumerate(cached) if hidden is None]
        parts: list[Tensor | None] = [None if hidden is None else hidden.to(weight.device) for hidden in cached]
        if absent:
            with torch.no_grad():
                picked = torch.tensor(absent, device=input_ids.device)
                made = self._rows(teacher, input_ids[picked], attention_mask[picked], rows[picked])
            lengths = rows[picked].sum(-1).tolist()
            for index, part in zip(absent, made.split(lengths), strict=True):
                parts[index] = part
        return torch.cat([part.to(weight.dtype) for part in parts if part is not None])
