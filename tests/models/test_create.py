"""What a base without a `t4s.json` is taught with: the grid and the square that its vision tower goes with."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from t4s.assets import asset
from t4s.errors import CheckpointError
from t4s.models import create
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.loading import load_processor
from tests.support.families import IMAGE_SIZE, build, here


def config(**vision) -> SimpleNamespace:
    return SimpleNamespace(vision_config=SimpleNamespace(**vision), model_type="some")


@pytest.mark.parametrize("vision, grid, side", [
    ({"image_size": 336, "patch_size": 14}, (16, 16), 336),  # LLaVA: what the tower was made for
    ({"image_size": (448, 448), "patch_size": (14, 14)}, (32, 32), 448),  # InternVL says height and width
    ({"patch_size": 14, "spatial_merge_size": 2}, (16, 16), 448),  # Qwen2.5-VL: a cell is a merged patch
    ({"patch_size": 16, "spatial_merge_size": 2}, (16, 24), 768),  # Qwen3-VL
    ({"patch_size": 16, "spatial_merge_size": 2}, (64, 64), 1024),  # too many: two cells a patch
])  # fmt: skip
def test_cells_and_patches_line_up(vision, grid, side):
    assert create.square(config(**vision), grid) == side
    unit = vision["patch_size"] * vision["spatial_merge_size"] if "spatial_merge_size" in vision else 1
    assert side % unit == 0


def test_a_model_that_names_no_size_asks_for_one():
    with pytest.raises(CheckpointError, match="this some model names no image size; add --image-size PIXELS"):
        create.square(config(), (16, 16))


@pytest.mark.parametrize("family", here())
def test_a_base_gets_its_grid_and_its_square(family, tmp_path):
    folder = build(family, tmp_path)
    base = create.base(str(folder), grid=(4, 4))
    assert (base.config.grid, base.config.image_size) == ((4, 4), IMAGE_SIZE[family])
    assert base.config.base_revision.startswith("files:") and base.config.positions == "sequence"
    if "qwen" in family:  # a side that is no multiple of a merged patch would shift the cells against them
        assert create.base(str(folder), grid=(4, 4), image_size=96).config.image_size == 96
        with pytest.raises(CheckpointError, match="into squares of 16 pixels.* a multiple of 16"):
            create.base(str(folder), grid=(4, 4), image_size=72)


def test_what_is_trained_begins_without_the_say_of_the_cells():
    """How much they may count was chosen for the base's weights."""
    assert (
        CheckpointConfig.read(asset("t4s-tiny")).cell_fusion_weight
        and create.base("t4s-tiny").config.cell_fusion_weight is None
    )


@pytest.mark.parametrize("side", [None, 128, 320])
def test_the_embedded_tower_takes_photos_of_any_size(side, tmp_path):
    """A cell is a cell: its photo's pixels change, the prompt does not, and what is saved knows it."""
    base = create.base("t4s-tiny", image_size=side)
    side = side or CheckpointConfig.read(asset("t4s-tiny")).image_size
    inputs, ids = base.preprocess(Image.new("RGB", (300, 200), "grey"))
    assert base.config.image_size == base.model.config.vision_config.image_size == side
    assert inputs["pixel_values"].shape == (1, 3, side, side) and ids.count(base.image_token) == base.cells
    base.processor.save_pretrained(tmp_path)
    base.processor = load_processor(tmp_path)
    again, _ = base.preprocess(Image.new("RGB", (300, 200), "grey"))
    assert torch.equal(inputs["pixel_values"], again["pixel_values"])


def test_a_fresh_model_takes_photos_of_the_size_that_is_asked_for():
    fresh = create.fresh(["dog"], (4, 4), 32, 1, seed=0, image_size=96)
    inputs, _ = fresh.preprocess(Image.new("RGB", (300, 200), "grey"))
    assert fresh.config.image_size == 96 and inputs["pixel_values"].shape == (1, 3, 96, 96)
    with pytest.raises(CheckpointError, match="90×90 pixels cannot be divided into 4 rows.* a multiple of 4"):
        create.fresh(["dog"], (4, 4), 32, 1, seed=0, image_size=90)
    with pytest.raises(CheckpointError, match="a multiple of 16"):
        create.base("t4s-tiny", image_size=300)
