"""A page that was exported before the house moved still lives in today's browser, without a server or a network."""

from pathlib import Path
from typing import Any

import pytest

import speckd

pytestmark = pytest.mark.browser
OLD = Path(__file__).parents[1] / "old"  # its README says how the files were made


def test_the_slider_of_an_old_page_regates_and_tar_follows(browser: Any) -> None:
    trace = speckd.Trace.from_json(OLD / "trace.json")
    context = browser.new_context(offline=True)
    try:
        page = context.new_page()
        asked: list[str] = []
        errors: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((OLD / "page.html").as_uri())
        page.wait_for_selector(".sk-strip .sk-token")
        assert page.locator(".sk-strip .sk-token").count() == trace.n_tokens
        slider, tar = page.locator(".sk-slider"), page.locator(".sk-tar-value")
        said = []
        for k in (1, 3, 20):
            slider.fill(str(k))
            said.append(tar.inner_text())
            expected = 100 * trace.tar(speckd.TopK(k=k))  # which the page rounds
            assert float(said[-1].rstrip("%")) == pytest.approx(expected, abs=0.51), k
        assert len(set(said)) == 3
        assert not errors and all(url.startswith(("file:", "data:", "blob:")) for url in asked)
    finally:
        context.close()
