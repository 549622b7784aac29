"""Predictions: everything that follows from the grid and the masks follows in one place."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from t4s import codec
from t4s.limits import MAX_PARTS, MIN_PART
from t4s.records import STATUSES, Part, Prediction, box_of, build_prediction, union

DOG = codec.DescriptorGrid([[0, 1, 1, 0], [0, 0, 0, 1]], ("others", "dog"))
CONFIDENCE = np.array([[0.9, 0.5, 0.7, 0.9], [0.9, 0.9, 0.8, 0.6]], np.float32)


def predicted(masks: dict[str, np.ndarray], grid=DOG, confidence=CONFIDENCE, **options) -> Prediction:
    size = next(iter(masks.values())).shape
    return build_prediction("dog", codec.encode(grid), grid, masks, confidence, size, **options)


def block(*places: tuple[int, int, int, int]) -> np.ndarray:
    mask = np.zeros((40, 80), bool)
    for x0, y0, x1, y1 in places:
        mask[y0:y1, x0:x1] = True
    return mask


def test_box_and_union():
    mask = block((3, 2, 6, 5))
    assert box_of(mask) == (3, 2, 6, 5) and all(type(value) is int for value in box_of(mask))
    assert box_of(mask & ~mask) is None
    both = union({"a": mask, "b": block((70, 30, 80, 40))}, (40, 80))
    assert both.sum() == 9 + 100 and not union({}, (40, 80)).any()


def test_what_follows_from_a_grid():
    prediction = predicted({"dog": block((20, 0, 60, 20), (60, 20, 80, 40))})
    assert prediction.present and prediction.status == "found" and prediction.box == (20, 0, 80, 40)
    assert prediction.score == pytest.approx((0.5 + 0.7 + 0.6) / 3)
    empty = codec.DescriptorGrid(np.zeros((2, 4), int), ("others",))
    absent = build_prediction("cat", codec.encode(empty), empty, {}, CONFIDENCE, (40, 80))
    assert (absent.present, absent.status, absent.box, absent.parts) == (False, "absent", None, ())
    assert absent.score == pytest.approx(CONFIDENCE.mean()) and absent.mask.shape == (40, 80)


def test_a_status_can_be_given():
    assert STATUSES == ("found", "absent", "unsure", "unknown word")
    unsure = predicted({"dog": block((20, 0, 60, 20))}, status="unsure")
    assert unsure.status == "unsure" == replace(unsure, score=0.1).status


def test_parts_are_listed_largest_first():
    """Two dogs: one in the two cells above, one in the cell at the lower right."""
    left, right = (20, 0, 60, 20), (61, 21, 80, 40)
    prediction = predicted({"dog": block(left, right)})
    assert prediction.parts == (
        Part("dog", pytest.approx(0.6), left, 800, np.ones((20, 40), bool)),
        Part("dog", pytest.approx(0.6, abs=1e-6), right, 19 * 19, np.ones((19, 19), bool)),
    )
    assert [part.inside.sum() for part in prediction.parts] == [800, 19 * 19]
    assert pickle.loads(pickle.dumps(prediction)).parts == prediction.parts


def test_pixels_that_touch_at_a_corner_are_one_part():
    assert len(predicted({"dog": block((20, 0, 60, 20), (60, 20, 80, 40))}).parts) == 1


def test_a_part_outside_its_labels_cells_has_the_confidence_of_the_cells_it_covers():
    """Refiners may leave the grid: here into two cells of "others"."""
    (part,) = predicted({"dog": block((0, 25, 40, 35))}).parts
    assert part.score == pytest.approx(0.9)


def test_specks_are_not_listed_unless_there_is_nothing_else():
    speck = (70, 30, 73, 33)
    assert 9 < MIN_PART
    assert [part.box for part in predicted({"dog": block((20, 0, 60, 20), speck)}).parts] == [(20, 0, 60, 20)]
    assert [part.box for part in predicted({"dog": block(speck)}).parts] == [speck]


def test_noise_has_few_parts():
    mask = np.kron(np.random.default_rng(0).random((100, 100)) < 0.1, np.ones((6, 6), bool))
    assert len(predicted({"dog": mask}).parts) == MAX_PARTS


def test_every_label_has_its_parts_and_another_refiner_others():
    grid = codec.DescriptorGrid([[2, 1, 1, 0], [2, 0, 0, 1]], ("others", "dog", "cat"))
    prediction = predicted({"dog": block((20, 0, 60, 20)), "cat": block((0, 0, 20, 40))}, grid)
    assert [(part.label, part.area) for part in prediction.parts] == [("dog", 800), ("cat", 800)]
    smaller = replace(prediction, masks={"dog": block((20, 0, 30, 10))})
    assert [part.area for part in smaller.parts] == [100]
