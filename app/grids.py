"""The papers' tables (assets/decode/*.csv) as heatmaps and rows: pure functions of what stands there."""

import math
import re
from collections.abc import Container, Mapping, Sequence
from typing import Any

from app.figures import GREY, STUDENT, TEACHER
from speckd.words import DIVERGENCES

Rows = Sequence[Mapping[str, str]]
# Quantities of a grid: column of the table -> what it is called, with its unit.
QUANTITIES: dict[str, dict[str, str]] = {
    "distillspec": {
        "greedy_acceptance": "acceptance, greedy",
        "greedy_block_efficiency": "tokens a pass of the teacher, greedy",
        "greedy_gained": "acceptance gained over the start, greedy",
        "greedy_predicted": "predicted speed, greedy",
        "greedy_speedup": "speed over plain decoding, greedy",
        "sampled_acceptance": "acceptance, sampled",
        "sampled_block_efficiency": "tokens a pass of the teacher, sampled",
        "sampled_gained": "acceptance gained over the start, sampled",
        "sampled_predicted": "predicted speed, sampled",
        "sampled_speedup": "speed over plain decoding, sampled",
    },
    "temperature": {
        "acceptance": "acceptance",
        "block_efficiency": "tokens a pass of the teacher",
        "gained": "acceptance gained over the start",
        "predicted": "predicted speed",
        "speedup": "speed over plain decoding",
    },
}
COLUMNS = (  # of the other tables
    "speedup", "predicted", "block_efficiency", "acceptance", "stopped_by_middle", "stopped_by_teacher",
    "layers_a_token", "thrown_away", "checks",
)  # fmt: skip


def grids(name: str, rows: Rows, recorded: Container[str] = ()) -> dict[str, Any]:
    """The heatmaps of a table, one for each quantity that it has, by what the quantity is called: see ``grid``."""
    known = {column: label for column, label in QUANTITIES[name].items() if any(row.get(column) for row in rows)}
    return {label: grid(name, rows, column, recorded) for column, label in known.items()}


def grid(name: str, rows: Rows, column: str, recorded: Container[str] = ()) -> dict[str, Any]:
    """One quantity of a table as a heatmap.

    Args:
        name: "distillspec" (loss by text and gate) or "temperature" (of training by decoding).
        rows: of the CSV.
        column: the quantity.
        recorded: names of the decodings that cells can open.
    Returns:
        figure: for Plotly, as JSON text; the page adds the words within cells.
        cells: of each row of the heatmap, its cells: value, low and high (None where there is none), and record, the
        name of its decoding or None.
        across, down: what stands on the axes.
    """
    import plotly.graph_objects as go  # a second to import: not before somebody asks for a figure

    places = [_place(name, row) for row in rows]
    across, down = (list(dict.fromkeys(place[axis] for place in places)) for axis in (0, 1))
    nothing: dict[str, Any] = {"value": None, "low": None, "high": None, "record": None}
    cells = [[nothing for _ in across] for _ in down]
    for row, (x, y) in zip(rows, places, strict=True):
        value, low, high = (_number(row.get(column + end)) for end in ("", "_low", "_high"))
        record = record_name(name, row, column)
        made = {"value": value, "low": low, "high": high, "record": record if record in recorded else None}
        if value is not None:
            cells[down.index(y)][across.index(x)] = made
    titles = _titles(name)
    values = [[cell["value"] for cell in row] for row in cells]
    scale: dict[str, Any] = {"colorscale": [[0, f"rgba({TEACHER}, 0.06)"], [1, f"rgba({TEACHER}, 0.78)"]]}
    if "gained" in column:  # a loss has the other hue
        most = max(abs(value) for row in values for value in row if value is not None) or 1.0
        ends = [[0, f"rgba({STUDENT}, 0.8)"], [0.5, f"rgba({GREY}, 0.04)"], [1, f"rgba({TEACHER}, 0.8)"]]
        scale = {"colorscale": ends, "zmin": -most, "zmax": most}
    figure = go.Figure(go.Heatmap(x=across, y=down, z=values, xgap=2, ygap=2, showscale=False, **scale))
    figure.update_layout(
        margin={"l": 104, "r": 4, "t": 4, "b": 46},
        xaxis={"type": "category", "fixedrange": True, "showgrid": False, "tickangle": 0},
        yaxis={"type": "category", "autorange": "reversed", "fixedrange": True, "showgrid": False},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return {"figure": str(figure.to_json()), "cells": cells, "across": titles[0], "down": titles[1]}


def drafts_of(command: str) -> str:
    """The folder of the decodings by the drafts of one run of assets/decode/trained.py, from its command: what all
    started from, on how many texts, at which rate, for how many steps."""
    told = {"start": "young", "texts": "128", "rate": "1e-3", "steps": "16"}  # as that script has them
    told |= dict(re.findall(r"--(start|texts|rate|steps) (\S+)", command))
    return f"from-{told['start']}-{told['texts']}-{float(told['rate']):g}-{told['steps']}"


def record_name(name: str, row: Mapping[str, str], column: str) -> str:
    """What assets/decode/trained.py calls the decoding of a cell: its draft, and the temperature of decoding."""
    return f"{drafts_of(row['command'])}/{_arm_name(name, row, column)}"


def _arm_name(name: str, row: Mapping[str, str], column: str) -> str:
    if name == "temperature":
        start = row["trained_at"] == "before"
        draft = "before" if start else f"forward_kl-teacher-none-{float(row['trained_at']):g}"
        return f"{draft}-{float(row['decoded_at']):g}"
    start = row["objective"] == "before"
    draft = "before" if start else f"{row['objective']}-{row['text']}-{row['gate']}-1"
    return f"{draft}-{0 if column.startswith('greedy') else 1}"


def arm_of(record: str) -> dict[str, str]:
    """What a draft was distilled with, from the name of its decoding: objective, text, gate, temperature."""
    objective, *more, _ = record.rpartition("/")[2].split("-")
    return {"objective": objective, **dict(zip(("text", "gate", "temperature"), more, strict=False))}


def _place(name: str, row: Mapping[str, str]) -> tuple[str, str]:
    """The column and the row of a cell."""
    if name == "temperature":
        return row["decoded_at"], row["trained_at"]
    if row["objective"] == "before":
        return "not distilled", "before"
    gate = {"none": "plain", "topk": "gated"}.get(row["gate"], row["gate"])
    label = DIVERGENCES.get(row["objective"], {"label": row["objective"]})["label"]
    return f"{'its own' if row['text'] == 'student' else 'teacher’s'} text,<br>{gate}", label


def _titles(name: str) -> tuple[str, str]:
    if name == "temperature":
        return "temperature of decoding (0 is greedy)", "temperature of training"
    return "text that the draft was distilled on", "divergence"


def as_rows(rows: Rows) -> dict[str, Any]:
    """A table of policies for the page: the columns that it has, and a row for each way to draft: the draft, the
    policy, then of each column its value, or [value, low, high] where the table has an interval."""
    columns = [column for column in COLUMNS if rows[0].get(column) is not None]

    def cell(row: Mapping[str, str], column: str) -> float | list[float | None] | None:
        value, low, high = (_number(row.get(column + end)) for end in ("", "_low", "_high"))
        return value if low is None or high is None else [value, low, high]

    told = [[row["draft"], row["policy"], *(cell(row, column) for column in columns)] for row in rows]
    return {"columns": columns, "rows": told}


def _number(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
