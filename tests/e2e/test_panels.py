"""Panels on a page of somebody else's: several at once, each with its own data."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser


@pytest.mark.long
def test_panels_side_by_side_do_not_disturb_each_other(visit: Callable[..., Any], address_of_panels: str) -> None:
    page = visit(address=address_of_panels).page
    page.goto(address_of_panels)
    page.wait_for_selector("#plot .sk-plot[data-drawn]")
    one, two = page.locator("#one .sk-token"), page.locator("#two .sk-token")
    assert (one.count(), two.count()) == (20, 30)
    rejected_in_two = page.locator("#two .sk-rejected").count()
    page.locator("#one .sk-slider").evaluate("node => { node.value = 50; node.dispatchEvent(new Event('input')); }")
    assert page.locator("#two .sk-rejected").count() == rejected_in_two
    two.nth(7).click()
    page.wait_for_function("document.querySelector('#told textarea').value === 'second: 7'")
    assert page.locator("#two .sk-pinned").get_attribute("data-t") == "7"
    assert page.locator("#one .sk-pinned").get_attribute("data-t") == "0"
    assert page.locator("#one .sk-verdict").count() == 1 and page.locator("#two .sk-verdict").count() == 0


def test_python_updates_a_panel_in_place(visit: Callable[..., Any], address_of_panels: str) -> None:
    page = visit(address=address_of_panels).page
    page.goto(address_of_panels)
    page.wait_for_selector("#plot .sk-plot[data-drawn]")
    page.evaluate("document.querySelector('#plot .sk-plot').mark = 'the same node'")
    page.locator("#more").click()
    page.wait_for_function("document.querySelectorAll('#one .sk-token').length === 12")
    page.wait_for_function("document.querySelector('#plot .sk-plot-area').data[0].y.length === 4")
    assert page.evaluate("document.querySelector('#plot .sk-plot').mark") == "the same node"
    assert page.locator("#two .sk-token").count() == 30


def test_without_any_model_the_page_opens_and_says_what_is_missing(
    visit: Callable[..., Any], address_without_models: str
) -> None:
    one = visit(address=address_without_models).open()
    sentence = one.wait_for_state("failed")
    assert "not installed" in sentence and "recorded" in sentence
    assert one.page.locator(".sk-strip .sk-accepted").count() > 0
    one.page.get_by_role("button", name="Examples").click()
    before = one.shown()
    one.page.locator(".sk-popup-examples button").nth(2).click()
    one.page.wait_for_function("n => Number(document.querySelector('.sk-panel').dataset.shown) > n", arg=before)
    assert one.page.locator(".sk-chip-recorded").inner_text() == "recorded"
    one.page.locator(".sk-run").click()
    assert "not installed" in one.wait_for_state("failed")
