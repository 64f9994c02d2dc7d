"""The student's trunk and the gated loss in one forward, and the facts of every row summed for each example."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from speckd.data import positions_before, response_rows, row_names
from speckd.gates import DEFAULT_K, AllOpen, Gate, TopK
from speckd.heads import Head, hidden_rows, input_device
from speckd.loss import GatedLoss, gated_loss
from speckd.pairs import is_elsewhere
from speckd.routers import RouterLoss, weight_of
from speckd.top_tokens import TopTokens, top_tokens_loss

FACTS = (
    "n_tokens",
    "divergence",
    "accepted",
    "weighted_divergence",
    "teacher_entropy",
    "student_entropy",
    "acceptance",
    "agreement",
    "cross_entropy",
)


def sum_facts(loss: Any, owners: Tensor, n_examples: int, cross_entropy: Tensor | None = None) -> Tensor:
    """Add up what the loss found at each row, for each example: (B, len(FACTS)) float64 on the rows' device.

    Args:
        loss: the GatedLoss of the rows, with its extras where they are wanted (0 where they are not).
        owners: (N,) the example of each row, from 0 to n_examples - 1.
        n_examples: B.
        cross_entropy: (N,) in nats, where it takes part.
    """
    rows = loss.divergence.new_zeros((len(owners), len(FACTS)), dtype=torch.float64)  # (N, F)
    divergence = loss.divergence.double()
    rows[:, 0] = 1.0
    rows[:, 1] = divergence
    rows[:, 2] = loss.accepted.double()
    # 0 times an infinite divergence is a masked row, not a number that is undefined.
    rows[:, 3] = torch.where(loss.weights == 0, 0.0, loss.weights.double() * divergence)
    extras = (loss.teacher_entropy, loss.student_entropy, loss.acceptance_probability, loss.agreement, cross_entropy)
    for column, values in enumerate(extras, start=4):
        if values is not None:
            rows[:, column] = values.double()
    return rows.new_zeros((n_examples, len(FACTS))).index_add_(0, owners.to(rows.device), rows)


class GatedStudent(nn.Module):
    """The student's trunk and the gated loss in one forward.

    Args:
        student: the causal language model to train.
        teacher: frozen; its head serves the loss, its trunk is run for rows that no cache holds. It is kept out of the
            module's own parameters, so that it is neither wrapped nor saved. Of a teacher that is elsewhere, every
            batch brings the likeliest tokens.
        gate: which tokens count. divergence, temperature, rejected, mixture: as in ``gated_loss``.
        reference: the reference model of AdaSPEC; other gates need none.
        eval_k: k of the Top-k acceptance that is counted in evaluation mode.
        ce_share: s of the loss (1 - s) L + s CE, where CE is the mean cross-entropy of the response's own tokens at
            temperature 1. The gate has no say in it.
        packing: let no padded token through a trunk: a batch becomes one row of texts, each blind for the others.
        router_loss: weight of the auxiliary loss of a mixture of experts, over all tokens of the batch; batches of one
            step count by their response tokens. None takes what the student's configuration says.
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
        *,
        mixture: float | None = None,
        ce_share: float = 0.0,
        packing: bool = False,
        router_loss: float | None = None,
    ) -> None:
        super().__init__()
        self.student: Any = student
        self._outside: tuple[Any, Any] = (teacher, reference)  # a tuple hides them from nn.Module
        # Plain distillation, with the Top-k verdict watched: a weight of 1 whether accepted or not.
        self.gate = TopK(k=eval_k, beta=1.0) if isinstance(gate, AllOpen) else gate
        self.watch = TopK(k=eval_k, beta=1.0)
        self.divergence, self.temperature, self.rejected = divergence, temperature, rejected
        self.mixture, self.ce_share, self.packing = mixture, ce_share, packing
        self.router_weight = weight_of(student, router_loss)
        self._router = RouterLoss.of(student) if self.router_weight else None
        self._teacher_head: Head | None = None

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
        named = "activation_checkpointing_enable"
        older = "gradient_checkpointing_enable"  # transformers' name before
        getattr(self.student, named if hasattr(self.student, named) else older)(**settings)
        if hasattr(self.student, "enable_input_require_grads"):
            self.student.enable_input_require_grads()  # with frozen embeddings nothing would need a gradient otherwise

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        numbers: Tensor,
        teacher_hidden: Sequence[Any],
        num_items_in_batch: Tensor | float | None = None,
        coin_seed: int = 0,
        progress: float = 0.0,
    ) -> dict[str, Tensor]:
        """The loss of one batch, from ``collate``.

        Args:
            input_ids, attention_mask, labels: (B, T). numbers: (B,).
            teacher_hidden: B entries, (n, H_t) or None where the teacher is to be run; of a teacher that is elsewhere,
                TopTokens of n rows.
            num_items_in_batch: response tokens of the whole optimizer step; those of this batch if None.
            coin_seed: names the coins of this step.
            progress: share of the training that is done, 0 to 1, for a gate that is a schedule.
        Returns:
            loss: () with gradient in training mode. facts: (B, F) sums over each example's rows, in FACTS' order.
        """
        rows = response_rows(labels)  # (B, T-1)
        owners = rows.nonzero()[:, 0]  # (N,)
        sequences, positions = row_names(labels, numbers)
        routed: list[Any] = []
        router = self._router if self.training else None
        more: dict[str, Any] = {} if router is None else {"on_output": routed.append, "output_router_logits": True}
        own = self._rows(self.student, input_ids, attention_mask, rows, **more)  # (N, H_s)
        asked: dict[str, Any] = {
            "mixture": self.mixture,
            "rejected": self.rejected if self.training else "weight",
            "n_tokens": num_items_in_batch,
            "sequences": sequences,
            "positions": positions,
            "seed": coin_seed,
            "extras": True,
        }
        gate = self.gate.at(progress) if self.training else self.watch
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            if is_elsewhere(self.teacher):
                told = TopTokens.join(teacher_hidden)
                measure = self.divergence, self.temperature
                found = top_tokens_loss(own, Head.of(self.student), told, gate, *measure, **asked)
            else:
                found = self._against_teacher(own, input_ids, attention_mask, rows, teacher_hidden, gate, asked)
            loss, cross_entropy = found.loss, None
            if self.ce_share and self.training:
                texts = cross_entropy_loss(own, Head.of(self.student), input_ids[:, 1:][rows], num_items_in_batch)
                loss = (1.0 - self.ce_share) * loss + self.ce_share * texts.loss
                cross_entropy = texts.divergence
            if router is not None:
                share = len(own) / (len(own) if num_items_in_batch is None else num_items_in_batch)
                uneven = router(routed[0], None if self.packing else attention_mask)
                loss = loss + self.router_weight * share * uneven.to(loss.device)
        return {"loss": loss, "facts": sum_facts(found, owners, len(input_ids), cross_entropy)}

    def _against_teacher(
        self,
        own: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        rows: Tensor,
        cached: Sequence[Tensor | None],
        gate: Gate,
        asked: dict[str, Any],
    ) -> GatedLoss:
        """The gated loss of the student's rows against a teacher that is here."""
        teacher, reference = self._outside
        theirs = self._teacher_rows(teacher, input_ids, attention_mask, rows, cached)  # (N, H_t)
        if gate.needs_reference:
            assert reference is not None
            with torch.no_grad():
                asked = asked | {"reference_hidden": self._rows(reference, input_ids, attention_mask, rows)}
            asked["reference_head"] = Head.of(reference)
        return gated_loss(
            own,
            Head.of(self.student),
            theirs.to(own.device),
            self._head_of_teacher(own.device),
            gate,
            self.divergence,
            self.temperature,
            **asked,
        )

    def _head_of_teacher(self, device: torch.device) -> Head:
        """The teacher's head where the student is; of a teacher that lies elsewhere, a copy made once."""
        head = Head.of(self.teacher)
        if head.weight.device == device:
            return head
        if self._teacher_head is None:
            bias = head.bias.to(device) if head.bias is not None else None
            self._teacher_head = replace(head, weight=head.weight.to(device), bias=bias)
        return self._teacher_head

    def _rows(self, model: Any, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, **more: Any) -> Tensor:
        """The (N, H) last hidden states at the (B, T-1) rows."""
        return hidden_rows(model, input_ids, positions_before(rows), attention_mask, packed=self.packing, **more)

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


def cross_entropy_loss(
    student_hidden: Tensor, student_head: Head, token_ids: Tensor, n_tokens: float | Tensor | None = None
) -> GatedLoss:
    """The mean cross-entropy of the given (N,) tokens, by the student's (N, H) rows, in nats.

    It is forward KL from a teacher who is sure of one token, so it is walked in the same chunks, without (N, V).
    """
    sure = token_ids.new_zeros((len(token_ids), 1), dtype=torch.float32)
    teacher = TopTokens(token_ids[:, None], sure, sure[:, 0] - torch.inf)
    return top_tokens_loss(student_hidden, student_head, teacher, AllOpen(), n_tokens=n_tokens)


@torch.no_grad()
def check_packing(model: Any) -> None:
    """Compare a packed pass with a padded one, once, at load.

    Raises:
        ValueError: the model's texts see each other when they are packed, or it takes no positions.
    """
    where = input_device(model, torch.device("cpu"))
    ids = torch.arange(3, 14, device=where).repeat(2, 1)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    was_training = model.training
    model.eval()
    try:
        padded = hidden_rows(model, ids, mask.bool(), mask)
        packed = hidden_rows(model, ids, mask.bool(), mask, packed=True)
        apart = ((packed - padded).float().norm() / padded.float().norm()).item()
    except (TypeError, IndexError):
        apart = float("inf")
    finally:
        model.train(was_training)
    if not apart < (1e-3 if _is_wide(model) else 5e-2):
        raise ValueError(
            f"{type(model).__name__} cannot be packed: its texts would see each other. Leave packing out; texts of "
            "like length are put together anyway."
        )


def _is_wide(model: Any) -> bool:
    """Whether a model computes in float32 or wider."""
    return next(model.parameters()).dtype in (torch.float32, torch.float64)
