"""Reusable browser parts for gradio pages: the token strip, the live plot, and the whole of Inspect.

A panel is a gr.HTML whose template never changes. Its data is a plain dict (``value``) that a script reads and turns
into nodes with textContent, so no text of a model or a visitor is ever compiled or parsed as markup. Several panels on
one page share the scripts and nothing else.
"""

import hashlib
import threading
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import gradio as gr
from gradio import component_meta
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Route

from speckd import html as browser_parts
from speckd import words

HERE = Path(__file__).parent
PARTS = (
    "hands", "address", "students", "menu", "run", "form", "ask", "pair", "files", "plot", "lanes-figure", "lanes",
    "opening", "png", "card", "race-card", "recording", "race", "heatmap", "probe-below", "probe",
)  # fmt: skip
PAGES = {
    "inspector": ("settings", "keep", "trail", "page"),
    "distiller": ("controls", "bet", "saying", "side", "answers", "keep", "live", "page"),
    "decoder": ("settings", "keep", "papers", "page"),
    "mapper": ("words", "cells", "grid", "chart", "opened", "pictures", "keep", "page"),
    "learner": ("progress", "text", "exercise", "pointing", "stage", "own", "list", "page"),
}
SCRIPTS = (
    *(f"parts/{name}.js" for name in PARTS),
    *(f"pages/{page}/{name}.js" for page, names in PAGES.items() for name in names),
    "mount.js",
    "early.js",
)
STYLES = ("panels.css", "distill.css", "decoder.css", "map.css", "learn.css")


def table() -> dict[str, Any]:
    """What the page reads its words and defaults from: speckd/words.py, the defaults of both tabs' forms, and what the
    scripts say in each language."""
    from app import lessons  # they import the models' library, and a page's parts need not
    from app.requests import DEFAULTS, Question

    question = {**asdict(Question("")), "response": ""}
    del question["prefix_ids"]  # a clicked alternative's, and no setting
    known = words.table()
    languages = [
        {"code": one.code, "name": one.name, "direction": one.direction, "page": one.page}
        for one in map(lessons.read_language, lessons.codes())
    ]
    defaults = {**known["defaults"], "question": question, "run": DEFAULTS}
    return {**known, "defaults": defaults, "languages": languages}


@cache
def script() -> str:
    """Every part's JavaScript in one text."""
    parts = ((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)
    names = (*browser_parts.SCRIPTS, *browser_parts.DECODING)
    return "".join([browser_parts.script(table(), names), *map(browser_parts.wrapped, parts)])


@cache
def style() -> str:
    """Every part's style in one text, for launch(css=...)."""
    parts = [browser_parts.source(name) for name in (browser_parts.STYLE, browser_parts.DECODING_STYLE)]
    return "".join([*parts, *((HERE / name).read_text(encoding="utf-8") for name in STYLES)])


def plotly_script() -> Path:
    """Plotly's own bundled script; the page is served this file and asks no other host."""
    import plotly

    return Path(plotly.__file__).parent / "package_data" / "plotly.min.js"


def _version(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:12]


@cache
def style_url() -> str:
    return f"parts/speckd.css?v={_version(style().encode())}"


@cache
def script_url() -> str:
    return f"parts/speckd.js?v={_version(script().encode())}"


@cache
def plotly_url() -> str:
    import importlib.metadata

    return f"parts/plotly.js?v={importlib.metadata.version('plotly')}"


@cache
def _compressed(name: str) -> bytes:
    import brotli  # gradio needs it too

    if name == "plotly.js":
        return brotli.compress(plotly_script().read_bytes(), quality=5)
    return brotli.compress((script() if name == "speckd.js" else style()).encode(), quality=9)


def routes() -> list[Route]:
    """Where the server hands out the scripts, for launch(app_kwargs={"routes": routes()}). Their version is in the
    address, so a browser may keep them for good."""
    forever = {"Cache-Control": "public, max-age=31536000, immutable", "Vary": "Accept-Encoding"}
    kinds = {"speckd.css": "text/css", "speckd.js": "text/javascript", "plotly.js": "text/javascript"}
    # Compressed once: gradio would do it again for every visitor, Plotly a third of a second each.
    threading.Thread(target=lambda: [_compressed(name) for name in kinds], daemon=True).start()

    def parts(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in kinds:
            return Response("There is no such part.", status_code=404, media_type="text/plain")
        if "br" in request.headers.get("accept-encoding", ""):
            headers = {**forever, "Content-Encoding": "br"}
            return Response(_compressed(name), media_type=kinds[name], headers=headers)
        if name == "plotly.js":
            return FileResponse(plotly_script(), media_type=kinds[name], headers=forever)
        return Response(script() if name == "speckd.js" else style(), media_type=kinds[name], headers=forever)

    return [Route("/parts/{name}", parts)]


# Gradio writes a .pyi stub beside the source of every component class that it meets: stale the day after, and first in
# line for type checkers. Ours are ordinary classes and need none.
component_meta.create_or_modify_pyi = lambda *_: None


class Panel(gr.HTML):
    """A gr.HTML that mounts one of the browser's parts. Subclasses name the part and the events that it triggers."""

    part: ClassVar[str]
    triggers: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, value: dict[str, Any] | None = None, *, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        # What a page without a server writes down (app/site): what the panel shows at first, and the answers behind it.
        self.initial, self.mounted_with = value or {}, {**(options or {})}
        self.answers = {function.__name__: function for function in kwargs.get("server_functions") or ()}
        names = ", ".join(f"'{name}'" for name in self.triggers)  # gr.HTML finds its events by their quoted names
        super().__init__(
            value=value or {},
            html_template="<div class='sk sk-panel'></div>",
            css_template="",
            js_on_load=f"SpecKD.mount('{self.part}', element, props, trigger, server, watch, [{names}]);",
            apply_default_css=False,
            head=f'<script src="{script_url()}"></script>',
            options={"plotly": plotly_url(), **(options or {})},
            **kwargs,
        )

    def preprocess(self, payload: Any) -> Any:
        return payload

    def postprocess(self, value: Any) -> Any:
        return value  # data, not HTML: gr.HTML would look for script tags in it

    def get_block_name(self) -> str:
        return "html"


class TokenStrip(Panel):
    """The response as running text under a gate.

    ``value``: {"trace": Trace.to_dict() or its JSON text, "knobs": {gate, k, beta, divergence}, "pin": token or None}.
    Triggers ``pin`` with {"token": t} when a token is clicked. With ``options={"verdict": True}`` the verdict stands
    below the strip, with ``options={"controls": True}`` the gate's controls above it.
    """

    part = "strip"
    triggers = ("pin",)


class LivePlot(Panel):
    """A plotly figure that is updated in place (Plotly.react), never rebuilt.

    ``value``: {"figure": a figure's to_plotly_json() or to_json(), "height": pixels}.
    """

    part = "plot"


class Inspector(Panel):
    """The whole Inspect page: question, gate, strip, lanes, verdict, comparison and downloads (app/tabs/inspect.py)."""

    part = "inspector"
    triggers = ("run",)


class Distiller(Panel):
    """The whole Distill page: a run's controls, its curves, its probe and its comparison (app/tabs/distill.py).

    ``value`` at first: {"recorded": {"label": str, "events": JSON text} or None}; then the updates of a live run.
    Triggers ``run`` with {"run": id, "request": {...}}.
    """

    part = "distiller"
    triggers = ("run",)

    def __init__(
        self, value: dict[str, Any] | None = None, *, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        from app import figures  # plotly takes a second to import

        charts = {chart.key: figures.race(chart.key).to_json() for chart in figures.CHARTS}
        super().__init__(value, options={"charts": charts, **(options or {})}, **kwargs)


class Decoder(Panel):
    """The whole Decode page: one text, round by round, live or recorded (app/tabs/decode.py).

    ``value`` at first: {"result": a recorded one}; then the updates of a live run. Triggers ``run`` with
    {"run": id, "request": {...}}. The server functions stop, status, recorded, export, open_record and papers.
    """

    part = "decoder"
    triggers = ("run",)


class Mapper(Panel):
    """The whole Map page: the study's cells, one cell's runs, questions and pictures (app/tabs/map.py).

    ``value``: {"map": JSON text of the cells against plain} or {"error": a sentence}. It triggers nothing; the server
    functions cells, cell and beside bring the rest.
    """

    part = "mapper"


class Learner(Panel):
    """The whole Learn page: lessons beside the live parts of the other tabs (app/tabs/learn.py).

    ``value``: {} at first; then where a visitor's own question stands, and at its end the trace that replaces the main
    one. Triggers ``run`` with {"run": id, "prompt": text}. The server functions lesson, material, status and stop.
    """

    part = "learner"
    triggers = ("run",)

    def __init__(
        self, value: dict[str, Any] | None = None, *, options: dict[str, Any] | None = None, **kwargs: Any
    ) -> None:
        from app import figures  # plotly takes a second to import

        charts = {chart.key: figures.race(chart.key).to_json() for chart in figures.CHARTS}
        super().__init__(value, options={"charts": charts, **(options or {})}, **kwargs)
