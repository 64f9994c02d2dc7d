"""Browser pages that many tests use one after another.

A new browser context costs four seconds of a processor at its first page: a new process reads and compiles all of
Gradio's scripts again. A page that has been there opens the next address in one. What a test could leave behind is
taken away between two: the document (by way of about:blank), what the origin keeps, the handlers, the mouse.
"""

from typing import Any
from urllib.parse import urlsplit

KEPT = 3  # pages that wait for the next test
# Whoever has been here sees no opening; about:blank keeps nothing.
SEEN = "try { localStorage.setItem('speckd-lab.opening', 'seen'); } catch {}"
USES = 30  # after which a page goes: whatever leaks in a browser, leaks little in thirty visits


class Lent:
    """A page of a context of its own, and the way to make it as good as new."""

    def __init__(self, browser: Any) -> None:
        self.context = browser.new_context()
        self.context.add_init_script(SEEN)
        self.page = self.context.new_page()
        self.uses = 0
        self.page.on("dialog", lambda dialog: dialog.accept())  # a run of one's own may be left
        self._handlers: list[tuple[str, Any]] = []
        self._on = self.page.on
        self.page.on = self._listen
        for name in ("add_init_script", "route", "expose_function", "expose_binding"):
            setattr(self.page, name, self._refuse)

    def _listen(self, event: str, handler: Any) -> None:
        self._handlers.append((event, handler))
        self._on(event, handler)

    @staticmethod
    def _refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("This cannot be undone, and other tests use the page after you: take visit(fresh=True)")

    def dress(self, width: int, height: int, dark: bool, reduced_motion: str | None) -> None:
        self.uses += 1
        self.context.set_default_timeout(30_000)
        self.page.set_viewport_size({"width": width, "height": height})
        self.page.emulate_media(
            color_scheme="dark" if dark else "light", reduced_motion=reduced_motion or "no-preference"
        )

    def clean(self) -> bool:
        """Forget everything; False where the page is better thrown away."""
        for event, handler in self._handlers:
            self.page.remove_listener(event, handler)
        self._handlers.clear()
        if self.uses >= USES or self.page.is_closed() or len(self.context.pages) > 1:
            return False
        parts = urlsplit(self.page.url)
        if parts.scheme not in ("http", "https"):
            return False
        self.page.evaluate("sessionStorage.clear()")
        self.page.goto("about:blank")  # first: a page may write once more as it goes
        devtools = self.context.new_cdp_session(self.page)
        kinds = "cookies,local_storage,indexeddb,cache_storage,service_workers"
        origin = f"{parts.scheme}://{parts.netloc}"
        devtools.send("Storage.clearDataForOrigin", {"origin": origin, "storageTypes": kinds})
        devtools.detach()
        self.context.clear_cookies()
        self.page.mouse.move(-10, -10)
        return True


class Pages:
    """Lends pages to visitors and takes them back."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self._free: list[Lent] = []

    def lend(self) -> Lent:
        return self._free.pop() if self._free else Lent(self._browser)

    def take_back(self, lent: Lent) -> None:
        try:
            good = lent.clean()
        except Exception:  # a page that hangs or has crashed: what went wrong is the test's to say
            good = False
        if good and len(self._free) < KEPT:
            self._free.append(lent)
        else:
            lent.context.close()
