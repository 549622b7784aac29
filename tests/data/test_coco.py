"""The coco dataset: one's own photos with an instances file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t4s.data.spec import open_dataset
from t4s.errors import DataError

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples" / "instances.json"


@pytest.fixture
def data(tmp_path) -> dict:
    """Two photos of 8 × 6 pixels, one of them in images/; a crowd; a category that only one photo has."""
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 6), "blue").save(tmp_path / "images" / "b.png")
    crowd = {"size": [6, 8], "counts": [36, 12]}
    return {
        "categories": [{"id": 7, "name": "dog"}, {"id": 9, "name": "traffic_light"}, {"id": 11, "name": "cat"}],
        "images": [{"id": n, "file_name": f"{name}.png", "height": 6, "width": 8}
                   for n, name in enumerate("abc", 1)],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "segmentation": [[0, 0, 4, 0, 4, 6, 0, 6]]},
            {"id": 2, "image_id": 1, "category_id": 7, "segmentation": crowd, "iscrowd": 1},
            {"id": 3, "image_id": 1, "category_id": 9, "segmentation": [[5, 0, 6, 0, 6, 6, 5, 6]]},
            {"id": 4, "image_id": 2, "category_id": 11, "segmentation": [[0, 0, 8, 0, 8, 3, 0, 3]]},
        ],
    }  # fmt: skip


def open_coco(data: dict, folder: Path, split: str = "val"):
    (folder / "instances.json").write_text(json.dumps(data))
    return open_dataset(f"coco:{folder / 'instances.json'}@{split}")


def test_a_categorys_annotations_are_one_mask(data, tmp_path):
    dataset = open_coco(data, tmp_path)
    assert len(dataset) == 2 and dataset.names == ["cat", "dog", "traffic light"]  # photo c has no annotation
    asked = {sample.query: sample for sample in dataset[0]}
    assert list(asked) == ["dog", "traffic light", "cat"] and asked["cat"].absent
    dog = np.zeros((6, 8), int)
    dog[:, :4], dog[:, 6:] = 1, 1
    assert (asked["dog"].class_map == dog).all() and (asked["traffic light"].class_map.sum(0) > 0).tolist()[5]
    assert [s.id for s in dataset[1]] == [s.id for s in dataset[1]]


def test_training_asks_in_many_words_for_what_is_there_and_what_is_not(data, tmp_path):
    dataset = open_coco(data, tmp_path, "train")
    drawn = dataset.draw(1, np.random.default_rng(0), 60)
    assert len({sample.query for sample in drawn}) > 6 and 4 < sum(sample.absent for sample in drawn) < 24
    assert all(sample.absent or any(w in sample.query for w in ("cat", "kitt", "feline")) for sample in drawn)


def test_the_example_photos_are_a_dataset():
    dataset = open_dataset(f"coco:{EXAMPLES}@val")
    assert len(dataset) == 8
    assert {"cat", "toilet"} <= {s.query for i in range(8) for s in dataset[i] if not s.absent and "cats" in s.id}


USELESS = {
    "outside": [[90, 90, 99, 90, 99, 99]],
    "normalised": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]],
    "empty": [],
    "missing": None,
    "two points": [[1, 2, 3, 4]],
    "background": {"size": [6, 8], "counts": [48]},
}


@pytest.mark.parametrize("segmentation", USELESS.values(), ids=USELESS)
def test_what_draws_nothing_is_not_taught_as_absent(data, tmp_path, segmentation):
    """Somebody annotated it, so it is there: it was asked for with "nothing" as the true answer."""
    data["annotations"][2]["segmentation"] = segmentation  # the traffic light of photo a
    dataset = open_coco(data, tmp_path, "train")
    assert [sample.query for sample in dataset[0]] == ["dog", "cat"]
    drawn = dataset.draw(0, np.random.default_rng(0), 60)
    assert any(sample.absent for sample in drawn) and not any("traffic" in sample.query for sample in drawn)
    assert "traffic light" in [sample.query for sample in dataset[1] if sample.absent]


def test_one_part_that_draws_nothing_does_not_cost_the_photo(data, tmp_path):
    data["annotations"][0]["segmentation"].append([1, 2, 3, 4])
    (dog, *_) = open_coco(data, tmp_path)[0]
    assert dog.query == "dog" and dog.class_map.sum() == 36


def test_a_photo_with_nothing_usable_is_left_out(data, tmp_path):
    data["annotations"][3]["segmentation"] = []
    assert [photo.file for photo in open_coco(data, tmp_path).photos] == ["a.png"]


@pytest.mark.parametrize("size", [(6.0, 8.0), ("6", "8"), ("6.0", "8.0"), (None, None), (0, 0)], ids=str)
def test_sizes_and_ids_are_read_as_tools_write_them(data, tmp_path, size):
    data["images"][0].update(id="1", height=size[0], width=size[1])
    data["annotations"][0].update(image_id=1.0, category_id="7")
    if size[0] is None:
        del data["images"][0]["height"], data["images"][0]["width"]
    asked = {sample.query: int(sample.class_map.sum()) for sample in open_coco(data, tmp_path)[0]}
    assert asked == {"dog": 36, "traffic light": 6, "cat": 0}


NAMES = {"dog": True, "Horse": True, "traffic light": True, "Hund": False, "chien": False, "猫": False, "dog 2": False}


@pytest.mark.parametrize("name, english", NAMES.items())
def test_only_english_names_get_english_variations(data, tmp_path, name, english):
    """ "a 猫" and "all 猫s" were taught."""
    data["categories"][2]["name"] = name
    drawn = open_coco(data, tmp_path, "train").draw(1, np.random.default_rng(0), 80)
    queries = {sample.query for sample in drawn if not sample.absent}
    assert (len(queries) > 3) if english else queries == {name}


def test_of_two_photos_of_one_name_the_one_of_the_split_is_taken_or_none(data, tmp_path):
    """`images/Train/a.png` and `images/Validation/a.png`: the masks would land on the wrong one."""
    for colour, name in (("red", "Train"), ("blue", "Validation")):
        (tmp_path / "images" / name).mkdir()
        Image.new("RGB", (8, 6), colour).save(tmp_path / "images" / name / "d.png")
    data["images"][0]["file_name"] = "d.png"
    with pytest.raises(DataError, match=r"may be .*Train.d.png or .*Validation.d.png; write the folder"):
        open_coco(data, tmp_path)[0]
    (tmp_path / "instances_Validation.json").write_text(json.dumps(data))
    sample = open_dataset(f"coco:{tmp_path / 'instances_Validation.json'}")[0][0]
    assert sample.image.getpixel((0, 0)) == (0, 0, 255)


def two(table: str):
    """Two entries of one id."""
    return lambda data: data[table][1].update(id=data[table][0]["id"])


@pytest.mark.parametrize(
    "change, says",
    [
        (two("images"), "several images have the id 1"),
        (two("categories"), "several categories have the id 7"),
        (
            lambda d: d["categories"][0].update(name="OTHERS"),
            'category 7 cannot be asked. The label "others" is reserved',
        ),
        (lambda d: d["categories"][0].update(name=""), "category 7 cannot be asked"),
        (lambda d: d["categories"][0].update(name="***"), "category 7 cannot be asked"),
        (lambda d: d["categories"][0].update(name="Cat"), '7 ("Cat") and 11 ("cat") differ only in case'),
        (
            lambda d: [a.update(segmentation=[]) for a in d["annotations"]],
            "it holds annotations without a segmentation",
        ),
        (lambda d: d["images"][0].update(width=-8), "image 1 has the size -8×6"),
    ],
)
def test_what_would_be_taught_wrongly_is_refused_at_opening(data, tmp_path, change, says):
    change(data)
    with pytest.raises(DataError) as error:
        open_coco(data, tmp_path)
    assert says in str(error.value)


def test_an_error_is_wrapped_once(data, tmp_path):
    """A DataError is a ValueError, which the reading of the file turned into another DataError."""
    data["annotations"][0]["image_id"] = 5
    with pytest.raises(DataError) as error:
        open_coco(data, tmp_path)
    assert "DataError" not in str(error.value) and str(error.value).count("instances.json") == 1


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda d: d["annotations"][0].update(category_id=5), "annotation 1 is on image 1 with category 5"),
        (lambda d: d["annotations"][0].update(image_id=5), "annotation 1 is on image 5"),
        (lambda d: d["images"][0].update(height=60), "is 8×6 pixels and instances.json says 8×60"),
        (lambda d: d["images"][0].update(file_name="gone.png"), "The photo gone.png of instances.json is not in"),
        (lambda d: d.pop("images"), "is not a COCO instances file: its images are missing"),
        (lambda d: d.update(annotations=[]), "no photo"),
    ],
)
def test_what_is_wrong_is_named(data, tmp_path, change, says):
    change(data)
    with pytest.raises(DataError) as error:
        open_coco(data, tmp_path)[0]
    assert says in str(error.value)


@pytest.mark.parametrize("content, says", [(None, "is not there"), ("{", "not whole JSON"), ("[]", "holds a list")])
def test_a_file_that_is_none_is_refused(tmp_path, content, says):
    if content:
        (tmp_path / "instances.json").write_text(content)
    with pytest.raises(DataError, match=says):
        open_dataset(f"coco:{tmp_path / 'instances.json'}")
