"""COCO segmentations against pycocotools, the reference: equal to the pixel, in all three forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t4s.errors import DataError
from t4s.imaging.masks import annotation_mask

reference = pytest.importorskip("pycocotools.mask")
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def reference_mask(segmentation, height: int, width: int) -> np.ndarray:
    packed = reference.frPyObjects(segmentation, height, width)
    return reference.decode(reference.merge(packed) if isinstance(packed, list) else packed).astype(bool)


coordinates = st.floats(-20, 60, width=32) | st.integers(-5, 45).map(float) | st.integers(0, 400).map(lambda n: n / 10)
polygons = st.lists(coordinates, min_size=3, max_size=12).flatmap(
    lambda xs: st.lists(coordinates, min_size=len(xs), max_size=len(xs)).map(
        lambda ys: [v for xy in zip(xs, ys, strict=True) for v in xy]
    )
)


@settings(max_examples=200, deadline=None)
@given(st.lists(polygons, min_size=1, max_size=3), st.integers(5, 40), st.integers(5, 40))
def test_polygons_are_drawn_as_coco_draws_them(parts, height, width):
    """Self-crossing, half outside, with repeated points, with many parts: the same pixels as pycocotools."""
    got = annotation_mask(parts, height + 20, width + 20)
    assert got.dtype == bool
    np.testing.assert_array_equal(got, reference_mask(parts, height + 20, width + 20))


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.data())
def test_run_lengths_plain_and_packed_agree_with_pycocotools(height, width, data):
    bits = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(bits).reshape(height, width)
    packed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    counts, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(0)
            value = pixel
        counts[-1] += 1
    for form in (packed["counts"], packed["counts"].decode(), counts):
        got = annotation_mask({"size": [height, width], "counts": form}, height, width)
        np.testing.assert_array_equal(got, mask)


def test_long_runs_survive_the_packing():
    """Differences to the run two before it are negative and several characters long on real photos."""
    mask = np.zeros((700, 900), bool)
    mask[10:500, 20:800] = True
    mask[300, 400:405] = False
    packed = reference.encode(np.asfortranarray(mask.astype(np.uint8)))
    np.testing.assert_array_equal(annotation_mask(packed, 700, 900), mask)


def test_overlapping_parts_are_united_and_never_wrap():
    """Published code sums the parts: 2 where two overlap, 0 again where 256 do."""
    square = [2.0, 2.0, 10.0, 2.0, 10.0, 10.0, 2.0, 10.0]
    shifted = [v + 4 for v in square]
    mask = annotation_mask([square, shifted] * 128, 20, 20)
    np.testing.assert_array_equal(mask, annotation_mask([square], 20, 20) | annotation_mask([shifted], 20, 20))
    assert mask[7, 7]


def test_the_example_photos_agree_with_pycocotools():
    """Real annotations, `iscrowd` among them where there are any."""
    path = Path(__file__).resolve().parents[2] / "assets" / "examples" / "instances.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    assert len(data["annotations"]) > 20
    for annotation in data["annotations"]:
        size = sizes[annotation["image_id"]]
        got = annotation_mask(annotation["segmentation"], *size)
        np.testing.assert_array_equal(got, reference_mask(annotation["segmentation"], *size))


@pytest.mark.parametrize(
    "segmentation,says",
    [
        # nothing there, or another form
        ([], "write a list of polygons"),
        (None, "write a list of polygons"),
        ("polygon", "write a list of polygons"),
        ([1, 2, 3, 4, 5, 6], "write a list of polygons"),
        # polygons that are none
        ([[1, 2, 3, 4]], "three or more points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "three or more points"),
        ([[1, 2, 3, 4, 5, "6"]], "three or more points"),
        ([[1, 2, 3, 4, 5, float("nan")]], "three or more points"),
        ([[0, 0, 1e9, 0, 1e9, 1e9]], "over 1000000 pixels"),  # would walk five billion lattice points
        ([[0, 0, 9e5, 0, 0, 9e5]], "over 1000000 pixels"),
        # run lengths
        ({"size": [4, 5], "counts": [20]}, r"size \[4, 5\].*\[5, 4\]"),  # h and w swapped
        ({"counts": [20]}, "size None"),
        ({"size": [5, 4]}, "counts are None"),
        ({"size": [5, 4], "counts": [10, -2, 12]}, "from 0 up"),
        ({"size": [5, 4], "counts": [10, 9]}, "cover 19 pixels"),
        ({"size": [5, 4], "counts": [2**62]}, "cover"),
        ({"size": [5, 4], "counts": "d\u00e9"}, "never writes"),
        ({"size": [5, 4], "counts": "oooooooooooooooo"}, "never writes"),  # one endless number
        ({"size": [5, 4], "counts": "4o"}, "cut off"),
    ],
)
def test_what_is_no_segmentation_is_refused_by_name(segmentation, says):
    with pytest.raises(DataError, match=says):
        annotation_mask(segmentation, 5, 4)


@pytest.mark.parametrize("size", [(0, 5), (-3, 5), (5, 10**9), (5.0, 4), ("5", 4)])
def test_impossible_sizes_are_refused_before_memory_is_taken(size):
    with pytest.raises(DataError, match="cannot have"):
        annotation_mask([[0, 0, 1, 0, 1, 1]], *size)
