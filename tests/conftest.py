"""What every test shares: no network, no CUDA tests without CUDA, one browser, one thread for each worker."""

import errno
import gc
import ipaddress
import os
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import MISSING, NAMES, SHELL, THRIFTY, browser_is_required, find_browser

try:
    import fcntl
except ImportError:  # Windows: there `alone` is a wish
    fcntl = None  # type: ignore[assignment]

# Before anything imports the libraries that read them: no test downloads, none reports to anyone.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The workers share the cores. A process of theirs (a server, a trainer) has the same single thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

HERE = Path(__file__).parent


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """What is imported stays: torch, gradio and the rest are a million objects, and no search for garbage looks at them
    while they come or after. That is an eighth of the imports' time, and half a second of each `gc.collect()`."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _longest_files_first(items)
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none here"))


def _longest_files_first(items: list[pytest.Item]) -> None:
    """Workers take whole files in this order: one that began last with the longest would keep the other waiting.

    Files whose tests want the machine for themselves come last, when there is nobody left to wait for.
    """

    def turn(item: pytest.Item) -> int:
        marks = {mark.name for mark in item.iter_markers()}
        if "alone" in marks:
            return 9
        return next((n for n, mark in enumerate(("slow", "browser", "packaged")) if mark in marks), 3)

    turns: dict[Path, int] = {}
    for item in items:
        turns[item.path] = min(turns.get(item.path, 9), turn(item))
    items.sort(key=lambda item: turns[item.path])  # stable: within a file nothing moves


@pytest.hookimpl(wrapper=True, tryfirst=True)  # around the clock of pytest-timeout: waiting is not a test's own time
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """A test marked `alone` runs while no other worker runs one: it measures seconds."""
    if fcntl is None or not hasattr(item.config, "workerinput"):
        return (yield)
    # Two locks on what is there anyway: everybody passes the door, and one who waits behind it for the room to empty
    # keeps it shut, or the others' next tests would be let in for ever.
    with _locked(HERE / "conftest.py", fcntl.LOCK_EX) as door:
        mine = fcntl.LOCK_EX if item.get_closest_marker("alone") else fcntl.LOCK_SH
        room = _locked(HERE / "browser.py", mine)
        fcntl.flock(door, fcntl.LOCK_UN)
    with room:
        return (yield)


def _locked(path: Path, how: int) -> Any:
    file = path.open("rb")
    fcntl.flock(file, how)
    return file


@pytest.fixture(autouse=True, scope="session")
def nothing_leaves_this_machine() -> Iterator[None]:
    """Connections to other machines fail at once, as on a machine without a network."""
    original = {name: getattr(socket.socket, name) for name in ("connect", "connect_ex")}

    def is_local(family: int, address: Any) -> bool:
        if family not in (socket.AF_INET, socket.AF_INET6):
            return True
        host = str(address[0]).split("%")[0]
        try:
            return ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(host).is_unspecified
        except ValueError:
            return host in ("", "localhost")

    def connect(self: socket.socket, address: Any) -> None:
        if not is_local(self.family, address):
            raise OSError(errno.ENETUNREACH, f"tests never leave this machine: {address}")
        return original["connect"](self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        return original["connect_ex"](self, address) if is_local(self.family, address) else errno.ENETUNREACH

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect_ex)
        yield


@pytest.fixture(scope="session")
def browser_path() -> str:
    """Path of the Chromium that the browser tests drive. Without one they fail, in one sentence that says why."""
    path = find_browser((SHELL, *NAMES))
    if path is None:
        (pytest.fail if browser_is_required() else pytest.skip)(MISSING)
    return path


@pytest.fixture(scope="session")
def browser(browser_path: str) -> Iterator[Any]:
    """One headless Chromium for the whole run (a playwright Browser); take `browser.new_context()` for each test."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser_path, args=THRIFTY)
        yield chromium
        chromium.close()
