"""The first document and Gradio's own files, as they leave this server: what a first picture needs comes first.

Gradio writes the whole page's data into its document, and then fetches forty files in five waves before it draws. Our
scripts and styles are named at the document's top, so they come beside those; app/panels/early.js draws the open tab
from the data that is there already, and Gradio takes that panel over when it has come. What is sent is compressed once,
and not again for every visitor; files whose names change with what they hold are kept by the browser for good.
"""

import hashlib
import html
import re
from collections import OrderedDict

import brotli  # gradio needs it too
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import panels
from app.guard import route_path

SUMMARY = (
    "A small model guesses each next word, a large one checks the guess, and only checked guesses teach: see it, learn "
    "it, watch it train."
)
FOREVER = "public, max-age=31536000, immutable"
ASSET = re.compile(r"/assets/[\w.-]+\.(js|css)")  # gradio's build names a file by what it holds
KEPT = 80  # compressed answers; a visit needs fifty, and gradio's largest files are under a megabyte
LARGEST = 1_000_000  # bytes of an answer that is kept
# Gradio's own summary of itself, with pictures on another host.
NOT_OURS = re.compile(r'\s*<meta\s+(?:property|name)="(?:og|twitter):[^>]*>')
BASE = '<base href="./" />'  # addresses below it are read against it
DATA = "<script>window.gradio_config"  # from here on the document is data


def rewritten(page: str, title: str) -> str:
    """Gradio's document with our scripts and styles at its top, and what the page is about."""
    about = {"description": SUMMARY, "og:title": title, "og:description": SUMMARY, "og:type": "website"}
    kinds = {name: "property" if name.startswith("og:") else "name" for name in about}
    tags = [
        f'<link rel="stylesheet" href="{panels.style_url()}">',
        f'<script defer src="{panels.script_url()}"></script>',
        *(f'<meta {kinds[name]}="{name}" content="{html.escape(text)}">' for name, text in about.items()),
    ]
    top, data, rest = page.partition(DATA)
    before, base, after = top.partition(BASE)
    if not data or not base:
        return page  # another gradio: its page works without us
    return "".join([before, base, *tags, NOT_OURS.sub("", after), data, rest])


class Documents:
    """ASGI middleware: the document rewritten, and it and gradio's files compressed once."""

    def __init__(self, app: ASGIApp, title: str) -> None:
        self._app, self._title = app, title
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()  # by a digest of what was compressed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope) if scope["type"] == "http" and scope["method"] == "GET" else ""
        if path != "/" and not ASSET.fullmatch(path):
            await self._app(scope, receive, send)
            return
        accepts_br = "br" in Headers(scope=scope).get("accept-encoding", "")
        start: Message = {}
        body = bytearray()

        async def collect(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                await self._answer(start, bytes(body), path == "/", accepts_br, send)

        await self._app(scope, receive, collect)

    async def _answer(self, start: Message, body: bytes, document: bool, accepts_br: bool, send: Send) -> None:
        headers = MutableHeaders(raw=list(start["headers"]))
        if start["status"] == 200:
            if document:
                body = rewritten(body.decode("utf-8"), self._title).encode("utf-8")
            else:
                headers["cache-control"] = FOREVER
            headers.add_vary_header("Accept-Encoding")
            if accepts_br and "content-encoding" not in headers:
                body = self._compressed(body, 5 if document else 6)
                headers["content-encoding"] = "br"
            headers["content-length"] = str(len(body))
        await send({**start, "headers": headers.raw})
        await send({"type": "http.response.body", "body": body})

    def _compressed(self, body: bytes, quality: int) -> bytes:
        if len(body) > LARGEST:
            return brotli.compress(body, quality=4)
        key = hashlib.blake2b(body, digest_size=16).digest()
        if key not in self._kept:
            self._kept[key] = brotli.compress(body, quality=quality)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]
