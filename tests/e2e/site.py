"""The page without a server, built once and served as any host would, from a folder below the root."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from app.site.build import build
from app.site.plotly import WHOLE

BELOW = "some/where"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def built(root: Path) -> Path:
    """The site, with Plotly from the installed package: a test fetches nothing."""
    build(root / BELOW, space="owner/name", plotly_source=WHOLE)
    return root / BELOW


def served(folder: Path) -> Iterator[str]:
    root = folder.parents[len(Path(BELOW).parts) - 1]
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/{BELOW}/"
    server.shutdown()
    server.server_close()
