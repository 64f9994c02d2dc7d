"""The tabs and the address: on a screen of any width a link leads to its tab, and a tab to its link."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser
TABS = ("inspect", "distill", "decode", "map", "learn")
BUTTONS = "#tabs > .tab-wrapper :is([role=tab], .overflow-dropdown button)"
MENU = 230  # pixels: so narrow that Gradio puts some tabs into a menu


def led_to(page: Any, tab: str) -> None:
    page.wait_for_selector(f"#tab-{tab} .sk-panel", state="visible")
    fragment = "" if tab == "inspect" else f"#tab={tab}"
    page.wait_for_function("text => location.hash.startsWith(text)", arg=fragment)


LINKS = [(width, tab) for width in (1280, MENU) for tab in TABS[1:]]
SAMPLE = {(1280, "map"), (MENU, "distill"), (MENU, "learn")}


@pytest.mark.parametrize(
    ("width", "tab"), [pytest.param(*link, marks=() if link in SAMPLE else pytest.mark.long) for link in LINKS]
)
def test_a_link_leads_to_its_tab(visit: Callable[..., Any], width: int, tab: str) -> None:
    one = visit(width=width)
    one.page.goto(f"{one.address}#tab={tab}")
    led_to(one.page, tab)


def test_on_a_phone_all_tabs_stand_in_one_row(visit: Callable[..., Any]) -> None:
    page = visit(width=320).open().page
    for tab in TABS[1:]:
        page.locator(f"#tab-{tab}-button").click()
        led_to(page, tab)


def test_a_tab_of_the_menu_writes_its_address(visit: Callable[..., Any]) -> None:
    page = visit(width=MENU).open().page
    page.get_by_role("button", name="More tabs").click()
    page.locator(".overflow-dropdown button", has_text="Map").click()
    led_to(page, "map")
    page.evaluate("location.hash = '#tab=learn&lesson=gate&step=2'")
    led_to(page, "learn")
    assert page.locator(BUTTONS).count() == len(TABS)


def test_an_address_given_while_another_waits_to_be_written_is_followed(visit: Callable[..., Any]) -> None:
    """Between the change of an address and the browser's word of it the page's own rest may end."""
    one = visit()
    one.page.goto(f"{one.address}#tab=learn&lesson=gate&step=1")
    opened = "wanted => document.querySelector('#learner .sk-panel')?.dataset.step === wanted"
    one.page.wait_for_function(opened, arg="gate/1")
    one.page.evaluate("""() => {
        SpecKD.address.write("learn", { lesson: "gate", step: "2" });
        location.hash = "#tab=learn&lesson=gate&step=3";
        SpecKD.address.flush();
    }""")
    one.page.wait_for_function(opened, arg="gate/3")
    one.page.wait_for_function("location.hash.includes('step=3')")
