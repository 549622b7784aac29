"""What all tests share: one thread, no network, the example photos and their true masks, the embedded model.

Nothing here imports torch: a codec test must not wait for it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

# Before torch or transformers are imported; processes that tests start inherit it. Two threads on a
# busy two-core machine were ten times slower than one.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
    GRADIO_ANALYTICS_ENABLED="False",
    HF_HUB_DISABLE_TELEMETRY="1",
)
settings.register_profile("t4s", deadline=None, derandomize=True)
settings.load_profile("t4s")

ROOT = Path(__file__).resolve().parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
MAC_BROWSER = Path("/Applications/Google Chrome.app/Contents/MacOS/Google Chrome")


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """torch reads OMP_NUM_THREADS when it is imported; this is for a plugin that imported it earlier."""
    import sys

    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def examples() -> Path:
    """The folder of the eight example photos."""
    return ROOT / "assets" / "examples"


@pytest.fixture(scope="session")
def true_masks(examples: Path) -> dict[str, dict[str, np.ndarray]]:
    """{photo's file name: {category: (h, w) bool, the union of all its instances}}."""
    from pycocotools import mask as coco

    data = json.loads((examples / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    photos = {photo["id"]: photo for photo in data["images"]}
    masks: dict[str, dict[str, np.ndarray]] = {photo["file_name"]: {} for photo in photos.values()}
    for annotation in data["annotations"]:
        photo = photos[annotation["image_id"]]
        h, w = photo["height"], photo["width"]
        shape = annotation["segmentation"]
        rle = coco.merge(coco.frPyObjects(shape, h, w)) if isinstance(shape, list) else coco.frPyObjects(shape, h, w)
        of_photo = masks[photo["file_name"]]
        name = names[annotation["category_id"]]
        of_photo[name] = of_photo.get(name, np.zeros((h, w), bool)) | coco.decode(rle).astype(bool)
    return masks


@pytest.fixture(scope="session")
def fresh_vlm():
    """A small model of the embedded architecture with random weights, a 4×4 grid and cell-aligned positions."""
    import torch

    from t4s.models.checkpoint import CheckpointConfig
    from t4s.models.tiny import architecture
    from t4s.models.vlm import VLM

    grid = (4, 4)
    processor = architecture.processor(["dog", "cat", "potted plant"], grid)
    torch.manual_seed(0)
    model = (
        architecture.model(processor, grid, width=64, layers=2, heads=2, tower_width=32).eval().requires_grad_(False)
    )
    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):  # with the usual small weights all photos would look alike
            torch.nn.init.kaiming_normal_(module.weight)
    config = CheckpointConfig(
        grid=grid,
        image_size=grid[0] * architecture.PATCH,
        question=architecture.QUESTION,
        answer=architecture.ANSWER,
        class_question=architecture.CLASS_QUESTION,
        positions="cells",
        refiner="none",
    )
    return VLM(model, processor, config)


@pytest.fixture(scope="session")
def segmenter():
    """The embedded checkpoint, loaded once for the whole run (on a CPU, in float32)."""
    from t4s import Segmenter

    return Segmenter.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of an installed Chromium or Chrome; `sh tests/run` installs one where it can."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None and MAC_BROWSER.exists():
        found = str(MAC_BROWSER)
    if found is None:
        pytest.skip(f"no browser: install Chromium so that one of {', '.join(BROWSERS)} is on the path")
    return found
