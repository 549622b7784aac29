"""Outlines of masks along the edges of pixels: exact, so that filling them gives the mask again."""

from __future__ import annotations

import numpy as np

Ring = list[tuple[int, int]]  # corners (x, y), not closed; the inside is on the right hand on the screen

# Directions: 0 right, 1 down, 2 left, 3 up. A top edge of a pixel is walked to the right, its right edge
# down, and so on: clockwise on the screen around an object, and the other way around a hole.
_STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))
SLIT = (0.3, 0.4)  # the sides of a slit, below the upper edge of a row of pixels


def polygons(mask: np.ndarray) -> list[list[Ring]]:
    """`mask` (h, w) bool as polygons: each is [outline, hole, hole, …], in reading order of their outlines.

    Corners (x, y) are corners of pixels, 0 ≤ x ≤ w, 0 ≤ y ≤ h. No ring crosses or touches itself; pixels
    that meet only at a corner are in separate polygons. By the shoelace formula over (x, y), outlines have
    a positive area and holes a negative one.
    """
    rings = [ring for walk in _walks(np.asarray(mask, bool)) for ring in _split_loops(walk)]
    parent = _parents(np.asarray(mask, bool), rings)
    found = {i: [ring] for i, ring in enumerate(rings) if parent[i] == i}
    for i, ring in enumerate(rings):
        if parent[i] != i:
            found[parent[i]].append(ring)
    return list(found.values())


def keyhole(polygon: list[Ring]) -> list[tuple[int, float]]:
    """One ring without holes that fills the same pixels, for formats without holes.

    Each hole is joined to the ring by a slit, which runs to the left from the left side of the hole. It does not
    contain the centre of any pixel, and the ring does not touch itself.
    """
    ring = list(polygon[0])
    for hole in sorted(polygon[1:], key=min):
        at = _left_side(hole)
        x, y = hole[at]
        # The nearest upward side to the left of the hole's corner, in the pixel row below it; holes come
        # from left to right, so the ring that it belongs to is in `ring` already.
        sides = [
            (ax, i)
            for i, ((ax, ay), (bx, by)) in enumerate(zip(ring, ring[1:] + ring[:1], strict=True))
            if ax == bx and by <= y < ay and ax < x
        ]
        left, i = max(sides)
        upper, lower = y + SLIT[0], y + SLIT[1]
        around = [*hole[at + 1 :], *hole[: at + 1]]
        ring[i + 1 : i + 1] = [(left, lower), (x, lower), *around, (x, upper), (left, upper)]
    return ring


def _walks(mask: np.ndarray) -> list[Ring]:
    """Every closed walk along the edges of the mask, as its corners."""
    padded = np.pad(mask, 1)
    height, width = mask.shape[0] + 1, mask.shape[1] + 1  # lattice points
    # out[d, y, x]: an edge leaves the lattice point (x, y) in direction d. Its pixel is inside, the one
    # across is not; both lie around the point: padded[y:y+2, x:x+2].
    inside = (padded[1:, 1:], padded[1:, :-1], padded[:-1, :-1], padded[:-1, 1:])
    across = (padded[:-1, 1:], padded[1:, 1:], padded[1:, :-1], padded[:-1, :-1])
    out = np.stack([here & ~there for here, there in zip(inside, across, strict=True)])
    edges = np.flatnonzero(out)
    direction, point = edges // (height * width), edges % (height * width)
    end = point + np.array([dx + dy * width for dx, dy in _STEPS])[direction]
    flat = out.reshape(4, -1)
    right, ahead = flat[(direction + 1) % 4, end], flat[direction, end]  # right first: stay with the same pixel
    turn = np.where(right, 1, np.where(ahead, 0, 3))
    following = np.searchsorted(edges, (direction + turn) % 4 * height * width + end).tolist()
    corner, points = (turn != 0).tolist(), end.tolist()
    walks, seen = [], bytearray(len(edges))
    for start in np.argsort(point, kind="stable").tolist():
        walk, edge = [], start
        while not seen[edge]:
            seen[edge] = 1
            if corner[edge]:
                walk.append((points[edge] % width, points[edge] // width))
            edge = following[edge]
        if walk:
            walks.append(walk)
    return walks


def _split_loops(walk: Ring) -> list[Ring]:
    """A closed walk split into rings where it returns to a corner: a pocket becomes a hole."""
    rings: list[Ring] = []
    stack: Ring = []
    at: dict[tuple[int, int], int] = {}
    for corner in walk:
        if corner in at:
            rings.append(stack[at[corner] :])
            for passed in rings[-1]:
                del at[passed]
            del stack[len(stack) - len(rings[-1]) :]
        at[corner] = len(stack)
        stack.append(corner)
    return [*rings, stack]


def ring_area(ring: Ring) -> int:
    """Twice the signed area (shoelace formula); negative for holes."""
    return sum(ax * by - bx * ay for (ax, ay), (bx, by) in zip(ring, ring[1:] + ring[:1], strict=True))


def _left_side(hole: Ring) -> int:
    """The index of the upper corner of a hole's leftmost side, which is walked downwards."""
    following = hole[1:] + hole[:1]
    return min((x, y, i) for i, ((x, y), (bx, by)) in enumerate(zip(hole, following, strict=True)) if by > y)[2]


def _parents(mask: np.ndarray, rings: list[Ring]) -> list[int]:
    """For every ring the index of its outline: itself, or for a hole the ring around it."""
    ring_at = np.full((mask.shape[0], mask.shape[1] + 1), -1)  # the ring of every upward side: a left edge
    for i, ring in enumerate(rings):
        for (ax, ay), (_, by) in zip(ring, ring[1:] + ring[:1], strict=True):
            if by < ay:
                ring_at[by:ay, ax] = i
    parent = list(range(len(rings)))
    holes = [i for i, ring in enumerate(rings) if ring_area(ring) < 0]
    for i in sorted(holes, key=lambda i: min(rings[i])):  # from the left: everything to the left of a hole is assigned
        x, y = rings[i][_left_side(rings[i])]
        start = x - 1  # inside; go left to where this run of pixels begins
        outside = np.flatnonzero(~mask[y, :start])
        parent[i] = parent[ring_at[y, outside[-1] + 1 if len(outside) else 0]]
    return parent
