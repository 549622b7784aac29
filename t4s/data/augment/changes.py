"""Crop, flip, colour and blur, as they are drawn for one picture and all its questions.

A mirrored photo swaps "left" and "right" in its phrases. A photo whose phrase names a place or a size is not cropped:
the crop could remove one of the objects that the phrase compares. One whose phrase names a colour keeps its hues.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np

from t4s.data.augment.draws import Draw
from t4s.data.augment.views import Light, crop
from t4s.records import Sample

CROP = 0.8  # share of photos that are cropped
CROP_AREA = (0.4, 1.0)  # share of the photo's area that a crop keeps
STRETCH = 0.25  # largest change of a crop's log aspect ratio
FLIP = 0.5  # share of photos that are mirrored; the shares below likewise
COLOUR = 0.75
GREY = 0.08
BLUR = 0.12
COARSE = 0.12  # scaled down and up again

_SIDES = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE = re.compile(r"\b(" + "|".join(_SIDES) + r")\b")
_PLACED = re.compile(
    r"\b(left|right|top|bottom|middle|centre|upper|lower|\w*most|bigger|biggest|larger|largest|"
    r"smaller|smallest|everything)\b"
)
_COLOURED = re.compile(r"\b(red|orange|yellow|green|blue|purple|pink|brown|black|grey|white|dark|light)\b")


def augment(drawn: Draw, rng: np.random.Generator, size: int) -> Draw:
    """Change a picture and all its samples together.

    The picture becomes (size, size); label maps keep the resolution of the crop.
    """
    phrases = [sample.query for sample in drawn.samples if isinstance(sample.query, str)]
    placed = any(_PLACED.search(phrase) for phrase in phrases)
    coloured = any(_COLOURED.search(phrase) for phrase in phrases)
    if rng.random() < CROP and not placed:
        x, y, w, h = _crop_box(drawn.view.size, rng)
    else:
        x, y, w, h = 0, 0, *drawn.view.size
    flip = rng.random() < FLIP
    view = replace(crop(drawn.view, (x, y, w, h), size), flip=flip, light=draw_light(rng, keep_hue=coloured))

    def changed(labels: np.ndarray) -> np.ndarray:
        return labels[y : y + h, x : x + w][:, :: -1 if flip else 1]

    samples = tuple(replace(sample, class_map=changed(sample.class_map)) for sample in drawn.samples)
    if flip:
        samples = tuple(map(_with_sides_swapped, samples))
    pixels = None if drawn.pixels is None else replace(drawn.pixels, ids=changed(drawn.pixels.ids))
    return Draw(view, samples, pixels)


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
    """A random box (x, y, width, height) inside a picture of `size` (width, height)."""
    area = rng.uniform(*CROP_AREA)
    aspect = math.exp(rng.uniform(-STRETCH, STRETCH))
    w = min(size[0], max(1, round(size[0] * math.sqrt(area * aspect))))
    h = min(size[1], max(1, round(size[1] * math.sqrt(area / aspect))))
    return int(rng.integers(0, size[0] - w + 1)), int(rng.integers(0, size[1] - h + 1)), w, h


def draw_light(rng: np.random.Generator, keep_hue: bool = False) -> Light:
    """Random changes of brightness, saturation, contrast and sharpness.

    With `keep_hue`, for phrases that name a colour, only a little brightness and no saturation, contrast or grey.
    """
    light = Light()
    if rng.random() < COLOUR:
        light = replace(light, brightness=rng.uniform(0.7, 1.3) if keep_hue else rng.uniform(0.55, 1.45))
        if not keep_hue:
            light = replace(light, saturation=rng.uniform(0.3, 1.7), contrast=rng.uniform(0.6, 1.5))
    if rng.random() < GREY and not keep_hue:
        light = replace(light, grey=True)
    if rng.random() < BLUR:
        light = replace(light, blur=rng.uniform(0.5, 1.5))
    if rng.random() < COARSE:
        light = replace(light, coarse=rng.uniform(0.35, 0.8))
    return light
