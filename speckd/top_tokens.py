"""A teacher known by its K likeliest tokens alone: the loss over those K and one bucket for all the others.

Top-k asks only where the student's proposal stands among the teacher's k likeliest tokens, so K >= k of them decide the
gate exactly. The divergence is taken between two distributions over K + 1 outcomes: the K tokens, and "any other".
Merging outcomes can only bring two distributions nearer, so it is never above the exact one (data processing
inequality), and equals it as K goes to V. What happens inside the bucket teaches nothing.

Letters: p is the teacher, q the student, K tokens a row, V vocabulary, N rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from speckd.divergences import DIVERGENCES, divergence_named
from speckd.draws import Stream, row_uniforms
from speckd.gates import AllOpen, Gate, RandomTokens, TopK
from speckd.heads import Head
from speckd.loss import GatedLoss, coin_seed

CHUNK_ELEMENTS = 12 * 2**20  # student logits that a chunk holds


@dataclass(frozen=True)
class TopTokens:
    """The teacher's K likeliest tokens of N rows.

    Attributes:
        ids: (N, K) int64, the likeliest first; of equally likely ones the lower id first.
        logprobs: (N, K) float32, their log-probabilities at the temperature they were taken at.
        rest: (N,) float32, the log of the probability that all other tokens have together; -inf where none is left.
    """

    ids: Tensor
    logprobs: Tensor
    rest: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_kept(self) -> int:
        """K."""
        return self.ids.shape[1]

    @property
    def mass(self) -> Tensor:
        """(N,) the probability that the K tokens have together."""
        return -torch.expm1(self.rest)

    def to(self, device: torch.device) -> "TopTokens":
        return TopTokens(self.ids.to(device), self.logprobs.to(device), self.rest.to(device))

    @classmethod
    def join(cls, parts: Sequence["TopTokens"]) -> "TopTokens":
        """The rows of all parts, in order. All keep the same K."""
        return cls(*(torch.cat([getattr(part, name) for part in parts]) for name in ("ids", "logprobs", "rest")))

    @classmethod
    def of(cls, logits: Tensor, n_kept: int, temperature: float = 1.0) -> "TopTokens":
        """From (N, V) logits.

        Raises:
            ValueError: K is not between 1 and V - 1.
        """
        vocabulary = logits.shape[-1]
        if not 1 <= n_kept < vocabulary:
            raise ValueError(f"K is {n_kept}: choose a whole number from 1 to {vocabulary - 1}, below the vocabulary.")
        scores = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
        total = scores.logsumexp(-1, keepdim=True)
        values, ids = scores.topk(n_kept, dim=-1)
        # topk takes any of equally likely tokens, and the gate's order says the lower id first.
        ids = ids.sort(dim=-1).values
        ids = ids.gather(-1, scores.gather(-1, ids).argsort(dim=-1, descending=True, stable=True))
        last = values[:, -1:]
        for row in ((scores == last).sum(-1) > (values == last).sum(-1)).nonzero().flatten().tolist():
            ids[row] = scores[row].argsort(descending=True, stable=True)[:n_kept]
        logprobs = scores.gather(-1, ids) - total
        rest = scores.scatter(-1, ids, -torch.inf).logsumexp(-1) - total[:, 0]
        return cls(ids, logprobs.float(), rest.float())

    def outcomes(self) -> Tensor:
        """(N, K + 1) log-probabilities of the K tokens and of the bucket, summing to 1 after any rounding."""
        whole = torch.cat([self.logprobs, self.rest[:, None]], -1).float()
        return whole - whole.logsumexp(-1, keepdim=True)


def check_gate(gate: Gate, n_kept: int) -> None:
    """Refuse a gate that needs more of the teacher than its K likeliest tokens.

    Raises:
        ValueError: the gate reads the whole distribution, or its k is above K.
    """
    if isinstance(gate, TopK):
        if gate.k > n_kept:
            raise ValueError(
                f"the gate's k is {gate.k}, and only the teacher's {n_kept} likeliest tokens are known: choose k up to "
                f"{n_kept}, or keep more tokens a row."
            )
    elif not (isinstance(gate, AllOpen | RandomTokens) or gate.name == "position"):
        raise ValueError(
            f"the gate {gate.name!r} needs the teacher's whole distribution, and only its {n_kept} likeliest tokens "
            "are known: choose topk, none or random, or run the teacher here."
        )


def top_tokens_loss(
    student_hidden: Tensor,
    student_head: Head,
    teacher: TopTokens,
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
    chunk_rows: int | None = None,
    extras: bool = False,
) -> GatedLoss:
    """The gated loss of the given rows where the teacher is known by its K likeliest tokens.

    Args:
        student_hidden, student_head: (N, H) and the student's head; gradient reaches both.
        teacher: N rows, taken at the same temperature.
        gate: topk with k up to K, none, random or position; others need more than K tokens tell.
        divergence, temperature, mixture, rejected, n_tokens, sequences, positions, seed, chunk_rows: as in
            ``gated_loss``. The temperature divides the student's logits; the teacher's rows have it already.
        extras: report the student's entropy and the agreement too. The teacher's entropy and the acceptance
            probability cannot be told from K tokens: they stay None.
    Returns:
        GatedLoss; ``divergence`` is that of the K + 1 outcomes, never above the exact one.
    Raises:
        ValueError: shapes or numbers that do not fit, or a gate that needs more.
    """
    check_gate(gate, teacher.n_kept)
    n_rows = len(student_hidden)
    vocabulary = len(student_head.weight)
    if len(teacher) != n_rows:
        raise ValueError(f"{len(teacher)} rows of the teacher's tokens for {n_rows} rows of the student: one for each.")
    if n_rows and int(teacher.ids.max()) >= vocabulary:
        raise ValueError(
            f"the teacher's token {int(teacher.ids.max())} is not among the student's {vocabulary}: both need one "
            "shared vocabulary."
        )
    sequences = torch.zeros(n_rows, dtype=torch.int64) if sequences is None else sequences.detach().cpu()
    positions = torch.arange(n_rows) if positions is None else positions.detach().cpu()
    coins_of = coin_seed(gate, seed)
    measure = _Measured(teacher.to(student_hidden.device), gate, divergence, mixture, temperature, extras)
    measure.size = chunk_rows or max(1, CHUNK_ELEMENTS // vocabulary)
    with torch.no_grad():
        measure.early_verdicts(sequences, positions, coins_of)
        measure.lucky = None
        if rejected == "sample":
            coins = row_uniforms(coins_of, sequences, positions, 1, Stream.REJECTED)[:, 0, 1]
            measure.lucky = (coins < gate.beta).to(student_hidden.device)
    total = _TopSum.apply(student_hidden, student_head.weight, student_head.bias, student_head, measure)
    if n_tokens is None:
        n_tokens = max(n_rows, 1)
    elif isinstance(n_tokens, Tensor):
        n_tokens = torch.where(n_tokens > 0, n_tokens, 1).to(total)
    elif not n_tokens > 0:
        if n_rows:
            raise ValueError(f"n_tokens is {n_tokens} for {n_rows} rows: give the response tokens of the whole batch.")
        n_tokens = 1
    found = measure.found
    tar = found["accepted"].float().mean().item() if n_rows else float("nan")
    return GatedLoss(
        total / n_tokens,
        found["divergence"],
        found["accepted"],
        found["weights"],
        tar,
        student_entropy=found.get("student_entropy"),
        agreement=found.get("agreement"),
    )


@dataclass
class _Measured:
    """What is asked of each row, and what was found."""

    teacher: TopTokens
    gate: Gate
    divergence: str
    mixture: float | None
    temperature: float
    extras: bool

    def __post_init__(self) -> None:
        self.found: dict[str, Tensor] = {}
        self.size = 1
        self.early: Tensor | None = None  # verdicts that depend on no model
        self.lucky: Tensor | None = None
        divergence_named(self.divergence)
        if not self.temperature > 0:
            raise ValueError(f"temperature is {self.temperature}: choose a number above 0.")

    def early_verdicts(self, sequences: Tensor, positions: Tensor, coins_of: int) -> None:
        """The verdicts of gates that look at neither model."""
        if isinstance(self.gate, TopK):
            return
        nothing = torch.zeros(len(self.teacher), 1, device=self.teacher.ids.device)
        uniforms = row_uniforms(coins_of, sequences, positions, self.gate.n_draws) if self.gate.n_draws else None
        names = sequences.to(nothing.device)
        self.early = self.gate.accept(self.gate.score(nothing, nothing, uniforms), names)

    def distance(self, teacher: Tensor, student: Tensor) -> Tensor:
        """D of (n, K + 1) log-probabilities: (n,)."""
        if self.mixture is None:
            return DIVERGENCES[self.divergence](teacher, student)
        return DIVERGENCES[self.divergence](teacher, student, self.mixture)  # type: ignore[call-arg]

    def verdicts(self, proposals: Tensor, rows: slice) -> tuple[Tensor, Tensor]:
        """(n,) accepted and (n,) weights, from the (n,) tokens that the student proposes."""
        if self.early is not None:
            accepted = self.early[rows]
        else:
            assert isinstance(self.gate, TopK)
            accepted = (self.teacher.ids[rows, : self.gate.k] == proposals[:, None]).any(-1)
        if self.lucky is not None:
            return accepted, (accepted | self.lucky[rows]).float()
        return accepted, self.gate.weights_of(accepted)


class _TopSum(torch.autograd.Function):
    """sum_t V_t D_t over K + 1 outcomes, with the student's gradient taken while a chunk's logits are there."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: Head, work: _Measured) -> Tensor:
        parts = [hidden.new_zeros((), dtype=torch.float32)]
        facts: dict[str, list[Tensor]] = {"divergence": [], "accepted": [], "weights": []}
        wanted = ctx.needs_input_grad[:3]
        inputs = (hidden, weight, bias)
        pairs = zip(inputs, wanted, strict=True)
        ctx.gradients = [torch.zeros_like(x) if want and x is not None else None for x, want in pairs]
        for start in range(0, len(hidden), work.size):
            rows = slice(start, min(start + work.size, len(hidden)))
            leaves: list[Any] = [hidden[rows].detach(), weight.detach(), bias.detach() if bias is not None else None]
            for leaf, want in zip(leaves, wanted, strict=True):
                if want and leaf is not None:
                    leaf.requires_grad_()
            with torch.enable_grad():
                own = replace(head, weight=leaves[1], bias=leaves[2])
                logits = own.logits(leaves[0].to(weight.dtype)) / work.temperature
                student = _Outcomes.apply(logits, work.teacher.ids[rows])  # (n, K + 1)
                distance = work.distance(work.teacher.outcomes()[rows].to(student), student)
            with torch.no_grad():
                proposals = logits.argmax(-1)
                accepted, weights = work.verdicts(proposals, rows)
                found = {"divergence": distance.detach(), "accepted": accepted, "weights": weights}
                if work.extras:
                    found["agreement"] = proposals == work.teacher.ids[rows, 0]
                    found["student_entropy"] = _entropy(logits)
                for name, values in found.items():
                    facts.setdefault(name, []).append(values)
            with torch.enable_grad():
                kept = torch.where(weights > 0, weights * distance, 0.0).sum()
            parts.append(kept.detach())
            asked = [index for index, want in enumerate(wanted) if want]
            if asked:
                for index, gradient in zip(asked, torch.autograd.grad(kept, [leaves[i] for i in asked]), strict=True):
                    target = ctx.gradients[index]
                    if index == 0:
                        target[rows] = gradient
                    else:
                        target += gradient
        empty = {"accepted": torch.bool}
        work.found = {
            name: torch.cat(values) if values else hidden.new_zeros(0, dtype=empty.get(name, torch.float32))
            for name, values in facts.items()
        }
        return torch.stack([part.to(parts[-1].dtype) for part in parts]).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        gradients = [g * upstream.to(g.dtype) if g is not None else None for g in ctx.gradients]
        return (*gradients, None, None)


def _entropy(logits: Tensor) -> Tensor:
    """(n,) nats, of (n, V) logits."""
    total = logits.logsumexp(-1)
    return total - (torch.softmax(logits, -1) * logits).sum(-1)


class _Outcomes(torch.autograd.Function):
    """(n, V) logits to (n, K + 1) log-probabilities of the given tokens and of all others together.

    d log q_k / dz_v = [v = k] - q_v, and d log q_rest / dz_v = [v outside K] q_v / q_rest - q_v. So a row's gradient is
    one exp over the vocabulary.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor) -> Tensor:
        total = logits.logsumexp(-1, keepdim=True)
        chosen = logits.gather(-1, ids) - total  # (n, K)
        others = logits.scatter(-1, ids, -torch.inf)  # (n, V)
        rest = others.logsumexp(-1, keepdim=True)
        outcomes = torch.cat([chosen, rest - total], -1)
        ctx.save_for_backward(others, ids, rest, outcomes)
        return outcomes

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None]:
        others, ids, rest, outcomes = ctx.saved_tensors
        probabilities = outcomes.exp()
        pull = upstream - probabilities * upstream.sum(-1, keepdim=True)  # (n, K + 1): of each outcome's own logit
        gradient = (others - rest).exp_().mul_(pull[:, -1:])  # the bucket's share goes to its tokens by their odds
        return gradient.scatter_(-1, ids, pull[:, :-1]), None
