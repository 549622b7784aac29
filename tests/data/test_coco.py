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
