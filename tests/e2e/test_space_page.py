"""The page as strangers meet it on a Space, in a real browser: policy, place, limits, hostile text, nothing foreign."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.guard import POLICY
from app.settings import SMOLLM2
from speckd.packaged import STUDENTS
from tests.app import synthetic
from tests.e2e.server import Server

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    variables = {"SYSTEM": "spaces", "SPACE_ID": "someone/lab", "SPACE_HOST": "someone-lab.hf.space"}
    with Server(tmp_path_factory.mktemp("space"), "--stand-in", **variables) as one:
        yield one


@pytest.fixture
def stranger(visit: Callable[..., Any], space: Server) -> Any:
    """A visitor's page; at the end the fixture `visit` finds any error and any request to another host."""
    return visit(address=space.url + "/")


def test_each_tab_works_under_the_policy_and_nothing_foreign_is_asked_for(stranger: Any) -> None:
    answers: dict[str, dict[str, str]] = {}
    stranger.page.on("response", lambda answer: answers.update({answer.url: answer.headers}))
    stranger.open()
    stranger.wait_for_state("ready")
    own = [headers for url, headers in answers.items() if url.startswith(stranger.address)]
    assert len(own) > 5 and all(headers.get("content-security-policy") == POLICY for headers in own)
    stranger.page.locator(".sk-ask-text").fill("Why is the sea salty?")
    before = stranger.shown()
    stranger.page.locator(".sk-run").first.click()
    stranger.page.wait_for_function("n => Number(document.querySelector('.sk-panel').dataset.shown) > n", arg=before)
    tabs = stranger.page.get_by_role("tab").all()
    assert len(tabs) >= 2
    for number, tab in enumerate(tabs, start=1):
        tab.click()  # mounts its panel
        stranger.page.wait_for_function("n => document.querySelectorAll('.sk-panel').length >= n", arg=number)


def test_the_policy_is_enforced_by_the_browser(visit: Callable[..., Any], space: Server) -> None:
    one = visit(address=space.url + "/").open()
    tried = one.page.evaluate(
        """async () => {
          const outcome = {};
          outcome.fetch = await fetch("http://192.0.2.1/x").then(() => "sent", () => "refused");
          outcome.picture = await new Promise((done) => {
            const picture = new Image();
            picture.onload = () => done("sent");
            picture.onerror = () => done("refused");
            picture.src = "http://192.0.2.1/x.png";
          });
          return outcome;
        }"""
    )
    assert tried == {"fetch": "refused", "picture": "refused"}
    told = [error for error in one.errors if "Content Security Policy" in error]
    assert len(told) >= 2, "by the policy, not for want of a network"
    one.errors.clear()
    one.requests[:] = [url for url in one.requests if "192.0.2.1" not in url]


def test_the_hub_may_frame_the_page_and_others_may_not() -> None:
    ancestors = next(line for line in POLICY.split("; ") if line.startswith("frame-ancestors"))
    assert ancestors.split()[1:] == ["'self'", "https://huggingface.co", "https://*.hf.space"]


def test_the_page_says_where_it_runs_and_offers_listed_models_alone(stranger: Any) -> None:
    stranger.open(lanes=False)
    stranger.page.get_by_role("button", name="Settings:").click()
    assert "On a Hugging Face Space" in stranger.page.locator(".sk-place").inner_text()
    choice = stranger.page.locator(".sk-drawer [data-field=student]")
    offered = choice.evaluate("node => [...node.options].map((option) => option.value)")
    assert offered == [*STUDENTS, f"{SMOLLM2.student} {SMOLLM2.teacher}"]
    choice.select_option(offered[-1])
    stranger.page.keyboard.press("Escape")
    stranger.page.locator(".sk-ask-text").fill("Why?")
    stranger.page.locator(".sk-run").first.click()
    assert SMOLLM2.teacher in stranger.wait_for_state("failed"), "the pair was asked for; no Hub is here"


def test_a_question_beyond_the_limits_is_one_calm_sentence(stranger: Any) -> None:
    stranger.open(lanes=False)
    stranger.wait_for_state("ready")
    stranger.page.locator(".sk-ask-text").fill("x" * 2_001)
    stranger.page.locator(".sk-run").first.click()
    told = stranger.wait_for_state("failed")
    assert "2,000" in told and "Traceback" not in told


def test_hostile_text_is_inert_in_the_page_and_in_the_page_that_is_kept(
    stranger: Any, browser: Any, tmp_path: Path
) -> None:
    made = synthetic.trace(len(synthetic.HOSTILE), tokens=synthetic.HOSTILE)
    made["config"]["prompt"] = made["prompt"] = " ".join(synthetic.HOSTILE)
    stranger.open(lanes=False)
    stranger.show(made)
    assert stranger.page.evaluate("window.hacked") is None
    assert stranger.page.locator(".sk-app img, .sk-app script, .sk-panel img").count() == 0
    page = speckd_page(made)
    (tmp_path / "kept.html").write_text(page, encoding="utf-8")
    context = browser.new_context(offline=True)
    try:
        kept = context.new_page()
        asked: list[str] = []
        kept.on("request", lambda request: asked.append(request.url))
        kept.goto((tmp_path / "kept.html").as_uri())
        kept.wait_for_selector(".sk-strip .sk-token")
        assert kept.evaluate("window.hacked") is None
        assert kept.locator("body img").count() == 0
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    finally:
        context.close()


def speckd_page(trace: dict[str, Any]) -> str:
    import speckd
    from speckd.html import to_html

    return to_html(speckd.Trace.from_dict(json.loads(json.dumps(trace))))
