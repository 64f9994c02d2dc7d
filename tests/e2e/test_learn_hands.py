"""Learn in the reader's hands: bars and coins, the final test, and another language."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from app import lessons
from app.lessons.languages import read_language
from tests.e2e.test_learn import go, learn, opened  # noqa: F401 (a fixture)

pytestmark = pytest.mark.browser
MINE = "document.querySelector('#learner .sk-panel')"


def test_bars_are_moved_and_coins_thrown(learn: Callable[..., Any]) -> None:  # noqa: F811
    page = learn("propose-verify", 4).page
    told = page.locator(".sk-hands-told").first
    trace = lessons.trace_facts("healed")
    overlap = 1 - trace.rows[trace.place("half_open")].tvd
    assert page.evaluate("x => SpecKD.format(x, 'share')", overlap) in told.inner_text()
    before = told.inner_text()
    handle = page.locator(".sk-hands-handle.sk-hands-of-student").first
    handle.focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert told.inner_text() != before
    box = handle.bounding_box()
    page.mouse.move(box["x"] + 12, box["y"] + 6)
    page.mouse.down()
    page.mouse.move(box["x"] - 60, box["y"] + 6)
    page.mouse.up()
    sums = page.evaluate(
        "() => ['teacher', 'student'].map((one) => [...document.querySelectorAll(`.sk-hands-of-${one}`)]"
        ".reduce((sum, node) => sum + Number(node.getAttribute('aria-valuenow')), 0))"
    )
    assert all(abs(one - 100) <= 5 for one in sums), "each list still makes one"
    page.get_by_role("button", name="Throw a hundred").click()
    page.get_by_role("button", name="Throw the coins").click()
    assert "of 101 draws passed" in page.locator(".sk-hands-told").nth(1).inner_text()
    assert page.locator(".sk-hands-mean").get_attribute("points").count(",") == 101
    page.get_by_role("button", name="As measured").click()
    assert told.inner_text() == before


def test_the_gradient_scales_with_the_weight_of_its_row(learn: Callable[..., Any]) -> None:  # noqa: F811
    page = learn("imitate", 3).page
    pushes = lambda: page.locator(".sk-hands-number").all_inner_texts()  # noqa: E731
    slider = page.locator(".sk-hands-slider input")
    set_to = "(node, x) => { node.value = x; node.dispatchEvent(new Event('input', { bubbles: true })); }"
    slider.evaluate(set_to, 1)
    facts = lessons.trace_facts("healed")
    row = facts.rows[facts.place("missed")]
    assert (
        page.evaluate("x => SpecKD.format(x, 'ratio', { signed: true })", row.favourite_q - row.favourite_p) in pushes()
    )
    slider.evaluate(set_to, 0)
    assert set(pushes()) == {"0"}


def test_the_speed_formula_is_a_curve(learn: Callable[..., Any]) -> None:  # noqa: F811
    page = learn("speed", 3).page
    assert "The best length here is 1" in page.locator(".sk-hands-told").inner_text()
    set_to = "(node, x) => { node.value = x; node.dispatchEvent(new Event('input', { bubbles: true })); }"
    page.locator(".sk-hands-slider input").nth(0).evaluate(set_to, 0.9)
    page.locator(".sk-hands-slider input").nth(1).evaluate(set_to, 0.25)
    speeds = [sum(0.9**j for j in range(g + 1)) / (0.25 * g + 1) for g in range(1, 17)]
    told = page.locator(".sk-hands-told").inner_text()
    assert f"best length here is {speeds.index(max(speeds)) + 1}," in told and "2.05×" in told


def test_the_final_test_ends_with_what_to_read_again(learn: Callable[..., Any]) -> None:  # noqa: F811
    page = learn("final", 1).page
    number = json.loads(page.evaluate("localStorage.getItem('speckd-lab.learn')"))["draw"]
    drawn = lessons.final.draw(number % lessons.final.N_DRAWS)
    for i, step in enumerate(drawn["steps"][:-1]):
        opened(page, "final", i + 1)
        right = step["body"][0]["right"][0]
        page.locator(".sk-learn-options input").nth(right if i not in (2, 5) else right - 1).check()
        page.locator(".sk-learn-check").click()
        words = page.locator(".sk-learn-result").inner_text()
        assert words.startswith("✓ Right" if i not in (2, 5) else "✕ Not so"), (i, words)
        page.locator(".sk-learn-next").click()
    opened(page, "final", 11)
    told = page.locator(".sk-learn-outcome p").inner_text()
    cases = drawn["steps"][-1]["body"][0]["cases"]
    assert told.startswith("8 of 10 cases were right at once.") and "Read again: " in told
    assert [link.inner_text() for link in page.locator(".sk-learn-outcome a").all()] == [
        cases[2]["about"], cases[5]["about"],
    ]  # fmt: skip
    page.get_by_role("button", name="Draw ten new cases").click()
    opened(page, "final", 1)
    page.wait_for_function("n => JSON.parse(localStorage.getItem('speckd-lab.learn')).draw !== n", arg=number)
    assert page.locator(".sk-learn-result").inner_text() == ""


def test_learn_speaks_the_browsers_language_and_another_by_hand(
    visit: Callable[..., Any], address_of_lessons: str
) -> None:
    one = visit(address=address_of_lessons, locale="es-MX")
    page = one.page
    page.goto(f"{address_of_lessons}#tab=learn&lesson=gate&step=1")
    opened(page, "gate", 1)
    spanish = lessons.lessons(read_language("es"))[3]
    heading = page.locator(".sk-learn-heading")
    assert heading.inner_text().replace("\u2011", "-") == "".join(spanish.steps[0].title)
    assert page.locator(".sk-learn").get_attribute("lang") == "es"
    page.locator(".sk-learn-options input").nth(1).check()
    page.get_by_role("button", name="Comprobar").click()
    assert page.locator(".sk-learn-result").inner_text().startswith("✓ Correcto.")
    assert "6.º" in page.locator(".sk-learn-result").inner_text()
    page.get_by_label("Idioma").select_option("en")
    page.wait_for_selector(".sk-learn[lang=en]")
    opened(page, "gate", 1)
    assert "Top" in heading.inner_text() and page.get_by_role("button", name="Glossary").count() == 1
    page.reload()
    page.wait_for_selector(".sk-learn[lang=en]")


@pytest.mark.parametrize("width", [1280, 390, 320])
def test_what_is_taken_in_hand_fits_and_is_accessible(learn: Callable[..., Any], width: int) -> None:  # noqa: F811
    from tests.e2e.test_access import findings

    page = learn("propose-verify", 4, width=width, reduced_motion="reduce").page
    for lesson, step in (("propose-verify", 4), ("imitate", 3), ("speed", 3)):
        go(page, lesson, step)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, (lesson, step)
        if width == 390:
            assert findings(page) == [], (lesson, step)
