"""Writes a trained model as a checkpoint folder: weights, processor, t4s.json, and at the end the model card.

New files replace the old ones only when all of them are written, so a full disk never destroys a checkpoint.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from t4s import hub
from t4s.evaluation.validation import Result
from t4s.models.checkpoint import ADAPTER, EMBEDDED, CheckpointConfig
from t4s.models.vlm import VLM
from t4s.training import lora
from t4s.training.config import TrainConfig

NEW = ".new"  # subfolder that new files are written to first
PICTURE = "predictions.png"
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", ADAPTER)


def dtype_of(config: CheckpointConfig) -> torch.dtype:
    """Type that full models are stored in: float16 for the embedded architecture, which runs on CPUs, else bfloat16."""
    return torch.float16 if config.positions == "cells" else torch.bfloat16


def write(vlm: VLM, adapted: PeftModel | None, folder: Path) -> None:
    """Write weights (safetensors), processor and t4s.json. adapted: the PEFT model, None in full training."""
    new = folder / NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    if adapted is not None:
        lora.save(adapted, vlm, new)
    else:
        cpu_copy(vlm.model, dtype_of(vlm.config)).save_pretrained(new)
        vlm.processor.save_pretrained(new)
        vlm.config.write(new)
    (new / hub.CARD).unlink(missing_ok=True)  # PEFT's own card; `write_card` writes ours
    _replace(new, folder)


def cpu_copy(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy on the CPU in `dtype`, made tensor by tensor: a GPU may have no room for a second model."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        copied = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None, copy=True)
        memo[id(tensor)] = nn.Parameter(copied, False) if isinstance(tensor, nn.Parameter) else copied
    return copy.deepcopy(model, memo)


def add_missing_files(vlm: VLM, adapted: PeftModel | None, folder: Path) -> None:
    """Add what Trainer does not write when it saves a sharded model: t4s.json, the processor, the base's name."""
    if adapted is not None:
        lora.name_base(adapted, vlm.config)
        adapted.peft_config["default"].save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    vlm.config.write(folder)


def _replace(new: Path, folder: Path) -> None:
    """Move every file of `new` into `folder`, and delete weights and configurations of an earlier checkpoint there."""
    files = [file for file in new.iterdir() if file.is_file()]
    stale = {file for pattern in WEIGHT_FILES for file in folder.glob(pattern)} - {folder / file.name for file in files}
    for file in files:
        os.replace(file, folder / file.name)
    for file in stale:
        file.unlink()
    shutil.rmtree(new)


def merge(folder: Path) -> None:
    """Turn an adapter checkpoint into a full model, in place."""
    new = folder / NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in (hub.CARD, PICTURE):
            shutil.copy2(file, new)
    lora.merge(new, dtype_of(CheckpointConfig.read(new)))
    _replace(new, folder)


def must_be_merged(config: CheckpointConfig) -> bool:
    """True if others could not find an adapter's base: a local path, or the checkpoint that comes with t4s."""
    return config.base_model is not None and (config.base_model == EMBEDDED or hub.is_machine_path(config.base_model))


def write_card(
    folder: Path,
    repo_id: str,
    config: TrainConfig,
    settings: Mapping[str, object],
    result: Result | None,
    shown: str,
    measured: bool,
) -> None:
    """Write the model card with the picture of the last evaluation.

    shown: the photos of that picture, in words; measured: whether its figures go into the card.
    """
    figures: Sequence[hub.Figure] = ()
    notes = ""
    if result is not None:
        result.sheet.save(folder / PICTURE)
        notes = f"The picture shows {hub.public(shown)}: the truth on the left, the answer on the right."
        if measured:
            figures = result.card_figures(shown)
    picture = PICTURE if result is not None else None
    hub.write_card(folder, repo_id, config.dataset, settings, figures, picture, config.license, notes)
