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
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from speckd.data import ShuffledByLength
from speckd.decoding.eagle import EagleLayer, EagleShape, read_draft
from speckd.heads import Head
from speckd.jobs import OnProgress, Progress, Stopped
from speckd.pairs import Pair, load_pair
from speckd.training.draft_data import DraftData, read_draft_data
from speckd.training.draft_figures import DraftFigures, draft_figures, in_words
from speckd.training.draft_files import write_draft
from speckd.training.draft_loss import batch_loss, gate_of
from speckd.training.draft_settings import DraftSettings, command_of
from speckd.training.run_folder import claim_folder

LOG_EVERY = 10  # steps: reading a loss from a GPU makes it wait
FREE = ("output", "device", "eval_every", "save_every", "keep_features")  # a resumed run may change them


def distill_draft(
    settings: DraftSettings,
    *,
    resume: bool = False,
    stop_file: str | None = None,
    on_progress: OnProgress | None = None,
    on_row: Callable[[dict[str, Any]], None] | None = None,
    load: Callable[..., Pair] = load_pair,
    data: DraftData | None = None,
) -> tuple[dict[str, Any], DraftFigures | None]:
    """Train a draft of a teacher and write it.

    Args:
        settings: what to do. resume: go on with an interrupted run of the same settings.
        stop_file: when this file appears the run ends after its step and can be resumed.
        on_progress: stages "load", "teacher", "train". on_row: called with each row of the log.
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
    claim_folder(output, asdict(settings), resume=resume, free=FREE)

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
    write_draft(output, run.layer, data.vocabulary, pair, facts)
    return facts, run.figures


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
        settings, batch = self.settings, self.texts.batch(picked)
        single = self.step < settings.single * self.n_steps
        with torch.autocast(self.device.type, self.precision, enabled=self.precision is not None):
            loss = batch_loss(
                self.layer,
                self.head,
                self.embedding,
                batch,
                self.gate,
                divergence=settings.divergence,
                temperature=settings.temperature,
                depth=1 if single else settings.depth,
                decay=settings.decay,
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.layer.parameters(), settings.clip)
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
