"""The server's door: which addresses are answered at all, how large a request may be, and what a browser may fetch.

Gradio serves much that this page never uses (uploads, a proxy, files by path, recordings, a code editor). A list of
what is used is shorter than a list of what could go wrong, so all else is answered with 404 before gradio sees it.
"""

import re
from collections.abc import MutableMapping
from typing import Any

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN = re.compile(
    r"/"  # the page
    r"|/config/?"  # gradio's client begins with these two
    r"|/gradio_api/(info|openapi\.json)/?"
    r"|/(assets|static)/.+"  # gradio's own scripts and pictures
    r"|/(gradio_api/)?theme\.css"
    r"|/(favicon\.ico|manifest\.json|robots\.txt)"
    r"|/parts/[\w.-]+"  # our scripts
    r"|/kept/[\w-]+/[\w.-]+"  # a visitor's trained student, by a key that only they know
    r"|/gradio_api/queue/(join|data)/?"  # a question, and its answer
    r"|/gradio_api/call/(v2/)?(inspect|distill)(/\w+)?/?"  # the two public endpoints, for curl
    r"|/gradio_api/(heartbeat/\w+|cancel|reset|startup-events|component_server)/?"
)
METHODS = ("GET", "HEAD", "POST", "OPTIONS")

# Gradio compiles its templates and a panel's first line in the browser ('unsafe-eval'), and writes its settings and
# styles into the page ('unsafe-inline'). What remains is the promise that matters: nothing goes to another host, and
# nobody but the Hub frames the page.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-src 'self' blob:",
        "frame-ancestors 'self' https://huggingface.co https://*.hf.space",
    )
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
)


class Guard:
    """ASGI middleware around gradio's server."""

    def __init__(self, app: ASGIApp, max_request_bytes: int) -> None:
        self._app, self._limit = app, max_request_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # the page opens no web socket

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        if scope["method"] not in METHODS or not OPEN.fullmatch(route_path(scope)):
            await _answer(404, "There is nothing at this address.")(scope, receive, send_with_headers)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limit:
            await _answer(413, self._too_large())(scope, receive, send_with_headers)
            return
        await self._app(scope, _Counted(receive, self._limit), send_with_headers)

    def _too_large(self) -> str:
        return f"A request has at most {self._limit / 1e6:.0f} MB here: send less at once."


class _Counted:
    """Ends a body that goes on beyond the limit, whatever length its sender promised."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._left = receive, limit

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                return {"type": "http.disconnect"}
        return message


def route_path(scope: MutableMapping[str, Any]) -> str:
    """The path below the place where the server is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "").rstrip("/")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _answer(status: int, words: str) -> JSONResponse:
    return JSONResponse({"detail": words}, status_code=status)


def middleware(max_request_bytes: int) -> list[Middleware]:
    """For launch(app_kwargs={"middleware": ...})."""
    return [Middleware(Guard, max_request_bytes=max_request_bytes)]
