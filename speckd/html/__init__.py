"""One text under the gate as a web page that needs nothing else: no server, no network, no other file.

The parts (gate.js, strip.js, verdict.js, ...) are plain scripts, and the ones that the app's page is made of: a
downloaded file and the app show the same picture. What passes between Python and a page is written down in types.d.ts.
Text reaches the page as data inside a JSON script block, never as markup.
"""

import html
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from speckd import words
from speckd.files import as_json

SCRIPTS = (
    "words.js", "format.js", "text.js", "dom.js", "gate.js", "picture.js", "strip.js", "lists.js", "arithmetic.js",
    "verdict.js", "controls.js", "compare.js", "alone.js",
)  # fmt: skip
DECODING = (
    "player.js", "decode_data.js", "decode_clock.js", "decode_stage.js", "decode_rows.js", "decode_card.js",
    "decode_facts.js", "decode_alone.js",
)  # fmt: skip
BASE = ("words.js", "format.js", "text.js", "dom.js", "lists.js", "verdict.js")  # what a decoding's page needs of them
STYLE = "view.css"
DECODING_STYLE = "decode.css"
N_DRAWS = 16  # draws a token that the verdict shows


def source(name: str) -> str:
    """The text of one of the browser's parts, by file name."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def wrapped(text: str) -> str:
    """A part as a browser runs it. Each has names of its own, as a module has; what it gives others hangs on SpecKD."""
    return f'(() => {{ "use strict";\n{text}}})();\n'


def script(table: Mapping[str, Any] | None = None, names: Sequence[str] = SCRIPTS) -> str:
    """The parts in one text, after the table of words and defaults that they read (``words.table()`` when None)."""
    data = as_script_data(words.table() if table is None else table)
    return "".join([f"globalThis.speckdWords = {data};\n", *(wrapped(source(name)) for name in names)])


def as_script_data(value: Any) -> str:
    """JSON that may stand inside a <script> element: no text in it can close the element or open a comment."""
    text = as_json(value)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def to_html(
    trace: Any, path: str | Path | None = None, *, knobs: Mapping[str, Any] | None = None, pin: int | None = None
) -> str:
    """One self-contained page in which the strip, the verdict, the gate's controls and the comparison are alive.

    Args:
        trace: a Trace, or the dictionary that Trace.to_dict returns.
        path: where to write the page as well; nowhere when None.
        knobs: the gate at first sight: any of gate ("topk", "speck", "none"), k, beta, divergence.
        pin: the token (from 0) whose verdict is open at first; the one that loses most of the loss when None.
    Returns:
        The page as text, UTF-8, about 0.1 MB plus 2 kB a token.
    """
    data = trace if isinstance(trace, Mapping) else trace.to_dict(n_draws=N_DRAWS)
    options = {"knobs": dict(knobs or {}), "pin": pin}
    call = 'SpecKD.showAlone(document.getElementById("page"), SpecKD.readTrace(read("trace")), read("options"))'
    page = _page(_title(data["prompt"]), source(STYLE), {"trace": data, "options": options}, script(), call)
    if path is not None:
        Path(path).write_text(page, encoding="utf-8")
    return page


def decoding_to_html(record: Mapping[str, Any], facts: Mapping[str, Any], path: str | Path | None = None) -> str:
    """One self-contained page of a decoding: its clock, its rounds, every token's lists, step, play and scrub.

    Args:
        record: the dictionary that DecodeRecord.to_dict returns.
        facts: what speckd.decoding.facts makes of it.
        path: where to write the page as well; nowhere when None.
    Returns:
        The page as text, UTF-8, about 0.15 MB plus 2 kB a round.
    """
    data = {name: value for name, value in record.items() if name not in ("continuations", "prompt_ids")}
    call = 'SpecKD.showDecodingAlone(document.getElementById("page"), SpecKD.readDecoding(read("data"), read("facts")))'
    style = source(STYLE) + source(DECODING_STYLE)
    parts = {"data": data, "facts": facts}
    page = _page(_title(str(data["config"]["prompt"])), style, parts, script(names=(*BASE, *DECODING)), call)
    if path is not None:
        Path(path).write_text(page, encoding="utf-8")
    return page


def _page(title: str, style: str, parts: Mapping[str, Any], scripts: str, call: str) -> str:
    """A page that needs nothing else: data in JSON blocks, and a call that draws them."""
    scripts = scripts.replace("</script", "<\\/script")
    policy = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:"
    blocks = "\n".join(
        f'<script type="application/json" id="{name}">{as_script_data(value)}</script>' for name, value in parts.items()
    )
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{html.escape(title)}</title>
<style>
{style}
</style>
</head>
<body class="sk sk-alone">
<div id="page"></div>
{blocks}
<script>
{scripts}
</script>
<script>
const read = (id) => JSON.parse(document.getElementById(id).textContent);
window.picture = {call};
</script>
</body>
</html>
"""
    return page.encode("utf-8", "replace").decode("utf-8")  # a lone surrogate in a prompt is no UTF-8


def framed(page: str, height: int = 640) -> str:
    """A whole page inside a notebook's cell: its scripts run there and reach nothing around them."""
    frame = f'sandbox="allow-scripts" style="width:100%;height:{height}px;border:0" title="SpecKD Lab"'
    return f'<iframe {frame} srcdoc="{html.escape(page)}"></iframe>'


def _title(prompt: str) -> str:
    line = " ".join(prompt.split())
    return (line if len(line) <= 60 else line[:59] + "…") + " · SpecKD Lab"
