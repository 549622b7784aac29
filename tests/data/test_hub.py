"""The same fields as columns of a data set: loaded from a folder of Parquet files, as from the Hub."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t4s import DataError, check
from t4s.data.spec import open_dataset
from t4s.imaging import export

datasets = pytest.importorskip("datasets")

TARGET = np.zeros((20, 30), bool)
TARGET[5:15, 10:20] = True
PHOTO = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8))
MASK = Image.fromarray(TARGET.astype(np.uint8) * 255)


def saved(folder: Path, split: str = "train", **columns: list) -> Path:
    rows = datasets.Dataset.from_dict(columns)
    for name in ("image", "mask"):
        if name in columns and any(isinstance(value, Image.Image) for value in columns[name]):
            rows = rows.cast_column(name, datasets.Image())
    (folder / "data").mkdir(exist_ok=True)
    rows.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


@pytest.mark.parametrize(
    "mask",
    [MASK, export.coco_rle(TARGET), [[10.0, 5.0, 20.0, 5.0, 20.0, 15.0, 10.0, 15.0]]],
    ids=["image", "rle", "polygon"],
)
def test_every_form_of_mask(tmp_path, mask):
    folder = saved(tmp_path, image=[PHOTO, PHOTO], query=["a dog", "a cat"], mask=[mask, None], absent=[None, True])
    dataset = open_dataset(f"hub:{folder}")
    assert len(dataset) == 2
    (dog,), (cat,) = dataset
    assert dog.query == "a dog" and np.array_equal(dog.class_map == 1, TARGET) and cat.absent
    assert np.array_equal(np.asarray(dog.image), np.asarray(PHOTO))
    assert [sample.query for sample in dataset.draw(1, np.random.default_rng(0), 3)] == ["a cat"] * 3
    for index in range(2):  # what is kept for training on a GPU draws the same, and holds no photo
        _, kept = dataset.decode(index, complete=True)
        assert len(pickle.dumps(kept)) < 1500
        drawn = dataset.ask(index, np.random.default_rng(0), 2, lambda _, kept=kept: kept)
        for one, two in zip(drawn.samples, dataset.draw(index, np.random.default_rng(0), 2), strict=True):
            assert (one.id, one.query, one.labels, one.box) == (two.id, two.query, two.labels, two.box)
            assert np.array_equal(one.class_map, two.class_map)
    assert check.main([f"hub:{folder}", "--sheet", str(tmp_path / "sheet.png")]) == 0


@pytest.mark.parametrize("absent", [{}, {"absent": [None, None]}], ids=["no column", "null"])
def test_a_null_mask_means_absent(tmp_path, absent):
    folder = saved(tmp_path, image=[PHOTO, PHOTO], query=["a dog", "a cat"], mask=[MASK, None], **absent)
    (dog,), (cat,) = open_dataset(f"hub:{folder}")
    assert not dog.absent and cat.absent


def test_image_files_beside_a_table(tmp_path):
    """`datasets` keeps such photos as paths, not as bytes."""
    PHOTO.save(tmp_path / "a.png")
    lines = '{"file_name": "a.png", "query": "a cat", "absent": true}\n'
    (tmp_path / "metadata.jsonl").write_text(lines)
    ((cat,),) = open_dataset(f"hub:{tmp_path}")
    assert cat.absent and np.array_equal(np.asarray(cat.image), np.asarray(PHOTO))


def test_splits(tmp_path):
    for split, count in (("train", 2), ("validation", 1)):
        saved(tmp_path, split, image=[PHOTO] * count, query=["a dog"] * count, mask=[MASK] * count)
    lengths = {split: len(open_dataset(f"hub:{tmp_path}@{split}")) for split in ("train", "validation", "all")}
    assert lengths == {"train": 2, "validation": 1, "all": 3}
    with pytest.raises(DataError, match="no split 'test'"):
        open_dataset(f"hub:{tmp_path}@test")


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"image": [PHOTO], "mask": [MASK]}, "no column query; its columns are image, mask"),
        ({"image": ["a.png"], "query": ["a dog"], "mask": [MASK]}, "must be an Image column"),
        ({"image": [PHOTO], "query": ["a dog"]}, 'row 0 has neither "mask" nor "absent"'),
        ({"image": [PHOTO], "query": ["others"], "mask": [MASK]}, 'row 0, field "query"'),
        ({"image": [PHOTO], "query": ["a dog"], "mask": [MASK.crop((0, 0, 9, 9))]}, "the mask is 9×9"),
        ({"image": [PHOTO], "query": ["a dog"], "mask": [MASK.point(lambda _: 0)]}, "the mask is empty"),
    ],
)  # fmt: skip
def test_wrong_columns_and_rows(tmp_path, columns, said):
    with pytest.raises(DataError) as caught:
        open_dataset(f"hub:{saved(tmp_path, **columns)}")[0]
    assert said in str(caught.value)


def test_data_sets_that_are_not_there(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="check its id"):
        open_dataset(f"hub:{tmp_path}/nowhere")
    with pytest.raises(DataError, match="check its id"):  # tests have no network
        open_dataset("hub:nobody/nothing")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match="pip install datasets"):
        open_dataset("hub:nobody/nothing")


def instance(number: int, *sentences: str, mask: np.ndarray = TARGET) -> dict:
    return {
        "id": number, "image_id": 9, "category": "dog", "supercategory": "animal", "label": "dog",
        "sentences": list(sentences), "bbox": [10.0, 5.0, 10.0, 10.0], "mask": export.coco_rle(mask),
    }  # fmt: skip


def test_refcoco_m_in_its_published_form(tmp_path):
    """A row is a photo with several instances, each with several sentences, a box and run lengths."""
    first = [instance(3, "left dog", "the dog"), instance(4, "cat", mask=~TARGET)]
    columns = {"image": [PHOTO, PHOTO], "image_id": [9, 11], "file_name": ["a.jpg", "b.jpg"]}
    folder = saved(tmp_path, "validation", **columns, samples=[first, [instance(5, "***")]])
    dataset = open_dataset(f"refcoco-m:{folder}@val")
    assert len(dataset) == 2 and dataset.name.endswith("@validation")
    left, dog, cat = dataset[0]
    assert [sample.query for sample in (left, dog, cat)] == ["left dog", "the dog", "cat"]
    assert left.image is cat.image and left.box == (10.0, 5.0, 20.0, 15.0) and left.id == "refcoco-m/9/3/0"
    assert np.array_equal(left.class_map == 1, TARGET) and np.array_equal(cat.class_map == 1, ~TARGET)
    assert dataset[1][0].query == "***", "scored, as a failure"
    assert len(dataset.draw(0, np.random.default_rng(0), 5)) == 5


@pytest.mark.parametrize(("change", "says"), [
    ({"mask": {"size": [2, 2], "counts": "04"}}, "size"), ({"bbox": [1.0]}, "row 0 is not a photo with samples"),
])  # fmt: skip
def test_a_damaged_row_of_refcoco_m_is_named(tmp_path, change, says):
    rows = {"image": [PHOTO], "image_id": [9], "file_name": ["a.jpg"], "samples": [[instance(3, "dog") | change]]}
    dataset = open_dataset(f"refcoco-m:{saved(tmp_path, 'validation', **rows)}@val")
    with pytest.raises(DataError, match=says):
        dataset[0]
    with pytest.raises(DataError, match="has no split 'train'"):
        open_dataset(f"refcoco-m:{tmp_path}@train")
