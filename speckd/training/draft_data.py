"""What drafts learn from, made once: the teacher, its texts with their features, and the tokens to propose."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from speckd.conversations import stop_token_ids
from speckd.data import Example, read_examples
from speckd.decoding.eagle import read_draft
from speckd.jobs import OnProgress, Progress, Stopped
from speckd.pairs import Pair, load_pair
from speckd.training.draft_settings import DraftSettings
from speckd.training.draft_text import DraftTexts, draft_texts


@dataclass(frozen=True, eq=False)
class DraftData:
    """What drafts learn from: the pair, the tokens they may propose, texts to train on and held-out ones."""

    pair: Pair
    vocabulary: Tensor
    texts: DraftTexts
    held_out: DraftTexts | None


def read_draft_data(
    settings: DraftSettings,
    report: OnProgress,
    stopping: Callable[[], bool] = lambda: False,
    load: Callable[..., Pair] = load_pair,
) -> DraftData:
    """Load the teacher, read the texts, and let the teacher run over them.

    Raises:
        ValueError, OSError: one sentence that says what to do.
        Stopped: ``stopping`` said so.
    """
    pair = load(
        settings.teacher,
        settings.teacher,
        device=settings.device,
        dtype=settings.dtype,
        revision=settings.revision,
        student_revision=settings.revision,
        on_progress=report,
    )
    if pair.device.type == "cuda" and settings.precision == "bf16":
        torch.backends.cuda.matmul.allow_tf32 = True  # for the heads' products, whose sums stay in float32
    examples, held_out = _examples(pair, settings)
    if settings.start is not None:
        vocabulary = read_draft(settings.start, pair.teacher_sha256)[1]
    else:
        vocabulary = most_frequent(examples, stop_token_ids(pair.teacher, pair.tokenizer), settings.vocabulary)
    precision = torch.bfloat16 if settings.precision == "bf16" else None
    texts = _features(pair, settings, examples, precision, report, stopping)
    held = _features(pair, settings, held_out, None, report, stopping) if held_out else None
    if texts is None or (held_out and held is None):
        raise Stopped("Stopped while the teacher read the texts; what it has read is kept.")
    return DraftData(pair, vocabulary, texts, held)


def _examples(pair: Pair, settings: DraftSettings) -> tuple[list[Example], list[Example]]:
    reading: dict[str, Any] = {"max_length": settings.max_length, "on_bad": settings.on_bad}
    train: list[Example] = []
    for file in settings.data.split(","):
        train += read_examples(file.strip(), pair.tokenizer, limit=settings.limit, **reading).examples
    if settings.eval_data is None:
        return train, []
    return train, read_examples(settings.eval_data, pair.tokenizer, limit=settings.eval_limit, **reading).examples


def most_frequent(examples: Sequence[Example], stops: Sequence[int], size: int) -> Tensor:
    """The draft's vocabulary: the stop tokens and the most frequent tokens of the responses, ascending.

    Ties go to the lower id. Where the responses have fewer different tokens than ``size``, all of them.
    """
    counts = Counter(token for example in examples for token in example.response_ids)
    ranked = sorted(counts, key=lambda token: (-counts[token], token))
    chosen = list(dict.fromkeys([*stops, *ranked]))[:size]
    return torch.tensor(sorted(chosen))


def _features(
    pair: Pair,
    settings: DraftSettings,
    examples: Sequence[Example],
    precision: torch.dtype | None,
    report: OnProgress,
    stopping: Callable[[], bool],
) -> DraftTexts | None:
    return draft_texts(
        pair.teacher,
        examples,
        pair.teacher_sha256,
        folder=Path(settings.output).expanduser() / "features" if settings.keep_features else None,
        batch_size=2 * settings.batch_size,
        precision=precision,
        on_progress=lambda done, total: report(Progress("teacher", done, total, "teacher's features")),
        should_stop=stopping,
    )
