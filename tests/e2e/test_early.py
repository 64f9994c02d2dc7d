"""The first picture before Gradio is there: drawn from the document's own data, and taken over as it stands."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from app import document, panels

pytestmark = pytest.mark.browser
LATE = "**/assets/Blocks-*.js"  # without it Gradio builds nothing
# Counts the frames in which the text is there and cannot be seen.
BLINKS = """
window.blinks = 0;
(function look() {
  const text = document.querySelector(".sk-strip");
  if (text && getComputedStyle(text).visibility === "hidden") window.blinks += 1;
  requestAnimationFrame(look);
})();
"""


def test_gradio_takes_over_the_picture_that_was_drawn_without_it(visit: Callable[..., Any]) -> None:
    one = visit(fresh=True)
    page, held = one.page, []
    page.route(LATE, lambda route: held.append(route))
    page.goto(one.address)
    page.wait_for_selector("#early .sk-lanes .sk-plot[data-drawn]")
    page.locator("#early .sk-slider").evaluate(
        "node => { node.value = 9; node.dispatchEvent(new Event('input', { bubbles: true })); }")  # fmt: skip
    page.locator("#early .sk-ask-text").fill("half a que")
    page.evaluate("window.mine = document.querySelector('#early .sk-panel')")
    page.evaluate(BLINKS)
    assert page.locator("#tab-inspect").count() == 0, "Gradio is there: this test says nothing"
    tabs = page.locator("#early [role=tab]").all_inner_texts()
    before = page.locator("#early [role=tab]").last.bounding_box()
    for route in held:
        route.continue_()
    page.wait_for_selector("#tab-inspect .sk-panel")
    assert page.evaluate("document.querySelector('#tab-inspect .sk-panel') === window.mine")
    assert page.locator("#early").count() == 0 and page.locator(".sk-panel").count() == 1
    assert page.locator(".sk-k-value").first.inner_text() == "9"
    assert page.locator(":focus").input_value() == "half a que"
    assert page.locator("#tabs [role=tab]").all_inner_texts() == tabs
    assert page.locator("#tab-learn-button").bounding_box() == pytest.approx(before, abs=1.5), "the row of tabs jumps"
    page.wait_for_selector(".sk-status[data-state=ready]")  # the server answers now
    assert page.evaluate("window.blinks") == 0


def test_a_tab_chosen_before_gradio_is_there_is_the_one_that_it_opens(visit: Callable[..., Any]) -> None:
    one = visit(fresh=True)
    page, held = one.page, []
    page.route(LATE, lambda route: held.append(route))
    page.goto(one.address)
    page.locator("#early [role=tab]", has_text="Distill").click()
    page.wait_for_selector("#early .sk-race-box")
    for route in held:
        route.continue_()
    page.wait_for_selector("#tab-distill .sk-race-box")
    page.wait_for_function("location.hash.startsWith('#tab=distill') && !document.querySelector('#early')")
    page.locator("#tab-inspect-button").click()
    page.wait_for_selector("#tab-inspect .sk-strip .sk-token")


def test_the_document_names_our_scripts_first_and_nothing_on_another_host(visit: Callable[..., Any]) -> None:
    address = visit().address
    page = httpx.get(address, headers={"Accept-Encoding": "identity"})
    head = page.text.partition("<script>window.gradio_config")[0]
    assert panels.script_url() in head and panels.style_url() in head
    assert "https://" not in head and document.SUMMARY in head
    asset = page.text.partition('src="./assets/')[2].partition('"')[0]
    for accepted, encoding in (("br", "br"), ("identity", None)):
        answer = httpx.get(f"{address}assets/{asset}", headers={"Accept-Encoding": accepted})
        assert answer.headers.get("content-encoding") == encoding and "immutable" in answer.headers["cache-control"]
        assert int(answer.headers["content-length"]) > 10_000 and "import" in answer.text


def test_another_gradios_document_is_left_alone() -> None:
    assert document.rewritten("<html><head></head></html>", "A title") == "<html><head></head></html>"
