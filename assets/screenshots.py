"""Take the README's pictures from the real page: python assets/screenshots.py [FOLDER]

Starts the page on a free port without loading a model (the recorded answer is what the pictures show), and writes
desktop and phone, light and dark.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import sync_playwright

from app.main import build, launch_options
from tests.browser import FLAGS, MISSING, find_browser

FRAGMENT = "#gate=topk&k=5&at=9"
PICTURES = {
    "inspect-light": (1280, 800, "light"),
    "inspect-dark": (1280, 800, "dark"),
    "phone-light": (390, 844, "light"),
    "phone-dark": (390, 844, "dark"),
}


def main(folder: Path) -> None:
    path = find_browser()
    if path is None:
        sys.exit(MISSING)
    folder.mkdir(parents=True, exist_ok=True)
    page = build(load_models=False)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **launch_options())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        for name, (width, height, scheme) in PICTURES.items():
            context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
            tab = context.new_page()
            tab.goto(url + FRAGMENT)
            tab.wait_for_selector(".sk-lanes .sk-plot[data-drawn]", timeout=60_000)
            tab.wait_for_selector(".sk-status[data-state=ready]")
            tab.wait_for_timeout(400)  # the last short transition
            tab.screenshot(path=folder / f"{name}.png", full_page=width < 500)
            print(folder / f"{name}.png")
            context.close()
        browser.close()
    page.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "assets" / "pictures")
