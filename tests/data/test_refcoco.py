"""RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO, from miniatures written in exactly their files' formats."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t4s.eval as evaluation
from t4s.data.refcoco import UNASKABLE, RefCocoDataset, read_pickle
from t4s.data.spec import open_dataset
from t4s.errors import DataError
from tests.support.refcoco_files import SIZE, UNC, python2_pickle, ref, write_miniature


@pytest.fixture()
def root(tmp_path: Path) -> Path:
    return write_miniature(tmp_path)


def square(y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


def test_every_sentence_is_a_sample_with_the_official_box(root):
    dataset = open_dataset(f"refcoco:{root}@val")
    assert len(dataset) == 1
    samples = dataset[0]
    assert [s.query for s in samples] == ["the crowd", "others", "* | *"]
    first = samples[0]
    assert first.id == "refcoco/25/3/30"
    assert first.labels == ("others", "the crowd")
    assert first.box == (4.0, 4.0, 20.5, 20.0)  # x, y, w, h of the annotation, not around the mask
    np.testing.assert_array_equal(first.class_map == 1, square(0, 10, 30, 12))  # an uncompressed `iscrowd` RLE
    assert all(s.image is first.image for s in samples)


def test_sentences_that_cannot_be_asked_are_still_scored(root):
    """Dropping "others" or "* | *" from the validation set would better the score without a word."""
    assert [s.labels[1] for s in RefCocoDataset("refcoco", root, "val")[0]] == ["the crowd", UNASKABLE, UNASKABLE]


def test_parts_that_overlap_are_united(root):
    (root / "refcocog" / "refs(umd).p").write_bytes(python2_pickle([ref(1, 9, 2, "val", "both")]))
    mask = open_dataset(f"refcocog:{root}@val")[0][0].class_map == 1
    np.testing.assert_array_equal(mask, square(4, 4, 20, 20) | square(12, 12, 28, 28))


def test_several_targets_and_none(root):
    samples = [s for i in range(2) for s in open_dataset(f"grefcoco:{root}@val")[i]]
    assert [s.query for s in samples] == ["everything dark", "the zebra"]
    assert samples[0].class_map.sum() == (square(4, 4, 20, 20) | square(12, 12, 28, 28)).sum()
    assert samples[1].absent
    assert [s.box for s in samples] == [None, None]


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog", "grefcoco"])
def test_each_name_opens_from_the_folder_above_and_from_its_own(root, name):
    above, own = open_dataset(f"{name}:{root}@val"), open_dataset(f"{name}:{root / name}@val")
    assert [s.id for s in above[0]] == [s.id for s in own[0]]


def test_training_photos_are_in_no_validation_or_test_split_of_the_family(root):
    """RefCOCOg's training photos are partly RefCOCO's test photos: 25 is RefCOCO val, 36 testB, 9 RefCOCOg val."""
    with pytest.raises(DataError, match="no photo in the split 'train'"):
        open_dataset(f"refcocog:{root}@train")
    assert RefCocoDataset("refcocog", root, "train").held_back == 2
    (root / "grefcoco" / "grefs(unc).json").write_text(json.dumps([ref(1, 30, [-1], "val", "x")]))
    (root / "refcocog" / "refs(umd).p").write_bytes(python2_pickle([ref(2, 30, 4, "val", "man")]))
    dataset = open_dataset(f"refcoco:{root}@train")
    assert [photo.id for photo in dataset.photos] == [9]


def test_a_family_that_is_not_all_there_is_named(root):
    """A photo can only be held back if the file that holds it back is there: say so, train on."""
    for name in ("refcocog", "grefcoco"):
        for file in (root / name).iterdir():
            file.unlink()
    with pytest.warns(UserWarning, match="may contain evaluation photos of refcocog, grefcoco"):
        dataset = open_dataset(f"refcoco:{root}@train")
    drawn = dataset.draw(0, np.random.default_rng(0), 5)
    assert {s.query for s in drawn} == {"left dog", "dog on the left", "both dogs"}
    assert len({id(s.image) for s in drawn}) == 1
    assert len({s.id for s in dataset.draw(0, np.random.default_rng(1), 3)}) == 3  # no sentence twice while others wait
    again = dataset.draw(0, np.random.default_rng(0), 5)
    assert [s.id for s in drawn] == [s.id for s in again]


def test_python_2_bytes_are_read_as_utf_8():
    """Its str were bytes: some sentences are UTF-8, and one odd byte must not cost the whole data set."""
    payload = rb"(lp0" + b"\n" + rb"S'caf\xc3\xa9'" + b"\np1\na" + rb"S'caf\xe9'" + b"\np2\na."
    assert read_pickle(io.BytesIO(payload)) == ["caf\u00e9", "caf\ufffd"]


class _Shell:
    def __reduce__(self):
        return os.system, ("touch /tmp/t4s-was-here",)


@pytest.mark.parametrize(
    "payload",
    [
        pickle.dumps(_Shell()),
        pickle.dumps(_Shell(), protocol=0),
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"(dS'a'\ncnumpy\nndarray\ns.",
        pickle.dumps(Path("x")),
    ],
)
def test_a_pickle_that_asks_for_code_runs_nothing(root, payload, monkeypatch):
    monkeypatch.setattr(os, "system", lambda _: pytest.fail("code ran out of a data file"))
    with pytest.raises(pickle.UnpicklingError, match="asks for"):
        read_pickle(io.BytesIO(payload))
    (root / "refcoco" / "refs(unc).p").write_bytes(payload)
    with pytest.raises(DataError, match=r"refs\(unc\).p cannot be read.*asks for"):
        open_dataset(f"refcoco:{root}@val")


def test_damaged_pickles_are_data_errors_whatever_they_end_in(root):
    """Cut at any byte, or with any byte changed: never another exception, never a crash."""
    whole = python2_pickle(UNC[:2])
    path = root / "refcoco" / "refs(unc).p"
    rng = np.random.default_rng(0)
    damaged = [whole[:n] for n in range(0, len(whole), 23)]
    for _ in range(150):
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] = rng.integers(256)
        damaged.append(bytes(changed))
    for content in damaged:
        path.write_bytes(content)
        try:
            RefCocoDataset("refcoco", root, "val")
        except DataError as error:
            assert "refs(unc).p" in str(error) or "split" in str(error) or "instances.json" in str(error)


def _break(path: Path, content: str | None) -> None:
    path.unlink() if content is None else path.write_text(content)


@pytest.mark.parametrize(
    "spec,file,content,says",
    [
        # a split of another data set, a name with a typo
        ("refcocog:ROOT@testA", None, None, "no split 'testA'; its splits are train, val, test"),
        ("refcoco:ROOT@test", None, None, "its splits are train, val, testA, testB"),
        # what is missing is named with where to get it
        ("refcoco:ROOT/nowhere@val", None, None, "no folder 'refcoco'.*github.com/lichengunc/refer"),
        ("grefcoco:ROOT@val", "grefcoco/grefs(unc).json", None, "grefs.*is not there.*henghuiding/gRefCOCO"),
        ("refcoco:ROOT@val", "refcoco/instances.json", None, "instances.json is not there"),
        # cut off, or something else
        ("grefcoco:ROOT@val", "grefcoco/grefs(unc).json", '[{"ref_id": 1, "an', "not whole JSON.*character"),
        ("refcoco:ROOT@val", "refcoco/instances.json", '{"images": [', "not whole JSON"),
        ("refcoco:ROOT@val", "refcoco/instances.json", '{"images": []}', "not a COCO instances file"),
        ("grefcoco:ROOT@val", "grefcoco/grefs(unc).json", '{"refs": []}', "holds dict, not a list"),
        ("grefcoco:ROOT@val", "grefcoco/grefs(unc).json", '[{"ref_id": 1}]', "ref number 0 is not a ref"),
        # the two files do not belong together
        ("refcoco:ROOT@val", "refcoco/instances.json", '{"images": [], "annotations": []}', "has no image 25"),
    ],
)
def test_bad_input_is_named_with_what_to_do(root, spec, file, content, says):
    if file:
        _break(root / file, content)
    with pytest.raises(DataError, match=says):
        open_dataset(spec.replace("ROOT", str(root)))


def test_an_annotation_of_another_photo_is_refused(root):
    path = root / "refcoco" / "instances.json"
    data = json.loads(path.read_text())
    data["annotations"][2]["image_id"] = 9
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="no annotation 3 on image 25"):
        open_dataset(f"refcoco:{root}@val")


def test_photos_that_are_missing_or_of_another_size_are_named(root):
    path = root / "images" / "train2014" / "COCO_train2014_000000000025.jpg"
    dataset = open_dataset(f"refcoco:{root}@val")
    Image.new("RGB", (10, 10)).save(path)
    with pytest.raises(DataError, match="is 10×10 pixels, instances.json says 40×30"):
        dataset[0]
    path.unlink()
    with pytest.raises(DataError, match="is in none of images/train2014.*train2014.zip"):
        dataset[0]


@pytest.mark.parametrize("name", ["refcoco", "refcoco+", "refcocog", "grefcoco"])
@pytest.mark.parametrize("split", ["val", "testA"])
def test_the_evaluation_runs_end_to_end(root, tmp_path, name, split):
    """`python t4s/eval.py --dataset refcoco:PATH@val`: true masks against true masks, and the official boxes."""
    split = "test" if (name, split) == ("refcocog", "testA") else split
    out, saved = tmp_path / "out", tmp_path / "saved"
    arguments = ["--dataset", f"{name}:{root}@{split}", "--oracle", "mask", "--out", str(out), "--save", str(saved)]
    assert evaluation.main(arguments) == 0
    results = json.loads((out / "results.json").read_text())
    figures = results["phrases"]["strict"]
    assert figures["giou"] == 100 and figures["n_accuracy"] in (100, None)
    assert figures["box_accuracy"] == (None if name == "grefcoco" else 100)
    lines = (saved / "predictions.jsonl").read_text().splitlines()
    assert len(lines) == results["phrases"]["phrases"] > 0


def test_a_broken_segmentation_names_its_annotation(root):
    path = root / "refcoco" / "instances.json"
    data = json.loads(path.read_text())
    data["annotations"][2]["segmentation"]["counts"] = [1, 2, 3]
    path.write_text(json.dumps(data))
    with pytest.raises(DataError, match="Annotation 3 of refcoco/instances.json: The run lengths cover 6 pixels"):
        open_dataset(f"refcoco:{root}@val")[0]
