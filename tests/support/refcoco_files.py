"""Miniatures of RefCOCO, RefCOCO+, RefCOCOg and gRefCOCO, written in exactly their files' formats."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SIZE = (30, 40)  # h, w of every miniature photo
SQUARE = [4.0, 4.0, 20.0, 4.0, 20.0, 20.0, 4.0, 20.0]
SHIFTED = [12.0, 12.0, 28.0, 12.0, 28.0, 28.0, 12.0, 28.0]


class _Python2Pickler(pickle._Pickler):
    """Writes str as Python 2 did: the real files were pickled there."""

    dispatch = pickle._Pickler.dispatch.copy()

    def save_str(self, text: str) -> None:
        self.write(b"S" + repr(text).encode() + b"\n")
        self.memoize(text)

    dispatch[str] = save_str


def python2_pickle(data) -> bytes:
    file = io.BytesIO()
    _Python2Pickler(file, protocol=0).dump(data)
    return file.getvalue()


def annotation(number: int, image: int, segmentation, crowd: int = 0) -> dict:
    return {"id": number, "image_id": image, "category_id": 18, "iscrowd": crowd, "area": 256.0,
            "bbox": [4.0, 4.0, 16.5, 16.0], "segmentation": segmentation}  # fmt: skip


ANNOTATIONS = [
    annotation(1, 9, [SQUARE]),
    annotation(2, 9, [SQUARE, SHIFTED]),  # parts that overlap
    annotation(3, 25, {"size": list(SIZE), "counts": [300, 60, 840]}, crowd=1),
    annotation(4, 30, {"size": list(SIZE), "counts": "\\9Q1b;"}),  # packed below
    annotation(5, 36, [SHIFTED]),
]


def ref(number: int, image: int, targets, split: str, *sentences: str) -> dict:
    return {
        "ref_id": number, "ann_id": targets, "category_id": 18, "image_id": image, "split": split,
        "file_name": f"COCO_train2014_{image:012d}_{number}.jpg", "sent_ids": list(range(len(sentences))),
        "sentences": [{"sent_id": 10 * number + k, "sent": s, "raw": s.title(), "tokens": s.split()}
                      for k, s in enumerate(sentences)],
    }  # fmt: skip


UNC = [
    ref(1, 9, 1, "train", "left dog", "dog on the left"),
    ref(2, 9, 2, "train", "both dogs"),
    ref(3, 25, 3, "val", "the crowd", "others", "* | *"),
    ref(4, 30, 4, "testA", "man"),
    ref(5, 36, 5, "testB", "box"),
]
UMD = [ref(1, 25, 3, "train", "people"), ref(2, 9, 1, "val", "a dog that lies"), ref(3, 36, 5, "train", "the box"),
       ref(4, 30, 4, "test", "someone")]  # fmt: skip
GREFS = [
    ref(1, 9, [1, 2], "val", "everything dark"),
    ref(2, 25, [-1], "val", "the zebra"),
    ref(3, 36, [5], "train", "the box"),
    ref(4, 30, [-1], "testA", "a cat"),
]


def write_miniature(tmp_path: Path) -> Path:
    """All four data sets and their photos, in a folder as their users have it."""
    reference = pytest.importorskip("pycocotools.mask")
    packed = np.zeros(SIZE, np.uint8)
    packed[5:25, 7:9] = 1
    ANNOTATIONS[3]["segmentation"]["counts"] = reference.encode(np.asfortranarray(packed))["counts"].decode()
    images = tmp_path / "images" / "train2014"
    images.mkdir(parents=True)
    listed = []
    for number in (9, 25, 30, 36):
        name = f"COCO_train2014_{number:012d}.jpg"
        Image.new("RGB", SIZE[::-1], (number, 80, 90)).save(images / name)
        listed.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
    instances = json.dumps({"images": listed, "annotations": ANNOTATIONS, "categories": [{"id": 18, "name": "dog"}]})
    for name, file, refs in (
        ("refcoco", "refs(unc).p", UNC),
        ("refcoco+", "refs(unc).p", UNC),
        ("refcocog", "refs(umd).p", UMD),
        ("grefcoco", "grefs(unc).json", GREFS),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "instances.json").write_text(instances)
        content = json.dumps(refs).encode() if file.endswith("json") else python2_pickle(refs)
        (tmp_path / name / file).write_bytes(content)
    return tmp_path


def write_instances(folder: Path) -> Path:
    """A photo of one's own with the file that an annotation tool writes beside it."""
    folder.mkdir()
    Image.new("RGB", SIZE[::-1], "grey").save(folder / "own.jpg")
    image = {"id": 9, "file_name": "own.jpg", "height": SIZE[0], "width": SIZE[1]}
    content = {"images": [image], "annotations": ANNOTATIONS[:2], "categories": [{"id": 18, "name": "dog"}]}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder / "instances.json"
