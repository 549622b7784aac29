"""Batches for the refiner: photos of one shape and, of each, several masks with their coarse maps.

A mask is a class, one connected part of it, two classes together, or everything else. Its grid is the true one, a
corrupted one (`corruption`), or what a model wrote (`model_grids`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy import ndimage

from t4s.codec import DescriptorGrid
from t4s.refine.interpolate import bicubic, maps, nearest
from t4s.refine.refiner import soft_grid
from t4s.training.refiner.corruption import corrupted_cells, draw_shape
from t4s.training.refiner.samples import SMALLEST_MASK, RefinerSample, RefinerSamples

PART_SHARE, UNION_SHARE, REST_SHARE = 0.2, 0.1, 0.1  # of the masks
MODEL_GRID_SHARE = 0.5  # of the masks of a photo that has model grids
PART_STEP = 4  # connected parts are found on every fourth row and column


def batches(
    samples: RefinerSamples, size: int, masks: int, rng: np.random.Generator
) -> Iterator[tuple[torch.Tensor, ...]]:
    """Endless batches of `size` photos of one shape with `masks` masks each (N = size · masks).

    → photos (size, 3, s, t) in [0, 1], coarse maps (N, 2, s, t), true masks and known pixels (N, s, t), all float32.
    """
    groups: dict[tuple[int, ...], list[RefinerSample]] = {}
    while True:
        for index in samples.epoch(rng):
            sample = samples[index]
            if sample is None:
                continue
            group = groups.setdefault(sample.photo.shape, [])
            group.append(sample)
            if len(group) == size:
                parts = zip(*(example(sample, masks, rng) for sample in group), strict=True)
                photo, coarse, truth, known = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in parts)
                yield photo, coarse.flatten(0, 1), truth.flatten(0, 1), known.flatten(0, 1)
                group.clear()


def example(sample: RefinerSample, masks: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """One photo of a batch: photo (3, s, t) in [0, 1], coarse maps (K, 2, s, t), true masks and known pixels (K, s, t).

    The photo is changed in gamma and colour, and all of it is mirrored half of the time.
    """
    known = sample.unpack(sample.known)
    truths, coarse = [], []
    for _ in range(masks):
        if sample.model_grids and rng.random() < MODEL_GRID_SHARE:
            number, grid = sample.model_grids[rng.integers(len(sample.model_grids))]
            truth, cells, confidence = sample.unpack(sample.masks[number]), grid.cells, grid.confidence
        else:
            truth = draw_mask(sample, rng)
            if not (truth & known).any():
                truth = sample.unpack(sample.masks[0])
            cells, confidence = corrupted_cells(truth, known, draw_shape(rng), rng)
        coarse.append(coarse_maps(cells, confidence, known.shape))
        truths.append(truth)
    photo = sample.photo.transpose(2, 0, 1).astype(np.float32) / 255
    photo = np.clip(photo ** rng.uniform(0.8, 1.25) * rng.uniform(0.85, 1.15, (3, 1, 1)), 0, 1)
    parts = (photo, np.stack(coarse), np.stack(truths), np.broadcast_to(known, (masks, *known.shape)))
    if rng.random() < 0.5:
        return tuple(part[..., ::-1] for part in parts)
    return parts


def draw_mask(sample: RefinerSample, rng: np.random.Generator) -> np.ndarray:
    """(s, t) bool: a class, a part of one, two together, or all the rest."""
    order = rng.permutation(len(sample.masks))
    kind = rng.random()
    mask = sample.unpack(sample.masks[order[0]])
    if kind < PART_SHARE:
        return random_part(mask, rng)
    if kind < PART_SHARE + UNION_SHARE and len(order) > 1:
        return mask | sample.unpack(sample.masks[order[1]])
    return ~mask if kind > 1 - REST_SHARE else mask


def random_part(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pixels of `mask` connected to a random one of them, or all of `mask` if these are too few."""
    small = mask[::PART_STEP, ::PART_STEP]
    places = np.argwhere(small)
    if not len(places):
        return mask
    parts, _ = ndimage.label(small)
    chosen = parts == parts[tuple(places[rng.integers(len(places))])]
    near = ndimage.binary_dilation(chosen).repeat(PART_STEP, 0).repeat(PART_STEP, 1)
    part = mask & near[: mask.shape[0], : mask.shape[1]]
    return part if part.mean() > SMALLEST_MASK else mask


def coarse_maps(cells: np.ndarray, confidence: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """(H, W) cells → (2, s, t) float32: the network's input for one label, as in `refine.edge`."""
    soft, _ = soft_grid(DescriptorGrid(cells.astype(np.int32), ("others", "target")), confidence)
    return np.concatenate([maps(bicubic(soft, size), size[0])[1:], maps(nearest(soft, size), size[0])[1:]])
