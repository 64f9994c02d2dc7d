"""What a study found, as Markdown made from its tables alone: answers, arms, the map's largest cells, theory, panel."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from speckd.runs.statistics import (
    FEWEST,
    LEVEL,
    PLAIN,
    VERDICTS,
    Difference,
    Question,
    answers,
    answers_table,
    effects,
    paired,
    panel_means,
    tar_growth,
    verdict_in_words,
)
from speckd.words import STUDY_FIGURES

Row = Mapping[str, Any]
PLACEBO = "random:rate=0.99"
ARM_FIGURES = (
    "divergence", "acceptance", "tar5", "own_reverse_kl", "greedy_teacher_nats", "rouge_l", "block_efficiency_greedy",
    "grad_norm_spread", "largest_jump",
)  # fmt: skip
MAP_FIGURES = tuple(STUDY_FIGURES)  # each quantity once: others follow from these


def findings(questions: Sequence[Question], rows: Sequence[Row], curves: Sequence[Mapping[str, Any]]) -> str:
    """Everything that the tables say, section by section.

    Args:
        questions: of the plan whose rows are to answer them.
        rows: of all plans. curves: of the same runs, from curves.jsonl; none where they are not at hand.
    """
    asked = {question.part for question in questions} | {question.less for question in questions if question.less}
    confirmed = [row for row in rows if asked & set(str(row.get("part", "")).split("+"))]
    usual = _commonest(confirmed, "study")
    confirmed = [row for row in confirmed if (row["study"],) == usual]
    sections = [("Answers", answers_table(answers(questions, confirmed), _floor(questions, confirmed)))]
    parts = [part for question in questions for part in (question.part, question.less) if part]
    for part in dict.fromkeys(parts):
        chosen = [row for row in confirmed if part in str(row["part"]).split("+")]
        if chosen:
            sections.append((f"Arms of {part}", arms_table(chosen)))
    screened = [row for row in rows if not confirmed or row["study"] != confirmed[0]["study"]]
    if screened:
        sections.append(("Screened: every arm against plain", screening_table(screened)))
        sections.append(("Screened: each arm at its own rate", rates_table(screened)))
    sections.append(("The map's surest cells", cells_table(effects(rows, MAP_FIGURES))))
    if curves:  # of the runs that answer, whose looks and panels are larger than a screening's
        names = {str(row["cell"]): row for row in rows if not confirmed or row["study"] == confirmed[0]["study"]}
        sections.append(("Growth of TAR a step", growth_table(curves, names)))
        sections.append(("Whom the others would have kept", jaccard_table(curves, names)))
    return "\n".join(f"### {title}\n{text}" for title, text in sections)


def _commonest(rows: Sequence[Row], *names: str) -> tuple[Any, ...]:
    """The values of some columns that most rows have together."""
    found = [tuple(row.get(name) for name in names) for row in rows]
    return max(set(found), key=found.count) if found else ()


def _floor(questions: Sequence[Question], rows: Sequence[Row]) -> dict[str, Difference]:
    """For each figure that is asked about, the placebo's difference to plain, where the part has both."""
    found = {}
    for question in questions:
        arms = ({"part": question.part, "gate": gate} for gate in (PLACEBO, PLAIN))
        differences = list(paired(rows, question.figure, *arms).values())
        if differences:
            found[question.figure] = Difference.of(differences)
    return found


def arms_table(rows: Sequence[Row], figures: Sequence[str] = ARM_FIGURES) -> str:
    """Means over the seeds, an arm a line; a star where the paired difference to plain has an interval without zero."""
    gates = list(dict.fromkeys(str(row["gate"]) for row in rows))
    lines = [f"| gate | seeds | {' | '.join(figures)} | diverged |", f"|---|---:|{'---:|' * (len(figures) + 1)}"]
    for gate in gates:
        group = [row for row in rows if row["gate"] == gate]
        cells = []
        for figure in figures:
            values = [float(row[figure]) for row in group if isinstance(row.get(figure), int | float)]
            star = ""
            if gate != PLAIN and values:
                one = Difference.of(list(paired(rows, figure, {"gate": gate}, {"gate": PLAIN}).values()))
                star = "*" if one.n > 1 and not one.low <= 0 <= one.high else ""
            cells.append(f"{statistics.fmean(values):.4g}{star}" if values else "")
        diverged = sum(bool(row.get("diverged")) for row in group)
        lines.append(f"| `{gate}` | {len(group)} | {' | '.join(cells)} | {diverged} |")
    return "\n".join(lines) + "\n"


def screening_table(rows: Sequence[Row], figures: Sequence[str] = ("acceptance", "divergence", "tar5")) -> str:
    """Every arm's paired difference to plain with its interval over the seeds, an arm a line."""
    arms: dict[tuple[Any, ...], dict[str, Mapping[str, Any]]] = {}
    for cell in effects(rows, figures):
        names = ("student", "text", "objective", "learning_rate", "gate", "n")
        arms.setdefault(("+".join(cell["parts"]), *(cell[name] for name in names)), {})[cell["figure"]] = cell
    lines = [
        f"| part | start | text | objective | rate | gate | seeds | {' | '.join(figures)} |",
        f"|---|---|---|---|---:|---|---:|{'---:|' * len(figures)}",
    ]
    for (part, student, text, objective, rate, gate, n), found in arms.items():
        cells = []
        for figure in figures:
            one = found.get(figure)
            sure = "*" if one and one["verdict"] in ("helps", "hurts") else ""
            span = f" ({one['low']:+.4f} to {one['high']:+.4f})" if one and n > 1 else ""  # one seed has no interval
            cells.append(f"{one['mean']:+.4f}{sure}{span}" if one else "")
        lines.append(f"| {part} | {student} | {text} | {objective} | {rate:g} | `{gate}` | {n} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def rates_table(rows: Sequence[Row]) -> str:
    """Arms that were tried at several rates: divergence and acceptance at each, and the rate of least divergence."""
    fixed = ("student", "text", "objective", "steps", "batch_size")
    usual = _commonest(rows, *fixed)
    rows = [row for row in rows if tuple(row.get(name) for name in fixed) == usual]
    rates = sorted({float(row["learning_rate"]) for row in rows})
    lines = [
        f"| gate | {' | '.join(f'{rate:g}' for rate in rates)} | best |",
        f"|---|{'---:|' * len(rates)}---:|",
    ]
    for gate in dict.fromkeys(str(row["gate"]) for row in rows):
        found = {}
        for rate in rates:
            group = [row for row in rows if row["gate"] == gate and row["learning_rate"] == rate]
            if group:
                found[rate] = [statistics.fmean(row[name] for row in group) for name in ("divergence", "acceptance")]
        if len(found) > 2:
            cells = [f"{found[rate][0]:.3f}, {found[rate][1]:.4f}" if rate in found else "" for rate in rates]
            best = min(found, key=lambda rate: found[rate][0])
            lines.append(f"| `{gate}` | {' | '.join(cells)} | {best:g} |")
    return "\n".join(lines) + "\n"


def cells_table(cells: Sequence[Mapping[str, Any]], most: int = 30) -> str:
    """The cells of the map that stand out after Benjamini and Hochberg's correction, the surest first."""
    told = {verdict: sum(cell["verdict"] == verdict for cell in cells) for verdict in VERDICTS}
    sure = sorted((cell for cell in cells if cell["verdict"] in ("helps", "hurts")), key=lambda cell: cell["q"])
    lines = [
        f"{len(cells)} cells (an arm against plain, one figure); at a false discovery rate of {LEVEL:.0%} (Benjamini "
        f"and Hochberg, over all of one plan) the arm helps in {told['helps']} and hurts in {told['hurts']}, in "
        f"{told['none']} no difference was seen, {told['few']} have fewer than {FEWEST} seeds. "
        f"The first {min(most, len(sure))}:\n",
        "| part | start | text | objective | rate | gate | figure | difference | 95% interval | seeds | q | verdict |",
        "|---|---|---|---|---:|---|---|---:|---|---:|---:|---|",
    ]
    lines += [
        f"| {'+'.join(cell['parts'])} | {cell['student']} | {cell['text']} | {cell['objective']} "
        f"| {cell['learning_rate']:g} | `{cell['gate']}` | {cell['figure']} | {cell['mean']:+.3g} "
        f"| {cell['low']:+.3g} to {cell['high']:+.3g} | {cell['n']} | {cell['q']:.2g} | {verdict_in_words(cell)} |"
        for cell in sure[:most]
    ]
    return "\n".join(lines) + "\n"


def growth_by_arm(
    curves: Sequence[Mapping[str, Any]], rows: Mapping[str, Row]
) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """Growth of held-out TAR a step against 1 - TAR, without a gate and with Top-k.

    Runs with the study's common settings only, since the bound is in proportion to the rate.
    """
    common = {"learning_rate": 1e-3, "batch_size": 4, "objective": "forward_kl", "student": "young"}

    def of(gate: str) -> list[dict[str, float]]:
        def keep(cell: str) -> bool:
            row = rows.get(cell, {})
            return row.get("gate") == gate and all(row.get(name) == value for name, value in common.items())

        return tar_growth(curves, keep)

    return of(PLAIN), of("topk:k=5:beta=0.01")


def growth_table(curves: Sequence[Mapping[str, Any]], rows: Mapping[str, Row]) -> str:
    """``growth_by_arm`` as a table."""
    plain, gated = ({(one["low"], one["high"]): one for one in found} for found in growth_by_arm(curves, rows))
    lines = [
        "| 1 - TAR | looks, plain | growth a step | falling | looks, Top-k | growth a step | falling |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for span in sorted(plain.keys() | gated.keys()):
        cells = []
        for found in (plain.get(span), gated.get(span)):
            cells += ["", "", ""] if found is None else [
                f"{found['n']}", f"{found['growth']:+.2e}", f"{found['share_falling']:.0%}"
            ]  # fmt: skip
        lines.append(f"| {span[0]:g} to {span[1]:g} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def jaccard_table(curves: Sequence[Mapping[str, Any]], rows: Mapping[str, Row]) -> str:
    """How far the tokens that two selectors keep are the same, at the start, half-way and at the end of plain runs."""
    found = panel_means(curves, lambda cell: rows.get(cell, {}).get("gate") == PLAIN)
    lines = ["| pair | start | half-way | end |", "|---|---:|---:|---:|"]
    order = sorted(found, key=lambda pair: (not pair.startswith("topk/"), -found[pair][-1]))
    lines += [
        f"| {pair.replace('/', ', ')} | {' | '.join(f'{value:.2f}' for value in found[pair])} |" for pair in order
    ]
    return "\n".join(lines) + "\n"
