"""Outlines with few points: staircases become lines, specks are dropped, holes are cut out where there can be none.

What is guaranteed: rings do not cross or touch themselves or each other; every corner of the mask is within
`TOLERANCE` of the outline before it is moved inside by `INSET`; filled by Pillow (which draws every pixel that the
outline touches) and by pycocotools (which asks for the pixels' centres), a polygon has an IoU of at least `MIN_IOU`
with its part of the mask. Where a simpler outline would break that, the exact one is kept.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco

from t4s.imaging.polygons import Ring, keyhole, polygons, ring_area
from t4s.limits import MIN_PART

TOLERANCE = 0.5  # pixels; below 0.36 every step of a staircase would remain
INSET = 0.1  # pixels: outlines run inside the mask, so that parts and holes which meet at a corner are apart
MIN_IOU = 0.9905
MAX_DROPPED = 0.004  # of a mask's area: specks beyond this share are kept
MIN_SIMPLIFIED = 400  # square pixels: the corners of smaller polygons count
MAX_CHECKED = 3_000  # points: rings with more are not simplified, as every pair of sides is checked

Outline = list[tuple[float, float]]  # points (x, y) in pixels, not closed


def outlines(mask: np.ndarray, holes: bool = True) -> list[list[Outline]]:
    """`mask` (h, w) bool as polygons: each is [outline, hole, hole, …]; with `holes` False only [outline].

    Without holes, each is joined to the outline by a slit a tenth of a pixel wide. Parts and holes of fewer than
    `limits.MIN_PART` pixels are dropped, the smallest first and at most `MAX_DROPPED` of the mask.
    """
    found = []
    for polygon in _without_specks(polygons(mask)):
        rings = polygon if holes else [keyhole(polygon)]
        found.append(_simplified(rings, sum(map(ring_area, polygon)) / 2))
    return found


def _without_specks(found: list[list[Ring]]) -> list[list[Ring]]:
    areas = [[abs(ring_area(ring)) / 2 for ring in polygon] for polygon in found]
    parts = [outline - sum(holes) for outline, *holes in areas]
    specks = [(area, i, 0) for i, area in enumerate(parts)]
    specks += [(area, i, k) for i, own in enumerate(areas) for k, area in enumerate(own) if k]
    budget = MAX_DROPPED * sum(parts)
    dropped: set[tuple[int, int]] = set()
    for area, i, k in sorted(speck for speck in specks if speck[0] < MIN_PART):
        budget -= area
        if budget < 0:
            break
        dropped.add((i, k))
    return [
        [ring for k, ring in enumerate(polygon) if (i, k) not in dropped]
        for i, polygon in enumerate(found)
        if (i, 0) not in dropped
    ]


def _simplified(rings: list[Ring], area: float) -> list[Outline]:
    """The rings of one polygon with as few points as the guarantees allow."""
    exact = [np.array(ring, float) for ring in rings]
    corners, times = np.unique(np.concatenate(exact), axis=0, return_counts=True)
    meeting = set(map(tuple, corners[times > 1].tolist()))
    truth = None
    for tolerance in (TOLERANCE, 0.85 * TOLERANCE) if area >= MIN_SIMPLIFIED else ():
        simple = [_fewer_points(ring, tolerance) for ring in exact]
        count = sum(map(len, simple))
        if any(len(ring) < 3 for ring in simple) or not count < sum(map(len, exact)) or count > MAX_CHECKED:
            continue
        moved = [_moved_inside(ring, meeting) for ring in simple]
        if _crossing(moved):
            continue
        if truth is None:
            low = np.floor(exact[0].min(0)) - 1
            size = tuple((np.ceil(exact[0].max(0)) + 2 - low).astype(int)[::-1])
            truth = _filled([ring - low for ring in exact], size)
        shifted = [ring - low for ring in moved]
        if min(_iou(_filled(shifted, size), truth), _iou(_drawn(shifted, size), truth)) >= MIN_IOU:
            return [_points(ring) for ring in moved]
    return [_points(_moved_inside(ring, meeting)) for ring in exact]


def _points(ring: np.ndarray) -> Outline:
    return [(round(x, 3), round(y, 3)) for x, y in ring.tolist()]


def _fewer_points(ring: np.ndarray, tolerance: float) -> np.ndarray:
    """The closed ring (n, 2) with fewer points: all of its corners stay within `tolerance` (after Douglas and Peucker).

    Lines may begin in the middle of a side: through the middles of its short sides a staircase is straight.
    """
    n = len(ring)
    following = np.roll(ring, -1, axis=0)
    path = np.empty((2 * n, 2))  # corner, middle of the side after it, corner, …
    path[::2], path[1::2] = ring, (ring + following) / 2
    length = np.abs(following - ring).sum(1)
    fixed = [2 * i for i in range(n) if ring[i, 1] % 1]  # ends of slits
    if not fixed:
        start = 2 * int(np.argmax(length)) + 1
        anywhere = sorted([start, (start + n) % (2 * n) | 1])
        kept = _kept(path, length, anywhere, tolerance)
        fixed = [i for i in kept if i not in anywhere]  # where to begin was arbitrary: begin again at points that count
        if len(fixed) < 2:
            return path[kept]
    return path[_kept(path, length, fixed, tolerance)]


def _kept(path: np.ndarray, length: np.ndarray, fixed: list[int], tolerance: float) -> list[int]:
    """The indexes of the points that `_fewer_points` keeps of a path (2n, 2), `fixed` ones (ascending) among them."""
    size = len(path)
    kept = []
    spans = [(a, b if b > a else b + size) for a, b in zip(fixed, [*fixed[1:], fixed[0]], strict=True)]
    while spans:
        first, last = spans.pop()
        corners = np.arange(first // 2 + 1, (last + 1) // 2) * 2
        far = _distances(path[corners % size], path[first % size], path[last % size])
        if not len(corners) or far.max() <= tolerance + 1e-9:
            kept.append(first % size)
            continue
        worst = int(corners[far.argmax()])
        before, after = length[worst % size // 2 - 1], length[worst % size // 2]
        step = 1 if after <= before else -1
        if min(before, after) < 2 and first < worst + step < last:  # a step of a staircase: take its middle
            worst += step
        spans += [(worst, last), (first, worst)]
    return sorted(kept)


def _distances(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """(n,) distances of points (n, 2) from the segment."""
    along = end - start
    share = np.clip((points - start) @ along / max(along @ along, 1e-12), 0, 1)
    return np.hypot(*(points - start - share[:, None] * along).T)


def _moved_inside(ring: np.ndarray, meeting: set[tuple[float, float]]) -> np.ndarray:
    """The ring (n, 2) moved by INSET to its inner side (on the right hand on the screen); slits keep their width.

    Points in `meeting`, where rings of one polygon meet, are moved outwards: inside they would cross.
    """
    ahead = np.roll(ring, -1, axis=0) - ring
    ahead /= np.hypot(*ahead.T)[:, None]
    normal = np.stack([-ahead[:, 1], ahead[:, 0]], 1)  # of the side after each point
    before = np.roll(normal, 1, axis=0)
    move = (normal + before) / np.maximum(1 + (normal * before).sum(1), 0.5)[:, None]
    slit = ring[:, 1] % 1 * 10 % 5 > 1e-6  # three or four tenths: ends of slits
    flat = np.abs(ahead[:, 1]) < 1e-9
    side = np.where((flat & slit)[:, None], before, normal)
    move[slit] = np.stack([np.sign(side[slit, 0]), np.zeros(slit.sum())], 1)
    if meeting:
        move[[tuple(point) in meeting for point in ring.tolist()]] *= -1
    return ring + INSET * move


def _crossing(rings: list[np.ndarray]) -> bool:
    """True if any two sides of the rings meet, other than neighbours at their common point."""
    start = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    ring_of = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    first = np.searchsorted(ring_of, np.arange(len(rings)))
    following = np.where(np.append(ring_of[1:], -1) == ring_of, np.arange(1, len(start) + 1), first[ring_of])
    low, high = np.minimum(start, end), np.maximum(start, end)
    for i in range(len(start)):
        near = np.flatnonzero(((low[i + 1 :] <= high[i]) & (high[i + 1 :] >= low[i])).all(1)) + i + 1
        near = near[(near != following[i]) & (following[near] != i)]
        if len(near):
            a = _side(start[i], end[i], start[near]) * _side(start[i], end[i], end[near])
            b = _side(start[near], end[near], start[i]) * _side(start[near], end[near], end[i])
            if ((a <= 0) & (b <= 0)).any():
                return True
        if _side(start[i], end[i], end[following[i]]) == 0 and (end[following[i]] - end[i]) @ (end[i] - start[i]) < 0:
            return True  # turns back on itself
    return False


def _side(start: np.ndarray, end: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Positive, negative or 0: on which side of the line a point is."""
    along, there = end - start, point - start
    return along[..., 0] * there[..., 1] - along[..., 1] * there[..., 0]


def _filled(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, as pycocotools fills: the pixels whose centre is inside; holes are left out."""
    parts = coco.decode(coco.frPyObjects([ring.ravel().tolist() for ring in rings], *size))
    return parts.sum(-1) % 2 == 1


def _drawn(rings: list[np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, as Pillow and LabelMe fill: also the pixels that the outline touches."""
    picture = Image.new("L", size[::-1])
    ImageDraw.Draw(picture).polygon([tuple(point) for point in rings[0].tolist()], outline=1, fill=1)
    return (np.asarray(picture) > 0) & ~_filled(rings[1:], size) if len(rings) > 1 else np.asarray(picture) > 0


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))
