"""How good a draft is on held-out text, by its place in the chain."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from speckd.decoding.eagle import EagleLayer
from speckd.heads import Head
from speckd.training.draft_text import Batch, DraftTexts

DEPTH = 8  # drafted places that are measured
FIRST = (1, 2, 3, 10)  # of the draft's most probable tokens, how many are looked at for the teacher's
N_BINS = 10  # of confidence


@dataclass(frozen=True)
class DraftFigures:
    """Held-out figures. Position j follows j - 1 tokens of the text that the draft did not write.

    Attributes:
        agreement: for positions 1 to 8, the share where the draft's first choice is the teacher's.
        kept: for positions 1 to 8, the share of places from which the draft agrees up to here: what greedy decoding
            accepts, where the text is the teacher's own greedy answer.
        among: at position 1, the share where the teacher's choice is among the draft's first 1, 2, 3, 10.
        acceptance: for positions 1 to 8, the mean of sum min(p, q).
        forward_kl: for position 1, sum p (log p - log q) over the draft's vocabulary, in nats.
        calibration: (confidence, agreement, count) of each bin of the draft's own probability, positions 1 to 3.
        calibration_error: mean distance of confidence and agreement, weighted by count.
        n_tokens: places measured at position 1.
    """

    agreement: list[float]
    kept: list[float]
    among: list[float]
    acceptance: list[float]
    forward_kl: float
    calibration: list[tuple[float, float, int]]
    calibration_error: float
    n_tokens: int


@torch.no_grad()
def draft_figures(
    layer: EagleLayer,
    head: Head,
    vocabulary: Tensor,
    embedding: Tensor,
    texts: DraftTexts,
    *,
    batch_size: int = 16,
    precision: torch.dtype | None = None,
) -> DraftFigures:
    """Measure a draft.

    Args:
        layer: the draft. head: the teacher's, cut to the vocabulary. embedding: (V, H) the teacher's.
        texts: held-out ones.
    """
    # Long: every figure comes from one pass over the same rows.
    sums = torch.zeros(4, DEPTH, dtype=torch.float64)  # agreement, kept, acceptance, count
    among = torch.zeros(len(FIRST), dtype=torch.float64)
    bins = torch.zeros(3, N_BINS, dtype=torch.float64)  # confidence, agreement, count
    kl = 0.0
    for at in range(0, len(texts), batch_size):
        batch = texts.batch(range(at, min(at + batch_size, len(texts))))
        with torch.autocast(embedding.device.type, precision, enabled=precision is not None):
            steps = unrolled(layer, embedding, batch, DEPTH)
        teacher_logprobs = logits_of(head, batch.root_features.flatten(0, 1)) - batch.log_total.flatten()[:, None]
        so_far = torch.ones(len(teacher_logprobs), dtype=torch.bool, device=teacher_logprobs.device)
        for step, expected in enumerate(steps):
            rows, targets = batch.rows_at(step)
            if not len(rows):
                break
            q = torch.log_softmax(logits_of(head, expected.flatten(0, 1)[rows]), -1)
            p = teacher_logprobs[targets]
            confidence, choice = q.max(-1)
            right = vocabulary[choice] == batch.best.flatten()[targets]
            so_far[rows] &= right
            overlap = torch.minimum(p, q).exp().sum(-1)
            sums[:, step] += torch.stack(
                [values.double().sum() for values in (right, so_far[rows], overlap, torch.ones_like(overlap))]
            ).cpu()
            if step == 0:
                kl += float((p.exp() * (p - q)).sum())
                picks = vocabulary[q.topk(min(FIRST[-1], q.shape[-1])).indices] == batch.best.flatten()[targets, None]
                among += torch.stack([picks[:, :first].any(-1).double().sum() for first in FIRST]).cpu()
            if step < 3:
                which = (confidence.exp() * N_BINS).long().clamp(max=N_BINS - 1).cpu()
                for row, values in enumerate((confidence.exp(), right, torch.ones_like(confidence))):
                    bins[row].index_add_(0, which, values.double().cpu())
    agreement, kept, acceptance, counts = sums
    counts = counts.clamp(min=1)
    filled = bins[2].clamp(min=1)
    distance = ((bins[0] - bins[1]).abs().sum() / bins[2].sum().clamp(min=1)).item()
    return DraftFigures(
        agreement=(agreement / counts).tolist(),
        kept=(kept / counts).tolist(),
        among=(among / counts[0]).tolist(),
        acceptance=(acceptance / counts).tolist(),
        forward_kl=kl / counts[0].item(),
        calibration=[
            (confidence, share, int(count))
            for confidence, share, count in zip(
                (bins[0] / filled).tolist(), (bins[1] / filled).tolist(), bins[2].tolist(), strict=True
            )
            if count
        ],
        calibration_error=distance,
        n_tokens=int(sums[3, 0]),
    )


def unrolled(layer: EagleLayer, embedding: Tensor, batch: Batch, n_steps: int) -> list[Tensor]:
    """The layer's chains over a batch: n_steps of (B, R, H)."""
    embedded = embedding[batch.ids]
    return layer.unroll(embedded, batch.features.to(embedded.dtype), batch.roots, n_steps)


def logits_of(head: Head, rows: Tensor) -> Tensor:
    """(N, V') float32 logits, in the precision of the head's weight whatever is around."""
    with torch.autocast(rows.device.type, enabled=False):
        return head.logits(rows.to(head.weight.dtype)).float()


def in_words(figures: DraftFigures) -> str:
    """One line for a person."""
    return (
        f"agreement {_short(figures.agreement[:4])}, kept {_short(figures.kept[:4])}, "
        f"first 1, 2, 3, 10 {_short(figures.among)}"
    )


def _short(shares: Sequence[float]) -> str:
    return " ".join(f"{share:.3f}" for share in shares)
