"""Several labelled photos as one picture, in two tiles or four.

So a name is asked for beside things, and at sizes, that no photo of it has. After the mosaics of Bochkovskiy, Wang and
Liao, "YOLOv4" (arXiv 2004.10934). Knows nothing of names: a tile brings the ids that its own are to have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

LAYOUTS = ((1, 2), (2, 1), (2, 2))  # rows and columns
SPLIT = (0.35, 0.65)  # of the picture's side: where tiles meet
LARGEST = 1024  # pixels of the side: more than most models look at


@dataclass(frozen=True, eq=False)
class Tile:
    """A photo and its ids (h, w). `ids_there`: {id: the one that it has in the whole}; others are background, 0."""

    image: Image.Image
    ids: np.ndarray
    ids_there: Mapping[int, int]

    def part(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
        """The largest part that has the proportions of `size` (width, height), somewhere, at that size; its ids."""
        scale = min(self.image.width / size[0], self.image.height / size[1])
        w, h = min(size[0] * scale, self.image.width), min(size[1] * scale, self.image.height)
        x, y = rng.uniform(0, self.image.width - w), rng.uniform(0, self.image.height - h)
        image = self.image.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
        across, down = (
            (start + (np.arange(length) + 0.5) * scale).astype(int) for start, length in zip((x, y), size, strict=True)
        )
        own, ids = self.ids[down[:, None], across], np.zeros(size[::-1], np.int32)
        for value, there in self.ids_there.items():
            ids[own == value] = there
        return image, ids


def joined(tiles: Sequence[Tile], layout: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """The tiles in row order, `layout` (rows, columns), each 1 or 2: a square picture, as large as the first one's
    longest side or LARGEST, and its ids (side, side) int32."""
    side = min(max(2, *tiles[0].image.size), LARGEST)
    ys, xs = (_edges(parts, side, rng) for parts in layout)
    image, ids = Image.new("RGB", (side, side)), np.zeros((side, side), np.int32)
    places = [(y, x) for y in zip(ys, ys[1:], strict=False) for x in zip(xs, xs[1:], strict=False)]
    for tile, ((top, bottom), (left, right)) in zip(tiles, places, strict=True):
        part, ids[top:bottom, left:right] = tile.part((right - left, bottom - top), rng)
        image.paste(part, (left, top))
    return image, ids


def _edges(parts: int, side: int, rng: np.random.Generator) -> list[int]:
    """Where the tiles of a row or column begin, and where the last one ends."""
    return [0, side] if parts == 1 else [0, round(side * rng.uniform(*SPLIT)), side]
