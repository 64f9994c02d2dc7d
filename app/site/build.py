"""The folder of a page without a server: its frame, scripts, styles, and each tab's data and answers."""

import gzip
import hashlib
import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from app import main, panels
from app.panels import Panel
from app.settings import Settings
from app.site import plotly
from app.site.answers import QUESTIONS, answers
from speckd.files import as_json
from speckd.html import as_script_data

HERE = Path(__file__).parent
SCRIPTS = ("bridge.js", "site.js")
# The first visit loads these, and the first tab's data; a browser keeps the rest when it has the time (worker.js).
CORE = ("index.html", "speckd.css", "speckd.js", "icon.svg", "site.webmanifest")
LARGEST = 30_000_000  # bytes in all
MARK = ".speckd-site"  # in a folder that we made: only such a folder is written anew


class CannotBuild(Exception):
    """One sentence that says what to do."""


@dataclass(frozen=True)
class Tab:
    """A tab of the page: its name in addresses, its label, its panel."""

    name: str
    label: str
    panel: Panel


def tabs() -> list[Tab]:
    """The page's tabs in its order, those of QUESTIONS, built as the app builds them, without a model."""
    page = main.build(Settings(place="site", own_models=False), load_models=False)
    found = []
    for panel in page.blocks.values():
        if isinstance(panel, Panel) and panel.part in QUESTIONS:
            above = panel.parent
            while not isinstance(above, gr.Tab):
                assert above is not None, f"{panel.part} stands in no tab"
                above = above.parent
            found.append(Tab(str(above.id), str(above.label), panel))
    return found


def build(folder: Path, *, space: str = "", repository: str = "", plotly_source: str = "") -> dict[str, int]:
    """Write the site.

    Args:
        folder: a new or empty one, or one that this function wrote.
        space: "owner/name" of the Space that has the models, if there is one.
        repository: the address that the project is cloned from, if it is known.
        plotly_source: see ``plotly.script``.
    Returns:
        The bytes of every file, by its path.
    Raises:
        CannotBuild: the folder holds something else, or the site is too large.
        plotly.CannotFetch: Plotly's script cannot be had.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise CannotBuild(f"{folder} holds something else: name a new folder.")
    script = plotly.script(plotly_source)
    files = {name: text.encode() for name, text in _frame(space, repository)}
    files["plotly.js"] = script
    for name, data in _data(made := tabs()):
        files[name] = data.encode()
    files["index.html"] = _index(made, space, repository).encode()
    files["worker.js"] = _worker(files, made[0]).encode()
    if sum(map(len, files.values())) > LARGEST:
        raise CannotBuild(f"The site has more than {LARGEST / 1e6:.0f} MB: record less.")
    if folder.exists():
        shutil.rmtree(folder)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text)
    (folder / MARK).write_text("python -m app.site wrote this folder, and writes it anew.\n", encoding="utf-8")
    return {name: len(text) for name, text in files.items()}


def first_load(folder: Path) -> int:
    """Bytes of the first visit as a host sends them, compressed: the frame and the first tab's data."""
    names = [*CORE, json.loads(_told(folder))["tabs"][0]["file"]]
    return sum(len(gzip.compress((folder / name).read_bytes(), 6)) for name in names)


def _told(folder: Path) -> str:
    found = re.search(r'id="site">(.*?)</script>', (folder / "index.html").read_text(encoding="utf-8"))
    assert found
    return found[1]


# --- what the folder holds ----------------------------------------------------------------------------------------


def _frame(space: str, repository: str) -> Iterator[tuple[str, str]]:
    scripts = [panels.script(), *((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)]
    first, *own = scripts
    yield "speckd.js", "".join([first, *map(panels.browser_parts.wrapped, own)])
    yield "speckd.css", panels.style() + (HERE / "site.css").read_text(encoding="utf-8")
    yield "icon.svg", (HERE / "icon.svg").read_text(encoding="utf-8")
    about = {
        "name": main.TITLE, "short_name": "SpecKD", "start_url": "./", "scope": "./", "display": "standalone",
        "background_color": "#f7f7f5", "icons": [{"src": "icon.svg", "sizes": "any", "type": "image/svg+xml"}],
    }  # fmt: skip
    yield "site.webmanifest", json.dumps(about)
    yield ".nojekyll", ""  # GitHub Pages serves the folder as it is
    # a static Space reads its README's front matter
    yield (
        "README.md",
        f"---\ntitle: {main.TITLE}\nemoji: 🚦\nsdk: static\napp_file: index.html\nlicense: apache-2.0\n---\n",
    )


def _data(made: list[Tab]) -> Iterator[tuple[str, str]]:
    for tab in made:
        index: dict[str, dict[str, str]] = {}
        numbers: dict[str, int] = {}
        for function, key, answer in answers(tab.panel):
            numbers[function] = number = numbers.get(function, 0) + 1
            name = re.sub(r"[^a-z0-9]+", "-", key.lower()).strip("-")[:40]
            path = f"data/{tab.name}/{function}-{number}-{name}.json"
            index.setdefault(function, {})[key] = path
            yield path, as_json(answer)
        options = {**tab.panel.mounted_with, "plotly": "plotly.js"}
        yield f"data/{tab.name}.json", as_json({"value": tab.panel.initial, "options": options, "answers": index})


def _index(made: list[Tab], space: str, repository: str) -> str:
    here = ["make setup", "make app"]  # in a checkout
    told: dict[str, Any] = {
        "tabs": [
            {
                "name": tab.name, "label": tab.label, "part": tab.panel.part, "root": tab.panel.elem_id,
                "file": f"data/{tab.name}.json",
            }
            for tab in made
        ],
        "space": f"https://huggingface.co/spaces/{space}" if space else "",
        "commands": [f"git clone {repository} speckd && cd speckd", here[1]] if repository else here,
    }  # fmt: skip
    page = (HERE / "index.html").read_text(encoding="utf-8")
    fields = {"TITLE": html.escape(main.TITLE), "FIRST": told["tabs"][0]["file"], "SITE": as_script_data(told)}
    for name, text in fields.items():
        page = page.replace(f"{{{{{name}}}}}", text)
    return page


def _worker(files: dict[str, bytes], first: Tab) -> str:
    """The service worker, told which files there are. What they hold names the version."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + files[name])
    hidden = [name for name in files if name.startswith(".") or name == "README.md"]
    core = [*CORE, f"data/{first.name}.json"]
    rest = sorted((name for name in files if name not in (*core, *hidden)), key=lambda name: len(files[name]))
    told = {"version": digest.hexdigest()[:16], "core": core, "rest": rest}
    return f"globalThis.speckdSite = {as_json(told)};\n" + (HERE / "worker.js").read_text(encoding="utf-8")
