"""Connected regions of a class's mask: which are separate instances, and which are parts of one that is occluded."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from scipy.spatial.distance import cdist

PEOPLE = frozenset(("person", "pedestrian", "bicyclist"))
# The largest width / height of one instance. A wider region shows several.
WIDEST = {**dict.fromkeys(PEOPLE, 1.4), "cow": 1.9, "sheep": 1.9, "horse": 1.9, "car": 2}
OUTLINE_POINTS = 160  # of each region, at most, that are compared to find the nearest two


def components(mask: np.ndarray) -> np.ndarray:
    """(h, w) bool → (h, w) int32: 0 outside, 1, 2, … for the 4-connected regions, in reading order."""
    return ndimage.label(mask)[0]


def areas(labels: np.ndarray) -> np.ndarray:
    """`components` (h, w) → (n,): the pixels of regions 1 to n."""
    return np.bincount(labels.ravel())[1:]


def bounding_slices(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the bounding box of a mask (h, w) bool, which must not be empty."""
    ys = np.flatnonzero(mask.any(1))
    xs = np.flatnonzero(mask.any(0))
    return slice(int(ys[0]), int(ys[-1]) + 1), slice(int(xs[0]), int(xs[-1]) + 1)


def is_herd(mask: np.ndarray, name: str) -> bool:
    """True if a region (h, w) bool of a class is too wide to be a single instance."""
    rows, columns = bounding_slices(mask)
    return (columns.stop - columns.start) / (rows.stop - rows.start) > WIDEST.get(name, np.inf)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Pixels between the nearest points of two masks (h, w); slightly too large where the outlines are long."""
    start, end = _nearest_points(first, second)
    return float(np.hypot(*(end - start)))


def between(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels on the straight line between the nearest points of two masks, outside both."""
    start, end = _nearest_points(first, second)
    count = int(np.abs(end - start).max()) + 1
    line = np.rint(np.linspace(start, end, count)).astype(int)
    outside = ~(first | second)[line[:, 0], line[:, 1]]
    return line[outside, 0], line[outside, 1]


def _nearest_points(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a = _outline(first)
    b = _outline(second)
    squared = cdist(a, b, "sqeuclidean")
    i, j = np.unravel_index(int(squared.argmin()), squared.shape)
    return a[i], b[j]


def _outline(mask: np.ndarray) -> np.ndarray:
    """Rows and columns (n, 2) of evenly sampled pixels on the outline of a mask (h, w)."""
    points = np.argwhere(mask & ~ndimage.binary_erosion(mask, border_value=1))
    if not len(points):  # it covers the whole picture
        points = np.argwhere(mask)
    return points[:: max(len(points) // OUTLINE_POINTS, 1)]
