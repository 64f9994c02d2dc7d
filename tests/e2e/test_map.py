"""The Map in a browser: before any model is loaded, by pointer, keyboard and address, and what is taken home."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.study import study
from tests.e2e.test_access import findings, looks

pytestmark = pytest.mark.browser
TOPK = "confirm/forward_kl/young/sampled/0.001/120/4/topk:k=5:beta=0.01"


def opened(visit: Callable[..., Any], fragment: str = "", **look: Any) -> Any:
    one = visit(**look)
    one.page.goto(f"{one.address}#tab=map{fragment}")
    one.page.wait_for_selector("#tab-map [data-shown]")
    one.page.wait_for_selector("#tab-map .sk-map-opened[data-of]")
    return one.page


def test_the_map_shows_every_cell_and_opens_one(visit: Callable[..., Any]) -> None:
    page = opened(visit)
    arms = json.loads(study().map())["arms"]
    tiles = page.locator("#tab-map .sk-map-tile")
    assert tiles.count() == sum(len(arm["parts"]) for arm in arms if "acceptance" in arm["figures"])
    better = [arm for arm in arms if arm["figures"]["acceptance"]["verdict"] == "helps"]
    assert f"better in {len(better)} of {len(arms)} comparisons" in page.locator(".sk-map-sentence").inner_text()
    first = tiles.first
    first.focus()
    page.keyboard.press("ArrowDown")
    told = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert told == page.locator(".sk-map-readout").inner_text() and "points" in told
    page.keyboard.press("Enter")
    page.wait_for_function("key => document.querySelector('.sk-map-opened').dataset.of !== key", arg=TOPK)
    page.wait_for_function("location.hash.includes('cell=')")  # written after a moment of rest
    assert page.locator(".sk-map-opened .sk-chart").count() == 1
    assert page.locator(".sk-map-opened .sk-map-answer").count() == 2
    assert page.locator(".sk-map-opened .sk-command").inner_text().startswith("python -m speckd distill")
    # another figure, then both axes
    page.locator("#tab-map [data-field=figure]").first.select_option("divergence")
    assert "held-out forward KL is better" in page.locator(".sk-map-sentence").inner_text()
    page.locator("#tab-map [data-field=rows]").select_option("figure")
    assert page.locator("#tab-map .sk-map-table tbody tr").count() > 10
    page.locator("#tab-map [data-field=control]").select_option("matched:by=clip")
    page.wait_for_function("document.querySelector('.sk-map-sentence').textContent.includes('clipping')")


def test_a_comparison_is_raced_in_distill_with_its_own_settings(visit: Callable[..., Any]) -> None:
    page = opened(visit, f"&cell={TOPK}")
    page.get_by_role("button", name="Race this now").click()
    page.wait_for_selector("#tab-distill .sk-distill", state="visible")
    form = page.evaluate("document.querySelector('#distiller .sk-panel').distiller.state().form")
    assert form["gates"] == ["topk:k=5:beta=0.01", "none"] and form["student"] == "young"
    assert form["learning_rate"] == 0.001 and form["batch_size"] == 4 and form["responses"] == "file"
    assert page.locator("#tab-distill [data-field=student]").input_value() == "young"


def test_what_is_taken_home_has_the_cells_in_view(visit: Callable[..., Any], tmp_path: Path) -> None:
    page = opened(visit)
    for name, kind in (("Cells as CSV", "csv"), ("Page as HTML", "html"), ("Picture as PNG", "png")):
        page.locator("#tab-map").get_by_role("button", name="Keep").click()
        with page.expect_download() as caught:
            page.get_by_role("button", name=name).click()
        path = tmp_path / f"map.{kind}"
        caught.value.save_as(path)
        data = path.read_bytes()
        if kind == "csv":
            assert len(data.decode().splitlines()) == page.locator("#tab-map .sk-map-tile").count() + 1
        elif kind == "html":
            assert b"<table" in data and b"<script" not in data and page.title().encode() in data
        else:
            assert data.startswith(b"\x89PNG") and len(data) > 20_000


@looks(390, dark=True)
def test_nothing_on_the_map_bars_anybody(visit: Callable[..., Any], dark: bool, width: int) -> None:
    page = opened(visit, dark=dark, width=width, reduced_motion="reduce")
    assert findings(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
