"""Adapters: low-rank matrices beside a model's linear layers, and its projector trained whole (LoRA, arXiv 2106.09685).

    adapted = attach(vlm, rank=64, alpha=128, dropout=0.05)    # the PEFT model that is trained and saved
    save(adapted, vlm, folder)                                 # adapter, processor, t4s.json: a checkpoint
    merge(folder, torch.float16)                               # the same checkpoint as a full model

`vlm.model` stays in use: the matrices are inserted into it, so an evaluation during training sees what was learned.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn

from t4s.errors import CheckpointError
from t4s.models.checkpoint import EMBEDDED, CheckpointConfig
from t4s.models.loading import load_model
from t4s.models.vlm import VLM

# Qwen-VL has its projector inside the vision tower, under these names; other families beside it.
WITHIN_TOWER = re.compile(r"(?:^|\.)(?:merger|deepstack_merger_list\.\d+)$")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def targets(model: nn.Module) -> str:
    """PEFT's `target_modules`: a pattern for every linear layer of the language model except its output layer."""
    decoder = model.get_decoder()
    (root,) = [name for name, part in model.named_modules() if part is decoder]
    names = {name.rpartition(".")[2] for name, part in decoder.named_modules() if isinstance(part, nn.Linear)}
    return rf"{re.escape(root)}\..*\.(?:{'|'.join(sorted(names))})"


def projector(model: nn.Module) -> list[str]:
    """Names of the modules between vision tower and language model. CheckpointError if there are none."""
    ends = (model.get_decoder(), model.get_encoder("image"))
    beside = [
        f"model.{name}"
        for name, part in model.model.named_children()
        if all(part is not end for end in ends) and any(True for _ in part.parameters())
    ]
    found = beside or [name for name, _ in model.named_modules() if WITHIN_TOWER.search(name)]
    if not found:
        raise CheckpointError(
            f"{type(model).__name__} has no projector between vision tower and language model that LoRA could train; "
            "train this model with --full."
        )
    return found


def attach(vlm: VLM, rank: int, alpha: int, dropout: float, checkpointing: bool = False) -> PeftModel:
    """Insert fresh adapters into the model. Trained weights are float32; all others are frozen."""
    model = vlm.model
    if getattr(model, "is_quantized", False):
        kwargs = {"use_reentrant": False}
        model = prepare_model_for_kbit_training(model, checkpointing, gradient_checkpointing_kwargs=kwargs)
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets(model), modules_to_save=projector(model)
    )
    adapted = get_peft_model(model, config)
    for weight in adapted.parameters():
        if weight.requires_grad and weight.dtype in (torch.float16, torch.bfloat16):
            weight.data = weight.data.float()
    return adapted


def save(adapted: PeftModel, vlm: VLM, folder: Path) -> None:
    """Write the adapter (its base by name, not by path), the processor and t4s.json."""
    name_base(adapted, vlm.config)
    adapted.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the Hub for the base
    vlm.processor.save_pretrained(folder)
    vlm.config.write(folder)


def name_base(adapted: PeftModel, config: CheckpointConfig) -> None:
    """Record the base's id and revision instead of the path it was loaded from."""
    for adapter in adapted.peft_config.values():
        adapter.base_model_name_or_path, adapter.revision = config.base_model, config.base_revision


def merge(folder: Path, dtype: torch.dtype) -> None:
    """Turn the adapter checkpoint in `folder` into a full model that needs no base."""
    config = CheckpointConfig.read(folder)
    model = load_model(folder, config, dtype, "cpu")
    model.save_pretrained(folder)
    for name in ADAPTER_FILES:
        (folder / name).unlink()
    origin = EMBEDDED if config.base_model == EMBEDDED else None
    replace(config, base_model=origin, base_revision=None).write(folder)
