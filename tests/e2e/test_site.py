"""The page without a server: the lessons' and the pictures' own tests at its address, and what only it promises."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.site.build import first_load
from tests.e2e import site
from tests.e2e.test_access import findings
from tests.e2e.test_learn import (  # noqa: F401  the same tests, another address
    learn,
    opened,
    test_numbers_in_text_and_picture_are_the_same,
    test_wrong_and_right_answers_are_told_with_their_numbers,
)

pytestmark = pytest.mark.browser
FIRST_LOAD, ALL = 1_000_000, 30_000_000  # bytes
# What stays as it is in every language: names of methods and figures, units, formats, models and versions.
NAMES = re.compile(
    r"SpecKD( Lab)?|SelecTKD|Top.k|Spec.k|TAR|TVD|KL|JSD|Jensen-Shannon|Jaccard|Hellinger|AdaKD|ROUGE-L|LoRA|"
    r"HiSpec|nats|CSV|JSONL?|PNG|HTML|WebM|MB|kB|ms|sha256|English|Español|alpha|beta|min\(1, p/q\)|"
    r"float32, cpu|speckd [\w.]+|torch [\w.+]+|transformers [\w.]+|"
    r"[a-z]+(:[a-z]+=[-+\w.]+)+|^eagle$|\blookup$|\bcost$"  # drafts and policies as Python writes them
)
# Texts of models, visitors and lessons: not the page's own words.
THEIRS = (
    "bdi, code, [dir=auto], .sk-token, .sk-quote, .sk-word, .sk-learn-body, .sk-learn-heading, .sk-learn-kicker, "
    ".sk-learn-lesson-title, .sk-learn-language, .sk-learn-dot, .sk-node-word, script, style"
)
WORDS = """theirs => {
  const found = [];
  const visible = (node) => node.checkVisibility({ visibilityProperty: true });
  for (const node of document.querySelectorAll("body *")) {
    if (node.closest(theirs) || !visible(node)) continue;
    for (const name of ["aria-label", "title", "placeholder"]) {
      if (node.getAttribute(name) && !node.dataset.t) found.push(`${name}: ${node.getAttribute(name)}`);
    }
    for (const child of node.childNodes) {
      if (child.nodeType === 3 && child.textContent.trim()) found.push(child.textContent.trim());
    }
  }
  return found;
}"""


KEPT = """async () => {
  const worker = await (await fetch("worker.js")).text();
  const { version, core, rest } = JSON.parse(/= (.*);/.exec(worker)[1]);
  for (;;) {
    const name = (await caches.keys()).find((one) => one.endsWith(version));
    if (name && (await (await caches.open(name)).keys()).length >= core.length + rest.length) return;
    await new Promise((done) => setTimeout(done, 100));
  }
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site.built(tmp_path_factory.mktemp("site"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    yield from site.served(folder)


@pytest.fixture(scope="module")
def address_of_lessons(address: str) -> str:
    return address


def tabs(folder: Path) -> list[str]:
    return [path.stem for path in (folder / "data").glob("*.json")]


def test_the_site_is_small_and_holds_no_gradio(folder: Path) -> None:
    assert first_load(folder) < FIRST_LOAD
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < ALL
    assert not re.search(r"gradio_api|svelte|/gradio/", (folder / "speckd.js").read_text(encoding="utf-8"))
    assert not re.search(r'(?:src|href)="(?:https?:)?/', (folder / "index.html").read_text(encoding="utf-8"))


def test_the_first_visit_loads_the_frame_and_one_tab_alone(visit: Callable[..., Any], address: str) -> None:
    one = visit(fresh=True, service_workers="block")
    one.page.goto(one.address)
    one.page.wait_for_selector(".sk-verdict .sk-picture .sk-row")
    asked = {url.removeprefix(address).partition("#")[0] for url in one.requests}
    assert asked <= {"", "speckd.css", "speckd.js", "icon.svg", "site.webmanifest", "data/inspect.json", "plotly.js"}


# What stands on the tabs is the page's, whose tests look at each with axe.
@pytest.mark.parametrize("looked_at", [("inspect", "map"), pytest.param(None, id="all", marks=pytest.mark.long)])
def test_every_tab_opens_says_what_needs_a_model_and_fits_a_phone(
    visit: Callable[..., Any], address: str, folder: Path, looked_at: tuple[str, ...] | None
) -> None:
    one = visit(width=320, height=640, dark=True, reduced_motion="reduce")
    page = one.page
    page.goto(address)
    serious = {}
    for tab in sorted(tabs(folder)):
        page.locator(f"#tab-{tab}-button").click()
        page.wait_for_selector(f"#tab-{tab} .sk-panel > *")
        assert page.evaluate("document.documentElement.scrollWidth") <= 320, tab
        run = page.locator(f"#tab-{tab} .sk-run").first
        if tab in ("inspect", "distill", "decode"):
            run.click()
            page.wait_for_function(
                "tab => document.querySelector(`#tab-${tab} [data-state=failed]`)?.textContent.includes('No model')",
                arg=tab,
            )
            assert page.locator(".sk-site-wished a").get_attribute("href").endswith("/spaces/owner/name")
            assert page.locator(".sk-site-wished code").all_inner_texts() == ["make setup", "make app"]
        if looked_at is None or tab in looked_at:  # the frame is the same around each
            serious[tab] = findings(page, "html" if tab == "learn" else f"#tab-{tab}")
    assert serious == {tab: [] for tab in serious}


@pytest.mark.long
def test_everything_works_without_a_network_after_the_first_visit(visit: Callable[..., Any], address: str) -> None:
    one = visit(fresh=True, reduced_motion="reduce")
    page = one.page
    page.goto(address)
    page.evaluate(KEPT)
    page.context.set_offline(True)
    page.reload()
    page.wait_for_selector("#tab-inspect .sk-strip .sk-token")
    page.evaluate("location.hash = '#tab=learn&lesson=curriculum&step=2'")
    opened(page, "curriculum", 2)
    page.locator("#tab-distill-button").click()
    page.wait_for_selector("#tab-distill .sk-race-box")
    page.context.set_offline(False)


def test_what_is_kept_is_the_recorded_file(visit: Callable[..., Any], address: str) -> None:
    page = visit().open(lanes=False).page
    page.locator(".sk-slider").first.evaluate(
        "node => { node.value = 2; node.dispatchEvent(new Event('input', { bubbles: true })); }")  # fmt: skip
    for name, ending in (("Page as HTML", "html"), ("Trace as JSON", "json")):
        page.locator("#tab-inspect").get_by_role("button", name="Keep", exact=True).click()
        with page.expect_download() as download:
            page.get_by_role("button", name=name).click()
        text = Path(download.value.path()).read_text(encoding="utf-8")
        if ending == "json":
            assert json.loads(text)["format"] == "speckd.trace"
        else:
            options = json.loads(re.search(r'id="options">(.*?)</script>', text)[1])  # type: ignore[index]
            assert options["knobs"]["k"] == 2 and isinstance(options["pin"], int)


def marked(script: str) -> str:
    """The page's script with every word of the Spanish table between ⟦ and ⟧."""
    first, rest = script.split("\n", 1)
    table = json.loads(first.removeprefix("globalThis.speckdWords = ").removesuffix(";"))
    spanish = next(one for one in table["languages"] if one["code"] == "es")
    spanish["page"] = {key: f"⟦{text}⟧" for key, text in spanish["page"].items()}
    return f"globalThis.speckdWords = {json.dumps(table)};\n{rest}"


@pytest.mark.long
def test_in_spanish_the_page_says_nothing_in_english(visit: Callable[..., Any], address: str, folder: Path) -> None:
    one = visit(fresh=True, locale="es-ES", service_workers="block", reduced_motion="reduce")
    page = one.page
    script = marked((folder / "speckd.js").read_text(encoding="utf-8"))
    page.route("**/speckd.js", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    page.goto(address)
    assert page.evaluate("document.documentElement.lang") == "es"
    english = {}
    for tab in sorted(tabs(folder)):
        page.locator(f"#tab-{tab}-button").click()
        page.wait_for_selector(f"#tab-{tab} .sk-panel > *")
        page.wait_for_timeout(300)  # data of the tab, and what is said late
        for node in page.locator(f"#tab-{tab} [aria-expanded=false]:visible").element_handles():
            if not node.is_visible():  # an earlier one took its place
                continue
            node.click()
            if page.locator(f"#tab-{tab} .sk-drawer:visible").count():
                english.update(left(page, tab))
                page.keyboard.press("Escape")
        english.update(left(page, tab))
    assert english == {}


def left(page: Any, tab: str) -> dict[str, str]:
    """Visible words that did not pass through the table, with the tab where they stand."""
    found = {}
    for text in page.evaluate(WORDS, THEIRS):
        own = NAMES.sub(
            "",
            re.sub(
                r"⟦.*⟧",
                "",
                text.split(": ", 1)[-1] if text.startswith(("aria-label", "title", "placeholder")) else text,
                flags=re.S,
            ),
        )
        if re.search(r"[^\W\d_]{2}", own):
            found[text] = tab
    return found
