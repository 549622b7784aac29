"""Random changes to training pictures, with masks and phrases kept true: crop, flip, colour, blur, and mosaics.

A mirrored photo swaps "left" and "right" in its phrases. A photo whose phrase names a place or a size is not cropped:
the crop could remove one of the objects that the phrase compares.

A mosaic joins two or four labelled photos into one picture, so that objects appear next to objects, and at sizes, that
no single photo has (Bochkovskiy, Wang and Liao, "YOLOv4", arXiv 2004.10934).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from t4s.records import Sample

CROP = 0.8  # share of photos that are cropped
CROP_AREA = (0.4, 1.0)  # share of the photo's area that a crop keeps
STRETCH = 0.25  # largest change of a crop's log aspect ratio
FLIP = 0.5  # share of photos that are mirrored; the shares below likewise
COLOUR = 0.75
GREY = 0.08
BLUR = 0.12
COARSE = 0.12  # scaled down and up again

MOSAIC_LAYOUTS = ((1, 2), (2, 1), (2, 2))  # rows and columns
MOSAIC_SPLIT = (0.35, 0.65)  # where tiles meet, as a share of the side
MOSAIC_SIDE = 1024  # most pixels per side of a mosaic: more than models look at

_SIDES = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE = re.compile(r"\b(" + "|".join(_SIDES) + r")\b")
_PLACED = re.compile(
    r"\b(left|right|top|bottom|middle|centre|upper|lower|\w*most|bigger|biggest|larger|largest|"
    r"smaller|smallest|everything)\b"
)
_COLOURED = re.compile(r"\b(red|orange|yellow|green|blue|purple|pink|brown|black|grey|white|dark|light)\b")


# --- one photo


def augment(samples: tuple[Sample, ...], rng: np.random.Generator, size: int) -> tuple[Sample, ...]:
    """Change one photo and all its samples together.

    The image becomes (size, size); class maps keep the resolution of the crop.
    """
    phrases = [sample.query for sample in samples if isinstance(sample.query, str)]
    placed = any(_PLACED.search(phrase) for phrase in phrases)
    coloured = any(_COLOURED.search(phrase) for phrase in phrases)
    image = samples[0].image
    if rng.random() < CROP and not placed:
        x, y, w, h = _crop_box(image.size, rng)
    else:
        x, y, w, h = 0, 0, *image.size
    flip = rng.random() < FLIP
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    image = recolour(image, rng, keep_hue=coloured)
    step = -1 if flip else 1
    changed = []
    for sample in samples:
        class_map = sample.class_map[y : y + h, x : x + w][:, ::step]
        sample = replace(sample, image=image, class_map=class_map)
        changed.append(_with_sides_swapped(sample) if flip else sample)
    return tuple(changed)


def swap_sides(phrase: str) -> str:
    """Exchange "left" and "right": "the dog on the left" → "the dog on the right"."""
    return _SIDE.sub(lambda match: _SIDES[match[0]], phrase)


def _with_sides_swapped(sample: Sample) -> Sample:
    if not isinstance(sample.query, str):
        return sample
    query = swap_sides(sample.query)
    labels = tuple(query if label == sample.query else label for label in sample.labels)
    return replace(sample, query=query, labels=labels)


def _crop_box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """A random box (x, y, width, height) inside a photo of `size` (width, height)."""
    area = rng.uniform(*CROP_AREA)
    aspect = math.exp(rng.uniform(-STRETCH, STRETCH))
    w = min(size[0], max(1, round(size[0] * math.sqrt(area * aspect))))
    h = min(size[1], max(1, round(size[1] * math.sqrt(area / aspect))))
    return int(rng.integers(0, size[0] - w + 1)), int(rng.integers(0, size[1] - h + 1)), w, h


def recolour(image: Image.Image, rng: np.random.Generator, keep_hue: bool = False) -> Image.Image:
    """Randomly change brightness, contrast, saturation and sharpness.

    With `keep_hue`, for phrases that name a colour, only a little brightness and no contrast, saturation or greyscale.
    """
    if rng.random() < COLOUR:
        brightness = rng.uniform(0.7, 1.3) if keep_hue else rng.uniform(0.55, 1.45)
        image = ImageEnhance.Brightness(image).enhance(brightness)
        if not keep_hue:
            image = ImageEnhance.Color(image).enhance(rng.uniform(0.3, 1.7))
            image = ImageEnhance.Contrast(image).enhance(rng.uniform(0.6, 1.5))
    if rng.random() < GREY and not keep_hue:
        image = image.convert("L").convert("RGB")
    if rng.random() < BLUR:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 1.5)))
    if rng.random() < COARSE:
        share = rng.uniform(0.35, 0.8)
        small = image.resize([max(1, round(side * share)) for side in image.size], Image.Resampling.BILINEAR)
        image = small.resize(image.size, Image.Resampling.BILINEAR)
    return image


# --- several photos


@dataclass(frozen=True, eq=False)
class Tile:
    """A photo and its ids (h, w). `new_ids` maps each id to the one used in the mosaic; all others become 0."""

    image: Image.Image
    ids: np.ndarray
    new_ids: Mapping[int, int]

    def crop(self, size: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
        """The largest random part with the aspect ratio of `size` (width, height), scaled to `size`, and its ids."""
        scale = min(self.image.width / size[0], self.image.height / size[1])
        w = min(size[0] * scale, self.image.width)
        h = min(size[1] * scale, self.image.height)
        x = rng.uniform(0, self.image.width - w)
        y = rng.uniform(0, self.image.height - h)
        image = self.image.resize(size, Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
        columns = (x + (np.arange(size[0]) + 0.5) * scale).astype(int)
        rows = (y + (np.arange(size[1]) + 0.5) * scale).astype(int)
        old = self.ids[rows[:, None], columns]
        new = np.zeros(size[::-1], np.int32)
        for value, new_id in self.new_ids.items():
            new[old == value] = new_id
        return image, new


def mosaic(tiles: Sequence[Tile], layout: tuple[int, int], rng: np.random.Generator) -> tuple[Image.Image, np.ndarray]:
    """Join tiles, given row by row, into a square picture and its ids (side, side) int32.

    `layout`: rows and columns, each 1 or 2. The side is the longest side of the first tile, at most MOSAIC_SIDE.
    """
    side = min(max(2, *tiles[0].image.size), MOSAIC_SIDE)
    ys = _edges(layout[0], side, rng)
    xs = _edges(layout[1], side, rng)
    image = Image.new("RGB", (side, side))
    ids = np.zeros((side, side), np.int32)
    places = [(y, x) for y in zip(ys, ys[1:], strict=False) for x in zip(xs, xs[1:], strict=False)]
    for tile, ((top, bottom), (left, right)) in zip(tiles, places, strict=True):
        part, ids[top:bottom, left:right] = tile.crop((right - left, bottom - top), rng)
        image.paste(part, (left, top))
    return image, ids


def _edges(parts: int, side: int, rng: np.random.Generator) -> list[int]:
    """Where the tiles of a row or column begin, and where the last one ends."""
    if parts == 1:
        return [0, side]
    return [0, round(side * rng.uniform(*MOSAIC_SPLIT)), side]
