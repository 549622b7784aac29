"""Pieces of masks: what hangs together, and whether two pieces are two instances or one that something cuts in two."""

from __future__ import annotations

import numpy as np

PEOPLE = frozenset(("person", "pedestrian", "bicyclist"))
# Width over height of one instance. In one piece that is wider there are several.
WIDEST = {**dict.fromkeys(PEOPLE, 1.4), "cow": 1.9, "sheep": 1.9, "horse": 1.9, "car": 2}
OUTLINE_POINTS = 160  # of each piece that are compared for the nearest two


def components(mask: np.ndarray) -> np.ndarray:
    """(h, w) bool → (h, w) int32: 0 outside, 1, 2, … for the pieces whose pixels touch by their sides.

    Works on runs of pixels: neighbouring runs of two rows are joined, so the cost is that of the outline.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    ends = np.nonzero(steps == -1)[1]
    bounds = np.searchsorted(rows, np.arange(height + 1)).tolist()
    parent = list(range(len(rows)))
    first, last = starts.tolist(), ends.tolist()

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    for row in range(1, height):
        above, end_above, here, end_here = bounds[row - 1], bounds[row], bounds[row], bounds[row + 1]
        while above < end_above and here < end_here:
            if first[above] < last[here] and first[here] < last[above]:
                a, b = root(above), root(here)
                parent[max(a, b)] = min(a, b)
            if last[above] < last[here]:
                above += 1
            else:
                here += 1
    _, numbers = np.unique([root(run) for run in range(len(rows))], return_inverse=True)
    lengths = ends - starts
    labels = np.zeros(height * width, np.int32)
    offsets = np.repeat(rows * width + starts - np.concatenate([[0], np.cumsum(lengths)[:-1]]), lengths)
    labels[offsets + np.arange(lengths.sum())] = np.repeat(numbers + 1, lengths)
    return labels.reshape(height, width)


def is_herd(mask: np.ndarray, name: str) -> bool:
    """True if a piece (h, w) bool of a class is too wide to be one of its kind."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return bool((xs[-1] - xs[0] + 1) / (ys[-1] - ys[0] + 1) > WIDEST.get(name, np.inf))


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Pixels between the nearest points of two masks (h, w); up to a few too many where the outlines are long."""
    start, end = _nearest(first, second)
    return float(np.hypot(*(end - start)))


def between(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels on the straight line between the nearest points, inside neither mask."""
    start, end = _nearest(first, second)
    count = int(np.abs(end - start).max()) + 1
    line = np.rint(np.linspace(start, end, count)).astype(int)
    outside = ~(first | second)[line[:, 0], line[:, 1]]
    return line[outside, 0], line[outside, 1]


def _nearest(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    a, b = _outline(first), _outline(second)
    apart = ((a[:, None] - b[None]) ** 2).sum(-1)
    near = np.unravel_index(int(apart.argmin()), apart.shape)
    return a[near[0]], b[near[1]]


def _outline(mask: np.ndarray) -> np.ndarray:
    """(n, 2) rows and columns, n at most `OUTLINE_POINTS`, of the pixels of a mask at its outline."""
    inner = mask.copy()
    inner[1:] &= mask[:-1]
    inner[:-1] &= mask[1:]
    inner[:, 1:] &= mask[:, :-1]
    inner[:, :-1] &= mask[:, 1:]
    points = np.argwhere(mask & ~inner)
    if not len(points):
        points = np.argwhere(mask)
    return points[:: max(len(points) // OUTLINE_POINTS, 1)]
