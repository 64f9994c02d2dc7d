"""Distill with the packaged pair behind it, the whole story: start, watch, finish, take the student home, ask it;
and, in `make test-long`, stop, start again, and repeat the run by the command that the page offers."""

import io
import json
import shlex
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.e2e.conftest import ROOT

pytestmark = [pytest.mark.browser, pytest.mark.packaged, pytest.mark.slow]
PATIENCE = 20.0  # seconds; on an idle machine it is five, of which three are the trainer's own chance to leave
TRAINED = 300_000  # milliseconds: a few steps of two racers, on a machine that other tests may share
PANEL = "document.querySelector('#distiller .sk-panel')"
BUTTON = "document.querySelector('#distiller .sk-run')"
STATE = f"{PANEL}.distiller.state()"
# Stop, and how many rows were on screen at that moment.
STOP = f"(() => {{ const n = {STATE}.live.run.racers[0].rows.length; {BUTTON}.click(); return n; }})()"
INSPECTED = "document.querySelector('#inspector .sk-panel').inspector.picture.state.trace"


class Distill:
    def __init__(self, visit: Any, fragment: str = "#tab=distill") -> None:
        self.visit, self.page = visit, visit.page
        self.page.goto(visit.address + fragment)
        self.page.wait_for_selector("#distiller .sk-race-plot .sk-plot[data-drawn]")

    def locate(self, selector: str) -> Any:
        return self.page.locator(f"#distiller {selector}")

    def start(self, steps: int) -> None:
        self.locate("input[data-field=steps]").fill(str(steps))
        self.locate(".sk-run").click()

    def wait(self, condition: str) -> None:
        """Wait for something of the run; a run that failed ends the waiting with its sentence."""
        failed = f"({STATE}.live.state === 'failed')"
        # A look at each frame, for minutes, would take the trainer a fifth of a processor.
        self.page.wait_for_function(f"({condition}) || {failed}", timeout=TRAINED, polling=100)
        assert not self.value(failed), self.locate(".sk-status-text").inner_text()

    def finish(self) -> None:
        """Wait until the run has ended and the page has drawn its end."""
        ended = f"{STATE}.live.state === 'done' && {STATE}.live.run.kept"
        self.wait(f"{ended} && Number({PANEL}.dataset.events) === {STATE}.live.run.n")

    def value(self, expression: str) -> Any:
        return self.page.evaluate(expression)

    def losses(self) -> list[list[float]]:
        return self.value(f"{STATE}.live.run.racers.map((racer) => racer.rows.map((row) => row.loss))")

    def keep(self, choice: str) -> Path:
        with self.page.expect_download(timeout=60_000) as download:
            self.page.get_by_role("button", name="Keep", exact=False).last.click()
            self.locate(f".sk-popup button:has-text('{choice}')").click()
        return Path(download.value.path())


@pytest.fixture
def distill(visit: Callable[..., Any], address_to_train: str) -> Distill:
    return Distill(visit(address=address_to_train))


@pytest.mark.timeout(1800)  # the models work for a minute or two on an idle machine, and may have to share it
def test_the_whole_story_of_a_run(distill: Distill, tmp_path: Path) -> None:
    page = distill.page
    distill.start(steps=2)
    distill.wait(f"{STATE}.live.run.racers[0]?.rows.length >= 1")
    assert distill.value(f"{STATE}.live.run.racers[0].probes.length") >= 2, "the probe has grown a row"
    distill.finish()
    assert [len(racer) for racer in distill.losses()] == [2, 2]
    answers = distill.value(
        f"{STATE}.live.run.answers.answers.map((one) => `${{one.who}} ${{one.racer ?? ''}}`.trim())"
    )
    assert answers == ["teacher", "before", "before", "after 0", "after 0", "after 1", "after 1"], "greedy and sampled"
    assert "reached the lower held-out divergence" in distill.locate(".sk-outcome").inner_text()

    # The adapter, at home.
    archive = zipfile.ZipFile(io.BytesIO(distill.keep("Student A as ZIP").read_bytes()))
    archive.extractall(tmp_path / "home")
    check_adapter(tmp_path / "home" / "student")
    assert distill.keep("Log of B as CSV").read_text().startswith("run,step,")
    report = distill.keep("Report of A as HTML").read_text()
    assert "<svg" in report and "http://" not in report.replace("http://www.w3.org", "")

    # And in Inspect.
    distill.locate(".sk-after-buttons button").first.click()
    page.wait_for_function("document.querySelector('#inspector .sk-status')", timeout=60_000)
    page.wait_for_selector("#inspector .sk-ask-text:visible")  # the question comes with it, and is asked at once
    page.wait_for_function(f"{INSPECTED}.config.student.startsWith('trained here')", timeout=TRAINED)
    config = page.evaluate(f"{INSPECTED}.config")
    assert "2 steps from young" in config["student"] and "/" not in config["student"]


@pytest.mark.long  # tests/app/test_training.py makes the same claim with small models, in seconds
def test_stop_is_heard_soon_and_the_next_run_starts(distill: Distill) -> None:
    distill.start(steps=30)
    distill.wait(f"{STATE}.live.run.racers[0]?.rows.length >= 1")
    seen = distill.value(STOP)
    distill.wait(f"{STATE}.live.state === 'stopped'")
    reached = distill.losses()
    assert seen <= len(reached[0]) <= seen + 3 and len(reached[0]) == len(reached[1]), "soon, as many for each"
    assert "kept" in distill.locate(".sk-status-text").inner_text()
    distill.start(steps=2)
    distill.finish()
    assert [len(racer) for racer in distill.losses()] == [2, 2]


@pytest.mark.long  # tests/app/test_training.py makes the same claim with small models, in seconds
@pytest.mark.timeout(900)
def test_the_very_rows_of_the_page_come_from_its_command(distill: Distill, tmp_path: Path) -> None:
    distill.start(steps=2)
    distill.finish()
    words = shlex.split(distill.value(f"{STATE}.live.run.kept.command"))
    output = tmp_path / "again"
    words = [sys.executable, *words[1:]]
    words[words.index("--output") + 1] = str(output)
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=TRAINED / 1000)
    for racer, folder in zip(distill.losses(), ("topk-k5-beta0.01", "none"), strict=True):
        rows = [json.loads(line) for line in (output / folder / "log.jsonl").read_text().splitlines()]
        assert [row["loss"] for row in rows if "loss" in row] == racer


@pytest.mark.long  # tests/app/test_training.py makes the same claim with small models, in seconds
@pytest.mark.timeout(900)
def test_two_visitors_at_once_have_the_curves_that_each_has_alone(
    visit: Callable[..., Any], address_to_train: str
) -> None:
    first, second = (Distill(visit(address=address_to_train), f"#tab=distill&seed={seed}") for seed in (3, 4))
    done = f"{STATE}.live.state === 'done'"
    alone = []
    for one in (first, second):
        one.start(steps=2)
        one.wait(done)
        alone.append(one.losses())
    assert alone[0] != alone[1] and [len(racer) for racer in alone[0] + alone[1]] == [2, 2, 2, 2]

    first.start(steps=2)
    second.start(steps=2)
    second.wait("document.querySelector('#distiller .sk-status-text').textContent.includes('ahead')")
    for one, curve in zip((first, second), alone, strict=True):
        one.wait(done)
        assert one.losses() == curve


@pytest.mark.long
def test_a_closed_tab_ends_the_work_and_leaves_nothing(visit: Callable[..., Any], address_to_train: str) -> None:
    seed = 987_654  # tells this run's folder from those of other servers on this machine
    one = Distill(visit(address=address_to_train), f"#tab=distill&seed={seed}")
    one.start(steps=100)
    one.wait(f"{STATE}.live.run.racers[0]?.rows.length >= 1")
    (folder,) = [run for run in runs() if f'"seed": {seed}' in (run / "run" / "settings.json").read_text()]
    one.page.close()
    closed = time.monotonic()
    while folder.exists():
        assert time.monotonic() - closed < PATIENCE, "the work goes on for nobody"
        time.sleep(0.05)  # a folder that goes tells nobody


def runs() -> list[Path]:
    """The folders of all trainings on this machine that have begun."""
    return [path.parents[1] for path in Path(tempfile.gettempdir()).glob("speckd-lab-*/*/*/run/settings.json")]


def check_adapter(folder: Path) -> None:
    """It loads with PEFT, is no copy of the student that it began as, and is the size of one."""
    from peft import PeftModel
    from safetensors.torch import load_file

    from speckd.pairs import load_base

    files = {path.name for path in folder.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json", "README.md"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl"))]
    model = PeftModel.from_pretrained(load_base(), str(folder))
    with torch.no_grad():
        assert model(torch.tensor([[1, 2, 3]])).logits.isfinite().all()
    assert len(model.get_base_model().model.layers) == 6
    trained = load_file(str(folder / "adapter_model.safetensors"))
    young = load_file(str(ROOT / "assets" / "students" / "young" / "adapter_model.safetensors"))
    assert trained.keys() == young.keys()
    assert any(not torch.equal(trained[name].float(), young[name].float()) for name in young)


# --- as a client ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(address_to_train: str) -> Any:
    from gradio_client import Client

    return Client(address_to_train, verbose=False)


@pytest.mark.long
def test_a_client_is_streamed_the_rows_of_the_charts(client: Any) -> None:
    job = client.submit(steps=2, gates="topk:k=5:beta=0.01", seed=3, api_name="/distill")
    job.result(timeout=TRAINED / 1000)
    updates = job.outputs()
    events = [event for update in updates for event in update["events"]]
    kinds = [event["kind"] for event in events]
    assert kinds[0] == "start" and kinds[-1] == "kept" and updates[-1]["state"] == "done"
    assert [event["row"]["step"] for event in events if event["kind"] == "row"] == [1, 2]
    assert [event["step"] for event in events if event["kind"] == "probe"] == [0, 1, 2]
    assert len(updates) > 2, "told as it went, not all at the end"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "from 1 to"),
        ({"learning_rate": 1e6}, "learning rate"),
        ({"gates": "topk,topk:k=5"}, "the same"),
        ({"gates": "evil"}, "not known"),
        ({"data": "uploaded", "text": '{"prompt": "a", "response": "b"}\n{"prompt": \n'}, "Line 2"),
        ({"data": "uploaded", "text": ""}, "empty"),
        ({"data": "pasted", "text": "Why?"}, "let the teacher or the student write"),
        ({"data": "pasted", "text": "word " * 400, "responses": "student"}, "leaves none for a response"),
    ],
)
def test_a_client_is_told_what_is_wrong(client: Any, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(Exception, match=words):
        client.submit(**{"steps": 1, **arguments}, api_name="/distill").result(timeout=TRAINED / 1000)
