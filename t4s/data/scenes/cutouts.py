"""Things cut out of pictures and pasted on others: what every dataset of pasted scenes shares.

An instance keeps its own outline, soft where the picture's is; what it covers of a scene is each pixel that it covers at
least half of, less what nearer instances hide.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from t4s.data.scenes.phrasing import Instance
from t4s.data.scenes.staging import Scene, behind
from t4s.errors import DataError

SHARES = (0.015, 0.2)  # of the scene that a pasted instance covers
MAX_GROWTH = 1.5  # times its size in its own picture
COLOUR_SHARE, SECOND_SHARE = (
    0.6,
    0.2,
)  # a colour word needs so much of an instance, and every other word at most so much
NUMBERS = ("scenes", "seed")
_OPTION = re.compile(r",(?=-|" + "|".join(f"{key}=" for key in NUMBERS) + ")")


@dataclass(frozen=True, eq=False)
class CutOut:
    """`pixels` (h, w, 3) uint8 and `cover` (h, w) uint8, 255 where the instance covers a pixel: its box in its picture;
    `colour` as a word, or None."""

    name: str
    colour: str | None
    pixels: np.ndarray
    cover: np.ndarray


def colour_word(pixels: np.ndarray) -> str | None:
    """The colour (n, 3) uint8 that nearly all of an instance has, or None: most instances have no one colour."""
    red, green, blue = pixels.reshape(-1, 3).T.astype(np.float32) / 255
    value, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    span = value - least
    saturation = span / np.maximum(value, 1e-6)
    wide = np.maximum(span, 1e-6)
    hue = (
        np.select(
            [value == red, value == green],
            [(green - blue) / wide % 6, (blue - red) / wide + 2],
            (red - green) / wide + 4,
        )
        * 60
    )
    dark, plain = value < 0.22, saturation < 0.18
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


def options_of(text: str) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """ "PATH,scenes=60,-rocket" → (PATH, {"scenes": "60"}, ("rocket",)). DataError for a number that is none."""
    path, *words = _OPTION.split(text)
    options: dict[str, str] = {}
    for word in words:
        key, _, value = word.partition("=")
        if word.startswith("-"):
            continue
        if key in NUMBERS and not (value.isdecimal() and int(value) >= (key == "scenes")):
            raise DataError(f"Composed scenes have no option {word!r}; write {key}=N with a whole number.")
        options[key] = value
    return path, options, tuple(word[1:] for word in words if word.startswith("-"))


def paste(
    below: Image.Image | np.ndarray,
    pieces: Sequence[CutOut],
    unseen: Sequence[str],
    rng: np.random.Generator,
    shares: tuple[float, float] = SHARES,
    complete: bool = False,
) -> Scene | None:
    """The pieces on the picture `below` (h, w, 3), or None if not one of them found room.

    `unseen`: names that it does not show; `shares`: from which to which share of it a piece covers; `complete`: it
    shows nothing that has a name.
    """
    picture = np.array(below, np.float32)
    height, width = picture.shape[:2]
    kept: list[CutOut] = []
    wholes: list[np.ndarray] = []
    seen: list[np.ndarray] = []
    for piece in pieces:
        for _ in range(10):
            share = np.exp(rng.uniform(*np.log(shares)))
            scale = min(float(np.sqrt(share * height * width / piece.cover.sum() * 255)), MAX_GROWTH)
            rows, columns = (max(round(side * scale), 2) for side in piece.cover.shape)
            if rows >= height or columns >= width:
                continue
            pixels, cover = _resized(piece, (columns, rows), rng.random() < 0.5)
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            at = (slice(top, top + rows), slice(left, left + columns))
            mask = np.zeros((height, width), bool)
            mask[at] = cover >= 0.5
            rest = behind(seen, wholes, mask)
            if rest is not None and mask.sum() > SHARES[0] / 2 * mask.size:
                light = np.float32(rng.uniform(0.85, 1.15))
                picture[at] += cover[..., None] * (pixels * light - picture[at])
                kept, seen, wholes = [*kept, piece], [*rest, mask], [*wholes, mask]
                break
    if not kept:
        return None
    names, colours = [piece.name for piece in kept], [piece.colour for piece in kept]
    instances = tuple(map(Instance.of, names, colours, seen, wholes))
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return Scene(image, instances, np.stack(seen), tuple(name for name in unseen if name not in names), complete)


def _resized(piece: CutOut, size: tuple[int, int], mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (h, w, 3) and cover (h, w) in [0, 1], float32, with an outline soft by half a pixel."""
    pixels = Image.fromarray(piece.pixels).resize(size, Image.Resampling.BILINEAR)
    cover = Image.fromarray(piece.cover).resize(size, Image.Resampling.BILINEAR)
    cover = cover.filter(ImageFilter.GaussianBlur(0.5))
    arrays = np.asarray(pixels, np.float32), np.asarray(cover, np.float32) / 255
    return tuple(array[:, ::-1] for array in arrays) if mirrored else arrays
