"""Photos with true masks → batches for the learned refiner: photo, coarse maps, truth, known pixels.

Every step takes a few photos and several masks of each: a class, one connected part of it, two classes together, or
everything else. Each mask becomes a coarse grid, a third of the time with errors such as models make (`corrupt_rows.py`), or
a model's own grid of it is taken (`attempts.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from t4s.codec import DescriptorGrid
from t4s.data.folder import FolderDataset
from t4s.data.spec import open_dataset
from t4s.records import IGNORED, Sample
from t4s.refine.edge_net import STRIDE
from t4s.refine.guided import resized
from t4s.refine.interpolate import bicubic, maps, nearest
from t4s.refine.refiner import soft_grid
from t4s.training.refiner.corruption import coverage, draw_shape, spoiled_cells
from t4s.training.refiner.model_grids import ModelGrid, attempts

SMALLEST = 0.003  # of the photo's known pixels: masks below are not trained on
PART_SHARE, UNION_SHARE, REST_SHARE = 0.2, 0.1, 0.1
OWN_VISITS, OWN_SHARE = 0.5, 0.5  # how often a photo with own grids comes, and then how often one of them is taken


@dataclass(frozen=True, eq=False)
class RefinerSample:
    """A photo at the network's working size (s, t, 3) uint8, its masks and its known pixels, packed to bits.

    `own`: the number of a mask and what a model wrote of it.
    """

    photo: np.ndarray
    masks: tuple[np.ndarray, ...]
    known: np.ndarray
    source: str
    own: tuple[tuple[int, ModelGrid], ...] = ()

    def bits(self, packed: np.ndarray) -> np.ndarray:
        """(s, t) bool."""
        rows, columns = self.photo.shape[:2]
        return np.unpackbits(packed, count=rows * columns).reshape(rows, columns).astype(bool)


class RefinerSamples:
    """The photos of some datasets, each decoded when it is first asked for and then kept (about 100 kB each)."""

    def __init__(self, specs: list[str], side: int, without: list[str], limit: int | None, smallest: float = SMALLEST):
        self.datasets = [open_dataset(spec) for spec in specs]
        self.places = [
            (dataset, i)
            for dataset in self.datasets
            for i in range(min(len(dataset), limit or len(dataset)))
            if not (isinstance(dataset, FolderDataset) and dataset.photos[i].source in without)
        ]
        self.side, self.without, self.smallest = side, without, smallest
        self.kept: dict[int, RefinerSample | None] = {}
        self.own: dict[str, ModelGrid] = {}
        self.answered: list[int] = []  # the photos that have an own grid

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> RefinerSample | None:
        """None for a photo that is left out, or that has no mask large enough."""
        if index not in self.kept:
            dataset, place = self.places[index]
            self.kept[index] = self._load([s for s in dataset[place] if s.source not in self.without])
        return self.kept[index]

    def ask(self, checkpoint: str, count: int, folder: Path) -> int:
        """Let a model answer `count` photos of the folder datasets, evenly spaced; how many of its grids are mendable.

        What it wrote is kept in `folder`.
        """
        able = [
            i
            for i, (dataset, place) in enumerate(self.places)
            if isinstance(dataset, FolderDataset) and not dataset.photos[place].weak
        ]
        chosen = [able[i] for i in np.arange(min(count, len(able))) * len(able) // max(1, min(count, len(able)))]
        self.own = attempts(checkpoint, [self.places[i] for i in chosen], folder)
        for index in chosen:
            self.kept.pop(index, None)
        self.answered = [index for index in chosen if self[index] is not None and self[index].own]
        return sum(len(self[index].own) for index in self.answered)

    def order(self, rng: np.random.Generator) -> Iterator[int]:
        """One round over all photos; among them, those with own grids as often as `OWN_VISITS` says."""
        for index in rng.permutation(len(self)):
            while self.answered and rng.random() < OWN_VISITS:
                yield self.answered[rng.integers(len(self.answered))]
            yield int(index)

    def _load(self, samples: list[Sample]) -> RefinerSample | None:
        if not samples:
            return None
        photo = resized(np.asarray(samples[0].image.convert("RGB")), self.side, STRIDE)
        size, masks, known = photo.shape[1::-1], {}, np.ones(photo.shape[:2], bool)
        for sample in samples:
            ids = Image.fromarray(sample.class_map.astype(np.int32))
            classes = np.asarray(ids.resize(size, Image.Resampling.NEAREST))
            known &= classes != IGNORED
            for label in range(1, len(sample.labels)):
                masks[sample.id, label] = classes == label
        masks = {key: mask for key, mask in masks.items() if (mask & known).sum() > self.smallest * known.sum()}
        own = []
        for number, ((name, _), mask) in enumerate(masks.items()):
            one = self.own.get(name)
            if one and one.mendable(true_cells(mask, known, one.cells.shape)):
                own.append((number, one))
        packed = tuple(np.packbits(mask) for mask in masks.values())
        return RefinerSample(photo, packed, np.packbits(known), samples[0].source, tuple(own)) if packed else None


def true_cells(mask: np.ndarray, known: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: the cells that are more than half the mask's, or its best-covered ones."""
    cover = coverage(mask, known, shape)
    return (cover > 0.5) | (cover == max(cover.max(), 1e-9))


def draw_mask(shot: RefinerSample, rng: np.random.Generator) -> np.ndarray:
    """(s, t) bool: a class, a part of one, two together, or all the rest."""
    order, kind = rng.permutation(len(shot.masks)), rng.random()
    mask = shot.bits(shot.masks[order[0]])
    if kind < PART_SHARE:
        return largest_part(mask, rng)
    if kind < PART_SHARE + UNION_SHARE and len(order) > 1:
        return mask | shot.bits(shot.masks[order[1]])
    return ~mask if kind > 1 - REST_SHARE else mask


def largest_part(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pixels of `mask` connected to a random one of them (found on every fourth row and column); `mask` if few."""
    small = mask[::4, ::4]
    places = np.argwhere(small)
    if not len(places):
        return mask
    part = np.zeros_like(small)
    part[tuple(places[rng.integers(len(places))])] = True
    while True:
        near = np.pad(part, 1)
        grown = small & (near[1:-1, 1:-1] | near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:])
        if (grown == part).all():
            break
        part = grown
    near = np.pad(part, 1)
    wide = near[1:-1, 1:-1] | near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:]
    part = mask & wide.repeat(4, 0).repeat(4, 1)[: mask.shape[0], : mask.shape[1]]
    return part if part.mean() > SMALLEST else mask


def coarse_maps(cells: np.ndarray, confidence: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    """(2, s, t) float32: what `refine.edge` shows the network for one label."""
    soft, _ = soft_grid(DescriptorGrid(cells.astype(np.int32), ("others", "it")), confidence)
    size = like.shape[:2]
    return np.concatenate([maps(bicubic(soft, size), size[0])[1:], maps(nearest(soft, size), size[0])[1:]])


def example(shot: RefinerSample, masks: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """One photo of a batch: photo (3, s, t) in [0, 1], coarse (K, 2, s, t), true masks and known pixels (K, s, t)."""
    known, truths, coarse = shot.bits(shot.known), [], []
    for _ in range(masks):
        if shot.own and rng.random() < OWN_SHARE:
            number, one = shot.own[rng.integers(len(shot.own))]
            truth, cells, confidence = shot.bits(shot.masks[number]), one.cells, one.confidence
        else:
            truth = draw_mask(shot, rng)
            truth = truth if (truth & known).any() else shot.bits(shot.masks[0])
            cells, confidence = spoiled_cells(truth, known, draw_shape(rng), rng)
        coarse.append(coarse_maps(cells, confidence, shot.photo))
        truths.append(truth)
    photo = shot.photo.transpose(2, 0, 1).astype(np.float32) / 255
    photo = np.clip(photo ** rng.uniform(0.8, 1.25) * rng.uniform(0.85, 1.15, (3, 1, 1)), 0, 1)
    parts = photo, np.stack(coarse), np.stack(truths), np.broadcast_to(known, (masks, *known.shape))
    return tuple(part[..., ::-1] for part in parts) if rng.random() < 0.5 else parts


def batches(shots: RefinerSamples, size: int, masks: int, rng: np.random.Generator):
    """Endless batches of photos of one shape, each photo once a round; tensors with masks flattened over photos."""
    groups: dict[tuple[int, ...], list[RefinerSample]] = {}
    while True:
        for index in shots.order(rng):
            shot = shots[index]
            if shot is None:
                continue
            group = groups.setdefault(shot.photo.shape, [])
            group.append(shot)
            if len(group) == size:
                parts = zip(*(example(shot, masks, rng) for shot in group), strict=True)
                photo, coarse, truth, known = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in parts)
                yield photo, coarse.flatten(0, 1), truth.flatten(0, 1), known.flatten(0, 1)
                group.clear()
