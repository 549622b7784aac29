"""ADE20K-150, Pascal Context-59, VOC-20 and COCO-Stuff, from miniatures in their own folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t4s.eval as evaluation
from t4s.codec import clean_label
from t4s.data.semantic import ADE20K, COCO_STUFF, PC59, VOC20, SemanticDataset
from t4s.data.spec import open_dataset
from t4s.errors import DataError
from t4s.records import IGNORED

SIZE = (6, 8)
WORDS = {"ade20k": ("training", "validation"), "pc59": ("train", "val"), "voc20": ("train", "val"),
         "cocostuff": ("train2017", "val2017")}  # fmt: skip


def columns(*ids: int) -> np.ndarray:
    """A mask with one id in each two columns."""
    return np.repeat(np.array(ids, np.uint8), 2)[None].repeat(SIZE[0], 0)


def write(root: Path, image: str, mask: str, ids: np.ndarray, palette: bool = False) -> None:
    for file in (root / image, root / mask):
        file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE[::-1], (90, 120, 30)).save(root / image)
    picture = Image.fromarray(ids)
    if palette:  # VOC's own masks are palette PNGs: their colours are not their ids
        picture = Image.frombytes("P", picture.size, ids.tobytes())
        picture.putpalette([255 - k for k in range(256) for _ in range(3)])
    picture.save(root / mask)


@pytest.fixture()
def root(tmp_path: Path) -> Path:
    return write_miniature(tmp_path)


def write_miniature(tmp_path: Path) -> Path:
    """All four, two photos in every split, with the ids that each data set uses for void and for its last class."""
    ids = {"ade20k": columns(0, 1, 150, 13), "pc59": columns(0, 1, 59, 12), "voc20": columns(0, 1, 20, 255),
           "cocostuff": columns(255, 0, 181, 12)}  # fmt: skip
    for split in (0, 1):
        for photo in ("b_2", "a_1"):
            w = WORDS["ade20k"][split]
            ade = tmp_path / "ADEChallengeData2016"
            write(ade, f"images/{w}/{photo}.jpg", f"annotations/{w}/{photo}.png", ids["ade20k"])
            w = WORDS["cocostuff"][split]
            coco = tmp_path / "coco_stuff164k"
            write(coco, f"images/{w}/{photo}.jpg", f"stuffthingmaps/{w}/{photo}.png", ids["cocostuff"])
            for name, year, masks, lists in (
                ("pc59", "VOC2010", "SegmentationClassContext", "SegmentationContext"),
                ("voc20", "VOC2012", "SegmentationClass", "Segmentation"),
            ):
                voc = tmp_path / "VOCdevkit" / year
                name_of = f"{WORDS[name][split]}_{photo}"
                write(voc, f"JPEGImages/{name_of}.jpg", f"{masks}/{name_of}.png", ids[name], palette=name == "voc20")
                file = voc / "ImageSets" / lists / f"{WORDS[name][split]}.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text((file.read_text() if file.exists() else "") + name_of + "\n")
    return tmp_path


@pytest.mark.parametrize(
    "name,names,expected",
    [
        ("ade20k", ADE20K, [IGNORED, 1, 150, 13]),
        ("pc59", PC59, [IGNORED, 1, 59, 12]),
        ("voc20", VOC20, [IGNORED, 1, 20, IGNORED]),
        # ids 0 to 181 with gaps: 181 is "wood", the 171st; 12 is id 13, "stop sign", the 12th
        ("cocostuff", COCO_STUFF, [IGNORED, 1, 171, 12]),
    ],
)
def test_each_data_set_in_its_own_folders(root, name, names, expected):
    dataset = open_dataset(f"{name}:{root}@val")
    assert len(dataset) == 2
    (sample,) = dataset[0]
    assert sample.query == names and sample.labels == ("others", *names)
    assert sample.class_map[0, ::2].tolist() == expected
    assert sample.image.size == SIZE[::-1]
    assert len(open_dataset(f"{name}:{root}@train")) == 2


def test_the_order_is_the_lists_or_the_names(root):
    assert SemanticDataset("ade20k", root, "val").photos == ["a_1", "b_2"]
    assert SemanticDataset("voc20", root, "val").photos == ["val_b_2", "val_a_1"]


def test_files_of_macos_are_no_photos_and_endings_may_be_upper_case(root):
    photos = root / "ADEChallengeData2016" / "images" / "validation"
    (photos / "._a_1.jpg").write_bytes(b"\0\5\26\7")
    (photos / "b_2.jpg").rename(photos / "b_2.JPG")
    dataset = SemanticDataset("ade20k", root, "val")
    assert dataset.photos == ["a_1", "b_2"] and all(len(dataset[i]) == 1 for i in range(2))


def test_the_class_tables_are_whole_distinct_and_can_be_asked():
    tables = (ADE20K, PC59, VOC20, COCO_STUFF)
    assert [len(table) for table in tables] == [150, 59, 20, 171]
    for table in tables:
        assert len(set(table)) == len(table)
        assert all(clean_label(name) == name for name in table)
    # anchors: an id that slips by one would show here
    assert ADE20K[12] == "person" and ADE20K[149] == "flag"
    assert PC59[14] == "person" and PC59[15] == "potted plant"
    assert VOC20[14] == "person" and COCO_STUFF[79] == "toothbrush"


def test_coco_stuff_masks_with_training_ids_are_taken_as_such(root):
    coco = root / "coco_stuff164k"
    for photo in ("a_1", "b_2"):
        mask = f"annotations/val2017/{photo}_labelTrainIds.png"
        write(coco, f"images/val2017/{photo}.jpg", mask, columns(0, 11, 170, 255))
    (sample,) = open_dataset(f"cocostuff:{coco}@val")[0]
    assert sample.class_map[0, ::2].tolist() == [1, 12, 171, IGNORED]


def test_training_questions_are_true_and_repeatable(root):
    dataset = open_dataset(f"ade20k:{root}@train")
    drawn = dataset.draw(0, np.random.default_rng(3), 200)
    kinds = {"list": 0, "absent": 0, "present": 0}
    truth = dataset[0][0].class_map
    for sample in drawn:
        assert sample.image is drawn[0].image
        assert ((sample.class_map == IGNORED) == (truth == IGNORED)).all()
        if isinstance(sample.query, tuple):
            kinds["list"] += 1
            for k, name in enumerate(sample.query, 1):
                assert ((sample.class_map == k) == (truth == ADE20K.index(name) + 1)).all()
        else:
            kinds["absent" if sample.absent else "present"] += 1
    assert min(kinds.values()) > 20
    assert [s.query for s in dataset.draw(0, np.random.default_rng(3), 200)] == [s.query for s in drawn]


@pytest.mark.parametrize("name", ["ade20k", "pc59", "voc20", "cocostuff"])
@pytest.mark.parametrize("mode,least", [("mask", 100), ("grid", 40)])
def test_the_evaluation_runs_end_to_end(root, tmp_path, name, mode, least):
    """`python t4s/eval.py --dataset ade20k:PATH@val`: the whole class table in one question, void left out."""
    out, saved = tmp_path / "out", tmp_path / "saved"
    arguments = ["--dataset", f"{name}:{root}@val", "--oracle", mode, "--refine", "none", "--grid", "6", "8"]
    assert evaluation.main([*arguments, "--out", str(out), "--save", str(saved)]) == 0
    results = json.loads((out / "results.json").read_text())
    lists = results["lists"]
    assert lists["photos"] == 2 and lists["strict"]["miou"] >= least
    assert lists["others"]["miou"] == 0
    assert sum(own["strict"] is not None for own in lists["classes"].values()) in (2, 3)
    (line, _) = map(json.loads, (saved / "predictions.jsonl").read_text().splitlines())
    assert len(line["masks"]) in (2, 3)


def test_a_list_can_be_asked_in_parts(root, tmp_path, segmenter, monkeypatch):
    """`--classes-per-query` on the embedded checkpoint: fewer names a question, the same photos and classes."""
    asked: list[int] = []
    question = segmenter.vlm.question
    monkeypatch.setattr(segmenter.vlm, "question", lambda query: asked.append(len(query)) or question(query))
    monkeypatch.setattr("t4s.segmenter.segmenter.Segmenter.from_pretrained", lambda *arguments, **named: segmenter)
    arguments = [
        "--dataset",
        f"voc20:{root}@val",
        "--refine",
        "none",
        "--classes-per-query",
        "7",
        "--out",
        str(tmp_path / "out"),
    ]
    assert evaluation.main(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (
        results["lists"]["photos"] == 2 and results["invalid"] == [] and results["settings"]["classes_per_query"] == 7
    )
    assert asked.count(7) == 4 and 20 not in asked  # two photos, 20 names as 7, 6 and 7


@pytest.mark.parametrize(
    "spec,says",
    [
        ("ade20k:ROOT@test", "no split 'test'; its splits are train, val"),
        ("ade20k:ROOT/nowhere@val", "no folder images/validation.*sceneparsing"),
        ("voc20:ROOT/ADEChallengeData2016@val", "no folder JPEGImages.*VOC2012.*VOCtrainval"),
    ],
)
def test_wrong_splits_and_folders_are_named(root, spec, says):
    with pytest.raises(DataError, match=says):
        open_dataset(spec.replace("ROOT", str(root)))


def test_missing_lists_and_masks_are_named_with_where_to_get_them(root):
    voc = root / "VOCdevkit" / "VOC2012"
    (voc / "SegmentationClass" / "val_a_1.png").unlink()
    dataset = open_dataset(f"voc20:{root}@val")
    with pytest.raises(DataError, match="val_a_1.png is not there, but .* has the photo val_a_1"):
        dataset[1]
    (voc / "ImageSets" / "Segmentation" / "val.txt").unlink()
    with pytest.raises(DataError, match="val.txt is not there: it lists the photos"):
        open_dataset(f"voc20:{root}@val")
    for file in (voc / "SegmentationClass").iterdir():
        file.unlink()
    with pytest.raises(DataError, match="has no masks SegmentationClass/X.png; get them"):
        open_dataset(f"voc20:{root}@val")


@pytest.mark.parametrize(
    "content,says",
    [
        (Image.fromarray(columns(1, 2, 3, 151)), "holds the id 151, which is not in the table of 150"),
        (Image.new("L", (3, 3), 1), "is 3×3 pixels, its photo 8×6"),
        (Image.new("RGB", SIZE[::-1]), "mode RGB, not a mask"),
        (b"\x89PNG\r\n\x1a\nrubbish", "is not a whole PNG"),
        (b"", "is not a whole PNG"),
    ],
)
def test_masks_that_are_none_are_named(root, content, says):
    path = root / "ADEChallengeData2016" / "annotations" / "validation" / "a_1.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        content.save(path)
    with pytest.raises(DataError, match=says):
        open_dataset(f"ade20k:{root}@val")[0]
