"""How much of a warm Run is spent outside the models: 48 tokens, greedy, on the real page in a real browser.

    python tests/bench/bench_page_run.py

The clock runs in the browser from the click on Run to the new picture; calls of the two models are timed in the server.
"""

import functools
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import speckd
from app.main import build, launch_options
from tests.browser import FLAGS, MISSING, find_browser

N_RUNS = 5
CLICK_TO_PICTURE = """
async (question) => {
  const box = document.querySelector('.sk-ask-text');
  box.value = question;
  box.dispatchEvent(new Event('input'));
  const panel = document.querySelector('.sk-panel');
  const before = panel.dataset.shown;
  const start = performance.now();
  document.querySelector('.sk-run').click();
  while (panel.dataset.shown === before) await new Promise((done) => setTimeout(done, 2));
  return performance.now() - start;
}
"""


class ModelClock:
    """Seconds spent in calls of either model: of the whole model in generation, of its trunk in a full pass."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0  # the trunk is called by the model too: only the outermost call counts

    def watch(self, model: Any) -> None:
        for module in (model, model.get_decoder()):
            module.forward = self._timed(module.forward)

    def _timed(self, forward: Any) -> Any:
        @functools.wraps(forward)
        def timed(*inputs: Any, **named: Any) -> Any:
            start = time.perf_counter()
            self._depth += 1
            try:
                return forward(*inputs, **named)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    self.seconds += time.perf_counter() - start

        return timed


def main() -> None:
    clock = ModelClock()
    load_pair = speckd.load_pair

    def load_and_watch(*arguments: Any, **more: Any) -> speckd.Pair:
        pair = load_pair(*arguments, **more)
        clock.watch(pair.teacher)
        clock.watch(pair.student)
        return pair

    speckd.load_pair = load_and_watch  # type: ignore[assignment]
    path = find_browser()
    if path is None:
        sys.exit(MISSING)
    page = build()
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options(page))

    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        tab = browser.new_page(viewport={"width": 1280, "height": 800})
        tab.set_default_timeout(300_000)
        tab.goto(url + "#q=Warm+up&len=48")
        tab.wait_for_function("document.querySelector('.sk-chip-recorded')?.textContent === 'live'")
        shares = []
        for run in range(N_RUNS):
            clock.seconds = 0.0
            total = tab.evaluate(CLICK_TO_PICTURE, f"Why is the sky blue? ({run})") / 1000
            share = 1 - clock.seconds / total
            shares.append(share)
            print(f"run {run + 1}: {total:.2f} s, in the models {clock.seconds:.2f} s, outside {share:.1%}")
        print(f"median share outside the models: {statistics.median(shares):.1%}")
        browser.close()
    page.close()


if __name__ == "__main__":
    main()
