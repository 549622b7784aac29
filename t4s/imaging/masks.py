"""COCO segmentations → masks: polygons, run lengths, packed run lengths. numpy only.

Three forms, as `instances.json` holds them:

    [[x, y, x, y, x, y, …], …]                       polygons in pixels; several are parts of one object
    {"size": [h, w], "counts": [5, 3, …]}            run lengths, down the columns, off first (`iscrowd`)
    {"size": [h, w], "counts": "52203…"}             the same, packed into a string

Polygons are drawn by COCO's own rule, so that areas and scores are those of published tables, to the
pixel: the outline is walked on a lattice five times finer than the pixels, and where it passes the
middle of a pixel column, everything below flips. Parts that overlap are united. (Adding the parts up in
uint8, as much published code does, gives 2 where they overlap.)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from t4s.errors import DataError
from t4s.limits import MAX_PIXELS

FINE = 5  # lattice points per pixel and axis (cocoapi, maskApi.c)
MAX_OUTLINE = 1_000_000  # pixels along a polygon's outline: what is walked must fit into memory


def annotation_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """A COCO segmentation → (height, width) bool.

    Raises DataError if it is none of the three forms of the module docstring, if its size is not
    the photo's, or if a run or a point cannot be.
    """
    if not (isinstance(height, int) and isinstance(width, int) and 0 < height * width <= MAX_PIXELS):
        raise DataError(
            f"A mask of {height!r} rows and {width!r} columns cannot be; both are whole numbers above 0, "
            f"{MAX_PIXELS} pixels at most."
        )
    if isinstance(segmentation, dict):
        return _run_lengths(segmentation, height, width)
    if isinstance(segmentation, list) and segmentation and all(isinstance(part, list) for part in segmentation):
        mask = np.zeros((height, width), bool)
        for part in segmentation:
            mask |= _polygon(part, height, width)
        return mask
    raise DataError(
        f"The segmentation is {_short(segmentation)}; write a list of polygons [[x, y, x, y, x, y, …], …] "
        'or run lengths {"size": [h, w], "counts": …}.'
    )


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"


def _run_lengths(rle: dict[str, Any], height: int, width: int) -> np.ndarray:
    size, counts = rle.get("size"), rle.get("counts")
    if not isinstance(size, (list, tuple)) or list(size) != [height, width]:
        raise DataError(f"The run lengths have the size {_short(size)}; the photo's is [{height}, {width}] (h, w).")
    if isinstance(counts, (str, bytes)):
        counts = _unpack(counts.encode() if isinstance(counts, str) else counts)
    if not isinstance(counts, list) or not all(isinstance(n, int) and n >= 0 for n in counts):
        raise DataError(f"The counts are {_short(counts)}; they are a list of whole numbers from 0 up, or a string.")
    if sum(counts) != height * width:
        raise DataError(
            f"The run lengths cover {sum(counts)} pixels, but the photo has {height}×{width} = "
            f"{height * width}; the annotation is cut off or belongs to another photo."
        )
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T.copy()


def _unpack(packed: bytes) -> list[int]:
    """COCO's string: five bits a character from "0" on, the sixth says that more follow, little end
    first and signed; from the fourth number on, each is the difference to the one two before it."""
    counts: list[int] = []
    value = shift = 0
    for byte in packed:
        chunk = byte - 48
        if not 0 <= chunk < 64 or shift > 50:
            raise DataError(
                f"The packed run lengths {_short(packed)} hold what COCO's packing never writes; "
                "they are not COCO run lengths, or are damaged."
            )
        value |= (chunk & 31) << shift
        shift += 5
        if not chunk & 32:
            value -= (chunk & 16 and 1) << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
            value = shift = 0
    if shift:
        raise DataError(f"The packed run lengths {_short(packed)} are cut off in the middle of a number.")
    return counts


def _polygon(part: list[Any], height: int, width: int) -> np.ndarray:
    """One closed polygon, (height, width) bool, even-odd inside itself."""
    if len(part) < 6 or len(part) % 2 or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in part):
        raise DataError(f"The polygon {_short(part)} is not three or more points x, y, x, y, x, y, … as numbers.")
    points = np.array(part, float).reshape(-1, 2)
    outline = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
    if np.abs(points).max() > MAX_OUTLINE or outline > MAX_OUTLINE:
        raise DataError(
            f"The polygon {_short(part)} reaches or runs over {MAX_OUTLINE} pixels, its photo is "
            f"{width}×{height}; its points are in pixels of that photo."
        )
    points = np.trunc(FINE * points + 0.5).astype(np.int64)
    x, y = _walk(points, np.roll(points, -1, axis=0))
    column, row = np.minimum(x[1:], x[:-1]), np.minimum(y[1:], y[:-1])
    middle = (x[1:] != x[:-1]) & (column % FINE == FINE // 2)
    column, row = (column[middle] - FINE // 2) // FINE, -((FINE // 2 - row[middle]) // FINE)
    inside = (column >= 0) & (column < width)
    flips = np.zeros(height * width + 1, np.int64)  # down the columns, as run lengths go
    np.add.at(flips, column[inside] * height + np.clip(row[inside], 0, height), 1)
    return (np.cumsum(flips[:-1]) % 2 == 1).reshape(width, height).T


def _walk(start: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every lattice point on the edges start[i] → end[i] (n, 2), edge after edge: x and y.

    An edge moves one lattice step at a time along its longer axis, counted from the end where that
    coordinate is smaller, so that an edge shared by two objects is the same line in both directions.
    """
    reach = np.abs(end - start)
    long = (reach[:, 0] < reach[:, 1]).astype(int)  # the axis of the longer side; x if equal
    edges = np.arange(len(start))
    swap = start[edges, long] > end[edges, long]
    low, high = np.where(swap[:, None], end, start), np.where(swap[:, None], start, end)
    steps = reach.max(axis=1)
    slope = (high - low)[edges, 1 - long] / np.maximum(steps, 1)

    edge = np.repeat(edges, steps + 1)
    step = np.arange(len(edge)) - np.repeat(np.cumsum(steps + 1) - (steps + 1), steps + 1)
    step = np.where(swap[edge], steps[edge] - step, step)
    along = low[edge, long[edge]] + step
    across = np.trunc(low[edge, 1 - long[edge]] + slope[edge] * step + 0.5).astype(np.int64)
    upright = long[edge] == 1
    return np.where(upright, across, along), np.where(upright, along, across)
