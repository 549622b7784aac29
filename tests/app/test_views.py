"""What the page shows, as plain data: runs, headlines, pictures, lists, the About text, mask files."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from t4s import codec
from t4s.app import examples, explainer, views
from t4s.app.serving import fetching
from t4s.imaging import export
from t4s.imaging.loading import open_photo
from t4s.imaging.masks import read_mask
from tests.support import stand_in

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "assets" / "examples"
CATS, RIDERS = EXAMPLES / "two_cats.jpg", EXAMPLES / "riders.jpg"


def _mask_files(folder: Path) -> dict[str, tuple[Path, np.ndarray]]:
    """name: (a mask's file, the class map that it means)"""
    truth = np.zeros((24, 32), np.int32)
    truth[4:20, 6:14], truth[8:16, 20:30] = 1, 2
    inside = truth > 0
    photo = np.random.default_rng(0).integers(1, 256, (24, 32, 3), np.uint8)
    made = {
        "one bit": (Image.fromarray(inside), inside),
        "8 bits": (Image.fromarray(truth.astype(np.uint8)), truth),
        "16 bits": (Image.fromarray(truth.astype(np.uint16) * 300), truth),  # above what 8 bits hold
        "two colours": (Image.fromarray(np.array([[0, 0, 0], [0, 0, 128], [0, 128, 0]], np.uint8)[truth]), truth),
        "colours on nothing": (Image.fromarray(
            np.array([[9, 9, 9, 0], [0, 0, 128, 255], [0, 128, 0, 255]], np.uint8)[truth], "RGBA"), truth),
        "a cut-out": (Image.open(io.BytesIO(export.cutout_png(photo, inside))), inside),
        "a blurred drawing": (Image.fromarray(np.where(inside, photo[..., 0] // 4 + 180, photo[..., 0] // 4)), inside),
    }  # fmt: skip
    for name, (picture, _) in made.items():
        picture.save(folder / f"{name}.png")
    return {name: (folder / f"{name}.png", truth) for name, (_, truth) in made.items()}


def test_a_mask_is_read_from_whatever_png_it_is_drawn_in(tmp_path: Path):
    """16 bits were cut to 8, which emptied small indexes; what is transparent was laid on white and became a class."""
    for name, (file, truth) in _mask_files(tmp_path).items():
        found = read_mask(file)
        assert (np.searchsorted([0, *found.values], found.classes) == truth).all(), name


def test_an_image_in_the_address_itself_is_taken_to_the_letter(tmp_path: Path):
    """Gradio turns such a picture into lossy WebP, after which a mask has other values."""

    Image.fromarray(np.eye(16, dtype=np.uint8)).save(tmp_path / "mask.png")
    data = (tmp_path / "mask.png").read_bytes()
    address = f"data:image/png;base64,{base64.b64encode(data).decode()}"
    assert asyncio.run(fetching.fetch(address, tmp_path)).read_bytes() == data


def test_only_lists_that_the_checkpoint_can_draw_are_offered():
    assert examples.presets({}) == examples.PRESETS  # nothing is known
    known = {"cat": 0.7, "dog": 0.6, "person": 0.3, "car": 0.1, "road": 0.0}
    assert examples.presets({"names": known}) == {"animals": "cat, dog, person"}
    assert examples.presets({"names": {}}) == {}
    assert examples.presets({"names": known}, ("cat", "bird", "car", "bus")) == {
        "animals": "cat, dog, bird, person",
        "street": "person, bus",  # never measured, and taught; cars were measured and come out badly
    }


def test_the_about_page_says_what_this_checkpoint_draws():
    text = (ROOT / "assets" / "app" / "about.md").read_text("utf-8")
    known = {"cat": 0.71, "dog": 0.6, "<b>sofa</b>": 0.3} | {f"thing {i}": 0.1 for i in range(38)}
    shown = examples.about(text, (24, 32), {"names": known})
    assert "24×32 cells" in shown and "on 41 names" in shown and "$" not in shown
    assert "- well (IoU 0.6 and more): cat, dog\n- fairly (0.3 and more): &lt;b&gt;sofa&lt;/b&gt;\n" in shown
    assert "thing 31 and 6 more" in shown and "thing 32" not in shown
    assert "holds no figures" in examples.about(text, (16, 16), {})


PIECES = st.lists(
    st.sampled_from(["others *3", "dog *2", " *4", "dog", "| ", "|", "\n ", "\n", "*", "3", "😀 *1", " "])
)


@given(PIECES.map("".join), st.sampled_from(codec.LAYOUTS))
def test_runs_are_the_text_to_the_letter_and_never_leave_the_grid(text: str, layout: str):
    found = views.runs(text, ("others", "dog", "😀"), (4, 5), layout)
    assert "".join(run["text"] for run in found) == text
    for run in found:
        assert run["label"] is None or (run["count"] == 0 or 0 <= run["at"] and run["at"] + run["count"] <= 20)


@pytest.mark.parametrize("layout", codec.LAYOUTS)
def test_runs_cover_every_cell_with_its_label(layout: str):
    ids = np.random.default_rng(3).integers(0, 3, (5, 7))
    grid = codec.DescriptorGrid(ids, ("others", "dog", "red cat"))
    painted = np.full(35, -1)
    for run in views.runs(codec.encode(grid, layout), grid.labels, grid.shape, layout):
        if run["label"] is not None:
            assert (painted[run["at"] : run["at"] + run["count"]] == -1).all()
            painted[run["at"] : run["at"] + run["count"]] = run["label"]
    assert (painted == ids.ravel()).all()


def test_the_view_is_json_and_says_absence_in_words(segmenter: stand_in.StandIn):
    absent = segmenter(CATS, "elephant")
    view = views.finished_view(absent, "data:,", "rows", "smooth")
    assert json.loads(json.dumps(view)) == json.loads(json.dumps(view, allow_nan=False))
    assert view["kind"] == "absent" and "“elephant” is not in this photo" in view["message"]
    assert views.headline(segmenter.classes(CATS, ["cow", "sheep"]))[1].startswith(
        "None of the 2 names is in this photo"
    )
    growing = next(segmenter.stream(CATS, "cat"))
    view = views.growing_view(growing, "data:,", "rows")
    assert view["running"] and view["written"] == 16 and view["mask"] is None and not view["faults"]


def test_a_growing_list_says_which_name_it_is_at(segmenter: stand_in.StandIn):
    growing = replace(next(segmenter.stream(CATS, ["toilet", "cat"])), query=("toilet", "cat"))
    assert views.growing_view(growing, "data:,", "rows")["message"] == "Name 2: “cat” …"


def test_the_headline_says_what_was_read_as_what(segmenter: stand_in.StandIn):
    found = segmenter(CATS, "cat")
    read = replace(found, query="Tabby", asked="cat", stats=found.stats | {"read_as": {"tabby": "cat"}})
    kind, sentence = views.headline(read)
    assert kind == "found" and sentence.startswith("Found “Tabby”: ")
    assert sentence.endswith(" It read “tabby” as “cat”.")
    kind, sentence = views.headline(replace(read, status="unknown word"))
    assert sentence == "“Tabby” is not a word that this model was taught. It looked for “cat” instead."
    assert "read" not in views.headline(found)[1]


def test_the_headline_says_which_words_were_left_out(segmenter: stand_in.StandIn):
    found = segmenter(CATS, "cat")
    stats = found.stats | {"ignored": ["green", "with a hat"]}
    kind, sentence = views.headline(replace(found, query="green cat with a hat", status="unsure", stats=stats))
    assert kind == "unsure" and sentence.startswith("Drawn for “cat” alone: ")
    assert sentence.endswith(" The model did not understand “green” or “with a hat”.")
    listed = replace(
        found, query=["cat", "unicorn"], asked=("cat", "unicorn"), stats=found.stats | {"unknown": ["unicorn"]}
    )
    assert views.headline(listed)[1].endswith(" The model was not taught “unicorn”.")
    assert views.headline(listed)[1].startswith("Found 1 of 2 names")  # whatever was drawn for the other
    drawn = replace(listed, status="absent")  # the photo shows none of the names that the model knows
    assert views.headline(drawn)[0] == "absent" and views.headline(drawn)[1].startswith("None of the 2 names is in")
    placed = replace(found, query="green cat on the left", asked="the cat on the left", status="unsure", stats=stats)
    assert views.headline(placed)[1].startswith("Drawn for “cat on the left” alone: ")


def test_the_headline_says_what_is_taken_together(segmenter: stand_in.StandIn):
    found = segmenter(CATS, "cat")
    either = replace(found, query="cat, dog", asked="cat and dog", stats=found.stats | {"either": ["cat", "dog"]})
    assert views.headline(either)[1].endswith(
        " sure. This is everything of “cat” or “dog”; the tab Everything tells them apart."
    )
    stats = found.stats | {"alike": [["man", "woman"]]}
    alike = replace(found, query=["man", "woman"], asked=("man", "woman"), stats=stats)
    assert views.headline(alike)[1].endswith(" sure. “man” and “woman” mean the same to this model.")


def test_the_headline_does_not_deny_what_the_slider_hides(segmenter: stand_in.StandIn):
    found = segmenter(CATS, "cat")
    hidden = replace(found, grid=replace(found.grid, ids=found.grid.ids * 0), present=False)
    assert views.headline(hidden) == ("absent", "No cell of “cat” is above this confidence.")
    assert views.headline(replace(hidden, query=["cat", "dog"], asked=("cat", "dog")))[1].startswith("No cell of the 2")
    assert "is not in this photo" in views.headline(replace(hidden, status="absent"))[1]


def test_a_list_is_sent_to_its_tab_and_politeness_is_no_list(segmenter: stand_in.StandIn):
    absent = replace(segmenter(CATS, "cat"), present=False, status="absent")
    assert "tab Everything" not in views.headline(replace(absent, query="Show the cat, please", asked="cat"))[1]
    assert "tab Everything" in views.headline(replace(absent, query="cat, dog", asked="cat and dog"))[1]


def test_the_headline_says_what_was_left_out_of_a_phrase(segmenter: stand_in.StandIn):
    answer = segmenter(CATS, "cat")
    assert "left out" not in views.headline(answer)[1]
    assert "It left out < > *, which" in views.headline(replace(answer, query="<b>*cat*</b>"))[1]
    assert "It left out |, which" in views.headline(replace(answer, query=("cat", "a|dog")))[1]


def test_a_list_in_the_wrong_place_is_told_where_lists_are_asked(segmenter: stand_in.StandIn):
    assert "tab Everything" in views.headline(segmenter(CATS, "maybe cat, toilet"))[1]
    assert "tab Everything" not in views.headline(segmenter(CATS, "cat"))[1]


def test_one_name_is_not_names(segmenter: stand_in.StandIn):
    one = segmenter.classes(CATS, ["cat"])
    assert views.headline(one)[1].startswith("Found “cat”: ")
    stopped = replace(one, stats=one.stats | {"ended": "stopped"})
    assert views.headline(stopped)[1].startswith("Stopped after 1 name; ")


def test_captions_are_escaped(segmenter: stand_in.StandIn):
    made = views.figures([(Image.new("RGB", (4, 4)), "<script>alert(1)</script>")])
    assert "<script>" not in made and "&lt;script&gt;" in made


def test_the_story_replays_the_text(segmenter: stand_in.StandIn):
    answer = segmenter(CATS, "cat")
    parts = explainer.drafts(answer.text, answer.grid.shape, answer.grid.labels)
    assert "".join(text for text, _ in parts) == answer.text
    assert sum(own for _, own in parts) < answer.text.count("*")  # fewer passes than runs
    fewer = replace(answer, stats=answer.stats | {"forwards": 3})  # a checkpoint whose cells draft too
    captions = [caption for _, caption in explainer.pictures(open_photo(CATS), fewer)]
    assert len(captions) == 5 and captions[3].endswith("better still: 3 passes.")
