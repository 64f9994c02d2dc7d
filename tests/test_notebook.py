"""The tour, run cell by cell; and how traces and runs show themselves in a notebook."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

import speckd
from speckd.runs.report import RunRecord, Runs
from tests import training_pair
from tests.app import synthetic

ROOT = Path(__file__).parents[1]
TOUR = ROOT / "assets" / "notebooks" / "tour.ipynb"


def code_cells() -> list[str]:
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run(cell: str, names: dict[str, Any]) -> Any:
    """A cell as a notebook runs it: the value of its last line, when that is an expression."""
    tree = ast.parse(cell)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names) if isinstance(last, ast.Expr) else None


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["small", pytest.param("packaged", marks=[pytest.mark.packaged, pytest.mark.long])])
def test_the_tour_runs_from_its_first_cell_to_its_last(
    pair: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = code_cells()
    steps = 10
    if pair == "small":  # the same cells, with other models and three steps
        teacher, student = training_pair.save(tmp_path)
        changes = {
            "load_pair()": f"load_pair({teacher!r}, {student!r})",
            'student="young"': f"teacher={teacher!r}, student={student!r}",
            "steps=10": "steps=3",
            "eval_every=10": "eval_every=3",
            "max_length=128": "max_length=400",  # its tokens are single bytes
        }
        for old, new in changes.items():
            assert sum(old in cell for cell in cells) == 1, old
            cells = [cell.replace(old, new) for cell in cells]
        steps = 3
    monkeypatch.chdir(ROOT)
    names: dict[str, Any] = {"__name__": "tour"}
    shown = [run(cell, names) for cell in cells]
    assert "nats before" in capsys.readouterr().out
    trace, runs = names["trace"], names["runs"]
    assert any(one is trace for one in shown) and any(one is runs for one in shown)
    assert len(runs) == 2 and all(len([row for row in one.rows if "loss" in row]) == steps for one in runs)
    assert "Top-k" in runs._repr_html_()
    assert type(names["figure"]).__name__ == "Figure"


def test_the_tour_is_kept_without_outputs() -> None:
    cells = json.loads(TOUR.read_text(encoding="utf-8"))["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert not cell.get("outputs") and cell.get("execution_count") is None
    assert not re.search(r"/(home|root|work|tmp)/", TOUR.read_text(encoding="utf-8")), "no path of a machine"


def test_a_trace_shows_itself_and_stays_in_its_frame() -> None:
    hostile = speckd.Trace.from_dict(synthetic.trace(26, tokens=synthetic.HOSTILE))
    shown = hostile._repr_html_()
    assert shown.startswith("<iframe ") and shown.endswith("</iframe>") and 'sandbox="allow-scripts"' in shown
    page = re.fullmatch(r'<iframe [^>]*srcdoc="([^"]*)"></iframe>', shown, re.DOTALL)
    assert page and "<" not in page[1] and "showAlone" in page[1]


def test_runs_show_themselves_as_their_report() -> None:
    rows = [{"step": i, "loss": 2.0 - i / 10} for i in range(1, 11)]
    one = RunRecord("<b>gate</b>", {"k": 5}, rows, {"divergence": 3.0}, {"divergence": 2.5})
    shown = Runs([one])._repr_html_()
    assert "&amp;lt;b&amp;gt;gate" in shown and "<svg" not in shown and "&lt;svg" in shown
    assert Runs([one]) == [one] and Runs()._repr_html_().startswith("<iframe ")
