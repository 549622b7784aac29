"""Every download opens in its tool, and a batch's ZIP is harmless whatever its names are."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import time
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from t4s import codec
from t4s.app import controller, downloads, views
from t4s.errors import QueryError
from tests.support import stand_in
from tests.support.outlines import filled, strict_geojson

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "assets" / "examples"
CATS, RIDERS = EXAMPLES / "two_cats.jpg", EXAMPLES / "riders.jpg"


@pytest.mark.parametrize("kind", downloads.FILES)
def test_every_download_opens_in_its_tool(segmenter: stand_in.StandIn, tmp_path: Path, kind: str):
    photo = tmp_path / "riders.png"
    Image.open(RIDERS).reduce(6).save(photo)
    answer = segmenter.classes(photo, ["horse", "person"])
    if kind == "parts":
        answer = segmenter(CATS, "cat")
        assert len(answer.parts) >= 2
    name, data = downloads.make(kind, answer, str(photo))
    (tmp_path / name).write_bytes(data)
    assert name.startswith("riders.")
    if kind == "mask":
        assert ((np.asarray(Image.open(tmp_path / name)) > 0) == answer.mask).all()
    elif kind == "cutout":
        cut = np.asarray(Image.open(tmp_path / name))
        assert ((cut[..., 3] > 0) == answer.mask).all()
        assert (cut[..., :3][answer.mask] == np.asarray(Image.open(photo))[answer.mask]).all()
    elif kind == "overlay":
        changed = np.abs(np.asarray(Image.open(tmp_path / name), int) - np.asarray(Image.open(photo), int)).max(2)
        assert changed[answer.mask].mean() > 40 > 10 > changed[~answer.mask].mean()
    elif kind == "coco":
        dataset = COCO(tmp_path / name)
        for each in dataset.anns.values():
            label = dataset.cats[each["category_id"]]["name"]
            assert (dataset.annToMask(each).astype(bool) == answer.masks[label]).all()
    elif kind == "parts":
        dataset = COCO(tmp_path / name)
        listed = [(each["area"], each["score"]) for each in dataset.anns.values()]
        assert listed == [(part.area, round(part.score, 4)) for part in answer.parts]
        assert (sum(dataset.annToMask(each) for each in dataset.anns.values()) == answer.mask).all()
    elif kind == "svg":
        assert len(ElementTree.fromstring(data).findall("{http://www.w3.org/2000/svg}path")) == 2
    elif kind == "text":
        assert codec.decode(data.decode()) == answer.grid
    elif kind == "grid":
        plain = json.loads(data)
        assert codec.DescriptorGrid(np.array(plain["rows"]), tuple(plain["labels"])) == answer.grid
        assert np.allclose(plain["confidence"], answer.confidence, atol=1e-4)
    elif kind == "geojson":
        for label, parts in strict_geojson(data.decode()).items():
            assert (filled([ring for part in parts for ring in part], answer.mask.shape) == answer.masks[label]).all()
    elif kind == "labelme":
        drawn = {label: np.zeros(answer.mask.shape, bool) for label in answer.masks}
        for shape in json.loads(data)["shapes"]:
            drawn[shape["label"]] ^= filled([shape["points"]], answer.mask.shape)
        assert all((drawn[label] == mask).all() for label, mask in answer.masks.items())
    else:
        raise AssertionError(f"nothing opens {kind}")


def test_names_in_a_parcel_are_plain_and_its_table_runs_no_formula(segmenter: stand_in.StandIn, tmp_path: Path):
    box = downloads.ResultsZip(tmp_path / "box.zip")
    answer = segmenter(CATS, "=cmd()")
    box.add("../../etc/passwd.jpg", [answer])
    box.add("passwd.jpg", [answer])
    box.fail("@x.jpg", "broken")
    with zipfile.ZipFile(box.close()) as written:
        names = [name for name in written.namelist() if name.startswith("masks/")]
        table = written.read("results.csv").decode("utf-8-sig")
    assert names == ["masks/passwd__cmd.png", "masks/passwd__cmd-2.png"]
    rows = list(csv.DictReader(io.StringIO(table)))
    assert [row["phrase"] for row in rows[:2]] == ["'=cmd()"] * 2 and rows[2]["file"] == "'@x.jpg"


@pytest.mark.parametrize(
    "phrase",
    ["न" * 99 + "ी", "हिन्दी में कुत्ता", "क्षत्रिय" * 20, "ภาษาไทยน้ำ" * 18, "👍🏽" * 99, "e\u0301" * 99, "日本語" * 50],
)
def test_names_of_any_script_unpack_and_keep_their_signs(segmenter: stand_in.StandIn, tmp_path: Path, phrase: str):
    """File systems count bytes, and a vowel sign of a script that has them is no separator."""
    box = downloads.ResultsZip(tmp_path / "box.zip")
    box.add(f"{'ก' * 60}.jpg", [segmenter(CATS, phrase)] * 2)
    with zipfile.ZipFile(box.close()) as written:
        written.extractall(tmp_path / "out")
        names = [Path(name).name for name in written.namelist() if name.startswith("masks/")]
    assert len(names) == 2 and all(len(name.encode()) <= 255 for name in names)
    if len(phrase) < 20:
        assert phrase.replace(" ", "_") in names[0]


def test_the_scratch_folder_is_made_again():
    """Cleaners remove what lies below the temporary directory; every call failed until a restart."""
    first = downloads.scratch_file("a.png")
    first.write_bytes(b"1")
    shutil.rmtree(first.parents[1])
    second = downloads.scratch_file("a.png")
    second.write_bytes(b"2")
    assert second.parents[1] == first.parents[1]


def test_a_batch_of_hours_keeps_its_zip(segmenter: stand_in.StandIn):
    box = downloads.ResultsZip(downloads.scratch_file("text4seg.zip"))
    forgotten = downloads.scratch_file("mask.png")
    forgotten.write_bytes(b"1")
    for path in (box.path.parent, forgotten.parent, forgotten):
        os.utime(path, (time.time() - 20_000,) * 2)  # begun hours ago
    box.add("two_cats.jpg", [segmenter(CATS, "cat")])
    downloads.scratch_file("stop")
    assert box.close().exists() and not forgotten.exists()


def test_saving_before_there_is_an_answer_says_what_to_do():

    with pytest.raises(gr.Error, match="segment a photo first"):
        controller.save("mask", None)
    with pytest.raises(QueryError, match="paste less"):
        views.read_text("x" * 200_001, (16, 16), "rows")
