"""The README's pictures of the app: `python tests/screenshots.py`, with Chromium installed.

Starts the app with the embedded checkpoint, drives a browser through it and writes assets/screenshots/*.png.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # run as a file, it finds app.py
FOLDER = ROOT / "assets" / "screenshots"
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def segment(page: Page) -> None:
    page.locator("#examples button").first.click()
    page.wait_for_selector("#panels .t4s[data-state=done][data-mask=fine]")
    page.locator("#panels pre").evaluate("text => { text.scrollTop = 0; }")
    page.locator("#panels .cell").nth(5 * 16 + 5).hover()


def everything(page: Page) -> None:
    page.get_by_role("tab", name="Everything").click()
    page.locator("#examples-all button").nth(5).click()
    page.wait_for_selector("#panels-all .t4s[data-state=done][data-mask=fine]")
    page.click("#panels-all button[data-confidence]")
    page.locator("#panels-all pre").evaluate("text => { text.scrollTop = 0; }")


def text(page: Page) -> None:
    page.get_by_role("tab", name="Text ↔ mask").click()
    page.wait_for_selector("#panels-text .t4s[data-state=done]")


# file: (what is done on the page, width, height, dark)
PICTURES: dict[str, tuple[Callable[[Page], None], int, int, bool]] = {
    "segment.png": (segment, 1440, 860, False),
    "everything-dark.png": (everything, 1440, 860, True),
    "text.png": (text, 1440, 860, False),
    "phone.png": (segment, 390, 844, False),
}


def take(browser: Browser, url: str, name: str) -> None:
    act, width, height, dark = PICTURES[name]
    page = browser.new_page(viewport={"width": width, "height": height}, device_scale_factor=1.25)
    page.set_default_timeout(120_000)
    page.goto(url + ("?__theme=dark" if dark else ""))
    page.wait_for_selector("#phrase textarea")
    act(page)
    page.wait_for_timeout(900)  # the mask's fade
    file = FOLDER / name
    page.screenshot(path=file, full_page=width < 600)
    Image.open(file).convert("P", palette=Image.Palette.ADAPTIVE, colors=256).save(file, optimize=True)
    page.close()


@contextmanager
def visited(segmenter: Any) -> Iterator[tuple[Browser, str]]:
    """A browser and the address of an app that runs with this segmenter."""
    import app

    chromium = next(filter(None, map(shutil.which, BROWSERS)), None)
    if chromium is None:
        sys.exit("No browser: install Chromium, so that one of " + ", ".join(BROWSERS) + " is on the path.")
    blocks = app.build(segmenter).queue()
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        yield browser, url
        browser.close()
    blocks.close()


def main() -> None:
    from t4s import Segmenter

    FOLDER.mkdir(exist_ok=True)
    with visited(Segmenter.from_pretrained(device="cpu")) as (browser, url):
        for name in PICTURES:
            take(browser, url, name)
            print(FOLDER / name)


if __name__ == "__main__":
    main()
