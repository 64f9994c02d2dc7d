"""From a trace to a plotly figure: pure functions of data, with units on every axis. Needs neither torch nor gradio.

A figure holds everything that does not move with the gate. What does move (the weights, which divergence, which tokens
are masked) the browser swaps in by comparing thresholds; ``meta`` carries what it needs for that, already scaled.
"""

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TEACHER = "47, 111, 222"  # the two hues of the page (speckd/html/view.css), as red, green, blue
STUDENT = "232, 135, 30"
GREY = "110, 116, 126"


@dataclass(frozen=True)
class Lane:
    """One row of the heatmap: its name, its unit, its hue and the numbers that its colours go by."""

    key: str
    label: str
    unit: str
    hue: str


LANES = (  # what tells most comes first
    Lane("divergence", "divergence", "nats", GREY),
    Lane("weight", "weight", "", GREY),
    Lane("acceptance", "one draw passes", "", TEACHER),
    Lane("teacher_entropy", "teacher entropy", "nats", TEACHER),
    Lane("student_entropy", "student entropy", "nats", STUDENT),
    Lane("rank", "proposal rank", "", TEACHER),
)
SHADES = 0.92  # opacity of the strongest colour


def lanes(
    trace: Any, *, gate: str = "topk", k: int = 5, beta: float = 0.01, divergence: str = "forward_kl"
) -> "Figure":
    """The heatmap of one text: its tokens across, one lane for each quantity, the masked tokens veiled by a hatch.

    Args:
        trace: a Trace, or the dictionary that Trace.to_dict returns.
        gate, k, beta, divergence: the gate at first sight, as in the page ("topk", "speck" or "none").
    Returns:
        A plotly Figure of six one-row heatmaps on shared axes. ``layout.meta`` has the scaled divergences by name.
    """
    # Long: one figure, described from top to bottom.
    import plotly.graph_objects as go  # a second to import: not before somebody asks for a figure

    data = trace if isinstance(trace, Mapping) else trace.to_dict(n_draws=0)
    n = len(data["tokens"])
    threshold = {"topk": data["topk_threshold"], "speck": data["speck_threshold"], "none": [0] * n}[gate]
    accepted = [t <= k for t in threshold]
    weights = [1.0 if ok else beta for ok in accepted]
    tvd = data["divergence"]["tvd"]
    true_values = {
        "rank": data["topk_threshold"],
        "acceptance": [1 - value for value in tvd],
        "teacher_entropy": data["teacher_entropy"],
        "student_entropy": data["student_entropy"],
        "divergence": data["divergence"][divergence],
        "weight": weights,
    }
    top_entropy = max([*data["teacher_entropy"], *data["student_entropy"], 1e-9])  # one scale, so that the two compare
    worst_rank = max([*data["topk_threshold"], 2])
    scaled = {
        "rank": ([1 - math.log(rank) / math.log(worst_rank) for rank in data["topk_threshold"]], f"{worst_rank:,} – 1"),
        "acceptance": (true_values["acceptance"], "0 – 1"),
        "teacher_entropy": ([e / top_entropy for e in data["teacher_entropy"]], f"0 – {_short(top_entropy)}"),
        "student_entropy": ([e / top_entropy for e in data["student_entropy"]], f"0 – {_short(top_entropy)}"),
        "divergence": _scaled(data["divergence"][divergence]),
        "weight": (weights, "0 – 1"),
    }
    names = [_plain(text) for text in data["tokens"]]

    figure = go.Figure()
    for row, lane in enumerate(LANES):
        values, _ = scaled[lane.key]
        unit = f" {lane.unit}" if lane.unit else ""
        figure.add_trace(
            go.Heatmap(
                z=[values], x0=0, dx=1, y=[row], customdata=[[_sent(v) for v in true_values[lane.key]]], text=[names],
                name=lane.key, zmin=0, zmax=1, showscale=False, xgap=1 if n <= 160 else 0, ygap=3, zsmooth=False,
                colorscale=[[0, f"rgba({lane.hue}, 0.05)"], [1, f"rgba({lane.hue}, {SHADES})"]],
                hovertemplate=f"%{{text}}<br>{lane.label} %{{customdata}}{unit}<extra></extra>",
            )
        )  # fmt: skip
    figure.add_trace(_veil(accepted))
    figure.update_layout(
        margin={"l": 118, "r": 64, "t": 4, "b": 34},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        bargap=0,
        dragmode=False,
        hovermode="closest",
        font={"family": "Segoe UI, Roboto, Helvetica Neue, Liberation Sans, Arial, sans-serif", "size": 12},
        xaxis={
            "range": [-0.5, max(n, 1) - 0.5], "minallowed": -0.5, "maxallowed": max(n, 1) - 0.5, "fixedrange": False,
            "title": {"text": "token of the response", "standoff": 4, "font": {"size": 12}},
            "showgrid": False, "showline": False, "zeroline": False, "ticks": "",
            "tickmode": "array", "tickvals": _ticks(n), "ticktext": [str(t + 1) for t in _ticks(n)],
        },
        yaxis={
            "range": [len(LANES) - 0.5, -0.5], "fixedrange": True, "showgrid": False, "zeroline": False,
            "showline": False, "tickmode": "array", "tickvals": list(range(len(LANES))), "ticks": "",
            "ticktext": [f"{lane.label}{f' ({lane.unit})' if lane.unit else ''}" for lane in LANES],
        },
        annotations=[
            {
                "x": 1, "xref": "paper", "xanchor": "left", "xshift": 6, "y": row, "yref": "y", "showarrow": False,
                "text": scaled[lane.key][1], "font": {"size": 11}, "name": lane.key,
            }
            for row, lane in enumerate(LANES)
        ],
        meta={
            "lanes": [lane.key for lane in LANES],
            # what the strongest colours stand for, so that a page may put two students on one scale
            "tops": {"entropy": top_entropy, **{name: _largest(found) for name, found in data["divergence"].items()}},
            "divergences": {
                name: dict(zip(("scaled", "range"), _scaled(values), strict=True))
                for name, values in data["divergence"].items()
            },
        },
    )  # fmt: skip
    return figure


@dataclass(frozen=True)
class Chart:
    """One curve of a training run against its steps: its name in the log, what it shows, its unit."""

    key: str
    label: str
    unit: str
    held_out: bool
    warning: str = ""  # stands beside the title


CHARTS = (  # like with like first; a gated loss counts what its own gate lets through, and compares with no other
    Chart("divergence", "ungated divergence", "nats a token", held_out=True),
    Chart("tar", "accepted", "share of tokens", held_out=True),
    Chart("loss", "gated loss", "nats a token", held_out=False, warning="its own: not comparable"),
)
# Racers are both students: the first has the student's hue, the second is grey. Dash and marker tell them apart alone.
RACERS = (("A", "solid", "circle", STUDENT), ("B", "5px,3px", "diamond", GREY))


def race(quantity: str) -> "Figure":
    """The empty chart of one quantity of a run, "loss", "divergence" or "tar": the browser appends the points.

    For each of two racers there are three traces: its line, its held-out points, and its letter at the line's end.
    ``meta`` of each trace says whose it is: {"racer": 0 or 1, "part": "line", "held_out" or "letter"}.
    """
    import plotly.graph_objects as go

    chart = next(one for one in CHARTS if one.key == quantity)
    percent = chart.key == "tar"
    shown = "%{y:.1%}" if percent else "%{y:.3g} nats"
    figure = go.Figure()
    for racer, (letter, dash, symbol, hue) in enumerate(RACERS):
        colour = f"rgb({hue})"
        parts: dict[str, dict[str, Any]] = {  # the letter stands an en space off, clear of the last held-out point
            "line": {
                "mode": "lines", "line": {"color": colour, "width": 2, "dash": dash},  # a marker each is slow to draw
                "hovertemplate": f"{letter}, step %{{x}}<br>{chart.label} {shown}<extra></extra>",
            },
            "held_out": {
                "mode": "markers", "cliponaxis": False, "visible": chart.held_out,
                "marker": {"color": colour, "size": 9, "symbol": f"{symbol}-open", "line": {"width": 2}},
                "hovertemplate": f"{letter}, held out after step %{{x}}<br>{chart.label} {shown}<extra></extra>",
            },
            "letter": {
                "mode": "text", "cliponaxis": False, "hoverinfo": "skip", "text": [f"\u2002{letter}"],
                "textposition": "middle right", "textfont": {"color": colour, "size": 13, "weight": 700},
            },
        }  # fmt: skip
        for part, look in parts.items():
            figure.add_trace(
                go.Scatter(x=[], y=[], name=f"{letter} {part}", meta={"racer": racer, "part": part}, **look)
            )
    figure.update_layout(
        margin={"l": 42, "r": 24, "t": 8, "b": 34},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        showlegend=False,
        dragmode=False,
        hovermode="closest",
        font={"family": "Segoe UI, Roboto, Helvetica Neue, Liberation Sans, Arial, sans-serif", "size": 12},
        xaxis={
            "title": {"text": "step", "standoff": 2, "font": {"size": 12}}, "range": [0, 24], "fixedrange": True,
            "zeroline": False, "showgrid": False, "showline": True, "ticks": "outside", "ticklen": 3, "nticks": 7,
        },
        yaxis={
            "title": {"text": f"{chart.label} ({chart.unit})"}, "range": [0, 1], "fixedrange": True, "nticks": 5,
            "zeroline": False, "showline": False, "ticks": "", "tickformat": ".0%" if percent else "~g",
        },
        meta={
            "quantity": chart.key, "label": chart.label, "unit": chart.unit, "held_out": chart.held_out,
            "warning": chart.warning,
        },
    )  # fmt: skip
    return figure


def _veil(accepted: Sequence[bool]) -> dict[str, Any]:
    """A hatched bar over each run of masked tokens, as high as all lanes together."""
    runs: list[list[int]] = []
    for t, ok in enumerate(accepted):
        if ok:
            continue
        if runs and runs[-1][1] == t - 1:
            runs[-1][1] = t
        else:
            runs.append([t, t])
    return {
        "type": "bar", "name": "masked", "hoverinfo": "skip", "base": -0.5,
        "x": [(first + last) / 2 for first, last in runs], "width": [last - first + 1 for first, last in runs],
        "y": [len(LANES) for _ in runs],
        "marker": {
            "color": "rgba(128, 134, 144, 0.10)", "line": {"width": 0},
            "pattern": {
                "shape": "/", "size": 6, "solidity": 0.22, "fgcolor": "rgb(128, 134, 144)", "fillmode": "overlay",
            },
        },
    }  # fmt: skip


def _largest(values: Sequence[float | str]) -> float:
    """The largest finite one."""
    return max([float(value) for value in values if value != "inf" and math.isfinite(float(value))] + [1e-9])


def _scaled(values: Sequence[float | str]) -> tuple[list[float], str]:
    """Values over their largest finite one, and the range in words. An infinite one has the strongest colour."""
    numbers = [math.inf if value == "inf" else float(value) for value in values]
    largest = _largest(values)
    has_infinite = any(math.isinf(value) for value in numbers)
    return [min(1.0, value / largest) for value in numbers], f"0 – {_short(largest)}{' (∞)' if has_infinite else ''}"


def _ticks(n: int) -> list[int]:
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10_000) if n / step <= 13)
    return sorted({0, *range(step - 1, n, step)}) if n else []


def _plain(text: str) -> str:
    """Text that plotly shows as it is: it reads <b>, <a href> and entities in labels as markup."""
    shown = "".join(c if c.isprintable() else {"\n": "↵", "\t": "⇥"}.get(c, "·") for c in text)
    return html.escape(shown if len(shown) <= 60 else shown[:59] + "…", quote=False) or "∅"


def _short(value: float) -> str:
    return f"{value:.2g}" if value < 100 else f"{value:,.0f}"


def _sent(value: float | int | str) -> float | int | str:
    """A value as the page is sent it, which formats it: four digits are more than it shows; JSON has no infinity."""
    if value == "inf" or (isinstance(value, float) and math.isinf(value)):
        return "inf"
    return float(f"{value:.4g}") if isinstance(value, float) else value
