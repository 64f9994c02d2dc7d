"""The empty charts of a run, and the made-up recording that the page's tests play."""

import json
from pathlib import Path

import pytest

from app import figures
from speckd.runs.recording import read_recording
from tests.app import synthetic


@pytest.mark.parametrize("chart", figures.CHARTS, ids=lambda chart: chart.key)
def test_a_chart_has_units_and_tells_racers_apart_without_colour(chart: figures.Chart) -> None:
    figure = figures.race(chart.key)
    assert figure.layout.xaxis.title.text == "step"
    assert chart.unit in figure.layout.yaxis.title.text
    assert all(len(trace.x) == len(trace.y) == 0 for trace in figure.data), "the browser appends every point"
    parts = {(trace.meta["racer"], trace.meta["part"]): trace for trace in figure.data}
    assert set(parts) == {(racer, part) for racer in (0, 1) for part in ("line", "held_out", "letter")}
    assert parts[0, "line"].line.dash != parts[1, "line"].line.dash
    assert parts[0, "held_out"].marker.symbol != parts[1, "held_out"].marker.symbol
    assert parts[0, "held_out"].visible is chart.held_out


def test_the_made_up_recording_is_one_that_python_reads(tmp_path: Path) -> None:
    events = synthetic.recording(6, kept=True, tokens=synthetic.HOSTILE, n=10)
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"speckd": "0", "kind": "run", "events": events}, allow_nan=False), encoding="utf-8")
    assert read_recording(path) == events
    steps = [event["row"]["step"] for event in events if event["kind"] == "row" and event["racer"] == 1]
    assert steps == [1, 2, 3, 4, 5, 6]
