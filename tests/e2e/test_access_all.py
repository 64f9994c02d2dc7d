"""Before a release: what axe-core finds on every tab and every lesson step, on the page and on the site, in both
languages. `make test` takes the sample in test_access.py and its like."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app import lessons
from tests.e2e import site
from tests.e2e.test_access import findings
from tests.e2e.test_learn import go

pytestmark = [pytest.mark.browser, pytest.mark.long]
DRAWN = {  # a tab -> what stands there once it is drawn
    "inspect": ".sk-lanes .sk-plot[data-drawn]",
    "distill": "#distiller .sk-race-chart .sk-plot[data-drawn]",
    "decode": "#decoder .sk-clock-cursor",
    "map": "#mapper .sk-map-tile",
    "learn": "#learner .sk-panel[data-step]",
}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, address: str) -> Iterator[dict[str, str]]:
    for url in site.served(site.built(tmp_path_factory.mktemp("site"))):
        yield {"page": address, "site": url}


@pytest.mark.parametrize("language", ["en-US", "es-ES"])
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
@pytest.mark.parametrize("place", ["page", "site"])
def test_axe_finds_nothing_serious_anywhere(
    visit: Callable[..., Any], places: dict[str, str], place: str, width: int, dark: bool, language: str
) -> None:
    one = visit(address=places[place], width=width, dark=dark, fresh=True, locale=language, reduced_motion="reduce")
    found: dict[str, list[str]] = {}
    for tab, drawn in DRAWN.items():
        one.page.goto("about:blank")
        one.page.goto(f"{one.address}#tab={tab}")
        one.page.wait_for_selector(drawn, state="attached")
        found[tab] = findings(one.page)
    for lesson in lessons.lessons():
        for step in range(1, len(lesson.steps) + 1):
            go(one.page, lesson.id, step)
            found[f"{lesson.id}/{step}"] = findings(one.page, "#learner")
    assert {where: told for where, told in found.items() if told} == {}
