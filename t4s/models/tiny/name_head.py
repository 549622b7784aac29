"""What a tower's lesson leaves for the language model: a projector, and a vector for each name (see `t4s.training.tower`).

A cell's features, projected, lie near the vector of the name that covers the cell. `load` makes these vectors the
first embeddings of the names' words, so that a fresh language model can compare a question with a photo from
its first step on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerBase

from t4s import lexicon
from t4s.errors import CheckpointError
from t4s.models.tiny import architecture

FILE = "aligned.safetensors"  # beside the tower's weights
NAME_RMS, CELL_RMS = 0.05, 0.5  # size of the numbers of a name's vector and of a projected cell, as written
SCALE, BIAS = 12.0, -4.0  # of a logit: a cosine of 1 is 8, and most names are not in a cell
SHARED = 3  # a part of words that more names than this are spelled with keeps its own embedding


class NameHead(nn.Module):
    """A projector of LLaVA's shape and a vector for each name: features (…, tower width) → logits (…, names)."""

    def __init__(self, inputs: int, width: int, names: list[str]):
        super().__init__()
        self.table = names
        self.linear_1, self.linear_2 = nn.Linear(inputs, width), nn.Linear(width, width)
        self.names = nn.Parameter(torch.randn(len(names), width))
        self.scale = nn.Parameter(torch.full((len(names),), SCALE))
        self.bias = nn.Parameter(torch.full((len(names),), BIAS))

    def project(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear_2(F.gelu(self.linear_1(features)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Compares directions alone: a language model normalises what it reads, so what all cells have in common
        must not outweigh what tells them apart."""
        cells = F.normalize(self.project(features), dim=-1)
        return F.linear(cells, F.normalize(self.names, dim=1)) * self.scale + self.bias

    @torch.no_grad()
    def save(self, folder: Path, features: Tensor) -> None:
        """What a language model begins with, as safetensors; `features` (n, tower width) are typical, for the scale."""
        shrink = CELL_RMS / self.project(features).pow(2).mean().sqrt()
        tensors = {
            "linear_1.weight": self.linear_1.weight,
            "linear_1.bias": self.linear_1.bias,
            "linear_2.weight": self.linear_2.weight * shrink,
            "linear_2.bias": self.linear_2.bias * shrink,
            "names": F.normalize(self.names, dim=1) * self.names.shape[1] ** 0.5 * NAME_RMS,
        }
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, folder / FILE, metadata={"names": json.dumps(self.table)})


def load(model: LlavaForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Tower, projector and the embeddings of the names' words into a fresh model.

    Raises CheckpointError if they are not there or do not fit.
    """
    architecture.load_tower(model, folder)
    file = Path(folder) / FILE
    if not file.is_file():
        raise CheckpointError(f"{file} is not there: train it with t4s train-tower --out {folder}.")
    with safe_open(file, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no dict)
        table = json.loads((stored.metadata() or {}).get("names", "[]"))
    vectors, embeddings = tensors.pop("names"), model.get_input_embeddings().weight
    if vectors.shape[1] != embeddings.shape[1]:
        raise CheckpointError(
            f"{file} is for a language model {vectors.shape[1]} wide, this one is "
            f"{embeddings.shape[1]}: train with --width {vectors.shape[1]}, or train the tower with "
            f"--language-width {embeddings.shape[1]}."
        )
    try:
        model.model.multi_modal_projector.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{file} does not fit this projector: {error}") from error
    with torch.no_grad():
        for token, vector in word_vectors(tokenizer, table, vectors).items():
            embeddings[token] = vector


def word_vectors(tokenizer: PreTrainedTokenizerBase, table: Sequence[str], vectors: Tensor) -> dict[int, Tensor]:
    """{token: embedding}: of names that are one token, else of their plurals and synonyms, else of the parts of names.

    `vectors` (names, width) belong to `table`. A token that several of the same rank share gets their mean.
    """
    found: dict[int, list[tuple[int, Tensor]]] = {}
    for name, vector in zip(table, vectors, strict=True):
        for word in lexicon.words_for(name):
            for text in (word, f" {word}"):  # behind a space, words are other tokens
                ids = tokenizer(text, add_special_tokens=False)["input_ids"]
                if len(ids) > 1 and word != name:
                    continue
                rank = 2 if len(ids) > 1 else int(word != name)
                for token in ids:
                    found.setdefault(token, []).append((rank, vector))
    result = {}
    for token, ranked in found.items():
        best = min(rank for rank, _ in ranked)
        chosen = [vector for rank, vector in ranked if rank == best]
        if best < 2 or len(chosen) <= SHARED:
            result[token] = torch.stack(chosen).mean(0)
    return result
