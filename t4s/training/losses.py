"""The losses: of the answers' tokens, and of what each cell of a labelled photo shows.

`token_loss` is what every model is trained with. `CellLoss` belongs to the embedded architecture: `t4s train-tower`
teaches a vision tower which classes each cell shows before a language model reads it, and `train.py --cell-loss-data`
keeps teaching it beside the answers, with the language model's word embeddings as class vectors. Without that the
projected cells and the word embeddings drift apart, since an answer asks about one or two classes of a photo where
this loss asks about all of them, and the model confuses cats and dogs more often than its own tower does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t4s import lexicon
from t4s.codec.coverage import coverage
from t4s.data.augment.changes import augment
from t4s.data.augment.draws import Draw, LabelledPixels
from t4s.data.augment.render import render
from t4s.data.augment.views import whole
from t4s.data.folder import FolderDataset
from t4s.data.spec import open_dataset
from t4s.errors import DataError
from t4s.models.efficientnet import PIXEL_MEAN, PIXEL_STD
from t4s.models.tiny.cell_scores import cell_logits
from t4s.models.tiny.name_head import BIAS, SCALE
from t4s.models.vlm import VLM

IGNORE = -100  # label of tokens that are not learned
IMAGE_TOKEN_WEIGHT = 0.5  # of a cell's label in the token loss; a token of the answer weighs 1
WEAK_SHARE = 0.3  # how often a weakly labelled photo is drawn, relative to 1 for the others
CELL_LOSS_WEIGHT = 0.3  # of the cell loss, relative to 1 for the token loss
CELL_LOSS_PHOTOS = 8  # per step, beside those of the answers


# --- the answers


def token_loss(vlm: VLM, empty_row_weight: float = 1.0) -> Callable[..., Tensor]:
    """Cross-entropy of the labels that are not IGNORE, summed, and divided by their number in the whole step.

    empty_row_weight: embedded model only, the weight of the count that ends a row with one full-width run. An uncertain
    model spreads the probability of an object's edge over many counts, and that of its absence over one. With weight 1,
    greedy decoding would call targets absent that are probably present.
    """
    cell_positions = vlm.config.positions == "cells"
    full_width = vlm.text_ids(f"others *{vlm.config.grid[1]}\n")[-1] if cell_positions else None

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        count = (labels != IGNORE).sum() if num_items_in_batch is None else num_items_in_batch
        total = torch.zeros((), device=labels.device)
        if outputs.hidden_states is not None and cell_positions:
            cells = math.prod(vlm.config.grid)
            total = IMAGE_TOKEN_WEIGHT * image_token_losses(vlm, outputs.hidden_states, labels[:, :cells]).sum()
            labels = F.pad(labels[:, cells:], (cells, 0), value=IGNORE)
        losses, targets = cross_entropy(outputs.logits[:, :-1], labels[:, 1:])
        if full_width is not None:
            losses = torch.where(targets == full_width, losses * empty_row_weight, losses)
        return (total + losses.sum()) / count

    return loss


def image_token_losses(vlm: VLM, hidden_states: Sequence[Tensor], labels: Tensor) -> Tensor:
    """Cross-entropy of the image tokens, which come first: each predicts the label that would begin a run at its cell.

    The answer alone names a label once a run and otherwise spells counts; this teaches every cell whether it belongs to
    the target. hidden_states: (B, T, width) of every layer; labels: (B, rows·columns). → (learned cells,)
    """
    return cross_entropy(cell_logits(vlm.model, hidden_states, labels.shape[1]), labels)[0]


def cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """logits (..., V), labels (...) → (losses, labels) of the n labels that are not IGNORE, in float32 or float64."""
    learned = labels != IGNORE
    logits, targets = logits[learned], labels[learned]
    if logits.dtype != torch.float64:
        logits = logits.float()
    return F.cross_entropy(logits, targets, reduction="none"), targets


# --- the cells of labelled photos


def open_labelled(spec: str) -> FolderDataset:
    """The data set of `folder:PATH[@SPLIT]`. DataError for any other, whose photos are not labelled in full."""
    dataset = open_dataset(spec)
    if not isinstance(dataset, FolderDataset):
        raise DataError(f"The vision tower learns from labelled cells: give folder:PATH as the data set, not {spec!r}.")
    return dataset


def class_shares(
    ids: np.ndarray, indexes: dict[int, int], void: tuple[int, ...], classes: int, grid: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) ids → (cells, classes) share of each cell's labelled area, and (cells,) share that is labelled.

    indexes: {id: class index}; other ids are background. void: ids that mean "not labelled".
    """
    background_and_void = 2
    bins = dict.fromkeys(void, 1) | {value: background_and_void + index for value, index in indexes.items()}
    areas = coverage(ids, bins, background_and_void + classes, grid).reshape(-1, background_and_void + classes)
    labelled = areas.sum(1) - areas[:, 1]
    shares = areas[:, background_and_void:] / np.maximum(labelled, 1)[:, None]
    return shares.astype(np.float32), (labelled / areas.sum(1)).astype(np.float32)


class CellBatches:
    """Photos with the class shares of their cells; what is drawn is a function of (seed, step).

    `names`: every class of the data set, in the order of the last axis of the targets.
    """

    def __init__(self, dataset: FolderDataset, batch: int, image_size: int, grid: tuple[int, int], seed: int):
        self.dataset, self.batch, self.image_size, self.grid, self.seed = dataset, batch, image_size, grid, seed
        self.names = dataset.names
        self.index = {name: i for i, name in enumerate(self.names)}
        weights = np.array([WEAK_SHARE if photo.weak else 1.0 for photo in dataset.photos])
        self.probabilities = weights / weights.sum()

    def __call__(self, *step: int) -> tuple[Tensor, Tensor, Tensor]:
        """→ (B, 3, S, S) normalised pixels, (B, cells, classes) shares, (B, cells, classes) weights of the loss."""
        rng = np.random.default_rng((self.seed, *step))
        chosen = rng.choice(len(self.dataset), self.batch, p=self.probabilities)
        examples = [self._example(i, rng) for i in chosen]
        pixels, targets, weights = (torch.from_numpy(np.stack(parts)) for parts in zip(*examples, strict=True))
        return (pixels.float() / 255 - PIXEL_MEAN) / PIXEL_STD, targets, weights

    def _example(self, i: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(3, S, S) uint8 pixels, (cells, classes) shares and weights. Classes that the photo's source does not label
        weigh 0: they may be in the photo all the same."""
        photo = self.dataset.photos[i]
        image, ids = self.dataset.decode(i)
        pixels = LabelledPixels(ids, photo.classes, self.dataset.void(photo), photo.source)
        drawn = augment(Draw(whole(i, ids.shape[::-1]), (), pixels), rng, self.image_size)
        shares, labelled = class_shares(
            drawn.pixels.ids, self.indexes(photo.classes), pixels.void, len(self.names), self.grid
        )
        picture = render(drawn.view, lambda _: image)
        return np.asarray(picture).transpose(2, 0, 1), shares, labelled[:, None] * self.asked(photo.source)

    def indexes(self, classes: dict[int, str]) -> dict[int, int]:
        """{id: index of its name}."""
        return {value: self.index[name] for value, name in classes.items()}

    def asked(self, source: str) -> np.ndarray:
        """(classes,) float32: 1 for the names that a source labels, else 0."""
        return np.isin(self.names, list(self.dataset.tables[source])).astype(np.float32)


def cell_loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Binary cross-entropy, summed over classes and averaged over cells; all (B, cells, classes)."""
    losses = F.binary_cross_entropy_with_logits(logits.float(), targets, weights, reduction="sum")
    return losses / targets[..., 0].numel()


class CellLoss:
    """`cell_loss(step)`: the weighted loss of a batch of labelled cells, to be added to that of the answers.

    A class vector is the mean embedding of the tokens of one of the class's words (name, plural, synonym, each with and
    without a leading space), drawn anew at every step.
    """

    def __init__(self, vlm: VLM, dataset: FolderDataset, seed: int, bf16: bool, rank: int = 0):
        self.vlm, self.seed, self.bf16, self.rank = vlm, seed, bf16, rank
        self.batches = CellBatches(dataset, CELL_LOSS_PHOTOS, vlm.config.image_size, vlm.config.grid, seed)
        self.spellings = [self._spellings(name) for name in self.batches.names]

    def _spellings(self, name: str) -> list[list[int]]:
        """Token ids of every word for the class."""
        return [self.vlm.text_ids(text) for word in lexicon.words_for(name) for text in (word, f" {word}")]

    def __call__(self, step: int) -> Tensor:
        model = self.vlm.model
        pixels, targets, weights = (part.to(model.device) for part in self.batches(step, self.rank))
        with torch.autocast(model.device.type, torch.bfloat16, enabled=self.bf16):
            features = model.get_encoder("image")(pixels).last_hidden_state
            cells = model.model.multi_modal_projector(features)  # (B, cells, width)
        words = self.draw_words(np.random.default_rng((self.seed, step, self.rank, 1)))
        return CELL_LOSS_WEIGHT * cell_loss(class_logits(cells, self.class_vectors(words)), targets, weights)

    def draw_words(self, rng: np.random.Generator) -> list[list[int]]:
        """Token ids of a random word for each class."""
        return [spellings[int(rng.integers(len(spellings)))] for spellings in self.spellings]

    def class_vectors(self, words: Sequence[Sequence[int]]) -> Tensor:
        """Token ids of one word per class → (classes, width), the mean embedding of each word's tokens."""
        embeddings = self.vlm.model.get_input_embeddings().weight
        ids, offsets = (part.to(embeddings.device) for part in word_tensors(words))
        return F.embedding_bag(ids, embeddings, offsets, mode="mean")


def word_tensors(words: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token ids of several words → all of them (n,), and where each word begins, for `embedding_bag`."""
    starts = np.cumsum([0, *(len(tokens) for tokens in words[:-1])])
    return torch.tensor([token for tokens in words for token in tokens]), torch.from_numpy(starts)


def class_logits(cells: Tensor, vectors: Tensor) -> Tensor:
    """Cells (B, cells, width) and class vectors (classes, width) → (B, cells, classes), by their cosine."""
    return F.linear(F.normalize(cells.float(), dim=-1), F.normalize(vectors.float(), dim=-1)) * SCALE + BIAS
