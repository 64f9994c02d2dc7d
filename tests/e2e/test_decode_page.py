"""The Decode page: recorded decodings, a live one from models of straw, its files, its address; a real browser."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import speckd
from app.recorded import recorded_decodings
from tests.e2e.server import Server
from tests.e2e.test_access import findings, looks

pytestmark = pytest.mark.browser

SHIPPED = {one.name: one.record for one in recorded_decodings()}
STATE = "document.querySelector('#decoder .sk-panel').decoder.state()"
SECONDS = 60  # that a decoding of straw takes: time to stop it, on a busy machine too


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("decode"), "--stand-in", STAND_IN_SECONDS=str(SECONDS)) as one:
        yield one


class Decode:
    """One visitor on the Decode tab."""

    def __init__(self, visit: Any, fragment: str) -> None:
        self.page = visit.page
        self.page.goto(visit.address + fragment)
        self.page.wait_for_selector("#decoder .sk-round .sk-draft")

    def locate(self, selector: str) -> Any:
        return self.page.locator(f"#decoder {selector}")

    def state(self) -> Any:
        return self.page.evaluate(f"(({{ moment, pin, form }}) => ({{ moment, pin, form }}))({STATE})")

    def wait(self, condition: str) -> None:
        self.page.wait_for_function(condition)


@pytest.fixture
def decode(visit: Callable[..., Any], server: Server) -> Callable[..., Decode]:
    return lambda fragment="", **more: Decode(visit(address=server.url + "/", **more), "#tab=decode" + fragment)


def test_a_recorded_decoding_is_there_at_once_with_its_rounds_its_clock_and_its_lists(decode: Any) -> None:
    one, record = decode("&recorded=sampled&at=20.1"), SHIPPED["sampled"]
    one.wait(f"{STATE}.shown.id === 'recorded:sampled'")
    assert one.locate(".sk-round").count() == len(record.rounds)
    assert one.locate(".sk-clock-verify").count() == len(record.rounds)
    assert one.locate(".sk-clock-plain").count() == record.n_tokens
    step = record.rounds[19]
    chips = one.locate(".sk-round:nth-child(20) .sk-draft")
    assert chips.count() == len(step.tokens) + 1, "each drafted token, and the teacher's own"
    assert chips.nth(0).get_attribute("aria-pressed") is None and "drafted" in chips.nth(0).get_attribute("aria-label")
    card = one.locate(".sk-card")
    assert record.strings[step.tokens[0]].strip() in card.locator(".sk-verdict-heading").inner_text()
    assert "coin fell at" in card.locator(".sk-card-reason").inner_text()
    assert card.locator(".sk-row").count() == len(step.teacher_top[0]) + len(step.draft_top[0])
    one.locate(".sk-round:nth-child(20) .sk-own").click()
    assert card.locator(".sk-leftover").count() == min(6, len(step.leftover)), "the part of p above q"
    facts = one.locate(".sk-decode-facts").inner_text()
    assert "Lossless" in facts and "Where this was recorded" in facts


def test_step_scrub_and_keys_move_through_the_rounds(decode: Any) -> None:
    one = decode("&recorded=eagle", reduced_motion="reduce")
    one.wait(f"{STATE}.shown.id === 'recorded:eagle'")
    n = len(SHIPPED["eagle"].rounds)
    one.locate(".sk-scrubber").evaluate("(node) => { node.value = 0; node.dispatchEvent(new Event('input')); }")
    assert one.locate(".sk-round.sk-future").count() == n
    one.page.get_by_role("button", name="Next round").click()
    assert one.locate(".sk-round.sk-future").count() == n - 1
    assert one.locate(".sk-scrubber-step").inner_text() == f"round 1 of {n}"
    assert "After" in one.locate(".sk-clock-told").inner_text()
    one.locate(".sk-play").click()
    assert one.locate(".sk-round.sk-future").count() == 0, "without motion, Play goes to the end"
    one.locate(".sk-rounds .sk-draft").first.focus()
    one.page.keyboard.press("ArrowDown")
    one.page.keyboard.press("Enter")
    assert one.state()["pin"]["round"] == 1
    one.wait("location.hash.includes('at=2.')")
    assert one.locate(".sk-rounds .sk-draft[tabindex='0']").count() == 1, "the rows are one tab stop"


def test_trees_and_their_depth_are_drawn(decode: Any) -> None:
    one = decode("&recorded=ddd")
    one.wait(f"{STATE}.shown.id === 'recorded:ddd'")
    pin = one.state()["pin"]
    step = SHIPPED["ddd"].rounds[pin["round"]]
    assert one.locate(".sk-stage-sheet [data-node]").count() == len(step.tokens) + 1
    assert one.locate(".sk-edge-strong").count() == step.n_accepted
    assert one.locate(".sk-curve-dot").count() == len(step.checks)
    assert "threshold" in one.locate(".sk-stage-curve").get_attribute("aria-label") or step.checks[-1][1] < -0.9


def test_a_live_decoding_grows_round_by_round_and_is_kept_when_stopped(decode: Any, tmp_path: Path) -> None:
    one = decode()
    one.locate(".sk-ask-text").fill("What do bees eat?")
    one.locate(".sk-run").click()
    one.wait(f"{STATE}.shown.word === 'live' && document.querySelectorAll('#decoder .sk-round').length > 2")
    one.locate(".sk-run").click()
    one.page.wait_for_selector("#decoder .sk-status[data-state=stopped]")
    assert "what was decoded is kept" in one.locate(".sk-status-text").inner_text()
    with one.page.expect_download() as loading:
        one.page.locator("#decoder").get_by_role("button", name="Keep").click()
        one.page.get_by_role("button", name="Record as JSON").click()
    path = tmp_path / "record.json"
    loading.value.save_as(path)
    record = speckd.DecodeRecord.from_json(path)
    assert record.prompt == "What do bees eat?" and 2 < len(record.rounds) < len(SHIPPED["eagle"].rounds)
    assert one.locate(".sk-round").count() == len(record.rounds)
    one.locate("input[type=file]").set_input_files(path)
    one.wait(f"{STATE}.shown.word === 'opened'")
    broken = {"name": "cut.json", "mimeType": "application/json", "buffer": path.read_bytes()[:700]}
    one.locate("input[type=file]").set_input_files(broken)
    one.page.wait_for_selector("#decoder .sk-status[data-state=failed]")
    assert one.locate(".sk-round").count() == len(record.rounds), "nothing was changed"


def test_what_cannot_be_asked_for_is_one_sentence(decode: Any) -> None:
    one = decode("&q=Why%3F&draft=exit%3Alayer%3D0&lenience=0.3")
    assert one.locate(".sk-chip-lossy").inner_text() == "lossy, lenience 0.3", "in sight before anything is run"
    one.locate(".sk-run").click()
    one.page.wait_for_selector("#decoder .sk-status[data-state=failed]")
    assert "layer is 0" in one.locate(".sk-status-text").inner_text()
    assert one.state()["form"]["draft"] == "exit:layer=0" and one.locate(".sk-round").count() > 5


def test_the_page_that_is_kept_lives_without_a_server(browser: Any, tmp_path: Path) -> None:
    from app.tabs.decode import export

    path = tmp_path / "decoding.html"
    tree = SHIPPED["tree"]
    lossy = replace(tree, lossless=False, plain_ids=None, config={**tree.config, "lenience": 0.3})
    path.write_text(export(lossy, "html"), encoding="utf-8")
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = context.new_page()
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.goto(path.as_uri())
    assert page.locator(".sk-round").count() == len(SHIPPED["tree"].rounds)
    assert "lossy, lenience 0.3" in page.locator("header").inner_text()
    assert page.locator(".sk-promise-warn").inner_text().startswith("Lossy")
    page.locator(".sk-rounds .sk-draft").first.click()
    assert page.locator(".sk-card .sk-row").count() > 4
    assert "Lossy: it passes where p is at least 0.3" in page.locator(".sk-card").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert seen == [path.as_uri()]
    context.close()


@looks(390, dark=True)
def test_it_fits_and_axe_finds_nothing_serious(decode: Any, width: int, dark: bool) -> None:
    one = decode("&recorded=sampled", width=width, dark=dark)
    one.wait(f"{STATE}.shown.id === 'recorded:sampled'")
    assert findings(one.page) == []
    one.page.locator("#decoder").get_by_role("button", name="Settings:").click()
    assert findings(one.page) == []
    one.page.set_viewport_size({"width": 320, "height": 700})
    assert one.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_it_speaks_spanish(visit: Callable[..., Any], server: Server) -> None:
    one = Decode(visit(address=server.url + "/", fresh=True, locale="es-ES"), "#tab=decode&recorded=sampled")
    one.wait(f"{STATE}.shown.id === 'recorded:sampled'")
    assert "Donde se grabó" in one.locate(".sk-decode-facts").inner_text()
    assert one.locate(".sk-run").inner_text() == "Ejecutar"
    assert json.loads(one.page.evaluate("JSON.stringify(SpecKD.language.code)")) == "es"
