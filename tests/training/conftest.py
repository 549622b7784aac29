"""What the tests of training share: a small checkpoint to train on, and few photos in the model card's picture."""

from __future__ import annotations

from pathlib import Path

import pytest

from t4s.models import create
from t4s.training import run, saving


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    """Answers of an untrained model are long."""
    monkeypatch.setattr(run, "CARD_PHOTOS", 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A small untrained checkpoint of the embedded architecture, to train on."""
    folder = tmp_path_factory.mktemp("base")
    saving.write(create.fresh(["circle", "star"], (4, 4), width=32, layers=1, seed=0), None, folder)
    return folder
