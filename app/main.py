"""The page: its tabs in order, its theme, and what happens when it opens and closes."""

import atexit
import ctypes
import sys
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

import gradio as gr
from starlette.middleware import Middleware
from starlette.routing import Route

from app import guard, panels
from app.document import Documents
from app.engine import Engine
from app.settings import Settings, settings_for
from app.tabs import decode, distill, inspect, learn
from app.tabs import map as map_tab
from app.training import Trainings

TITLE = "SpecKD Lab"
# What a page serves beside itself, and what is allowed there.
_served: "WeakKeyDictionary[gr.Blocks, tuple[Settings, list[Route]]]" = WeakKeyDictionary()
FONTS = [
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Liberation Sans",
    "Arial",
    "sans-serif",
]  # the machine's own, no download


def theme() -> gr.themes.Base:
    """Plain, with the machine's own fonts: the panels bring their own looks (speckd/html/view.css)."""
    return gr.themes.Base(font=FONTS, font_mono=["Liberation Mono", "Menlo", "Consolas", "monospace"]).set(
        body_background_fill="#f7f7f5",
        body_background_fill_dark="#121417",
        body_text_color="#1c1f24",
        body_text_color_dark="#e9ebee",
    )


def build(settings: Settings | None = None, *, load_models: bool = True) -> gr.Blocks:
    """The page, ready to launch with ``launch_options()``.

    Args:
        settings: of this place; read from the environment when None.
        load_models: start loading the packaged pair behind the page.
    """
    settings = settings or settings_for()
    _pool_memory()
    engine = Engine(settings)
    trainings = Trainings(settings, engine)
    atexit.register(trainings.close)
    with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page, gr.Tabs(elem_id="tabs"):
        with gr.Tab("Inspect", id="inspect", elem_id="tab-inspect"):
            inspect.build(page, engine, settings)
        with gr.Tab("Distill", id="distill", elem_id="tab-distill"):
            distill.build(page, trainings, settings)
        with gr.Tab("Decode", id="decode", elem_id="tab-decode"):
            decode.build(page, engine, settings)
        with gr.Tab("Map", id="map", elem_id="tab-map"):
            map_tab.build(settings)
        with gr.Tab("Learn", id="learn", elem_id="tab-learn"):
            learn.build(page, engine, settings)
    page.queue(max_size=settings.max_events, default_concurrency_limit=4, api_open=False)
    rest(page)
    page.space_id = None  # else gradio's script fetches fonts from another host on a Space, for a header not shown here
    if load_models:
        engine.warm()
        trainings.warm()
    _served[page] = (settings, trainings.routes())
    return page


def rest(page: gr.Blocks) -> None:
    """Let a page that nobody asks anything rest. Gradio looks for work a thousand times a second, which takes 6.6% of a
    processor all day; a hundred times take 1.4%, and a question waits 5 ms longer. Call it after ``page.queue``."""
    for name, seconds in (("sleep_when_free", 0.01), ("progress_update_sleep_when_free", 0.1)):
        if hasattr(page._queue, name):  # gradio's own business: where it goes by another name, nothing changes
            setattr(page._queue, name, max(seconds, getattr(page._queue, name)))


def _pool_memory() -> None:
    """Let all threads share two heaps. glibc gives nearly each thread one of its own, and what is free in one helps no
    other: visitors who come and go then make the page grow (tests/bench/drop_sessions.py)."""
    if sys.platform == "linux":
        m_arena_max = -8  # malloc.h
        try:
            ctypes.CDLL(None).mallopt(m_arena_max, 2)
        except AttributeError:
            pass  # another C library, with another allocator


def launch_options(page: gr.Blocks) -> dict[str, Any]:
    """What launch() needs: looks, scripts, and no footer. Server-side rendering is off: one process serves all."""
    settings, routes = _served.get(page, (Settings(), []))
    return {
        "theme": theme(),
        "css": panels.style(),  # once more: gradio raises each rule above its own
        "app_kwargs": {
            "routes": [*panels.routes(), *routes],
            "middleware": [*guard.middleware(settings), Middleware(Documents, title=TITLE)],
        },
        # Runs that wait hold threads. Threads of their own (any number but 40, gradio's and the page's) leave the
        # page's free: it opens at once, however many wait.
        "max_threads": 2 * settings.max_waiting + 25,
        "footer_links": [],
        "ssr_mode": False,
        "mcp_server": find_spec("mcp") is not None,  # the three public functions as tools for agents
        "show_error": False,
        "state_session_capacity": settings.kept_sessions,
        "max_file_size": 1,  # the page sends no files, and app/guard.py closes gradio's upload route
        "enable_monitoring": False,
        "pwa": False,
        "run_history": False,  # what a visitor asked is kept nowhere
    }
