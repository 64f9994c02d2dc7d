"""The Inspect page without a model: what a visitor sees, reaches by keyboard, keeps, and can't break."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import speckd
from tests.app.synthetic import HOSTILE

pytestmark = pytest.mark.browser
RECORDED = Path(__file__).parents[2] / "assets" / "traces"


def text_of(visit: Any, selector: str) -> str:
    return visit.page.locator(selector).first.inner_text()


def test_first_screen_holds_everything_without_scrolling(visit: Callable[..., Any]) -> None:
    one = visit().open()
    for part in (
        ".sk-ask-text",
        ".sk-run",
        ".sk-segments",
        ".sk-slider",
        ".sk-tar-value",
        ".sk-strip",
        ".sk-lanes",
        ".sk-verdict",
    ):
        box = one.page.locator(part).first.bounding_box()
        assert box is not None, part
        assert box["y"] >= 0 and box["y"] + box["height"] <= 800 and box["x"] + box["width"] <= 1280, part
    assert one.page.evaluate("document.documentElement.scrollHeight") <= 800
    assert text_of(one, ".sk-chip-recorded") == "recorded"


def test_recorded_picture_says_what_made_it(visit: Callable[..., Any]) -> None:
    one = visit().open()
    config = speckd.Trace.from_json(RECORDED / "healed.json").config
    assert one.page.locator(".sk-ask-text").input_value() == config["prompt"]
    assert "healed student, packaged teacher" in text_of(one, ".sk-caption")
    assert config["teacher_sha256"] in (one.page.locator(".sk-caption-text").get_attribute("title") or "")


def test_gate_controls_agree_with_the_core(visit: Callable[..., Any]) -> None:
    one = visit().open()
    trace = speckd.Trace.from_json(RECORDED / "healed.json")
    requests = len(one.requests)
    for kind, k, beta, divergence in [
        ("topk", 1, 0.01, "forward_kl"),
        ("speck", 7, 0.2, "reverse_kl"),
        ("none", 7, 0.2, "jsd"),
        ("topk", 50, 0.0, "tvd"),
    ]:
        one.page.locator(f".sk-segments label[for$=-{kind}]").click()
        one.page.locator(".sk-number").fill(str(beta))
        one.page.locator(".sk-controls-more select").select_option(divergence)
        one.page.locator(".sk-slider").evaluate(
            "(node, k) => { node.value = k; node.dispatchEvent(new Event('input')); }", k
        )
        gate = speckd.AllOpen() if kind == "none" else speckd.gate_named(kind, k=k, beta=beta)
        accepted = trace.accepted(gate).tolist()
        shown = one.page.locator(".sk-strip .sk-token").evaluate_all(
            "nodes => nodes.map(n => n.classList.contains('sk-accepted'))"
        )
        assert shown == accepted
        assert text_of(one, ".sk-tar-value") == f"{math.floor(100 * trace.tar(gate) + 0.5)}%"
        gated = one.page.evaluate("document.querySelector('.sk-panel').inspector.picture.state.gated.gated")
        assert gated == pytest.approx(trace.loss(gate, divergence), rel=1e-5)
    assert len(one.requests) == requests, "the gate must never ask the server"


@pytest.mark.long
def test_accepted_and_rejected_differ_by_shape(visit: Callable[..., Any]) -> None:
    one = visit().open()
    look = """() => ['accepted', 'rejected'].map((kind) => {
      const mark = document.querySelector('.sk-strip .sk-token.sk-differs.sk-' + kind + ':not(.sk-pinned)');
      const style = getComputedStyle(mark, WORD);
      return [style.outlineStyle, style.backgroundImage !== 'none'];
    })"""
    styles = one.page.evaluate(look.replace("WORD", "'::before'"))  # the word that is judged: the student's
    assert styles == [["none", False], ["dashed", True]]
    one.page.get_by_label("the student’s word").uncheck()
    styles = one.page.evaluate(look.replace("WORD", "null"))
    assert styles == [["none", False], ["dashed", True]]


def test_keyboard_walks_pins_and_reads_out(visit: Callable[..., Any]) -> None:
    one = visit().open()
    tokens = one.page.locator(".sk-strip .sk-token")
    assert tokens.evaluate_all("nodes => nodes.filter(n => n.tabIndex === 0).length") == 1, "one tab stop"
    tokens.nth(0).focus()
    one.page.keyboard.press("ArrowRight")
    one.page.keyboard.press("ArrowRight")
    assert one.page.evaluate("document.activeElement.dataset.t") == "2"
    assert text_of(one, ".sk-verdict-title").startswith("token 3 of")
    one.page.keyboard.press("Enter")
    assert tokens.nth(2).get_attribute("aria-selected") == "true"
    one.page.keyboard.press("End")
    one.page.keyboard.press("ArrowUp")
    one.page.keyboard.press("Home")
    assert one.page.evaluate("document.activeElement.dataset.t") == "0"
    label = tokens.nth(0).get_attribute("aria-label") or ""
    assert "token 1" in label and ("accepted" in label or "rejected" in label) and "%" in label
    one.page.evaluate("document.activeElement.blur()")
    assert text_of(one, ".sk-verdict-title").startswith("token 3 of"), "the pin stays when the walk ends"


def lanes_box(one: Any) -> dict[str, float]:
    """Where the heatmap's cells are on the page."""
    return one.page.evaluate(
        """() => {
          const { lanes } = document.querySelector('#inspector .sk-panel').inspector;
          const box = lanes.sheet.getBoundingClientRect(), { l, t, w, h } = lanes.frame();
          return { x: box.left + l, y: box.top + t, width: w, height: h };
        }"""
    )


def test_strip_lanes_and_verdict_share_one_cursor(visit: Callable[..., Any]) -> None:
    one = visit().open()
    one.page.locator(".sk-strip .sk-token").nth(10).hover()
    assert text_of(one, ".sk-verdict-title").startswith("token 11 of")
    assert one.page.locator(".sk-lanes-cursor").is_visible()
    plot = lanes_box(one)
    n = one.page.locator(".sk-strip .sk-token").count()
    x = plot["x"] + plot["width"] * 20.5 / n
    one.page.mouse.move(x, plot["y"] + 30)
    one.page.wait_for_selector(f".sk-verdict-title >> text=token 21 of {n}")
    assert "sk-hovered" in (one.page.locator(".sk-strip .sk-token").nth(20).get_attribute("class") or "")
    one.page.mouse.click(x, plot["y"] + 30)
    one.page.wait_for_selector(".sk-strip .sk-token[data-t='20'].sk-pinned")


def test_heatmap_follows_the_gate(visit: Callable[..., Any], made_up: Callable[..., Any]) -> None:
    one = visit().open()
    trace = made_up(24)
    one.show(trace)
    one.page.locator(".sk-slider").evaluate("node => { node.value = 2; node.dispatchEvent(new Event('input')); }")
    accepted = [rank <= 2 for rank in trace["topk_threshold"]]
    weights = [1 if ok else 0.01 for ok in accepted]

    def cells() -> list[float]:
        """How dark each token's cell in the weight lane is, the second of six, on the sheet that answers the slider."""
        x, y, w, h = (lanes_box(one)[name] for name in ("x", "y", "width", "height"))
        return one.page.evaluate(
            """([x, y, w, h]) => {
              const sheet = document.querySelector('.sk-lanes-sheet'), at = sheet.getBoundingClientRect();
              const ratio = sheet.width / at.width, pen = sheet.getContext('2d');
              return Array.from({ length: 24 }, (_, i) => {
                const [left, top] = [x - at.left + (i + 0.2) * w / 24, y - at.top + h * 1.4 / 6];
                const cell = pen.getImageData(left * ratio, top * ratio, 8, 8).data;
                const ink = (at) => cell[at + 3] / 255 * (255 - cell[at]);  // on a white surface
                return Array.from({ length: 64 }, (_, i) => ink(4 * i)).reduce((sum, value) => sum + value) / 64;
              });
            }""",
            [x, y, w, h],
        )

    one.page.wait_for_timeout(100)  # the late parts are painted a frame later
    darkness = cells()
    assert [value > 90 for value in darkness] == accepted, "full weight is dark, masked is pale and hatched"
    assert all(value > 10 for value in darkness), "hatched, not blank"
    assert not any("plotly.js" in url for url in one.requests), "Plotly waits until somebody asks to zoom"
    one.page.get_by_role("button", name="Zoom").click()
    one.page.wait_for_function(
        "w => { const plot = document.querySelector('.sk-lanes .sk-plot[data-drawn] .sk-plot-area');"
        " const lane = plot && plot.data.find((one) => one.name === 'weight');"
        " return lane && JSON.stringify(lane.z[0]) === JSON.stringify(w); }",
        arg=weights,
    )
    assert one.page.locator(".sk-lanes .sk-plot").count() == 1
    one.page.wait_for_timeout(100)
    assert [value > 90 for value in cells()] == accepted, "the same above Plotly's"


def test_verdict_draws_the_boundary_and_the_proposals_fate(
    visit: Callable[..., Any], made_up: Callable[..., Any]
) -> None:
    one = visit().open()
    trace = made_up(24)
    one.show(trace)
    t = next(t for t, rank in enumerate(trace["topk_threshold"]) if 3 <= rank <= 10)
    rank = trace["topk_threshold"][t]
    one.page.locator(".sk-strip .sk-token").nth(t).click()
    set_k = "(node, k) => { node.value = k; node.dispatchEvent(new Event('input')); }"
    heights = []
    for k, fate in ((rank - 1, "rejected"), (rank, "accepted")):
        one.page.locator(".sk-slider").evaluate(set_k, k)
        assert fate in text_of(one, ".sk-verdict-heading")
        picture = one.page.locator(".sk-picture")
        assert f"sk-is-{fate}" in (picture.get_attribute("class") or "")
        dashes = one.page.locator(".sk-strong").get_attribute("stroke-dasharray")
        assert (dashes == "none") == (fate == "accepted")
        heights.append(one.page.locator(".sk-boundary").evaluate("n => new DOMMatrix(n.style.transform).f"))
    assert heights[1] - heights[0] == 21, "the boundary moves one row"
    far = next(t for t, rank in enumerate(trace["topk_threshold"]) if rank > 10)
    one.page.locator(".sk-strip .sk-token").nth(far).click()
    assert f"{trace['topk_threshold'][far]}" in (one.page.locator(".sk-picture").text_content() or "").replace(
        ",", ""
    ), "off the list, its rank is written"


def test_spec_k_shows_draws_with_their_coins(visit: Callable[..., Any], made_up: Callable[..., Any]) -> None:
    one = visit().open()
    trace = made_up(24)
    one.show(trace)
    one.page.locator(".sk-segments label[for$=-speck]").click()
    t = next(t for t, first in enumerate(trace["speck_threshold"]) if 2 <= first <= 5)
    one.page.locator(".sk-strip .sk-token").nth(t).click()
    draws = one.page.locator(".sk-draw")
    assert draws.count() == 16
    first = trace["speck_threshold"][t]
    assert draws.evaluate_all("nodes => nodes.findIndex(n => n.classList.contains('sk-first'))") == first - 1
    assert f"Draw {first}" in text_of(one, ".sk-reason")
    chances = text_of(one, ".sk-chances")
    assert "one random draw" in chances and "at least one of 5" in chances and "the proposal" in chances


def test_arithmetic_is_weight_times_divergence(visit: Callable[..., Any]) -> None:
    one = visit().open()
    state = one.page.evaluate(
        """() => { const { state } = document.querySelector('.sk-panel').inspector.picture; const t = state.pinned;
             return [state.gated.weights[t], state.gated.divergence[t], state.gated.shares[t]]; }"""
    )
    assert state[2] == pytest.approx(state[0] * state[1])
    words = text_of(one, ".sk-sum")
    assert f"{state[0]:.3g}" in words and "of the loss" in words and "if not gated" in words


def test_compare_matches_budgets_and_counts_agreement(visit: Callable[..., Any]) -> None:
    one = visit().open()
    one.page.get_by_role("button", name="Compare selectors").click()
    trace = speckd.Trace.from_json(RECORDED / "healed.json")
    m = round(trace.tar(speckd.TopK()) * trace.n_tokens)
    assert f"accepts {m} of {trace.n_tokens}" in text_of(one, ".sk-compare")
    kept = one.page.locator(".sk-rows tbody tr:not(.sk-soft) canvas").evaluate_all(
        "nodes => nodes.map(n => n.getAttribute('aria-label'))"
    )
    assert all(f"keeps {m} of" in label for label in kept if not label.startswith("Spec-k"))
    expected = speckd_jaccard(trace.accepted(speckd.TopK()), trace.kept_at_budget("adakd", m))
    cell = one.page.locator(".sk-jaccard tbody tr").nth(0).locator("td").nth(2).inner_text()
    assert float(cell) == pytest.approx(expected, abs=0.006)


def speckd_jaccard(a: Any, b: Any) -> float:
    return ((a & b).sum() / (a | b).sum()).item()


def test_address_holds_every_knob_and_opens_the_same(visit: Callable[..., Any]) -> None:
    one = visit().open()
    one.page.locator(".sk-segments label[for$=-speck]").click()
    one.page.locator(".sk-slider").evaluate("node => { node.value = 9; node.dispatchEvent(new Event('input')); }")
    one.page.locator(".sk-number").fill("0.25")
    one.page.locator(".sk-controls-more select").select_option("jsd")
    one.page.locator(".sk-strip .sk-token").nth(4).click()
    one.page.wait_for_function("location.hash.includes('at=5') && location.hash.includes('div=jsd')")
    fragment = one.page.evaluate("location.hash")
    for part in ("q=", "teacher=", "student=", "source=", "gate=speck", "k=9", "beta=0.25", "temp=", "seed=", "len="):
        assert part in fragment
    two = visit().open(fragment)
    two.page.wait_for_selector(".sk-token[data-t='4'].sk-pinned")
    for selector in (".sk-tar-value", ".sk-loss", ".sk-verdict"):
        assert text_of(two, selector) == text_of(one, selector)
    assert two.page.evaluate("location.hash") == fragment


@pytest.mark.parametrize(
    "fragments",
    [
        pytest.param(["#k=999&beta=7&gate=evil&at=0&div=__proto__", "#%E0%A4%A&&&=="], id="two"),
        pytest.param(["#at=100000&k=-1", "#gate=constructor"], id="two-more", marks=pytest.mark.long),
    ],
)
def test_broken_address_still_opens(visit: Callable[..., Any], fragments: list[str]) -> None:
    for fragment in fragments:
        one = visit().open(fragment)
        assert text_of(one, ".sk-k-value") == "5"
        assert one.page.locator(".sk-pinned").count() == 1


def test_settings_start_closed_and_open_by_keyboard(visit: Callable[..., Any]) -> None:
    one = visit().open()
    drawer = one.page.locator(".sk-drawer")
    assert not drawer.is_visible()
    button = one.page.get_by_role("button", name="Settings:")
    button.focus()
    one.page.keyboard.press("Enter")
    assert drawer.is_visible()
    one.page.get_by_label("text of your own").check()
    one.page.get_by_label("Text to read").fill("Because air scatters blue light.")
    one.page.wait_for_function("location.hash.includes('source=given') && location.hash.includes('given=Because')")
    one.page.keyboard.press("Escape")
    assert not drawer.is_visible()
    assert one.page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Settings")


def keep(one: Any, name: str) -> Any:
    one.page.get_by_role("button", name="Keep", exact=True).click()
    with one.page.expect_download() as download:
        one.page.locator(".sk-popup-keep button").filter(has_text=name).click()
    return download.value


def test_kept_files_hold_the_whole_trace(visit: Callable[..., Any], tmp_path: Path) -> None:
    one = visit().open()
    trace = speckd.Trace.from_json(RECORDED / "healed.json")
    kept = keep(one, "Trace as JSON")
    assert kept.suggested_filename == "speckd-why-is-the-sky-blue.json"
    assert speckd.Trace.from_json(Path(kept.path()).read_text(encoding="utf-8")) == trace
    table = Path(keep(one, "Table as CSV").path()).read_text(encoding="utf-8")
    assert len(list(csv.reader(io.StringIO(table)))) == trace.n_tokens + 1
    picture = Path(keep(one, "Picture as PNG").path()).read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n" and len(picture) > 50_000
    card = Path(keep(one, "Card to share").path()).read_bytes()
    assert [int.from_bytes(card[at : at + 4]) for at in (16, 20)] == [1200, 630] and len(card) > 30_000
    keep(one, "Page as HTML").save_as(tmp_path / "kept.html")
    two = visit(address=(tmp_path / "kept.html").as_uri())
    two.page.goto(two.address)
    two.page.wait_for_selector(".sk-strip .sk-accepted")
    assert text_of(two, ".sk-tar-value") == text_of(one, ".sk-tar-value")
    two.page.locator(".sk-slider").evaluate("node => { node.value = 50; node.dispatchEvent(new Event('input')); }")
    assert text_of(two, ".sk-tar-value") == f"{100 * trace.tar(speckd.TopK(k=50)):.0f}%"


@pytest.mark.long
def test_kept_json_opens_again(visit: Callable[..., Any]) -> None:
    one = visit().open()
    text = Path(keep(one, "Trace as JSON").path()).read_text(encoding="utf-8")
    one.show(json.loads(text))
    assert text_of(one, ".sk-chip-recorded") == "opened"
    assert "Opened trace.json" in one.status()


BROKEN = [
    (b"{", "not a trace"),
    (b"/etc/passwd", "not a trace"),
    (b"[" * 100_000, "not a trace"),
    (b'{"format": "speckd.trace", "version": 99}', "version"),
    (b'{"format": "speckd.trace", "version": 1}', "broken"),
    (b"\xff\xfe\x00", "not a trace"),
]


def test_each_broken_trace_file_gets_one_calm_sentence(visit: Callable[..., Any]) -> None:
    one = visit().open()
    before = text_of(one, ".sk-strip")
    for i, (content, words) in enumerate(BROKEN):
        one.page.evaluate("document.querySelector('.sk-status').dataset.state = 'not yet'")
        name = f"broken-{i}.json"
        one.page.set_input_files("input[type=file]", {"name": name, "mimeType": "application/json", "buffer": content})
        sentence = one.wait_for_state("failed")
        assert words in sentence and "Traceback" not in sentence and len(sentence) < 250, content[:40]
        assert text_of(one, ".sk-strip") == before, "what was on screen stays"


def test_hostile_text_is_shown_and_never_run(
    visit: Callable[..., Any], made_up: Callable[..., Any], tmp_path: Path
) -> None:
    one = visit().open()
    trace = made_up(len(HOSTILE), tokens=HOSTILE)
    prompt = "".join(HOSTILE)
    trace["prompt"] = trace["config"]["prompt"] = prompt
    trace["config"]["teacher"] = trace["config"]["student"] = HOSTILE[0]
    one.show(trace)
    for t in range(len(HOSTILE)):
        one.page.locator(".sk-strip .sk-token").nth(t).focus()
        one.page.keyboard.press("Enter")
    one.page.get_by_role("button", name="Compare selectors").click()
    plot = lanes_box(one)
    for t in range(len(HOSTILE)):
        one.page.mouse.move(plot["x"] + plot["width"] * (t + 0.5) / len(HOSTILE), plot["y"] + 20)
    assert one.page.evaluate("window.hacked") is None
    assert one.page.locator(".sk-app img, .sk-app script, .sk-app b:has-text('bold')").count() == 0
    assert "<img src=x onerror=" in text_of(one, ".sk-strip")
    assert "${window.hacked=1}" in text_of(one, ".sk-strip") and "{{constructor" in text_of(one, ".sk-strip")
    assert "␀" in text_of(one, ".sk-strip") and "⟨U+202E⟩" in text_of(one, ".sk-strip")
    keep(one, "Page as HTML").save_as(tmp_path / "hostile.html")
    two = visit(address=(tmp_path / "hostile.html").as_uri())
    two.page.goto(two.address)
    two.page.wait_for_selector(".sk-strip .sk-token")
    assert two.page.evaluate("window.hacked") is None
    assert two.page.locator(".sk-strip .sk-token").count() == len(HOSTILE)


@pytest.mark.long
def test_ten_thousand_emoji_as_tokens(visit: Callable[..., Any], made_up: Callable[..., Any]) -> None:
    one = visit().open()
    one.show(made_up(40, tokens=["🧪" * 250]))
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 1280


def test_each_bad_question_gets_one_calm_sentence(visit: Callable[..., Any]) -> None:
    one = visit().open()
    for question, words in (("", "empty"), ("   \n ", "empty"), ("🧪" * 10_000, "limit here is 8,000")):
        one.page.evaluate("document.querySelector('.sk-status').dataset.state = 'not yet'")
        one.page.locator(".sk-ask-text").fill(question)
        one.page.locator(".sk-run").click()
        sentence = one.wait_for_state("failed")
        assert words in sentence and len(sentence) < 250
        field = one.page.locator(".sk-ask-text")
        assert field.input_value() == question, "nothing is lost"
        assert text_of(one, ".sk-ask .sk-field-error") == sentence and field.get_attribute("aria-invalid") == "true"
        assert text_of(one, ".sk-run") == "Run"


def test_a_failure_opens_the_drawer_at_its_field(visit: Callable[..., Any]) -> None:
    one = visit().open("#q=Why?&len=0&student=trained:somebodys-0")
    assert "only its visitor has" in text_of(one, ".sk-notice")
    assert one.page.locator(".sk-drawer [data-field=student]").input_value() == "healed"
    one.wait_for_state("failed")  # what an address asks for is run
    field = one.page.locator(".sk-drawer [data-field=max_new_tokens]")
    assert field.is_visible() and one.page.evaluate("document.activeElement.dataset.field") == "max_new_tokens"
    assert "choose a whole number" in text_of(one, ".sk-drawer .sk-field-error")
    field.fill("5")
    assert one.page.locator(".sk-field-error").count() == 0 and field.get_attribute("aria-invalid") is None


@pytest.mark.long
def test_out_of_range_beta_is_marked_and_not_used(visit: Callable[..., Any]) -> None:
    one = visit().open()
    loss = text_of(one, ".sk-loss")
    beta = one.page.locator(".sk-number")
    beta.fill("7")
    assert beta.get_attribute("aria-invalid") == "true"
    assert text_of(one, ".sk-loss") == loss
    beta.blur()
    assert beta.input_value() == "0.01"


@pytest.mark.parametrize("dark", [True, pytest.param(False, marks=pytest.mark.long)])
def test_phone_has_no_sideways_scroll(visit: Callable[..., Any], dark: bool) -> None:
    one = visit(width=390, height=844, dark=dark, has_touch=True).open()
    order = [
        one.page.locator(part).first.bounding_box()["y"]
        for part in (".sk-ask-text", ".sk-strip", ".sk-verdict", ".sk-lanes")
    ]
    assert order == sorted(order), "question, strip, verdict, lanes"
    one.page.get_by_role("button", name="Compare selectors").click()
    assert one.page.evaluate("document.documentElement.scrollWidth") <= 390
    one.page.locator(".sk-strip .sk-token").nth(3).tap()
    assert text_of(one, ".sk-verdict-title").startswith("token 4 of")


@pytest.mark.long
def test_theme_follows_the_visitor(visit: Callable[..., Any]) -> None:
    grounds = [
        visit(dark=dark).open().page.evaluate("getComputedStyle(document.querySelector('.sk-app')).backgroundColor")
        for dark in (False, True)
    ]
    assert grounds == ["rgb(247, 247, 245)", "rgb(18, 20, 23)"]


@pytest.mark.long
def test_new_picture_moves_nothing_else(visit: Callable[..., Any], made_up: Callable[..., Any]) -> None:
    one = visit().open()
    parts = (".sk-top", ".sk-second", ".sk-strip-box", ".sk-lanes-box", ".sk-foot")
    places = [one.page.locator(part).bounding_box() for part in parts]
    where = "nodes => nodes.map(node => [node.offsetLeft, node.offsetTop])"
    words = one.page.locator(".sk-strip .sk-token").evaluate_all(where)
    one.page.locator(".sk-slider").evaluate("node => { node.value = 50; node.dispatchEvent(new Event('input')); }")
    assert one.page.locator(".sk-strip .sk-token").evaluate_all(where) == words, "a slider moves no word"
    one.show(made_up(256))
    one.page.locator(".sk-segments label[for$=-speck]").click()
    one.page.locator(".sk-slider").evaluate("node => { node.value = 1; node.dispatchEvent(new Event('input')); }")
    assert [one.page.locator(part).bounding_box() for part in parts] == places
