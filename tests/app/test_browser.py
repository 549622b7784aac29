"""The app as people see it: a real Chromium on a running app, with a stand-in for the model that writes slowly."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

import app
from t4s import codec
from t4s.app import downloads, examples
from t4s.refine import sam
from tests import seconds
from tests.support import stand_in
from tests.support.visit import Visit

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"
CATS, RIDERS = EXAMPLES / "two_cats.jpg", EXAMPLES / "riders.jpg"
PAUSE = 0.05  # seconds a row


@pytest.fixture(scope="module", autouse=True)
def _slow_enough_to_watch(segmenter: stand_in.StandIn) -> Iterator[None]:
    segmenter.pause = PAUSE
    yield
    segmenter.pause = 0.0


@pytest.fixture(scope="module")
def visit(browser: Browser, address: str) -> Iterator[Visit]:
    """One page for the tests that follow a user through a session; they run in the order of this file."""
    made = Visit(browser, address)
    yield made
    made.page.close()


def test_a_photo_and_a_phrase_fill_three_panels_as_the_text_streams(visit: Visit):
    page = visit.page
    visit.upload(CATS)
    expect(page.locator("#panels .t4s[data-state=ready]")).to_be_visible()
    tall = page.locator("#panels .t4s-panels").bounding_box()["height"]
    page.evaluate("""() => { window.seen = [];
        new MutationObserver(() => { const root = document.querySelector("#panels .t4s");
            window.seen.push([root.dataset.state, document.querySelectorAll("#panels .cell:not(.waiting)").length,
                              document.querySelector("#panels .t4s-panels").getBoundingClientRect().height]); })
        .observe(document.querySelector("#panels .t4s-text pre"), { childList: true }); }""")
    visit.ask("cat")
    visit.finished()
    seen = page.evaluate("() => window.seen")
    growing = [cells for state, cells, _ in seen if state == "running"]
    assert len({*growing}) >= 3 and growing == sorted(growing) and 0 < growing[-1] < 256  # seen before the end
    assert max(abs(height - tall) for *_, height in seen) <= 1  # and nothing jumped
    text = page.locator("#panels pre").text_content()
    grid = codec.decode(text, (16, 16))
    filled = page.locator("#panels .cell.filled").evaluate_all("cells => cells.map(cell => Number(cell.dataset.cell))")
    assert filled == np.flatnonzero(grid.ids).tolist()
    painted = page.locator("#panels canvas").evaluate(
        """canvas => { const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                       let n = 0; for (let i = 3; i < data.length; i += 4) n += data[i] > 0;
                       return n / (canvas.width * canvas.height); }"""
    )
    assert abs(painted - (grid.ids > 0).mean()) < 0.05
    expect(page.locator("#panels .t4s-headline")).to_contain_text("Found “cat”")
    expect(page.locator("#panels .t4s-facts")).to_contain_text("passes saved by drafting")
    assert visit.wrong == []


def test_a_run_lights_its_cells_and_pixels_and_a_cell_its_run(visit: Visit):
    page = visit.page
    run = page.locator("#panels pre [data-run]:not(.others)").first
    run.hover()
    lit = page.locator("#panels .cell.lit")
    expect(lit).to_have_count(1 + run.evaluate("span => span.textContent.match(/\\d+/)[0] - 1"))
    expect(page.locator("#panels .t4s-rects div")).to_have_count(1)
    cell = page.locator("#panels .cell.filled").nth(30)
    cell.hover()
    expect(page.locator("#panels pre .lit")).to_have_count(1)
    expect(page.locator("#panels .t4s-rects div")).to_have_count(1)
    expect(page.locator("#panels .t4s-readout")).to_contain_text("cat")
    page.locator("#panels .t4s-mask .t4s-frame").hover(position={"x": 5, "y": 5})  # pixels light runs and cells
    expect(page.locator("#panels .t4s-readout :first-child")).to_have_text("others, 62 % sure")
    expect(page.locator("#panels .t4s-readout :last-child")).to_have_text("run of 16, row 1, column 1")
    expect(page.locator("#panels pre .lit")).to_have_text("others *16")
    assert lit.evaluate_all("cells => cells.map(cell => Number(cell.dataset.cell))") == list(range(16))


def test_the_text_is_copied_to_the_letter(visit: Visit):
    page = visit.page
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#panels .t4s-text .t4s-copy")
    expect(page.locator("#panels .t4s-text .t4s-copy")).to_have_text("Copied")
    assert page.evaluate("() => navigator.clipboard.readText()") == page.locator("#panels pre").text_content()


def test_the_cut_out_is_copied_with_a_transparent_background(visit: Visit, segmenter: stand_in.StandIn):
    page, answer = visit.page, segmenter(CATS, "cat")
    page.click("#panels button[data-mask=cutout]")
    page.click("#panels .t4s-mask .t4s-copy")
    expect(page.locator("#panels .t4s-mask .t4s-copy")).to_have_text("Copied")
    page.click("#panels button[data-mask=overlay]")
    address = page.evaluate("""async () => { const [item] = await navigator.clipboard.read();
        const reader = new FileReader();
        reader.readAsDataURL(await item.getType("image/png"));
        return new Promise((done) => { reader.onload = () => done(reader.result); }); }""")
    copied = np.asarray(Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGBA"))
    assert abs((copied[..., 3] > 0).mean() - answer.mask.mean()) < 0.01


def _alphas(page: Page, mask: bool = False) -> np.ndarray:
    """Opacity, 0 to 1, of each cell of the grid, or of every seventh pixel of the mask's canvas."""
    cells = """cells => cells.map(cell => getComputedStyle(cell).backgroundColor.match(/[\\d.]+/g).map(Number))"""
    pixels = """([sheet]) => { const { data } = sheet.getContext("2d").getImageData(0, 0, sheet.width, sheet.height);
                             return Array.from({ length: data.length / 28 }, (_, i) => data[28 * i + 3]); }"""
    if mask:
        return np.array(page.locator("#panels canvas").evaluate_all(pixels)) / 255
    return np.array([(*colour, 1.0)[3] for colour in page.locator("#panels .cell").evaluate_all(cells)])


def test_doubt_and_views_are_seen(visit: Visit, segmenter: stand_in.StandIn):
    """The confidence is each cell's opacity; overlay, outline, cut-out and before/after differ in what they paint."""
    page, answer = visit.page, segmenter(CATS, "cat")
    page.add_style_tag(content=".t4s .cell { transition: none !important; }")  # colours at once
    target = answer.grid.ids.ravel() > 0
    even = _alphas(page)[target]
    page.click("#panels button[data-confidence]")
    sure = _alphas(page)[target]
    assert np.ptp(even) == 0 and np.corrcoef(sure, answer.confidence.ravel()[target])[0, 1] > 0.95
    page.click("#panels button[data-confidence]")
    inside = {}
    for look in ("overlay", "outline", "cutout", "compare"):
        page.click(f"#panels button[data-mask={look}]")
        inside[look] = _alphas(page, mask=True)
    for look in ("overlay", "cutout", "compare"):
        assert abs((inside[look] > 0).mean() - answer.mask.mean()) < 0.01, look
    assert 0 < (inside["outline"] > 0).mean() < 0.3 * answer.mask.mean() and set(inside["outline"]) == {0, 1}
    assert set(inside["cutout"]) == {0, 1} and len(set(inside["overlay"])) == 3  # nothing, area, edge
    slide = page.locator("#panels .t4s-slide:not(.t4s-threshold) input")
    slide.fill("25")
    assert page.locator("#panels canvas").evaluate("canvas => canvas.style.clipPath") == "inset(0px 75% 0px 0px)"
    page.click("#panels button[data-mask=overlay]")
    slide.fill("80")
    assert abs(np.median(_alphas(page, mask=True)[inside["cutout"] > 0]) - 0.8) < 0.01
    assert visit.wrong == []


def test_the_grid_is_reached_and_walked_by_keyboard(visit: Visit):
    page = visit.page
    first = page.locator("#panels .cell[tabindex='0']")
    expect(first).to_have_count(1)
    first.focus()
    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowUp", "ArrowDown"):
        page.keyboard.press(key)
    focused = page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    assert focused.startswith("row 2, column 3: others")
    page.locator("#panels .cell.filled").first.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#panels .chip[aria-pressed=true]")).to_have_count(1)
    expect(page.locator("#panels .cell.dim").first).to_be_attached()
    page.keyboard.press("Escape")
    expect(page.locator("#panels .cell.dim")).to_have_count(0)


def test_views_and_refiners_never_ask_the_model(visit: Visit, segmenter: stand_in.StandIn):
    page, asked = visit.page, segmenter.asked
    for button in (
        "[data-grid=plain]",
        "[data-confidence]",
        "[data-mask=outline]",
        "[data-mask=cutout]",
        "[data-mask=compare]",
    ):
        page.click(f"#panels button{button}")
        expect(page.locator(f"#panels button{button}")).to_have_attribute("aria-pressed", "true")
    page.click("#panels button[data-mask=overlay]")
    page.get_by_role("button", name="Options").first.click()
    page.locator("#refiner").get_by_label("none").check()
    expect(page.locator("#panels .t4s-facts")).to_contain_text("refine (none)")
    assert segmenter.asked == asked and visit.wrong == []


def test_a_second_phrase_finds_the_photo_encoded_and_absence_is_said(visit: Visit, segmenter: stand_in.StandIn):
    encoded = segmenter.encoded
    visit.page.fill("#phrase textarea", "elephant")
    visit.page.press("#phrase textarea", "Enter")
    expect(visit.page.locator("#panels .t4s-headline")).to_contain_text("“elephant” is not in this photo")
    assert visit.page.locator("#panels .cell.filled").count() == 0
    assert segmenter.encoded == encoded and visit.wrong == []


def test_sam_is_a_refiner_with_an_id_and_says_when_it_cannot_be_had(visit: Visit, segmenter: stand_in.StandIn):
    page, asked = visit.page, segmenter.asked
    expect(page.locator("#refiner-sam")).to_be_hidden()
    page.locator("#refiner").get_by_label("sam").check()
    expect(page.locator("#refiner-sam :is(input, textarea)")).to_have_value(sam.DEFAULT_SAM)
    expect(page.get_by_test_id("toast-body")).to_contain_text("not in the cache")
    page.get_by_test_id("toast-close").first.click()
    page.fill("#refiner-sam :is(input, textarea)", "../../etc")
    page.press("#refiner-sam :is(input, textarea)", "Enter")
    expect(page.get_by_test_id("toast-body")).to_contain_text("is not a Hub id")
    page.get_by_test_id("toast-close").first.click()
    page.locator("#refiner").get_by_label("smooth").check()
    expect(page.locator("#refiner-sam")).to_be_hidden()
    expect(page.locator("#panels .t4s-facts")).to_contain_text("refine (smooth)")
    assert segmenter.asked == asked and visit.wrong == []


def test_an_empty_phrase_is_told_beside_its_field(visit: Visit):
    visit.ask("")
    expect(visit.page.locator("#phrase")).to_contain_text("Write what to find, in 1 to 200 characters")
    visit.wrong.clear()  # the refused call itself: Gradio answers it with status 422


def test_markup_in_a_phrase_and_in_a_text_stays_text(visit: Visit):
    page = visit.page
    page.evaluate("() => { window.hacked = false; }")
    visit.ask("<img src=x onerror='window.hacked = true'> cat ${window.hacked = true} {{1}}")
    expect(page.locator("#panels .t4s-headline")).to_contain_text("${window.hacked")
    visit.tab("Text ↔ mask")
    page.fill(
        "#rle textarea", "<img src=x onerror='window.hacked = true'> *3| </span><script>window.hacked = true</script>\n"
    )
    page.click("#decode")
    expect(page.locator("#panels-text pre")).to_contain_text("<script>")
    assert page.evaluate("() => window.hacked") is False
    visit.tab("Segment")


def test_stop_leaves_what_was_written(visit: Visit, segmenter: stand_in.StandIn):
    page = visit.page
    segmenter.pause = 1.0
    try:
        visit.ask("cat")
        expect(page.locator("#panels .t4s[data-state=running] .cell:not(.waiting)").first).to_be_attached()
        page.click("#stop-go")
        expect(page.locator("#panels .t4s-headline")).to_contain_text("Stopped after")
    finally:
        segmenter.pause = PAUSE
    assert page.locator("#panels .cell.waiting").count() > 0
    expect(page.locator("#stop-go")).to_be_hidden()
    visit.ask("cat")
    visit.finished()


def test_what_cannot_be_asked_leaves_the_photo_and_says_why(visit: Visit):
    page = visit.page
    visit.ask("others")  # the word for the background
    expect(page.locator("#phrase")).to_contain_text("is reserved for the background")
    expect(page.locator("#photo img").first).to_be_visible()
    visit.wrong.clear()  # the refused call itself: Gradio answers it with status 422
    visit.ask("cat")
    visit.finished()
    expect(page.locator("#panels .t4s-headline")).to_contain_text("Found “cat”")


def test_the_keyboard_is_not_thrown_off_its_button(visit: Visit, segmenter: stand_in.StandIn):
    """The button that starts was hidden while the model wrote, and the focus fell to the top of the page."""
    page = visit.page
    segmenter.pause = 0.5
    try:
        page.focus("#phrase textarea")
        page.keyboard.press("Tab")
        expect(page.locator("#go")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#panels .t4s[data-state=running]")).to_be_attached()
        expect(page.locator("#go")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("#stop-go")).to_be_focused()
        page.keyboard.press("Enter")
    finally:
        segmenter.pause = PAUSE
    expect(page.locator("#panels .t4s-headline")).to_contain_text("Stopped after")
    expect(page.locator("#stop-go")).to_be_focused()
    visit.ask("cat")
    visit.finished()


def test_downloads_are_the_answer_in_other_words(visit: Visit, segmenter: stand_in.StandIn, tmp_path: Path):
    answer = segmenter(CATS, "cat")
    for kind, (_, name, _) in downloads.FILES.items():
        with visit.page.expect_download() as coming:
            visit.page.click(f"#save-{kind}")
        assert coming.value.suggested_filename == name.format(stem="two_cats")
        coming.value.save_as(tmp_path / coming.value.suggested_filename)
        _, data = downloads.make(kind, answer, str(CATS))
        assert (tmp_path / coming.value.suggested_filename).read_bytes() == data, kind
    assert visit.wrong == []


@pytest.mark.long
def test_everything_shows_all_names_and_isolates_one(visit: Visit):
    page = visit.page
    visit.tab("Everything")
    page.get_by_role("button", name="street").click()
    expect(page.locator("#names textarea")).to_have_value(examples.PRESETS["street"])
    page.get_by_role("button", name="animals").click()
    expect(page.locator("#names textarea")).to_have_value(examples.PRESETS["animals"])
    page.locator("#examples-all button").nth(1).click()
    visit.finished("#panels-all")
    chips = page.locator("#panels-all .chip")
    expect(chips).to_have_count(2)
    assert all("%" in area for area in chips.locator("small").all_inner_texts())
    chips.filter(has_text="horse").click()
    expect(page.locator("#panels-all .cell.filled.dim").first).to_be_attached()
    page.locator("#panels-all .cell.filled.dim").first.click()  # a cell of the other: now that one is singled out
    expect(chips.filter(has_text="person")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#panels-all pre .run.dim", has_text="horse").first).to_be_attached()
    assert page.locator("#panels-all pre .run:not(.dim):not(.others)", has_text="horse").count() == 0
    page.locator("#panels-all pre .run.dim", has_text="horse").first.click()  # and by its name in the text
    expect(chips.filter(has_text="horse")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#panels-all .t4s-headline")).to_contain_text("Found 2 of 10 names")


@pytest.mark.long
def test_a_clicked_example_streams_and_the_next_click_asks_no_model(
    browser: Browser, address: str, segmenter: stand_in.StandIn
):
    asked = segmenter.asked
    for visitor in range(2):
        visit = Visit(browser, address)
        page = visit.page
        page.evaluate("""() => { window.seen = [];
            const cells = "#panels .cell:not(.waiting)";
            new MutationObserver(() => window.seen.push(document.querySelectorAll(cells).length))
            .observe(document.querySelector("#panels .t4s-text pre"), { childList: true }); }""")
        page.locator("#examples button").nth(4).click()  # the gull
        visit.finished()
        expect(page.locator("#panels .t4s-headline")).to_contain_text("Found “bird”")
        expect(page.locator("#phrase textarea")).to_have_value("bird")
        assert len({*page.evaluate("() => window.seen")}) > 4, visitor  # it grew before both visitors' eyes
        assert segmenter.asked == asked + 1 and visit.wrong == []
        page.close()


@pytest.mark.long
def test_text_and_mask_both_ways_without_a_model(visit: Visit, segmenter: stand_in.StandIn, tmp_path: Path):
    page, asked = visit.page, segmenter.asked
    visit.tab("Text ↔ mask")
    page.fill("#rle textarea", "others *16\n others *8| dog *4\n" + " others *16\n" * 14)
    page.click("#decode")
    expect(page.locator("#panels-text .t4s-headline")).to_contain_text("1 fault")
    expect(page.locator("#panels-text .t4s-faults li")).to_contain_text("Row 2")
    expect(page.locator("#panels-text .cell.repaired")).to_have_count(1)
    expect(page.locator("#panels-text pre .fault")).to_contain_text("dog *4")
    mask = np.zeros((64, 64), np.uint8)
    mask[16:48, 16:32] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    visit.tab("Mask → text")
    visit.upload(tmp_path / "mask.png", "#mask")
    page.fill("#labels textarea, #labels input", "door")
    page.click("#encode")
    expect(page.locator("#panels-text .t4s-facts")).to_contain_text("tokens")
    facts = page.locator("#panels-text .t4s-facts dt")
    assert facts.all_inner_texts() == list(codec.LAYOUTS)
    page.locator("#layout-to").get_by_label("full").check()
    expect(page.locator("#panels-text .t4s-headline")).to_contain_text("the full layout")
    visit.tab("Text → mask")
    text = page.input_value("#rle textarea")
    assert codec.decode(text, (16, 16), "full") == codec.grid_from_mask(mask > 0, "door")
    expect(page.locator("#layout").get_by_label("full")).to_be_checked()
    page.click("#decode")
    expect(page.locator("#panels-text .t4s-headline")).to_have_text("Valid.")
    page.locator("#layout").get_by_label("rows").check()
    long = (" <b>others *3| *| cat *-1|" * 40 + "\n") * 100  # few lines: Chromium itself takes a minute to put in 4,500
    page.fill("#rle textarea", long[:100_000])
    page.click("#decode")
    expect(page.locator("#panels-text .t4s-count")).to_have_text("100,000 characters")
    expect(page.locator("#panels-text .t4s-headline")).to_contain_text("faults, repaired")
    expect(page.locator("#panels-text .t4s-faults li").last).to_contain_text("more")
    assert segmenter.asked == asked and visit.wrong == []


@pytest.mark.long
def test_a_batch_shows_its_pictures_and_its_bad_file(visit: Visit, tmp_path: Path):
    page = visit.page
    evil = tmp_path / "<img src=x onerror=window.hacked=true>.jpg"
    evil.write_text("no image")
    visit.tab("Batch")
    page.evaluate("() => { window.hacked = false; }")
    page.set_input_files("#batch-files input[type=file]", [RIDERS, evil])
    page.fill("#batch-phrases textarea", "person\n<b onclick=1>horse</b>")
    expect(page.locator("#batch-files")).to_contain_text(".jpg")
    page.click("#go-batch")
    expect(page.locator("#batch-progress")).to_have_text("0 of 2 photos")  # at once, and it stays until one is done
    expect(page.locator("#batch-zip")).to_be_enabled()
    expect(page.locator("#batch-gallery img")).to_have_count(2)
    expect(page.locator("#batch-progress")).to_have_text("2 of 2 photos")
    assert page.locator("#batch-progress progress").evaluate("bar => bar.position") == 1
    expect(page.locator("#batch-table")).to_contain_text("is not a readable image file")
    with page.expect_download() as coming:
        page.click("#batch-zip")
    coming.value.save_as(tmp_path / "all.zip")
    with zipfile.ZipFile(tmp_path / "all.zip") as box:
        assert {"results.csv", "coco.json", "masks/riders__person.png"} <= set(box.namelist())
    assert page.evaluate("() => window.hacked") is False and visit.wrong == []


@pytest.mark.long
def test_hostile_files_are_refused_in_words_and_the_app_lives(browser: Browser, address: str, tmp_path: Path):
    visit = Visit(browser, address)
    page = visit.page
    (tmp_path / "text.jpg").write_text("this is no picture")
    (tmp_path / "cut.jpg").write_bytes(CATS.read_bytes()[:9000])
    Image.new("1", (8000, 6400)).save(tmp_path / "51_megapixels.png")
    told = {
        "text.jpg": "is not a readable image file",
        "cut.jpg": "cut off or broken",
        "51_megapixels.png": "40 megapixels",
    }
    for name, says in told.items():
        visit.hand_in(tmp_path / name)
        expect(page.locator("#panels .t4s-headline")).to_contain_text(says)
    visit.upload(CATS)
    visit.ask("cat")
    visit.finished()
    assert visit.wrong == []
    page.close()


@pytest.mark.long
def test_about_tells_the_story_in_five_pictures(visit: Visit):
    visit.tab("About")
    expect(visit.page.locator("#story figure")).to_have_count(5)
    expect(visit.page.locator("#about-text")).to_contain_text("holds no figures")  # the stand-in was never measured


@pytest.mark.long
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1920])
def test_it_fits_and_can_be_read(browser: Browser, address: str, width: int, dark: bool):
    visit = Visit(browser, address, width, 900, dark)
    page = visit.page
    page.locator("#examples button").nth(0).click()
    visit.finished()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    order = ("t4s-text", "t4s-grid", "t4s-mask") if width > 1000 else ("t4s-mask", "t4s-text", "t4s-grid")
    boxes = [page.locator(f"#panels .{name}").bounding_box() for name in order]
    if width > 1000:
        assert len({round(box["y"]) for box in boxes}) == 1 and boxes[0]["x"] < boxes[1]["x"] < boxes[2]["x"]
    else:
        assert boxes[0]["y"] < boxes[1]["y"] < boxes[2]["y"] and len({round(box["x"]) for box in boxes}) == 1
    for selector, least in READ.items():
        ink, sheet = page.locator(selector).first.evaluate(COLOURS)
        assert _contrast(ink, sheet) >= least, selector
    for tab, field in {"Everything": "#names", "Text ↔ mask": "#rle", "Batch": "#go-batch", "About": "#story"}.items():
        visit.tab(tab)
        expect(page.locator(field)).to_be_visible()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= width, tab
    assert visit.wrong == []
    page.close()


READ = {  # what is read: the least contrast with what lies under it (WCAG 2: 4.5, or 7 to be comfortable)
    "#panels pre .run:not(.others)": 7,
    "#panels pre .run.others": 4.5,
    "#panels .t4s-headline": 7,
    "#panels .chip": 7,
    "#panels .t4s-facts dt": 4.5,
    "#panels .t4s-readout": 4.5,
    "#panels .t4s-switch [aria-pressed=false]": 4.5,
    "#go": 4.5,
    "#save-coco": 4.5,
    "button[role=tab][aria-selected=true]": 4.5,
    ".t4s-title p": 4.5,
}
COLOURS = """node => { let under = node, colour = getComputedStyle(node).backgroundColor;
  while (/, 0\\)$/.test(colour)) { under = under.parentElement; colour = getComputedStyle(under).backgroundColor; }
  return [getComputedStyle(node).color, colour]; }"""


def _contrast(one: str, other: str) -> float:
    """WCAG 2's contrast ratio of two CSS colours "rgb(r, g, b)"."""

    def light(colour: str) -> float:
        values = [int(value) / 255 for value in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    low, high = sorted((light(one), light(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.fixture(scope="module")
def embedded() -> Iterator[str]:
    """The address of an app with the embedded checkpoint."""
    from t4s import Segmenter

    blocks = app.build(Segmenter.from_pretrained(device="cpu")).queue()
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)
    yield url
    blocks.close()


@pytest.mark.long
def test_the_embedded_model_fills_three_panels(browser: Browser, embedded: str):
    visit = Visit(browser, embedded)
    visit.upload(CATS)
    visit.ask("cat")
    visit.finished()
    codec.decode(visit.page.locator("#panels pre").text_content(), (16, 16))
    assert visit.page.locator("#panels .cell.filled").count() > 20
    assert visit.wrong == []
    visit.page.close()


@pytest.mark.long
def test_rows_come_before_the_mask(browser: Browser, embedded: str, capsys: pytest.CaptureFixture[str]):
    """`python tests/seconds.py` on one thread: the figures are printed, and decide nothing."""
    rows = list(seconds.measured_examples(browser, embedded))
    with capsys.disabled():
        print(f"\n{seconds.table(rows)}")
    assert all(0 < row <= mask for *_, values in rows for row, mask in zip(values[::2], values[1::2], strict=True))
