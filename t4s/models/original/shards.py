"""Tensors of a checkpoint one at a time, whatever its files; and the shards of the converted folder.

Pickled shards are read with `weights_only=True` and mapped into memory; this is the one place that reads any.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from t4s.errors import CheckpointError

if TYPE_CHECKING:
    from torch import Tensor

INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SINGLE = ("model.safetensors", "pytorch_model.bin")
DONE = "shards.json"  # in an unfinished folder: {file: {tensor: shape}} of the shards that are whole


def shard_files(folder: Path) -> list[Path]:
    """The weight files of a folder, in order; safetensors before pickles. CheckpointError if one is missing."""
    for index in INDEXES:
        if (folder / index).is_file():
            return _indexed(folder, index)
    for name in SINGLE:
        if (folder / name).is_file():
            return [folder / name]
    raise CheckpointError(f"{folder} holds neither {SINGLE[0]} nor {SINGLE[1]} nor an index of shards.")


def _indexed(folder: Path, index: str) -> list[Path]:
    try:
        weight_map = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / index} is not an index of shards ({error}); download it again.") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise CheckpointError(f"{folder / index} names the shard {name!r}; a shard lies in the same folder.")
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} lacks the shard {name}, which its index names; download it again.")
    return [folder / name for name in names]


class TensorFile:
    """One weight file: `names`, `shape(name)` and `get(name)`. Close it before the next one is opened."""

    def __init__(self, file: Path):
        from safetensors import SafetensorError

        self.file = file
        self._pickled: dict[str, Tensor] | None = None
        try:
            if file.suffix == ".safetensors":
                self._shapes = self._read_header()
            else:
                import torch

                self._pickled = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
                self._shapes = {name: tuple(tensor.shape) for name, tensor in self._pickled.items()}
        except (
            SafetensorError,
            pickle.UnpicklingError,
            OSError,
            RuntimeError,
            ValueError,
            EOFError,
            TypeError,
            AttributeError,
        ) as error:
            detail = " ".join(str(error).split())[:160]
            raise CheckpointError(f"{file} cannot be read as weights ({detail}); download it again.") from error
        self.names: list[str] = list(self._shapes)

    def _read_header(self) -> dict[str, tuple[int, ...]]:
        from safetensors import safe_open

        with safe_open(self.file, "pt") as stored:
            return {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118 (no dict)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[name]

    def get(self, name: str) -> Tensor:
        """The tensor. A safetensors file is opened for each, so that no other tensor's pages stay in memory."""
        if self._pickled is not None:
            return self._pickled[name]
        from safetensors import safe_open

        with safe_open(self.file, "pt") as stored:
            return stored.get_tensor(name)

    def close(self) -> None:
        """Let go of the file, so that its pages leave memory."""
        self._pickled = None


def stored_shapes(files: list[Path]) -> dict[str, tuple[int, ...]]:
    """{name: shape} of every tensor of the files. CheckpointError if a name occurs twice."""
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        opened = TensorFile(file)
        for name in opened.names:
            if name in shapes:
                raise CheckpointError(f"The tensor {name} is in {file.name} and in another shard; download them again.")
            shapes[name] = opened.shape(name)
        opened.close()
    return shapes


def stored_tensors(files: list[Path], skip: set[str]) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of all files but those in `skip`, one file open at a time."""
    for file in files:
        opened = TensorFile(file)
        for name in opened.names:
            if name not in skip:
                yield name, opened.get(name)
        opened.close()


class ShardWriter:
    """Writes tensors as numbered safetensors shards of about `size` bytes into `folder`.

    Each shard is written under a temporary name and renamed, then noted in `shards.json`: a killed conversion goes on
    after the last whole shard. `finish` writes the index and removes the note.
    """

    def __init__(self, folder: Path, size: int):
        self.folder, self.size = folder, size
        note = folder / DONE
        self.done: dict[str, dict[str, list[int]]] = json.loads(note.read_text()) if note.is_file() else {}
        self._pending: dict[str, Tensor] = {}
        self._bytes = 0

    @property
    def written(self) -> dict[str, tuple[int, ...]]:
        """{tensor: shape} of the shards that are whole."""
        return {name: tuple(shape) for tensors in self.done.values() for name, shape in tensors.items()}

    def add(self, name: str, tensor: Tensor) -> None:
        self._pending[name] = tensor.contiguous()
        self._bytes += tensor.numel() * tensor.element_size()
        if self._bytes >= self.size:
            self.flush()

    def flush(self) -> None:
        """Write what is pending as one shard."""
        if not self._pending:
            return
        from safetensors.torch import save_file

        name = f"model-{len(self.done) + 1:05d}.safetensors"
        temporary = self.folder / (name + ".part")
        save_file(self._pending, temporary, metadata={"format": "pt"})
        os.replace(temporary, self.folder / name)
        self.done[name] = {key: list(tensor.shape) for key, tensor in self._pending.items()}
        self._note()
        self._pending, self._bytes = {}, 0

    def _note(self) -> None:
        temporary = self.folder / (DONE + ".part")
        temporary.write_text(json.dumps(self.done))
        os.replace(temporary, self.folder / DONE)

    def finish(self) -> None:
        self.flush()
        total = sum((self.folder / name).stat().st_size for name in self.done)
        weight_map = {tensor: name for name, tensors in self.done.items() for tensor in tensors}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (self.folder / INDEXES[0]).write_text(json.dumps(index, indent=1) + "\n")
        (self.folder / DONE).unlink(missing_ok=True)
