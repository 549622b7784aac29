"""Outlines for other tools: few points, valid geometry, and the mask again whoever fills them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from pycocotools.coco import COCO
from scipy import ndimage
from shapely.geometry import Polygon

from t4s.imaging import export
from t4s.imaging.masks import annotation_mask
from t4s.imaging.polygons import polygons
from t4s.imaging.simplify import outlines

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")
EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples" / "instances.json"


def by_pillow(rings, size, outline: int | None = None) -> np.ndarray:
    picture = Image.new("1", size[::-1])
    ImageDraw.Draw(picture).polygon([tuple(point) for point in rings], outline=outline, fill=1)
    return np.asarray(picture)


def by_coco(ring, size) -> np.ndarray:
    return coco.decode(coco.merge(coco.frPyObjects([np.ravel(ring).tolist()], *size))).astype(bool)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    return (one & other).sum() / (one | other).sum()


def disc(size=(200, 300), centre=(100, 150), radius=80, stretch=1.0) -> np.ndarray:
    y, x = np.mgrid[: size[0], : size[1]]
    return (y - centre[0]) ** 2 + ((x - centre[1]) / stretch) ** 2 < radius**2


def rectangle(*places) -> np.ndarray:
    mask = np.zeros((200, 300), bool)
    for x0, y0, x1, y1 in places:
        mask[y0:y1, x0:x1] = True
    return mask


def blob(seed: int, cut: float = 0.5) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).random((240, 320)), 12)
    return field > np.quantile(field, cut)


def rough(mask: np.ndarray, seed: int = 0) -> np.ndarray:
    """With single pixels set and cleared, as refiners leave them."""
    return mask ^ (np.random.default_rng(seed).random(mask.shape) < 0.001)


SHAPES = {
    "a disc": disc(),
    "an ellipse": disc(radius=60, stretch=2.0),
    "a ring": disc() & ~disc(radius=50),
    "a disc with two holes": disc() & ~disc(centre=(80, 120), radius=15) & ~disc(centre=(120, 180), radius=20),
    "a rectangle": rectangle((10, 20, 250, 180)),
    "a frame": rectangle((10, 20, 250, 180)) & ~rectangle((60, 60, 200, 140)),
    "stairs": np.tri(200, 200, dtype=bool),
    "steep stairs": np.arange(200)[:, None] > 7 * np.arange(28),
    "the whole photo": np.ones((120, 160), bool),
    "blobs": blob(0),
    "blobs with specks": rough(blob(1)),
    "a large blob with specks and holes": rough(blob(2, 0.3)),
    "a disc with specks": rough(disc((480, 640), (240, 320), 200)),
}


@pytest.mark.parametrize("name", SHAPES)
def test_the_mask_comes_back_whoever_fills_the_outlines(name):
    mask = SHAPES[name]
    size = mask.shape
    kept = [ring for (ring,) in outlines(mask, holes=False)]
    fills = {
        "Pillow": [by_pillow(ring, size) for ring in kept],
        "LabelMe": [by_pillow(ring, size, outline=1) for ring in kept],
        "pycocotools": [by_coco(ring, size) for ring in kept],
    }
    for rule, parts in fills.items():
        assert iou(np.any(parts, axis=0), mask) >= 0.99, rule
    rings = [ring for polygon in outlines(mask) for ring in polygon]
    assert iou(np.sum([by_coco(ring, size) for ring in rings], axis=0) % 2 == 1, mask) >= 0.99


@pytest.mark.parametrize("name", SHAPES)
def test_there_are_few_points(name):
    mask = SHAPES[name]
    exact = sum(len(ring) for polygon in polygons(mask) for ring in polygon)
    simple = sum(len(ring) for polygon in outlines(mask) for ring in polygon)
    assert simple <= max(0.6 * exact, 60), (simple, exact)
    assert simple == {"a rectangle": 4, "a frame": 8, "the whole photo": 4}.get(name, simple)


@pytest.mark.parametrize("name", SHAPES)
def test_polygons_are_valid(name):
    for polygon in outlines(SHAPES[name]):
        assert Polygon(polygon[0], polygon[1:]).is_valid
    for (ring,) in outlines(SHAPES[name], holes=False):
        assert Polygon(ring).is_valid


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12)))
@example(np.array([[1, 1, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 0, 1, 1], [1, 0, 1, 0, 1], [1, 1, 1, 1, 1]], bool))
@settings(max_examples=200, deadline=None)
def test_small_masks_are_exact_and_valid(mask):
    found = outlines(mask)
    filled = np.zeros(mask.shape, int)
    for polygon in found:
        shape = Polygon(polygon[0], polygon[1:])
        assert shape.is_valid and shape.area > 0
        filled += sum(by_coco(ring, mask.shape) for ring in polygon)
    for (ring,) in outlines(mask, holes=False):
        assert Polygon(ring).is_valid
    assert np.array_equal(filled % 2 == 1, mask)
    flat = [by_pillow(ring, mask.shape, outline=1) for (ring,) in outlines(mask, holes=False)]
    drawn = np.any(flat, axis=0) if flat else np.zeros_like(mask)
    assert (drawn | ~mask).all()  # Pillow also draws the corner of a hole that touches another


@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
@settings(max_examples=10, deadline=None)
def test_any_blob_is_valid_and_close(seed, cut):
    mask = rough(blob(seed, cut), seed)
    kept = [ring for (ring,) in outlines(mask, holes=False)]
    assert all(Polygon(ring).is_valid for ring in kept)
    for outline in (None, 1):
        assert iou(np.any([by_pillow(ring, mask.shape, outline) for ring in kept], axis=0), mask) >= 0.99
    assert iou(np.any([by_coco(ring, mask.shape) for ring in kept], axis=0), mask) >= 0.99


def test_real_masks():
    data = json.loads(EXAMPLES.read_text())
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    for annotation in data["annotations"]:
        mask = annotation_mask(annotation["segmentation"], *sizes[annotation["image_id"]])
        kept = [ring for (ring,) in outlines(mask, holes=False)]
        assert all(Polygon(ring).is_valid for ring in kept)
        assert iou(np.any([by_pillow(ring, mask.shape, 1) for ring in kept], axis=0), mask) >= 0.99
        assert iou(np.any([by_coco(ring, mask.shape) for ring in kept], axis=0), mask) >= 0.99


def test_specks_are_dropped_and_small_things_kept():
    mask = rectangle((10, 20, 250, 180))
    mask[5, 280], mask[100, 100], mask[190:194, 280:284] = True, False, True
    (outline,), (part,) = outlines(mask)
    assert len(outline) == 4 and len(part) == 4  # 15 pixels and fewer are specks, 16 are not
    alone = np.zeros((20, 20), bool)
    alone[3, 4] = alone[10, 10] = True
    assert len(outlines(alone)) == 2


def test_coco_results_load_in_pycocotools(tmp_path):
    """`loadRes` copies the key "info", which was missing."""
    path = tmp_path / "instances.json"
    data = export.coco_json([("a.jpg", (200, 300), {"dog": disc()})])
    path.write_text(json.dumps(data))
    truth = COCO(path)
    results = [{"image_id": 1, "category_id": 1, "segmentation": export.coco_rle(disc()), "score": 0.5}]
    assert truth.loadRes(results).anns[1]["score"] == 0.5
    assert data["info"]["description"]
