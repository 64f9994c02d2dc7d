"""The server's door: which addresses are answered at all, what a request may hold, and what a browser may fetch.

Gradio serves much that this page never uses (uploads, a proxy, files by path, recordings, a code editor). A list of
what is used is shorter than a list of what could go wrong, so all else is answered with 404 before gradio sees it.

Gradio also takes any {"path": ..., "meta": ...} among the values of a call for a file, and fetches or copies it; and a
call that does not fit a function is written to the log with all it says. So calls are looked at before it, here: those
of the page, of the two plain forms for programs (a list of values, or values by name), and of MCP.

A page on a laptop can be reached by a foreign site that names itself with the laptop's address (DNS rebinding). So a
server answers only to names of its own (Settings.hosts).
"""

import inspect
import ipaddress
import json
import re
from collections.abc import Collection, MutableMapping
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import Settings

OPEN = re.compile(
    r"/"  # the page
    r"|/config/?"  # gradio's client begins with these two
    r"|/gradio_api/info/?"
    r"|/(assets|static)/.+"  # gradio's own scripts and pictures
    r"|/(gradio_api/)?theme\.css"
    r"|/(favicon\.ico|manifest\.json|robots\.txt)"
    r"|/parts/[\w.-]+"  # our scripts
    r"|/kept/[\w-]+/[\w.-]+"  # a visitor's trained student, by a key that only they know
    r"|/gradio_api/queue/(join|data)/?"  # a question, and its answer
    r"|/gradio_api/call/(v2/)?(inspect|distill|decode)(/\w+)?/?"  # the public endpoints, for curl and for agents
    r"|/gradio_api/openapi\.json"  # which describes them
    r"|/gradio_api/mcp/?"  # and offers them as tools
    r"|/gradio_api/(heartbeat/\w+|cancel|reset|startup-events|component_server)/?"
)
METHODS = ("GET", "HEAD", "POST", "OPTIONS")
CALL = re.compile(r"/gradio_api/call/(v2/)?(\w+)/?")
MCP = "/gradio_api/mcp"
PLAIN_VALUES = "Each value is a text, a number, true, false or null."
SESSION = re.compile(r"[\w-]{1,64}")

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

    def __init__(self, app: ASGIApp, max_request_bytes: int, hosts: Collection[str]) -> None:
        self._app, self._limit, self._hosts = app, max_request_bytes, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return  # the page opens no web socket

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        if not own_name(dict(scope["headers"]).get(b"host", b"").decode("latin-1"), self._hosts):
            words = "This server does not answer to that name: its owner can add it to SPECKD_HOSTS."
            await _answer(421, words)(scope, receive, send_with_headers)
            return
        if scope["method"] not in METHODS or not OPEN.fullmatch(route_path(scope)):
            await _answer(404, "There is nothing at this address.")(scope, receive, send_with_headers)
            return
        if scope["method"] == "POST":
            body = await self._read(scope, receive)
            if body is None:
                too_large = f"A request has at most {self._limit / 1e6:.0f} MB here: send less at once."
                await _answer(413, too_large)(scope, receive, send_with_headers)
                return
            refused = refusal(route_path(scope), body, scope["app"].get_blocks())
            if refused is not None:
                await _answer(422, refused)(scope, receive, send_with_headers)
                return
            receive = _Again(body, receive)
        await self._app(scope, receive, send_with_headers)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None when it is longer than its sender may or says, or breaks off."""
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._limit:
            return None
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] != "http.request" or len(body) > self._limit:
                return None
            if not message.get("more_body"):
                return bytes(body)


class _Again:
    """Hands on a body that was read already, and then whatever else comes."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


def refusal(path: str, body: bytes, blocks: gr.Blocks) -> str | None:
    """What is wrong with a call, in a sentence; None when gradio may have it."""
    call, path = CALL.fullmatch(path), path.rstrip("/")
    if call is None and path not in ("/gradio_api/queue/join", "/gradio_api/component_server", MCP):
        return None
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return "This is not JSON."
    if not isinstance(asked, dict):
        return "A call is a JSON object."
    if path == MCP:
        return _mcp_refusal(asked, blocks)
    if call is not None and call[1]:
        return _named_refusal(call[2], asked, blocks)
    session = asked.get("session_hash")
    if session is not None and not (isinstance(session, str) and SESSION.fullmatch(session)):
        return "This session has no proper name."
    if path.endswith("component_server"):
        number, name = asked.get("component_id"), asked.get("fn_name")
        known = blocks.blocks.get(number) if isinstance(number, int) else None
        served = getattr(known, name, None) if isinstance(name, str) and name.isidentifier() else None
        return None if session and getattr(served, "_is_server_fn", False) else "There is no such function."
    if call is not None:
        functions = _public(call[2], blocks)
    else:
        number = asked.get("fn_index")
        one = blocks.fns.get(number) if isinstance(number, int) else None
        functions = [one] if one is not None and session and not _only_for_the_end(one) else []
    if not functions:
        return "There is no such function."
    values = asked.get("data")
    n_values = len(functions[0].inputs)
    if not isinstance(values, list) or len(values) != n_values:
        return f'This function takes {n_values} values, all of them and in their order, as "data": [...].'
    if any(isinstance(value, dict | list) for value in values):
        return PLAIN_VALUES
    if _names_a_file(asked.get("event_data")):
        return "What the page tells holds no files."
    return None


def _public(name: str, blocks: gr.Blocks) -> list[Any]:
    return [one for one in blocks.fns.values() if one.api_name == name and one.api_visibility == "public"]


def _named_refusal(name: str, values: Any, blocks: gr.Blocks) -> str | None:
    """What is wrong with a call of a public function by its arguments' names."""
    functions = _public(name, blocks)
    if not functions:
        return "There is no such function."
    if not isinstance(values, dict):
        return "The arguments are a JSON object."
    known = inspect.signature(functions[0].fn).parameters
    takes = list(known)[: len(functions[0].inputs)]  # what gradio fills in itself stands behind them
    unknown = sorted(str(key)[:40] for key in values if key not in takes)
    if unknown:
        return f"There is no argument {unknown[0]!r}: choose of {', '.join(takes)}."
    missing = [key for key in takes if key not in values and known[key].default is inspect.Parameter.empty]
    if missing:
        return f"The argument {missing[0]!r} is missing."
    if any(isinstance(value, dict | list) for value in values.values()):
        return PLAIN_VALUES
    return None


def _mcp_refusal(message: dict[str, Any], blocks: gr.Blocks) -> str | None:
    """What is wrong with a message of the Model Context Protocol: only tool calls are more than questions."""
    if message.get("method") != "tools/call":
        return "A message holds no files." if _names_a_file(message) else None
    asked = message.get("params")
    name = asked.get("name") if isinstance(asked, dict) else None
    if not isinstance(asked, dict) or not isinstance(name, str):
        return "A tool is called by its name."
    tool = next((one for one in ("inspect", "distill", "decode") if name == one or name.endswith("_" + one)), "")
    return _named_refusal(tool, asked.get("arguments") or {}, blocks)


def own_name(host: str, hosts: Collection[str]) -> bool:
    """Whether a Host header says one of a server's own names, whatever the port.

    "*" among the names stands for a server that listens on all of its machine's addresses: then it answers to any
    address in numbers, too. No foreign site can be opened by such a name.
    """
    name = re.sub(r":\d+$", "", host.strip().lower()).strip("[]").rstrip(".")
    if name in hosts:
        return True
    if "*" not in hosts:
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _names_a_file(data: Any) -> bool:
    """Whether gradio would take a part of it for a file."""
    left = [data]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            if "path" in one:
                return True
            left += one.values()
        elif isinstance(one, list):
            left += one
    return False


def _only_for_the_end(function: Any) -> bool:
    """Whether gradio alone calls it, when a page was closed."""
    return any(trigger == "unload" for _, trigger in function.targets)


def route_path(scope: MutableMapping[str, Any]) -> str:
    """The path below the place where the server is mounted."""
    path, root = str(scope["path"]), str(scope.get("root_path") or "").rstrip("/")
    return path[len(root) :] if root and path.startswith(root + "/") else path


def _answer(status: int, words: str) -> JSONResponse:
    return JSONResponse({"detail": words}, status_code=status)


def middleware(settings: Settings) -> list[Middleware]:
    """For launch(app_kwargs={"middleware": ...})."""
    return [Middleware(Guard, max_request_bytes=settings.max_request_bytes, hosts=settings.hosts)]
