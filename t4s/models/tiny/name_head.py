"""What training the tower leaves for the language model: a projector, and a vector per name (`t4s.training.tower`).

A cell's projected features lie near the vector of the name that covers the cell. `load` makes these vectors the
initial embeddings of the names' words, so that a fresh language model can compare a question with a photo from its
first step on.
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
NAME_RMS = 0.05  # root mean square of a stored name vector
CELL_RMS = 0.5  # of a projected cell
SCALE = 12.0  # initial factor of a cosine, so that a cosine of 1 with BIAS is a logit of 8
BIAS = -4.0  # initial: most names are not in a cell
MAX_SHARED = 3  # a word part that more names than this share keeps its random embedding


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
        """Cosine logits: a language model normalises its inputs, so only directions must tell the names apart."""
        cells = F.normalize(self.project(features), dim=-1)
        return F.linear(cells, F.normalize(self.names, dim=1)) * self.scale + self.bias

    @torch.no_grad()
    def save(self, folder: Path, features: Tensor) -> None:
        """Write projector and vectors as safetensors; `features` (n, tower width) are typical ones, for the scale."""
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
    """Load tower, projector and the embeddings of the names' words into a fresh model.

    Raises CheckpointError if they are missing or do not fit.
    """
    architecture.load_tower(model, folder)
    file = Path(folder) / FILE
    if not file.is_file():
        raise CheckpointError(f"{file} is missing: train it with t4s train-tower --out {folder}.")
    with safe_open(file, "pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (it is no dict)
        table = json.loads((stored.metadata() or {}).get("names", "[]"))
    vectors, embeddings = tensors.pop("names"), model.get_input_embeddings().weight
    if vectors.shape[1] != embeddings.shape[1]:
        raise CheckpointError(
            f"{file} is for a language model of width {vectors.shape[1]}, this one has "
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
    """{token: embedding} for every token that names are spelled with.

    A token takes the vector of a name that it spells whole; else of a name that it is a plural or synonym of; else of
    the names that it is a part of. Several of one rank give their mean. `vectors` (names, width) belong to `table`.
    """
    found: dict[int, list[tuple[int, Tensor]]] = {}
    for name, vector in zip(table, vectors, strict=True):
        for word in lexicon.words_for(name):
            for text in (word, f" {word}"):  # after a space, words are other tokens
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
        if best < 2 or len(chosen) <= MAX_SHARED:
            result[token] = torch.stack(chosen).mean(0)
    return result
