"""Training pictures that differ every time: crop, flip, light, colour and sharpness, the true answer going along.

A mirrored photo swaps "left" and "right" in its phrases; a photo whose phrase names a place or a size among others
is not cropped, or the phrase could come to mean something else.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
from PIL import Image, ImageEnhance, ImageFilter

from t4s.records import Sample

CROP, CROP_AREA, STRETCH = 0.8, (0.4, 1.0), 0.25  # share of photos cropped; area kept; log of the aspect's change
FLIP, GREY, BLUR, COLOUR, COARSE = 0.5, 0.08, 0.12, 0.75, 0.12  # shares of photos
_SIDES = {"left": "right", "right": "left", "leftmost": "rightmost", "rightmost": "leftmost"}
_SIDE = re.compile(r"\b(" + "|".join(_SIDES) + r")\b")
_PLACED = re.compile(
    r"\b(left|right|top|bottom|middle|centre|upper|lower|\w*most|bigger|biggest|larger|largest|"
    r"smaller|smallest|everything)\b"
)
_COLOURED = re.compile(r"\b(red|orange|yellow|green|blue|purple|pink|brown|black|grey|white|dark|light)\b")


def swap_sides(phrase: str) -> str:
    """ "the dog on the left" → "the dog on the right"."""
    return _SIDE.sub(lambda match: _SIDES[match[0]], phrase)


def augment(samples: tuple[Sample, ...], rng: np.random.Generator, size: int) -> tuple[Sample, ...]:
    """One photo's samples, changed together; photos come out as `size`×`size`, class maps at the crop's resolution."""
    phrases = [sample.query for sample in samples if isinstance(sample.query, str)]
    image = samples[0].image
    placed, coloured = (any(pattern.search(p) for p in phrases) for pattern in (_PLACED, _COLOURED))
    x, y, w, h = _box(image.size, rng) if rng.random() < CROP and not placed else (0, 0, *image.size)
    flip = rng.random() < FLIP
    image = image.resize((size, size), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
    image = recolour(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else image, rng, keep_hue=coloured)
    step = -1 if flip else 1
    return tuple(
        _reworded(replace(s, image=image, class_map=s.class_map[y : y + h, x : x + w][:, ::step]), flip)
        for s in samples
    )


def _reworded(sample: Sample, flip: bool) -> Sample:
    if not flip or not isinstance(sample.query, str):
        return sample
    query = swap_sides(sample.query)
    return replace(
        sample, query=query, labels=tuple(query if label == sample.query else label for label in sample.labels)
    )


def _box(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    area, aspect = rng.uniform(*CROP_AREA), math.exp(rng.uniform(-STRETCH, STRETCH))
    w = min(size[0], max(1, round(size[0] * math.sqrt(area * aspect))))
    h = min(size[1], max(1, round(size[1] * math.sqrt(area / aspect))))
    return int(rng.integers(0, size[0] - w + 1)), int(rng.integers(0, size[1] - h + 1)), w, h


def recolour(image: Image.Image, rng: np.random.Generator, keep_hue: bool = False) -> Image.Image:
    """Random brightness, contrast, saturation, grey, blur and coarseness. `keep_hue`, for phrases with a colour: less
    brightness, and neither contrast nor saturation."""
    if rng.random() < COLOUR:
        image = ImageEnhance.Brightness(image).enhance(rng.uniform(0.7, 1.3) if keep_hue else rng.uniform(0.55, 1.45))
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
