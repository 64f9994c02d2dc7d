"""One visitor's things, and their end: runs that can be stopped, and traces that can be downloaded.

Both are named by a random id that only its visitor's page knows; knowing the id is what allows stopping or reading. So
nothing here asks who is calling, and no visitor can reach another's run or text.
"""

import secrets
import threading
import time
from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")
LONGEST_ID = 64  # characters; an id longer than this is not one of ours


class Stops:
    """The stop events of the runs that are under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, tuple[str, threading.Event]] = {}

    def begin(self, run: str, session: str) -> threading.Event:
        """The stop event of a new run. A session that begins a run ends its earlier one: one page shows one answer."""
        stop = threading.Event()
        with self._lock:
            for other, (owner, event) in list(self._runs.items()):
                if session and owner == session:
                    event.set()
                    del self._runs[other]
            self._runs[run] = (session, stop)
        return stop

    def end(self, run: str, stop: threading.Event) -> None:
        with self._lock:
            if self._runs.get(run, ("", None))[1] is stop:
                del self._runs[run]

    def stop(self, run: str) -> bool:
        """Ask a run to stop; whether there was such a run."""
        with self._lock:
            found = self._runs.get(run)
        if found:
            found[1].set()
        return found is not None

    def leave(self, session: str) -> None:
        """A page was closed: its runs stop."""
        with self._lock:
            events = [event for owner, event in self._runs.values() if owner == session]
        for event in events:
            event.set()


class Shelf(Generic[T]):
    """The newest things of all visitors, each under a random id; the oldest makes room.

    Args:
        room: how many are kept.
        idle: seconds after which a thing that nobody asked for is forgotten.
    """

    def __init__(self, room: int, idle: float = float("inf")) -> None:
        self._lock = threading.Lock()
        self._room, self._idle = room, idle
        self._things: OrderedDict[str, tuple[str, float, T]] = OrderedDict()  # the one used longest ago is first

    def put(self, thing: T, session: str = "", name: str | None = None) -> str:
        key = name or secrets.token_urlsafe(16)
        with self._lock:
            self._forget_idle()
            self._things[key] = (session, time.monotonic(), thing)
            while len(self._things) > self._room:
                self._things.popitem(last=False)
        return key

    def get(self, key: str) -> T | None:
        with self._lock:
            self._forget_idle()
            if key not in self._things:
                return None
            session, _, thing = self._things.pop(key)
            self._things[key] = (session, time.monotonic(), thing)
            return thing

    def leave(self, session: str) -> None:
        """A page was closed: what was kept for it is forgotten."""
        with self._lock:
            self._forget_idle()
            for key in [key for key, (owner, _, _) in self._things.items() if session and owner == session]:
                del self._things[key]

    def _forget_idle(self) -> None:
        now = time.monotonic()
        while self._things and now - next(iter(self._things.values()))[1] > self._idle:
            self._things.popitem(last=False)
