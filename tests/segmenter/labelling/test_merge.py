"""Merged labels are data sets: `t4s check` finds nothing wrong with them, and they say what the shards say."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from PIL import Image

import t4s.check
import t4s.label
from t4s.data.spec import open_dataset
from t4s.segmenter.labelling import run
from t4s.segmenter.labelling.shards import Shards, mask_of, question_row, unanswered
from tests.support.labels import StandIn


@pytest.fixture(autouse=True)
def _standing_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "make_segmenter", lambda config: StandIn())


def label(*arguments: object) -> int:
    return t4s.label.main(list(map(str, arguments)))


def check(data: Path | str, tmp_path: Path) -> int:
    return t4s.check.main([str(data), "--sheet", str(tmp_path / "check.png")])


def test_every_data_set_is_whole_and_says_what_the_shards_say(photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert label(photos, "--query", "dog", "-o", out, "--shard-size", 4) == 0
    assert label("--merge", out) == 0
    assert "10 photos, 10 masks" in (said := capsys.readouterr().out) and "1 photos, a question failed" in said
    merged = out / "merged"
    rows = {row["photo"]: row for row in Shards.open(out).all_rows() if row["status"] == "found"}
    for data in (merged / "instances.json", merged, merged / "data.jsonl"):
        assert check(data, tmp_path) == 0, capsys.readouterr().out
    for spec in (f"coco:{merged / 'instances.json'}", f"folder:{merged}@train", f"jsonl:{merged / 'data.jsonl'}@all"):
        dataset = open_dataset(spec)
        assert len(dataset) == 10
        for index, row in enumerate(rows.values()):
            (sample,) = [sample for sample in dataset[index] if not sample.absent]
            assert sample.query == "dog" and ((sample.class_map > 0) == mask_of(row, "dog")).all()


def test_phrases_that_overlap_and_names_that_are_absent(photos: Path, tmp_path: Path, monkeypatch):
    """The surer answer lies on top of an indexed mask; data.jsonl keeps both whole."""

    class Two(StandIn):
        def __call__(self, photo, query, refine, decoding):
            found = super().__call__(photo, query, refine, decoding)
            mask = np.zeros_like(found.mask)
            if query != "bird":
                mask[: 5 if query == "cat" else 10] = True
            object.__setattr__(found, "masks", {query: mask})
            object.__setattr__(found, "score", 0.9 if query == "cat" else 0.6)
            return found

    monkeypatch.setattr(run, "make_segmenter", lambda config: Two())
    asked = ["--query", "cat", "--query", "dog", "--query", "bird"]
    assert label(photos / "00.png", photos / "01.png", *asked, "-o", tmp_path / "out") == 0
    assert label("--merge", tmp_path / "out", "--to", tmp_path / "set") == 0
    lines = [json.loads(line) for line in (tmp_path / "set" / "data.jsonl").read_text().splitlines()]
    assert [(line["query"], "mask" in line) for line in lines[:3]] == [("cat", True), ("dog", True), ("bird", False)]
    (line, _) = [json.loads(line) for line in (tmp_path / "set" / "index.jsonl").read_text().splitlines()]
    ids = np.asarray(Image.open(tmp_path / "set" / line["mask"]))
    number = {label: int(key) for key, label in line["classes"].items()}
    assert set(number) == {"cat", "dog"}
    assert (ids[:5] == number["cat"]).all() and (ids[5:10] == number["dog"]).all() and (ids[10:] == 0).all()
    coco = json.loads((tmp_path / "set" / "instances.json").read_text())
    assert [category["name"] for category in coco["categories"]] == ["cat", "dog", "bird"]
    assert len({annotation["id"] for annotation in coco["annotations"]}) == 4
    assert check(tmp_path / "set" / "instances.json", tmp_path) == 0


def test_photos_out_of_a_parquet_file_are_written_as_they_were(photos: Path, tmp_path: Path):
    images = [(photos / f"{number:02d}.png").read_bytes() for number in (0, 1, 2)]
    parquet.write_table(pa.table({"image": images, "query": ["dog", "cat", "dog"]}), tmp_path / "p.parquet")
    assert label(tmp_path / "p.parquet", "-o", tmp_path / "out") == 0
    assert label("--merge", tmp_path / "out") == 0
    assert (tmp_path / "out" / "merged" / "photos" / "0000001.png").read_bytes() == images[1]
    assert check(tmp_path / "out" / "merged" / "data.jsonl", tmp_path) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"status": "unanswered", "error": "x"}, "a question is unanswered"),
        ({"faults": ["row 1"]}, "a text had faults"),
        ({"score": 0.2}, "a score is below 0.3"),
        ({"status": "unknown word"}, "never taught"),
    ],
)
def test_what_is_doubtful_is_left_out_and_counted(change: dict, reason: str, photos: Path, tmp_path: Path, capsys):
    out = tmp_path / "out"
    assert label(photos, "--query", "dog", "-o", out) == 0
    shards = Shards.open(out)
    rows = shards.rows(0)
    rows[3] |= change
    shards.write(0, rows)
    assert label("--merge", out, "--min-score", 0.3) == 0
    said = capsys.readouterr().out
    assert "9 photos, 9 masks" in said and f"left out: 1 photos, {reason}" in said.replace("its words were ", "")


def test_merging_refuses_what_it_would_get_wrong(photos: Path, tmp_path: Path, capsys):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("00.png", "01.png"):
        (folder / name).write_bytes((photos / name).read_bytes())
    assert label(folder, "--query", "dog", "-o", tmp_path / "out", "--shard-size", 1) == 0
    shards = Shards.open(tmp_path / "out")
    kept = shards.path(1).read_bytes()
    shards.path(1).unlink()
    assert label("--merge", tmp_path / "out", "--to", tmp_path / "a") == 2
    assert "not finished" in capsys.readouterr().err
    shards.path(1).write_bytes(kept)
    assert label("--merge", tmp_path / "out", "--to", tmp_path / "b") == 0
    assert label("--merge", tmp_path / "out", "--to", tmp_path / "b") == 2
    assert "is not empty" in capsys.readouterr().err
    (folder / "01.png").rename(folder / "02.png")
    assert label("--merge", tmp_path / "out", "--to", tmp_path / "c") == 2
    assert "is not what it was" in capsys.readouterr().err


def test_a_reason_is_one_line():
    row = unanswered(question_row(0, "a.png", "dog", "x", "y"), "two\n lines")
    assert row["error"] == "two lines" and row["status"] == "failed"
