"""The page in a real server process, and a browser on it that minds errors and foreign requests."""

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest

from tests.app import synthetic
from tests.e2e import zygote
from tests.e2e.pages import SEEN, Pages

ROOT = Path(__file__).parents[2]


_logs: dict[str, Path] = {}  # address -> what the server there wrote


def _serve(*arguments: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PORT": str(port), "HF_HUB_OFFLINE": "1"}
    log = Path(tempfile.mkstemp(prefix="speckd-test-server-")[1])
    server = zygote.start(arguments, environment, ROOT, log)
    try:
        url = f"http://127.0.0.1:{port}/"
        _logs[url] = log
        deadline = time.monotonic() + 180
        while True:
            if server.poll() is not None:
                pytest.fail("the server ended: " + log.read_bytes().decode(errors="replace")[-2000:])
            try:
                with urlopen(url, timeout=5):
                    break
            except OSError:
                if time.monotonic() > deadline:
                    pytest.fail("the server did not answer within three minutes")
                time.sleep(0.2)  # a port that opens tells nobody
        yield url
    finally:
        server.terminate()
        try:
            server.wait(timeout=10)
        except subprocess.TimeoutExpired:
            server.kill()
        log.unlink()


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    """The page, without models: what the browser does alone."""
    yield from _serve()


@pytest.fixture(scope="session")
def address_with_models() -> Iterator[str]:
    """The page with the packaged pair behind it, and nobody who trains."""
    yield from _serve("--models", "--untrained")


@pytest.fixture(scope="module")
def address_to_train(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page with the packaged pair behind it, and few examples to train on."""
    yield from _serve("--models", "--brief", str(tmp_path_factory.mktemp("teacher-cache")))


@pytest.fixture(scope="module")
def address_without_models() -> Iterator[str]:
    """The page where neither the wheel nor the Hub can be had."""
    yield from _serve("--missing")


@pytest.fixture(scope="module")
def address_of_panels() -> Iterator[str]:
    """A page of its own with several panels side by side."""
    yield from _serve("--panels")


@pytest.fixture(scope="module")
def address_of_runs() -> Iterator[str]:
    """The page with made-up training runs behind its Distill tab."""
    yield from _serve("--distill")


@pytest.fixture(scope="module")
def address_of_lessons() -> Iterator[str]:
    """The Learn tab alone, with an engine of straw behind a visitor's own sentence."""
    yield from _serve("--learn")


@dataclass
class Visit:
    """One visitor's browser page, and what it did."""

    page: Any
    address: str
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, fragment: str = "", lanes: bool = True) -> "Visit":
        self.page.goto(self.address + fragment)
        self.page.wait_for_selector(".sk-strip .sk-token")
        if lanes:
            self.page.wait_for_selector(".sk-lanes .sk-plot[data-drawn]")
        return self

    def show(self, trace: dict[str, Any], name: str = "trace.json") -> None:
        """Open a trace through the page's own file input."""
        before = self.shown()
        data = {"name": name, "mimeType": "application/json", "buffer": json.dumps(trace).encode()}
        self.page.set_input_files("input[type=file]", data)
        self.page.wait_for_function("n => Number(document.querySelector('.sk-panel').dataset.shown) > n", arg=before)

    def shown(self) -> int:
        return int(self.page.locator(".sk-panel").get_attribute("data-shown") or 0)

    def status(self) -> str:
        return self.page.locator(".sk-status-text").inner_text()

    def wait_for_state(self, *states: str, timeout: float = 60_000) -> str:
        self.page.wait_for_selector(", ".join(f".sk-status[data-state={s}]" for s in states), timeout=timeout)
        return self.status()

    def foreign_requests(self) -> list[str]:
        host = urlsplit(self.address).netloc
        schemes = ("data", "blob", "about")
        return [url for url in self.requests if urlsplit(url).netloc != host and urlsplit(url).scheme not in schemes]


@pytest.fixture(scope="session")
def pages(browser: Any) -> Pages:
    return Pages(browser)


@pytest.fixture
def visit(request: pytest.FixtureRequest, browser: Any, pages: Pages) -> Iterator[Callable[..., Visit]]:
    """visit(): a page on the server without models; visit(address=..., width=..., dark=True) as you like.

    The page is one that other visitors used, made as good as new (pages.py). With fresh=True, or with what only a new
    browser context can have (has_touch=True), it is a new one; with first=True its visitor has never been here.
    """
    contexts, lent, visits = [], [], []

    def make(
        address: str = "",
        width: int = 1280,
        height: int = 800,
        dark: bool = False,
        reduced_motion: str | None = None,
        fresh: bool = False,
        first: bool = False,
        **more: Any,
    ) -> Visit:
        address = address or request.getfixturevalue("address")  # a server that nobody visits need not start
        if fresh or first or more:
            scheme, size = "dark" if dark else "light", {"width": width, "height": height}
            context = browser.new_context(
                viewport=size, color_scheme=scheme, reduced_motion=reduced_motion or "no-preference", **more
            )
            context.set_default_timeout(30_000)
            if not first:
                context.add_init_script(SEEN)
            contexts.append(context)
            page = context.new_page()
            page.on("dialog", lambda dialog: dialog.accept())  # a run of one's own may be left
        else:
            lent.append(pages.lend())
            lent[-1].dress(width, height, dark, reduced_motion)
            page = lent[-1].page
        one = Visit(page, address)
        one.page.on("request", lambda request: one.requests.append(request.url))
        one.page.on("pageerror", lambda error: one.errors.append(str(error)))
        one.page.on("console", lambda m: one.errors.append(m.text) if m.type == "error" else None)
        visits.append(one)
        return one

    yield make
    for context in contexts:
        context.close()
    for page in lent:
        pages.take_back(page)
    for one in visits:
        log = _logs.get(one.address)
        told = log.read_bytes().decode(errors="replace")[-3000:] if one.errors and log and log.exists() else ""
        assert one.errors == [], f"the page wrote errors to the console. {told}"
        assert one.foreign_requests() == [], "the page asked another host"


@pytest.fixture
def made_up() -> Callable[..., dict[str, Any]]:
    return synthetic.trace
