"""A trained model as a checkpoint folder: written whole or not at all, merged where it must be, with its model card.

What lies in the folder stays as it was until the new files are all there: a disk that runs full in the middle costs
nothing that was trained.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from t4s import hub
from t4s.evaluation.validation import Result
from t4s.models.checkpoint import ADAPTER, EMBEDDED, CheckpointConfig
from t4s.models.vlm import VLM
from t4s.training import lora

NEW = ".new"  # folder below the checkpoint's, while it is written
PICTURE = "predictions.png"
OF_ONE_KIND = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", ADAPTER)


def dtype_of(config: CheckpointConfig) -> torch.dtype:
    """How full models are stored: the embedded kind, which runs on CPUs, as float16; others as bfloat16."""
    return torch.float16 if config.positions == "cells" else torch.bfloat16


def write(vlm: VLM, adapted, folder: Path) -> None:
    """A checkpoint: weights (safetensors), processor, t4s.json. `adapted`: the PEFT model, None for a full one."""
    new = folder / NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    if adapted is not None:
        lora.save(adapted, vlm, new)
    else:
        stored(vlm.model, dtype_of(vlm.config)).save_pretrained(new)
        vlm.processor.save_pretrained(new)
        vlm.config.write(new)
    (new / hub.CARD).unlink(missing_ok=True)  # PEFT's own does not fit
    _move(new, folder)


def stored(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """A copy on the CPU in `dtype`, tensor by tensor: beside a model in training a GPU has no room for a second one."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        copied = tensor.detach().to("cpu", dtype if tensor.is_floating_point() else None, copy=True)
        memo[id(tensor)] = nn.Parameter(copied, False) if isinstance(tensor, nn.Parameter) else copied
    return copy.deepcopy(model, memo)


def complete(vlm: VLM, adapted, folder: Path) -> None:
    """What Trainer leaves out where it has saved a sharded model: t4s.json, the processor, the name of the base."""
    if adapted is not None:
        lora.name_base(adapted, vlm.config)
        adapted.peft_config["default"].save_pretrained(folder)
    vlm.processor.save_pretrained(folder)
    vlm.config.write(folder)


def _move(new: Path, folder: Path) -> None:
    """Every file of `new` into `folder`; weights and configurations that another kind of checkpoint left there go."""
    files = [file for file in new.iterdir() if file.is_file()]
    stale = {file for pattern in OF_ONE_KIND for file in folder.glob(pattern)} - {folder / file.name for file in files}
    for file in files:
        os.replace(file, folder / file.name)
    for file in stale:
        file.unlink()
    shutil.rmtree(new)


def merge(folder: Path) -> None:
    """An adapter's checkpoint as a full model, in the same place."""
    new = folder / NEW
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in (hub.CARD, PICTURE):
            shutil.copy2(file, new)
    lora.merge(new, dtype_of(CheckpointConfig.read(new)))
    _move(new, folder)


def must_be_merged(config: CheckpointConfig) -> bool:
    """Whether an adapter's base is found on this machine alone: a path, or the checkpoint that comes with t4s."""
    return config.base_model is not None and (config.base_model == EMBEDDED or hub.is_machine_path(config.base_model))


def describe(
    folder: Path,
    repo_id: str,
    datasets: Sequence[str],
    settings: Mapping[str, object],
    result: Result | None,
    seen: str,
    measured: bool,
    license: str | None,
) -> None:
    """The model card, with the last evaluation's picture and, if `measured`, its figures. `seen`: of what photos."""
    figures, notes = (), ""
    if result is not None:
        result.sheet.save(folder / PICTURE)
        notes = f"The picture shows answers about photos of {hub.public(seen)}: left the truth, right the answer."
        figures = result.card_figures(seen) if measured else ()
    hub.write_card(folder, repo_id, datasets, settings, figures, PICTURE if result else None, license, notes)
