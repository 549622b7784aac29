"""A page of the running app in a real Chromium, and what a visitor does on it."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import Browser, Page, expect

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
PATIENCE = 60_000  # milliseconds; a loaded machine is slow, and nothing sleeps
expect.set_options(timeout=PATIENCE)


class Visit:
    """A page of the app. `wrong` collects what went wrong on it: errors of its scripts, calls to other machines."""

    def __init__(
        self,
        browser: Browser,
        address: str,
        width: int = 1440,
        height: int = 900,
        dark: bool = False,
        touch: bool = False,
    ):
        size = {"width": width, "height": height}
        self.page: Page = browser.new_page(viewport=size, accept_downloads=True, has_touch=touch, is_mobile=touch)
        self.page.set_default_timeout(PATIENCE)
        self.wrong: list[str] = []
        self.page.on("console", lambda line: self.wrong.append(line.text) if line.type == "error" else None)
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", lambda request: self._watch(request.url, address))
        self.page.goto(address + ("?__theme=dark" if dark else ""))
        expect(self.page.locator("#phrase textarea")).to_be_visible()

    def _watch(self, url: str, address: str) -> None:
        if not url.startswith((address.rstrip("/"), "data:", "blob:")):
            self.wrong.append(f"a call to {url}")

    def hand_in(self, photo: Path, field: str = "#photo") -> None:
        """Gives the file to the field, whatever comes of it."""
        remove = self.page.locator(f"{field} button[aria-label='Remove Image'], {field} button[aria-label='Clear']")
        if remove.count():
            remove.click()
        self.page.set_input_files(f"{field} input[type=file]", photo)

    def upload(self, photo: Path, field: str = "#photo") -> None:
        """Gives the file to the field and waits until it is shown."""
        self.hand_in(photo, field)
        expect(self.page.locator(f"{field} img")).to_be_visible()

    def ask(self, phrase: str) -> None:
        """Asks, and marks the facts of the answer on show: each answer replaces them, so the mark goes with them."""
        self.page.fill("#phrase textarea", phrase)
        facts = self.page.locator("#panels .t4s-facts > div")
        facts.evaluate_all("facts => facts.forEach((fact) => { fact.dataset.former = 'yes'; })")
        self.page.click("#go")

    def finished(self, panels: str = "#panels") -> None:
        """Waits for the whole answer, that to the last `ask` and not the one that was on show before it."""
        answer = self.page.locator(f"{panels} .t4s[data-state=done]:not(:has([data-former]))")
        expect(answer).to_be_visible()

    def tab(self, name: str) -> None:
        tab = self.page.get_by_role("tab", name=name)
        if not tab.count():  # on a narrow page the tabs without room are behind a button
            self.page.locator(".overflow-menu > button").first.click()  # tabs inside a tab have one too
            tab = self.page.locator(".overflow-dropdown button", has_text=name)
        tab.click()
