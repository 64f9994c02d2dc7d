"""A coroutine of a test, run to its end on a thread of its own.

Playwright's blocking interface keeps an event loop running on the thread that its tests use, and one worker runs the
files of browser tests and of others one after another: `asyncio.run` on that thread refuses to begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run(coroutine: Coroutine[object, object, T]) -> T:
    """What the coroutine returns; what it raises is raised here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()
