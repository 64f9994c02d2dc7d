"""What a draft learns from: texts with the teacher's feature at every token, and its verdict at every response token.

The teacher's trunk is run once over each text. Its last hidden states are kept in half precision, in memory and, where
a folder is given, on disk in parts that are whole or absent, so that an interrupted preparation goes on.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from speckd.data import Example
from speckd.heads import Head, hidden_rows

PART = 256  # texts a part on disk: some 40 MB at a width of 576


@dataclass(frozen=True, eq=False)
class DraftTexts:
    """Many texts, end to end. N is the number of all their tokens.

    Attributes:
        ids: (N,) token ids.
        features: (N, H) the teacher's last hidden state at each token.
        log_total: (N,) log of the teacher's sum of exponentials over the whole vocabulary, at response rows.
        best: (N,) the teacher's most probable next token, at response rows.
        starts, lengths, n_prompts: (n_texts,) on the CPU: where each text begins, its tokens, its prompt's tokens.
    """

    ids: Tensor
    features: Tensor
    log_total: Tensor
    best: Tensor
    starts: Tensor
    lengths: Tensor
    n_prompts: Tensor

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_responses(self) -> Tensor:
        """(n_texts,) response tokens of each text: the roots from which its chains start."""
        return self.lengths - self.n_prompts

    def batch(self, picked: Sequence[int]) -> "Batch":
        """Some of the texts side by side, padded on the right with their last token."""
        texts = torch.as_tensor(picked, dtype=torch.int64)
        starts, lengths, roots = self.starts[texts], self.lengths[texts], self.n_responses[texts]
        device = self.ids.device
        places = torch.arange(int(lengths.max()))
        rows = (starts[:, None] + torch.minimum(places, lengths[:, None] - 1)).to(device, non_blocking=True)
        steps = torch.arange(int(roots.max()))
        first = self.n_prompts[texts, None] - 1  # the prompt's last token predicts the response's first
        root_places = torch.minimum(first + steps, lengths[:, None] - 1)
        root_rows = (starts[:, None] + root_places).to(device, non_blocking=True)
        return Batch(
            ids=self.ids[rows],
            features=self.features[rows],
            roots=root_places.to(device, non_blocking=True),
            root_features=self.features[root_rows],
            log_total=self.log_total[root_rows],
            best=self.best[root_rows],
            n_roots=roots,
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """B texts of at most T tokens and R response rows: ids (B, T), features (B, T, H), and of each response row its
    place in the text, its feature and the teacher's verdict, (B, R) or (B, R, H); n_roots (B,) on the CPU."""

    ids: Tensor
    features: Tensor
    roots: Tensor
    root_features: Tensor
    log_total: Tensor
    best: Tensor
    n_roots: Tensor

    def rows_at(self, step: int) -> tuple[Tensor, Tensor]:
        """The (text, root) rows, flat over (B, R), whose chain has a step of this number, and the rows of its target.

        Step j at root r stands where root r + j stands, so its target is that row's.
        """
        n_roots = self.roots.shape[1]
        there = torch.arange(n_roots) < (self.n_roots - step)[:, None]  # (B, R)
        flat = there.flatten().nonzero().squeeze(-1)
        device = self.ids.device
        return flat.to(device, non_blocking=True), (flat + step).to(device, non_blocking=True)


@torch.no_grad()
def draft_texts(
    teacher: Any,
    examples: Sequence[Example],
    teacher_sha256: str,
    *,
    folder: str | os.PathLike[str] | None = None,
    batch_size: int = 16,
    precision: torch.dtype | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> DraftTexts | None:
    """Run the teacher over texts and keep what a draft learns from.

    Args:
        examples: with responses.
        folder: keep finished parts there; None keeps nothing on disk.
        batch_size: texts at once.
        precision: compute the teacher's products in this type (bfloat16 on machines with units for it).
        on_progress: called with (texts done, texts asked for).
        should_stop: asked after each batch.
    Returns:
        The texts, in the order of the examples, on the teacher's device; None where it was stopped.
    """
    head = Head.of(teacher)
    device = head.weight.device
    if precision is not None and device.type == "cpu":  # a GPU's products of float32 are fast enough
        bias = None if head.bias is None else head.bias.to(precision)
        head = replace(head, weight=head.weight.to(precision), bias=bias)
    lengths = [len(example.prompt_ids) + len(example.response_ids) for example in examples]
    order = sorted(range(len(examples)), key=lambda index: -lengths[index])
    parts: list[dict[str, Tensor]] = []
    for start in range(0, len(order), PART):
        chosen = [examples[index] for index in order[start : start + PART]]
        file = None if folder is None else Path(folder) / f"features-{_part_name(chosen, teacher_sha256)}.safetensors"
        part = _read_part(file)
        if part is None:
            pieces = []
            for at in range(0, len(chosen), batch_size):
                with torch.autocast(device.type, precision, enabled=precision is not None):
                    pieces.append(_teacher_pass(teacher, head, chosen[at : at + batch_size]))
                if should_stop is not None and should_stop():
                    return None
            part = {name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]}
            _write_part(file, part)
        parts.append({name: tensor.to(device) for name, tensor in part.items()})
        if on_progress is not None:
            on_progress(min(start + PART, len(order)), len(order))
    return _assembled([examples[index] for index in order], order, parts)


def _teacher_pass(teacher: Any, head: Head, examples: Sequence[Example]) -> dict[str, Tensor]:
    """One batch: the features of every token, flat, and at response rows the head's sum and its best token."""
    texts = [torch.tensor(example.prompt_ids + example.response_ids) for example in examples]
    lengths = torch.tensor([len(text) for text in texts])
    prompts = torch.tensor([len(example.prompt_ids) for example in examples])
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True).to(head.weight.device)
    places = torch.arange(ids.shape[1])
    there = places < lengths[:, None]  # (B, T); right padding, so that no mask is needed: attention looks back alone
    features = hidden_rows(teacher, ids, there, there.long())
    judged = ((places >= prompts[:, None] - 1) & there)[there].to(ids.device)
    log_total = torch.zeros(len(features), device=ids.device)
    best = torch.zeros(len(features), dtype=torch.int64, device=ids.device)
    rows = judged.nonzero().squeeze(-1)
    for some in rows.split(4096):
        with torch.autocast(ids.device.type, enabled=False):
            logits = head.logits(features[some].to(head.weight.dtype))
        log_total[some], best[some] = logits.logsumexp(-1).float(), logits.argmax(-1)
    return {"features": features.half(), "log_total": log_total, "best": best.int()}


def _assembled(examples: Sequence[Example], order: Sequence[int], parts: Sequence[dict[str, Tensor]]) -> DraftTexts:
    """The parts end to end, with the texts listed in the order in which they were given."""
    joined = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    ids = torch.tensor([token for example in examples for token in example.prompt_ids + example.response_ids])
    lengths = torch.tensor([len(example.prompt_ids) + len(example.response_ids) for example in examples])
    prompts = torch.tensor([len(example.prompt_ids) for example in examples])
    starts = lengths.cumsum(0) - lengths
    back = torch.tensor(order).argsort()
    return DraftTexts(
        ids=ids.to(joined["features"].device),
        features=joined["features"],
        log_total=joined["log_total"],
        best=joined["best"].long(),
        starts=starts[back],
        lengths=lengths[back],
        n_prompts=prompts[back],
    )


def _part_name(examples: Sequence[Example], teacher_sha256: str) -> str:
    digest = hashlib.sha256(teacher_sha256.encode())
    for example in examples:
        digest.update(np.array([len(example.prompt_ids), *example.prompt_ids, *example.response_ids], "<i4").tobytes())
    return digest.hexdigest()[:16]


def _read_part(file: Path | None) -> dict[str, Tensor] | None:
    if file is None or not file.exists():
        return None
    try:
        return load_file(str(file))
    except (SafetensorError, OSError):  # damaged: it is made again
        return None


def _write_part(file: Path | None, part: dict[str, Tensor]) -> None:
    if file is None:
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        save_file({name: tensor.cpu().contiguous() for name, tensor in part.items()}, str(partial))
        os.replace(partial, file)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"the teacher's features cannot be written to {file.parent} ({getattr(error, 'strerror', None) or error}): "
            "free some space, or leave the cache out."
        ) from error
