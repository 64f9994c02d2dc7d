"""What a gate really changes while a student trains: its bite, and what every other selector would have kept instead.

Both are measured on a few fixed answers at a few steps, beside the training, which they never touch. Selectors are
compared by what they reach, seldom by which tokens they take.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState

from speckd.controls import Matched
from speckd.data import Example, collate, row_names
from speckd.draws import row_uniforms
from speckd.gated_student import GatedStudent
from speckd.gates import AllOpen, Gate, SpecK, TopK
from speckd.heads import Head
from speckd.pairs import Pair
from speckd.runs.figures import hidden_of

# Everyone at the budget of Top-k at 5 on the same tokens; Spec-k spends what its coins say.
PANEL: dict[str, Gate] = {
    "topk": TopK(),
    "speck": SpecK(k=1),
    "clip": Matched(by="clip"),
    "student_entropy": Matched(by="student_entropy"),
    "adakd": Matched(by="adakd"),
    "tip": Matched(by="tip"),
    "first": Matched(by="first"),
    "random": Matched(by="random"),
}
_CHUNK = {"cpu": 256, "cuda": 768}  # rows of the vocabulary at a time


class Panel:
    """A few fixed answers under a pair whose student changes.

    Args:
        pair: its student is measured as it is at the moment of asking.
        examples: with responses.
        gate, divergence, temperature: of the training.
    """

    def __init__(
        self, pair: Pair, examples: Sequence[Example], gate: Gate, divergence: str, temperature: float = 1.0
    ) -> None:
        self.pair, self.gate, self.divergence, self.temperature = pair, gate, divergence, temperature
        self.examples = [example for example in examples if example.response_ids]
        rows = [
            {
                "input_ids": example.prompt_ids + example.response_ids,
                "n_prompt": len(example.prompt_ids),
                "number": place,
            }
            for place, example in enumerate(self.examples)
        ]
        self.batch = collate(rows, pad_id=0)
        self.sequences, self.positions = row_names(self.batch["labels"], self.batch["numbers"])
        with torch.no_grad():
            self.teacher = hidden_of(pair.teacher, self.examples)

    def measure(self, progress: float) -> dict[str, Any]:
        """Bite and panel at this moment.

        Args:
            progress: share of the training that is done, for a gate that is a schedule.
        Returns:
            bite: see ``bite``. kept: the share of tokens that each selector keeps. jaccard: of each pair of selectors,
            tokens that both keep over tokens that either keeps.
        """
        student = self.pair.student
        was_training = student.training
        student.eval()
        try:
            accepted = self._accepted(student)
            found = {
                "bite": self._bite(student, self.gate.at(progress)),
                "kept": {name: round(kept.float().mean().item(), 4) for name, kept in accepted.items()},
                "jaccard": {f"{a}/{b}": _jaccard(accepted[a], accepted[b]) for a, b in combinations(accepted, 2)},
            }
        finally:
            student.train(was_training)
        return found

    @torch.no_grad()
    def _accepted(self, student: Any) -> dict[str, Tensor]:
        own, theirs = torch.cat(hidden_of(student, self.examples)), torch.cat(self.teacher)
        heads, vocabulary = (Head.of(self.pair.teacher), Head.of(student)), self.pair.vocabulary_size
        scores: dict[str, list[Tensor]] = {name: [] for name in PANEL}
        size = _CHUNK.get(own.device.type, 256)
        for start in range(0, len(own), size):
            rows = slice(start, start + size)
            p = (heads[0].logits(theirs[rows], vocabulary) / self.temperature).log_softmax(-1)
            q = (heads[1].logits(own[rows], vocabulary) / self.temperature).log_softmax(-1)
            uniforms = row_uniforms(0, self.sequences[rows], self.positions[rows], 1)
            for name, gate in PANEL.items():
                scores[name].append(gate.score(p, q, uniforms if gate.n_draws else None))
        sequences = self.sequences.to(own.device)
        return {name: gate.accept(torch.cat(scores[name]), sequences).cpu() for name, gate in PANEL.items()}

    def _bite(self, student: Any, gate: Gate) -> dict[str, float]:
        """How much of plain distillation a gate changes, here and now.

        Returns:
            tokens: share of tokens that weigh less than 1. gradient: ||g_gate - g_plain|| / ||g_plain||, over all
            trainable weights. cosine: of the two gradients.
        """
        if isinstance(gate, AllOpen) or gate.needs_reference:
            return {}
        plain, _ = self._gradient(student, TopK(beta=1.0))
        gated, kept = self._gradient(student, gate)
        length = plain.norm().clamp(min=1e-12)
        return {
            "tokens": round(1.0 - kept, 4),
            "gradient": round(((gated - plain).norm() / length).item(), 4),
            "cosine": round((plain @ gated / (length * gated.norm().clamp(min=1e-12))).item(), 4),
        }

    def _gradient(self, student: Any, gate: Gate) -> tuple[Tensor, float]:
        """All trainable weights' gradient as one vector, and the share of tokens that count in full."""
        module = GatedStudent(student, self.pair.teacher, gate, self.divergence, self.temperature)
        module.training = True  # the gate's weights, with the student still in evaluation mode
        device = self.pair.device
        batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in self.batch.items()}
        batch["teacher_hidden"] = self.teacher
        with torch.enable_grad():
            out = module(**batch)
            weights = [parameter for parameter in student.parameters() if parameter.requires_grad]
            gradients = torch.autograd.grad(out["loss"], weights, allow_unused=True)
        facts = out["facts"].sum(0)
        return torch.cat([g.flatten() for g in gradients if g is not None]), (facts[2] / facts[0]).item()


def _jaccard(first: Tensor, second: Tensor) -> float:
    either = (first | second).sum().item()
    return round((first & second).sum().item() / either, 4) if either else 1.0


class PanelCallback(TrainerCallback):
    """Measures the panel before the first step, half-way and after the last."""

    def __init__(self, panel: Panel) -> None:
        self.panel = panel
        self.found: list[dict[str, Any]] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._measure(state)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step in (state.max_steps // 2, state.max_steps):
            self._measure(state)

    def _measure(self, state: TrainerState) -> None:
        progress = min(state.global_step, state.max_steps - 1) / max(1, state.max_steps)
        self.found.append({"step": state.global_step, **self.panel.measure(progress)})
