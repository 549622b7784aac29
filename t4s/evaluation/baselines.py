"""Answers that need no model: the true ones, and the average ones.

`oracle` is what a perfect model would say: what a grid of that size and its refiner lose. `Averages` is what a toy
would reach that knows the phrase and never looks at the photo.
"""

from __future__ import annotations

import json

import numpy as np

from t4s import codec
from t4s.errors import DataError
from t4s.imaging import export
from t4s.records import Prediction, Sample
from t4s.refine.refiner import refine


def oracle(sample: Sample, mode: str, refiner: str, shape: tuple[int, int]) -> Prediction:
    """What a perfect model would answer: "grid", the true grid of `shape` refined; "mask", the true masks."""
    grid = sample.grid(shape)
    if mode == "grid":
        masks = refine(refiner, np.asarray(sample.image), grid)
    else:
        masks = {sample.labels[k]: sample.class_map == k for k in np.unique(sample.class_map) if k > 0}
    mask = np.zeros(sample.class_map.shape, bool)
    for one in masks.values():
        mask |= one
    box = sample.box if mode == "mask" and sample.box is not None else export.box(mask)
    return Prediction(
        sample.query, codec.encode(grid), grid, mask, masks, np.ones(shape, np.float32), bool(mask.any()), 1.0, box
    )


def covers(sample: Sample, least: float) -> bool:
    """True if the target is absent, or covers at least this share of the scored pixels; lists are always asked."""
    if isinstance(sample.query, tuple) or sample.absent:
        return True
    return int((sample.class_map > 0).sum()) >= least * int((sample.class_map >= 0).sum())


class Averages:
    """The mean true grid of every (source, label), cut where that gives the best pooled IoU on the photos it saw."""

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape
        self.sums: dict[tuple[str, str] | None, np.ndarray] = {}  # None: all phrases together
        self.photos: dict[tuple[str, str] | None, int] = {}

    def add(self, sample: Sample) -> None:
        if isinstance(sample.query, str) and not sample.absent:
            cells = sample.grid(self.shape).ids > 0
            for key in ((sample.source, sample.labels[1]), None):
                self.sums[key] = self.sums.get(key, 0) + cells.astype(np.int64)
                self.photos[key] = self.photos.get(key, 0) + 1

    def to_json(self) -> str:
        keys = sorted(self.sums, key=lambda key: key or ())
        return json.dumps([self.shape, [[key, self.photos[key], self.sums[key].ravel().tolist()] for key in keys]])

    @classmethod
    def from_json(cls, text: str) -> Averages:
        shape, rows = json.loads(text)
        averages = cls((shape[0], shape[1]))
        for key, photos, sums in rows:
            key = None if key is None else (key[0], key[1])
            averages.photos[key], averages.sums[key] = photos, np.array(sums, np.int64).reshape(shape)
        return averages

    def cells(self, sample: Sample) -> np.ndarray:
        """(H, W) bool for a phrase: its own average if there is one, else that of all phrases.

        Of all thresholds the one with the highest pooled IoU is taken: with the k fullest cells marked in each
        of n photos, I is what they hold and U is n k plus what they miss. DataError if no phrase was seen at all.
        """
        key = (sample.source, sample.labels[1])
        key = key if key in self.sums else None
        if key not in self.sums:
            raise DataError("The average grids have seen no phrase with a target; name a split that has some.")
        sums = self.sums[key].ravel()
        fullest = np.argsort(-sums, kind="stable")
        inter = np.cumsum(sums[fullest])
        union = self.photos[key] * np.arange(1, sums.size + 1) + inter[-1] - inter
        marked = np.zeros(sums.size, bool)
        marked[fullest[: int(np.argmax(inter / union)) + 1]] = True
        return marked.reshape(self.shape)
