"""The page with the packaged pair behind it: ask, stop, continue from an alternative, share, and ask as a client."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import speckd
from tests.app.synthetic import HOSTILE

pytestmark = [pytest.mark.browser, pytest.mark.packaged, pytest.mark.slow]
LOADED = 150_000  # milliseconds: the first load may convert the teacher, and tests may share the machine
ANSWERED = 90_000

# Stop, clicked as soon as a little of the answer is on screen: what the page says at that moment, and the seconds until
# it has stopped. All of it in the page, or the answer could end between two looks from outside.
STOP_WHILE_WRITING = """
async () => {
  const status = document.querySelector(".sk-status");
  const turn = () => new Promise((done) => setTimeout(done));
  const written = () => (document.querySelector(".sk-strip.sk-pending") || { textContent: "" }).textContent.length;
  while (written() <= 12 && !["done", "failed"].includes(status.dataset.state)) await turn();
  const seen = { state: status.dataset.state, says: status.innerText, bars: document.querySelectorAll(
    "#inspector .sk-progress.sk-moving").length };
  const start = performance.now();
  document.querySelector(".sk-run").click();
  while (!["stopped", "done", "failed"].includes(status.dataset.state)) await turn();
  return { ...seen, seconds: (performance.now() - start) / 1000 };
}
"""


@pytest.fixture
def visitor(visit: Callable[..., Any], address_with_models: str) -> Any:
    one = visit(address=address_with_models)
    one.open(lanes=False)
    one.wait_for_state("ready", timeout=LOADED)
    return one


def setting(one: Any, **fields: Any) -> None:
    one.page.get_by_role("button", name="Settings:").click()
    for name, value in fields.items():
        field = one.page.locator(f".sk-drawer [data-field={name}]")
        if name == "source":
            one.page.locator(f".sk-drawer input[value='{value}']").check()
        elif field.evaluate("node => node.tagName") == "SELECT":
            field.select_option(str(value))
        else:
            field.fill(str(value))
    one.page.keyboard.press("Escape")


def answered(one: Any, before: int) -> dict[str, Any]:
    """The trace on screen once a new one is shown."""
    one.page.wait_for_function(
        "n => Number(document.querySelector('.sk-panel').dataset.shown) > n || "
        "document.querySelector('.sk-status').dataset.state === 'failed'",
        arg=before,
        timeout=ANSWERED,
    )
    assert one.shown() > before, one.status()
    return one.page.evaluate("document.querySelector('.sk-panel').inspector.picture.state.trace")


def test_shared_address_shows_the_same_answer(
    visitor: Any, visit: Callable[..., Any], address_with_models: str
) -> None:
    setting(visitor, max_new_tokens=6, seed=3, temperature=0.9, source="teacher+", student="young")
    visitor.page.locator(".sk-ask-text").fill("Name a colour & a number: 100% + #1?")
    before = visitor.shown()
    visitor.page.locator(".sk-run").click()
    trace = answered(visitor, before)
    visitor.page.locator(".sk-slider").evaluate("node => { node.value = 2; node.dispatchEvent(new Event('input')); }")
    visitor.page.locator(".sk-strip .sk-token").nth(1).click()
    visitor.page.wait_for_function("location.hash.includes('k=2&') && location.hash.includes('at=2')")
    fragment = visitor.page.evaluate("location.hash")
    two = visit(address=address_with_models)
    two.page.goto(address_with_models + fragment)
    two.page.wait_for_function("document.querySelector('.sk-chip-recorded')?.textContent === 'live'", timeout=ANSWERED)
    other = two.page.evaluate("document.querySelector('.sk-panel').inspector.picture.state.trace")
    assert other == trace
    assert two.page.locator(".sk-tar-value").inner_text() == visitor.page.locator(".sk-tar-value").inner_text()
    two.page.wait_for_selector(".sk-token[data-t='1'].sk-pinned")
    two.page.wait_for_timeout(300)
    assert two.page.evaluate("location.hash") == fragment


def test_hostile_question_and_text_are_read_and_never_run(visitor: Any) -> None:
    hostile = " ".join(text for text in HOSTILE)
    setting(visitor, source="given", response=hostile)
    visitor.page.locator(".sk-ask-text").fill(hostile)
    before = visitor.shown()
    visitor.page.locator(".sk-run").click()
    trace = answered(visitor, before)
    assert "onerror" in "".join(trace["tokens"]) and trace["config"]["source"] == "given"
    assert visitor.page.evaluate("window.hacked") is None
    assert visitor.page.locator(".sk-app img, .sk-app script").count() == 0


# Within a second on a free machine; who shares it with another test waits a little longer.
@pytest.mark.parametrize("patience", [3.0, pytest.param(1.0, marks=[pytest.mark.long, pytest.mark.alone])])
def test_ask_stop_run_and_continue_from_an_alternative(visitor: Any, patience: float) -> None:
    one = visitor
    setting(one, max_new_tokens=200)
    question = "Write a long story about bees."  # longer than it takes to stop it
    one.page.locator(".sk-ask-text").fill(question)
    one.page.locator(".sk-run").click()
    assert one.page.locator(".sk-run").inner_text() == "Stop"
    seen = one.page.evaluate(STOP_WHILE_WRITING)
    assert seen["state"] == "writing" and "token" in seen["says"] and seen["bars"] == 1, seen
    assert one.wait_for_state("stopped").startswith("Stopped")
    assert seen["seconds"] < patience, "Stop stops at once"
    assert one.page.locator(".sk-run").inner_text() == "Run"
    assert one.page.locator(".sk-chip-recorded").inner_text() == "recorded", "the picture before is back"

    setting(one, max_new_tokens=8)
    before = one.shown()
    one.page.locator(".sk-run").click()
    trace = answered(one, before)
    assert one.page.locator(".sk-chip-recorded").inner_text() == "live"
    assert trace["config"]["prompt"] == question and 1 <= len(trace["tokens"]) <= 8

    one.page.locator(".sk-strip .sk-token").nth(2).click()
    row = one.page.locator(".sk-row.sk-teacher").nth(1)
    chosen, before = int(row.get_attribute("data-id")), one.shown()
    row.click()
    continued = answered(one, before)
    start = trace["n_prompt"]
    assert continued["input_ids"][: start + 3] == [*trace["input_ids"][: start + 2], chosen]
    assert len(continued["tokens"]) > 3
    assert one.page.locator(".sk-strip .sk-token").nth(2).get_attribute("aria-selected") == "true"
    one.page.wait_for_function("location.hash.includes('start=')")
    assert "steered: its first 3 tokens" in one.page.locator(".sk-caption").inner_text()
    assert continued["config"]["prefix_ids"] == continued["input_ids"][start : start + 3]
    before = one.shown()
    one.page.go_back()
    one.page.wait_for_function("n => Number(document.querySelector('.sk-panel').dataset.shown) > n", arg=before)
    back = one.page.evaluate("document.querySelector('.sk-panel').inspector.picture.state.trace")
    assert back == trace and "steered" not in one.page.locator(".sk-caption").inner_text()
    assert one.page.evaluate("document.activeElement.closest('.sk-verdict') !== null"), "the keyboard is where it was"


@pytest.mark.parametrize(
    ("teacher", "student", "words"),
    [
        ("no/such-model", "no/such-model", "Hub"),
        pytest.param("{empty}", "{empty}", "config.json", marks=pytest.mark.long),
        pytest.param("", "", "no name", marks=pytest.mark.long),
    ],
)
def test_unknown_models_get_one_calm_sentence(
    visitor: Any, tmp_path: Path, teacher: str, student: str, words: str
) -> None:
    setting(visitor, student="own")
    fields = {"teacher": teacher.format(empty=tmp_path), "own": student.format(empty=tmp_path)}
    setting(visitor, **fields)
    visitor.page.locator(".sk-ask-text").fill("Why?")
    visitor.page.locator(".sk-run").click()
    sentence = visitor.wait_for_state("failed", timeout=ANSWERED)
    assert words in sentence and "Traceback" not in sentence and len(sentence) < 300
    assert visitor.page.locator(".sk-ask-text").input_value() == "Why?"


@pytest.fixture(scope="module")
def client(address_with_models: str) -> Any:
    from gradio_client import Client

    return Client(address_with_models, verbose=False)


def test_a_client_gets_the_trace_by_name(client: Any) -> None:
    answer = client.predict(
        prompt="Why?", response="Because it is so.", source="given", gate="topk", k=3, beta=0.5, api_name="/inspect"
    )
    trace = speckd.Trace.from_dict(answer)
    gate = speckd.TopK(k=3, beta=0.5)
    assert trace.response == "Because it is so."
    assert answer["gate"]["tar"] == pytest.approx(trace.tar(gate))
    assert answer["gate"]["gated"] == pytest.approx(trace.loss(gate))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"prompt": "  "}, "empty"),
        ({"prompt": "x" * 9_000}, "8,000"),
        ({"prompt": "Why?", "k": 0}, "1 to 50"),
        ({"prompt": "Why?", "k": 51, "gate": "speck"}, "1 to 50"),
        ({"prompt": "Why?", "beta": 1.5}, "0 to 1"),
        ({"prompt": "Why?", "gate": "evil"}, "topk, speck or none"),
        ({"prompt": "Why?", "temperature": 0}, "temperature"),
        ({"prompt": "Why?", "max_new_tokens": 99999}, "1,024"),
        ({"prompt": "🧪" * 8_000}, "2,048"),
    ],
)
def test_a_client_is_told_what_is_wrong(client: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        client.predict(**arguments, api_name="/inspect")


def test_only_inspect_and_distill_are_public(client: Any) -> None:
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert sorted(named) == ["/decode", "/distill", "/inspect"]
