"""The gate in the browser (gate.js) against the gate in Python, on the shipped traces and made-up ones."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import speckd
from speckd import html
from tests.app import synthetic

pytestmark = pytest.mark.browser
RECORDED = sorted((Path(__file__).parents[2] / "assets" / "traces").glob("*.json"))
KNOBS = [
    {"gate": gate, "k": k, "beta": beta, "divergence": divergence}
    for gate in ("topk", "speck", "none")
    for k, beta, divergence in [
        (1, 0.01, "forward_kl"), (5, 0.0, "reverse_kl"), (50, 0.3, "jsd"), (7, 1.0, "tvd"), (3, 0.5, "skew_kl"),
    ]
]  # fmt: skip


@pytest.fixture(scope="module")
def scripts(browser: Any) -> Iterator[Any]:
    page = browser.new_page()
    page.add_script_tag(content=html.script())
    yield page
    page.close()


def some_traces() -> list[Any]:
    infinite = synthetic.trace(40, seed=3)
    infinite["divergence"]["forward_kl"][7] = "inf"
    made_up = [synthetic.trace(1), synthetic.trace(257, seed=2), infinite]
    cases = [pytest.param(speckd.Trace.from_json(path), id=path.stem) for path in RECORDED]
    return cases + [pytest.param(speckd.Trace.from_dict(data), id=f"made-up-{n}") for n, data in enumerate(made_up)]


def test_there_are_shipped_traces() -> None:
    assert "healed" in [path.stem for path in RECORDED]


@pytest.mark.parametrize("trace", some_traces())
def test_regating_agrees_with_python(scripts: Any, trace: speckd.Trace) -> None:
    shown = scripts.evaluate(
        """([data, settings]) => { const trace = SpecKD.readTrace(data); return settings.map((knobs) => {
             const { accepted, weights, tar, plain, gated } = SpecKD.regate(trace, knobs);
             return { accepted: [...accepted], weights: [...weights], tar, plain: String(plain), gated: String(gated) };
           }); }""",
        [trace.to_dict(n_draws=16), KNOBS],
    )
    for knobs, browser_says in zip(KNOBS, shown, strict=True):
        gate = (
            speckd.AllOpen()
            if knobs["gate"] == "none"
            else speckd.gate_named(knobs["gate"], k=knobs["k"], beta=knobs["beta"])
        )
        assert browser_says["accepted"] == trace.accepted(gate).int().tolist()
        assert browser_says["weights"] == pytest.approx(trace.weights(gate).tolist(), rel=1e-6)  # Python's are float32
        assert browser_says["tar"] == pytest.approx(trace.tar(gate), abs=1e-12)
        for name, of in (("plain", speckd.AllOpen()), ("gated", gate)):
            expected, value = trace.loss(of, knobs["divergence"]), float(browser_says[name].replace("Infinity", "inf"))
            assert value == pytest.approx(expected, rel=1e-6) or (math.isinf(value) and math.isinf(expected))


@pytest.mark.parametrize("trace", some_traces())
def test_acceptance_probabilities_and_budgets_agree_with_python(scripts: Any, trace: speckd.Trace) -> None:
    n = trace.n_tokens
    ones, tens, kept = scripts.evaluate(
        """([data, budgets]) => { const trace = SpecKD.readTrace(data); const all = [...trace.tokens.keys()];
             const kept = (name) => budgets.map((m) => [...SpecKD.keep(trace.ranks[name], m)]);
             return [all.map((t) => SpecKD.acceptanceOfOneDraw(trace, t)),
                     all.map((t) => SpecKD.acceptanceOfAnyDraw(trace, t, 10)),
                     Object.keys(SpecKD.SELECTORS).map(kept)]; }""",
        [trace.to_dict(n_draws=0), [0, 1, n // 2, n]],
    )
    assert ones == pytest.approx(trace.acceptance_probability(1).tolist(), abs=1e-6)
    assert tens == pytest.approx(trace.acceptance_probability(10).tolist(), abs=1e-6)
    names = ["adakd", "student_entropy", "teacher_entropy_low", "teacher_entropy_high", "random"]
    for name, by_budget in zip(names, kept, strict=True):
        for m, marks in zip([0, 1, n // 2, n], by_budget, strict=True):
            assert marks == trace.kept_at_budget(name, m).int().tolist()


def test_budget_rounds_half_up_and_keeps_at_least_one(scripts: Any) -> None:
    cases = [(0.0, 9), (0.01, 9), (0.5, 9), (0.5, 8), (0.2, 12), (1.0, 9), (0.25, 10)]
    shown = scripts.evaluate("cases => cases.map(([f, n]) => SpecKD.budget(f, n))", cases)
    assert shown == [0, 1, 5, 4, 2, 9, 3]
    assert scripts.evaluate("SpecKD.jaccard([1, 1, 0, 0], [1, 0, 1, 0])") == pytest.approx(1 / 3)
    assert scripts.evaluate("SpecKD.jaccard([0, 0], [0, 0])") == 1


def test_null_is_never_below_k(scripts: Any) -> None:
    data = speckd.Trace.from_dict(synthetic.trace(8)).to_dict()
    assert all(isinstance(value, int) for name in ("topk_threshold", "speck_threshold") for value in data[name])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (1, "1"),
        (0.01, "0.01"),
        (2.3456, "2.35"),
        (0.00012, "1.2e−4"),
        (12345, "12,345"),
        (0.5, "0.5"),
        (123.4, "123"),
    ],
)
def test_numbers_have_three_significant_digits(scripts: Any, value: float, text: str) -> None:
    assert scripts.evaluate("x => SpecKD.number(x)", value) == text


def test_invisible_characters_are_shown_by_name(scripts: Any) -> None:
    shown = scripts.evaluate(
        "texts => texts.map(SpecKD.shown)", ["\n", " ", "      ", "\x00", "\u202eabc", "", " word", "<b>", "\ufeff"]
    )
    assert shown == ["↵", "␣", "␣␣␣␣×6", "␀", "⟨U+202E⟩abc", "∅", "word", "<b>", "⟨U+FEFF⟩"]
