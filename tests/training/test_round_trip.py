"""To the Hub and back: a checkpoint is pushed to the stand-in, and app, library and card find it there."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t4s import codec, train
from t4s.errors import CheckpointError
from t4s.models import create
from t4s.models.loading import load
from t4s.training import run, saving
from tests.support.hub_server import HubServer, taken_for_the_hub

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 180  # seconds that an app may take to start on a busy machine
ID = "tester/cells"


TRAIN = ["--dataset", "synthetic", "--steps", "2", "--batch", "1", "--total-batch", "1", "--queries-per-image", "1",
         "--lora-rank", "4", "--threads", "1"]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """An untrained model of the embedded architecture with a 4×4 grid, as a checkpoint folder."""
    folder = tmp_path_factory.mktemp("base")
    saving.write(create.fresh(["dog", "cat"], (4, 4), width=64, layers=1, seed=0), None, folder)
    return folder


@pytest.fixture(scope="module")
def server(base, tmp_path_factory) -> Iterator[HubServer]:
    """The stand-in, taken for the Hub; two steps of training from the command line have pushed a checkpoint to it."""
    with HubServer(tmp_path_factory.mktemp("hub")) as running, pytest.MonkeyPatch.context() as patched:
        taken_for_the_hub(running, patched)
        patched.setattr(run, "CARD_PHOTOS", 1)
        out = str(tmp_path_factory.mktemp("out") / "cells")
        assert train.main(["--base", str(base), *TRAIN, "--out", out, "--push-to-hub", ID]) == 0
        yield running


@pytest.fixture
def photo(tmp_path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.jpg")
    return tmp_path / "photo.jpg"


def run_code_of(card: str, cwd: Path, monkeypatch) -> dict:
    """The card's Python code, run as it stands in `cwd` → its variables."""
    (code,) = re.findall("```python\n(.*?)```", card, re.S)
    monkeypatch.chdir(cwd)
    variables: dict = {}
    exec(code, variables)
    return variables


@contextmanager
def serving(server: HubServer, checkpoint: str) -> Iterator[str]:
    """app.py as a Space starts it, with an empty cache → its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**server.environment(cache="app-cache"), "T4S_CHECKPOINT": checkpoint, "OMP_NUM_THREADS": "1",
                   "GRADIO_SERVER_PORT": str(port), "GRADIO_ANALYTICS_ENABLED": "False"}  # fmt: skip
    app = subprocess.Popen([sys.executable, "app.py"], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, text=True)  # fmt: skip
    try:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and app.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        else:
            app.kill()
            raise AssertionError(f"the app did not start: {app.communicate()[0]}")
        yield f"http://127.0.0.1:{port}"
    finally:
        app.terminate()
        app.communicate()


def test_the_app_pulls_a_pushed_checkpoint_and_segments(server, photo):
    from gradio_client import Client, handle_file

    with serving(server, ID) as address:
        *_, result = Client(address, verbose=False).predict(handle_file(photo), "dog", api_name="/segment")
    assert f"GET /api/models/{ID}/revision/main" in server.log, "it came from the Hub"
    result = json.loads(result) if isinstance(result, str) else result
    assert codec.decode(result["text"], (4, 4)).shape == (4, 4)
    assert result["coco_rle"] and not result["faults"]


def test_the_cards_code_runs_as_it_stands(server, photo, monkeypatch):
    card = server.repos[ID].commits[-1].files["README.md"].decode()
    assert run_code_of(card, photo.parent, monkeypatch)["prediction"].mask.shape == (60, 90)


def test_an_adapter_is_trained_on_a_base_from_the_hub_and_finds_it_again(server, base, tmp_path, photo, monkeypatch):
    """The base's commit is recorded: what is pushed there later does not slip under the adapter."""
    repo = server.repo("tester/base", {file.name: file.read_bytes() for file in base.iterdir() if file.is_file()})
    first = repo.commits[-1]
    assert train.main(["--base", "tester/base", *TRAIN, "--out", str(tmp_path / "a"), "--push-to-hub"]) == 0
    pushed = server.repos["tester/a"].commits[-1].files
    config = json.loads(pushed["t4s.json"])
    assert (config["base_model"], config["base_revision"]) == ("tester/base", first.oid)
    assert "adapter_model.safetensors" in pushed and "model.safetensors" not in pushed
    repo.add("later", {**first.files, "config.json": b"{}", "model.safetensors": b"other weights"})
    before = len(server.log)
    taken_for_the_hub(server, monkeypatch, cache="empty-cache")
    variables = run_code_of(pushed["README.md"].decode(), photo.parent, monkeypatch)
    assert variables["prediction"].grid.shape == (4, 4)
    loaded = [line for line in server.log[before:] if "/tester/base/resolve/" in line]
    assert loaded and not [line for line in loaded if f"/resolve/{first.oid}/" not in line]


BROKEN = {
    "tester/nothing": (None, "is not on the Hub, or it is private"),
    "tester/foreign": ({"config.json": b"{}", "model.safetensors": b""}, "has no t4s.json"),
    "tester/pickled": ({"t4s.json": b'{"grid": [4, 4]}', "pytorch_model.bin": b""}, "no .safetensors weights"),
    "tester/orphan": ({"t4s.json": b'{"grid": [4, 4], "base_model": "acme/gone"}', "adapter_config.json": b"{}",
                       "adapter_model.safetensors": b""}, "acme/gone is not on the Hub"),
    "tester/baseless": ({"t4s.json": b'{"grid": [4, 4]}', "adapter_config.json": b"{}",
                         "adapter_model.safetensors": b""}, "names no base_model"),
}  # fmt: skip


def test_revisions_are_pinned(server):
    repo = server.repos[ID]
    old = repo.commits[-1]
    config = json.loads(old.files["t4s.json"])
    repo.add("later", {**old.files, "t4s.json": json.dumps({**config, "answer": "Here: <seg>{body}</seg>"}).encode()})
    pinned, newest = load(ID, old.oid).config, load(ID).config
    repo.commits.pop()
    assert (pinned.answer, newest.answer) == (config["answer"], "Here: <seg>{body}</seg>")


@pytest.mark.parametrize("source", BROKEN)
def test_what_cannot_be_pulled_is_refused_in_a_sentence(server, source):
    files, sentence = BROKEN[source]
    if files is not None:
        server.repo(source, files)
    with pytest.raises(CheckpointError) as refused:
        load(source)
    assert sentence in str(refused.value) and len(str(refused.value)) < 500
