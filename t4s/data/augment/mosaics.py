"""Mosaics of two or four labelled photos: objects next to objects, and at sizes, that no single photo has.

After Bochkovskiy, Wang and Liao, "YOLOv4", arXiv 2004.10934.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from t4s.data.augment.views import Part, View

LAYOUTS = ((1, 2), (2, 1), (2, 2))  # rows and columns
SPLIT = (0.35, 0.65)  # where tiles meet, as a share of the side


@dataclass(frozen=True, eq=False)
class Tile:
    """A photo's number and its ids (h, w). `new_ids` maps each id to the one used in the mosaic; others become 0."""

    photo: int
    ids: np.ndarray
    new_ids: Mapping[int, int]

    def crop(self, place: tuple[int, int, int, int], rng: np.random.Generator) -> tuple[Part, np.ndarray]:
        """The largest random part with the aspect ratio of `place`, to be shown there, and its ids."""
        height, width = self.ids.shape
        columns, rows = place[2] - place[0], place[3] - place[1]
        scale = min(width / columns, height / rows)
        w, h = min(columns * scale, width), min(rows * scale, height)
        x = rng.uniform(0, width - w)
        y = rng.uniform(0, height - h)
        part = Part(self.photo, (x / width, y / height, (x + w) / width, (y + h) / height), place)
        xs = (x + (np.arange(columns) + 0.5) * scale).astype(int)
        ys = (y + (np.arange(rows) + 0.5) * scale).astype(int)
        old = self.ids[ys[:, None], xs]
        new = np.zeros((rows, columns), np.int32)
        for value, new_id in self.new_ids.items():
            new[old == value] = new_id
        return part, new


def mosaic(tiles: Sequence[Tile], layout: tuple[int, int], rng: np.random.Generator) -> tuple[View, np.ndarray]:
    """Join tiles, given row by row, into a square picture and its ids (side, side) int32.

    `layout`: rows and columns, each 1 or 2. The side is the longest side of the first tile's ids.
    """
    side = max(2, *tiles[0].ids.shape)
    ys = _edges(layout[0], side, rng)
    xs = _edges(layout[1], side, rng)
    ids = np.zeros((side, side), np.int32)
    places = [(x0, y0, x1, y1) for y0, y1 in zip(ys, ys[1:], strict=False) for x0, x1 in zip(xs, xs[1:], strict=False)]
    parts = []
    for tile, place in zip(tiles, places, strict=True):
        part, ids[place[1] : place[3], place[0] : place[2]] = tile.crop(place, rng)
        parts.append(part)
    return View((side, side), tuple(parts)), ids


def _edges(parts: int, side: int, rng: np.random.Generator) -> list[int]:
    """Where the tiles of a row or column begin, and where the last one ends."""
    if parts == 1:
        return [0, side]
    return [0, round(side * rng.uniform(*SPLIT)), side]
