"""How soon the app answers, as a visitor sees it: `python tests/seconds.py`, with Chromium installed.

Starts the app with the embedded checkpoint and uploads each example photo as a visitor uploads one of their own, then
one of twelve megapixels.
Measured from the click to the first row on the screen and to the finished mask, in seconds; then the same for a second
phrase about the photo, which is encoded by then. The model is loaded and has answered once before.
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser

from t4s.app import examples
from tests.screenshots import ROOT, visited

LARGE = 4000, 3000  # pixels
SECOND = {"person": "dog"}  # phrase: the one that is asked after it; "person" after all others
WATCH = """() => {
  const root = document.querySelector("#panels .t4s"), seen = window.seconds = {};
  document.querySelector("#go").addEventListener("click", () => { seen.start = performance.now(); },
                                                 { once: true, capture: true });
  new MutationObserver((_, observer) => {
    const now = (performance.now() - seen.start) / 1000;
    if (root.dataset.state === "running") seen.running = true;
    if (!seen.running) return;
    if (seen.row === undefined && root.querySelector(".cell:not(.waiting)")) seen.row = now;
    if (root.dataset.state !== "done" || root.dataset.mask !== "fine") return;
    seen.mask = now;
    observer.disconnect();
  }).observe(root, { attributes: true, childList: true, subtree: true });
}"""


def measured(browser: Browser, url: str, photo: Path, phrases: list[str]) -> list[float]:
    """[first row, mask] in seconds for each phrase, asked one after the other about one photo on a new page."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.set_default_timeout(120_000)
    page.goto(url)
    page.wait_for_selector("#phrase textarea")
    page.set_input_files("#photo input[type=file]", photo)
    page.wait_for_selector("#panels .t4s[data-state=ready]")
    found = []
    for phrase in phrases:
        page.fill("#phrase textarea", phrase)
        page.evaluate(WATCH)
        page.click("#go")
        page.wait_for_function("() => window.seconds.mask !== undefined")
        seen = page.evaluate("() => window.seconds")
        found += seen["row"], seen["mask"]
    page.close()
    return found


def measured_examples(browser: Browser, url: str) -> Iterator[tuple[str, str, list[float]]]:
    """(photo, phrase, [first row, mask] for the phrase and for a second one), the large photo last."""
    with tempfile.TemporaryDirectory() as folder:
        photos = [(ROOT / "assets" / "examples" / name, phrase) for name, phrase in examples.EXAMPLES]
        large = Path(folder) / "12_megapixels.jpg"
        Image.open(photos[0][0]).resize(LARGE).save(large)
        for photo, phrase in [*photos, (large, photos[0][1])]:
            yield photo.name, phrase, measured(browser, url, photo, [phrase, SECOND.get(phrase, "person")])


def table(rows: list[tuple[str, str, list[float]]]) -> str:
    """As Markdown, the medians last."""
    lines = ["| photo | phrase | first row | mask | second phrase: first row | mask |", "|---|---|---|---|---|---|"]
    medians = [statistics.median(column) for column in zip(*(values for *_, values in rows), strict=True)]
    for name, phrase, values in [*rows, ("median", "", medians)]:
        lines.append(f"| {name} | {phrase} | {' | '.join(f'{value:.2f}' for value in values)} |")
    return "\n".join(lines)


def main() -> None:
    import torch

    from t4s import Segmenter

    with visited(Segmenter.from_pretrained(device="cpu")) as (browser, url):
        name, phrase = examples.EXAMPLES[0]
        measured(browser, url, ROOT / "assets" / "examples" / name, ["something else"])
        print(table(list(measured_examples(browser, url))))
    print(f"\nSeconds, with {torch.get_num_threads()} threads of torch on {os.cpu_count()} processors.")


if __name__ == "__main__":
    main()
