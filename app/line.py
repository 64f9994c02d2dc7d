"""One line for everybody's work: who comes first goes first, and each hears at which place they stand."""

import threading
import time
from collections import deque
from collections.abc import Callable

from speckd.jobs import Stopped

TICK = 0.1  # seconds between two looks at Stop


class Until:
    """A stop event that the clock sets as well."""

    def __init__(self, stop: threading.Event, seconds: float) -> None:
        self._stop, self._end = stop, time.monotonic() + seconds

    def is_set(self) -> bool:
        return self._stop.is_set() or time.monotonic() > self._end

    def wait(self, seconds: float) -> bool:
        self._stop.wait(seconds)
        return self.is_set()


class Line:
    """First come, first served, and everyone can see how many are ahead. (Gradio's own queue tells nobody while they
    wait, and can't be left with Stop.)"""

    def __init__(self) -> None:
        self._change = threading.Condition()
        self._tickets: deque[object] = deque()

    def turn(self, waiting: Callable[[int], None], should_stop: Callable[[], bool] = lambda: False) -> "_Turn":
        return _Turn(self, waiting, should_stop)


class _Turn:
    def __init__(self, line: Line, waiting: Callable[[int], None], should_stop: Callable[[], bool]) -> None:
        self._line, self._waiting, self._should_stop = line, waiting, should_stop

    def __enter__(self) -> None:
        told = -1
        with self._line._change:
            self._line._tickets.append(self)
        while True:
            with self._line._change:
                ahead = self._line._tickets.index(self)
                if ahead == 0:
                    return
                self._line._change.wait(timeout=0 if ahead != told else TICK)
            if ahead != told:
                told = ahead
                self._waiting(ahead)
            if self._should_stop():
                self.__exit__()
                raise Stopped

    def __exit__(self, *_: object) -> None:
        with self._line._change:
            self._line._tickets.remove(self)
            self._line._change.notify_all()
