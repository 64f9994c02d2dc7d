"""What every test shares: no network, no CUDA tests without CUDA, one browser."""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser import FLAGS, MISSING, browser_is_required, find_browser

# Before anything imports the libraries that read them: no test downloads, none reports to anyone.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device, and torch sees none here"))


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
    path = find_browser()
    if path is None:
        (pytest.fail if browser_is_required() else pytest.skip)(MISSING)
    return path


@pytest.fixture(scope="session")
def browser(browser_path: str) -> Iterator[Any]:
    """One headless Chromium for the whole run (a playwright Browser); take `browser.new_context()` for each test."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser_path, args=FLAGS)
        yield chromium
        chromium.close()
