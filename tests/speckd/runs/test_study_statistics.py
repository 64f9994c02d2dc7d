"""What a study's table says: intervals, corrections, answers."""

import math
from typing import Any

import pytest

from speckd.runs.findings import findings
from speckd.runs.statistics import (
    Difference,
    Question,
    answers,
    answers_table,
    benjamini_hochberg,
    bootstrap,
    effects,
    holm,
    paired,
    panel_means,
    t_quantile,
    t_within,
    tar_growth,
)


@pytest.mark.parametrize(
    ("within", "degrees", "t"),
    [(0.95, 1, 12.706), (0.95, 2, 4.303), (0.95, 7, 2.365), (0.99, 10, 3.169), (0.60, 7, 0.896), (0.95, 120, 1.980)],
)
def test_students_t_is_that_of_the_tables(within: float, degrees: int, t: float) -> None:
    assert t_quantile(within, degrees) == pytest.approx(t, abs=5e-4)
    assert t_within(t, degrees) == pytest.approx(within, abs=2e-4)


def test_a_difference_by_hand() -> None:
    found = Difference.of([1.0, 2.0, 3.0])  # mean 2, standard error 1 / sqrt(3)
    assert found.mean == 2.0 and found.n == 3
    assert found.low == pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-3)
    assert found.p == pytest.approx(0.0742, abs=1e-3)
    assert found.visible == pytest.approx((4.3027 + 1.0607) / math.sqrt(3), abs=1e-3)
    assert math.isnan(Difference.of([1.0]).p) and Difference.of([]).n == 0
    assert Difference.of([0.0, 0.0]).p == 1.0 and Difference.of([1.0, 1.0]).p == 0.5  # two signs alike


def test_corrections_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert benjamini_hochberg([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.04, 0.04])
    assert holm([]) == []


def rows(gate: str, values: dict[int, float], part: str = "core", **more: Any) -> list[dict[str, Any]]:
    fixed = {"study": "s", "text": "t", "student": "young"}
    return [
        {**fixed, "part": part, "gate": gate, "seed": seed, "acceptance": value, **more}
        for seed, value in values.items()
    ]


def test_only_seeds_that_both_arms_have_are_paired() -> None:
    table = rows("none", {1: 0.2, 2: 0.3, 4: 0.5}) + rows("topk", {1: 0.3, 2: 0.3, 3: 0.9})
    table += rows("topk", {4: math.nan})
    found = paired(table, "acceptance", {"gate": "topk"}, {"gate": "none"})
    assert found == {1: pytest.approx(0.1), 2: 0.0}
    both = [{**row, "part": "core+more"} for row in table]
    assert paired(both, "acceptance", {"gate": "topk", "part": "more"}, {"gate": "none", "part": "core"}) == found


def test_answers_say_yes_no_and_how_much_would_have_been_seen() -> None:
    seeds = range(8)
    noise = [0.001 * (-1) ** seed for seed in seeds]
    table = rows("none", dict(enumerate(noise)), divergence=2.0)
    table += rows("up", {seed: 0.1 + 2 * noise[seed] for seed in seeds}, divergence=2.5)
    table += rows("down", {seed: -0.1 + 2 * noise[seed] for seed in seeds})
    table += rows("same", {seed: noise[seed] + 0.01 * math.cos(2.3 * seed) for seed in seeds})
    table += rows("none", dict.fromkeys(seeds, 0.0), "cold") + rows(
        "up", {s: 0.05 + 3 * noise[s] for s in seeds}, "cold"
    )
    asked = [
        Question("a", "acceptance", "core", "up"),
        Question("b", "acceptance", "core", "down"),
        Question("c", "acceptance", "core", "same"),
        Question("d", "acceptance", "core", "up", also="divergence", below=0.02),
        Question("e", "acceptance", "core", "up", less="cold"),
        Question("f", "acceptance", "elsewhere", "up"),
    ]
    given = answers(asked, table)
    verdicts = [answer.verdict for answer in given]
    assert verdicts[0] == "yes" and verdicts[1] == "no: the other way round"
    assert verdicts[2].startswith("no difference seen (would have seen 0.0")
    assert verdicts[3] == "only half: divergence is not held within 0.02"
    assert verdicts[4] == "yes" and given[4].difference.mean == pytest.approx(0.05)
    assert verdicts[5] == "not enough runs yet"
    written = answers_table(given, {"acceptance": Difference.of([0.0, 0.001])})
    assert "| 1. a | acceptance | +0.1 |" in written and "placebo" in written


def test_effects_compare_within_one_setting_only() -> None:
    fixed = {"objective": "forward_kl", "learning_rate": 1e-3, "steps": 60, "batch_size": 4, "device": "cpu"}
    table = rows("none", {0: 0.1, 1: 0.2, 2: 0.3}, **fixed) + rows("topk", {0: 0.2, 1: 0.31, 2: 0.4}, **fixed)
    table += rows("topk", {0: 9.0, 1: 9.0}, **{**fixed, "learning_rate": 1e-2})  # no plain arm beside it
    (cell,) = effects(table, ["acceptance"])
    assert cell["mean"] == pytest.approx(0.31 / 3) and cell["n"] == 3
    assert cell["q"] == cell["p"]


def test_bootstrap_is_over_prompts_and_repeats() -> None:
    by_prompt = [[0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 5.0]]
    mean, low, high = bootstrap(by_prompt)
    assert mean == 1.75 and 0.0 <= low < 1.75 < high <= 4.0
    assert bootstrap(by_prompt) == (mean, low, high)


def test_tar_growth_and_panel_are_means_over_runs() -> None:
    curves = [
        {
            "cell": name,
            "held_out": {"step": [0, 10, 20], "tar": [0.5, 0.6, 0.58]},
            "panel": [{"jaccard": {"topk/clip": value}} for value in (0.2, 0.4, 0.6)],
        }
        for name in ("a", "b")
    ]
    classes = tar_growth(curves, edges=(0.0, 0.45, 1.0))
    assert [one["n"] for one in classes] == [2, 2]
    assert classes[0]["growth"] == pytest.approx(-0.002) and classes[0]["share_falling"] == 1.0
    assert classes[1]["growth"] == pytest.approx(0.01)
    assert panel_means(curves, lambda name: name == "a") == {"topk/clip": [0.2, 0.4, 0.6]}


def test_findings_are_made_from_the_tables_alone() -> None:
    seeds = dict.fromkeys(range(4), 0.0)
    fixed = {"objective": "forward_kl", "learning_rate": 1e-3, "steps": 60, "batch_size": 4, "device": "cpu"}
    table = rows("none", {s: 0.2 + 0.001 * s for s in seeds}, divergence=2.0, diverged=False, cell="a", **fixed)
    table += rows("up", {s: 0.3 + 0.0012 * s for s in seeds}, divergence=2.5, diverged=True, cell="b", **fixed)
    other = [
        {**row, "study": "screen", "part": "map", "learning_rate": rate, "divergence": row["divergence"] + 100 * rate}
        for rate in (1e-3, 3e-4, 3e-3)
        for row in table
    ]
    curve = {"step": [0, 10], "tar": [0.5, 0.6]}
    curves = [{"cell": "a", "held_out": curve, "panel": [{"jaccard": {"topk/clip": 0.5}}] * 3}]
    text = findings([Question("a", "acceptance", "core", "up")], [*table, *other], curves)
    assert "### Answers" in text and "| yes |" in text
    assert "| `up` | 4 | 2.5* | 0.3018* |" in text
    assert "| map | young | t | forward_kl | 0.0003 | `up` | 4 | +0.1003* (+0.0999 to +0.1007) | +0.5000 (" in text
    assert "| `none` | 2.030, 0.2015 | 2.100, 0.2015 | 2.300, 0.2015 | 0.0003 |" in text
    assert "### The map's surest cells" in text and "| `up` | acceptance | +0.1 |" in text
    assert "| 0.5 to 0.55 | 1 | +1.00e-02 | 0% |" in text and "| topk, clip | 0.50 | 0.50 | 0.50 |" in text
