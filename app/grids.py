"""The papers' tables (assets/decode/*.csv) as heatmaps and rows: pure functions of what stands there."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.figures import TEACHER

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

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
COLUMNS = ("speedup", "predicted", "block_efficiency", "acceptance", "thrown_away", "checks")  # of the other tables


def grids(name: str, rows: Rows) -> dict[str, str]:
    """The heatmaps of a table as JSON, one for each quantity that it has, by what the quantity is called."""
    known = {column: label for column, label in QUANTITIES[name].items() if any(row.get(column) for row in rows)}
    return {label: str(grid(name, rows, column).to_json()) for column, label in known.items()}


def grid(name: str, rows: Rows, column: str) -> "Figure":
    """One quantity of a table as a heatmap, its intervals in what a pointer hears.

    Args:
        name: "distillspec" (loss by text and gate) or "temperature" (of training by decoding).
        rows: of the CSV.
        column: the quantity.
    """
    import plotly.graph_objects as go  # a second to import: not before somebody asks for a figure

    places = [_place(name, row) for row in rows]
    across, down = (list(dict.fromkeys(place[axis] for place in places)) for axis in (0, 1))
    values: list[list[float | None]] = [[None] * len(across) for _ in down]
    words = [[""] * len(across) for _ in down]
    for row, (x, y) in zip(rows, places, strict=True):
        if (value := _number(row.get(column))) is None:
            continue
        at = (down.index(y), across.index(x))
        values[at[0]][at[1]] = value
        low, high = row.get(f"{column}_low"), row.get(f"{column}_high")
        words[at[0]][at[1]] = f"{value:.3g}" + (f"<br>95%: {low} to {high}" if low and high else "")
    label, titles = QUANTITIES[name][column], _titles(name)
    heat = go.Heatmap(
        x=across, y=down, z=values, text=words, texttemplate="%{z:.3g}", xgap=2, ygap=2, showscale=False,
        colorscale=[[0, f"rgba({TEACHER}, 0.06)"], [1, f"rgba({TEACHER}, 0.78)"]],
        hovertemplate=f"%{{y}}, %{{x}}<br>{label}: %{{text}}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(heat)
    figure.update_layout(
        margin={"l": 110, "r": 12, "t": 8, "b": 58},
        xaxis={"title": titles[0], "type": "category", "fixedrange": True},
        yaxis={"title": titles[1], "type": "category", "autorange": "reversed", "fixedrange": True},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
    )
    return figure


def _place(name: str, row: Mapping[str, str]) -> tuple[str, str]:
    """The column and the row of a cell."""
    if name == "temperature":
        return row["decoded_at"], row["trained_at"]
    if row["objective"] == "before":
        return "not distilled", "before"
    gate = {"none": "plain", "topk": "gated"}.get(row["gate"], row["gate"])
    return f"{'its own' if row['text'] == 'student' else 'teacher’s'} text, {gate}", row["objective"]


def _titles(name: str) -> tuple[str, str]:
    if name == "temperature":
        return "temperature of decoding (0 is greedy)", "temperature of training"
    return "text that the draft was distilled on", "divergence"


def as_rows(rows: Rows) -> dict[str, Any]:
    """A table of policies for the page: the columns that it has, and a row for each way to draft."""
    columns = [column for column in COLUMNS if rows[0].get(column) is not None]
    cells = [[row["draft"], row["policy"], *(_number(row[column]) for column in columns)] for row in rows]
    return {"columns": columns, "rows": cells}


def _number(text: str | None) -> float | None:
    value = float(text) if text else math.nan
    return value if math.isfinite(value) else None
