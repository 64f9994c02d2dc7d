"""How fast the page answers, measured inside the browser on the real page.

Medians are printed. The limits are those of a free machine and hold for the faster moves (the lower quartile): other
work can only add time, and it is the page that is judged here. No other test runs meanwhile (`alone`); where more work
of other programs waits than there are cores, everything takes longer by that ratio, and so may the page.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.alone]

# Moves the slider as a hand does, then waits for two things: the frame that shows the new strip, and the lanes.
MEASURE = """
async (values) => {
  const slider = document.querySelector('.sk-slider');
  const lanes = document.querySelector('.sk-lanes');
  const nextFrame = () => new Promise((done) => requestAnimationFrame(() => {
    const channel = new MessageChannel();  // a message sent in a frame arrives once it is painted
    channel.port1.onmessage = done;
    channel.port2.postMessage(0);
  }));
  const results = [];
  for (const value of values) {
    const painted = lanes.dataset.painted;
    const start = performance.now();
    slider.value = value;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    await nextFrame();
    const strip = performance.now() - start;
    while (lanes.dataset.painted === painted) await new Promise((done) => setTimeout(done));
    await nextFrame();
    results.push([strip, performance.now() - start]);
    await new Promise((done) => setTimeout(done, 60));
  }
  return results;
}
"""


@pytest.mark.parametrize(("n_tokens", "strip_ms", "lanes_ms"), [(256, 50, 150), (1024, 100, 300)])
def test_slider_repaints_in_time(
    visit: Callable[..., Any], made_up: Callable[..., Any], n_tokens: int, strip_ms: float, lanes_ms: float
) -> None:
    one = visit().open()
    one.show(made_up(n_tokens))
    one.page.wait_for_timeout(300)
    one.page.evaluate(MEASURE, [2, 8])  # the first moves compile
    asked_before = len(one.requests)
    times = one.page.evaluate(MEASURE, [1, 9, 3, 20, 4, 50, 2])
    strips, heatmaps = zip(*times, strict=True)
    strip, lanes = statistics.median(strips), statistics.median(heatmaps)
    print(f"\n{n_tokens} tokens: strip {strip:.0f} ms, lanes {lanes:.0f} ms (medians of {len(times)} moves)")
    assert len(one.requests) == asked_before, "a slider must never ask the server"
    assert lower_quartile(strips) < strip_ms * busy()
    assert lower_quartile(heatmaps) < lanes_ms * busy()


# Runs before the page's own scripts, and notes when the strip first answers the slider and when the heatmap is drawn.
WATCH = """
window.seen = {};
(function look() {
  const strip = document.querySelector('.sk-strip .sk-accepted');
  const slider = document.querySelector('.sk-slider');
  if (strip && slider && !window.seen.strip) {
    const before = document.querySelectorAll('.sk-strip .sk-accepted').length;
    slider.value = 50;
    slider.dispatchEvent(new Event('input', { bubbles: true }));
    const alive = document.querySelectorAll('.sk-strip .sk-accepted').length > before;
    requestAnimationFrame(() => { if (alive) window.seen.strip = performance.now(); });
  }
  if (document.querySelector('.sk-lanes .sk-plot[data-drawn]')) window.seen.heatmap = performance.now();
  else setTimeout(look, 5);
})();
"""


def test_recorded_answer_is_alive_within_seconds_of_opening(visit: Callable[..., Any]) -> None:
    visit().open()  # a warm server, as the promise says
    strips, heatmaps = [], []
    for _ in range(5):
        one = visit(fresh=True)
        one.page.add_init_script(WATCH)
        one.page.goto(one.address)
        one.page.wait_for_function("window.seen.strip && window.seen.heatmap")
        seen = one.page.evaluate("window.seen")
        strips.append(seen["strip"])
        heatmaps.append(seen["heatmap"])
    strip, heatmap = statistics.median(strips), statistics.median(heatmaps)
    print(f"\nstrip alive after {strip:.0f} ms, heatmap after {heatmap:.0f} ms (medians of 5 openings)")
    assert lower_quartile(strips) < 2000 * busy()
    assert lower_quartile(heatmaps) < 3000 * busy()


def busy() -> float:
    """How many times more work waits than this machine has cores; 1 on a free one."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def lower_quartile(times: Sequence[float]) -> float:
    return sorted(times)[(len(times) - 1) // 4]
