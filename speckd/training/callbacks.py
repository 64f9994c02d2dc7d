"""What listens to a training: the watch that stops it, the bar, and the log's rows."""

import os
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState

from speckd.training.sharded import all_finite


class Watch(TrainerCallback):
    """Sets the epoch's order, stops where the stop file appears, and refuses gradients that are not finite."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_epoch_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.trainer._order.set_epoch(int((state.epoch or 0.0) + 1e-6))

    def on_pre_optimizer_step(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        gradients = [parameter.grad for parameter in self.trainer.model.parameters() if parameter.grad is not None]
        if not all_finite(gradients):
            raise self.trainer.not_finite("a gradient is not finite")

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        if args.stop_file and os.path.exists(args.stop_file):
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"
        return control


class TrainingBar(TrainerCallback):
    """One progress bar with loss and TAR in it, on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self.bar: Any = None

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        from tqdm import tqdm

        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, desc="train", disable=None)

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if self.bar is not None and logs and "tar" in logs:
            words = f"loss {logs['loss']:.3f}, TAR {logs['tar']:.2f}, {logs['tokens_per_second']:.0f} tokens/s"
            self.bar.set_postfix_str(words, refresh=False)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


OnRow = Callable[[dict[str, Any]], None]


class RowCallback(TrainerCallback):
    """Hands each row of the log (a training step, an evaluation) to a function, as plain numbers."""

    def __init__(self, on_row: OnRow) -> None:
        self.on_row = on_row

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero and logs:
            self.on_row({"step": state.global_step, **logs})
