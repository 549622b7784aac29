"""Adapters: low-rank matrices beside a model's linear layers, and its projector trained whole (LoRA, arXiv 2106.09685).

    adapted = attach(vlm, rank=64, alpha=128, dropout=0.05)    # what is trained and saved; vlm.model goes on
    save(adapted, vlm, folder)                                 # adapter, processor, t4s.json: a checkpoint
    merge(folder)                                                   # the same checkpoint as a full model

The vlm keeps its model: the matrices sit inside it, so that what is answered during training is what is learnt.
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

# Qwen-VL keeps its projector inside the vision tower, under these names; other families beside it.
WITHIN_TOWER = re.compile(r"(?:^|\.)(?:merger|deepstack_merger_list\.\d+)$")
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def targets(model: nn.Module) -> str:
    """A pattern for every linear layer of the language model, its output layer left out: PEFT's `target_modules`."""
    decoder = model.get_decoder()
    (root,) = [name for name, part in model.named_modules() if part is decoder]
    names = {name.rpartition(".")[2] for name, part in decoder.named_modules() if isinstance(part, nn.Linear)}
    return rf"{re.escape(root)}\..*\.(?:{'|'.join(sorted(names))})"


def projector(model: nn.Module) -> list[str]:
    """The names of what stands between vision tower and language model. CheckpointError if nothing does."""
    ends = (model.get_decoder(), model.get_encoder("image"))
    beside = [
        f"model.{name}"
        for name, part in model.model.named_children()
        if all(part is not end for end in ends) and any(True for _ in part.parameters())
    ]
    found = beside or [name for name, _ in model.named_modules() if WITHIN_TOWER.search(name)]
    if not found:
        raise CheckpointError(
            f"No projector was found in {type(model).__name__}, so LoRA would not train one; train "
            "this model with --full."
        )
    return found


def attach(vlm: VLM, rank: int, alpha: int, dropout: float, checkpointing: bool = False) -> PeftModel:
    """Put fresh adapters into the vlm's model. What is trained is float32 at least; all else is frozen."""
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
    """The adapter with the name of its base in place of a path, the processor and t4s.json."""
    name_base(adapted, vlm.config)
    adapted.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the Hub for the base
    vlm.processor.save_pretrained(folder)
    vlm.config.write(folder)


def name_base(adapted: PeftModel, config: CheckpointConfig) -> None:
    """The base's id and revision, in place of where it lay when it was loaded."""
    for adapter in adapted.peft_config.values():
        adapter.base_model_name_or_path, adapter.revision = config.base_model, config.base_revision


def merge(folder: Path, dtype: torch.dtype) -> None:
    """Write the adapter's checkpoint in `folder` as a full model that needs no base."""
    config = CheckpointConfig.read(folder)
    model = load_model(folder, config, dtype, "cpu")
    model.save_pretrained(folder)
    for name in ADAPTER_FILES:
        (folder / name).unlink()
    origin = EMBEDDED if config.base_model == EMBEDDED else None
    replace(config, base_model=origin, base_revision=None).write(folder)
