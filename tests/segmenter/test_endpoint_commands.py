"""`--endpoint` of segment, eval and label, and the app's T4S_ENDPOINT, against a stand-in server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t4s.eval
import t4s.label
from t4s import codec
from t4s.__main__ import main
from t4s.app.service import InferenceService
from t4s.app.serving.settings import Settings
from t4s.models.checkpoint import CheckpointConfig
from t4s.segmenter.labelling.shards import Shards
from tests.support.chat_server import ChatServer
from tests.support.kills import kill_and_restart

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.usefixtures("local_server")
GRID = (4, 4)
FAULTS = ["overload", "cut", "", "garbage", "error", "", "error in the stream", "another shape", "slow", "silence"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("format")
    CheckpointConfig(grid=GRID, image_size=16, refiner="none").write(path)
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Twelve photos: a bright block on black, in another place in each; and one file that is none."""
    path = tmp_path_factory.mktemp("bright")
    for number in range(12):
        Image.fromarray(block(number).astype(np.uint8) * 255).convert("RGB").save(path / f"{number:02d}.png")
    (path / "05b.png").write_bytes(b"no photo")
    return path


def block(number: int) -> np.ndarray:
    mask = np.zeros((32, 32), bool)
    top, left = 8 * (number % 4), 8 * (number // 4)
    mask[top : top + 8, left : left + 16] = True
    return mask


def answer(question: str, photo: np.ndarray) -> str:
    """What is bright in the photo is what was asked for; a "cat" never is."""
    label = question.split("only the ")[1].removesuffix(" in the image.")
    bright = (photo[..., 0] > 127) & (label != "cat")
    grid = codec.grid_from_mask(bright, label, GRID)
    return f"Sure, here is the segmentation mask: <seg>{codec.encode(grid)}</seg>"


def test_segment(folder: Path, photos: Path, tmp_path: Path, capsys):
    with ChatServer(answer, grammar="structured_outputs", key="secret") as server:
        given = ["segment", str(photos / "03.png"), "dog", "--endpoint", server.url, "--checkpoint", str(folder)]
        assert main([*given, "--model", "tiny"]) == 2
        assert "refused the key" in capsys.readouterr().err
        os.environ["T4S_ENDPOINT_KEY"] = "secret"
        try:
            assert main([*given, "--model", "tiny", "-o", str(tmp_path / "mask.png"), "--json"]) == 0
        finally:
            del os.environ["T4S_ENDPOINT_KEY"]
    assert (np.asarray(Image.open(tmp_path / "mask.png")) > 0).tolist() == block(3).tolist()
    assert json.loads(capsys.readouterr().out)["status"] == "found"
    assert main(["segment", str(photos / "03.png"), "dog", "--endpoint", "http://127.0.0.1:1"]) == 2
    assert "A server needs a model" in capsys.readouterr().err


def test_eval(folder: Path, photos: Path, tmp_path: Path, capsys):
    """A perfect server has perfect scores; a photo that it refuses is a wrong answer and ends nothing."""
    data = tmp_path / "data"
    data.mkdir()
    lines = []
    for number in range(6):
        Image.open(photos / f"{number:02d}.png").save(data / f"{number}.png")
        Image.fromarray(block(number).astype(np.uint8)).save(data / f"{number}_ids.png")
        lines.append({"image": f"{number}.png", "mask": f"{number}_ids.png", "source": "s", "split": "val",
                      "classes": {"1": "dog"}})  # fmt: skip
    (data / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    given = ["--dataset", f"folder:{data}@val", "--checkpoint", str(folder), "--model", "tiny", "--endpoint"]
    with ChatServer(answer) as server:
        assert t4s.eval.main([*given, server.url, "--out", str(tmp_path / "good")]) == 0
        assert t4s.eval.main([*given, server.url, "--oracle", "grid"]) == 2
    results = json.loads((tmp_path / "good" / "results.json").read_text())
    assert results["settings"]["device"] == "endpoint" and "100.0" in capsys.readouterr().out
    with ChatServer(answer, largest=10) as server:
        assert t4s.eval.main([*given, server.url, "--out", str(tmp_path / "bad")]) == 0
    assert "100.0" not in capsys.readouterr().out.split("cIoU")[-1]


def test_label_loses_nothing_and_records_nothing_wrong(folder: Path, photos: Path, tmp_path: Path):
    """Every kind of bad moment, with several requests at a time: the same bytes as on a good day."""
    given = [str(photos), "--query", "dog", "--query", "cat", "--shard-size", "5", "--checkpoint", str(folder),
             "--model", "tiny", "--concurrency", "4", "--silence", "0.5"]  # fmt: skip
    with ChatServer(answer) as server:
        assert t4s.label.main([*given, "--endpoint", server.url, "-o", str(tmp_path / "good")]) == 0
    with ChatServer(answer) as server:
        server.faults += FAULTS
        assert t4s.label.main([*given, "--endpoint", server.url, "-o", str(tmp_path / "bad")]) == 0
        assert not server.faults and server.busiest > 1
    assert files(tmp_path / "bad") == files(tmp_path / "good")
    rows = list(Shards.open(tmp_path / "good").all_rows())
    statuses = [(row["query"], row["status"]) for row in rows if row["photo"] != "05b.png"]
    assert statuses == [("dog", "found"), ("cat", "absent")] * 12
    assert all(row["score"] is None for row in rows), "this server says nothing about probabilities"


def test_label_without_a_server_ends_at_once(folder: Path, photos: Path, tmp_path: Path, capsys):
    given = [str(photos), "--query", "dog", "--checkpoint", str(folder), "--model", "tiny", "-o", str(tmp_path / "out")]
    assert t4s.label.main([*given, "--endpoint", "http://127.0.0.1:9/v1"]) == 2
    assert "cannot be reached" in capsys.readouterr().err
    with ChatServer(answer, key="secret") as server:
        assert t4s.label.main([*given, "--endpoint", server.url]) == 2
    assert "refused the key" in capsys.readouterr().err and not list((tmp_path / "out").glob("*.parquet"))


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.long
def test_label_killed_twenty_times(folder: Path, tmp_path: Path):
    """300 photos, a server that fails now and then, and a process that is killed at random moments."""
    photos, rng = tmp_path / "photos", np.random.default_rng(1)
    photos.mkdir()
    for number in range(300):
        noise = rng.integers(0, 60, (32, 32, 3))
        Image.fromarray((noise + 180 * block(number % 12)[..., None]).astype(np.uint8)).save(
            photos / f"{number:03d}.png"
        )
    with ChatServer(answer, pause=0.0005) as server:
        given = [sys.executable, str(ROOT / "t4s" / "label.py"), str(photos), "--query", "dog", "--shard-size", "5",
                 "--checkpoint", str(folder), "--model", "tiny", "--endpoint", server.url, "-o"]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": "", "HF_HUB_OFFLINE": "0"}
        subprocess.run([*given, str(tmp_path / "clean")], env=environment, check=True)
        faults = [fault for fault in FAULTS if fault != "silence"]
        kill_and_restart(
            [*given, str(tmp_path / "out")],
            tmp_path / "out",
            environment,
            kills=20,
            rng=rng,
            before=lambda: server.faults.extend(faults),
        )
    assert files(tmp_path / "out") == files(tmp_path / "clean")


def test_the_app(folder: Path, photos: Path):
    with ChatServer(answer, logprobs=True, model=str(folder)) as server:
        settings = Settings.read({"T4S_ENDPOINT": server.url, "T4S_CHECKPOINT": str(folder)})
        service = InferenceService(settings.load(), settings.refiner)
        (*growing, last) = service.write(str(photos / "01.png"), "dog", "none", "fast")
        assert last.stats["ended"] == "complete" and last.mask.tolist() == block(1).tolist()
        predictions, wrong = service.write_all(str(photos / "02.png"), ["dog", "cat"], "none")
        assert [each.present for each in predictions] == [True, False] and not wrong
        assert not service.keep_above(str(photos / "01.png"), last, 1.0, "none").present
        assert service.suggest(str(photos / "01.png")).names == ()
