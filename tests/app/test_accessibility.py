"""What a screen reader and weak eyes find: axe-core on every tab, in light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from tests.support.visit import Visit

CATS = Path(__file__).resolve().parents[2] / "assets" / "examples" / "two_cats.jpg"
GRAVE = ("moderate", "serious", "critical")


def _findings(page: Page, place: str, rules: list[str]) -> list[str]:
    """axe-core's findings on what is visible, one line each."""
    page.mouse.move(0, 0)
    page.wait_for_timeout(400)  # colours change in a third of a second
    options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
    found = Axe().run(page, options=options).response["violations"]
    return [
        f"{place}: {rule['impact']} {rule['id']}: {node['html'][:200]}"
        for rule in found
        if rule["impact"] in GRAVE
        for node in rule["nodes"][:3]
    ]


RULES = {False: [], True: ["color-contrast"]}  # in the dark: the rest is the same as in the light


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.long)])
def test_axe_finds_nothing_grave_about_an_answer(browser: Browser, address: str, dark: bool):
    visit = Visit(browser, address, dark=dark)
    visit.upload(CATS)
    visit.ask("cat")
    visit.finished()
    assert _findings(visit.page, "an answer", RULES[dark]) == []
    visit.page.close()


@pytest.mark.long
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_grave_on_any_tab(browser: Browser, address: str, dark: bool):
    visit = Visit(browser, address, dark=dark)
    page, rules = visit.page, RULES[dark]
    found = _findings(page, "before a photo", rules)
    visit.upload(CATS)
    page.get_by_role("button", name="Options").first.click()
    for phrase, kind in {"maybe cat": "unsure", "elephant": "absent", "hrose": "unknown"}.items():
        visit.ask(phrase)
        expect(page.locator(f"#panels .t4s-headline[data-kind={kind}]")).to_be_visible()
        found += _findings(page, kind, rules)
    for name in ("Everything", "Text ↔ mask", "Batch", "About"):
        visit.tab(name)
        if name == "About":
            expect(page.locator("#story figure")).to_have_count(5)
        found += _findings(page, name, rules)
    assert found == []
    assert visit.wrong == []
    page.close()
