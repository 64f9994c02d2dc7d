"""What a visitor takes home is data to whatever opens it, whatever the text in it says; and it is whole or absent."""

import csv
import io
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt

import speckd
from app.engine import Engine
from app.requests import TrainingRequest
from app.settings import Settings
from app.tabs import inspect
from app.training import Trainings
from speckd import packaged
from speckd.runs import report
from speckd.runs.report import RunRecord
from tests.app import stand_in, synthetic

FORMULAS = ["=1+1", "+1", "-1+2", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://192.0.2.1")', "+cmd|' /C calc'!A0"]
HOSTILE = [
    *synthetic.HOSTILE,
    *FORMULAS,
    "[x](javascript:alert(1))",
    "![x](http://192.0.2.1/x.png)",
    "```\n# x",
    "a|b\nc",
]


def risky(cell: str) -> bool:
    """Whether a spreadsheet would take a cell for a formula: it begins like one and is no number."""
    if not cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return False
    try:
        float(cell)
    except ValueError:
        return True
    return False


def test_no_cell_of_a_traces_table_is_a_formula(tmp_path: Path) -> None:
    data = synthetic.trace(len(HOSTILE), tokens=HOSTILE)
    data["config"]["prompt"] = data["prompt"] = "=1+1"
    trace = speckd.Trace.from_dict(data)
    text = inspect.export(trace, "csv", {}, None)
    rows = list(csv.reader(io.StringIO(text)))
    assert len(rows) == len(HOSTILE) + 1
    assert [cell for row in rows for cell in row if risky(cell)] == []
    (tmp_path / "trace.csv").write_text(text, encoding="utf-8", newline="")
    assert speckd.Trace.from_csv(tmp_path / "trace.csv") == trace, "and nothing is lost"


@pytest.mark.parametrize("name", FORMULAS)
def test_no_cell_of_a_runs_table_is_a_formula_and_numbers_stay_numbers(name: str) -> None:
    rows = [{"step": 1, "loss": -0.5, "note": name}, {"step": 2, "loss": float("-inf")}]
    cells = list(csv.DictReader(io.StringIO(report.to_csv([RunRecord(name, {}, rows)]))))
    assert [cell for row in cells for cell in row.values() if cell and risky(cell)] == []
    assert cells[0]["run"].lstrip("'") == name.replace("\r", " ") and [float(row["loss"]) for row in cells] == [
        -0.5,
        float("-inf"),
    ]


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_shows_hostile_names_as_they_are(text: str) -> None:
    run = RunRecord(
        text, {"teacher": text, text: "x"}, [{"step": 1, "loss": 1.0}], {"divergence": 1.0}, {"divergence": 0.5}
    )
    card = report.to_markdown([run], text, text, f"python -m speckd distill {text}")
    tokens = MarkdownIt("commonmark", {"html": True}).enable("table").parse(card)
    inner = [child for token in tokens for child in (token.children or [])]
    kinds = {token.type for token in [*tokens, *inner]}
    assert not kinds & {"html_block", "html_inline", "link_open", "image"}, text
    (fence,) = (token for token in tokens if token.type == "fence")
    assert "python -m speckd" in fence.content
    assert sum(token.type == "heading_open" for token in tokens) == 1
    widths = [[t.type for t in tokens].count(kind) for kind in ("table_open", "tr_open")]
    assert widths[0] == 3 and widths[1] >= 6


def test_pages_hold_hostile_names_as_text() -> None:
    for text in HOSTILE:
        run = RunRecord(text, {"teacher": text}, [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}])
        page = report.to_html([run], text, text, text)
        assert "<img" not in page and "<script>window" not in page


# --- whole or absent ------------------------------------------------------------------------------------------------


def in_a_child(work: Callable[[], None]) -> int:
    """The exit status of some work in a forked process; minus the signal that ended it."""
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_an_export_that_is_killed_at_any_point_leaves_the_old_file_or_the_new(tmp_path: Path) -> None:
    target = tmp_path / "kept.json"
    trace = stand_in.answer_to("Why?")
    calls = ("fdopen", "umask", "chmod", "replace")
    killed = 0
    for name in calls:
        for before in (True, False):
            target.write_text("the file of before")

            def work(name: str = name, before: bool = before) -> None:
                real = getattr(os, name)

                def die(*given: Any, **named: Any) -> Any:
                    if before:
                        os.kill(os.getpid(), signal.SIGKILL)
                    result = real(*given, **named)
                    os.kill(os.getpid(), signal.SIGKILL)
                    return result

                setattr(os, name, die)
                trace.to_json(target)

            assert in_a_child(work) == -signal.SIGKILL, name
            killed += 1
            text = target.read_text()
            assert text == "the file of before" or speckd.Trace.from_json(target) == trace
            assert (text != "the file of before") == (name == "replace" and not before)
    assert killed == 8
    trace.to_json(target)
    assert speckd.Trace.from_json(target) == trace


@pytest.mark.skipif(sys.platform != "linux", reason="a limit on a file's size stands for a full disk")
@pytest.mark.parametrize("kind", ["to_json", "to_csv"])
def test_a_full_disk_leaves_the_old_file_and_nothing_half_written(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "kept"
    target.write_text("the file of before")
    trace = stand_in.answer_to("Why?")

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        try:
            getattr(trace, kind)(target)
        except OSError:
            os._exit(7)

    assert in_a_child(work) == 7
    assert [path.name for path in tmp_path.iterdir()] == ["kept"] and target.read_text() == "the file of before"


def test_a_page_that_can_write_nothing_says_so_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    trainings = Trainings(Settings(), Engine(Settings()))

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkdtemp", full)
    (update,) = trainings.run(TrainingRequest.read({"steps": 1}, Settings()), "name", "session")
    assert update.state == "failed" and "No space left on device" in update.text and "\n" not in update.text
    monkeypatch.undo()
    monkeypatch.setattr(Path, "write_text", full)
    asked = TrainingRequest.read({"steps": 1, "data": "uploaded", "text": '{"prompt": "a"}'}, Settings())
    (update,) = trainings.run(asked, "name", "session")
    assert update.state == "failed" and "No space left on device" in update.text
    assert trainings._runs == {}, "nobody stands in line for it"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="a folder in which nobody can write")
def test_a_read_only_cache_is_one_sentence_that_names_the_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "model.gguf"
    source.write_bytes(b"weights")
    monkeypatch.setenv("SPECKD_CACHE", "/proc/speckd")
    monkeypatch.setattr(packaged, "packaged_gguf", lambda: source)
    monkeypatch.setattr(packaged, "GGUF_SHA256", packaged.sha256_of(source))
    with pytest.raises(speckd.ModelUnavailable, match="SPECKD_CACHE") as error:
        packaged.packaged_teacher()
    assert "\n" not in str(error.value)


def test_a_trace_that_breaks_off_is_not_trusted(tmp_path: Path) -> None:
    text = json.dumps(synthetic.trace(8))
    for length in (0, 1, len(text) // 2, len(text) - 1):
        with pytest.raises(ValueError):
            inspect.read_trace(text[:length], 10**7)
