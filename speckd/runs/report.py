"""A training run as files for people: CSV, and curves as one self-contained HTML page; Markdown is in ``record.py``.

The curves are small SVG pictures written here: no script, no font and no picture from elsewhere, so the page opens
anywhere and forever. Every racer has a dash pattern beside its colour.
"""

import csv
import html
import io
import math
from collections.abc import Sequence

from speckd.html import framed
from speckd.training.record import Row, RunRecord, held_out_table, number, settings_table, to_markdown
from speckd.words import REPORT_TRAINING

__all__ = ["RunRecord", "Runs", "chart", "held_out_table", "number", "ticks", "to_csv", "to_html", "to_markdown"]


class Runs(list[RunRecord]):
    """The students of one race, in order. A notebook shows it as its report: held-out figures and curves."""

    def _repr_html_(self) -> str:
        return framed(to_html(self, " against ".join(run.name for run in self) or "No run"), height=900)


_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7a6a00", "#56b4e9", "#777777", "#a04000")  # Okabe and Ito
_DASHES = ("", "7 3", "2 3", "9 3 2 3", "5 5", "1 2", "12 4", "4 2 1 2")


# --- CSV ---------------------------------------------------------------------------------------------


def to_csv(runs: Sequence[RunRecord]) -> str:
    """Every row of every run's log; a column where any row has the number, empty where it has none."""
    columns: list[str] = ["run", "step"]
    for run in runs:
        for row in run.rows:
            columns += [name for name in row if name not in columns]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    for run in runs:
        for row in run.rows:
            cells = {"run": run.name, **row}
            writer.writerow({name: _inert(cell) if isinstance(cell, str) else cell for name, cell in cells.items()})
    return text.getvalue()


def _inert(text: str) -> str:
    """Text that no spreadsheet takes for a formula; numbers stay as they are."""
    text = text.replace("\r", " ")  # the writer leaves it bare, and a reader begins a new line there
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


# --- HTML ---------------------------------------------------------------------------------------------------------


def to_html(runs: Sequence[RunRecord], title: str, words: str = "", command: str = "") -> str:
    """The report as one HTML page with curves; it needs nothing from anywhere."""
    escape = html.escape
    charts = []
    for name in ("loss", "divergence", "tar", "masked_share", "tokens_per_second"):
        curves = [(run.name, _points(run.rows, name), _points(run.rows, f"eval_{name}")) for run in runs]
        if any(points for _, points, _ in curves):
            label, unit = REPORT_TRAINING[name]
            charts.append(chart(f"{label} ({unit})", curves))
    body = [f"<h1>{escape(title)}</h1>"]
    if words:
        body.append(f"<p>{escape(words)}</p>")
    body.append(_html_table(held_out_table(runs)))
    body.append("<p class=note>Lines: training, one point a step. Circles: held out.</p>")
    body.append(f'<div class="charts">{"".join(charts)}</div>')
    body.append(_html_table(settings_table(runs)))
    if command:
        body.append(f"<p>The command that repeats it:</p><pre>{escape(command)}</pre>")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>{''.join(body)}</main></body></html>\n"
    )


def _points(rows: Sequence[Row], name: str) -> list[tuple[float, float]]:
    return [
        (float(row["step"]), float(row[name]))
        for row in rows
        if name in row and isinstance(row[name], int | float) and math.isfinite(row[name])
    ]


def _html_table(table: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        first, *others = (html.escape(cell) for cell in cells)
        scope = ' scope="col"' if tag == "th" else ""
        return (
            f'<tr><th scope="row">{first}</th>' + "".join(f"<{tag}{scope}>{cell}</{tag}>" for cell in others) + "</tr>"
        )

    return (
        '<div class="wide"><table><thead>'
        + line(table[0], "th")
        + "</thead><tbody>"
        + "".join(line(cells, "td") for cells in table[1:])
        + "</tbody></table></div>"
    )


Curve = tuple[str, Sequence[tuple[float, float]], Sequence[tuple[float, float]]]


def chart(title: str, curves: Sequence[Curve], width: int = 460, height: int = 240) -> str:
    """Curves over training steps as an SVG picture.

    Args:
        title: with the unit of the upright axis.
        curves: name, the points of its line, the points of its circles.
        width, height: of the view box.
    """
    left, right, top, bottom = 52, 12, 30, 34
    points = [point for _, line, circles in curves for point in (*line, *circles)]
    x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
    y_low, y_high = min(y for _, y in points), max(y for _, y in points)
    x_high = x_high if x_high > x_low else x_low + 1
    margin = (y_high - y_low) * 0.06 or abs(y_high) * 0.1 or 1.0
    y_low, y_high = y_low - margin, y_high + margin

    def at(x: float, y: float) -> tuple[float, float]:
        across = left + (x - x_low) / (x_high - x_low) * (width - left - right)
        down = top + (y_high - y) / (y_high - y_low) * (height - top - bottom)
        return round(across, 1), round(down, 1)

    parts = [f'<text x="{left}" y="14" class="title">{html.escape(title)}</text>']
    for value in ticks(y_low, y_high):
        _, y = at(x_low, value)
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y}" y2="{y}" class="grid"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" class="tick end">{value:g}</text>')
    for value in ticks(x_low, x_high):
        x, _ = at(value, y_low)
        parts.append(f'<text x="{x}" y="{height - bottom + 15}" class="tick middle">{value:g}</text>')
    parts.append(f'<text x="{(left + width - right) / 2}" y="{height - 4}" class="tick middle">step</text>')
    for index, (name, line, circles) in enumerate(curves):
        colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
        if line:
            path = " ".join(f"{x},{y}" for x, y in (at(*point) for point in line))
            parts.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.6" stroke-dasharray="{dash}">'
                f"<title>{html.escape(name)}</title></polyline>"
            )
        for x, y in (at(*point) for point in circles):
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.2" class="held" stroke="{colour}"/>')
    legend = "".join(_legend_entry(name, index) for index, (name, *_) in enumerate(curves))
    ends = "; ".join(f"{name} ends at {line[-1][1]:.4g}" for name, line, _ in curves if line)
    label = html.escape(f"{title}: {ends}")
    return (
        f'<figure><svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
        f"<figcaption>{legend}</figcaption></figure>"
    )


def _legend_entry(name: str, index: int) -> str:
    colour, dash = _COLOURS[index % len(_COLOURS)], _DASHES[index % len(_DASHES)]
    line = f'<line x1="0" x2="30" y1="4" y2="4" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
    return f'<span><svg width="30" height="8" aria-hidden="true">{line}</svg> {html.escape(name)}</span>'


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers within a range, about as many as wanted."""
    rough = (high - low) / max(1, wanted)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(place * step, 12) for place in range(first, math.floor(high / step + 1e-9) + 1)]


_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1a1a1a; --soft: #666; --line: #ddd; }
@media (prefers-color-scheme: dark) { :root { --paper: #16181c; --ink: #e8e8e8; --soft: #a5a5a5; --line: #3a3d42; } }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; }
main { max-width: 960px; margin: 0 auto; padding: 24px 16px; }
h1 { font-size: 22px; font-weight: 600; }
.note { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 12px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 12px 4px 0; text-align: right; border-bottom: 1px solid var(--line); font-weight: 400; }
th[scope=row] { text-align: left; }
thead th { font-weight: 600; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); gap: 20px; }
figure { margin: 0; }
svg { max-width: 100%; }
figcaption { display: flex; flex-wrap: wrap; gap: 4px 16px; color: var(--soft); font-size: 13px; }
.title { font-size: 13px; font-weight: 600; fill: var(--ink); }
.tick { font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums; }
.end { text-anchor: end; }
.middle { text-anchor: middle; }
.grid { stroke: var(--line); stroke-width: 1; }
.held { fill: var(--paper); stroke-width: 1.6; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid var(--line); padding: 10px; }
"""
