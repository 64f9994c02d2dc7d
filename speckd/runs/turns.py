"""Racers that take a step in turn, each with the very curve that it has alone.

A racer is a Trainer in a thread of its own. One at a time has the floor: it takes its step, writes its row, and hands
the floor on. What racers would share is the global generators (Trainer seeds them, dropout and others draw from them),
so whoever loses the floor takes them along and finds them again as they were.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState


class _RaceIsOver(Exception):
    """Raised in a racer that waits, once another one failed."""


class Turns:
    """The floor that ``n`` racers hand round.

    ``run`` starts them and returns when all have ended. What one of them raises ends the race and is raised there.
    """

    def __init__(self, n: int) -> None:
        self._changed = threading.Condition()
        self._racing = list(range(n))  # those that have not ended, in order
        self._turn = 0
        self._error: BaseException | None = None
        self._generators: list[Any] = [None] * n
        self.led: int | None = None  # steps of the first racer, once it has ended

    def run(self, racers: "list[Callable[[], None]]") -> None:
        """Run the racers, one thread each.

        Raises:
            Exception: the first that a racer raised.
        """
        threads = [
            threading.Thread(target=self._race, args=(number, racer), name=f"racer {number}", daemon=True)
            for number, racer in enumerate(racers)
        ]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                while thread.is_alive():
                    thread.join(1.0)  # a join without end would not hear Ctrl-C
        except BaseException as error:  # the main thread was interrupted: nobody takes another step
            self._end(error)
            for thread in threads:
                thread.join()
            raise
        if self._error is not None:
            raise self._error

    def hand_on(self, number: int) -> float:
        """Let the others take their step; the seconds until the floor came back."""
        began = time.perf_counter()
        self._generators[number] = _generators()
        with self._changed:
            self._turn = self._next_after(number)
            self._changed.notify_all()
            self._wait_for(number)
        _restore(self._generators[number])
        return time.perf_counter() - began

    def _race(self, number: int, racer: Callable[[], None]) -> None:
        try:
            with self._changed:
                self._wait_for(number)
            racer()
        except _RaceIsOver:
            pass
        except BaseException as error:
            self._end(error)
        finally:
            with self._changed:
                following = self._next_after(number)
                self._racing.remove(number)
                self._turn = following
                self._changed.notify_all()

    def _next_after(self, number: int) -> int:
        return next((one for one in self._racing if one > number), self._racing[0])

    def _wait_for(self, number: int) -> None:
        self._changed.wait_for(lambda: self._turn == number or self._error is not None)
        if self._error is not None:
            raise _RaceIsOver

    def _end(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()


class TurnCallback(TrainerCallback):
    """Hands the floor on before each step but the first; the wait is no part of a step's time.

    A stopped race ends with as many steps for each: the first racer hears the stop file, the others follow it.
    """

    def __init__(self, turns: Turns, number: int, stop_file: str | None) -> None:
        self._turns, self._number, self._stop_file = turns, number, stop_file
        self.trainer: Any = None
        self.waited = 0.0  # seconds
        self._stepped = False

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._stepped:
            waited = self._turns.hand_on(self._number)
            self.waited += waited
            self.trainer._logged_at += waited
        self._stepped = True

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> TrainerControl:
        led = self._turns.led
        if led is not None and state.global_step >= led and self._stop_file and os.path.exists(self._stop_file):
            control.should_training_stop = True
            control.should_save = args.save_strategy != "no"
        return control

    def on_train_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self._number == 0:
            self._turns.led = state.global_step


def _generators() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def _restore(kept: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda = kept
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
