"""The Distill page without a model: made-up runs stand behind it (tests/e2e/scripted.py), the browser is real."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.app import synthetic
from tests.e2e.test_access import findings, looks

pytestmark = pytest.mark.browser

PANEL = "document.querySelector('#distiller .sk-panel')"
STATE = f"{PANEL}.distiller.state()"
PROBE = f"{PANEL}.distiller.probe"
SET = "(node, value) => { node.value = value; node.dispatchEvent(new Event('input', { bubbles: true })); }"


class Distill:
    """One visitor on the Distill tab."""

    def __init__(self, visit: Any, fragment: str = "#tab=distill", before: str = "") -> None:
        self.visit, self.page = visit, visit.page
        if before:
            self.page.add_init_script(before)
        self.page.goto(visit.address + fragment)
        self.page.wait_for_selector("#distiller .sk-race-plot .sk-plot[data-drawn]")

    def wait(self, condition: str, arg: Any = None) -> None:
        self.page.wait_for_function(condition, arg=arg)

    def value(self, expression: str) -> Any:
        return self.page.evaluate(expression)

    def locate(self, selector: str) -> Any:
        return self.page.locator(f"#distiller {selector}")

    def settle(self) -> "Distill":
        """Until the recorded run has played."""
        self.wait(f"!{STATE}.playing && Number({PANEL}.dataset.moment) > 0")
        return self

    def scrub(self, step: int) -> None:
        self.locate(".sk-scrubber").evaluate(SET, str(step))

    def set_k(self, k: int) -> None:
        self.locate(".sk-probe-k .sk-slider").evaluate(SET, str(k))

    def script(self, words: str) -> None:
        """Tell the script behind the page what the next run does, in the settings' drawer."""
        self.locate(".sk-top .sk-icon-button").click()
        self.locate(".sk-drawer input[data-field=data][value=pasted]").check()
        self.locate(".sk-drawer textarea[data-field=text]").fill(words)
        self.page.keyboard.press("Escape")

    def start(self) -> None:
        self.locate(".sk-run").click()

    def wait_for_state(self, state: str) -> str:
        self.page.wait_for_selector(f"#distiller .sk-status[data-state={state}]")
        return self.status()

    def status(self) -> str:
        return self.locate(".sk-status-text").inner_text()

    def strip(self) -> list[bool]:
        return self.locate(".sk-probe-strip .sk-token").evaluate_all(
            "nodes => nodes.map((node) => node.classList.contains('sk-accepted'))"
        )


@pytest.fixture
def distill(visit: Callable[..., Any], address_of_runs: str) -> Iterator[Callable[..., Distill]]:
    def make(fragment: str = "#tab=distill", before: str = "", **more: Any) -> Distill:
        return Distill(visit(address=address_of_runs, fresh=bool(before), **more), fragment, before)

    yield make


@pytest.fixture
def still(distill: Callable[..., Distill]) -> Distill:
    """A visitor who wants no motion: the recorded run is on screen at once."""
    return distill(reduced_motion="reduce").settle()


def probes(events: list[dict[str, Any]], racer: int) -> list[dict[str, Any]]:
    return [event for event in events if event["kind"] == "probe" and event["racer"] == racer]


def rows(events: list[dict[str, Any]], racer: int) -> list[dict[str, Any]]:
    return [event["row"] for event in events if event["kind"] == "row" and event["racer"] == racer]


def accepted(probe: dict[str, Any], k: int, column: str = "topk_threshold") -> list[bool]:
    return [threshold <= k for threshold in probe[column]]


# --- the recorded run


def test_first_screen_holds_everything_without_scrolling(still: Distill) -> None:
    parts = ("run", "scrubber", "race-charts", "probe-canvas", "probe-strip", "distill-side", "status")
    for part in (f".sk-{name}" for name in parts):
        box = still.locate(part).bounding_box()
        assert box is not None, part
        assert box["y"] >= 0 and box["y"] + box["height"] <= 800 and box["x"] + box["width"] <= 1280, part
    assert still.value("document.documentElement.scrollHeight") <= 800
    assert still.locate(".sk-chip-recorded").inner_text() == "recorded"


def test_recorded_run_plays_by_itself_once_and_rows_appear_one_by_one(distill: Callable[..., Distill]) -> None:
    watch = (
        f"window.seen = []; setInterval(() => {{ const panel = {PANEL}; if (panel && panel.dataset.moment)"
        f" window.seen.push([Number(panel.dataset.moment), {PROBE}.state().rows.length]); }}, 10)"
    )
    one = distill(before=watch).settle()
    one.wait("window.seen.at(-1)[0] === 24")
    seen = one.value("window.seen")
    steps = [step for step, _ in seen]
    assert steps == sorted(steps) and len(set(steps)) > 8 and steps[-1] == 24
    assert all(count == step + 1 for step, count in seen), "a row for each step so far, and none that is to come"
    assert one.value(f"{PANEL}.distiller.state().moment") == 24


def test_the_outcome_waits_for_the_end_and_a_bet_is_told(distill: Callable[..., Distill]) -> None:
    one = distill()
    assert one.locate(".sk-outcome").is_hidden() and one.locate(".sk-held small").count() == 0
    assert one.locate(".sk-bet h2").inner_text() == "Your bet"
    one.locate(".sk-bet-ask input[value='1']").first.check(force=True)
    one.settle()
    one.wait(f"!{STATE}.playing && {STATE}.moment === 24")
    assert "reached the lower divergence" in one.locate(".sk-outcome").inner_text()
    assert one.locate(".sk-held small").count() > 0, "changes are told with the outcome"
    told = one.locate(".sk-bet-told li").first.inner_text()
    last = [one.value(f"{STATE}.shown.racers[{i}].heldOut")[-1]["divergence"] for i in (0, 1)]
    assert told.startswith("✓" if last[1] < last[0] else "✕") and "Lower held-out divergence: " in told
    assert one.locate(".sk-bet h2").inner_text() == "Bet on the next run"
    one.locate(".sk-scrubber").evaluate("node => { node.value = 13; node.dispatchEvent(new Event('input')); }")
    lines = one.locate(".sk-saying-text").all_inner_texts()
    assert lines == ["One answer after 12 steps, and then another one."] * 2
    assert one.locate(".sk-saying .sk-new").first.inner_text().startswith("12 steps"), "what is new is marked"
    assert one.locate(".sk-outcome").is_visible(), "what has been told stays told"


def test_loops_are_found_and_random_tokens_take_the_other_racers_share(still: Distill) -> None:
    looping = ["It", " is", *[" a", " classic", " example", " of"] * 3, " a"]
    assert still.page.evaluate("tokens => SpecKD.loopIn(tokens)", looping).strip() == "a classic example of"
    assert still.page.evaluate("tokens => SpecKD.loopIn(tokens)", [f" word{n}" for n in range(30)]) == ""
    own = still.value(f"{STATE}.shown.racers[0].rows.map((row) => row.tar)")
    still.locate("select[data-field=gate-1]").select_option("random")
    rate = round(sum(own) / len(own), 2)
    assert still.value(f"{STATE}.form.gates[1]") == f"random:rate={rate}:beta=0.01"
    assert float(still.locate("input[data-field=rate-1]").input_value()) == rate
    share = still.page.evaluate(
        f"async () => {{ const run = {STATE}.shown, host = document.querySelector('#distiller .sk-app');"
        " const card = await SpecKD.shareCard(SpecKD.raceCardOf({ run, moment: 12, host }));"
        " const { width, height } = await createImageBitmap(card); return [width, height, card.type]; }"
    )
    assert share == [1200, 630, "image/png"]


def test_without_motion_nothing_plays_until_asked(still: Distill) -> None:
    assert still.value(f"{STATE}.playing") is False and still.value(f"{STATE}.moment") == 24
    still.page.get_by_role("button", name="Play the run").click()
    still.wait(f"{STATE}.playing && {STATE}.moment > 2")
    still.page.get_by_role("button", name="Pause").click()
    assert still.value(f"{STATE}.playing") is False
    assert still.value(f"{PROBE}.state().rows.length") == 25, "paused, the whole run is there"


def test_scrubber_moves_every_picture_to_one_moment(still: Distill) -> None:
    events = synthetic.recording()
    still.scrub(9)
    assert still.locate(".sk-now h2").inner_text() == "At step 9"
    shown = still.locate(".sk-figure-loss td").all_inner_texts()
    assert shown == [f"{rows(events, racer)[8]['loss']:#.3g}" for racer in (0, 1)]
    assert still.locate(".sk-probe-strip .sk-strip").get_attribute("data-step") == "9"
    assert still.strip() == accepted(probes(events, 0)[9], 5)
    assert still.locate(".sk-race-moment").first.is_visible()
    still.locate(".sk-scrubber").focus()
    still.page.keyboard.press("ArrowLeft")
    assert still.locate(".sk-now h2").inner_text() == "At step 8"
    assert still.locate(".sk-scrubber").get_attribute("aria-valuetext") == "step 8 of 24"


def test_charts_hold_the_very_numbers_of_the_run(still: Distill) -> None:
    events = synthetic.recording()
    for quantity in ("loss", "divergence", "tar"):
        data = still.value(f"document.querySelector('#distiller [data-quantity={quantity}] .sk-plot-area').data")
        for racer in (0, 1):
            line, held_out = data[3 * racer], data[3 * racer + 1]
            assert line["x"] == list(range(1, 25))
            assert line["y"] == pytest.approx([row[quantity] for row in rows(events, racer)])
            scores = [e for e in events if e["kind"] == "held_out" and e["racer"] == racer]
            assert held_out["x"] == [event["step"] for event in scores]
            if quantity != "loss":
                assert held_out["y"] == pytest.approx([event["scores"][quantity] for event in scores])
        assert data[0]["line"]["dash"] != data[3]["line"]["dash"], "racers differ by dash"
        assert data[1]["marker"]["symbol"] != data[4]["marker"]["symbol"], "racers differ by marker"


@pytest.mark.long
def test_another_recorded_run_can_be_chosen(still: Distill) -> None:
    still.locate("select[aria-label='Recorded run']").select_option("speck")
    still.wait(f"{STATE}.shown.racers.length === 1")
    events = synthetic.recording(gates=["speck:k=3:beta=0"], seed=4, n=30)
    state = still.value(f"(({{ rows, knobs, accepted }}) => ({{ n: rows.length, knobs, accepted }}))({PROBE}.state())")
    assert state["knobs"] == {"kind": "speck", "k": 3}, "the racer's own gate marks its rows"
    assert state["accepted"] == [accepted(probe, 3, "speck_threshold") for probe in probes(events, 0)]


# --- the probe


def test_probe_re_gates_as_the_thresholds_say(still: Distill) -> None:
    events = synthetic.recording()
    requests = len(still.visit.requests)
    for racer in (0, 1):
        still.locate(".sk-probe-head label").nth(racer).click()
        for k in (1, 5, 17, 50):
            still.set_k(k)
            expected = [accepted(probe, k) for probe in probes(events, racer)]
            assert still.value(f"{PROBE}.state().accepted") == expected
            assert still.strip() == expected[-1]
            rate = sum(expected[-1]) / len(expected[-1])
            assert still.locate(".sk-probe-moment b").last.inner_text() == f"{100 * rate + 1e-9:.0f}%"
            still.wait(
                "rate => document.querySelector('#distiller .sk-probe-canvas').getAttribute('aria-label')"
                ".endsWith(rate + '% at last.')",
                arg=f"{100 * rate + 1e-9:.0f}",
            )
    assert len(still.visit.requests) == requests, "the probe never asks the server"


@pytest.mark.long
def test_accepted_and_rejected_cells_differ_by_hatching(still: Distill) -> None:
    still.wait("Number(document.querySelector('#distiller .sk-probe-canvas').dataset.painted) > 0")
    spread = still.value(
        f"""() => {{  // how many colours a cell has, in its middle
          const canvas = document.querySelector('#distiller .sk-probe-canvas');
          const pen = canvas.getContext('2d');
          const ratio = canvas.width / canvas.clientWidth;
          const {{ accepted }} = {PROBE}.state();
          const colours = (row, t) => {{
            const at = {PROBE}.cellCentre(row, t);
            const data = pen.getImageData((at.x - 5) * ratio, (at.y - 2) * ratio, 10 * ratio, 4 * ratio).data;
            const found = new Set();
            for (let i = 0; i < data.length; i += 4) found.add(data.slice(i, i + 3).join());
            return found.size;
          }};
          const pick = (wanted) => [2, 6, 11, 17].map((row) => colours(row, accepted[row].indexOf(wanted)));
          return [pick(true), pick(false)];
        }}"""
    )
    assert all(count == 1 for count in spread[0]), "an accepted cell is plain"
    assert all(count > 1 for count in spread[1]), "a rejected cell is hatched"


@pytest.mark.long
def test_clicking_a_row_shows_the_strip_of_that_step(still: Distill) -> None:
    events = synthetic.recording()
    for row, token in ((6, 3), (17, 20)):
        at = still.value(f"{PROBE}.cellCentre({row}, {token})")
        still.locate(".sk-probe-canvas").hover(position=at)
        probe = probes(events, 0)[row]
        words = still.locate(".sk-probe-readout").inner_text()
        assert f"step {row}, token {token + 1}" in words and probe["proposal"][token].strip() in words
        assert ("accepted" if probe["topk_threshold"][token] <= 5 else "rejected") in words
        assert f"{probe['topk_threshold'][token]:,}" in words, "the threshold: the proposal's rank"
        still.locate(".sk-probe-canvas").click(position=at)
        assert still.locate(".sk-probe-strip .sk-strip").get_attribute("data-step") == str(row)
        assert still.strip() == accepted(probe, 5)
        assert still.locate(".sk-now h2").inner_text() == f"At step {row}"


def test_keyboard_walks_the_cells_and_reads_them_out(still: Distill) -> None:
    canvas = still.locate(".sk-probe-canvas")
    canvas.focus()
    for key in ("PageUp", "Home", "ArrowDown", "ArrowDown", "ArrowRight"):
        still.page.keyboard.press(key)
    assert still.value(f"{PROBE}.state().cell") == {"row": 2, "t": 1}
    spoken = still.locate(".sk-probe [aria-live]").inner_text()
    assert spoken.startswith("Step 2, token 2, sky.") and "at k 5" in spoken
    still.page.keyboard.press("Enter")
    assert still.locate(".sk-probe-strip .sk-strip").get_attribute("data-step") == "2"


# --- a live run


def test_live_rows_arrive_in_order_and_pictures_are_never_rebuilt(still: Distill) -> None:
    still.value("document.querySelectorAll('#distiller .sk-plot, #distiller canvas').forEach((n) => { n.mark = 1; })")
    still.value(
        "window.told = []; const words = document.querySelector('#distiller .sk-status-text');"
        "new MutationObserver(() => window.told.push(words.textContent)).observe(words, { childList: true })"
    )
    still.locate("input[data-field=steps]").fill("12")
    still.start()
    assert still.locate(".sk-run").inner_text() == "Stop"
    still.wait(f"{STATE}.shown === {STATE}.live.run && {STATE}.shown.racers[0].rows.length > 2")
    assert still.locate(".sk-chip-recorded").inner_text() == "live"
    assert "through" in still.wait_for_state("done")
    told = still.value("window.told")
    assert told[:2] == ["Asking.", "One run is ahead of yours."]
    assert any(re.fullmatch(r"Step \d+ of 12, racer B\. About \d+ s left\.", words) for words in told)
    still.wait(f"{STATE}.shown.verdict !== null && {STATE}.shown.kept !== null")
    steps = still.value(f"{STATE}.shown.racers.map((racer) => racer.rows.map((row) => row.step))")
    assert steps == [list(range(1, 13))] * 2
    marks = still.value(
        "[...document.querySelectorAll('#distiller .sk-plot, #distiller canvas')].map((n) => n.mark || 0)"
    )
    assert len(marks) >= 4 and all(marks), "updated in place"
    still.page.wait_for_selector("#distiller .sk-held small")  # what came last is drawn together
    verdict = synthetic.recording()[-1]
    assert still.locate(".sk-outcome").inner_text() == verdict["text"]
    assert still.locate(".sk-held thead th").all_inner_texts() == ["before", "A", "B"]
    words = still.locate(".sk-held tbody tr").first.inner_text().split()
    before, *after = still.value(
        f"""(({{ racers }}) => [racers[0].heldOut[0], ...racers.map((one) => one.heldOut.at(-1))].map(
            (at) => at.divergence))({STATE}.shown)"""
    )
    figures = still.page.evaluate(
        """([before, after]) => [SpecKD.format(before, "nats"), ...after.flatMap((x) =>
            [SpecKD.format(x, "nats"), SpecKD.format(x - before, "nats", { signed: true })])]""",
        [before, after],
    )
    assert words[-5:] == figures, "one formatter, and the change since before the run"
    assert still.locate(".sk-run").inner_text() == "Start"


@pytest.mark.long
def test_a_gap_in_the_updates_is_filled_from_the_log(still: Distill) -> None:
    asked: list[Any] = []
    still.page.on(
        "request",
        lambda r: asked.append(r.post_data) if "component_server" in r.url and "log" in (r.post_data or "") else None,
    )
    still.script("gap please")
    still.locate("input[data-field=steps]").fill("10")
    still.start()
    still.wait_for_state("done")
    events = synthetic.recording(10, kept=True)
    still.wait(f"n => {STATE}.live.run.n === n", arg=len(events))
    assert asked, "the log was asked"
    run = still.value(f"{STATE}.live.run.racers.map((racer) => [racer.rows, racer.probes, racer.heldOut])")
    for racer in (0, 1):
        assert [row["step"] for row in run[racer][0]] == list(range(1, 11))
        assert [row["loss"] for row in run[racer][0]] == pytest.approx([row["loss"] for row in rows(events, racer)])
        assert [probe["tvd"] for probe in run[racer][1]] == [probe["tvd"] for probe in probes(events, racer)]
        assert [point["step"] for point in run[racer][2]] == [0, 5, 10]


STOP = """async () => {
  const button = document.querySelector('#distiller .sk-run');
  const status = document.querySelector('#distiller .sk-status');
  button.click();
  const words = document.querySelector('#distiller .sk-status-text').textContent;
  const meanwhile = [button.textContent, button.getAttribute('aria-busy')];
  button.click();  // a second click changes nothing
  while (button.textContent !== 'Start') await new Promise((done) => setTimeout(done, 5));
  return [words, meanwhile, status.dataset.state, button.getAttribute('aria-busy')];
}"""


@pytest.mark.parametrize("kind", ["endless", "deaf"])
def test_stop_is_busy_until_it_has_stopped_and_keeps_what_was_reached(still: Distill, kind: str) -> None:
    still.script(kind)
    still.start()
    still.wait(f"{STATE}.shown === {STATE}.live.run && {STATE}.shown.racers[0].rows.length > 3")
    words, meanwhile, state, busy = still.value(STOP)
    assert words.startswith("Stopping") and meanwhile == ["Stopping", "true"]
    assert state == "stopped" and busy is None, "the button is free when the server has said its last word"
    assert "kept" in still.wait_for_state("stopped")
    reached = still.value(f"{STATE}.shown.racers[0].rows.length")
    assert reached > 3 and still.locate(".sk-chip-recorded").inner_text() == "live"
    still.script("again")
    still.locate("input[data-field=steps]").fill("4")
    still.start()
    still.wait(f"{STATE}.shown.steps === 4")
    still.wait_for_state("done")


def test_leaving_asks_only_while_a_run_of_ones_own_would_be_lost(still: Distill) -> None:
    asked: list[str] = []

    def reload() -> None:
        still.page.reload()
        still.page.wait_for_selector("#distiller .sk-race-plot .sk-plot[data-drawn]")
        still.settle()

    still.page.on("dialog", lambda dialog: asked.append(dialog.type))  # conftest.py says yes to each
    still.locate(".sk-scrubber").click()  # a browser asks for nobody who touched nothing
    reload()
    assert asked == [], "a recorded run is not lost"
    still.script("endless")
    still.start()
    still.wait(f"{STATE}.shown === {STATE}.live.run && {STATE}.shown.racers[0].rows.length > 1")
    reload()
    assert asked == ["beforeunload"]
    assert still.locate(".sk-chip-recorded").inner_text() == "recorded", "after the question the run is plainly gone"
    # Gradio's client tells of the stream that the reload cut off
    still.visit.errors[:] = [one for one in still.visit.errors if not re.search("AbortError|errored out", one)]


def test_a_race_is_kept_as_a_film(still: Distill) -> None:
    still.value("(now => { performance.now = () => 3 * now(); })(performance.now.bind(performance))")  # eight seconds
    still.page.get_by_role("button", name="Keep", exact=True).click()
    with still.page.expect_download() as download:
        still.page.get_by_role("button", name="Race as a film").click()
    film = Path(download.value.path()).read_bytes()
    assert download.value.suggested_filename == "speckd-race.webm"
    assert film.startswith(b"\x1aE\xdf\xa3") and b"webm" in film[:64] and len(film) > 5000
    assert still.status() == "The film is saved."


@pytest.mark.long
def test_a_visitor_who_looks_back_is_left_alone(still: Distill) -> None:
    still.script("endless")
    still.start()
    still.wait(f"{STATE}.shown === {STATE}.live.run && {STATE}.shown.newest.step > 6")
    still.scrub(3)
    still.wait(f"{STATE}.shown.newest.step > 12")
    assert still.value(f"{STATE}.moment") == 3
    still.locate(".sk-scrubber").evaluate(SET, "500")  # beyond the newest: follow again
    newest = still.value(f"{STATE}.moment")
    still.wait(f"n => {STATE}.moment > n", arg=newest)
    still.start()
    still.wait_for_state("stopped")


# --- failures and settings


def test_a_failure_is_one_sentence_and_no_setting_is_lost(still: Distill) -> None:
    still.script("refuse this\nand that")
    fields = {"learning_rate": "1000000", "batch_size": "3", "beta": "0.2", "seed": "7"}
    still.locate(".sk-top .sk-icon-button").click()
    for name, value in fields.items():
        still.locate(f".sk-drawer input[data-field={name}]").fill(value)
    still.page.keyboard.press("Escape")
    still.locate("input[data-field=steps]").fill("0")
    still.locate("select[data-field=gate-0]").select_option("speck")
    still.locate("input[data-field=k-0]").fill("3")
    still.start()
    sentence = still.wait_for_state("failed")
    assert sentence.startswith("A run has at least one step") and "\n" not in sentence
    assert still.locate(".sk-run").inner_text() == "Start"
    assert still.locate(".sk-chip-recorded").inner_text() == "recorded", "the picture before is still there"
    for name, value in fields.items():
        assert still.locate(f".sk-drawer input[data-field={name}]").input_value() == value
    form = still.value(f"{STATE}.form")
    assert form["gates"] == ["speck:k=3:beta=0.2", "none"] and form["steps"] == 0
    assert form["data"] == "pasted" and form["text"] == "refuse this\nand that"
    assert form["responses"] == "teacher", "prompts alone have no answers of their own"


@pytest.mark.long
def test_a_run_that_breaks_off_keeps_its_picture(still: Distill) -> None:
    still.script("fail")
    still.start()
    assert "lower the learning rate" in still.wait_for_state("failed")
    assert still.value(f"{STATE}.shown.racers[0].rows.length") > 2
    assert still.locate(".sk-chip-recorded").inner_text() == "live"
    assert still.locate(".sk-run").inner_text() == "Start"


def test_a_file_is_read_in_the_browser_and_one_too_large_is_refused(still: Distill) -> None:
    still.locate(".sk-top .sk-icon-button").click()
    still.locate(".sk-drawer input[data-field=data][value=uploaded]").check()
    text = '{"prompt": "Why?", "response": "Because."}\n'
    chooser = still.locate(".sk-drawer input[type=file]")
    chooser.set_input_files({"name": "mine.jsonl", "mimeType": "application/json", "buffer": text.encode()})
    still.wait(f"text => {STATE}.form.text === text", arg=text)
    assert "mine.jsonl" in still.locate(".sk-file-says").inner_text()
    chooser.set_input_files({"name": "huge.jsonl", "mimeType": "application/json", "buffer": b"x" * 300_000})
    sentence = still.wait_for_state("failed")
    assert "huge.jsonl" in sentence and "300 kB" in sentence and "200 kB" in sentence
    assert still.value(f"{STATE}.form.text") == text


@pytest.mark.long
def test_fields_out_of_range_keep_the_last_proper_value(still: Distill) -> None:
    k = still.locate("input[data-field=k-0]")
    k.fill("7")
    for wrong in ("", "0", "51", "2.5"):
        k.fill(wrong)
        assert k.get_attribute("aria-invalid") == "true"
        assert still.value(f"{STATE}.form.gates[0]") == "topk:k=7:beta=0.01"
    k.fill("8")
    assert k.get_attribute("aria-invalid") == "false"
    assert still.value(f"{STATE}.form.gates") == ["topk:k=8:beta=0.01", "none"]
    still.locate("select[data-field=gate-1]").select_option("")
    assert still.value(f"{STATE}.form.gates") == ["topk:k=8:beta=0.01"]


def test_address_reopens_the_same_settings(still: Distill, distill: Callable[..., Distill]) -> None:
    still.script("one & two\nthree = 3#")
    still.locate("select[data-field=student]").select_option("raw")
    still.locate("select[data-field=gate-1]").select_option("speck")
    still.locate("input[data-field=k-1]").fill("2")
    still.locate("input[data-field=steps]").fill("31")
    still.wait("location.hash.includes('steps=31')")
    fragment = still.value("location.hash")
    assert fragment.startswith("#tab=distill&")
    two = distill(fragment, reduced_motion="reduce").settle()
    assert two.value(f"{STATE}.form") == still.value(f"{STATE}.form")
    assert two.locate("input[data-field=steps]").input_value() == "31"
    assert two.locate("select[data-field=student]").input_value() == "raw"


# --- at the end


@pytest.fixture
def finished(still: Distill) -> Distill:
    still.locate("input[data-field=steps]").fill("4")
    still.start()
    still.wait_for_state("done")
    still.wait(f"{STATE}.shown.kept !== null")
    return still


def test_answers_stand_side_by_side_as_strips(finished: Distill) -> None:
    finished.page.get_by_role("button", name="Compare answers").click()
    assert finished.locate(".sk-answer h3").all_inner_texts() == [
        "teacher", "student before", "student after, A", "student after, B"]  # fmt: skip
    told = next(event for event in synthetic.recording(4) if event["kind"] == "answers")
    for i, answer in enumerate(told["answers"]):
        marks = finished.locate(".sk-answer").nth(i).locator(".sk-token").evaluate_all(
            "nodes => nodes.map((node) => node.classList.contains('sk-accepted'))"
        )  # fmt: skip
        assert marks == accepted(answer, 5)


def test_trained_student_is_sent_to_inspect(finished: Distill) -> None:
    finished.page.get_by_role("button", name="Inspect A").click()
    finished.page.wait_for_selector("#tab-inspect-button[aria-selected=true]")
    option = finished.page.locator("#inspector select[data-field=student] option[value='trained:key0']")
    assert option.count() == 1 and "topk" in (option.text_content() or "")
    assert finished.page.locator("#inspector .sk-ask-text").input_value() == "Why is the sky blue?"
    assert finished.page.locator("#inspector select[data-field=student]").input_value() == "trained:key0"


def test_log_adapter_and_command_can_be_taken_home(finished: Distill, tmp_path: Path) -> None:
    def kept(name: str) -> str:
        finished.page.get_by_role("button", name="Keep").click()
        with finished.page.expect_download() as download:
            finished.locate(".sk-popup-keep button", ).filter(has_text=name).click()  # fmt: skip
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path.read_text(encoding="utf-8")

    assert kept("Student B as ZIP") == "adapter of key1"
    lines = kept("Log of B as CSV").splitlines()
    assert [line.split(",")[0] for line in lines] == ["step", "1", "2", "3", "4"]
    events = synthetic.recording(4, kept=True)
    assert finished.locate(".sk-command").inner_text() == events[-1]["command"]


# --- safety and access


def test_hostile_tokens_are_read_and_never_run(still: Distill) -> None:
    still.locate("select[aria-label='Recorded run']").select_option("hostile")
    still.wait(f"{STATE}.shown.steps === 12")
    at = still.value(f"{PROBE}.cellCentre(3, 0)")
    still.locate(".sk-probe-canvas").hover(position=at)
    assert "<img src=x" in still.locate(".sk-probe-readout").inner_text()
    still.page.get_by_role("button", name="Compare answers").click()
    assert still.locate(".sk-answer").count() == 4
    assert still.value("window.hacked") is None
    assert still.locate(".sk-distill :is(img, script, iframe)").count() == 0
    assert "<script>" in "".join(still.locate(".sk-probe-strip .sk-token").all_text_contents())


@looks(1280, dark=True)
def test_axe_finds_nothing_serious(distill: Callable[..., Distill], dark: bool, width: int) -> None:
    one = distill(dark=dark, width=width, reduced_motion="reduce").settle()
    assert findings(one.page) == []
    one.scrub(9)
    one.page.get_by_role("button", name="Compare answers").click()
    one.page.get_by_role("button", name="Keep").click()
    assert findings(one.page) == []
    one.page.keyboard.press("Escape")
    one.locate("input[data-field=steps]").fill("3")
    one.start()
    one.wait_for_state("done")
    one.wait(f"{STATE}.shown.kept !== null")
    one.locate(".sk-top .sk-icon-button").click()
    one.locate(".sk-drawer input[data-field=data][value=uploaded]").check()
    one.page.wait_for_timeout(200)  # the parts' short transitions
    assert findings(one.page) == []


def test_phone_stacks_and_only_the_probe_scrolls_sideways(distill: Callable[..., Distill]) -> None:
    one = distill(width=390, height=844, reduced_motion="reduce").settle()
    assert one.value("document.documentElement.scrollWidth") <= 390
    parts = (".sk-run", ".sk-status", ".sk-race-box", ".sk-probe", ".sk-distill-side")
    tops = [one.locate(part).bounding_box()["y"] for part in parts]
    assert tops == sorted(tops)
    one.wait("Number(document.querySelector('#distiller .sk-probe-canvas').dataset.painted) > 0")
    box = one.value("(({ scrollWidth, clientWidth }) => [scrollWidth, clientWidth])"
                    "(document.querySelector('#distiller .sk-probe-box'))")  # fmt: skip
    assert box[0] > box[1]


def test_lessons_have_an_address(still: Distill) -> None:
    links = still.locate("a.sk-help").evaluate_all("nodes => nodes.map((n) => [n.getAttribute('href'), n.ariaLabel])")
    known = {"two-minds", "imitate", "propose-verify", "gate", "divergences", "curriculum", "when-not", "speed"}
    assert len(links) >= 6
    for href, label in links:
        assert href.removeprefix("#tab=learn&lesson=") in known and label.startswith("Learn about ")
