"""`t4s check`: the whole list of what is wrong, before training, from the real command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t4s import check
from t4s.data.jsonl import JsonlDataset
from t4s.imaging import export

ROOT = Path(__file__).resolve().parent.parent
TARGET = np.zeros((20, 30), bool)
TARGET[5:15, 10:20] = True
GOOD = {"image": "a.png", "query": "a dog", "mask": "mask.png"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch) -> Path:
    for name in ("a.png", "b.png", "c.png"):
        Image.new("RGB", (30, 20), "grey").save(tmp_path / name)
    (tmp_path / "mask.png").write_bytes(export.mask_png(TARGET))
    (tmp_path / "small.png").write_bytes(export.mask_png(TARGET[:10]))
    (tmp_path / "empty.png").write_bytes(export.mask_png(~TARGET & TARGET))
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:50])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, *lines: dict | str) -> str:
    path = folder / "data.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def test_a_data_set_without_faults(folder, capsys):
    lines = [GOOD, GOOD | {"query": "the dog"}, {"image": "b.png", "query": "a dog", "absent": True}]
    assert check.main([written(folder, *lines)]) == 0
    said = capsys.readouterr().out
    assert "2 photos, 3 questions (1 absent, 0 class lists)" in said
    assert "30×20 to 30×20 pixels" in said and "problems  none" in said
    assert "cover 16.67% to 16.67%" in said and '2 different, most often "a dog" 2' in said
    assert Image.open(folder / "check.png").width > 500


def test_everything_that_is_wrong_is_reported_at_once(folder, capsys):
    """Training stops at the first broken line; who mends one, trains again and meets the next, loses a day a line."""
    path = written(
        folder,
        GOOD | {"split": "train"},
        "{",
        GOOD | {"query": "others"},
        GOOD | {"image": "missing.png"},
        GOOD | {"image": "broken.png"},
        GOOD | {"image": "b.png", "mask": "small.png"},
        GOOD | {"image": "b.png", "mask": "empty.png", "query": "a cat"},
        GOOD | {"image": "c.png", "mask": [[1, 2]]},
        GOOD | {"image": "./a.png"},
        GOOD | {"query": "a cow", "split": "val"},
    )
    assert check.main([path, "--sheet", "seen.png"]) == 1
    said = capsys.readouterr().out
    assert "4 photos, 3 questions" in said and "problems  9" in said
    expected = {
        2: "not a JSON object",
        3: "reserved",
        4: "no file",
        5: "broken",
        6: "30×10",
        7: "mask is empty",
        8: "polygon",
        9: "as line 1 does",
    }
    for number, words in expected.items():
        (problem,) = [line for line in said.splitlines() if f"line {number}" in line and "data.jsonl" in line]
        assert words in problem
    assert "a.png is in the splits train and val" in said
    assert (folder / "seen.png").exists() and not (folder / "check.png").exists()


def test_splits_and_limits(folder, capsys):
    lines = [
        GOOD | {"image": f"{name}.png", "split": split}
        for name, split in (("a", "train"), ("b", "train"), ("c", "val"))
    ]
    path = written(folder, *lines)
    for arguments, photos in (
        ([path], 3),
        ([path, "--split", "val"], 1),
        ([f"jsonl:{path}@train"], 2),
        ([path, "--limit", "2"], 2),
    ):
        assert check.main(arguments) == 0
        assert f"{photos} photos" in capsys.readouterr().out
    assert check.main([path, "--split", "test"]) == 2
    assert "no line of the split 'test'" in capsys.readouterr().err


def test_folders_and_composed_scenes(folder, capsys):
    index = {
        "image": "a.png",
        "mask": "mask.png",
        "source": "x",
        "split": "train",
        "classes": {"255": "dog"},
        "ignore": [],
    }
    bad = index | {"image": "b.png", "mask": "small.png"}
    (folder / "index.jsonl").write_text(f"{json.dumps(index)}\n{json.dumps(bad)}\n")
    assert check.main([str(folder)]) == 1
    said = capsys.readouterr().out
    assert "2 photos, 1 questions" in said and "small.png is 30×10 pixels" in said
    assert check.main(["synthetic@val", "--limit", "3"]) == 0
    assert "3 photos" in capsys.readouterr().out


def test_every_broken_line_of_an_index_is_reported(folder, capsys):
    line = {"image": "a.png", "mask": "mask.png", "source": "x", "split": "train", "classes": {"255": "dog"}}
    no_mask = {key: value for key, value in line.items() if key != "mask"}
    rows = ["{", json.dumps(no_mask), json.dumps(line), json.dumps(line | {"classes": ["dog"]})]
    (folder / "index.jsonl").write_text("\n".join(rows))
    assert check.main([str(folder)]) == 1
    said = capsys.readouterr().out
    assert "1 photos, 1 questions" in said and "problems  3" in said
    for words in ("line 1 is not a JSON object", "line 2 has no field 'mask'", "line 4: "):
        assert words in said
    (folder / "index.jsonl").write_text("{")
    assert check.main([str(folder)]) == 1
    assert "0 photos" in capsys.readouterr().out


def test_long_lists_of_problems_are_cut(folder, capsys):
    assert check.main([written(folder, GOOD, *["{"] * 200)]) == 1
    said = capsys.readouterr().out
    assert "problems  200" in said and "… and 150 more" in said and len(said.splitlines()) < 70


def test_the_sheet_shows_the_whole_data_set(folder):
    """Photos from all over the file, with their targets tinted: a look is enough to see masks that are shifted."""
    for number in range(60):
        Image.new("RGB", (30, 20), (number * 4, 0, 0)).save(folder / f"{number}.png")
    path = written(folder, *[GOOD | {"image": f"{number}.png"} for number in range(60)])
    assert check.main([path]) == 0
    colours = {colour for _, colour in Image.open(folder / "check.png").getcolors(1 << 24)}
    assert len(JsonlDataset(path)) == 60
    found = [number for number in range(60) if (number * 4, 0, 0) in colours]
    assert len(found) == check.TILES and found[0] == 0 and found[-1] == 59
    assert (230, 159, 0) in colours


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jsonl"], "write NAME"),
        (["."], "holds no index.jsonl"),
        (["jsonl:nowhere.jsonl"], "no file nowhere.jsonl"),
        (["data.jsonl", "--limit", "0"], "from 1"),
        (["data.jsonl", "--sheet", "sheet.jpg"], ".png"),
        (["data.jsonl", "--sheet", "no/where/sheet.png"], "folder that exists"),
        (["data.jsonl"], "no line of the split 'all'"),
    ],
)
def test_nothing_to_look_at(folder, capsys, arguments, said):
    written(folder, "")
    assert check.main(arguments) == 2
    assert said in capsys.readouterr().err


def test_the_command_line(folder):
    path = written(folder, GOOD, "{")
    for command in ([str(ROOT / "t4s" / "check.py")], ["-m", "t4s", "check"]):
        done = subprocess.run(
            [sys.executable, *command, path], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, cwd=folder
        )
        assert done.returncode == 1 and "line 2 is not a JSON object" in done.stdout and not done.stderr
