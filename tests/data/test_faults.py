"""Small broken data sets, one fault each, as tools and people make them: `t4s check` names every one."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t4s import check
from t4s.imaging import export

SIZE = (30, 20)  # width, height of every photo
TARGET = np.zeros(SIZE[::-1], bool)
TARGET[5:15, 10:20] = True
SQUARE = [10, 5, 20, 5, 20, 15, 10, 15]
LINE = {"image": "a.png", "query": "a dog", "mask": "mask.png"}
ROW = {"image": "a.png", "mask": "mask.png", "source": "x", "split": "train", "classes": {"255": "dog"}}


def photo(file: Path, orientation: int = 1, size: tuple[int, int] = SIZE) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", size, "grey").save(file, exif=exif)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photos and a mask. Every data set below is in order but for its one fault."""
    photo(tmp_path / "a.png")
    photo(tmp_path / "b.png")
    (tmp_path / "mask.png").write_bytes(export.mask_png(TARGET))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jsonl(*lines: dict[str, Any], encoding: str = "utf-8") -> Callable[[Path], str]:
    """A jsonl file with a good line, about b.png, and these."""

    def write(folder: Path) -> str:
        good = LINE | {"image": "b.png"}
        if any("split" in line for line in lines):
            good["split"] = "train"
        rows = [json.dumps(row, ensure_ascii=False) for row in (good, *lines)]
        (folder / "data.jsonl").write_bytes("\n".join(rows).encode(encoding))
        return "data.jsonl"

    return write


def index(**changes: Any) -> Callable[[Path], str]:
    """A folder with a good photo and one that differs from it."""

    def write(folder: Path) -> str:
        rows = [ROW | {"image": "b.png"}, {key: value for key, value in (ROW | changes).items() if value is not ...}]
        (folder / "index.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return "."

    return write


def coco(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], str]:
    """A COCO file of two photos with a dog each and, on one, a cat; and a change to it."""

    def write(folder: Path) -> str:
        data = {
            "images": [
                {"id": number, "file_name": f"{name}.png", "width": SIZE[0], "height": SIZE[1]}
                for number, name in enumerate("ab", 1)
            ],
            "categories": [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}],
            "annotations": [
                {
                    "id": 10 + number,
                    "image_id": image,
                    "category_id": category,
                    "segmentation": [SQUARE],
                    "bbox": [0] * 4,
                }
                for number, (image, category) in enumerate([(1, 1), (2, 1), (1, 2)])
            ],
        }
        change(data)
        (folder / "instances.json").write_text(json.dumps(data))
        return "instances.json"

    return write


def entry(table: str, number: int, **values: Any) -> Callable[[Path], str]:
    """One entry of the COCO file with other values."""
    return coco(lambda data: data[table][number].update(values))


def drawn(segmentation: Any) -> Callable[[Path], str]:
    """The cat's annotation, number 12, with another segmentation."""
    return entry("annotations", 2, segmentation=segmentation)


def category(name: Any) -> Callable[[Path], str]:
    return entry("categories", 1, name=name)


def also(write: Callable[[Path], str], prepare: Callable[[Path], Any]) -> Callable[[Path], str]:
    """The same data set, with another file changed first."""

    def both(folder: Path) -> str:
        prepare(folder)
        return write(folder)

    return both


def boxes_only(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        annotation["segmentation"] = []
        annotation["bbox"] = [1, 2, 3, 4]


# What is broken, how it is made, and what `t4s check` has to say about it, all of it in one line.
FAULTS: list[tuple[str, Callable[[Path], str], tuple[str, ...]]] = [
    # COCO: annotations that draw nothing were taught as absent
    ("polygon outside the photo", drawn([[90, 90, 99, 90, 99, 99]]), ("annotation 12", "outside its photo")),
    ("normalised coordinates", drawn([[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]), ("annotation 12", "between 0 and 1")),
    ("empty segmentation", drawn([]), ("annotation 12", "segmentation is []")),
    ("no segmentation", drawn(None), ("annotation 12", "segmentation is None")),
    ("two points", drawn([[1, 2, 3, 4]]), ("annotation 12", "three or more points")),
    ("one part of two", drawn([SQUARE, [1, 2, 3, 4]]), ("annotation 12", "three or more points")),
    ("a polygon of no width", drawn([[3, 3, 9, 3, 6, 3]]), ("annotation 12", "too thin")),
    ("a resized photo", drawn([[10, 5, 90, 5, 90, 15]]), ("annotation 12", "was the photo resized?")),
    ("run lengths of another photo", drawn({"size": [9, 9], "counts": [81]}), ("annotation 12", "the size [9, 9]")),
    ("run lengths of nothing", drawn({"size": [20, 30], "counts": [600]}), ("annotation 12", "all background")),
    ("boxes only", coco(boxes_only), ("3 boxes and no outlines", "a box is no mask")),
    # COCO: ids and names
    ("two images of one id", entry("images", 1, id=1), ("several images have the id 1",)),
    ("one photo twice", entry("images", 1, file_name="a.png"), ("images 1 and 2 are all a.png",)),
    ("two categories of one id", entry("categories", 1, id=1), ("several categories have the id 1",)),
    ("category others", category("Others"), ("category 2", "reserved for the background")),
    ("category without a name", category(" "), ("category 2", "is empty")),
    ("category of marks", category("***"), ("category 2", "is empty")),
    ("category null", category(None), ("category 2", "a name is a text")),
    ("categories that differ in case", category("Dog"), ('1 ("dog") and 2 ("Dog") differ only in case',)),
    ("a category that is not there", entry("annotations", 2, category_id=9), ("annotation 12", "lacks")),
    ("an image that is not there", entry("annotations", 2, image_id=9), ("annotation 12", "lacks")),
    ("a size of words", entry("images", 0, width="wide"), ("image 1", 'the size "wide"×20')),
    ("another photo", entry("images", 0, width=60), ("a.png is 30×20", "says 60×20")),
    ("a photo that is not there", entry("images", 0, file_name="z.png"), ("photo z.png", "not in")),
    # files
    ("utf-16", jsonl(encoding="utf-16"), ("line 1", "UTF-16", "iconv")),
    ("latin-1", jsonl(LINE | {"query": "süßer Hund"}, encoding="latin-1"), ("line 2", "Windows-1252", "süßer Hund")),
    ("broken photo", also(jsonl(LINE), lambda f: (f / "a.png").write_bytes(b"\x89PNG\r\n")), ("line 2", '"a.png" is')),
    # lines
    ("an unknown split", jsonl(LINE | {"split": "valid"}), ('split "valid"', 'probably "val" was meant')),
    ("another word for query", jsonl({"image": "a.png", "phrase": "x", "absent": True}), ('"phrase"', '"query" was')),
    ("a misspelt field", jsonl(LINE | {"splitt": "val"}), ('field "splitt" is not read', '"split" was meant')),
    ("a line twice", jsonl(LINE, LINE), ("line 3", "as line 2 does")),
    ("a photo in two splits", jsonl(LINE | {"split": "val"}, LINE | {"query": "x", "split": "train"}),
     ("a.png is in the splits train and val",)),
    ("an empty mask", jsonl(LINE | {"mask": {"size": [20, 30], "counts": [600]}}), ("line 2", "the mask is empty")),
    ("a line's polygon outside", jsonl(LINE | {"mask": [SQUARE, [90, 90, 99, 90, 99, 99]]}), ("line 2", "outside")),
    ("a line's normalised polygon", jsonl(LINE | {"mask": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]]}), ("line 2", "0 and 1")),
    ("a rotated photo", also(jsonl(LINE), lambda f: photo(f / "a.png", 6)), ("line 2", "EXIF rotation")),
    # folders of indexed masks
    ("a class that the mask lacks", index(classes={"255": "dog", "7": "cat"}), ('no pixel of 7 ("cat")', "0, 255")),
    ("classes that differ in case", index(classes={"255": "Dog"}), ('"dog"', '"Dog"', "differ only in case")),
    ("class others", index(classes={"255": "others"}), ("line 2: class 255", "reserved for the background")),
    ("another word for classes", index(classes=..., **{"class": {"255": "dog"}}), ("line 2", '"classes" was meant')),
    ("a misspelt field of a row", index(ignored=[255]), ("line 2", "ignored", '"ignore" was meant')),
    ("a split that nothing reads", index(split="validation"), ('split "validation"', 'probably "val" was meant')),
]  # fmt: skip


@pytest.mark.parametrize(("write", "words"), [case[1:] for case in FAULTS], ids=[case[0] for case in FAULTS])
def test_every_fault_is_named(folder, capsys, write, words):
    data = write(folder)
    code = check.main([data])
    printed = capsys.readouterr()
    reported = printed.out.partition("problems ")[2].splitlines() + printed.err.splitlines()
    assert code in (1, 2)
    assert [line for line in reported if all(word in line for word in words)], printed.out + printed.err


@pytest.mark.parametrize("write", [jsonl(LINE), index(), coco(lambda data: None)], ids=["jsonl", "folder", "coco"])
def test_the_same_data_sets_without_a_fault_are_in_order(folder, capsys, write):
    assert check.main([write(folder)]) == 0
    assert "problems  none" in capsys.readouterr().out


# Files as tools write them, which are in order.
LAYOUTS: list[tuple[str, str, str, str]] = [
    # what, file_name in the COCO file, the photo on disk, the COCO file on disk
    ("COCO", "a.png", "train2017/a.png", "annotations/instances_train2017.json"),
    ("COCO below images", "a.png", "images/val2017/a.png", "annotations/instances_val2017.json"),
    ("CVAT", "a.png", "images/Train/a.png", "annotations/instances_Train.json"),
    ("CVAT, its own name", "a.png", "images/default/a.png", "annotations/instances_default.json"),
    ("CVAT, any name", "a.png", "images/Train/a.png", "annotations/boxes.json"),
    ("a folder in the name", "Train/a.png", "images/Train/a.png", "annotations/instances.json"),
    ("backslashes", "images\\a.png", "images/a.png", "instances.json"),
    ("a path of another machine", "C:\\Users\\me\\photos\\a.png", "images/a.png", "instances.json"),
    ("percent-encoded", "my%20photo.png", "my photo.png", "instances.json"),
    ("composed and decomposed", "caf\u00e9.png", unicodedata.normalize("NFD", "caf\u00e9.png"), "instances.json"),
    ("upper case", "a.png", "A.PNG", "instances.json"),
]


@pytest.mark.parametrize(
    ("name", "file", "json_file"), [case[1:] for case in LAYOUTS], ids=[case[0] for case in LAYOUTS]
)
def test_photos_are_found_in_the_layouts_of_tools(tmp_path, monkeypatch, capsys, name, file, json_file):
    for path in (tmp_path / file, tmp_path / json_file):
        path.parent.mkdir(parents=True, exist_ok=True)
    photo(tmp_path / file)
    (tmp_path / file).with_name("._a.png").write_bytes(b"\0\5\26\7")  # macOS
    data = {
        "images": [{"id": 1, "file_name": name, "width": SIZE[0], "height": SIZE[1]}],
        "categories": [{"id": 1, "name": "dog"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE]}],
    }
    (tmp_path / json_file).write_text(json.dumps(data), encoding="utf-8-sig")
    monkeypatch.chdir(tmp_path)
    assert check.main([json_file]) == 0, capsys.readouterr().out


def test_exif_orientation_and_how_masks_were_read_are_noted(folder, capsys):
    """A mask drawn on the stored pixels of a photo that is shown mirrored has the right size: only a note can tell."""
    photo(folder / "a.png", 3)
    for write in (jsonl(LINE), index(), coco(lambda data: None)):
        assert check.main([write(folder)]) == 0
        printed = capsys.readouterr().out
        assert "notes     1" in printed and "a.png is stored rotated by 180° (EXIF orientation)" in printed
    soft = np.where(TARGET, 255, 0).astype(np.uint8)
    soft[5:15, 9], soft[5:15, 20] = 100, 150
    Image.fromarray(soft).save(folder / "soft.png")
    assert check.main([jsonl(LINE | {"image": "b.png", "query": "x", "mask": "soft.png"})(folder)]) == 0
    assert "line 2" in (said := capsys.readouterr().out) and "notes     1" in said
