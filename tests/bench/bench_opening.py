"""How long a stranger waits for the first picture: `python tests/bench/bench_opening.py`.

Opens the page and the site of this checkout in turn, each time in a browser context that has cached nothing, and prints
medians in milliseconds from the navigation on: the first token of the strip, the first lanes ("heatmap"), and when the
page has its server (Gradio is up; a site has none); beside them what the page's main thread took of a processor till
then, which other work on the machine changes little. `--address name=URL`, as often
as one likes, measures those instead: two checkouts served side by side, say, old and new in turn. Loopback only.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from playwright.sync_api import sync_playwright

from tests.browser import FLAGS, MISSING, find_browser
from tests.e2e import site
from tests.e2e.pages import SEEN
from tests.e2e.server import Server

# Runs before the page's own scripts. A picture counts from the frame that shows it: it is looked for at each change of
# the document, since a timer would come after that frame and count the next one.
WATCH = """
window.seen = {};
const marks = {
  strip: () => document.querySelector(".sk-strip .sk-token"),
  lanes: () => document.querySelector(".sk-lanes .sk-plot[data-drawn]"),
  server: () => document.querySelector("#tab-inspect .sk-panel > *"),
};
const watching = new MutationObserver(look);
watching.observe(document, { childList: true, subtree: true, attributeFilter: ["data-drawn"] });
function look() {
  for (const [name, there] of Object.entries(marks)) {
    if (!window.seen[name] && there()) {
      window.seen[name] = -1;
      requestAnimationFrame(() => { window.seen[name] = performance.now(); });
    }
  }
  if (Object.keys(marks).every((name) => window.seen[name])) watching.disconnect();
}
"""
DONE = "() => window.seen && ['strip', 'lanes', 'server'].every((name) => window.seen[name] > 0)"


def opening(browser: Any, address: str) -> dict[str, float]:
    """Milliseconds of one visit by somebody who has never been here (but has seen the opening)."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, service_workers="block")
    try:
        context.add_init_script(WATCH + SEEN)
        page = context.new_page()
        devtools = context.new_cdp_session(page)
        devtools.send("Performance.enable")
        page.goto(address, wait_until="commit")
        while not page.evaluate(DONE):
            page.wait_for_timeout(50)
        seen: dict[str, float] = page.evaluate("window.seen")
        known = {one["name"]: one["value"] for one in devtools.send("Performance.getMetrics")["metrics"]}
        return {**seen, "processor": 1000 * known["ThreadTime"]}
    finally:
        context.close()


@contextlib.contextmanager
def both() -> Iterator[dict[str, str]]:
    """The page of this checkout, without models, and its site."""
    with tempfile.TemporaryDirectory() as folder, Server(Path(folder) / "page") as server:
        served = site.served(site.built(Path(folder) / "site"))
        yield {"page": f"{server.url}/", "site": next(served)}
        next(served, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--address", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--times", type=int, default=5)
    asked = parser.parse_args()
    given = dict(one.split("=", 1) for one in asked.address)
    times: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with contextlib.nullcontext(given) if given else both() as addresses, sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=find_browser() or sys.exit(MISSING), args=FLAGS)
        for turn in range(asked.times + 1):
            for name, address in addresses.items():
                for mark, ms in opening(browser, address).items():
                    if turn:  # the first warms the server and the disk
                        times[name][mark].append(ms)
        browser.close()
    print(f"medians of {asked.times}, ms; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, marks in times.items():
        print(f"{name:>12}: " + ", ".join(f"{mark} {statistics.median(ms):.0f}" for mark, ms in marks.items()))


if __name__ == "__main__":
    main()
