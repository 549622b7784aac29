"""Training from the command line: a model, its checkpoint, and going on from where it stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from t4s import Segmenter, codec, train

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--corpus", "synthetic", "--width", "32", "--layers", "1", "--grid", "4", "4", "--batch", "2",
         "--queries-per-image", "2", "--threads", "1", "--save-steps", "2"]  # fmt: skip


@pytest.fixture(autouse=True)
def _a_small_picture(monkeypatch):
    """Answers of an untrained model are long."""
    monkeypatch.setattr(train, "SHOWN", 1)


def run(out: Path, *more: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "t4s" / "train.py"), *SMALL, "--out", str(out), *more]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_a_checkpoint_from_nothing_but_scenes(tmp_path, examples):
    """The script, started elsewhere, leaves a folder that the front door opens; its answers are valid."""
    done = run(tmp_path / "out", "--steps", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "out" / "t4s.json").read_text())
    assert written["grid"] == [4, 4] and written["positions"] == "cells"
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float16}
    prediction = Segmenter.from_pretrained(tmp_path / "out", device="cpu")(examples / "gull.jpg", "bird", refine="none")
    assert codec.decode(prediction.text, (4, 4)) == prediction.grid


def test_resumed_ends_where_an_uninterrupted_run_ends(tmp_path):
    """Trainer alone starts a LLaVA again from its first weights, and only warns."""
    train.main([*SMALL, "--out", str(tmp_path / "whole"), "--steps", "4"])
    train.main([*SMALL, "--out", str(tmp_path / "parts"), "--steps", "4", "--stop-after", "2"])
    train.main([*SMALL, "--out", str(tmp_path / "parts"), "--steps", "4", "--resume"])
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-3, rtol=1e-2)
    moved = load_file(tmp_path / "parts" / "model.safetensors")["language_model.model.embed_tokens.weight"]
    assert np.isfinite(moved.numpy()).all()


def test_nothing_to_resume_is_said(tmp_path, capsys):
    assert train.main([*SMALL, "--out", str(tmp_path), "--steps", "2", "--resume"]) == 2
    assert "holds no state to resume" in capsys.readouterr().err
