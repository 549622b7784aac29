"""Masks that people and tools made: COCO segmentations, and mask files of any kind.

A COCO segmentation has one of three forms, as in `instances.json`:

    [[x, y, x, y, x, y, …], …]                       polygons in pixels; several are parts of one object
    {"size": [h, w], "counts": [5, 3, …]}            run lengths, column by column, background first (`iscrowd`)
    {"size": [h, w], "counts": "52203…"}             the same, packed into a string

Polygons are rasterised by pycocotools, so that areas and scores agree with published tables to the pixel. Parts
that overlap are united. (Adding them up in uint8, as much published code does, gives 2 where they overlap.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from os import PathLike
from typing import Any, BinaryIO

import numpy as np
from PIL import ImageOps
from pycocotools import mask as coco
from scipy import ndimage

from t4s.errors import DataError, ImageError
from t4s.imaging.loading import open_image
from t4s.limits import MAX_LABELS, MAX_PIXELS

MAX_OUTLINE = 1_000_000  # pixels along the outline of a polygon: pycocotools keeps every point of it in memory
_LOSSY = ("JPEG", "MPO", "WEBP", "AVIF")
_WHITE = 0xFFFFFF


def annotation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation → (height, width) bool.

    Raises DataError if it has none of the three forms of the module docstring, if its size is not that of
    the photo, or if a run or a point is impossible.
    """
    if not (isinstance(height, int) and isinstance(width, int) and 0 < height * width <= MAX_PIXELS):
        raise DataError(
            f"A mask cannot have {height!r} rows and {width!r} columns; both are whole numbers above 0, and at most "
            f"{MAX_PIXELS} pixels."
        )
    if isinstance(segmentation, dict):
        _check_run_lengths(segmentation, height, width)
        packed = isinstance(segmentation["counts"], (str, bytes))
        return _decoded(segmentation if packed else coco.frPyObjects(segmentation, height, width))
    if isinstance(segmentation, list) and segmentation and all(isinstance(part, list) for part in segmentation):
        for part in segmentation:
            _check_polygon(part, height, width)
        return _decoded(coco.merge(coco.frPyObjects([list(map(float, part)) for part in segmentation], height, width)))
    raise DataError(
        f"The segmentation is {_short(segmentation)}; write a list of polygons [[x, y, x, y, x, y, …], …] "
        'or run lengths {"size": [h, w], "counts": …}.'
    )


def coco_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's packed run lengths of a mask (h, w) bool, for JSON: {"size": [h, w], "counts": str}."""
    packed = coco.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(n) for n in packed["size"]], "counts": packed["counts"].decode()}


def _decoded(packed: dict[str, Any]) -> np.ndarray:
    """Valid packed run lengths → (h, w) bool, row by row in memory; only the object's box is written."""
    x0, y0, width, height = map(int, coco.toBbox(packed))
    box = slice(y0, y0 + height), slice(x0, x0 + width)
    mask = np.zeros(packed["size"], bool)
    mask[box] = coco.decode(packed)[box]
    return mask


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"


def _check_polygon(part: list[Any], height: int, width: int) -> None:
    if len(part) < 6 or len(part) % 2 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in part):
        raise DataError(f"The polygon {_short(part)} is not three or more points x, y, x, y, x, y, … as numbers.")
    points = np.array(part, float).reshape(-1, 2)
    outline = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
    if np.abs(points).max() > MAX_OUTLINE or outline > MAX_OUTLINE:
        raise DataError(
            f"The polygon {_short(part)} reaches or runs over {MAX_OUTLINE} pixels, its photo is "
            f"{width}×{height}; its points are in pixels of that photo."
        )


def _check_run_lengths(rle: dict[str, Any], height: int, width: int) -> None:
    """Raises DataError. pycocotools itself would read beyond the end of damaged counts."""
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise DataError(f"The run lengths have the size {_short(size)}; the photo's is [{height}, {width}] (h, w).")
    if isinstance(counts, (str, bytes)):
        counts = _unpack(counts)
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise DataError(f"The counts are {_short(counts)}; they are a list of whole numbers from 0 up, or a string.")
    if sum(counts) != height * width:
        raise DataError(
            f"The run lengths cover {sum(counts)} pixels, but the photo has {height}×{width} = "
            f"{height * width}; the annotation is cut off or belongs to another photo."
        )


def _unpack(packed: str | bytes) -> list[int]:
    """The counts in COCO's string (cocoapi, `maskApi.c`, `rleFrString`).

    Each character holds five bits of a number, counted from "0"; its sixth bit says that more follow. The
    lowest bits come first, the last character has the sign; from the fourth number on, each is the
    difference to the number two before it.
    """
    raw = packed.encode("utf-8", "replace") if isinstance(packed, str) else packed
    groups = np.frombuffer(raw, np.uint8).astype(np.int64) - 48
    if not len(groups):
        return []
    ends = np.flatnonzero(groups & 32 == 0)  # the last character of each number
    starts = np.concatenate([[0], ends + 1])
    longest = np.diff(starts, append=len(groups)).max()
    if groups.min() < 0 or groups.max() > 63 or longest > 10:
        raise DataError(
            f"The packed run lengths {_short(packed)} contain what COCO's packing never writes; "
            "they are not COCO run lengths, or are damaged."
        )
    if starts[-1] < len(groups):
        raise DataError(f"The packed run lengths {_short(packed)} are cut off in the middle of a number.")
    starts = starts[:-1]
    shifts = 5 * (np.arange(len(groups)) - np.repeat(starts, ends - starts + 1))
    numbers = np.add.reduceat((groups & 31) << shifts, starts)
    numbers -= (groups[ends] & 16) << (shifts[ends] + 1)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers.tolist()


# ---------------------------------------------------------------- mask files


@dataclass(frozen=True)
class MaskFile:
    """A mask file, interpreted.

    classes  (h, w) int32: 0 is the background, any other number a class
    values   the numbers of the classes that occur, ascending
    note     how the file was interpreted, as a sentence; "" for a class map or mask that was taken as it is
    """

    classes: np.ndarray
    values: tuple[int, ...]
    note: str = ""


def read_mask(source: str | PathLike[str] | bytes | BinaryIO) -> MaskFile:
    """What a mask file means, whatever program drew it. `source` is a path, the bytes of a file or an open binary file.

    - An EXIF orientation in the file itself is applied, as for photos: masks belong to the upright photo.
    - Transparent pixels are background. If the rest has too many colours for classes, it is the mask (a cut-out).
    - An indexed or grey file with few exact numbers is a class map: 0 is the background, or the index of black if
      0 has another colour. In an indexed file of several classes 255, VOC's void outline, is background too.
    - A colour file has a class for each exact colour (its 24 bits): black is the background; without black, white
      is; without either, the commonest along the border is.
    - Grey levels that only lead from one area to another (smooth edges), and files in lossy formats, are
      thresholded half-way between their two colours.
    - More than `limits.MAX_LABELS` exact numbers are instances, and together one mask.

    Anything else, such as a photo, is an ImageError.
    """
    stored = _stored_mask(source)
    levels = stored.kind != "indexed" or bool((stored.colours == stored.colours[..., :1]).all())
    if stored.lossy or (levels and not stored.clear.any() and _has_soft_edges(stored.colours)):
        return _thresholded(stored)
    numbers = stored.numbers
    values = np.unique(numbers[~stored.clear])
    if len(values) <= MAX_LABELS + 1:
        return _class_map(stored, values)
    if stored.clear.any():
        inside, note = ~stored.clear, "Everything that is not transparent was read as the mask."
        return MaskFile(inside.astype(np.int32), (1,), note)
    repeated = numbers.shape[1] > 1 and (numbers[:, 1:] == numbers[:, :-1]).mean() > 0.5
    if repeated and (stored.kind != "picture" or values[-1] <= 255):
        note = f"The {len(values) - 1} numbers in the file were read as instances, together one mask."
        return MaskFile((numbers > 0).astype(np.int32), (1,), note)
    return _thresholded(stored)


@dataclass(frozen=True)
class _Stored:
    """The pixels of a mask file, upright.

    kind     "indexed", "numbers" (16 bits and more) or "picture"
    numbers  (h, w) int32: indexes, numbers, grey levels, or 24-bit colours; 0 where it is `clear`
    colours  (h, w, 3) int32, or `numbers` again
    clear    (h, w) bool: transparent
    """

    name: str
    kind: str
    lossy: bool
    numbers: np.ndarray
    colours: np.ndarray
    clear: np.ndarray


def _stored_mask(source: str | PathLike[str] | bytes | BinaryIO) -> _Stored:
    with open_image(source) as (image, name):
        if image.mode == "F":
            raise ImageError(f"{name} has fractions as pixels; save the mask as a PNG of whole numbers.")
        lossy = image.format in _LOSSY or "jpeg" in str(image.info.get("compression", ""))
        image = ImageOps.exif_transpose(image)
        clear = np.zeros(image.size[::-1], bool)
        if image.has_transparency_data:
            clear = np.asarray(image.convert("RGBA"))[..., 3] < 128
        if image.mode.startswith("I"):
            kind = "numbers"
            numbers = colours = np.asarray(image).astype(np.int32)
        else:
            kind = "indexed" if image.mode == "P" else "picture"
            colours = np.asarray(image.convert("RGB")).astype(np.int32)
            numbers = _with_black_as_zero(np.asarray(image), colours) if kind == "indexed" else _as_numbers(colours)
    return _Stored(name, kind, lossy, np.where(clear, 0, numbers), colours, clear)


def _as_numbers(colours: np.ndarray) -> np.ndarray:
    """(h, w): grey levels, if all of the colours (h, w, 3) are grey, or else 24-bit colours."""
    if (colours == colours[..., :1]).all():
        return colours[..., 0]
    return colours @ (1 << 16, 1 << 8, 1)


def _class_map(stored: _Stored, values: np.ndarray) -> MaskFile:
    """A file of few exact numbers, `values`, ascending."""
    numbers, note = stored.numbers, ""
    opaque = stored.kind == "picture" and not stored.clear.any()
    if stored.kind == "indexed" and len(values) > 2 and 255 in values:
        numbers = np.where(numbers == 255, 0, numbers)
    elif opaque and len(values) > 1 and values[0] and values[-1] > MAX_LABELS:
        background = int(values[-1])  # white, or the lightest grey
        if background > 255 and background != _WHITE:
            border = np.concatenate([numbers[0], numbers[-1], numbers[:, 0], numbers[:, -1]])
            background = int(max(values, key=lambda value: (border == value).sum()))
        numbers = np.where(numbers == background, 0, numbers)
        name = f"#{background:06x}" if background > 255 else f"grey level {background}"
        note = f"There is no black in the file; its {name} was read as the background."
    found = np.unique(numbers)
    return MaskFile(numbers.astype(np.int32), tuple(int(value) for value in found if value), note)


def _with_black_as_zero(indexes: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Indexes (h, w) so that 0 is black, if one index in use is black: programs order their palettes as they like."""
    black = np.unique(indexes[~colours.any(-1)])
    if len(black) != 1 or black[0] == 0:
        return indexes
    return np.where(indexes == black[0], 0, np.where(indexes == 0, 256, indexes.astype(np.int32)))


def _has_soft_edges(colours: np.ndarray) -> bool:
    """True if levels (h, w) or colours (h, w, 3) in between lead from one area to another, as in smooth edges or noise.

    Where two areas of a class map meet, a pixel is as light as the lightest or the darkest of its neighbours. So is
    one of a smooth edge, where it is exact; elsewhere its levels never fill a block of 3×3 pixels.
    """
    levels = colours if colours.ndim == 2 else colours.sum(-1)
    if not MAX_LABELS < levels.max() <= 65_535 or min(levels.shape) < 3:
        return False  # class numbers
    if np.count_nonzero(np.bincount(levels.ravel())) <= 2:
        return False  # quickly decided, as it is the most frequent case
    low, high = ndimage.minimum_filter(levels, 3), ndimage.maximum_filter(levels, 3)
    between = (low < levels) & (levels < high)
    edges = low < high
    if between[edges].sum() > 0.15 * edges.sum():
        return True
    solid = np.unique(levels[low == high])
    soft = ~np.isin(levels, solid)
    return bool(soft.any() and 0 < len(solid) <= 3 and between[soft].mean() > 0.8)


def _thresholded(stored: _Stored) -> MaskFile:
    """A picture of two colours and what lies between them, thresholded half-way. Raises ImageError."""
    clear = stored.clear
    colours = stored.colours.reshape(*clear.shape, -1)
    pixels = colours[~clear].astype(np.float64)
    step = max(1, len(pixels) // 100_000)
    some = pixels[::step]
    axis = some - some.mean(0)
    _, _, main = np.linalg.svd(axis.T @ axis)  # the direction in which colours differ most
    along = (colours - some.mean(0)) @ main[0]
    line = axis @ main[0]
    spread = np.sqrt(np.maximum((axis**2).sum(1) - line**2, 0))
    first, last = _two_means(line)
    gap = last - first
    valley = ((line > first + gap / 3) & (line < last - gap / 3)).mean()
    apart = gap > 3 * max(np.abs(np.where(line < first + gap / 2, line - first, line - last)).mean(), 1)
    straight = np.quantile(spread, 0.99) < max(0.25 * gap, 24)
    smooth = colours.shape[2] == 1 or np.ptp(colours, axis=2).max() == 0
    ramp = smooth and _is_ramp(colours[..., 0])
    if not (ramp or (apart and straight and valley < 0.1)):
        raise ImageError(
            f"{stored.name} looks like a photo or has more colours than classes; a mask has two colours, or is a PNG "
            f"with a number or an exact colour for each class, {MAX_LABELS} at most."
        )
    middle = (line.min() + line.max()) / 2 if ramp else (first + last) / 2
    upper = along > middle
    light = colours.reshape(-1, colours.shape[2]).sum(1).reshape(clear.shape)
    inside = upper if light[upper & ~clear].mean() > light[~upper & ~clear].mean() else ~upper
    inside = inside & ~clear
    note = "The file has smooth edges or lossy colours; it was read as one mask, thresholded half-way."
    background = "dark"
    if light[~inside & ~clear].min() > 0.15 * light.max() and colours.shape[2] == 3:
        inside = ~inside & ~clear  # nothing is black: the lighter colour is the paper
        background = "light"
    return MaskFile(inside.astype(np.int32), (1,), f"{note} Its {background} part is the background.")


def _two_means(line: np.ndarray) -> tuple[float, float]:
    """The means of two groups of numbers (n,), lower first (Lloyd's algorithm from both ends)."""
    first, last = float(line.min()), float(line.max())
    for _ in range(20):
        upper = line > (first + last) / 2
        if upper.all() or not upper.any():
            break
        first, last = float(line[~upper].mean()), float(line[upper].mean())
    return first, last


def _is_ramp(grey: np.ndarray) -> bool:
    """True for grey levels (h, w) that change steadily, as no photo does: second differences are at most 2."""
    bends = [np.abs(np.diff(grey, 2, axis=axis)) for axis in (0, 1) if grey.shape[axis] > 2]
    return bool(bends and max(np.quantile(bend, 0.98) for bend in bends) <= 2 and np.ptp(grey) >= 64)
