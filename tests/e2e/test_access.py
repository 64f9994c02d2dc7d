"""What axe-core finds on the page: nothing serious, in light and in dark, with everything opened."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

ALL_LOOKS = ((1280, False), (390, True), (1280, True), (390, False))


def looks(width: int, dark: bool) -> pytest.MarkDecorator:
    """This width in this colour scheme, and all four before a release: axe takes many seconds a look."""
    return pytest.mark.parametrize(
        ("width", "dark"),
        [
            pytest.param(
                *look,
                id=f"{look[0]}-{'dark' if look[1] else 'light'}",
                marks=() if look == (width, dark) else pytest.mark.long,
            )
            for look in ALL_LOOKS
        ],
    )


def axe_script() -> str:
    package = find_spec("axe_playwright_python")  # carries axe-core's own script
    assert package and package.origin
    return (Path(package.origin).parent / "axe.min.js").read_text(encoding="utf-8")


def findings(page: Any, within: str = "html") -> list[str]:
    page.evaluate(axe_script())
    result = page.evaluate("within => axe.run(within, { resultTypes: ['violations'] })", within)
    serious = [one for one in result["violations"] if one["impact"] in ("serious", "critical")]
    return [
        f"{one['id']}: {node['html'][:160]} ({node['failureSummary'][:200]})"
        for one in serious
        for node in one["nodes"][:4]
    ]


@looks(1280, dark=False)
def test_axe_finds_nothing_serious(visit: Callable[..., Any], dark: bool, width: int) -> None:
    one = visit(dark=dark, width=width).open()
    assert findings(one.page) == []
    one.page.locator(".sk-segments label[for$=-speck]").click()
    one.page.get_by_role("button", name="Compare selectors").click()
    one.page.get_by_role("button", name="Examples").click()
    one.page.wait_for_timeout(200)  # the boundary's and the panels' short transitions
    assert findings(one.page) == []
    one.page.keyboard.press("Escape")
    one.page.get_by_role("button", name="Settings:").click()
    assert findings(one.page) == []
