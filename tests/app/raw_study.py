"""The study's table by plain loops: what fields, claims and the map are held against. Nothing here calls speckd."""

import csv
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

STUDY = Path(__file__).parents[2] / "assets" / "study"
TOPK, PLAIN = "topk:k=5:beta=0.01", "none"
LOWER = {
    "divergence", "reverse_kl", "jsd", "own_reverse_kl", "greedy_reverse_kl", "own_teacher_nats", "greedy_teacher_nats",
    "greedy_repetition", "own_repetition", "grad_norm_spread", "largest_jump",
}  # fmt: skip
FIGURES = (
    *sorted(LOWER), "acceptance", "tar1", "tar5", "tar20", "rouge_l", "tasks", "tasks_chosen",
    "block_efficiency_greedy",
)  # fmt: skip
SETTING = ("study", "objective", "student", "text", "learning_rate", "steps", "batch_size")


@cache
def rows() -> tuple[dict[str, str], ...]:
    with (STUDY / "runs.csv").open(encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file))


def p_of(t: float, degrees: int) -> float:
    """P(|T| > t) of Student's t, by Simpson's rule over its density."""
    gamma = math.gamma((degrees + 1) / 2) / (math.sqrt(degrees * math.pi) * math.gamma(degrees / 2))
    n, t = 4000, abs(t)
    total = 0.0
    for i in range(n + 1):
        weight = 1 if i in (0, n) else 4 if i % 2 else 2
        total += weight * gamma * (1 + (i * t / n) ** 2 / degrees) ** (-(degrees + 1) / 2)
    return max(0.0, 1 - 2 * total * t / n / 3)


@cache
def cells(against: str = PLAIN) -> tuple[dict[str, Any], ...]:
    """Every comparison with an arm, with mean, n, p, q and a verdict."""
    found: list[dict[str, Any]] = []
    for setting in dict.fromkeys(tuple(row[name] for name in SETTING) for row in rows()):
        here = [row for row in rows() if tuple(row[name] for name in SETTING) == setting]
        for gate in dict.fromkeys(row["gate"] for row in here):
            if gate == against:
                continue
            for figure in FIGURES:
                by_seed: dict[str, list[float]] = {}
                parts: set[str] = set()
                for mine in here:
                    for theirs in here:
                        same = mine["seed"] == theirs["seed"] and mine["device"] == theirs["device"]
                        if mine["gate"] == gate and theirs["gate"] == against and same:
                            parts |= set(mine["part"].split("+")) & set(theirs["part"].split("+"))
                            values = [float(one.get(figure) or "nan") for one in (mine, theirs)]
                            if all(map(math.isfinite, values)):
                                by_seed.setdefault(mine["seed"], []).append(values[0] - values[1])
                pairs = [sum(values) / len(values) for values in by_seed.values()]
                if pairs:
                    found.append({"study": setting[0], "gate": gate, "figure": figure, "parts": parts, **_test(pairs)})
    for study in {cell["study"] for cell in found}:
        tested = [cell for cell in found if cell["n"] >= 3 and cell["study"] == study]
        order = sorted(tested, key=lambda cell: cell["p"])
        for place, cell in enumerate(order):
            cell["q"] = min(other["p"] * len(order) / (rank + 1) for rank, other in enumerate(order) if rank >= place)
    for cell in found:
        good = (cell["mean"] < 0) == (cell["figure"] in LOWER)
        sure = "helps" if good else "hurts"
        cell["verdict"] = "few" if cell["n"] < 3 else "unseen" if cell["q"] >= 0.05 else sure
        cell["alone"] = "few" if cell["n"] < 3 else "unseen" if cell["p"] >= 0.05 else sure
    return tuple(found)


def _test(pairs: list[float]) -> dict[str, Any]:
    n, mean = len(pairs), sum(pairs) / len(pairs)
    if n < 2:
        return {"mean": mean, "n": n, "p": math.nan}
    error = math.sqrt(sum((x - mean) ** 2 for x in pairs) / (n - 1) / n)
    return {"mean": mean, "n": n, "p": p_of(mean / error, n - 1) if error else 1.0 if mean == 0 else 2.0 ** (1 - n)}


def cell(args: dict[str, str]) -> dict[str, Any]:
    asked = {"part": "core", "arm": TOPK, "against": PLAIN, "figure": "divergence"} | args
    fit = [one for one in cells(asked["against"]) if one["gate"] == asked["arm"]
           and one["figure"] == asked["figure"] and asked["part"] in one["parts"]]  # fmt: skip
    return max(fit, key=lambda one: one["n"])


def field(name: str, args: dict[str, str]) -> float | None:
    """What a field of the study is worth; None where it is a word or an interval."""
    if name == "study_change":
        return float(cell(args)["mean"])
    if name == "study_seeds":
        return float(cell(args)["n"])
    if name == "study_runs":
        return float(len({row["cell"] for row in rows()}))
    if name == "study_cells":
        return float(len([cell for cell in cells() if cell["study"] == "confirm"]))
    if name == "study_mean":
        part, arm = args.get("part", "core"), args.get("arm", TOPK)
        values = [float(row[args["figure"]]) for row in rows()
                  if row["study"] == "confirm" and row["gate"] == arm
                  and part in row["part"].split("+") and row[args["figure"]]]  # fmt: skip
        return sum(values) / len(values)
    if name == "masked":
        found = json.loads((STUDY / f"masks-{args.get('student', 'young')}.json").read_text(encoding="utf-8"))
        return float(found["rejected"])
    return None
