"""A LoRA adapter as the original LLaVA code saves it, merged into its base tensor by tensor."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from t4s.errors import CheckpointError
from t4s.models.checkpoint import ADAPTER
from t4s.models.original import layout
from t4s.models.original.shards import stored_tensors

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
NON_LORA = "non_lora_trainables.bin"
LORA_MATRIX = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<matrix>[AB])(?:\.default)?\.weight$")
WRAPPERS = re.compile(r"^(?:base_model\.)?(?:model\.)+")  # that PEFT puts before a name


class Adapter:
    """A LoRA adapter of the original code: pairs of matrices, and tensors trained in full (the projector)."""

    def __init__(self, folder: Path):
        try:
            settings = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
            rank = settings["r"]
            self.scale = settings["lora_alpha"] / (rank**0.5 if settings.get("use_rslora") else rank)
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise CheckpointError(f"{folder / ADAPTER} does not describe a LoRA adapter ({error!r}).") from error
        found = [folder / name for name in ADAPTER_FILES if (folder / name).is_file()]
        if not found:
            raise CheckpointError(f"{folder} holds neither {ADAPTER_FILES[0]} nor {ADAPTER_FILES[1]}.")
        file = found[0]
        self.pairs: dict[str, dict[str, Tensor]] = {}
        for name, tensor in stored_tensors([file], set()):
            matched = LORA_MATRIX.match(name)
            if matched is None:
                raise CheckpointError(f"{file} holds the tensor {name}, which is no LoRA matrix.")
            self.pairs.setdefault(f"{matched['module']}.weight", {})[matched["matrix"]] = tensor
        self.extra: dict[str, Tensor] = {}
        if (folder / NON_LORA).is_file():
            for name, tensor in stored_tensors([folder / NON_LORA], set()):
                self.extra[WRAPPERS.sub("model.", name)] = tensor

    def check(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """CheckpointError for a matrix that belongs to no tensor of the base, or lacks its partner."""
        for name, pair in self.pairs.items():
            if layout.target_name(name) not in shapes:
                raise CheckpointError(f"The adapter changes {name}, which the base does not have; name another --base.")
            if set(pair) != {"A", "B"}:
                raise CheckpointError(f"The adapter holds only matrix {'/'.join(sorted(pair))} of {name}.")

    def merged(self, name: str, tensor: Tensor) -> Tensor:
        """The base's tensor with what the adapter learnt added."""
        pair = self.pairs.get(name)
        if pair is None:
            return tensor
        change = self.scale * (pair["B"].float() @ pair["A"].float())
        return (tensor.float() + change).to(tensor.dtype)
