"""How the page helps when it is wrong, or before anything was asked: names, doubt, parts, history, layout."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from t4s.app import views
from tests.support import stand_in
from tests.support.visit import PATIENCE, Visit

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
CATS = EXAMPLES / "two_cats.jpg"
PAINTED = """canvas => { const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0; for (let i = 3; i < data.length; i += 4) n += data[i] > 0;
    return n / (canvas.width * canvas.height); }"""
UNNAMED = """() => [...document.querySelectorAll("button, input, textarea, img, canvas, [role=grid]")]
    .filter(node => node.offsetParent && !(node.getAttribute("aria-label") || node.title || node.innerText?.trim()
        || node.alt !== undefined && node.hasAttribute("alt") || node.labels?.length || node.closest("label")
        || node.getAttribute("aria-labelledby") || node.placeholder))
    .map(node => node.outerHTML.slice(0, 120))"""


@pytest.fixture(scope="module")
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """One page for the tests that follow a visitor through a session; they run in the order of this file."""
    made = Visit(browser, address)
    made.upload(CATS)
    yield made
    made.page.close()


def test_a_chip_asks_for_a_name_that_the_photo_shows(visit: Visit):
    chips = visit.page.locator("#chips button")
    expect(chips).to_have_text(["cat", "toilet"], timeout=PATIENCE)
    chips.first.click()
    expect(visit.page.locator("#panels .t4s-headline")).to_contain_text("Found “cat”", timeout=PATIENCE)
    expect(visit.page.locator("#phrase textarea")).to_have_value("cat")


def test_parts_are_singled_out_and_taken_out_of_mask_and_download(visit: Visit, tmp_path: Path):
    page = visit.page
    parts = page.locator("#panels .t4s-parts li")
    expect(parts.first).to_be_visible(timeout=PATIENCE)
    canvas = page.locator("#panels canvas")
    before = canvas.evaluate(PAINTED)
    parts.first.get_by_role("button").click()
    expect(parts.first.get_by_role("button")).to_have_attribute("aria-pressed", "true")
    parts.first.get_by_role("checkbox").uncheck()
    after = canvas.evaluate(PAINTED)
    assert after < before / 2  # the larger of two cats went
    page.wait_for_timeout(500)  # the server hears of it
    with page.expect_download() as coming:
        page.click("#save-mask")
    coming.value.save_as(tmp_path / "mask.png")
    assert abs((np.asarray(Image.open(tmp_path / "mask.png")) > 0).mean() - after) < 0.01


def test_the_slider_keeps_sure_cells_without_asking_the_model(visit: Visit, segmenter: stand_in.StandIn):
    page, asked = visit.page, segmenter.asked
    before = page.locator("#panels .cell.filled").count()
    page.locator("#panels .t4s-threshold input").fill("90")
    expect(page.locator("#panels .t4s-threshold output")).to_have_text("90 %")
    expect(page.locator("#panels .cell.filled")).not_to_have_count(before, timeout=PATIENCE)
    assert 0 < page.locator("#panels .cell.filled").count() < before and segmenter.asked == asked


def test_an_unsure_answer_is_drawn_when_it_is_wanted(visit: Visit):
    page = visit.page
    visit.ask("maybe cat")
    headline = page.locator("#panels .t4s-headline")
    expect(headline).to_contain_text("not sure", timeout=PATIENCE)
    expect(headline).to_have_attribute("data-kind", "unsure")
    canvas = page.locator("#panels canvas")
    assert canvas.evaluate(PAINTED) == 0
    page.get_by_role("button", name="Show anyway").click()
    assert canvas.evaluate(PAINTED) > 0.1


def test_an_unknown_word_is_said_and_another_offered(visit: Visit):
    page = visit.page
    visit.ask(stand_in.UNKNOWN)
    expect(page.locator("#panels .t4s-headline")).to_contain_text("not a word", timeout=PATIENCE)
    page.locator("#panels .t4s-action", has_text="horse").click()
    expect(page.locator("#panels .t4s-headline")).to_contain_text("“horse” is not in this photo", timeout=PATIENCE)


def test_earlier_answers_are_a_click_away(visit: Visit, segmenter: stand_in.StandIn):
    page = visit.page
    answers = page.locator("#history button")
    expect(answers).to_have_count(4, timeout=PATIENCE)
    asked = segmenter.asked
    answers.last.click()
    expect(page.locator("#panels .t4s-headline")).to_contain_text("Found “cat”", timeout=PATIENCE)
    expect(page.locator("#phrase textarea")).to_have_value("cat")
    page.wait_for_timeout(1000)  # the photo field's own event must not wipe the answer away
    expect(page.locator("#panels .t4s-headline")).to_contain_text("Found “cat”")
    assert segmenter.asked == asked


def test_the_slash_goes_to_the_phrase_and_known_names_complete_it(visit: Visit):
    page = visit.page
    page.locator("#panels .cell").first.focus()
    page.keyboard.press("/")
    field = page.locator("#phrase textarea")
    expect(field).to_be_focused()
    field.fill("")
    page.keyboard.type("the pers")
    expect(page.get_by_role("option")).to_have_text(["person"])
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(field).to_have_value("the person")
    assert visit.wrong == []


def test_every_control_and_picture_has_a_name(visit: Visit):
    assert visit.page.evaluate(UNNAMED) == []


@pytest.mark.long
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1100, 1440, 1920])
def test_panoramas_and_tall_photos_fit(browser: Browser, address: str, tmp_path: Path, width: int, dark: bool):
    visit = Visit(browser, address, width, 900, dark)
    for size in ((1600, 400), (300, 1200)):
        Image.new("RGB", size, (90, 120, 90)).save(tmp_path / "photo.png")
        visit.upload(tmp_path / "photo.png")
        visit.ask("dog")
        visit.finished()
        frame = visit.page.locator("#panels .t4s-mask .t4s-frame").bounding_box()
        panel = visit.page.locator("#panels .t4s-mask").bounding_box()
        photo = visit.page.locator("#panels .t4s-mask .t4s-photo").bounding_box()
        assert abs(frame["width"] / frame["height"] - size[0] / size[1]) < 0.1 * size[0] / size[1]
        assert abs(photo["y"] - frame["y"]) < 1 and frame["width"] <= panel["width"]
        assert visit.page.evaluate("() => document.documentElement.scrollWidth") <= width
    mask = visit.page.locator("#panels .t4s-mask").bounding_box()
    text = visit.page.locator("#panels .t4s-text").bounding_box()
    assert mask["y"] < text["y"] if width < 700 else abs(mask["y"] - text["y"]) < 1
    assert visit.wrong == []
    visit.page.close()


def test_rows_without_their_leading_space_are_one_complaint():
    rows = ["others *16"] * 16
    _, answer = views.read_text("\n".join(rows) + "\n", (16, 16), "rows")
    assert len(answer["faults"]) == 1 and "begin with a space" in answer["faults"][0]["message"]


@pytest.mark.parametrize("text", ["cat, dog", "cat; dog", "cat\ndog", "cat|dog|cat"])
def test_names_are_separated_as_people_do_it(text: str):
    assert views.names(text) == ["cat", "dog"]


def test_parts_are_numbered_as_they_are_listed(segmenter: stand_in.StandIn):
    answer = segmenter(CATS, "cat")
    found = views.part_map(answer)
    for index, part in enumerate(found.parts):
        assert (found.numbers == index + 1).any() and part.label == "cat"
    large = dataclasses.replace(answer, masks={"cat": answer.mask.repeat(3, 0).repeat(3, 1)})
    large = dataclasses.replace(large, mask=large.masks["cat"])
    scaled = views.part_map(large)
    assert max(scaled.numbers.shape) == 768 and len(scaled.parts) >= 2  # a large photo costs no more than is shown
    assert scaled.parts[0].area == pytest.approx(9 * answer.parts[0].area, rel=0.02)
    without = views.without_parts(answer, {0})
    assert int(without.mask.sum()) == int(answer.mask.sum()) - answer.parts[0].area
