"""Downloads: each is read back by the tool it is for, or by a parser as strict as its standard: the mask again."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from io import BytesIO

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from pycocotools.coco import COCO

from t4s import Prediction, codec
from t4s.imaging import export
from t4s.imaging.polygons import keyhole, polygons
from tests.support.outlines import area, filled, strict_geojson

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools with numpy 2
masks_st = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12))


def drawn(*rows: str) -> np.ndarray:
    return np.array([[cell == "#" for cell in row] for row in rows])


RING = drawn("#####", "#...#", "#.#.#", "#...#", "#####")  # a hole with an island
POCKET = drawn("####", "#..#", "#.#.", "####")  # the hole meets the outside at a corner
TOUCH = drawn("##..", "##..", "..##", "..##")  # two parts meet at a corner
THREE_HOLES = drawn("#######", "#.#.#.#", "#..#..#", "#######")  # holes that meet at corners


# ---------------------------------------------------------------- PNG


@given(masks_st)
def test_masks_as_png(mask):
    grey, two = (Image.open(BytesIO(export.mask_png(mask, bits))) for bits in (8, 1))
    assert (grey.mode, two.mode) == ("L", "1")
    assert np.array_equal(np.asarray(grey), mask * 255) and np.array_equal(np.asarray(two), mask)
    with pytest.raises(ValueError, match="1 or 8"):
        export.mask_png(mask, 16)


def test_cut_out_is_transparent_outside():
    photo = np.random.default_rng(0).integers(1, 256, (5, 7, 3), np.uint8)
    mask = np.zeros((5, 7), bool)
    mask[1:3, 2:6] = True
    for source in (photo, Image.fromarray(photo)):
        cut = np.asarray(Image.open(BytesIO(export.cutout_png(source, mask))))
        assert cut.shape == (5, 7, 4) and np.array_equal(cut[..., 3], mask * 255)
        assert np.array_equal(cut[mask][:, :3], photo[mask])
        assert not cut[~mask].any()  # not even hidden under the transparency


# ---------------------------------------------------------------- COCO


@given(masks_st)
@example(np.ones((1, 1), bool))
@example(np.zeros((3, 4), bool))
@settings(max_examples=150)
def test_run_lengths_are_cocos(mask):
    rle = export.coco_rle(mask)
    assert json.loads(json.dumps(rle)) == rle
    assert np.array_equal(coco.decode(rle), mask)
    theirs = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle["counts"] == theirs["counts"].decode() and rle["size"] == theirs["size"]


def test_long_runs_take_several_characters():
    """Differences of both signs, above and below every 5-bit border."""
    mask = np.zeros((700, 900), bool)
    for column, length in enumerate([1, 15, 16, 17, 31, 32, 33, 511, 512, 513, 699, 700, 1, 700, 2]):
        mask[:length, column * 3] = True
    assert np.array_equal(coco.decode(export.coco_rle(mask)), mask)


def test_coco_data_set_opens_in_pycocotools(tmp_path):
    dog, cat, none = np.zeros((6, 8), bool), np.zeros((6, 8), bool), np.zeros((6, 8), bool)
    dog[2:5, 1:4], cat[0, 7] = True, True
    photos = [
        ("a.jpg", (6, 8), {"dog": dog, "cat": cat}),
        ("b.jpg", (6, 8), {"dog": none}),
        ("c.jpg", (6, 8), {"cat": dog}),
    ]
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(export.coco_json(photos)))
    data = COCO(path)
    assert [image["file_name"] for image in data.loadImgs(data.getImgIds())] == ["a.jpg", "b.jpg", "c.jpg"]
    for name, _, masks in photos:
        (photo,) = (image for image in data.imgs.values() if image["file_name"] == name)
        found = {data.cats[a["category_id"]]["name"]: a for a in data.loadAnns(data.getAnnIds(imgIds=photo["id"]))}
        assert set(found) == {label for label, mask in masks.items() if mask.any()}
        for label, annotation in found.items():
            assert np.array_equal(data.annToMask(annotation), masks[label])
            assert annotation["area"] == masks[label].sum()
            assert annotation["bbox"] == coco.toBbox(export.coco_rle(masks[label])).tolist()


# ---------------------------------------------------------------- outlines


@given(masks_st)
@example(RING)
@example(POCKET)
@example(TOUCH)
@example(THREE_HOLES)
@example(~RING)
@settings(max_examples=300)
def test_outlines_are_exact_and_simple(mask):
    found = polygons(mask)
    assert np.array_equal(filled([ring for polygon in found for ring in polygon], mask.shape), mask)
    parts = [filled(polygon, mask.shape) for polygon in found]
    assert sum(part.astype(int) for part in parts).max(initial=0) <= 1 if parts else not mask.any()
    for polygon, part in zip(found, parts, strict=True):
        outline, *holes = polygon
        assert area(outline) > 0 and all(area(hole) < 0 for hole in holes)
        assert sum(map(area, polygon)) == part.sum()
        assert (filled([outline], mask.shape) >= part).all()  # each hole is in its own outline
        for ring in polygon:
            assert len(set(ring)) == len(ring) >= 4  # never comes back to a corner
            for (ax, ay), (bx, by), (cx, cy) in zip(ring, ring[1:] + ring[:1], ring[2:] + ring[:2], strict=True):
                assert (ax == bx) != (ay == by) and (ax == bx) != (bx == cx) and (ay == by) != (by == cy)
        assert np.array_equal(filled([keyhole(polygon)], mask.shape), part)


@pytest.mark.parametrize(
    ("mask", "rings"),
    [(RING, [2, 1]), (POCKET, [2]), (TOUCH, [1, 1]), (THREE_HOLES, [4]), (np.zeros((3, 3), bool), [])],
)
def test_outlines_of_awkward_shapes(mask, rings):
    found = [len(polygon) for polygon in polygons(mask)]
    assert found == rings


def test_a_single_pixel_has_four_corners():
    mask = np.zeros((4, 5), bool)
    mask[2, 3] = True
    (((*corners,),),) = polygons(mask)
    assert sorted(corners) == [(3, 2), (3, 3), (4, 2), (4, 3)]


# ---------------------------------------------------------------- GeoJSON, LabelMe, SVG

SCENE = {
    "ring": np.pad(RING, ((2, 3), (1, 9))),
    "parts": np.pad(TOUCH, ((5, 1), (9, 2))),
    "none": np.zeros((10, 15), bool),
    '"><script>alert(1)</script>&': np.pad(POCKET, ((0, 6), (11, 0))),
}


def test_geojson():
    found = strict_geojson(json.dumps(export.geojson(SCENE)))
    assert list(found) == [label for label, mask in SCENE.items() if mask.any()]
    for label, parts in found.items():
        assert np.array_equal(filled([ring for part in parts for ring in part], (10, 15)), SCENE[label])


def test_labelme():
    data = json.loads(json.dumps(export.labelme(SCENE, "photo.jpg", (10, 15))))
    assert set(data) == {"version", "flags", "shapes", "imagePath", "imageData", "imageHeight", "imageWidth"}
    assert (data["imagePath"], data["imageHeight"], data["imageWidth"]) == ("photo.jpg", 10, 15)
    found = {label: np.zeros((10, 15), bool) for label in SCENE}
    groups = {}
    for shape in data["shapes"]:
        assert shape["shape_type"] == "polygon" and len(shape["points"]) >= 3
        assert all(isinstance(v, float) for point in shape["points"] for v in point)
        found[shape["label"]] ^= filled([shape["points"]], (10, 15))
        groups.setdefault(shape["label"], set()).add(shape["group_id"])
        picture = Image.new("1", (15, 10))  # LabelMe draws shapes with Pillow, whose outlines are one pixel wide
        ImageDraw.Draw(picture).polygon([tuple(point) for point in shape["points"]], fill=1)
        assert (np.asarray(picture) >= filled([shape["points"]], (10, 15))).all()
    assert all(np.array_equal(found[label], mask) for label, mask in SCENE.items())
    assert all(len(group) == 1 for group in groups.values())


def test_svg():
    text = export.svg(SCENE, (10, 15), {"ring": (230, 159, 0)})
    root = ElementTree.fromstring(text)  # strict: a stray < or & is an error
    space = "{http://www.w3.org/2000/svg}"
    assert root.tag == space + "svg" and root.get("viewBox") == "0 0 15 10"
    assert {element.tag for element in root.iter()} == {space + name for name in ("svg", "path", "title")}
    assert [path.get("data-label") for path in root] == [label for label, mask in SCENE.items() if mask.any()]
    for path in root:
        label = path.find(space + "title").text
        assert label == path.get("data-label") and path.get("fill-rule") == "evenodd"
        assert re.fullmatch(r"(M[\d.]+ [\d.]+(L[\d.]+ [\d.]+){3,}Z)+", path.get("d"))
        rings = [
            [tuple(map(float, p.split())) for p in ring.split("L")] for ring in re.findall("M([^Z]+)Z", path.get("d"))
        ]
        assert np.array_equal(filled(rings, (10, 15)), SCENE[label])
    assert root[0].get("fill") == "#e69f00" and "<script" not in text


@given(st.text(min_size=1))
def test_no_label_breaks_a_file(label):
    mask = {label: np.ones((2, 2), bool)}
    ElementTree.fromstring(export.svg(mask, (2, 2)).encode(errors="replace"))
    for data in (export.geojson(mask), export.labelme(mask, label, (2, 2)), export.coco_json([(label, (2, 2), mask)])):
        assert label in json.dumps(json.loads(json.dumps(data)), ensure_ascii=False) or json.dumps(label)[
            1:-1
        ] in json.dumps(data)


def test_nothing_there_gives_empty_files():
    nothing = {"dog": np.zeros((3, 4), bool)}
    assert export.geojson(nothing)["features"] == [] == export.labelme(nothing, "a.jpg", (3, 4))["shapes"]
    assert len(ElementTree.fromstring(export.svg(nothing, (3, 4)))) == 0


def test_a_large_ragged_mask_is_outlined_in_reasonable_time():
    """Noise is the worst case: a hundred thousand rings. Anything quadratic would take minutes."""
    mask = np.random.default_rng(0).random((300, 400)) < 0.5
    assert np.array_equal(coco.decode(export.coco_rle(mask)), mask)
    found = polygons(mask)
    assert sum(area(ring) for polygon in found for ring in polygon) == mask.sum()


# ---------------------------------------------------------------- JSON


def test_grid_as_json():
    grid = codec.grid_from_mask(np.eye(8, dtype=bool), "dog", (2, 2))
    data = json.loads(json.dumps(export.grid_dict(grid, np.full((2, 2), 1 / 3, np.float32))))
    assert codec.DescriptorGrid(data["rows"], tuple(data["labels"])) == grid == codec.decode(data["text"])
    assert data["shape"] == [2, 2] and data["confidence"] == [[0.3333] * 2] * 2
    assert "confidence" not in export.grid_dict(grid)


def test_prediction_as_json():
    mask = np.zeros((6, 9), bool)
    mask[1:4, 2:9] = True
    text = "others *2\n dog *2"
    grid, faults = codec.repair(text, (2, 2))
    stats = {"tokens": 7, "forwards": np.int64(3), "decode_seconds": np.float32(0.5)}
    confidence = np.full((2, 2), 0.25, np.float32)
    prediction = Prediction("dog", text, grid, mask, {"dog": mask}, confidence, True, 0.25, (2, 1, 9, 4), faults, stats)
    data = json.loads(json.dumps(export.as_dict(prediction)))
    assert data["text"] == text and data["labels"] == ["others", "dog"] and data["rows"] == [[0, 0], [1, 1]]
    assert data["box"] == [2, 1, 9, 4] and data["present"] is True and data["score"] == 0.25
    assert data["faults"] == [{"row": 1, "column": 1, "message": faults[0].message}]
    assert data["status"] == "found" and data["query"] == data["asked"] == "dog"
    assert data["parts"] == [{"label": "dog", "score": 0.25, "box": [2, 1, 9, 4], "area": 21}]
    assert data["stats"] == {"tokens": 7, "forwards": 3, "decode_seconds": 0.5}
    assert np.array_equal(coco.decode(data["coco_rle"]), mask) and data["masks"] == {"dog": data["coco_rle"]}
    names = ("The Dog", "cat")
    absent = Prediction(names, text, grid, ~mask & mask, {}, confidence, False, 0.5, None, asked=("dog", "cat"))
    data = json.loads(json.dumps(export.as_dict(absent)))
    assert data["status"] == "absent" and data["parts"] == []
    assert data["query"] == ["The Dog", "cat"] and data["asked"] == ["dog", "cat"]
    assert data["box"] is None and not coco.decode(data["coco_rle"]).any()
