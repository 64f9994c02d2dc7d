"""What the Inspect tab does in Python: read and write files, and answer a client like the page."""

import json
from typing import Any

import pytest

import speckd
from app import panels
from app.tabs import inspect
from tests.app import synthetic


@pytest.fixture
def trace() -> speckd.Trace:
    return speckd.Trace.from_dict(synthetic.trace(12))


def test_recorded_traces_are_read_healed_first() -> None:
    recorded = inspect.recorded_traces()
    assert recorded and recorded[0].trace.config["student"] == "healed"
    assert recorded[0].label == "healed student, response from the teacher"


def test_a_broken_recorded_trace_is_left_out(tmp_path: Any, trace: speckd.Trace) -> None:
    trace.to_json(tmp_path / "good.json")
    (tmp_path / "bad.json").write_text("{")
    assert [one.name for one in inspect.recorded_traces(tmp_path)] == ["good"]


def test_a_result_travels_as_json_text(trace: speckd.Trace) -> None:
    result = inspect.as_result(trace, "key")
    data = json.loads(result["trace"])
    assert data["tokens"] == trace.tokens and len(data["draws"]["coin"][0]) == 16
    assert len(json.loads(result["figure"])["data"]) == 7


def test_kept_files_are_the_librarys_own(trace: speckd.Trace, tmp_path: Any) -> None:
    assert speckd.Trace.from_json(inspect.export(trace, "json", {}, None)) == trace
    (tmp_path / "t.csv").write_text(inspect.export(trace, "csv", {}, None), encoding="utf-8")
    assert speckd.Trace.from_csv(tmp_path / "t.csv") == trace
    assert '"k":3' in inspect.export(
        trace, "html", {"gate": "topk", "k": 3, "beta": 0.1, "divergence": "jsd", "evil": 1}, 2
    )


@pytest.mark.parametrize(("kind", "knobs"), [("exe", {}), ("html", {"k": 99}), ("html", {"gate": "</script>"})])
def test_nothing_else_can_be_kept(trace: speckd.Trace, kind: str, knobs: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        inspect.export(trace, kind, knobs, None)


def test_a_strangers_file_is_never_a_path(tmp_path: Any, trace: speckd.Trace) -> None:
    path = tmp_path / "private.json"
    trace.to_json(path)
    with pytest.raises(ValueError, match="not a trace"):
        inspect.read_trace(str(path), 1_000_000)


def test_a_strangers_file_is_read_with_care(trace: speckd.Trace) -> None:
    assert inspect.read_trace(trace.to_json(), 10_000_000) == trace
    with pytest.raises(ValueError, match="at most"):
        inspect.read_trace("x" * 2_000_000, 1_000_000)
    for change in ({"prompt": {"a": 1}}, {"student": 7}, {"temperature": "hot"}):
        data = json.loads(trace.to_json())
        data["config"].update(change)
        with pytest.raises(ValueError, match="broken"):
            inspect.read_trace(json.dumps(data), 10_000_000)
    data = json.loads(trace.to_json())
    data["topk_threshold"][0] = 0  # no rank is 0
    with pytest.raises(ValueError, match="broken"):
        inspect.read_trace(json.dumps(data), 10_000_000)


def test_panels_hold_no_text_in_their_templates() -> None:
    hostile = {"trace": "${alert(1)} {{x}} `", "knobs": {}}
    for panel in (panels.TokenStrip(hostile), panels.LivePlot({"figure": "{}"}), panels.Inspector(hostile)):
        config = panel.get_config()
        assert config["html_template"] == "<div class='sk sk-panel'></div>" and config["css_template"] == ""
        assert "alert" not in config["js_on_load"]


def test_plotly_is_served_from_here() -> None:
    assert panels.plotly_script().is_file()
    assert panels.plotly_url().startswith("parts/") and panels.script_url().startswith("parts/")
