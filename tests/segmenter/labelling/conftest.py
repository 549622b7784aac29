"""A small checkpoint on disk, and a folder of small photos, one of them broken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def checkpoint(fresh_vlm, tmp_path_factory) -> Path:
    """A model of the embedded architecture with random weights and a 4×4 grid."""
    folder = tmp_path_factory.mktemp("checkpoint")
    fresh_vlm.model.save_pretrained(folder)
    fresh_vlm.processor.save_pretrained(folder)
    fresh_vlm.config.write(folder)
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """Eleven photos in two folders; 05.png is cut off."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    rng = np.random.default_rng(3)
    for number in range(11):
        pixels = rng.integers(0, 255, (int(rng.integers(20, 40)), int(rng.integers(20, 40)), 3), np.uint8)
        Image.fromarray(pixels).save(folder / ("more" if number > 7 else "") / f"{number:02d}.png")
    broken = folder / "05.png"
    broken.write_bytes(broken.read_bytes()[:200])
    (folder / "notes.txt").write_text("not a photo")
    (folder / ".hidden.png").write_text("not a photo either")
    return folder
