"""The front door with the embedded checkpoint, on the example photos and their true masks."""

from __future__ import annotations

import pickle
import subprocess
import sys
from os.path import commonprefix

import numpy as np
import pytest
from PIL import Image

from t4s import QueryError, codec
from t4s.limits import MAX_QUERY
from t4s.records import box_of
from t4s.refine.refiner import refine
from t4s.segmenter import results
from t4s.segmenter.segmenter import check_query


def iou(one: np.ndarray, two: np.ndarray) -> float:
    return float((one & two).sum() / (one | two).sum())


@pytest.fixture(scope="module")
def cats(segmenter, examples):
    return segmenter(examples / "two_cats.jpg", "cat")


def test_finds_the_two_cats(cats, true_masks):
    """The repository's accuracy regression: a photo that is in no training set."""
    assert cats.present and iou(cats.mask, true_masks["two_cats.jpg"]["cat"]) >= 0.5


def test_a_prediction_is_whole(cats, examples):
    width, height = Image.open(examples / "two_cats.jpg").size
    assert cats.mask.shape == (height, width) and cats.mask.dtype == bool
    assert cats.grid.shape == cats.confidence.shape == (16, 16)
    assert codec.decode(cats.text, (16, 16)) == cats.grid and cats.faults == ()
    assert cats.confidence.dtype == np.float32 and 0 <= cats.confidence.min() <= cats.confidence.max() <= 1
    assert cats.score == pytest.approx(cats.confidence[cats.grid.ids > 0].mean())
    assert set(cats.masks) == {"cat"} and np.array_equal(cats.masks["cat"], cats.mask)
    x0, y0, x1, y1 = cats.box
    assert cats.mask[y0:y1, x0:x1].sum() == cats.mask.sum() and cats.mask[y0].any() and cats.mask[:, x1 - 1].any()
    assert {"tokens", "forwards", "prefill_seconds", "decode_seconds", "refine_seconds"} <= set(cats.stats)
    assert cats.stats["ended"] == "complete"


def test_a_prediction_pickles(cats):
    again = pickle.loads(pickle.dumps(cats))
    assert np.array_equal(again.mask, cats.mask) and again.grid == cats.grid and again.stats == cats.stats


def test_all_decodings_of_a_photo_seen_once(segmenter, cats, examples):
    """`fast` and `constrained` write the same text; `free` is repaired; the encoded photo gives what the photo gave."""
    encoded = segmenter.encode(examples / "two_cats.jpg")
    slow = segmenter(encoded, "cat", refine="none", decoding="constrained")
    assert slow.text == cats.text and slow.grid == cats.grid
    nothing = codec.encode(codec.DescriptorGrid(np.zeros((16, 16), int), ("others", "cat")))
    spell = segmenter.vlm.text_ids
    empty = len(commonprefix([spell(slow.text), spell(nothing)]))  # what the pass over the empty answer vouched for
    assert cats.stats["forwards"] < slow.stats["forwards"] == slow.stats["tokens"] - empty
    free = segmenter(encoded, "cat", refine="none", decoding="free")
    assert free.grid == codec.repair(free.text, (16, 16))[0]


def test_partial_predictions_grow_to_the_whole(segmenter, cats, examples):
    partials = list(segmenter.stream(examples / "two_cats.jpg", "cat"))
    assert len(partials) > 2
    for before, after in zip(partials, partials[1:], strict=False):
        assert after.text.startswith(before.text) and not before.stats["ended"] and before.faults == ()
    assert partials[-1].text == cats.text and np.array_equal(partials[-1].mask, cats.mask)


def test_an_answer_under_way_is_painted_cell_by_cell(segmenter, examples, monkeypatch):
    """No refiner sees it, however large the photo is."""
    refined = []
    monkeypatch.setattr(results, "refine", lambda *given: refined.append(given) or refine(*given))
    *growing, last = segmenter.stream(examples / "two_cats.jpg", "cat", refine="smooth")
    assert len(refined) == 1 and any(step.present for step in growing) and last.stats["refiner"] == "smooth"
    for step in growing:
        cells = codec.mask_from_grid(step.grid, "cat", last.mask.shape)
        assert np.array_equal(step.mask, cells) and step.present == ("cat" in step.masks)


def test_a_stop_ends_between_passes(segmenter, examples):
    passes = iter([False, False, True])
    last = list(segmenter.stream(examples / "two_cats.jpg", "cat", stop=lambda: next(passes)))[-1]
    assert last.stats["ended"] == "stopped" and last.stats["forwards"] == 3  # the first weighs the empty answer
    assert last.faults  # the rows that were not written are repaired and reported


def test_class_lists(segmenter, examples):
    prediction = segmenter.classes(examples / "two_cats.jpg", ["cat", "dog"], refine="none")
    assert prediction.query == ("cat", "dog") and set(prediction.masks) <= {"cat", "dog"}
    assert prediction.grid == codec.decode(prediction.text, (16, 16))


@pytest.mark.parametrize("query, says", [
    ("", "1 to 200 characters; this one has 0"), ("   ", "this one has 0"), 
    ("x" * (MAX_QUERY + 1), "has 201 characters"),
    ("others", "others"), ([], "class list is empty"), (["cat", "cat"], "'cat' more than once"),
    (["cat", 7], "this one has int"), ("***", "is empty without"), ("Others!", "others"),
    (["cat", "“cat”"], "'cat' more than once, as 'cat' and '“cat”'"),
])  # fmt: skip
def test_questions_that_cannot_be_asked(query, says: str):
    with pytest.raises(QueryError, match=says):
        check_query(query)


def test_options_are_checked_before_the_model_runs(segmenter):
    for options in ({"refine": "magic"}, {"decoding": "slow"}):
        with pytest.raises(QueryError, match="magic|slow"):
            segmenter(Image.new("RGB", (8, 8)), "cat", **options)


@pytest.mark.parametrize("size", [(1, 1), (3, 300), (17, 5)])
def test_photos_of_odd_sizes(segmenter, size: tuple[int, int]):
    prediction = segmenter(np.zeros((size[1], size[0], 3), np.uint8), "cat")
    assert prediction.mask.shape == size[::-1]


def test_box_of():
    mask = np.zeros((5, 7), bool)
    assert box_of(mask) is None
    mask[2, 3] = mask[4, 5] = True
    assert box_of(mask) == (3, 2, 6, 5)


def test_importing_the_package_does_not_load_torch():
    code = "import sys, t4s; assert 'torch' not in sys.modules; assert 'Segmenter' in dir(t4s); t4s.Segmenter; " \
           "assert 'torch' in sys.modules"  # fmt: skip
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
