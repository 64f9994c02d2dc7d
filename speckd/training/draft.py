"""Training the EAGLE-like draft: what ``python -m speckd distill DATA --draft eagle`` runs.

A run's folder:

    settings.json       what was asked for; a resumed run must ask for the same
    features/           the teacher's features, unless they are kept in memory alone
    log.jsonl           every row of the log, as it comes
    state.safetensors   where an interrupted run goes on; state.json beside it. Removed at the end
    draft/              the draft with its card; appears whole, at the very end
"""

import json
import os
import shlex
import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speckd.conversations import stop_token_ids
from speckd.data import Example, ShuffledByLength, read_examples
from speckd.decoding.eagle import EagleLayer, EagleShape, read_draft, save_draft
from speckd.divergences import divergence_named
from speckd.files import write_whole
from speckd.gates import Gate, gate_from_text
from speckd.heads import Head
from speckd.jobs import OnProgress, Progress, Stopped
from speckd.packaged import PACKAGED
from speckd.pairs import Pair, load_pair
from speckd.training import defaults
from speckd.training.draft_figures import DraftFigures, draft_figures, in_words, logits_of, unrolled
from speckd.training.draft_text import Batch, DraftTexts, draft_texts

ACCEPTANCE = "acceptance"
TOLD_BY_NAME = ("vocabulary", "depth", "inner", "decay", "single", "start")  # settings in the name of the draft
LOG_EVERY = 10  # steps: reading a loss from a GPU makes it wait


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


# --- the loss -------------------------------------------------------------------------------------------------------


def acceptance_loss(teacher_logprobs: Tensor, draft_logprobs: Tensor) -> Tensor:
    """-log of the chance that a draw from the draft is accepted, sum min(p, q), of each row.

    Its gradient is that of the total variation, weighed by one over the acceptance: rows with little grow first.

    Args:
        teacher_logprobs, draft_logprobs: (N, V'); the teacher's may sum to less than one over the draft's vocabulary.
    Returns:
        (N,) from 0 on.
    Source: SpecForge's lk_loss.
    """
    return -torch.minimum(teacher_logprobs, draft_logprobs).logsumexp(-1)


def loss_named(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of a row by its name: "acceptance", or one of the divergences."""
    if name == ACCEPTANCE:
        return acceptance_loss
    try:
        return divergence_named(name)
    except ValueError as error:
        raise ValueError(f"{error} For a draft there is {ACCEPTANCE!r} too.") from None


def gate_of(text: str) -> Gate:
    """The gate of a draft's loss: one that judges each row by itself, without coins.

    Raises:
        ValueError: another gate.
    """
    gate = gate_from_text(text)
    if gate.name not in ("none", "topk", "hellinger"):
        raise ValueError(f"gate {gate.name!r} does not judge rows of a draft: choose none, topk or hellinger.")
    return gate


def batch_loss(
    layer: EagleLayer, head: Head, embedding: Tensor, batch: Batch, settings: DraftSettings, gate: Gate, depth: int
) -> Tensor:
    """The weighted mean over unrolled steps of the mean loss of their rows: sum decay**j L_j / sum decay**j."""
    loss_of = loss_named(settings.divergence)
    steps = unrolled(layer, embedding, batch, depth)
    tau = settings.temperature
    with torch.no_grad():
        teacher_logits = logits_of(head, batch.root_features.flatten(0, 1))  # (B R, V')
        if tau == 1.0:  # of the whole vocabulary's softmax
            teacher_logprobs = teacher_logits - batch.log_total.flatten()[:, None]
        else:
            teacher_logprobs = torch.log_softmax(teacher_logits / tau, -1)
    total = teacher_logprobs.new_zeros(())
    weights = 0.0
    for step, expected in enumerate(steps):
        rows, targets = batch.rows_at(step)
        if not len(rows):
            break
        draft_logprobs = torch.log_softmax(logits_of(head, expected.flatten(0, 1)[rows]) / tau, -1)
        p = teacher_logprobs if step == 0 and len(targets) == len(teacher_logprobs) else teacher_logprobs[targets]
        losses = loss_of(p, draft_logprobs)  # (N,)
        if gate.name != "none":
            with torch.no_grad():
                kept = gate.weigh(gate.score(p, draft_logprobs))
            losses = losses * kept.to(losses.dtype)
        total = total + settings.decay**step * losses.mean()
        weights += settings.decay**step
    return total / weights


# --- the run --------------------------------------------------------------------------------------------------------


def distill_draft(
    settings: DraftSettings,
    *,
    resume: bool = False,
    stop_file: str | None = None,
    on_progress: OnProgress | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    load: Callable[..., Pair] = load_pair,
    data: "DraftData | None" = None,
) -> tuple[dict[str, Any], DraftFigures | None]:
    """Train a draft of a teacher and write it.

    Args:
        settings: what to do. resume: go on with an interrupted run of the same settings.
        stop_file: when this file appears the run ends after its step and can be resumed.
        on_progress: stages "load", "teacher", "train". on_row: told each row of the log.
        load: stands in for ``load_pair``.
        data: what ``read_draft_data`` made for settings with the same data, where several drafts learn from it.
    Returns:
        The facts that stand in the draft's JSON: settings, data, seconds, held-out figures; and the figures.
    Raises:
        ValueError, OSError: one sentence that says what to do.
        Stopped: the stop file appeared; what was reached is kept.
    """
    report = on_progress or (lambda _: None)
    output = Path(settings.output).expanduser()
    _open_folder(output, settings, resume)

    def stopping() -> bool:
        return stop_file is not None and os.path.exists(stop_file)

    if data is None:
        data = read_draft_data(settings, report, stopping, load)
    pair, texts = data.pair, data.texts
    run = _Run(data, settings, output)
    started = time.monotonic()
    if not run.train(report, on_row, stopping):
        raise Stopped(f"Stopped after step {run.step} of {run.n_steps}; it is kept.")
    facts = {
        "teacher": pair.teacher_id,
        "command": command_of(settings),
        "settings": asdict(replace(settings, output=Path(settings.output).name)),
        "n_texts": len(texts),
        "n_response_tokens": int(texts.n_responses.sum()),
        "n_steps": run.n_steps,
        "seconds": round(run.seconds_before + time.monotonic() - started, 1),
        "device": "cpu" if pair.device.type == "cpu" else torch.cuda.get_device_name(pair.device),
        "held_out": asdict(run.figures) if run.figures is not None else None,
    }
    _write(output, run.layer, data.vocabulary, pair, facts)
    return facts, run.figures


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


def _open_folder(folder: Path, settings: DraftSettings, resume: bool) -> None:
    """Make the run's folder, or check that it holds this very run."""
    asked = json.loads(json.dumps(asdict(settings)))
    file = folder / "settings.json"
    try:
        if file.exists():
            kept = json.loads(file.read_text(encoding="utf-8"))
            free = {"output", "device", "eval_every", "save_every", "keep_features"}
            differing = sorted(n for n in asked if kept.get(n, asked[n]) != asked[n] and n not in free)
            if not resume:
                raise ValueError(f"{folder} holds a run already: resume it with --resume, or choose another folder.")
            if differing:
                raise ValueError(
                    f"{folder} holds a run with other settings ({', '.join(differing)}): repeat the first command with "
                    "--resume added, or choose another folder."
                )
        elif folder.exists() and any(folder.iterdir()):
            raise ValueError(f"{folder} is not empty, and no run of ours: choose another folder.")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_whole(file, json.dumps(asked, indent=2) + "\n")
    except OSError as error:
        raise OSError(
            f"{folder} cannot be written ({error.strerror or error}): free some space or choose another folder."
        ) from error


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


class _Run:
    """The layer, its optimizer, and where they stand."""

    def __init__(self, data: DraftData, settings: DraftSettings, output: Path) -> None:
        pair, texts = data.pair, data.texts
        self.settings, self.texts, self.held_out, self.output = settings, texts, data.held_out, output
        self.device = pair.device
        self.precision = torch.bfloat16 if settings.precision == "bf16" else None
        self.vocabulary = data.vocabulary.to(pair.device)
        # A GPU's products of float32 are fast enough for the head, and keep its logits exact.
        kind = torch.float32 if self.device.type == "cuda" else self.precision or torch.float32
        head = Head.of(pair.teacher)
        self.head = Head(
            head.weight.detach()[self.vocabulary].to(kind),
            None if head.bias is None else head.bias.detach()[self.vocabulary].to(kind),
            head.scale,
            head.softcap,
        )
        self.embedding = pair.teacher.get_input_embeddings().weight.detach().float()
        torch.manual_seed(settings.seed)
        if settings.start is not None:
            self.layer = read_draft(settings.start, pair.teacher_sha256)[0].requires_grad_(True).to(pair.device)
        else:
            self.layer = EagleLayer(EagleShape.like(pair.teacher, settings.inner)).to(pair.device)
        matrices = [weight for weight in self.layer.parameters() if weight.ndim > 1]
        vectors = [weight for weight in self.layer.parameters() if weight.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        self.order = ShuffledByLength(texts.lengths.tolist(), settings.batch_size, settings.seed)
        self.per_epoch = max(1, len(self.order) // settings.batch_size)
        self.n_steps = settings.steps or max(1, round(settings.epochs * self.per_epoch))
        self.step, self.seconds_before = 0, 0.0
        self.figures: DraftFigures | None = None
        self.gate = gate_of(settings.gate)
        self._restore()

    def train(
        self, report: OnProgress, on_row: Callable[[dict[str, Any]], None] | None, stopping: Callable[[], bool]
    ) -> bool:
        """All steps that are left; False where it was stopped."""
        settings, started, losses = self.settings, time.monotonic(), []
        batches: list[list[int]] = []
        while self.step < self.n_steps:
            epoch, place = divmod(self.step, self.per_epoch)
            if place == 0 or not batches:
                self.order.set_epoch(epoch)
                order = list(self.order)
                batches = [order[at : at + settings.batch_size] for at in range(0, len(order), settings.batch_size)]
            losses.append(self._learn(batches[place]))
            self.step += 1
            if self.step % LOG_EVERY == 0 or self.step == self.n_steps:
                row: dict[str, Any] = {
                    "step": self.step,
                    "loss": float(torch.stack(losses).mean()),
                    "rate": self._rate(),
                }
                losses = []
                seconds = self.seconds_before + time.monotonic() - started
                row["seconds"] = round(seconds, 2)
                due = settings.eval_every and self.step % settings.eval_every == 0
                words = f"loss {row['loss']:.3f}"
                if self.held_out is not None and (due or self.step == self.n_steps):
                    self.figures = self._measure()
                    row |= {"held_out": asdict(self.figures)}
                    words += f", held out: {in_words(self.figures)}"
                with (self.output / "log.jsonl").open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                if on_row is not None:
                    on_row(row)
                report(Progress("train", self.step, self.n_steps, words))
            asked = stopping()
            if asked or (settings.save_every and self.step % settings.save_every == 0):
                self._save(self.seconds_before + time.monotonic() - started)
            if asked and self.step < self.n_steps:
                return False
        return True

    def _rate(self) -> float:
        """Linear warm-up, then a cosine to a twentieth."""
        settings = self.settings
        if self.step < settings.warmup:
            return settings.learning_rate * (self.step + 1) / settings.warmup
        share = (self.step - settings.warmup) / max(1, self.n_steps - settings.warmup)
        cosine = 0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * min(1.0, share))).item()
        return settings.learning_rate * (0.05 + 0.95 * cosine)

    def _learn(self, picked: Sequence[int]) -> Tensor:
        """One step on some texts; returns the loss, still on its device."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._rate()
        batch = self.texts.batch(picked)
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            depth = 1 if self.step < self.settings.single * self.n_steps else self.settings.depth
            loss = batch_loss(self.layer, self.head, self.embedding, batch, self.settings, self.gate, depth)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.layer.parameters(), self.settings.clip)
        self.optimizer.step()
        return loss.detach()

    def _measure(self) -> DraftFigures:
        assert self.held_out is not None
        return draft_figures(
            self.layer,
            self.head,
            self.vocabulary,
            self.embedding,
            self.held_out,
            batch_size=self.settings.batch_size,
            precision=self.precision,
        )

    # --- where it stands ----------------------------------------------------------------------------------------

    def _named_moments(self) -> dict[str, Tensor]:
        tensors = {}
        for name, weight in self.layer.named_parameters():
            tensors[f"weight.{name}"] = weight.detach()
            for key, moment in self.optimizer.state.get(weight, {}).items():
                tensors[f"{key}.{name}"] = moment
        return {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}

    def _save(self, seconds: float) -> None:
        """Weights and moments under a temporary name, then renamed; the step stands in the file itself."""
        partial = self.output / f".state.{os.getpid()}.tmp"
        facts = {"step": str(self.step), "seconds": f"{seconds:.1f}"}
        save_file(self._named_moments(), str(partial), metadata=facts)
        os.replace(partial, self.output / "state.safetensors")

    def _restore(self) -> None:
        from safetensors import safe_open

        file = self.output / "state.safetensors"
        if not file.exists():
            return
        with safe_open(str(file), framework="pt") as opened:
            facts = opened.metadata()
        self.step, self.seconds_before = int(facts["step"]), float(facts["seconds"])
        tensors = load_file(str(file))
        for name, weight in self.layer.named_parameters():
            with torch.no_grad():
                weight.copy_(tensors[f"weight.{name}"])
            state = {key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq")}
            self.optimizer.state[weight] = {key: tensor.to(weight.device) for key, tensor in state.items()}


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


def _write(output: Path, layer: EagleLayer, vocabulary: Tensor, pair: Pair, facts: dict[str, Any]) -> None:
    """The draft under a temporary name, then renamed: whole or absent."""
    partial, target = output / ".draft.partial", output / "draft"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        save_draft(partial, layer, vocabulary, pair.teacher_sha256, facts)
        (partial / "README.md").write_text(card(facts, pair.teacher_sha256), encoding="utf-8")
        if target.exists():
            shutil.rmtree(target)
        os.replace(partial, target)
        (output / "state.safetensors").unlink(missing_ok=True)
    except OSError as error:
        raise OSError(
            f"{target} cannot be written ({error.strerror or error}): free some space, then --resume."
        ) from error


def card(facts: dict[str, Any], teacher_sha256: str) -> str:
    """The README.md of a draft: what it is, how it was made, how good it is on held-out text."""
    settings, figures = facts["settings"], facts["held_out"]
    lines = [
        "# A draft for speculative decoding",
        "",
        f"One EAGLE-like decoder layer over the teacher `{facts['teacher']}` (sha256 `{teacher_sha256}`; no other "
        f"teacher may use it). It borrows the teacher's embedding and its head, cut to {settings['vocabulary']:,} "
        "tokens.",
        "",
        f"Trained on {facts['n_response_tokens']:,} response tokens of {facts['n_texts']:,} texts, "
        f"{facts['n_steps']:,} steps, {facts['seconds'] / 60:.1f} minutes ({facts['device']}):",
        "",
        "```sh",
        facts["command"],
        "```",
    ]
    if figures is not None:
        lines += [
            "",
            f"Held out ({figures['n_tokens']:,} tokens), by place in the chain:",
            "",
            "| place | agreement | kept from the start | acceptance |",
            "|---:|---:|---:|---:|",
        ]
        for place, row in enumerate(zip(figures["agreement"], figures["kept"], figures["acceptance"], strict=True), 1):
            lines.append(f"| {place} | " + " | ".join(f"{value:.3f}" for value in row) + " |")
        among = ", ".join(f"{value:.3f}" for value in figures["among"])
        lines += [
            "",
            f"The teacher's choice is among its first 1, 2, 3, 10 in {among} of cases; its confidence is off by "
            f"{figures['calibration_error']:.3f} on average.",
        ]
    return "\n".join([*lines, ""])
