"""The README's commands for training, as they stand there, on miniatures; only how long they take is cut down."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t4s.eval as evaluation
from t4s import bench, check, train
from t4s.hub.__main__ import main as push_again
from t4s.segmenter.segmenter import Segmenter
from t4s.training import arguments, run, saving
from t4s.training.refiner import train as train_edge
from t4s.training.tower import train as train_tower
from tests.support.families import build
from tests.support.hub_server import HubServer, taken_for_the_hub
from tests.support.refcoco_files import write_instances, write_miniature

ROOT = Path(__file__).resolve().parents[2]
SECTION = (ROOT / "t4s" / "training" / "README.md").read_text(encoding="utf-8")
RECIPE = SECTION[SECTION.index("<!-- recipe -->") : SECTION.index("<!-- end of recipe -->")]
WALK = SECTION[SECTION.index("## Teach it something new\n") : SECTION.index("## The embedded checkpoint's own")]
SMALL = ["--steps", "1", "--batch", "1", "--total-batch", "1", "--queries-per-image", "1", "--lora-rank", "2",
         "--threads", "1", "--validate-photos", "1"]  # fmt: skip
STEPS = ("--steps", "--epochs", "--minutes", "--total-batch")  # of the README's own, which SMALL stands for
COMMANDS = {"train": train.main, "eval": evaluation.main, "check": check.main, "hub": push_again}
SCRIPT = re.compile(r"(?:python|torchrun --nproc_per_node \d+) (?:t4s/(\w+)\.py|-m t4s[. ]([\w.-]+)) (.*)")
PARSERS = {"train-tower": train_tower.parse, "train-edge": train_edge.parse}


def commands(text: str) -> list[str]:
    """Every line of the shell blocks, one a command, without its comment."""
    lines = "".join(re.findall(r"```sh\n(.*?)```", text, re.S)).replace("\\\n", " ").splitlines()
    return [shlex.join(words) for line in lines if (words := shlex.split(line, comments=True))]


def parsed(command: str) -> tuple[str, list[str]]:
    """ "python t4s/train.py --base X" → ("train", ["--base", "X"]); also -m t4s.hub X and -m t4s train-edge X."""
    script, module, rest = SCRIPT.fullmatch(command).groups()
    return script or module, shlex.split(rest)


LARGE = [command for command in commands(SECTION) if command in commands(RECIPE) or "scenes:PHOTOS" in command]
# Evaluations that differ in their checkpoint alone run once: a stand-in answers in any case.
RUN = {re.sub(r"--checkpoint \S+ ", "", command): command for command in reversed(commands(SECTION))
       if SCRIPT.match(command) and command not in LARGE and "t4s.bench" not in command}.values()  # fmt: skip


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """What stands for MODEL, PATH and the data on this machine, and a finished run of the first command."""
    root = tmp_path_factory.mktemp("data")
    write_miniature(root)
    for name in ("refcocog", "grefcoco"):  # else their validation photos are held back, and none is left
        shutil.rmtree(root / name)
    target = np.zeros((20, 30), np.uint8)
    target[5:15, 10:20] = 255
    Image.fromarray(target).save(root / "a_dog.png")
    for name in ("a", "b"):
        Image.new("RGB", (30, 20), "grey").save(root / f"{name}.jpg")
    shown = re.search(r"```json\n(.*?)```", SECTION, re.S)[1].replace("200, 10, 200, 90", "20, 10, 20, 19")
    (root / "data.jsonl").write_text(shown)
    table = root / "dataset"
    table.mkdir()
    shutil.copy(root / "a.jpg", table)
    (table / "metadata.jsonl").write_text('{"file_name": "a.jpg", "query": "a cat", "absent": true}\n')
    photos = root / "photos"
    photos.mkdir()
    shutil.copy(root / "a.jpg", photos)
    shutil.copy(root / "a_dog.png", photos)
    line = {"image": "a.jpg", "mask": "a_dog.png", "source": "zoo", "classes": {"255": "dog"}}
    (photos / "index.jsonl").write_text("\n".join(json.dumps(line | {"split": split}) for split in ("train", "val")))
    named = {"MODEL": build("llava", root / "model"), "data.jsonl": root / "data.jsonl", "PHOTOS": photos, "PATH": root,
             "DATASET": table, "FILE.json": write_instances(root / "own")}  # fmt: skip
    first = ["--base", str(named["MODEL"]), "--dataset", f"jsonl:{root / 'data.jsonl'}", *SMALL, "--grid", "4", "4"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(run, "CARD_PHOTOS", 1)
        assert train.main([*first, "--out", str(root / "finished")]) == 0
    return named


@pytest.fixture
def server(tmp_path, monkeypatch):
    with HubServer(tmp_path / "hub") as running:
        taken_for_the_hub(running, monkeypatch)
        yield running


def test_the_readme_shows_every_way():
    said = " ".join(RUN)
    for option in ("--dry-run", "--validate", "--push-to-hub", "--resume", "--full", "--quantize", "hub:", "jsonl:",
                   "coco:", "refcoco:", "--base t4s-tiny", "--only", "torchrun"):  # fmt: skip
        assert option in said, option
    others = {command.split()[0] for command in commands(SECTION) if not SCRIPT.match(command)}
    assert others == {"T4S_CHECKPOINT=YOU/mine", "pip"}
    assert all(parsed(command)[1][0] in bench.QUESTIONS for command in commands(SECTION) if "t4s.bench" in command)


@pytest.mark.parametrize("command", RUN)
def test_a_command_runs_as_it_stands(places, server, segmenter, command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    door, given = parsed(command)
    for word, place in {**places, "YOU": "tester"}.items():
        given = [re.sub(rf"(?<![\w.]){re.escape(word)}(?=[@ /*]|$)", str(place), part) for part in given]
    if "--resume" in given or door == "hub":
        shutil.copytree(places["PATH"] / "finished", tmp_path / "runs" / "mine")
    if door == "train":
        kept = [part for at, part in enumerate(given) if part not in STEPS and given[at - 1] not in STEPS]
        given = [*kept, *SMALL, *(["--grid", "4", "4"] if "t4s-tiny" not in given else [])]
    if door == "eval":
        monkeypatch.setattr(Segmenter, "from_pretrained", lambda *arguments, **named: segmenter)
        given = [part for part in given if part != "--checkpoint" and not part.startswith("runs/")]
        given += ["--limit", "12" if "--only" in given else "1"]
    if "--quantize" in given:
        assert COMMANDS[door](given) == 2 and "needs a CUDA device" in capsys.readouterr().err
        return
    if door == "hub":
        saving.merge(tmp_path / "runs" / "mine")  # as the push that failed has done with a local base
    assert COMMANDS[door](given) == 0, capsys.readouterr().err
    if door == "hub" or "--push-to-hub" in given:
        assert "model.safetensors" in server.repos["tester/mine"].commits[-1].files


@pytest.mark.parametrize("command", [command for command in LARGE if SCRIPT.match(command)])
def test_a_command_for_hours_is_understood(command, monkeypatch):
    door, given = parsed(command)
    if door == "train":
        arguments.parse(given).check()
    elif door in PARSERS:
        assert PARSERS[door](given)
    elif door == "bench":
        monkeypatch.setattr(f"t4s.evaluation.bench.{given[0]}.run", lambda **options: None)
        assert bench.main(given) == 0
    else:
        assert import_module(f"t4s.{door}").arguments().parse_args(given)


@pytest.mark.long
def test_it_learns_something_new_and_keeps_the_other_shapes(tmp_path, monkeypatch):
    """The walk-through as it stands, as far as nobody's own photos are needed: minutes."""
    monkeypatch.chdir(tmp_path)
    found = []
    for command in [command for command in commands(WALK) if "PHOTOS" not in command and "runs/both" not in command]:
        door, given = parsed(command)
        before = set(tmp_path.glob("eval-results/*/results.json"))
        assert COMMANDS[door](given) == 0
        for file in set(tmp_path.glob("eval-results/*/results.json")) - before:
            found.append(json.loads(file.read_text())["phrases"])
    new, others, new_after, others_after = found
    assert new["targets"] == new_after["targets"] > 50
    assert new_after["strict"]["target_ciou"] > new["strict"]["target_ciou"] + 10
    assert others_after["strict"]["target_ciou"] > others["strict"]["target_ciou"] - 3
