"""The interlinear strip: what the student proposed stands above a token that is another one, and bears the mark."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from speckd import html
from tests.app import synthetic

pytestmark = pytest.mark.browser
ABOVE = """() => [...document.querySelectorAll('.sk-strip .sk-token')].map((mark) => {
  const style = getComputedStyle(mark, '::before');
  return style.content === 'none' || style.content === 'normal' ? null : {
    text: mark.dataset.proposed, struck: style.textDecorationLine === 'line-through',
    below: mark.textContent, whole: mark.getBoundingClientRect().height,
  };
})"""


@pytest.fixture
def opened(browser: Any, tmp_path: Path) -> Iterator[Any]:
    pages = []

    def open_page(trace: dict[str, Any], width: int = 1280) -> Any:
        html.to_html(trace, tmp_path / "page.html", knobs={"gate": "topk", "k": 1})
        page = browser.new_page(viewport={"width": width, "height": 800})
        pages.append(page)
        page.goto((tmp_path / "page.html").as_uri())
        return page

    yield open_page
    for page in pages:
        page.close()


def test_the_students_word_stands_above_where_it_differs_and_is_struck_through_where_rejected(opened: Any) -> None:
    trace = synthetic.trace(40, seed=5)
    page = opened(trace)
    own = trace["input_ids"][trace["n_prompt"] :]
    shown = page.evaluate(ABOVE)
    assert len(shown) == 40
    differs = [t for t in range(40) if trace["proposal_ids"][t] != own[t]]
    assert 5 < len(differs) < 35, "there is something of both to see"
    assert [t for t, above in enumerate(shown) if above is not None] == differs
    for t in differs:
        assert shown[t]["text"] == trace["strings"][str(trace["proposal_ids"][t])].strip()
        assert shown[t]["struck"] == (trace["topk_threshold"][t] > 1), "rejected at k = 1"
        assert shown[t]["below"] == trace["tokens"][t].strip(), "copied text stays the text"
    label = page.locator(".sk-strip .sk-token").nth(differs[0]).get_attribute("aria-label")
    assert f"the student proposes {shown[differs[0]]['text']}" in label, "and it is read out"


def test_a_switch_returns_to_the_plain_strip(opened: Any) -> None:
    page = opened(synthetic.trace(24, seed=5))
    tall = page.evaluate("document.querySelector('.sk-strip').scrollHeight")
    switch = page.get_by_label("the student’s word")
    assert switch.is_checked()
    switch.uncheck()
    assert not any(page.evaluate(ABOVE))
    assert page.evaluate("document.querySelector('.sk-strip').scrollHeight") < tall
    switch.check()
    assert any(page.evaluate(ABOVE))


@pytest.mark.parametrize("width", [320, 1280])
def test_hostile_proposals_are_text_and_nothing_leaves_the_strip(opened: Any, width: int) -> None:
    page = opened(synthetic.trace(60, seed=2, tokens=synthetic.HOSTILE), width)
    assert page.evaluate("window.hacked") is None
    assert any(page.evaluate(ABOVE))
    over = page.evaluate(
        """() => { const frame = document.querySelector('.sk-strip').getBoundingClientRect();
          return [...document.querySelectorAll('.sk-strip .sk-token')].filter((mark) => {
            const box = mark.getBoundingClientRect(); return box.right > frame.right + 1 || box.left < frame.left - 1;
          }).map((mark) => mark.textContent); }"""
    )
    assert over == []
