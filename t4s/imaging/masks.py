"""COCO segmentations to masks and back.

A segmentation has one of three forms, as in `instances.json`:

    [[x, y, x, y, x, y, …], …]                       polygons in pixels; several are parts of one object
    {"size": [h, w], "counts": [5, 3, …]}            run lengths, column by column, background first (`iscrowd`)
    {"size": [h, w], "counts": "52203…"}             the same, packed into a string

Polygons are rasterised by pycocotools, so that areas and scores agree with published tables to the pixel. Parts
that overlap are united. (Adding them up in uint8, as much published code does, gives 2 where they overlap.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco

from t4s.errors import DataError
from t4s.limits import MAX_PIXELS

MAX_OUTLINE = 1_000_000  # pixels along the outline of a polygon: pycocotools keeps every point of it in memory


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
