"""How the page helps when it is wrong, or before anything was asked: names, doubt, parts, history, layout."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from t4s.app import views
from tests.support import stand_in
from tests.support.visit import Visit

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
CATS = EXAMPLES / "two_cats.jpg"
PAINTED = """canvas => { const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let n = 0; for (let i = 3; i < data.length; i += 4) n += data[i] > 0;
    return n / (canvas.width * canvas.height); }"""
PAINTED_FULLY = PAINTED.replace("data[i] > 0", "data[i] > 60")
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


def test_a_thing_is_asked_for_by_pointing_at_it(visit: Visit):
    page = visit.page
    expect(page.locator("#panels .t4s-readout")).to_have_text("Point at a thing in the photo; a click asks for it.")
    frame = page.locator("#panels .t4s-mask .t4s-frame").bounding_box()
    page.mouse.move(frame["x"] + frame["width"] / 3, frame["y"] + frame["height"] / 4)
    expect(page.locator("#panels .t4s-readout b")).to_have_text("looks like cat")
    expect(page.locator("#panels .cell.lit")).to_have_count(128)
    page.locator("#panels .cell").nth(255).hover()
    expect(page.locator("#panels .t4s-readout b")).to_have_text("nothing it knows by name")
    between = """cells => { const [one, next] = [100, 101].map(at => cells[at].getBoundingClientRect());
        return document.elementFromPoint((one.right + next.left) / 2, one.top + 3).className; }"""
    assert "cell" in page.locator("#panels .cell").evaluate_all(between).split()  # no gap that does nothing
    page.locator("#panels .cell").nth(200).click()
    expect(page.locator("#panels .t4s-headline")).to_contain_text("Found “toilet”")
    expect(page.locator("#phrase textarea")).to_have_value("toilet")


def test_a_chip_asks_for_a_name_that_the_photo_shows(visit: Visit):
    chips = visit.page.locator("#chips button")
    expect(chips).to_have_text(["cat", "toilet"])
    chips.first.click()
    expect(visit.page.locator("#panels .t4s-headline")).to_contain_text("Found “cat”")
    expect(visit.page.locator("#phrase textarea")).to_have_value("cat")


def test_parts_are_singled_out_and_taken_out_of_mask_and_download(
    visit: Visit, segmenter: stand_in.StandIn, tmp_path: Path
):
    page = visit.page
    parts = page.locator("#panels .t4s-parts li")
    expect(parts.first).to_be_visible()
    canvas = page.locator("#panels canvas")
    before = canvas.evaluate(PAINTED)
    parts.first.get_by_role("button").click()
    expect(parts.first.get_by_role("button")).to_have_attribute("aria-pressed", "true")
    page.mouse.move(5, 5)  # what is pointed at is singled out too
    singled = canvas.evaluate(PAINTED_FULLY)
    parts.first.get_by_role("button").click()
    page.mouse.move(5, 5)
    assert singled < canvas.evaluate(PAINTED_FULLY)
    x0, y0, x1, y1 = segmenter(CATS, "cat").parts[0].box  # its middle is a pixel of the cat
    width, height = Image.open(CATS).size
    frame = page.locator("#panels .t4s-mask .t4s-frame")
    room = frame.bounding_box()
    place = {"x": (x0 + x1) / 2 / width * room["width"], "y": (y0 + y1) / 2 / height * room["height"]}
    frame.click(position=place)  # the part itself can be clicked too
    expect(parts.first.get_by_role("button")).to_have_attribute("aria-pressed", "true")
    frame.click(position=place)
    parts.first.get_by_role("checkbox").uncheck()
    expect(page.locator("#panels .t4s-headline")).to_contain_text("sure. 1 part taken out.")
    after = canvas.evaluate(PAINTED)
    assert canvas.evaluate(PAINTED_FULLY) > 0.9 * after  # the pointer dims nothing that stays
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
    expect(page.locator("#panels .cell.filled")).not_to_have_count(before)
    assert 0 < page.locator("#panels .cell.filled").count() < before and segmenter.asked == asked


def test_an_unsure_answer_is_drawn_when_it_is_wanted(visit: Visit):
    page = visit.page
    visit.ask("maybe cat")
    visit.finished()
    headline = page.locator("#panels .t4s-headline")
    expect(headline).to_contain_text("not sure")
    expect(headline).to_have_attribute("data-kind", "unsure")
    canvas = page.locator("#panels canvas")
    assert canvas.evaluate(PAINTED) == 0
    page.get_by_role("button", name="Show anyway").click()
    assert canvas.evaluate(PAINTED) > 0.1


def test_an_unknown_word_is_said_and_another_offered(visit: Visit):
    page = visit.page
    visit.ask(stand_in.UNKNOWN)
    expect(page.locator("#panels .t4s-headline")).to_contain_text("not a word")
    page.locator("#panels .t4s-action", has_text="horse").click()
    expect(page.locator("#panels .t4s-headline")).to_contain_text("“horse” is not in this photo")


def test_earlier_answers_are_a_click_away(visit: Visit, segmenter: stand_in.StandIn):
    page = visit.page
    answers = page.locator("#history button")
    expect(answers).to_have_text(["horse", "hrose", "maybe cat", "cat", "toilet"])
    asked = segmenter.asked
    answers.nth(3).click()
    expect(page.locator("#panels .t4s-headline")).to_contain_text("Found “cat”")
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


def test_a_link_leads_back_to_the_answer(visit: Visit):
    page = visit.page
    page.evaluate("() => { navigator.clipboard.writeText = async (text) => { window.copied = text; }; }")
    visit.ask("toilet")
    visit.finished()
    expect(page.locator("#panels .t4s-headline")).to_contain_text("Found “toilet”")
    said = page.locator("#panels .t4s-headline").text_content()
    page.get_by_role("button", name="Copy a link").click()
    link = page.wait_for_function("() => window.copied").json_value()
    assert "deep_link=" in link
    page.goto(link)
    expect(page.locator("#panels .t4s-headline")).to_have_text(said)
    expect(page.locator("#phrase textarea")).to_have_value("toilet")
    expect(page.locator("#photo img")).to_be_visible()
    assert visit.wrong == []


def test_a_broken_photo_is_said_once_and_in_sight(browser: Browser, address: str, tmp_path: Path):
    visit = Visit(browser, address, 390, 844, touch=True)
    (tmp_path / "cut.jpg").write_bytes(CATS.read_bytes()[:9000])
    visit.hand_in(tmp_path / "cut.jpg")
    headline = visit.page.locator("#panels .t4s-headline")
    expect(headline).to_contain_text("cut off or broken")
    expect(headline).to_be_in_viewport()
    assert visit.page.get_by_test_id("toast-body").count() == 0
    visit.page.close()


def test_no_run_stays_lit_when_the_next_answer_comes(visit: Visit, segmenter: stand_in.StandIn):
    page = visit.page
    with segmenter.slowed(0.05):
        page.locator("#panels .t4s-grid .cell").nth(40).hover()
        page.focus("#phrase textarea")
        visit.page.fill("#phrase textarea", "cat")
        page.keyboard.press("Enter")
        expect(page.locator("#panels .t4s[data-state=running]")).to_be_attached()
        visit.finished()
    lit = page.locator("#panels .cell.lit").evaluate_all("cells => cells.map(cell => Number(cell.dataset.cell))")
    assert lit == list(range(lit[0], lit[0] + len(lit))) if lit else True  # one run at most


def test_confidence_has_a_legend(visit: Visit):
    page = visit.page
    page.mouse.move(5, 5)
    page.click("#panels [data-confidence]")
    expect(page.locator("#panels .t4s-readout")).to_have_text("unsuresurebackground, unsure")
    page.click("#panels [data-confidence]")
    expect(page.locator("#panels .t4s-readout")).to_contain_text("Point at cells")


def test_a_new_question_takes_the_place_of_a_running_answer(visit: Visit, segmenter: stand_in.StandIn):
    """A phrase that was entered while another was being answered was dropped without a word."""
    page, field = visit.page, visit.page.locator("#phrase textarea")
    answers = page.locator("#history button").count()
    with segmenter.slowed(0.3):
        visit.ask("person")
        expect(page.locator("#panels .t4s[data-state=running] .cell:not(.waiting)").first).to_be_attached()
        asked = segmenter.asked
        field.fill("toilet")
        field.press("Enter")
        while segmenter.asked == asked:  # which is before the first answer's end, 16 rows of 0.3 s
            page.wait_for_timeout(20)
        segmenter.pause = 0.0
        expect(page.locator("#panels .t4s-headline")).to_contain_text("Found “toilet”")
        assert page.locator("#history button").count() <= answers + 1  # the answer that nobody waited for is not kept
        segmenter.pause = 0.3
        visit.ask("person")
        expect(page.locator("#panels .t4s[data-state=running] .cell:not(.waiting)").first).to_be_attached()
        page.locator("#photo button[aria-label='Clear'], #photo button[aria-label='Remove Image']").click()
        expect(page.locator("#panels .t4s[data-state=empty]")).to_be_attached()
        page.wait_for_timeout(700)  # two more rows would come
        expect(page.locator("#panels .t4s[data-state=empty]")).to_be_attached()
    expect(page.get_by_test_id("toast-body")).to_have_count(0)
    visit.upload(CATS)


def test_another_photo_ends_the_answer_about_the_one_before(visit: Visit, segmenter: stand_in.StandIn):
    page = visit.page
    with segmenter.slowed(0.3):
        visit.ask("person")
        expect(page.locator("#panels .t4s[data-state=running] .cell:not(.waiting)").first).to_be_attached()
        page.set_input_files("#photo input[type=file]", EXAMPLES / "elephant.jpg")  # over the photo that is there
        expect(page.locator("#panels .t4s[data-state=ready]")).to_be_attached()
        page.wait_for_timeout(700)  # two more rows would come
        expect(page.locator("#panels .t4s[data-state=ready]")).to_be_attached()
    expect(page.get_by_test_id("toast-body")).to_have_count(0)
    visit.upload(CATS)


def test_stop_keeps_the_names_that_were_found(visit: Visit, segmenter: stand_in.StandIn):
    page = visit.page
    visit.tab("Everything")
    visit.upload(CATS, "#photo-all")
    page.fill("#names textarea", "toilet; cat")
    with segmenter.slowed(2.0):
        page.click("#go-all")
        running = page.locator("#panels-all .t4s[data-state=running] .cell:not(.waiting)")
        expect(running.first).to_be_attached()
        page.click("#stop-go-all")
        expect(page.locator("#panels-all .t4s-headline")).to_contain_text("Stopped after")
    expect(page.locator("#stop-go-all")).to_be_hidden()
    assert page.locator("#panels-all .cell:not(.waiting)").count() > 0


def test_doubt_is_said_about_lists_too(visit: Visit):
    page = visit.page
    page.fill("#names textarea", "elephant; horse")
    page.click("#go-all")
    headline = page.locator("#panels-all .t4s-headline")
    expect(headline).to_have_text("None of the 2 names is in this photo (85 % sure).")
    expect(headline).to_have_attribute("data-kind", "absent")


def test_an_unsure_list_is_drawn_when_it_is_wanted(visit: Visit):
    page = visit.page
    page.fill("#names textarea", "maybe cat; maybe toilet")
    page.click("#go-all")
    headline = page.locator("#panels-all .t4s-headline")
    expect(headline).to_contain_text("2 names may be here, but the model is not sure")
    expect(headline).to_have_attribute("data-kind", "unsure")
    canvas = page.locator("#panels-all canvas")
    assert canvas.evaluate(PAINTED) == 0 == page.locator("#panels-all .t4s-parts li").count()
    page.locator("#panels-all").get_by_role("button", name="Show anyway").click()
    assert canvas.evaluate(PAINTED) > 0.1 and page.locator("#panels-all .t4s-parts li").count() >= 2
    titles = page.locator("#panels-all .t4s-parts li button span").all_inner_texts()
    assert [title for title in titles if "cat" in title] == ["maybe cat 1", "maybe cat 2"]  # numbered by name


def test_a_list_of_what_the_photo_shows(visit: Visit):
    page = visit.page
    page.get_by_role("button", name="this photo").click()
    expect(page.locator("#names textarea")).to_have_value("cat, toilet")
    page.click("#go-all")
    expect(page.locator("#panels-all .t4s-headline")).to_contain_text("Found 2 of 2 names")
    answers = page.locator("#history-all button")
    expect(answers).to_have_text(["cat, toilet", "maybe cat, maybe toilet", "elephant, horse"])
    answers.nth(2).click()
    expect(page.locator("#panels-all .t4s-headline")).to_contain_text("None of the 2 names")
    expect(page.locator("#names textarea")).to_have_value("elephant, horse")


def test_what_is_said_of_the_example_text_goes_with_it(visit: Visit):
    page = visit.page
    visit.tab("Text ↔ mask")
    headline = page.locator("#panels-text .t4s-headline")
    expect(headline).to_contain_text("An example, one row of which is a cell short: 1 fault")
    page.fill("#rle textarea", "\n ".join(["others *16"] * 16) + "\n")
    page.click("#decode")
    expect(headline).to_have_text("Valid.")
    expect(page.locator("#layout .info-text br")).to_have_count(2)  # each layout has its line


def test_a_stopped_batch_gives_the_zip_of_what_is_done(visit: Visit, segmenter: stand_in.StandIn, tmp_path: Path):
    page = visit.page
    visit.tab("Batch")
    expect(page.locator("#stop-go-batch")).to_be_hidden()
    page.set_input_files("#batch-files input[type=file]", [CATS, EXAMPLES / "gull.jpg", EXAMPLES / "buses.jpg"])
    page.fill("#batch-phrases textarea", "cat\nhorse")
    expect(page.locator("#batch-files tr")).to_have_count(3)
    with segmenter.slowed(0.1):
        page.click("#go-batch")
        expect(page.locator("#batch-progress")).to_contain_text("1 of 3")
        expect(page.locator("#go-batch")).to_be_disabled()  # a second run would take the first one's Stop
        page.click("#stop-go-batch")
        expect(page.locator("#batch-progress")).to_contain_text("Stopped after")
    expect(page.locator("#batch-progress")).to_contain_text("of 3 photos; the ZIP has the results so far")
    expect(page.locator("#stop-go-batch")).to_be_hidden()
    expect(page.locator("#go-batch")).to_be_enabled()
    expect(page.locator("#batch-table")).to_contain_text("not there")
    expect(page.locator("#batch-gallery")).to_contain_text("horse (not there)")
    with page.expect_download() as coming:
        page.click("#batch-zip")
    coming.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as box:
        assert "masks/two_cats__cat.png" in box.namelist() and "masks/buses__cat.png" not in box.namelist()
    assert visit.wrong == []


def test_every_control_and_picture_has_a_name(visit: Visit):
    visit.tab("Segment")
    visit.ask("cat")
    visit.finished()
    expect(visit.page.locator("#panels .t4s-headline")).to_contain_text("Found “cat”")
    expect(visit.page.locator("#save-mask")).to_be_visible()
    assert visit.page.evaluate(UNNAMED) == []


def test_a_phone_shows_the_mask_first_and_stays_where_it_is(
    browser: Browser, address: str, segmenter: stand_in.StandIn
):
    visit = Visit(browser, address, 390, 844, touch=True)
    page = visit.page
    expect(page.get_by_text("Choose a photo", exact=True).first).to_be_visible()
    expect(page.get_by_text("or drop one here").first).to_be_hidden()
    visit.upload(CATS)
    with segmenter.slowed(0.1):
        visit.ask("cat")
        expect(page.locator("#panels .t4s[data-state=running] .cell:not(.waiting)").first).to_be_attached()
        page.wait_for_timeout(800)  # the page glides to the panels
        expect(page.locator("#stop-go")).to_be_in_viewport()
        tops = [page.locator("#panels .t4s-mask").bounding_box()["y"]]
        visit.finished()
        tops.append(page.locator("#panels .t4s-mask").bounding_box()["y"])
    assert 0 < tops[0] < 844 / 2 and tops[0] == tops[1]
    order = [".t4s-mask", ".t4s-parts", ".t4s-text", ".t4s-grid", ".t4s-facts"]
    places = [page.locator(f"#panels {part}").bounding_box()["y"] for part in order]
    assert places == sorted(places)
    assert visit.wrong == []
    page.close()


def test_no_switch_is_cut_off_where_three_panels_are_narrow(visit: Visit):
    page = visit.page
    cut = """() => [...document.querySelectorAll("#panels .t4s-switch, #panels header, #panels footer")]
        .filter(node => node.scrollWidth > node.clientWidth).map(node => node.outerHTML.slice(0, 80))"""
    for width in (1060, 1100, 1160, 1400):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(cut) == [], width
    page.set_viewport_size({"width": 1440, "height": 900})


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


def test_specks_go_with_the_nearest_part(segmenter: stand_in.StandIn):
    """They are not listed, so nothing else would take them out."""
    for scale in (1, 4):
        mask = np.zeros((256, 256), bool)
        mask[20:80, 20:80] = mask[150:200, 150:220] = True
        mask[84, 30] = mask[210, 200] = True  # beside the first, and beside the second
        mask = mask.repeat(scale, 0).repeat(scale, 1)
        if scale > 1:
            mask[4 * 210 + 1, 4 * 200 + 6] = True  # between the pixels of the map
        answer = dataclasses.replace(segmenter(CATS, "cat"), mask=mask, masks={"cat": mask})
        assert [part.area // scale**2 for part in views.part_map(answer).parts] == [3600, 3500]
        without = views.without_parts(answer, {0}).mask
        assert not without[: 100 * scale].any() and (without == mask)[100 * scale :].all()
        assert not views.without_parts(answer, {0, 1}).mask.any()
