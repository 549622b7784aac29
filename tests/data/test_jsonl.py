"""Your own data: every form of mask, and every way to get a line wrong, reported with file, line and field."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t4s import DataError
from t4s.data.jsonl import JsonlDataset
from t4s.data.spec import Mixture, open_dataset
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
        "mask.jpg",  # thresholded: JPEG blurs 255 and 0
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


def photos_in(path: Path, split: str, **options) -> list[str]:
    return [lines[0].image.stem for lines in JsonlDataset(path, split, **options).photos]


def test_a_line_without_split_is_for_training_as_soon_as_any_line_names_one(folder):
    """It belonged to every split: a model was validated on photos that it had been trained on."""
    lines = [GOOD | {"image": f"{name}.png", "split": split} for name, split in (("a", "train"), ("b", "val"))]
    path = written(folder, *lines, GOOD | {"image": "c.png"})
    names = {split: photos_in(path, split) for split in ("train", "val", "all")}
    assert names == {"train": ["a", "c"], "val": ["b"], "all": ["a", "b", "c"]}
    assert len(open_dataset(f"jsonl:{path}@val")) == 1 and len(open_dataset(f"jsonl:{path}")) == 2
    with pytest.raises(DataError, match="no line of the split 'test'; its lines are of train, val"):
        JsonlDataset(written(folder, *lines), "test")


def many(folder: Path, count: int) -> Path:
    """A file of that many photos, two lines each, in which no line names a split."""
    for number in range(count):
        (folder / f"{number}.png").write_bytes((folder / "a.png").read_bytes())
    lines = [
        GOOD | {"image": f"{number}.png", "query": query} for query in ("a dog", "dogs") for number in range(count)
    ]
    return written(folder, *lines)


def test_without_splits_a_share_of_the_photos_is_held_out_when_a_file_is_on_both_sides(folder):
    """The README's own commands validated on what they trained on, and published that figure."""
    path = many(folder, 60)
    spec = f"jsonl:{path}"
    with pytest.warns(UserWarning, match=r"No line of .* names a split: \d+ of its 60 photos are held out") as said:
        training = Mixture.open([spec], other_side=[spec])
        validation = open_dataset(spec, "val", other_side=[spec])
    assert len(said) == 2
    sides = [{lines[0].image.name for lines in side.photos} for side in (training.datasets[0], validation)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 60 and 2 <= len(sides[1]) <= 12
    assert all(len(lines) == 2 for lines in validation.photos)
    more = many(folder, 90)  # photos stay on their side when others are added
    assert sides[1] <= {f"{name}.png" for name in photos_in(more, "val", hold_out=True)}


def test_a_share_is_held_out_by_name_of_the_split_and_otherwise_everything_is_used(folder):
    path = many(folder, 20)
    with pytest.warns(UserWarning, match="held out"):
        assert len(open_dataset(f"jsonl:{path}@train")) + len(open_dataset(f"jsonl:{path}@val")) == 20
    assert len(open_dataset(f"jsonl:{path}")) == len(open_dataset(f"jsonl:{path}@all")) == 20
    with pytest.warns(
        UserWarning, match="all 20 photos are used, also those that a checkpoint may have been trained on"
    ):
        assert len(open_dataset(f"jsonl:{path}", "val")) == 20
    with pytest.raises(DataError, match='only "train" and "val" can be made from it, not \'test\''):
        open_dataset(f"jsonl:{path}@test")
    with pytest.raises(DataError, match="of its only photo nothing can be held out"):
        JsonlDataset(written(folder, GOOD), "val", hold_out=True)


def test_one_photo_under_two_names_is_on_one_side(folder):
    (folder / "link").symlink_to(folder)
    names = ["a.png", "./a.png", "link/a.png", str(folder / "a.png"), "b.png"]
    path = written(folder, *[GOOD | {"image": name, "query": f"dog {number}"} for number, name in enumerate(names)])
    assert len(JsonlDataset(path)) == 2
    counts = {
        split: [len(lines) for lines in JsonlDataset(path, split, hold_out=True).photos] for split in ("train", "val")
    }
    assert sorted([*counts["train"], *counts["val"]]) == [1, 4]


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


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_another_encoding_is_named_with_the_fix(folder, encoding):
    """Excel and PowerShell write UTF-16: it was "damaged"."""
    path = written(folder, GOOD)
    path.write_bytes(path.read_text().encode(encoding))
    with pytest.raises(
        DataError, match=f"line 1 is not UTF-8 but {encoding[:6].upper()}.*iconv -f {encoding[:6].upper()}"
    ):
        JsonlDataset(path)


def test_latin_1_is_named_with_its_line_and_word(folder):
    path = written(folder, GOOD, json.dumps(GOOD | {"query": "süßer Hund"}, ensure_ascii=False))
    path.write_bytes(path.read_text().encode("latin-1"))
    with pytest.raises(DataError, match="line 2 is not UTF-8 at byte .* Windows-1252 or Latin-1 .*süßer Hu.*iconv"):
        JsonlDataset(path)


def test_lines_end_at_a_line_feed_alone(folder):
    """`str.splitlines` also splits at U+2028, U+2029, U+0085 and others, which JSON may hold unescaped."""
    for character in "\u2028\u2029\x85":
        line = json.dumps(GOOD | {"query": f"a dog{character}on a mat"}, ensure_ascii=False)
        (sample,) = JsonlDataset(written(folder, line))[0]
        assert sample.query == "a dog on a mat"


@pytest.mark.parametrize(
    ("written_as", "on_disk"),
    [
        ("images\\a 1.png", "images/a 1.png"),
        ("images/a%201.png", "images/a 1.png"),
        ("images%2Fa%201.png", "images/a 1.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("photo.png", "photo.PNG"),
        ("Images/Photo.PNG", "images/photo.png"),
        ("100%.png", "100%.png"),
    ],
)
def test_files_are_found_as_tools_and_systems_write_their_names(folder, written_as, on_disk):
    file = folder / on_disk
    file.parent.mkdir(exist_ok=True)
    file.write_bytes((folder / "a.png").read_bytes())
    (folder / "photo.gif").write_bytes(b"")
    assert JsonlDataset(written(folder, GOOD | {"image": written_as})).photos[0][0].image == file


def test_ignoring_case_finds_a_file_only_if_one_fits(folder):
    for name in ("Photo.png", "photo.PNG"):
        (folder / name).write_bytes((folder / "a.png").read_bytes())
    with pytest.raises(DataError, match="there is no file"):
        JsonlDataset(written(folder, GOOD | {"image": "photo.png"}))


def test_a_field_of_another_name_is_named_with_the_one_that_was_meant(folder):
    line = {"image": "a.png", "phrase": "a dog", "mask": "mask.png"}
    with pytest.raises(DataError, match='field "query": it is missing.* field "phrase"; probably "query" was meant'):
        JsonlDataset(written(folder, line))
    (sample,) = JsonlDataset(written(folder, GOOD | {"label": "animal", "author": "me"}))[0]
    assert sample.query == "a dog"


def test_the_dataset_can_be_sent_to_another_process(folder):
    dataset = pickle.loads(pickle.dumps(JsonlDataset(written(folder, GOOD))))
    assert len(dataset[0]) == 1


WRONG = [
    # what stands in line 3, the field, what would be right
    ("[1, 2]", "line 3 is not a JSON object", "braces"),
    ("{'image': 'a.png'}", "line 3 is not a JSON object", "character 2"),
    ('{"image": "a.png", "query": "a dog", "mask"', "line 3 is not a JSON object", "one object a line"),
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
    (b"\xff\xfe".decode("latin-1"), "line 3 is not UTF-8", "Save the file"),
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
    (GOOD | {"image": "text.png"}, 'field "image": "text.png" is not a readable image file'),
    (GOOD | {"mask": "text.png"}, 'field "mask": "text.png" is not a readable image file'),
    (GOOD | {"mask": "a.png"}, 'field "mask": "a.png" looks like a photo'),
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
