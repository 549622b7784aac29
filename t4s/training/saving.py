"""What a run finds and leaves in --out: an earlier run's settings; the checkpoint; at the end the model card.

    check_folder(out, resume)              # before anything is loaded: an earlier run is never overwritten silently
    check_settings(folder, settings, …)    # --resume: the same settings, or it would be another run
    write(vlm, adapted, out)               # weights, processor, t4s.json

New files replace the old ones only when all of them are written, so a full disk never destroys a checkpoint.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from t4s import hub
from t4s.errors import DataError
from t4s.evaluation.validation import Result
from t4s.models.checkpoint import ADAPTER, EMBEDDED, CheckpointConfig
from t4s.models.vlm import VLM
from t4s.training import lora
from t4s.training.config import TrainConfig

NEW = ".new"  # subfolder that new files are written to first
PICTURE = "predictions.png"
SETTINGS_FILE = "settings.json"
# Files of an earlier run: the checkpoint of train.py, and its states; tower and refiner write weights and a state.
MARKS = ("t4s.json", "*.safetensors", "state/checkpoint-*", "state.pt")
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", ADAPTER)


# --- an earlier run


def check_folder(out: Path, resume: bool) -> None:
    """Create `out`. DataError if it cannot be written, or if it holds an earlier run and this one does not resume."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise DataError(f"--out {out} cannot be written ({error.strerror}); choose another folder.") from error
    if not resume and any(found for mark in MARKS for found in out.glob(mark)):
        raise DataError(
            f"--out {out} holds an earlier run; continue it with --resume, or choose another folder (an old run is "
            "never overwritten)."
        )


def store_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write {field: value} to `folder`, for later runs to compare with."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=1, default=str) + "\n", encoding="utf-8")


def check_settings(folder: Path, settings: Mapping[str, Any], may_change: Iterable[str]) -> None:
    """DataError that lists the differences from the stored settings, those in `may_change` left out.

    A folder without stored settings, from an earlier t4s, passes.
    """
    file = folder / SETTINGS_FILE
    if not file.is_file():
        return
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read ({error}); choose another --out and start again.") from error
    current = json.loads(json.dumps(settings, default=str))
    compared = sorted((stored.keys() & current.keys()) - set(may_change))
    changed = [
        f"--{name.replace('_', '-')} {_shown(current[name])} (was {_shown(stored[name])})"
        for name in compared
        if current[name] != stored[name]
    ]
    if changed:
        raise DataError(
            f"--resume continues a run with other settings: {', '.join(changed)}. Give it the same settings, or choose "
            "another --out; only its length, what is saved and reported, and how work is divided may change."
        )


def _shown(value: Any) -> str:
    if value is None or value is False:
        return "not given"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)


# --- the checkpoint


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
