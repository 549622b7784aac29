"""Instances cut out of pictures, and pasting them on others.

A cut-out keeps its outline, soft where its picture's is. In a scene its mask is every pixel that it covers by at least
half, minus what nearer instances hide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from t4s.data.scenes.phrasing import Instance
from t4s.data.scenes.staging import Scene, occlude
from t4s.errors import DataError

SHARES = (0.015, 0.2)  # share of the scene that a pasted instance covers
MAX_GROWTH = 1.5  # largest scale, relative to its own picture
COLOUR_SHARE = 0.6  # a colour word must fit this share of an instance's pixels,
SECOND_SHARE = 0.2  # and every other colour word at most this share
NUMBERS = ("scenes", "seed")
_OPTION = re.compile(r",(?=-|" + "|".join(f"{key}=" for key in NUMBERS) + ")")


@dataclass(frozen=True, eq=False)
class CutOut:
    """The bounding box of an instance in its picture.

    colour  a colour word, or None
    pixels  (h, w, 3) uint8
    cover   (h, w) uint8: 255 where the instance covers a pixel fully
    """

    name: str
    colour: str | None
    pixels: np.ndarray
    cover: np.ndarray


def colour_word(pixels: np.ndarray) -> str | None:
    """The colour of nearly all pixels (n, 3) uint8 as a word, or None: most instances have more than one colour."""
    red, green, blue = pixels.reshape(-1, 3).T.astype(np.float32) / 255
    value = np.maximum(np.maximum(red, green), blue)
    span = value - np.minimum(np.minimum(red, green), blue)
    saturation = span / np.maximum(value, 1e-6)
    divisor = np.maximum(span, 1e-6)
    sextant = np.select(
        [value == red, value == green],
        [(green - blue) / divisor % 6, (blue - red) / divisor + 2],
        (red - green) / divisor + 4,
    )
    hue = sextant * 60
    dark = value < 0.22
    plain = saturation < 0.18
    words = {
        "black": dark,
        "white": ~dark & plain & (value > 0.75),
        "grey": ~dark & plain & (value < 0.65),
        "brown": ~dark & ~plain & (hue > 10) & (hue < 45) & (value < 0.65) & (saturation > 0.3),
        "red": ~dark & (saturation > 0.6) & ((hue < 10) | (hue > 345)),
        "orange": (saturation > 0.65) & (hue > 15) & (hue < 40) & (value > 0.75),
        "yellow": (saturation > 0.5) & (hue > 45) & (hue < 65) & (value > 0.6),
        "green": ~dark & (saturation > 0.3) & (hue > 80) & (hue < 165),
        "blue": ~dark & (saturation > 0.4) & (hue > 195) & (hue < 255),
    }
    shares = sorted(((float(where.mean()), word) for word, where in words.items()), reverse=True)
    return shares[0][1] if shares[0][0] > COLOUR_SHARE and shares[1][0] < SECOND_SHARE else None


def parse_options(text: str) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Split "PATH,scenes=60,-rocket" into PATH, {"scenes": "60"} and ("rocket",). DataError for an invalid number."""
    path, *words = _OPTION.split(text)
    options: dict[str, str] = {}
    for word in words:
        if word.startswith("-"):
            continue
        key, _, value = word.partition("=")
        if key in NUMBERS and not (value.isdecimal() and int(value) >= (key == "scenes")):
            raise DataError(f"Composed scenes have no option {word!r}; write {key}=N with a whole number.")
        options[key] = value
    return path, options, tuple(word[1:] for word in words if word.startswith("-"))


def paste(
    background: Image.Image | np.ndarray,
    cut_outs: Sequence[CutOut],
    unseen: Sequence[str],
    rng: np.random.Generator,
    shares: tuple[float, float] = SHARES,
    complete: bool = False,
) -> Scene | None:
    """Paste cut-outs on a picture (h, w, 3), later ones nearer. None if not one of them fits.

    unseen    names that the background does not show
    shares    smallest and largest share of the picture that a cut-out covers
    complete  the background shows nothing that has a name
    """
    picture = np.array(background, np.float32)
    height, width = picture.shape[:2]
    kept: list[CutOut] = []
    wholes: list[np.ndarray] = []
    visible: list[np.ndarray] = []
    for cut_out in cut_outs:
        for _ in range(10):
            share = np.exp(rng.uniform(*np.log(shares)))
            scale = min(float(np.sqrt(share * height * width / cut_out.cover.sum() * 255)), MAX_GROWTH)
            rows, columns = (max(round(side * scale), 2) for side in cut_out.cover.shape)
            if rows >= height or columns >= width:
                continue
            pixels, cover = _resize(cut_out, (columns, rows), mirrored=rng.random() < 0.5)
            top = int(rng.integers(height - rows + 1))
            left = int(rng.integers(width - columns + 1))
            at = (slice(top, top + rows), slice(left, left + columns))
            mask = np.zeros((height, width), bool)
            mask[at] = cover >= 0.5
            remaining = occlude(visible, wholes, mask)
            if remaining is not None and mask.sum() > SHARES[0] / 2 * mask.size:
                light = np.float32(rng.uniform(0.85, 1.15))
                picture[at] += cover[..., None] * (pixels * light - picture[at])
                kept.append(cut_out)
                wholes.append(mask)
                visible = [*remaining, mask]
                break
    if not kept:
        return None
    names = [cut_out.name for cut_out in kept]
    colours = [cut_out.colour for cut_out in kept]
    instances = tuple(map(Instance.of, names, colours, visible, wholes))
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return Scene(image, instances, np.stack(visible), tuple(name for name in unseen if name not in names), complete)


def _resize(cut_out: CutOut, size: tuple[int, int], mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (h, w, 3) and cover (h, w) in [0, 1], float32, scaled to `size` (width, height), with a soft outline."""
    image = Image.fromarray(cut_out.pixels).resize(size, Image.Resampling.BILINEAR)
    outline = Image.fromarray(cut_out.cover).resize(size, Image.Resampling.BILINEAR)
    outline = outline.filter(ImageFilter.GaussianBlur(0.5))
    pixels = np.asarray(image, np.float32)
    cover = np.asarray(outline, np.float32) / 255
    if mirrored:
        return pixels[:, ::-1], cover[:, ::-1]
    return pixels, cover
