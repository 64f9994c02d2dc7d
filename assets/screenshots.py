"""Take the README's pictures from the real page: python assets/screenshots.py [FOLDER]

Starts the page on a free port without loading a model (the pictures show recorded answers and runs), and writes each
tab, desktop and phone, light and dark, and the card that is shown where somebody shares the page.
"""

import base64
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import sync_playwright

from app.main import build, launch_options
from tests.browser import FLAGS, MISSING, find_browser

TABS = {  # what is opened, and what must be on screen before the picture is taken
    "inspect": ("#gate=topk&k=5&at=9", "#tab-inspect .sk-lanes .sk-plot[data-drawn]"),
    "distill": ("#tab=distill", "#tab-distill .sk-plot[data-drawn]"),
    "decode": ("#tab=decode&recorded=sampled", "#tab-decode .sk-round"),
    "map": ("#tab=map", "#tab-map .sk-map-opened[data-of]"),
    "learn": ("#tab=learn&lesson=gate&step=3", "#tab-learn .sk-strip .sk-token"),
}
SIZES = {"": (1280, 800), "-phone": (390, 844)}
CARD = """async () => {
  const { picture, lanes, app } = document.querySelector("#inspector .sk-panel").inspector;
  const card = await SpecKD.inspectCard({ picture, lanes, host: app, interlinear: true });
  const reader = new FileReader();
  await new Promise((done) => { reader.onload = done; reader.readAsDataURL(card); });
  return reader.result.split(",")[1];
}"""
PLAYED = 8_000  # milliseconds in which the recorded run has played


def main(folder: Path) -> None:
    path = find_browser()
    if path is None:
        sys.exit(MISSING)
    folder.mkdir(parents=True, exist_ok=True)
    page = build(load_models=False)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options(page))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for tab, (fragment, drawn) in TABS.items():
            for size, (width, height) in SIZES.items():
                for scheme in ("light", "dark"):
                    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
                    context.add_init_script("localStorage.setItem('speckd-lab.opening', 'seen')")  # no opening plays
                    visit = context.new_page()
                    visit.goto(url + fragment)
                    visit.wait_for_selector(drawn, timeout=60_000)
                    visit.wait_for_timeout(PLAYED if tab == "distill" else 1_000)  # motion comes to rest
                    file = folder / f"{tab}{size}-{scheme}.png"
                    visit.screenshot(path=file, full_page=bool(size))
                    print(file)
                    if (tab, size, scheme) == ("inspect", "", "light"):
                        (folder / "card.png").write_bytes(base64.b64decode(visit.evaluate(CARD)))
                    context.close()
        browser.close()
    page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "assets" / "pictures")
