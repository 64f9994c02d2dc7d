"""Hidden states in, gated distillation loss out: never the full (N, V) logits, and no second projection in backward.

Letters of the papers: p is the teacher's distribution, q the student's, D the divergence of one row, V_t its weight.
Axes: N rows (response tokens), V vocabulary, H hidden size.

How it is fast and small:

* Rows are walked in chunks. A chunk is projected once a model into two buffers, and everything after that runs on a
  few rows at a time, small enough to stay in the cache.
* dD/dlogits has a closed form for every divergence (closed_forms.py), so the gradient of the hidden state is taken
  while the logits are still there; backward multiplies it by one number. TRL and Liger project again in backward.
* Rows of weight 0 leave before their gradient is taken. The others move up, into the places of those that left, and
  wait there for the next chunk's, because a larger matrix product costs less a row. It is a third of the work.
* No row is normalised before that product where a factor can follow it: a row has H numbers then, instead of V.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speckd.divergences import JSD_TEACHER_WEIGHT, SKEW, divergence_named
from speckd.draws import Stream, row_uniforms
from speckd.fused.closed_forms import LogitBlock
from speckd.gates import AllOpen, Gate
from speckd.heads import Head

CHUNK_ELEMENTS = 12 * 2**20  # logits of one model that a chunk holds: 48 MiB in float32, 256 rows of 49,152
BLOCK_ELEMENTS = 3 * 2**19  # logits that the elementwise work touches at a time: 6 MiB, 32 rows of 49,152
CAST_TOKENS = 8192  # tokens of a half-precision head that are widened at a time on a CPU
SEED_STRIDE = 0x9E3779B97F4A7C15  # odd, so that no two calls of one run share a seed


@dataclass(frozen=True)
class GatedLoss:
    """What ``gated_loss`` found: the loss, which carries gradient, and the facts of every row, which do not.

    Attributes:
        loss: () sum_t V_t D_t / n_tokens, in nats; a differentiable 0 where nothing is left of it.
        divergence: (N,) D of every row, in nats, whatever its weight.
        accepted: (N,) bool, the gate's verdict. A soft weight rejects nothing: all True.
        weights: (N,) float32, V_t as it entered the loss.
        tar: the token acceptance rate, the mean of accepted; nan for no rows.
        teacher_entropy, student_entropy: (N,) nats, where asked for.
        acceptance_probability: (N,) 1 - TVD, the chance of one random draw, where asked for.
        agreement: (N,) bool, both models have the same most probable token, where asked for.
    """

    loss: Tensor
    divergence: Tensor
    accepted: Tensor
    weights: Tensor
    tar: float
    teacher_entropy: Tensor | None = None
    student_entropy: Tensor | None = None
    acceptance_probability: Tensor | None = None
    agreement: Tensor | None = None


def gated_loss(
    student_hidden: Tensor,
    student_head: nn.Module | Tensor | Head,
    teacher_hidden: Tensor,
    teacher_head: nn.Module | Tensor | Head,
    gate: Gate,
    divergence: str = "forward_kl",
    temperature: float = 1.0,
    *,
    mixture: float | None = None,
    rejected: Literal["weight", "sample"] = "weight",
    n_tokens: float | Tensor | None = None,
    sequences: Tensor | None = None,
    positions: Tensor | None = None,
    seed: int = 0,
    reference_hidden: Tensor | None = None,
    reference_head: nn.Module | Tensor | Head | None = None,
    chunk_rows: int | None = None,
    extras: bool = False,
) -> GatedLoss:
    """The gated distillation loss of the given rows: L = (1/n) sum_t V_t D(p_t || q_t).

    Args:
        student_hidden: (N, H_s) last hidden state of each response row, one position before the row's token.
        student_head: a module with weight (V, H_s) and perhaps bias, such a tensor, or a ``Head`` with the model's
            scale and soft cap. Gradient reaches its weight and bias where they ask for it. Where the two heads differ
            in V, both are cut to the shared rows before anything is computed.
        teacher_hidden, teacher_head: (N, H_t) and the same of the teacher; no gradient reaches them.
        gate: which rows count in full. A selector that ranks tokens (``row_local`` is False) ranks those of this call,
            and costs a scoring pass first.
        divergence: a name of ``speckd.divergences.DIVERGENCES``.
        temperature: tau > 0; divides both models' logits everywhere. There is no factor tau**2.
        mixture: b of jsd or a of the skew divergences, in (0, 1); the divergence's default if None.
        rejected: "weight" gives a rejected row the weight beta; "sample" keeps it with probability beta and then at
            weight 1: the same in expectation, at the cost of a hard mask. These coins are not the gate's.
        n_tokens: the divisor: the response tokens of the whole accumulated, distributed batch. If None, N.
        sequences, positions: (N,) integers >= 0 that name each row, for coins and for selectors within a sequence:
            sequence 0 and the row's index if None.
        seed: names the coins of this call beside the gate's own seed, 0 or more; a trainer gives its step. At 0 the
            coins are the gate's own, as in a trace.
        reference_hidden, reference_head: (N, H_r) and the same of AdaSPEC's reference; other gates take none.
        chunk_rows: rows that are projected at a time; chosen from V if None. Changes results by rounding alone.
        extras: report entropies, acceptance probability and agreement too (about 5% more time).
    Returns:
        GatedLoss; everything but ``loss`` is detached.
    Raises:
        ValueError: shapes, names or numbers that do not fit; the message says what to do.
    Precision: float64 in, float64 throughout. Else logits and everything after them are float32, and only the factors
        of a matrix product have the hidden state's dtype (autocast's where it is on).
    Source: SelecTKD (arXiv 2510.24021).
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: choose a number above 0. Greedy answers are do_sample=False.")
    if rejected not in ("weight", "sample"):
        raise ValueError(f"rejected is {rejected!r}: choose 'weight' or 'sample'.")
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed is {seed!r}: choose a whole number from 0 on.")
    n_rows = len(student_hidden)
    work = _Work(
        gate=gate,
        measure=_Measure.of(divergence, mixture),
        temperature=float(temperature),
        sampled=rejected == "sample",
        coin_seed=(getattr(gate, "seed", 0) + seed * SEED_STRIDE) % 2**63,
        sequences=_names(sequences, n_rows, "sequences"),
        positions=_names(positions, n_rows, "positions"),
        chunk_rows=chunk_rows,
        extras=extras,
    )
    student = _head(student_head, "student")
    others = {"teacher": (teacher_hidden, _head(teacher_head, "teacher"))}
    if gate.needs_reference:
        if reference_hidden is None or reference_head is None:
            raise ValueError(f"{gate.name} needs a reference model: give reference_hidden and reference_head.")
        others["reference"] = (reference_hidden, _head(reference_head, "reference"))
    for whose, (hidden, head) in {"student": (student_hidden, student), **others}.items():
        _check_shapes(whose, hidden, head, n_rows)
    others = {whose: (hidden.detach(), _detached(head)) for whose, (hidden, head) in others.items()}

    total = _GatedSum.apply(student_hidden, student.weight, student.bias, student, others, work)
    found = work.found
    if n_tokens is None:
        n_tokens = max(n_rows, 1)
    elif isinstance(n_tokens, Tensor):
        n_tokens = torch.where(n_tokens > 0, n_tokens, 1).to(total)  # nothing to divide: the sum is 0 as well
    elif not n_tokens > 0:
        if n_rows:
            raise ValueError(f"n_tokens is {n_tokens} for {n_rows} rows: give the response tokens of the whole batch.")
        n_tokens = 1
    accepted = found.pop("accepted")
    tar = accepted.float().mean().item() if n_rows else float("nan")
    return GatedLoss(total / n_tokens, accepted=accepted, tar=tar, **found)


# --- what is asked for --------------------------------------------------------------------------------------------


def _head(head: nn.Module | Tensor | Head, whose: str) -> Head:
    if isinstance(head, Tensor):
        head = Head(head)
    elif not isinstance(head, Head):
        if hasattr(head, "lora_A") or hasattr(head, "base_layer"):
            raise ValueError(
                f"the {whose}'s head is wrapped by an adapter, and the fused loss needs one plain weight matrix. "
                "Leave the head out of the adapter's target_modules, name it in modules_to_save, or merge the adapter."
            )
        weight, bias = head.weight, getattr(head, "bias", None)
        assert isinstance(weight, Tensor), f"the {whose}'s head has no weight matrix"
        head = Head(weight, bias)
    # A sharded parameter (FSDP2) outside its module's forward. Not isinstance: importing DTensor takes seconds.
    return replace(head, weight=_gathered(head.weight), bias=_gathered(head.bias) if head.bias is not None else None)


def _gathered(parameter: Tensor) -> Tensor:
    return parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter


def _detached(head: Head) -> Head:
    return replace(head, weight=head.weight.detach(), bias=head.bias.detach() if head.bias is not None else None)


def _check_shapes(whose: str, hidden: Tensor, head: Head, n_rows: int) -> None:
    if hidden.dim() != 2 or len(hidden) != n_rows:
        raise ValueError(
            f"the {whose}'s hidden states have shape {tuple(hidden.shape)}, where ({n_rows}, H) was expected: "
            "select the response rows of every model with the same mask."
        )
    if head.weight.dim() != 2 or head.weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"the {whose}'s hidden states have width {hidden.shape[1]}, its head has shape "
            f"{tuple(head.weight.shape)}: a head is (V, {hidden.shape[1]}). Are both of the same model?"
        )


def _names(names: Tensor | None, n_rows: int, what: str) -> Tensor:
    if names is None:
        return torch.zeros(n_rows, dtype=torch.int64) if what == "sequences" else torch.arange(n_rows)
    if names.shape != (n_rows,):
        raise ValueError(f"{what} has shape {tuple(names.shape)}: give one whole number a row, ({n_rows},).")
    return names.detach().cpu()


@dataclass(frozen=True)
class _Measure:
    """A divergence with its parameter."""

    name: str
    mixture: float

    @classmethod
    def of(cls, name: str, mixture: float | None) -> "_Measure":
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
class _Work:
    """One call's settings, and in ``found`` what it finds out about the rows."""

    gate: Gate
    measure: _Measure
    temperature: float
    sampled: bool
    coin_seed: int
    sequences: Tensor
    positions: Tensor
    chunk_rows: int | None
    extras: bool
    found: dict[str, Tensor] = field(default_factory=dict)

    @property
    def soft(self) -> bool:
        """Whether the gate weighs rows by a rule of its own, and rejects none."""
        return type(self.gate).weigh is not Gate.weigh

    @property
    def may_drop(self) -> bool:
        """Whether a row can end with weight 0. (Plain distillation and a beta above 0 leave every row in.)"""
        if isinstance(self.gate, AllOpen):
            return False
        return self.sampled or self.soft or not getattr(self.gate, "beta", 0.0) > 0

    def verdicts(self, scores: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """(n,) accepted and (n,) weights of the rows, from their scores."""
        sequences = self.sequences[rows].to(scores.device)
        if self.soft:
            return torch.ones_like(scores, dtype=torch.bool), self.gate.weigh(scores, sequences).float()
        accepted = self.gate.accept(scores, sequences)
        if not self.sampled:
            return accepted, self.gate.weights_of(accepted)
        coins = row_uniforms(self.coin_seed, self.sequences[rows], self.positions[rows], 1, Stream.REJECTED)[:, 0, 1]
        lucky = (coins < getattr(self.gate, "beta", 0.0)).to(accepted.device)
        return accepted, (accepted | lucky).float()


# --- the sum and its gradient -------------------------------------------------------------------------------------

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]  # of the student's hidden states, weight and bias


class _GatedSum(torch.autograd.Function):
    """sum_t V_t D_t, with its gradient taken on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        student_hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        student: Head,
        others: dict[str, tuple[Tensor, Head]],
        work: _Work,
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
    work: _Work,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Gradients]:
    """The sum, and the gradients that are wanted; what is known of the rows goes to ``work.found``."""
    n_rows = len(student_hidden)
    models = {"student": (student_hidden, student), **others}
    dtype = torch.float64 if any(hidden.dtype == torch.float64 for hidden, _ in models.values()) else torch.float32
    vocabulary = min(len(head.weight) for _, head in models.values())
    projections = {
        whose: _Projection(hidden, head, vocabulary, work.temperature, dtype)
        for whose, (hidden, head) in models.items()
    }
    gradient = _Gradient(projections["student"], student.weight.shape, wanted) if any(wanted) else None
    with torch.autocast(student_hidden.device.type, enabled=False):
        found: dict[str, list[Tensor]] = {}
        one_pass = work.gate.row_local
        waiting = _Waiting(gradient) if one_pass and work.may_drop and gradient is not None else None
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


def _facts_of_nothing(work: _Work, empty: Tensor) -> dict[str, Tensor]:
    facts = {"scores": empty, "divergence": empty, "accepted": empty.bool(), "weights": empty.float()}
    if work.extras:
        facts |= dict.fromkeys(("teacher_entropy", "student_entropy", "acceptance_probability"), empty)
        facts["agreement"] = empty.bool()
    return facts


class _Projection:
    """One model's hidden states and head: logits of some rows, divided by the temperature."""

    def __init__(self, hidden: Tensor, head: Head, vocabulary: int, temperature: float, dtype: torch.dtype) -> None:
        device = hidden.device.type
        self.hidden, self.dtype = hidden, dtype
        self.weight = head.weight[:vocabulary]  # (V, H)
        self.softcap, self.temperature = head.softcap, temperature
        # Without a cap, scale and temperature are one factor, and it moves to where the row is short.
        self.factor = head.scale / (temperature if head.softcap is None else head.softcap)
        self.bias = None if head.bias is None else head.bias[:vocabulary].to(dtype) * self.factor
        operand = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        self.operand = dtype if dtype == torch.float64 else operand
        if device != "cpu" and self.weight.dtype != self.operand:
            self.weight = self.weight.to(self.operand)  # once a call, not once a chunk

    def rows(self, rows: slice | Tensor) -> Tensor:
        """(n, H) hidden states, rounded to the operands' dtype."""
        return self.hidden[rows].to(self.operand)

    def logits(self, rows: slice | Tensor, out: Tensor) -> None:
        """(n, V) into ``out``; with a soft cap, the argument of its tanh."""
        hidden = self.rows(rows)
        if self.hidden.device.type != "cpu" and self.operand != self.dtype:
            torch.mm(hidden, self.weight.t(), out_dtype=self.dtype, out=out)
            out.mul_(self.factor)
        else:
            hidden = hidden.to(self.dtype) * self.factor
            for part, weight in self._weight_parts():
                torch.mm(hidden, weight.t(), out=out[:, part])
        if self.bias is not None:
            out.add_(self.bias)

    def pull_back(self, gradient: Tensor, factors: Tensor) -> Tensor:
        """(n, V) gradient rows, each still to be multiplied by its (n, 1) factor, to (n, H)."""
        if self.hidden.device.type != "cpu" and self.operand != self.dtype:
            rows = (gradient * factors).to(self.operand)  # not in place: the head's gradient needs the rows too
            return torch.mm(rows, self.weight, out_dtype=self.dtype).mul_(self.factor)
        total = gradient.new_zeros(len(gradient), self.weight.shape[1])
        for part, weight in self._weight_parts():
            torch.addmm(total, gradient[:, part], weight, out=total)
        return total.mul_(factors * self.factor)

    def _weight_parts(self) -> Iterator[tuple[slice, Tensor]]:
        """The weight in the dtype of the sums: whole, or widened piece by piece."""
        if self.weight.dtype == self.operand == self.dtype:
            yield slice(None), self.weight
            return
        for start in range(0, len(self.weight), CAST_TOKENS):
            part = slice(start, start + CAST_TOKENS)
            yield part, self.weight[part].to(self.operand).to(self.dtype)


class _Chunk:
    """Some rows' logits of every model; after ``measure``, the gradient's rows in the student's place."""

    def __init__(self, projections: dict[str, _Projection], rows: slice | Tensor, buffers: dict[str, Tensor]) -> None:
        self.projections = projections
        n = len(projections["student"].hidden[rows])
        self.logits = {whose: buffers[whose][:n] for whose in projections}
        self.scratch = buffers["teacher_exp"], buffers["student_exp"]
        self.factors = self.logits["student"].new_empty(n)  # what each gradient row must be multiplied by
        for whose, projection in projections.items():
            projection.logits(rows, self.logits[whose])

    def measure(
        self, work: _Work, rows: slice | None, with_gradient: bool, waiting: "_Waiting | None" = None
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
        work: _Work,
        part: slice,
        uniforms: Tensor | None,
        rows: slice | None,
        with_gradient: bool,
        waiting: "_Waiting | None",
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
    projections: dict[str, _Projection], chosen: Tensor | None, work: _Work, waiting: "_Waiting | None" = None
) -> Iterator[tuple[slice, _Chunk]]:
    """Chunks of all rows, or of the chosen ones; each is gone when the next one comes.

    Where rows are ``waiting``, the student's logits lie below them, in a buffer for two chunks.
    """
    student = projections["student"]
    n_rows = len(student.hidden) if chosen is None else len(chosen)
    if n_rows == 0:
        return
    vocabulary = len(student.weight)
    size = work.chunk_rows or max(1, CHUNK_ELEMENTS // vocabulary)
    size = -(-n_rows // -(-n_rows // size))  # chunks of equal size
    # Elsewhere than on a CPU there is no cache to stay in, and every call costs a launch.
    block = max(1, BLOCK_ELEMENTS // vocabulary) if student.hidden.device.type == "cpu" else size
    new = student.hidden.new_empty
    heights = dict.fromkeys(projections, size)
    if waiting is not None:
        heights["student"] = min(2 * size, n_rows)
    buffers = {whose: new(height, vocabulary, dtype=student.dtype) for whose, height in heights.items()}
    if waiting is not None:
        waiting.buffer = buffers["student"]
    for name in ("teacher_exp", "student_exp"):
        buffers[name] = new(min(block, size), vocabulary, dtype=student.dtype)
    for start in range(0, n_rows, size):
        rows = slice(start, min(start + size, n_rows))
        if waiting is not None:
            buffers["student"] = waiting.logits(rows.stop - rows.start)
        yield rows, _Chunk(projections, rows if chosen is None else chosen[rows], buffers)


class _Gradient:
    """The gradients with respect to the student, summed chunk by chunk."""

    def __init__(self, student: _Projection, full_weight: torch.Size, wanted: tuple[bool, bool, bool]) -> None:
        self.student, dtype = student, student.dtype
        of_hidden, of_weight, of_bias = wanted
        new = student.hidden.new_zeros
        self.hidden = new(student.hidden.shape, dtype=dtype) if of_hidden else None
        self.weight = new(full_weight, dtype=dtype) if of_weight else None  # (V of the head, H)
        self.bias = new(full_weight[:1], dtype=dtype) if of_bias else None

    def add(self, gradient: Tensor, factors: Tensor, rows: slice | Tensor) -> None:
        """Add (m, V) rows of gradient, each still to be multiplied by its factor."""
        factors = factors[:, None]
        if self.hidden is not None:
            self.hidden[rows] = self.student.pull_back(gradient, factors)
        if self.weight is not None:
            hidden = self.student.rows(rows).to(gradient.dtype) * (factors * self.student.factor)
            part = self.weight[: gradient.shape[1]]
            torch.addmm(part, gradient.t(), hidden, out=part)
        if self.bias is not None:
            part = self.bias[: gradient.shape[1]]
            torch.addmv(part, gradient.t(), factors[:, 0] * self.student.factor, out=part)

    def results(self) -> Gradients:
        return self.hidden, self.weight, self.bias


class _Waiting:
    """Rows of gradient at the top of the student's buffer, until there are enough of them for a large product.

    Rows only ever move up, over logits that are done with, so that nothing is gathered elsewhere.
    """

    buffer: Tensor  # (rows of two chunks, V), set by _chunks

    def __init__(self, gradient: _Gradient) -> None:
        self.gradient, self.n = gradient, 0
        self.factors: list[Tensor] = []
        self.rows: list[Tensor] = []

    def room(self, n_rows: int) -> Tensor:
        """(n_rows, V) where the next rows of gradient are to be written; then ``wait`` names them."""
        return self.buffer[self.n : self.n + n_rows]

    def wait(self, factors: Tensor, rows: Tensor) -> None:
        """The rows just written: the factor of each, and its row in the student's hidden states."""
        self.factors.append(factors)
        self.rows.append(rows)
        self.n += len(rows)

    def logits(self, n_rows: int) -> Tensor:
        """(n_rows, V) below the rows that wait, for the next chunk; where it would not fit, the product is taken."""
        if self.n + n_rows > len(self.buffer):
            self.flush()
        return self.room(n_rows)

    def flush(self) -> None:
        """Add the rows that wait to the gradient."""
        if self.n:
            self.gradient.add(self.buffer[: self.n], torch.cat(self.factors), torch.cat(self.rows))
            self.factors, self.rows, self.n = [], [], 0
