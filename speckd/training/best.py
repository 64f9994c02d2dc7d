"""Keeping the best student by a held-out figure, and stopping where it no longer gets better."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from speckd.files import write_whole

SMALLER_IS_BETTER = {"divergence": True, "tar": False, "acceptance": False, "agreement": False, "rouge_l": False}
FOLDER = "best"  # beside the checkpoints
FACTS = "best.json"  # written last: a folder without it is the remains of an interruption


def check_figure(name: str, args: Any) -> None:
    """Refuse a figure that no evaluation will tell.

    Raises:
        ValueError: an unknown figure, no evaluations, or ROUGE-L where none is measured.
    """
    if name not in SMALLER_IS_BETTER:
        raise ValueError(f"keep_best is {name!r}: choose one of {', '.join(SMALLER_IS_BETTER)}.")
    if str(getattr(args.eval_strategy, "value", args.eval_strategy)) == "no":
        raise ValueError("keep_best needs evaluations: give held-out data, and say how often to evaluate (eval_steps).")
    if name == "rouge_l" and not args.eval_rouge:
        raise ValueError("keep_best is 'rouge_l', and no evaluation measures it: say eval_rouge.")


class KeepBest(TrainerCallback):
    """After each evaluation, keeps the student if it is the best so far; at the end of training, puts it back.

    Args:
        trainer: a SpecKDTrainer, with ``keep_student(folder)`` and ``take_student(folder)``.
        figure: a name of ``SMALLER_IS_BETTER``.
        patience: evaluations in a row without a better figure, after which training ends; 0 for never.
    Attributes:
        best: {"step", "figure", "value"} of the kept student, or empty.
    """

    def __init__(self, trainer: Any, figure: str, patience: int) -> None:
        self.trainer, self.figure, self.patience = trainer, figure, patience
        self.best: dict[str, Any] = {}
        self.waited = 0

    @property
    def folder(self) -> Path:
        return self.trainer.folder / FOLDER

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """A resumed run goes on from its best so far, unless that lies beyond the checkpoint that it goes on from."""
        self.best, self.waited = {}, 0
        try:
            kept = json.loads((self.folder / FACTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if 0 < kept["step"] <= state.global_step and kept["figure"] == self.figure:
            self.best = kept
            later = [row for row in state.log_history if f"eval_{self.figure}" in row and row["step"] > kept["step"]]
            self.waited = len(later)

    def on_evaluate(
        self, args: Any, state: TrainerState, control: TrainerControl, metrics: Any = None, **_: Any
    ) -> TrainerControl:
        if not self.trainer.is_in_train or f"eval_{self.figure}" not in (metrics or {}):
            return control
        value = metrics[f"eval_{self.figure}"]
        sign = 1.0 if SMALLER_IS_BETTER[self.figure] else -1.0
        if math.isfinite(value) and (not self.best or sign * value < sign * self.best["value"]):
            self.best, self.waited = {"step": state.global_step, "figure": self.figure, "value": value}, 0
            self._keep(args)
        else:
            self.waited += 1
            control.should_training_stop |= 0 < self.patience <= self.waited
        return control

    def _keep(self, args: Any) -> None:
        if args.should_save:
            partial = self.folder.with_name(f".{FOLDER}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            self.trainer.keep_student(partial)
            write_whole(partial / FACTS, json.dumps(self.best) + "\n")
            shutil.rmtree(self.folder, ignore_errors=True)
            os.replace(partial, self.folder)
        self.trainer.accelerator.wait_for_everyone()

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.best and self.best["step"] != state.global_step:
            self.trainer.take_student(self.folder)
