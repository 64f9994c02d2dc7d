"""Everything that decides a draft: its settings, the name they are written by, and the command that repeats a run."""

import shlex
from dataclasses import dataclass, fields
from typing import Any, Literal

from speckd.packaged import PACKAGED
from speckd.training import defaults
from speckd.training.draft_loss import gate_of, loss_named

TOLD_BY_NAME = ("vocabulary", "depth", "inner", "decay", "single", "start")  # settings in the name of the draft


@dataclass(frozen=True)
class DraftSettings:
    """Everything that decides a draft.

    Attributes:
        data: JSONL files of prompts with responses, with commas between several.
        output: the run's folder. eval_data: held-out prompts with responses; eval_limit: at most so many of them.
        teacher, revision, device, dtype: as in ``load_pair``. limit, on_bad, max_length: as in ``read_examples``.
        vocabulary: how many of the most frequent response tokens the draft may propose, those that end a turn included.
        inner: width of its MLP; None for the teacher's.
        depth: unrolled steps in training. decay: step j weighs decay**j (EAGLE-3: 0.8).
        single: share of the optimizer's steps, at the start, that are not unrolled and so cost a fifth; 0 for none.
        divergence: a divergence of ours, or "acceptance": -log sum min(p, q) (SpecForge's lk_loss).
        temperature: divides both models' logits; away from 1 the teacher's are normalised over the draft's vocabulary.
        start: the folder of a draft to go on from, with its shape and vocabulary; None for a fresh one.
        gate: weighs each row as in gated distillation; "none" for all alike.
        epochs, steps, batch_size, learning_rate, warmup, weight_decay, clip: of AdamW (0.9, 0.95), on a cosine.
        precision: "full", or "bf16" for products in bfloat16.
        keep_features: on disk, in the run's folder. eval_every, save_every: steps; 0 measures and saves at the end.
    """

    data: str
    output: str
    eval_data: str | None = None
    eval_limit: int | None = None
    teacher: str = PACKAGED
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    limit: int | None = None
    on_bad: Literal["stop", "skip"] = "stop"
    max_length: int = defaults.MAX_LENGTH
    vocabulary: int = 8192
    inner: int | None = None
    depth: int = 5
    decay: float = 0.8
    single: float = 0.0
    divergence: str = "forward_kl"
    temperature: float = 1.0
    start: str | None = None
    gate: str = "none"
    epochs: float = 1.0
    steps: int = 0
    batch_size: int = defaults.BATCH_SIZE
    learning_rate: float = defaults.LEARNING_RATE
    warmup: int = defaults.WARMUP_STEPS
    weight_decay: float = 0.0
    clip: float = 1.0
    precision: Literal["full", "bf16"] = "full"
    seed: int = 0
    keep_features: bool = True
    eval_every: int = 0
    save_every: int = 0

    def __post_init__(self) -> None:
        loss_named(self.divergence)
        gate_of(self.gate)
        if not 0.0 < self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature!r}: choose a number above 0.")
        if not 0.0 <= self.single <= 1.0:
            raise ValueError(f"single is {self.single}: choose a share of the steps, 0 to 1.")
        if self.vocabulary < 2 or self.depth < 1 or self.batch_size < 1 or not 0 < self.decay <= 1:
            raise ValueError(
                "a draft needs a vocabulary from 2, a depth from 1, batches from 1 and a decay above 0 and up to 1."
            )
        if self.steps < 0 or (self.steps == 0 and self.epochs <= 0):
            raise ValueError("there are no steps to train: choose steps or epochs above 0.")
        if self.precision not in ("full", "bf16"):
            raise ValueError(f"precision of a draft is {self.precision!r}: choose full or bf16.")


def parse_draft(text: str) -> dict[str, Any]:
    """The settings in a draft's name: "eagle:vocab=16384:depth=5:inner=2048".

    Raises:
        ValueError: another draft, or a knob that it does not have.
    """
    name, *knobs = text.split(":")
    if name != "eagle":
        raise ValueError(f"{name!r} is no draft that can be trained here: choose eagle.")
    known = {"vocab": ("vocabulary", int), "depth": ("depth", int), "inner": ("inner", int), "decay": ("decay", float)}
    known |= {"single": ("single", float), "start": ("start", str)}
    found: dict[str, Any] = {}
    for knob in knobs:
        key, _, value = knob.partition("=")
        if key not in known:
            raise ValueError(
                f"the draft eagle has no {key!r}; its settings are {', '.join(known)}, as in eagle:vocab=8192."
            )
        try:
            found[known[key][0]] = known[key][1](value)
        except ValueError:
            raise ValueError(f"{key} of the draft is {value!r}: write a number.") from None
    return found


def command_of(settings: DraftSettings) -> str:
    """The shell command that repeats a run."""
    knobs: dict[str, Any] = {
        "vocab": settings.vocabulary,
        "depth": settings.depth,
        "inner": settings.inner,
        "decay": settings.decay,
    }
    knobs |= {"single": settings.single or None, "start": settings.start}
    draft = "eagle" + "".join(f":{name}={value}" for name, value in knobs.items() if value is not None)
    parts = ["python", "-m", "speckd", "distill", settings.data, "--output", settings.output, "--draft", draft]
    for item in fields(DraftSettings):
        value = getattr(settings, item.name)
        if item.name in ("data", "output", *TOLD_BY_NAME) or value == item.default:
            continue
        if item.name == "keep_features":
            parts.append("--no-teacher-cache")
        else:
            parts += ["--" + item.name.replace("_", "-"), str(value)]
    return shlex.join(parts)
