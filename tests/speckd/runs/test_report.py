"""Reports: the numbers of the log, in files that need nothing from anywhere."""

import csv
import io
import re
from xml.etree import ElementTree

import pytest

from speckd.runs.report import RunRecord, chart, number, ticks, to_csv, to_html, to_markdown

ROWS = [
    {"step": 1, "loss": 3.0, "tar": 0.1, "divergence": 3.0},
    {"step": 2, "loss": 2.0, "tar": 0.25, "divergence": 2.5},
    {"step": 2, "eval_divergence": 2.75, "eval_tar": 0.2},
]
RUNS = [
    RunRecord("topk(k=5)", {"steps": 2, "learning_rate": 0.003}, ROWS, {"divergence": 4.0}, {"divergence": 2.7}, 3.5),
    RunRecord("none()", {"steps": 2, "note": None}, ROWS[:2], {"divergence": 4.0}, {"divergence": 2.5}, 4.25),
]


def test_the_csv_holds_every_row_of_every_run_exactly() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(RUNS))))
    assert len(rows) == 5 and [row["run"] for row in rows] == ["topk(k=5)"] * 3 + ["none()"] * 2
    assert float(rows[1]["divergence"]) == 2.5 and rows[1]["eval_tar"] == "" and float(rows[2]["eval_tar"]) == 0.2


def test_the_markdown_table_tells_before_after_and_change() -> None:
    text = to_markdown(RUNS, "A title", "One sentence.", "python -m speckd distill x")
    assert "| Divergence (nats a token) | 4.00 | 2.70 (−1.30) | 2.50 (−1.50) |" in text
    assert "One sentence." in text and "python -m speckd distill x" in text


def test_the_page_is_well_formed_and_asks_nobody_for_anything() -> None:
    page = to_html([RunRecord("<b>&", {"x": "<i>"}, ROWS, {}, {"divergence": 1.0}), RUNS[1]], "A <title>", "a & b")
    assert "<b>" not in page and "<i>" not in page and "A &lt;title&gt;" in page
    assert not re.search(r"(src|href)=|url\(|@import|https?:|<script", page)
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture)


def test_a_chart_draws_each_point_where_it_belongs() -> None:
    picture = chart("Loss (nats)", [("a", [(0, 0.0), (10, 1.0)], [(5, 0.5)])], width=460, height=240)
    root = ElementTree.fromstring(re.search(r"<svg.*?</svg>", picture, re.DOTALL)[0])
    line = root.find("polyline").get("points").split()
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in line)
    circle = root.find("circle")
    assert x0 < x1 and y0 > y1  # up is more
    assert float(circle.get("cx")) == pytest.approx((x0 + x1) / 2, abs=0.1)
    assert float(circle.get("cy")) == pytest.approx((y0 + y1) / 2, abs=0.1)
    assert {"0", "1", "10", "step"} <= {text.text for text in root.findall("text")}


def test_racers_differ_in_more_than_colour() -> None:
    picture = chart("x", [("a", [(0, 0), (1, 1)], []), ("b", [(0, 1), (1, 2)], [])])
    dashes = re.findall(r'<polyline[^>]*stroke-dasharray="([^"]*)"', picture)
    assert len(set(dashes)) == 2


@pytest.mark.parametrize(
    ("value", "words"),
    [(1234.5, "1,234"), (0.123456, "0.123"), (12.345, "12.3"), (7, "7"), (12345, "12,345"), (None, "-"), (0.0, "0")],
)
def test_numbers_have_three_significant_digits(value: object, words: str) -> None:
    assert number(value) == words


def test_ticks_are_round_and_within_the_range() -> None:
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(0.13, 0.31) == [0.15, 0.2, 0.25, 0.3]
    assert all(-3.1 <= value <= 2.2 for value in ticks(-3.1, 2.2))


def test_a_run_of_one_step_and_flat_curves_still_have_a_report() -> None:
    run = RunRecord("a", {}, [{"step": 1, "loss": 0.0, "tar": 1.0, "divergence": float("inf")}])
    assert "<svg" in to_html([run], "t") and "| Loss" in to_markdown([run], "t")
