"""The model that training starts from: a fresh one of the embedded architecture, or an existing base.

A base that t4s has trained brings its `t4s.json`; any other image-text-to-text model gets one here: the grid, the
first question and answer template, and the side of the square that photos are resized to. That side is the one the
vision tower was made for; a tower that takes any size gets as many merged patches as the grid has cells.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoConfig

from t4s.errors import CheckpointError
from t4s.models.checkpoint import EMBEDDED, FORMAT_FILE, CheckpointConfig, find, fingerprint, is_from_hub
from t4s.models.loading import load_model, load_processor
from t4s.models.tiny import architecture, name_head
from t4s.models.vlm import VLM

MAX_IMAGE = 1024  # pixels of a side, where the tower leaves the choice to us


def fresh(
    names: Iterable[str],
    grid: tuple[int, int],
    width: int,
    layers: int,
    seed: int,
    tower: Path | None = None,
    image_size: int | None = None,
) -> VLM:
    """A new model of the embedded architecture with a tokenizer for these class names.

    tower: a folder that `t4s train-tower` wrote. Raises CheckpointError if it is missing or does not fit, or if
    `image_size` is not a multiple of the grid.
    """
    torch.manual_seed(seed)
    processor = architecture.processor(names, grid)
    body = architecture.body_of(tower) if tower else architecture.DEFAULT_BODY
    model = architecture.model(processor, grid, width=width, layers=layers, heads=width // 32, body=body)
    if tower:
        name_head.load(model, processor.tokenizer, tower)
    side = image_size or grid[0] * architecture.PATCH
    architecture.set_image_size(side, model, processor)
    config = CheckpointConfig(
        grid=grid,
        image_size=side,
        question=architecture.QUESTION,
        class_question=architecture.CLASS_QUESTION,
        answer=architecture.ANSWER,
        normalize_queries=True,
        positions="cells",
        bidirectional_prefix=True,
        classes_per_query=1,
    )
    return VLM(model, processor, config)


def base(
    source: str,
    revision: str | None = None,
    grid: tuple[int, int] | None = None,
    image_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    quantize: str | None = None,
    base_id: str | None = None,
) -> VLM:
    """A base by Hub id or folder, or the embedded checkpoint ("t4s-tiny"); `base_id`: the public id to record for it.

    Raises CheckpointError if it is missing, is no image-text-to-text model, or does not fit `grid` or `image_size`.
    """
    folder = find(None if source == EMBEDDED and not Path(source).is_dir() else source, revision)
    config = CheckpointConfig.read(folder) if (folder / FORMAT_FILE).is_file() else None
    if config is None:
        grid = grid or (16, 16)
        config = CheckpointConfig(grid=grid, image_size=image_size or square(_config(folder), grid))
    config = _with_sizes(config, grid, image_size, source)
    model, processor = load_model(folder, config, dtype, device, quantize), load_processor(folder)
    if config.positions == "cells":
        architecture.set_image_size(config.image_size, model, processor)
    name, commit = _name(source, folder, revision, base_id)
    # The fusion weight was chosen for the base's weights; at the start of training, cell scores are less reliable.
    config = replace(config, base_model=name, base_revision=commit, metrics={}, cell_fusion_weight=None)
    vlm = VLM(model, processor, config)
    _check_processor(vlm)
    return vlm


def _config(folder: Path) -> Any:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{folder} is no model that transformers loads ({detail}); give a folder or Hub id of "
            "an image-text-to-text model."
        ) from error


def _with_sizes(
    config: CheckpointConfig, grid: tuple[int, int] | None, image_size: int | None, source: str
) -> CheckpointConfig:
    """The base's settings with another grid or photo size. Raises CheckpointError where it cannot have one."""
    if config.positions == "cells" and grid not in (None, config.grid):
        rows, columns = config.grid
        raise CheckpointError(f"{source} is made for {rows}×{columns} cells; leave --grid out, or train a fresh model.")
    return replace(config, grid=grid or config.grid, image_size=image_size or config.image_size)


def _name(source: str, folder: Path, revision: str | None, base_id: str | None) -> tuple[str, str | None]:
    """(`base_model`, `base_revision`) for t4s.json: an id with its commit, or a folder with its fingerprint."""
    if base_id:
        return base_id, revision
    if is_from_hub(folder):  # a snapshot folder is named by its commit
        return source, folder.name
    local = Path(source).is_dir()
    return str(folder.resolve()) if local else EMBEDDED, fingerprint(folder)


def square(config: Any, grid: tuple[int, int]) -> int:
    """Side in pixels that a model's vision tower takes. Raises CheckpointError if its configuration does not say."""
    vision = getattr(config, "vision_config", None)
    side = getattr(vision, "image_size", None)
    if isinstance(side, (list, tuple)):
        side = side[0]
    patch, merged = getattr(vision, "patch_size", None), getattr(vision, "spatial_merge_size", 1)
    if side is None and isinstance(patch, int):
        unit, cells = patch * merged, max(grid)
        side = unit * next(n for n in (cells, *range(cells // 2, 0, -1)) if unit * n <= MAX_IMAGE)
    if not isinstance(side, int):
        raise CheckpointError(
            f"The configuration of this {config.model_type} model names no image size; add --image-size PIXELS."
        )
    return side


def _check_processor(vlm: VLM) -> None:
    """Prepare one photo. Raises CheckpointError if the processor cannot, or if patches and cells do not line up."""
    side = vlm.config.image_size
    try:
        _, ids = vlm.preprocess(Image.fromarray(np.zeros((side, side, 3), np.uint8)))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"The processor of this base cannot prepare a photo of {side}×{side} pixels and a "
            f"question ({error}); give another --image-size or base."
        ) from error
    vision = getattr(vlm.model.config, "vision_config", None)
    patch, merged = getattr(vision, "patch_size", None), getattr(vision, "spatial_merge_size", 1)
    if getattr(vision, "image_size", None) is None and isinstance(patch, int):
        unit, made = patch * merged, ids.count(vlm.image_token)
        if side % unit or made != (side // unit) ** 2:
            raise CheckpointError(
                f"This base cuts photos into squares of {unit} pixels, and made {made} of a photo of "
                f"{side}×{side}; give an --image-size that is a multiple of {unit} and within its limits."
            )
