"""Sources: every kind gives the same photos in the same order, from any place, and says what it cannot read."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from t4s.errors import DataError
from t4s.segmenter.labelling.sources import PhotoSource, open_source

NAMES = [f"{number:02d}.png" for number in range(8)] + [f"more/{number:02d}.png" for number in range(8, 11)]


def names(source: PhotoSource, start: int = 0, stop: int = 10**9) -> list[str]:
    return [photo.name for photo in source.photos(start, stop)]


def test_a_folder_gives_its_photos_and_nothing_hidden(photos: Path):
    source = open_source([str(photos)])
    assert len(source) == 11 and names(source) == NAMES and names(source, 7, 9) == NAMES[7:9]
    assert all(Path(photo.image).is_file() for photo in source.photos(0, 11))


def test_globs_and_files_are_each_named_once(photos: Path):
    given = [str(photos / "0[2-4].png"), str(photos / "03.png"), str(photos / "more" / "*.png")]
    assert names(open_source(given)) == ["02.png", "03.png", "04.png", *NAMES[8:]]


def test_the_state_changes_with_the_names(photos: Path, tmp_path: Path):
    (tmp_path / "00.png").write_bytes((photos / "00.png").read_bytes())
    first = open_source([str(tmp_path)]).state
    (tmp_path / "01.png").write_bytes((photos / "01.png").read_bytes())
    assert open_source([str(tmp_path)]).state != first


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nowhere"], "no such file"),
        (["empty"], "no photo in it"),
        (["a.jsonl", "b.png"], "several kinds"),
        (["a.jsonl", "c.jsonl"], "several kinds"),
        (["blank.jsonl"], "empty"),
        (["broken.parquet"], "whole Parquet file"),
        (["columns.parquet"], "image is missing"),
    ],
)
def test_what_cannot_be_a_source_is_refused(given: list[str], message: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for name in ("a.jsonl", "b.png", "c.jsonl", "broken.parquet"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "blank.jsonl").write_text("\n \n")
    parquet.write_table(pa.table({"picture": [1]}), tmp_path / "columns.parquet")
    with pytest.raises(DataError, match=message):
        open_source([str(tmp_path / name) for name in given])


def test_labels_do_not_go_among_the_photos(photos: Path):
    with pytest.raises(DataError, match="lies among the photos"):
        open_source([str(photos)], out=photos / "labels")


def test_json_lines_have_questions_of_their_own_and_faults_of_their_own(photos: Path, tmp_path: Path):
    lines = [
        json.dumps({"image": str(photos / "00.png"), "query": "dog"}),
        "",
        json.dumps({"image": "missing.png"}),
        "not json",
        json.dumps({"picture": "x"}),
        json.dumps({"image": str(photos / "01.png"), "query": ["cat", "dog"]}),
        json.dumps({"image": str(photos / "01.png"), "query": 3}),
    ]
    (tmp_path / "list.jsonl").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    source = open_source([str(tmp_path / "list.jsonl")])
    found = list(source.photos(0, len(source)))
    assert [photo.query for photo in found] == ["dog", None, None, None, ("cat", "dog"), None]
    faults = ["", "no file 'missing.png'", "line 4 is not JSON", 'line 5 has no "image"', "", "neither a phrase"]
    assert all(
        part in photo.fault and bool(part) == bool(photo.fault) for part, photo in zip(faults, found, strict=True)
    )
    assert list(source.photos(4, 5))[0].query == ("cat", "dog")


def test_parquet_files_are_read_from_any_row(photos: Path, tmp_path: Path):
    """Two files with small groups of rows; bytes, structs with bytes or a path, plain paths, and a null."""
    images = [(photos / name).read_bytes() for name in NAMES[:5]]
    parquet.write_table(pa.table({"image": images, "query": list("abcde")}), tmp_path / "a.parquet", row_group_size=2)
    structs = [{"bytes": images[0], "path": "x.png"}, {"bytes": None, "path": str(photos / "01.png")}, None]
    parquet.write_table(pa.table({"image": structs}), tmp_path / "b.parquet", row_group_size=1)
    source = open_source([str(tmp_path / "*.parquet")])
    everything = list(source.photos(0, 8))
    assert [photo.name for photo in everything] == [
        *(f"a.parquet:{row}" for row in range(5)),
        *(f"b.parquet:{row}" for row in range(3)),
    ]
    assert [photo.image for photo in everything[:6]] == [*images, images[0]]
    assert everything[6].image == photos / "01.png" and "no image" in everything[7].fault
    assert [photo.query for photo in everything[3:6]] == ["d", "e", None]
    for start in (6, 3, 0, 5, 6, 7):
        assert list(source.photos(start, start + 2)) == everything[start : start + 2]


def test_a_data_set_of_datasets(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder in the layout of a Hub repository, loaded by its id as `datasets` does."""
    (tmp_path / "mine" / "set").mkdir(parents=True)
    images = [{"bytes": (photos / name).read_bytes(), "path": name} for name in NAMES[:3]]
    features = {"info": {"features": {"image": {"_type": "Image"}, "query": {"dtype": "string", "_type": "Value"}}}}
    table = pa.table({"image": images, "query": ["a", "b", "c"]})
    parquet.write_table(
        table.replace_schema_metadata({"huggingface": json.dumps(features)}),
        tmp_path / "mine" / "set" / "train.parquet",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = open_source(["hub:mine/set@train"])
    found = list(source.photos(1, 3))
    assert [(photo.name, photo.query) for photo in found] == [("train:1", "b"), ("train:2", "c")]
    assert found[0].image == images[1]["bytes"]
    with pytest.raises(DataError, match="no split 'val'"):
        open_source(["hub:mine/set@val"])
