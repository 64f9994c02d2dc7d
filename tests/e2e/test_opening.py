"""The opening: one token played for those who have never been here, and again whenever somebody asks."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.browser
PAGE = "document.querySelector('#inspector .sk-panel').inspector"
STILL = f"ms => {{ const one = {PAGE}.opening; cancelAnimationFrame(one.playing.frame); return one.at(ms); }}"


def look(one: Any) -> dict[str, Any]:
    return one.page.evaluate(
        """() => {
          const part = (name) => document.querySelector('#inspector ' + name);
          const seen = (name) => (part(name) ? Number(getComputedStyle(part(name)).opacity) : 0);
          return {
            says: part('.sk-opening-says') && part('.sk-opening-says').textContent,
            word: seen('.sk-opening-word'), boundary: seen('.sk-boundary'), badge: seen('.sk-badge'),
            swept: document.querySelectorAll('#inspector .sk-swept').length,
            playing: part('.sk-app').classList.contains('sk-playing'),
          };
        }"""
    )


def test_a_first_visitor_sees_one_token_played_and_any_key_ends_it(visit: Callable[..., Any]) -> None:
    one = visit(first=True).open()
    one.page.wait_for_selector("#inspector .sk-playing")
    stills = []
    for ms in (500, 1700, 2800, 4050, 4900):
        more = one.page.evaluate(STILL, ms)
        stills.append(look(one))
        assert more
    word, crossing, line, mark, sweep = stills
    assert "The student would say" in word["says"] and word["word"] == word["boundary"] == word["badge"] == 0
    assert "at place" in crossing["says"] and crossing["word"] == 1 and crossing["boundary"] == 0
    assert "first 5" in line["says"] and line["boundary"] == 1 and line["badge"] == 0
    assert "rejected" in mark["says"] and mark["badge"] == 1 and mark["swept"] == 0
    n = one.page.locator(".sk-strip .sk-token").count()
    assert 0 < sweep["swept"] < n
    one.page.keyboard.press("Shift")
    after = look(one)
    assert not after["playing"] and after["says"] is None and after["badge"] == 1 and after["swept"] == 0
    one.page.reload()  # the same visitor again
    one.page.wait_for_selector(".sk-lanes .sk-plot[data-drawn]")
    one.page.wait_for_timeout(1500)
    assert not look(one)["playing"]
    one.page.locator(".sk-segments label[for$=-speck]").click()
    one.page.get_by_role("button", name="Play this token").click()
    one.page.evaluate(STILL, 1000 + 650 * 0.9)
    assert look(one)["says"].startswith("Draw 1, "), "with Spec-k the draws fall one by one"
    one.page.mouse.click(5, 5)
    assert not look(one)["playing"]


def test_no_opening_for_those_who_want_no_motion(visit: Callable[..., Any]) -> None:
    one = visit(first=True, reduced_motion="reduce").open()
    one.page.wait_for_timeout(1500)
    assert not look(one)["playing"]
