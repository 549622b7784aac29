"""What is in each cell of labelled photos: the lesson of the embedded model's tower, before and beside the answers.

`t4s train-tower` gives it to a tower that no language model reads yet. `train.py --cells` goes on with it while the
language model learns: its own word embeddings are then the names' vectors, and the projected cells stay beside them.
Without it they drift apart, as answers ask about a name or two of a photo where this asks about all, and a model
that has to find out anew which cells go with which word mistakes a cat for a dog more often than its own tower does.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t4s import lexicon
from t4s.codec.coverage import coverage as cell_coverage
from t4s.data.augment import augment
from t4s.data.folder import FolderDataset
from t4s.data.spec import open_dataset
from t4s.errors import DataError
from t4s.models.efficientnet import PIXEL_MEAN, PIXEL_STD
from t4s.models.tiny.name_head import BIAS, SCALE
from t4s.models.vlm import VLM
from t4s.records import Sample

WEAK = 0.3  # how often a weakly labelled photo is drawn, against 1
WEIGHT = 0.3  # of the lesson beside the loss of the answers
PHOTOS = 8  # of a step beside the answers


def labelled(spec: str) -> FolderDataset:
    """The dataset of a `folder:PATH[@SPLIT]`. DataError if it is another, whose photos are not labelled all over."""
    dataset = open_dataset(spec)
    if not isinstance(dataset, FolderDataset):
        raise DataError(f"The tower learns from labelled cells: give folder:PATH as the dataset, not {spec!r}.")
    return dataset


def coverage(
    ids: np.ndarray, names: dict[int, int], void: tuple[int, ...], classes: int, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) ids → (cells, classes) share of each cell's labelled area, and (cells,) share that is labelled.

    `names` maps ids to class indexes.
    """
    bins = {value: 2 + index for value, index in names.items()} | dict.fromkeys(void, 1)  # 0: neither
    areas = cell_coverage(ids, bins, 2 + classes, grid).reshape(-1, 2 + classes)
    known = areas.sum(1) - areas[:, 1]
    target = areas[:, 2:] / np.maximum(known, 1)[:, None]
    return target.astype(np.float32), (known / areas.sum(1)).astype(np.float32)


class CellBatches:
    """Photos, targets and weights of a step, drawn with (seed, step). `table`: every class name of the dataset."""

    def __init__(self, dataset: FolderDataset, batch: int, image_size: int, grid: tuple[int, int], seed: int):
        self.dataset, self.batch, self.image_size, self.grid, self.seed = dataset, batch, image_size, grid, seed
        self.table = dataset.names
        self.index = {name: i for i, name in enumerate(self.table)}
        weights = np.array([WEAK if photo.weak else 1.0 for photo in dataset.photos])
        self.chances = weights / weights.sum()

    def __call__(self, *step: int) -> tuple[Tensor, Tensor, Tensor]:
        """→ (B, 3, S, S) pixels as the tower takes them, (B, cells, classes) targets, their weights likewise."""
        rng = np.random.default_rng((self.seed, *step))
        parts = [self._one(i, rng) for i in rng.choice(len(self.dataset), self.batch, p=self.chances)]
        pixels, targets, weights = (torch.from_numpy(np.stack(part)) for part in zip(*parts, strict=True))
        return (pixels.float() / 255 - PIXEL_MEAN) / PIXEL_STD, targets, weights

    def _one(self, i: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        photo = self.dataset.photos[i]
        image, ids = self.dataset.open(i)
        whole = Sample(photo.id, photo.source, image, "", ("others",), ids)
        (changed,) = augment((whole,), rng, self.image_size)
        names = {value: self.index[name] for value, name in photo.classes.items()}
        target, known = coverage(changed.class_map, names, self.dataset.void(photo), len(self.table), self.grid)
        asked = np.isin(self.table, list(self.dataset.tables[photo.source])).astype(np.float32)
        return np.asarray(changed.image).transpose(2, 0, 1), target, known[:, None] * asked


def cell_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy, summed over names and averaged over cells: all (B, cells, names)."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, weights, reduction="sum")
    return losses / targets[..., 0].numel()


class CellLoss:
    """The lesson beside the answers: `lesson(step)` → its weighted loss, of a batch of its own.

    A name's vector is the mean embedding of its word's tokens, of one of its words (the name, its plural, a synonym,
    each with and without a space before it), another one every step.
    """

    def __init__(self, vlm: VLM, dataset: FolderDataset, seed: int, bf16: bool, rank: int = 0):
        config = vlm.config
        self.vlm, self.seed, self.bf16, self.rank = vlm, seed, bf16, rank
        self.batches = CellBatches(dataset, PHOTOS, config.image_size, config.grid, seed)
        self.words = [self._spellings(name) for name in self.batches.table]

    def _spellings(self, name: str) -> list[list[int]]:
        return [self.vlm.text_ids(text) for word in lexicon.words_for(name) for text in (word, f" {word}")]

    def __call__(self, step: int) -> Tensor:
        model = self.vlm.model
        pixels, targets, weights = (part.to(model.device) for part in self.batches(step, self.rank))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
            cells = model.model.multi_modal_projector(model.get_encoder("image")(pixels).last_hidden_state)
        rng = np.random.default_rng((self.seed, step, self.rank, 1))
        said = [words[int(rng.integers(len(words)))] for words in self.words]
        logits = F.linear(F.normalize(cells.float(), dim=-1), F.normalize(self._vectors(said), dim=-1))
        return WEIGHT * cell_loss(logits * SCALE + BIAS, targets, weights)

    def _vectors(self, said: Sequence[Sequence[int]]) -> Tensor:
        """(names, width): the mean embedding of each one's tokens."""
        embeddings = self.vlm.model.get_input_embeddings().weight
        ids = torch.tensor([token for tokens in said for token in tokens], device=embeddings.device)
        starts = torch.tensor([0, *np.cumsum([len(tokens) for tokens in said])[:-1]], device=embeddings.device)
        return F.embedding_bag(ids, embeddings, starts, mode="mean")
