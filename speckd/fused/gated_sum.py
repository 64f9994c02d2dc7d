"""sum_t V_t D_t with its gradient, taken chunk by chunk while the logits are there.

Axes: N rows (response tokens), V vocabulary, H hidden size. See ``speckd.loss`` for how it is fast and small.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from speckd.divergences import JSD_TEACHER_WEIGHT, SKEW, divergence_named
from speckd.draws import Stream, row_uniforms
from speckd.fused.buffers import taken
from speckd.fused.closed_forms import LogitBlock
from speckd.fused.together import Gradient, Gradients, Projection, Waiting
from speckd.gates import Gate
from speckd.heads import Head

CHUNK_ELEMENTS = 12 * 2**20  # logits of one model that a chunk holds: 48 MiB in float32, 256 rows of 49,152
WIDER = 4  # times as many elsewhere than on a CPU, where every call costs a launch and memory is wide
BLOCK_ELEMENTS = 3 * 2**19  # logits that the elementwise work touches at a time: 6 MiB, 32 rows of 49,152


@dataclass(frozen=True)
class Measure:
    """A divergence with its parameter."""

    name: str
    mixture: float

    @classmethod
    def of(cls, name: str, mixture: float | None) -> "Measure":
        divergence_named(name)
        default = JSD_TEACHER_WEIGHT if name == "jsd" else SKEW
        if mixture is not None and name not in ("jsd", "skew_kl", "skew_reverse_kl"):
            raise ValueError(f"{name} has no mixture: leave it out, or choose jsd, skew_kl or skew_reverse_kl.")
        if mixture is not None and not 0.0 < mixture < 1.0:
            raise ValueError(
                f"mixture is {mixture}: {name} needs a number strictly between 0 and 1. For its limits ask for "
                "forward_kl or reverse_kl by name."
            )
        return cls(name, default if mixture is None else float(mixture))


@dataclass
class Work:
    """One call's settings, and in ``found`` what it finds out about the rows."""

    gate: Gate
    measure: Measure
    temperature: float
    sampled: bool
    coin_seed: int
    sequences: Tensor
    positions: Tensor
    chunk_rows: int | None
    extras: bool
    found: dict[str, Tensor] = field(default_factory=dict)

    @property
    def may_drop(self) -> bool:
        """Whether a row can end with weight 0. (Plain distillation and a beta above 0 leave every row in.)"""
        if self.gate.soft:
            return True
        return self.gate.rejects and (self.sampled or not self.gate.beta > 0)

    def verdicts(self, scores: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """(n,) accepted and (n,) weights of the rows, from their scores."""
        sequences = self.sequences[rows].to(scores.device)
        if self.gate.soft:
            return torch.ones_like(scores, dtype=torch.bool), self.gate.weigh(scores, sequences).float()
        accepted = self.gate.accept(scores, sequences)
        if not self.sampled:
            return accepted, self.gate.weights_of(accepted)
        coins = row_uniforms(self.coin_seed, self.sequences[rows], self.positions[rows], 1, Stream.REJECTED)[:, 0, 1]
        lucky = (coins < self.gate.beta).to(accepted.device)
        return accepted, (accepted | lucky).float()


class GatedSum(torch.autograd.Function):
    """sum_t V_t D_t, with its gradient taken on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        student_hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        student: Head,
        others: dict[str, tuple[Tensor, Head]],
        work: Work,
    ) -> Tensor:
        total, ctx.gradients = _walk(student_hidden, student, others, work, ctx.needs_input_grad[:3])
        ctx.save_for_backward(student_hidden, weight, bias)
        ctx.settings = (student.scale, student.softcap, others, work)
        return total

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = ctx.saved_tensors
        if ctx.gradients is None:  # a second backward through one graph: rare, so it walks again
            scale, softcap, others, work = ctx.settings
            _, ctx.gradients = _walk(hidden, Head(weight, bias, scale, softcap), others, work, ctx.needs_input_grad[:3])
        # Scaled in place and handed over, so that nobody ever holds two copies.
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [
            gradient.mul_(upstream).to(like.dtype) if gradient is not None else None
            for gradient, like in zip(gradients, (hidden, weight, bias), strict=True)
        ]
        return (*scaled, None, None, None)


def _walk(
    student_hidden: Tensor,
    student: Head,
    others: dict[str, tuple[Tensor, Head]],
    work: Work,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Gradients]:
    """The sum, and the gradients that are wanted; what is known of the rows goes to ``work.found``."""
    n_rows = len(student_hidden)
    models = {"student": (student_hidden, student), **others}
    dtype = torch.float64 if any(hidden.dtype == torch.float64 for hidden, _ in models.values()) else torch.float32
    vocabulary = min(len(head.weight) for _, head in models.values())
    projections = {
        whose: Projection(hidden, head, vocabulary, work.temperature, dtype) for whose, (hidden, head) in models.items()
    }
    gradient = Gradient(projections["student"], student.weight.shape, wanted) if any(wanted) else None
    with torch.autocast(student_hidden.device.type, enabled=False):
        found: dict[str, list[Tensor]] = {}
        one_pass = work.gate.row_local
        waiting = Waiting(gradient) if one_pass and work.may_drop and gradient is not None else None
        for rows, chunk in _chunks(projections, None, work, waiting):
            facts = chunk.measure(work, rows, one_pass and gradient is not None, waiting)
            if one_pass and waiting is None:
                facts["accepted"], facts["weights"] = work.verdicts(facts["scores"], rows)
                if gradient is not None:
                    gradient.add(chunk.logits["student"], chunk.factors * facts["weights"], rows)
            for name, values in facts.items():
                found.setdefault(name, []).append(values)
        if waiting is not None:
            waiting.flush()
        work.found = {name: torch.cat(values) for name, values in found.items()}
        if not n_rows:
            work.found = _facts_of_nothing(work, student_hidden.new_zeros(0, dtype=dtype))
        elif not one_pass:  # every score is known by now: a second pass, over the rows that count
            work.found["accepted"], work.found["weights"] = work.verdicts(work.found["scores"], slice(0, n_rows))
            if gradient is not None:
                kept = work.found["weights"].nonzero().flatten()
                projections.pop("reference", None)
                for rows, chunk in _chunks(projections, kept, work):
                    chunk.measure(work, None, with_gradient=True)
                    factors = chunk.factors * work.found["weights"][kept[rows]]
                    gradient.add(chunk.logits["student"], factors, kept[rows])
    work.found.pop("scores")
    weights, divergence = work.found["weights"], work.found["divergence"]
    # Not the product alone: a row of weight 0 may be infinitely far away, and 0 * inf is nan.
    terms = torch.where(weights > 0, weights * divergence, 0.0)
    return terms.sum(dtype=torch.float64).to(dtype), gradient.results() if gradient is not None else (None, None, None)


def _facts_of_nothing(work: Work, empty: Tensor) -> dict[str, Tensor]:
    facts = {"scores": empty, "divergence": empty, "accepted": empty.bool(), "weights": empty.float()}
    if work.extras:
        facts |= dict.fromkeys(("teacher_entropy", "student_entropy", "acceptance_probability"), empty)
        facts["agreement"] = empty.bool()
    return facts


class Chunk:
    """Some rows' logits of every model; after ``measure``, the gradient's rows in the student's place."""

    def __init__(self, projections: dict[str, Projection], rows: slice | Tensor, buffers: dict[str, Tensor]) -> None:
        self.projections = projections
        n = len(projections["student"].hidden[rows])
        self.logits = {whose: buffers[whose][:n] for whose in projections}
        self.scratch = buffers["teacher_exp"], buffers["student_exp"]
        self.factors = self.logits["student"].new_empty(n)  # what each gradient row must be multiplied by
        for whose, projection in projections.items():
            projection.logits(rows, self.logits[whose])

    def measure(
        self, work: Work, rows: slice | None, with_gradient: bool, waiting: "Waiting | None" = None
    ) -> dict[str, Tensor]:
        """Facts of the rows. Without ``rows``, which name them, the verdicts are known and only the gradient counts.

        The gradient's rows end in the place of the student's logits; or, where rows may be dropped, the verdicts are
        found here too, and the rows that stay move up to those that are ``waiting``.
        """
        uniforms = None
        if rows is not None and work.gate.n_draws:
            uniforms = row_uniforms(work.coin_seed, work.sequences[rows], work.positions[rows], work.gate.n_draws)
        facts: dict[str, list[Tensor]] = {}
        step = len(self.scratch[0])
        for start in range(0, len(self.factors), step):
            part = slice(start, start + step)
            found = self._measure_block(
                work, part, uniforms[part] if uniforms is not None else None, rows, with_gradient, waiting
            )
            for name, values in found.items():
                facts.setdefault(name, []).append(values)
        return {name: torch.cat(values) for name, values in facts.items()}

    def _measure_block(
        self,
        work: Work,
        part: slice,
        uniforms: Tensor | None,
        rows: slice | None,
        with_gradient: bool,
        waiting: "Waiting | None",
    ) -> dict[str, Tensor]:
        slopes = {whose: self._cap(whose, part, with_gradient) for whose in self.projections}
        student, teacher = self.logits["student"][part], self.logits["teacher"][part]
        n = len(student)
        block = LogitBlock(teacher, student, self.scratch[0][:n], self.scratch[1][:n])
        facts: dict[str, Tensor] = {}
        if rows is not None:
            reference = self.logits["reference"][part] if "reference" in self.logits else None
            facts["scores"] = block.scores(work.gate, uniforms, reference)
            if work.extras:
                facts["teacher_entropy"], facts["student_entropy"] = block.teacher_entropy(), block.student_entropy()
                facts["acceptance_probability"] = block.acceptance_probability()
                facts["agreement"] = block.agreement()
        name, mixture = work.measure.name, work.measure.mixture
        if waiting is None:
            facts["divergence"], self.factors[part] = block.divergence(name, mixture, with_gradient)
            if with_gradient and slopes["student"] is not None:
                student.mul_(slopes["student"])
            return facts
        assert rows is not None
        first = rows.start + part.start
        facts["accepted"], facts["weights"] = work.verdicts(facts["scores"], slice(first, first + n))
        kept = facts["weights"].nonzero().flatten()
        room = waiting.room(len(kept))
        # Forward KL can leave its gradient for the chosen rows alone. Where all stay where they are, it need not.
        in_place = len(kept) == n and room.data_ptr() == student.data_ptr()
        facts["divergence"], factors = block.divergence(name, mixture, with_gradient=name != "forward_kl" or in_place)
        if not in_place:
            block.gradient_rows(name, kept, out=room)
        if slopes["student"] is not None:
            room.mul_(slopes["student"][kept])
        waiting.wait((factors * facts["weights"])[kept], kept + first)
        return facts

    def _cap(self, whose: str, part: slice, with_slope: bool) -> Tensor | None:
        """Finish the logits c tanh(x) / tau of a capped head, in place; returns tanh's slope for the student."""
        projection, logits = self.projections[whose], self.logits[whose][part]
        if projection.softcap is None:
            return None
        logits.tanh_()
        slope = logits.square().neg_().add_(1.0).mul_(projection.softcap / projection.temperature)
        logits.mul_(projection.softcap / projection.temperature)
        return slope if with_slope and whose == "student" else None


def _chunks(
    projections: dict[str, Projection], chosen: Tensor | None, work: Work, waiting: "Waiting | None" = None
) -> Iterator[tuple[slice, Chunk]]:
    """Chunks of all rows, or of the chosen ones; each is gone when the next one comes.

    Where rows are ``waiting``, the student's logits lie below them, in a buffer for two chunks.
    """
    student = projections["student"]
    n_rows = len(student.hidden) if chosen is None else len(chosen)
    if n_rows == 0:
        return
    vocabulary = len(student.weight)
    on_cpu = student.hidden.device.type == "cpu"
    size = work.chunk_rows or max(1, CHUNK_ELEMENTS * (1 if on_cpu else WIDER) // vocabulary)
    size = -(-n_rows // -(-n_rows // size))  # chunks of equal size
    block = max(1, BLOCK_ELEMENTS // vocabulary) if on_cpu else size  # elsewhere there is no cache to stay in
    kept = taken()

    def new(name: str, height: int) -> Tensor:
        return kept.take(name, height, vocabulary, student.hidden, student.dtype)

    heights = dict.fromkeys(projections, size)
    if waiting is not None:
        heights["student"] = min(2 * size, n_rows)
    buffers = {whose: new(whose, height) for whose, height in heights.items()}
    if waiting is not None:
        waiting.buffer = buffers["student"]
    for name in ("teacher_exp", "student_exp"):
        buffers[name] = new(name, min(block, size))
    for start in range(0, n_rows, size):
        rows = slice(start, min(start + size, n_rows))
        if waiting is not None:
            buffers["student"] = waiting.logits(rows.stop - rows.start)
        yield rows, Chunk(projections, rows if chosen is None else chosen[rows], buffers)
