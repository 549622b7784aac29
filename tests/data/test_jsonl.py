"""Your own data: every form of mask, and every way to get a line wrong, told by file, line and field."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t4s import DataError
from t4s.data.jsonl import JsonlDataset
from t4s.data.spec import open_dataset
from t4s.imaging import export

TARGET = np.zeros((20, 30), bool)
TARGET[5:15, 10:20] = True
SQUARE = [10, 5, 20, 5, 20, 15, 10, 15]
GOOD = {"image": "a.png", "query": "a dog", "mask": "mask.png"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "c.png"):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / name)
    (tmp_path / "mask.png").write_bytes(export.mask_png(TARGET))
    (tmp_path / "bits.png").write_bytes(export.mask_png(TARGET, 1))
    (tmp_path / "empty.png").write_bytes(export.mask_png(~TARGET & TARGET))
    (tmp_path / "small.png").write_bytes(export.mask_png(TARGET[:10]))
    (tmp_path / "text.png").write_text("this is text")
    Image.fromarray(TARGET.astype(np.uint8) * 255).save(tmp_path / "mask.jpg")
    (tmp_path / "folder").mkdir()
    return tmp_path


def written(folder: Path, *lines: dict | str) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


@pytest.mark.parametrize(
    "mask",
    [
        "mask.png",
        "bits.png",
        export.coco_rle(TARGET),
        {"size": [20, 30], "counts": [205, 10, *[10, 10] * 9, 195 + 10]},
        [SQUARE],
        [SQUARE, [12, 7, 14, 7, 14, 9]],  # a part inside another one
    ],
)
def test_every_form_of_mask_gives_the_same_target(folder, mask):
    (samples,) = JsonlDataset(written(folder, GOOD | {"mask": mask}))
    (sample,) = samples
    assert sample.query == "a dog" and sample.labels == ("others", "a dog") and not sample.absent
    assert sample.class_map.dtype == np.int16 and np.array_equal(sample.class_map == 1, TARGET)
    assert sample.image.size == (30, 20) and sample.source == "data" and sample.id == "data/1" and sample.box is None


def test_absolute_paths_and_extra_fields(folder):
    line = GOOD | {
        "image": str(folder / "a.png"),
        "mask": str(folder / "mask.png"),
        "author": "me",
        "box": [10, 5, 20, 15.5],
    }
    (sample,) = JsonlDataset(written(folder, line))[0]
    assert not sample.absent and sample.box == (10.0, 5.0, 20.0, 15.5)


def test_an_absent_target_is_background_alone(folder):
    (sample,) = JsonlDataset(written(folder, {"image": "a.png", "query": "a *unicorn*", "absent": True}))[0]
    assert sample.absent and sample.query == "a unicorn" and not sample.class_map.any()
    assert set(sample.grid((4, 4)).ids.ravel().tolist()) == {0}


def test_lines_of_one_photo_share_it(folder):
    b = {"image": "b.png", "query": "a cat", "absent": True}
    dataset = JsonlDataset(
        written(folder, GOOD, b, "", GOOD | {"query": "the dog"}, b | {"image": "./b.png", "query": "a cow"})
    )
    assert len(dataset) == 2
    assert [[sample.query for sample in dataset[i]] for i in range(2)] == [["a dog", "the dog"], ["a cat", "a cow"]]
    first, second = dataset[0]
    assert first.image is second.image and [sample.id for sample in dataset[1]] == ["data/2", "data/5"]
    with pytest.raises(IndexError):
        dataset[2]


def test_draws_are_seeded_and_do_not_repeat_needlessly(folder):
    dataset = JsonlDataset(written(folder, *(GOOD | {"query": f"dog {n}"} for n in range(5))))
    one, same = (dataset.draw(0, np.random.default_rng(3), 4) for _ in range(2))
    assert [sample.query for sample in one] == [sample.query for sample in same]
    assert len({sample.query for sample in one}) == 4 and len({id(sample.image) for sample in one}) == 1
    assert len(dataset.draw(0, np.random.default_rng(3), 9)) == 9


def test_splits(folder):
    lines = [GOOD | {"image": f"{name}.png", "split": split} for name, split in (("a", "train"), ("b", "val"))]
    path = written(folder, *lines, GOOD | {"image": "c.png"})
    names = {
        split: [line[0].image.stem for line in JsonlDataset(path, split).photos] for split in ("train", "val", "all")
    }
    assert names == {"train": ["a", "c"], "val": ["b", "c"], "all": ["a", "b", "c"]}
    assert len(open_dataset(f"jsonl:{path}@val")) == 2 and len(open_dataset(f"jsonl:{path}")) == 2
    with pytest.raises(DataError, match="no line of the split 'test'; its lines are of train, val"):
        JsonlDataset(written(folder, *lines), "test")


def test_a_photo_lying_on_its_side_goes_with_the_upright_mask(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 30)).save(folder / "lying.jpg", exif=exif)
    (sample,) = JsonlDataset(written(folder, GOOD | {"image": "lying.jpg"}))[0]
    assert sample.image.size == (30, 20) and np.array_equal(sample.class_map == 1, TARGET)


def test_a_byte_order_mark_and_windows_line_ends(folder):
    path = written(folder, GOOD, GOOD | {"query": "ein süßer Hund"})
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert [sample.query for sample in JsonlDataset(path)[0]] == ["a dog", "ein süßer Hund"]


def test_the_corpus_can_be_sent_to_another_process(folder):
    dataset = pickle.loads(pickle.dumps(JsonlDataset(written(folder, GOOD))))
    assert len(dataset[0]) == 1


WRONG = [
    # what stands in line 3, the field, what would be right
    ("[1, 2]", "line 3 is no JSON object", "braces"),
    ("{'image': 'a.png'}", "line 3 is no JSON object", "character 2"),
    ('{"image": "a.png", "query": "a dog", "mask"', "line 3 is no JSON object", "one object a line"),
    ("[" * 100_000, "line 3 is nested too deeply", "flat"),
    ({"query": "a dog", "mask": "mask.png"}, 'field "image": it is missing', "path of a file"),
    (GOOD | {"image": 7}, 'field "image": it is 7', "path of a file"),
    (GOOD | {"image": ""}, 'field "image"', "path of a file"),
    (GOOD | {"image": "a\0.png"}, 'field "image"', "path of a file"),
    (GOOD | {"image": "missing.png"}, 'field "image": there is no file', "folder of the dataset file"),
    (GOOD | {"image": "folder"}, 'field "image": there is no file', ""),
    ({"image": "a.png", "mask": "mask.png"}, 'field "query": it is missing', "a phrase"),
    (GOOD | {"query": ["a dog"]}, 'field "query": it is ["a dog"]', "a phrase"),
    (GOOD | {"query": " "}, 'field "query"', "empty"),
    (GOOD | {"query": "others"}, 'field "query"', "reserved"),
    (GOOD | {"query": "x" * 201}, 'field "query": it has 201 characters', "at most 200"),
    ({"image": "a.png", "query": "a dog"}, 'neither "mask" nor "absent"', "give the mask"),
    (GOOD | {"absent": True}, 'both "mask" and "absent"', "give the mask"),
    (GOOD | {"absent": "yes"}, 'field "absent": it is "yes"', "true or left out"),
    (GOOD | {"mask": 5}, 'field "mask": it is 5', "path of a PNG"),
    (GOOD | {"mask": None}, 'field "mask": it is missing', "path of a PNG"),
    (GOOD | {"mask": "missing.png"}, 'field "mask": there is no file', "folder of the dataset file"),
    (GOOD | {"split": 3}, 'field "split": it is 3', '"train"'),
    (GOOD | {"box": [1, 2, 3]}, 'field "box": it is [1, 2, 3]', "x0 < x1"),
    (GOOD | {"box": [9, 2, 3, 4]}, 'field "box"', "x0 < x1"),
    (b"\xff\xfe".decode("latin-1"), "line 3 is not UTF-8", "save the file"),
]


@pytest.mark.parametrize(("line", "where", "right"), WRONG, ids=[case[1] for case in WRONG])
def test_one_wrong_line_among_many_is_named_when_the_file_is_opened(folder, line, where, right):
    path = written(folder, GOOD, GOOD | {"query": "two"}, "LINE", *[GOOD | {"query": f"dog {n}"} for n in range(50)])
    text = line if isinstance(line, str) else json.dumps(line)
    path.write_bytes(path.read_bytes().replace(b"LINE", text.encode("latin-1")))
    with pytest.raises(DataError) as caught:
        JsonlDataset(path)
    said = str(caught.value)
    assert str(path) in said and "line 3" in said and where in said and right in said and len(said) < 500


WRONG_FILES = [
    (GOOD | {"image": "text.png"}, 'field "image": "text.png" is no image file'),
    (GOOD | {"mask": "text.png"}, 'field "mask": "text.png" is no image file'),
    (GOOD | {"mask": "a.png"}, 'field "mask": "a.png" has colours'),
    (GOOD | {"mask": "mask.jpg"}, 'field "mask": "mask.jpg" is no image file'),  # JPEG smears numbers
    (GOOD | {"mask": "empty.png"}, '"absent": true instead'),
    (GOOD | {"mask": "small.png"}, "the mask is 30×10 pixels and its upright photo 30×20"),
    (GOOD | {"mask": [[100, 100, 110, 100, 110, 110]]}, '"absent": true instead'),  # outside the photo
    (GOOD | {"mask": [[1, 2, 3]]}, 'field "mask": The polygon'),
    (GOOD | {"mask": []}, 'field "mask": The segmentation'),
    (GOOD | {"mask": {"size": [30, 20], "counts": [600]}}, 'field "mask": The run lengths have the size'),
    (GOOD | {"mask": {"size": [20, 30], "counts": [5]}}, 'field "mask": The run lengths cover 5'),
]


@pytest.mark.parametrize(("line", "said"), WRONG_FILES)
def test_wrong_files_are_named_when_they_are_asked_for(folder, line, said):
    dataset = JsonlDataset(written(folder, GOOD | {"image": "b.png"}, line))
    assert dataset[0]
    for ask in (lambda: dataset[1], lambda: dataset.draw(1, np.random.default_rng(0), 1)):
        with pytest.raises(DataError) as caught:
            ask()
        assert said in str(caught.value) and "data.jsonl, line 2" in str(caught.value)


def test_files_that_hold_nothing(folder):
    with pytest.raises(DataError, match="no file .*nowhere.jsonl"):
        JsonlDataset(folder / "nowhere.jsonl")
    with pytest.raises(DataError, match="it has no lines"):
        JsonlDataset(written(folder, ""))
