"""What a study's table says: paired differences, their intervals, and how sure one may be after so many questions.

Arms of one seed share start, batches and coins, so every comparison is a difference within a seed; over the seeds it
has a mean and Student's t interval. Intervals over prompts are bootstrapped, where a run keeps its figures by prompt.
"""

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

Row = Mapping[str, Any]
POWER = 0.8
LEVEL = 0.05
PLAIN = "none"
HIGHER_IS_BETTER = {
    "divergence": False, "reverse_kl": False, "jsd": False, "tvd": False, "acceptance": True, "agreement": True,
    "tar1": True, "tar5": True, "tar20": True, "own_reverse_kl": False, "greedy_reverse_kl": False,
    "own_teacher_nats": False, "greedy_teacher_nats": False, "rouge_l": True, "tasks": True,
    "tasks_chosen": True,
    "block_efficiency_greedy": True, "block_efficiency_sampled": True, "grad_norm_spread": False, "largest_jump": False,
    "greedy_repetition": False, "own_repetition": False,
}  # fmt: skip
# What must be equal for two runs to be arms of one comparison; seed and machine pair them within it.
SETTING = ("study", "objective", "student", "text", "learning_rate", "steps", "batch_size")
FEWEST = 3  # pairs, below which nothing is said of a cell of the map


# --- Student's t, without a library for it ------------------------------------------------------------------------


def t_within(t: float, degrees: int) -> float:
    """P(|T| < t) for Student's t with a whole number of degrees of freedom.

    Source: Abramowitz and Stegun 26.7.3 and 26.7.4: finite sums in the angle atan(t / sqrt(degrees)).
    """
    angle = math.atan(abs(t) / math.sqrt(degrees))
    cosine = math.cos(angle)
    term, total = (cosine, cosine) if degrees % 2 else (1.0, 1.0)
    for n in range(3 if degrees % 2 else 2, degrees - 1, 2):
        term *= cosine**2 * (n - 1) / n
        total += term
    if degrees % 2 == 0:
        return math.sin(angle) * total
    return 2 / math.pi * (angle + (math.sin(angle) * total if degrees > 1 else 0.0))


@cache
def t_quantile(within: float, degrees: int) -> float:
    """The t with P(|T| < t) = within, by bisection."""
    low, high = 0.0, 1.0
    while t_within(high, degrees) < within:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, degrees) < within else (low, middle)
    return (low + high) / 2


# --- one comparison -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, with what is known about it.

    Attributes:
        mean: arm less the other; low, high: its interval at 95%, nan for fewer than two pairs.
        p: two-sided, of a mean of zero; nan for fewer than two pairs.
        n: pairs. visible: the smallest true difference that so many pairs show with 80% power.
    """

    mean: float
    low: float
    high: float
    p: float
    n: int
    visible: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> "Difference":
        n = len(differences)
        if n == 0:
            return cls(math.nan, math.nan, math.nan, math.nan, 0, math.nan)
        mean = statistics.fmean(differences)
        if n == 1:
            return cls(mean, math.nan, math.nan, math.nan, 1, math.nan)
        error = statistics.stdev(differences) / math.sqrt(n)
        wide = t_quantile(1 - LEVEL, n - 1) * error
        # Differences that are all alike to the last digit have no spread to judge by: then their signs alone count.
        p = 1 - t_within(mean / error, n - 1) if error > 0 else (1.0 if mean == 0 else 2.0 ** (1 - n))
        visible = (t_quantile(1 - LEVEL, n - 1) + t_quantile(2 * POWER - 1, n - 1)) * error
        return cls(mean, mean - wide, mean + wide, p, n, visible)


def paired(rows: Sequence[Row], figure: str, arm: Mapping[str, Any], against: Mapping[str, Any]) -> dict[int, float]:
    """seed -> figure of the arm less that of the other, for the seeds that both have on one machine.

    Machines round differently, so a run is compared with one of its own machine only. A seed that was run on two of
    them is still one pair, since its coins are the same: it counts with the mean of both differences.

    Args:
        arm, against: columns and the values that they must have; "part" need only be among a row's parts.
    """
    first, second = (_by_run(rows, figure, wanted) for wanted in (arm, against))
    found: dict[int, list[float]] = {}
    for seed, device in sorted(first.keys() & second.keys()):
        found.setdefault(seed, []).append(first[seed, device] - second[seed, device])
    return {seed: statistics.fmean(differences) for seed, differences in found.items()}


def _by_run(rows: Sequence[Row], figure: str, wanted: Mapping[str, Any]) -> dict[tuple[int, str], float]:
    """(seed, machine) -> figure."""
    found: dict[tuple[int, str], float] = {}
    for row in rows:
        value = row.get(figure)
        if isinstance(value, int | float) and math.isfinite(value) and _matches(row, wanted):
            found[int(row["seed"]), str(row.get("device"))] = float(value)
    return found


def _matches(row: Row, wanted: Mapping[str, Any]) -> bool:
    return all(
        value in str(row.get("part", "")).split("+") if name == "part" else row.get(name) == value
        for name, value in wanted.items()
    )


def bootstrap(by_prompt: Sequence[Sequence[float]], n_draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95% interval over prompts of differences that several seeds measured on the same prompts.

    Args:
        by_prompt: a list for each seed, of the difference at each prompt.
    Returns:
        mean, low, high: percentiles over resampled prompts; how another choice of prompts would have moved it.
    """
    means = np.asarray(by_prompt, dtype=np.float64).mean(0)  # (prompts,)
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = means[generator.integers(len(means), size=(n_draws, len(means)))].mean(1)
    low, high = np.quantile(drawn, [LEVEL / 2, 1 - LEVEL / 2])
    return float(means.mean()), float(low), float(high)


# --- many comparisons ---------------------------------------------------------------------------------------------


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p: below a level, none of the questions so marked is wrong but with that probability."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p of Benjamini and Hochberg: below a level, that share of those so marked is expected to be wrong."""
    n = len(p_values)
    order = sorted(range(n), key=lambda index: p_values[index], reverse=True)
    adjusted, smallest = [1.0] * n, 1.0
    for place, index in enumerate(order):
        smallest = min(smallest, p_values[index] * n / (n - place))
        adjusted[index] = smallest
    return adjusted


# --- the written questions ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Question:
    """One written question of a plan.

    Attributes:
        name: in a few words. figure: what is compared. part: of the plan.
        arm, against: gates. less: another part, whose difference is taken off (does the effect depend on the start?).
        also, below: a second figure of the same arms, and what the upper end of its interval must stay below.
    """

    name: str
    figure: str
    part: str
    arm: str
    against: str = PLAIN
    less: str | None = None
    also: str | None = None
    below: float = 0.0

    def differences(self, rows: Sequence[Row], figure: str | None = None) -> dict[int, float]:
        """seed -> the difference that is asked about."""
        figure = figure or self.figure

        def within(part: str) -> dict[int, float]:
            arms = ({"part": part, "gate": gate} for gate in (self.arm, self.against))
            return paired(rows, figure, *arms)

        found = within(self.part)
        if self.less is None:
            return found
        other = within(self.less)
        return {seed: found[seed] - other[seed] for seed in found.keys() & other.keys()}


@dataclass(frozen=True)
class Answer:
    """A question's answer: the difference, its p after Holm's correction, the verdict, and the second figure's."""

    question: Question
    difference: Difference
    adjusted: float
    verdict: str
    second: Difference | None = None


def answers(questions: Sequence[Question], rows: Sequence[Row]) -> list[Answer]:
    """Answer a plan's questions from a table, with Holm's correction over all of them."""
    found = [Difference.of(list(question.differences(rows).values())) for question in questions]
    adjusted = holm([1.0 if math.isnan(one.p) else one.p for one in found])
    given = []
    for question, difference, p in zip(questions, found, adjusted, strict=True):
        second = None
        if question.also is not None:
            second = Difference.of(list(question.differences(rows, question.also).values()))
        given.append(Answer(question, difference, p, _verdict(question, difference, p, second), second))
    return given


def _verdict(question: Question, found: Difference, p: float, second: Difference | None) -> str:
    if found.n < 2:
        return "not enough runs yet"
    if p >= LEVEL:
        return f"no difference seen (would have seen {found.visible:.2g} with 80% power)"
    better = (found.mean > 0) == HIGHER_IS_BETTER[question.figure]
    if better and second is not None and not second.high < question.below:
        return f"only half: {question.also} is not held within {question.below:g}"
    return "yes" if better else "no: the other way round"


def answers_table(given: Sequence[Answer], floor: Mapping[str, Difference]) -> str:
    """The answers as a table in Markdown.

    Args:
        floor: for each figure the placebo's difference to plain, the noise of such a comparison.
    """
    lines = [
        "| question | figure | difference | 95% interval | seeds | p, Holm | answer |",
        "|---|---|---:|---|---:|---:|---|",
    ]
    for number, answer in enumerate(given, start=1):
        one = answer.difference
        lines.append(
            f"| {number}. {answer.question.name} | {answer.question.figure} | {one.mean:+.4g} | {_span(one)} "
            f"| {one.n} | {answer.adjusted:.2g} | {answer.verdict} |"
        )
        if answer.second is not None:
            two = answer.second
            lines.append(f"| | {answer.question.also} | {two.mean:+.4g} | {_span(two)} | {two.n} | | |")
    for figure, one in floor.items():
        lines.append(f"| *noise: plain against a placebo* | {figure} | {one.mean:+.4g} | {_span(one)} | {one.n} | | |")
    return "\n".join(lines) + "\n"


def _span(one: Difference) -> str:
    return "" if math.isnan(one.low) else f"{one.low:+.4g} to {one.high:+.4g}"


# --- the map ------------------------------------------------------------------------------------------------------


def effects(
    rows: Sequence[Row], figures: Sequence[str], against: str = PLAIN, setting: Sequence[str] = SETTING
) -> list[dict[str, Any]]:
    """Every arm against one arm of its own setting, for every figure: the cells of the map.

    Returns:
        One dictionary a cell: the setting's columns, gate, figure, mean, low, high, p, n, visible; parts, those of the
        plan that ask for both arms; q, p after Benjamini and Hochberg's correction over all of its study's cells of at
        least FEWEST pairs (nan for the others); better, "higher" or "lower"; verdict, a word of VERDICTS.
    """
    settings: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        settings.setdefault(tuple(row.get(name) for name in setting), []).append(row)
    found: list[dict[str, Any]] = []
    for values, group in settings.items():
        gates = dict.fromkeys(str(row["gate"]) for row in group)
        for gate in gates:
            if gate == against or against not in gates:
                continue
            parts = _shared_parts(group, gate, against)
            for figure in figures:
                one = Difference.of(list(paired(group, figure, {"gate": gate}, {"gate": against}).values()))
                if one.n:
                    cell = dict(zip(setting, values, strict=True)) | {"gate": gate, "figure": figure, "parts": parts}
                    found.append(cell | vars(one) | {"q": math.nan})
    for study in dict.fromkeys(cell.get("study") for cell in found):  # what a screening tries dilutes no other plan
        known = [cell for cell in found if cell["n"] >= FEWEST and cell.get("study") == study]
        for cell, q in zip(known, benjamini_hochberg([cell["p"] for cell in known]), strict=True):
            cell["q"] = q
    for cell in found:
        cell["better"] = "higher" if HIGHER_IS_BETTER[cell["figure"]] else "lower"
        cell["verdict"] = _cell_verdict(cell)
    return found


VERDICTS = ("helps", "hurts", "none", "few")


def _cell_verdict(cell: Mapping[str, Any]) -> str:
    if cell["n"] < FEWEST:
        return "few"
    if not cell["q"] < LEVEL:
        return "none"
    return "helps" if (cell["mean"] > 0) == HIGHER_IS_BETTER[cell["figure"]] else "hurts"


def verdict_in_words(cell: Mapping[str, Any]) -> str:
    """A cell's verdict as a sentence's end, with what a cell that shows nothing would have shown."""
    if cell["verdict"] == "few":
        return f"too few seeds ({cell['n']})"
    if cell["verdict"] == "none":
        return f"no difference seen (would have seen {cell['visible']:.2g} with {POWER:.0%} power)"
    return str(cell["verdict"])


def _shared_parts(group: Sequence[Row], gate: str, against: str) -> list[str]:
    """The parts of the plan that both arms belong to; the arm's own where they share none."""
    of = {name: dict.fromkeys(p for row in group if row["gate"] == name for p in str(row.get("part", "")).split("+"))
          for name in (gate, against)}  # fmt: skip
    return [part for part in of[gate] if part in of[against]] or list(of[gate])


# --- Theorem 1 and the shadow panel -------------------------------------------------------------------------------


def tar_growth(
    curves: Sequence[Mapping[str, Any]], keep: Callable[[str], bool] = lambda _: True, edges: Sequence[float] = (
        0.0, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8, 1.0)
) -> list[dict[str, float]]:  # fmt: skip
    """Growth of TAR a step against 1 - TAR, over neighbouring looks at the held-out curves of many runs.

    Theorem 1 of SelecTKD says: at least eta * kappa * (1 - TAR) a step.

    Args:
        curves: from curves.jsonl. keep: which cells count, by name.
        edges: of the classes of 1 - TAR.
    Returns:
        One dictionary a class that holds anything: low, high, n, growth (mean, a step), share_falling (of looks after
        which TAR was lower).
    """
    pairs = []
    for run in curves:
        if not keep(run["cell"]):
            continue
        steps, tar = run["held_out"]["step"], run["held_out"]["tar"]
        looks = [(s, t) for s, t in zip(steps, tar, strict=True) if t is not None]
        for (before, one), (after, two) in itertools.pairwise(looks):
            if after > before:
                pairs.append((1 - one, (two - one) / (after - before)))
    found = []
    for low, high in itertools.pairwise(edges):
        growth = [rate for rest, rate in pairs if low <= rest < high]
        if growth:
            found.append(
                {
                    "low": low,
                    "high": high,
                    "n": len(growth),
                    "growth": statistics.fmean(growth),
                    "share_falling": sum(rate < 0 for rate in growth) / len(growth),
                }
            )
    return found


def panel_means(curves: Sequence[Mapping[str, Any]], keep: Callable[[str], bool] = lambda _: True) -> dict[str, Any]:
    """Mean Jaccard of each pair of selectors over runs: pair -> at the start, half-way and at the end."""
    sums: dict[str, list[list[float]]] = {}
    for run in curves:
        if keep(run["cell"]) and len(run.get("panel") or []) == 3:
            for moment, one in enumerate(run["panel"]):
                for pair, value in one["jaccard"].items():
                    sums.setdefault(pair, [[], [], []])[moment].append(value)
    return {pair: [round(statistics.fmean(part), 3) for part in parts] for pair, parts in sums.items()}
