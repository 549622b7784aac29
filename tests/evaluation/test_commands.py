"""The READMEs' commands for measuring, as they stand there, on a miniature of every data set they name."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t4s.eval as evaluation
from t4s.models.checkpoint import CheckpointConfig
from t4s.segmenter.segmenter import Segmenter
from tests.data import test_semantic
from tests.support import refcoco_files
from tests.support.families import IMAGE_SIZE, build

ROOT = Path(__file__).resolve().parents[2]
START = r"^ +(?:python|torchrun --nproc_per_node \d+) t4s/eval\.py "
LINE = re.compile(START + r"(?P<given>.*?)(?: +# (?:also (?P<also>.*)|.*))?$", re.M)


def commands() -> list[str]:
    """Every evaluation that the README shows, "also refcoco+, refcocog" written out."""
    found = []
    for line in LINE.finditer((ROOT / "t4s" / "evaluation" / "README.md").read_text(encoding="utf-8")):
        found.append(line["given"])
        name = re.search(r"--dataset (\S+?):", line["given"])[1]
        found += [line["given"].replace(f"--dataset {name}:", f"--dataset {other}:")
                  for other in re.findall(r"[\w+]+", line["also"] or "")]  # fmt: skip
    return list(dict.fromkeys(found))


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """What stands for PATH, PHOTOS, FILE and ID on this machine."""
    root = tmp_path_factory.mktemp("data")
    refcoco_files.write_miniature(root)
    test_semantic.write_miniature(root)
    photos = root / "photos"
    photos.mkdir()
    lines = []
    for number, split in enumerate(("train", "val", "val")):
        ids = np.zeros((40, 50), np.uint8)
        ids[5 * number : 20, 10:40] = 1
        Image.fromarray(ids * 90).convert("RGB").save(photos / f"{number}.jpg")
        Image.fromarray(ids).save(photos / f"{number}.png")
        lines.append({"image": f"{number}.jpg", "mask": f"{number}.png", "source": "zoo", "split": split,
                      "classes": {"1": "cat"}})  # fmt: skip
    (photos / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    quiz = {"image": "photos/0.jpg", "question": "What is it?", "answers": ["a cat"]}
    (root / "quiz.jsonl").write_text(json.dumps(quiz))
    chats = build("llava", root / "chats")
    CheckpointConfig(grid=(4, 4), image_size=IMAGE_SIZE["llava"], refiner="none").write(chats)
    own = refcoco_files.write_instances(root / "own")
    return {"PHOTOS": photos, "PATH": root, "FILE.jsonl": root / "quiz.jsonl", "FILE.json": own, "ID": chats}


def test_the_readmes_name_every_loader_and_every_way():
    from t4s.data import refcoco
    from t4s.data.semantic import _LAYOUTS, VOC20

    asked = {re.search(r"--dataset (\S+?):", command)[1] for command in commands()}
    assert asked >= {*refcoco.FILES, *_LAYOUTS, "folder", "coco", "vqa"} and VOC20
    text = (ROOT / "t4s" / "evaluation" / "README.md").read_text(encoding="utf-8")
    assert "torchrun --nproc_per_node" in text and "--update-card" in text


MANY_NAMES = ("ade20k:", "cocostuff:")  # 150 and 171 names to ask, ten seconds each


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=pytest.mark.long if any(name in command for name in MANY_NAMES) else ())
        for command in commands()
    ],
)
def test_a_command_runs_as_it_stands(places, command, segmenter, tmp_path, monkeypatch):
    """On one photo, with the embedded checkpoint, but where the model must chat."""
    monkeypatch.chdir(tmp_path)
    if "vqa:" not in command:
        monkeypatch.setattr(Segmenter, "from_pretrained", lambda *arguments, **named: segmenter)
    for word, place in places.items():
        command = re.sub(rf"(?<![\w.]){word}(?=[@ /]|$)", str(place), command)
    assert evaluation.main([*shlex.split(command), "--limit", "1"]) == 0
    (file,) = tmp_path.glob("eval-results/*/results.json")
    results = json.loads(file.read_text())
    kind = next(kind for kind in ("phrases", "lists", "vqa") if kind in results)
    assert max(results[kind].get(name, 0) for name in ("phrases", "photos", "questions")) > 0
    assert not any("cannot" in entry["why"] for entry in results["invalid"])
    if "--save" in command:
        assert (tmp_path / "predictions" / "predictions.jsonl").read_text()
