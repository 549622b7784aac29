"""True masks → the coarse grids that a model might have written: what the learned refiner trains on.

    cells, confidence = spoiled_cells(mask, known, shape, rng)

Models err in their own ways: a run ends a cell early or late, a row repeats the one above, a part is missing, the
whole thing sits a cell off. About half of the grids are true, the others carry some of these errors. Half of
them come with a confidence, which is low where a cell is only partly covered, and noisy.
"""

from __future__ import annotations

import numpy as np

SIDES = {16: 0.55, 24: 0.17, 32: 0.12, 0: 0.16}  # cells a side and how often; 0: any two numbers from 8 to 32
TRUE_SHARE, CONFIDENT_SHARE = 0.6, 0.4


def draw_shape(rng: np.random.Generator) -> tuple[int, int]:
    """(H, W) cells."""
    side = int(rng.choice(list(SIDES), p=list(SIDES.values())))
    return (side, side) if side else (int(rng.integers(8, 33)), int(rng.integers(8, 33)))


def coverage(mask: np.ndarray, known: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) in [0, 1]: how much of each cell's known pixels the mask covers; 0 where none is known."""
    inside, seen = (_cell_sums(pixels, shape) for pixels in (mask & known, known))
    return np.divide(inside, seen, out=np.zeros(shape), where=seen > 0)


def spoiled_cells(
    mask: np.ndarray, known: np.ndarray, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """`mask` and `known` (h, w) bool → (H, W) bool cells, at least one, and (H, W) confidence in [0, 1] or None."""
    cover = coverage(mask, known, shape)
    cells = true = (cover > 0.5) | (cover == max(cover.max(), 1e-9))
    if rng.random() > TRUE_SHARE:
        for error, share in ERRORS:
            if rng.random() < share:
                cells = error(cells, rng)
        cells = cells if cells.any() else true
    if rng.random() > CONFIDENT_SHARE:
        return cells, None
    return cells, doubt(cells, cover, rng)


def doubt(cells: np.ndarray, cover: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A confidence: low where coverage is half or contradicts the cell, blurred, bent and noisy."""
    agree = np.where(cells, cover, 1 - cover)
    soft = _blur(agree) if rng.random() < 0.5 else agree
    sure = rng.uniform(0.3, 0.9) + (1 - rng.uniform(0, 0.6)) * (soft - 0.5)
    return np.clip(sure + rng.normal(0, rng.uniform(0, 0.15), cells.shape), 0, 1) ** rng.uniform(0.4, 1.5)


def shifted(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The whole a cell off."""
    dy, dx = rng.integers(-1, 2, 2)
    rows, columns = (np.clip(np.arange(n) - d, 0, n - 1) for n, d in zip(cells.shape, (dy, dx), strict=True))
    return cells[rows][:, columns]


def regrown(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One cell more, or less, all around."""
    grow = rng.random() < 0.5
    near = np.pad(cells if grow else ~cells, 1, mode="edge")
    spread = near[1:-1, 1:-1] | near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:]
    return spread if grow else ~spread


def ragged(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Runs that end a cell early or late: each row's boundaries move on their own."""
    out, chance = cells.copy(), rng.uniform(0.1, 0.5)
    for row in out:
        for edge in np.flatnonzero(row[1:] != row[:-1]) + 1:
            if rng.random() < chance:
                at = edge if rng.random() < 0.5 else edge - 1
                row[at] = not row[at]
    return out


def torn(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part missing: a rectangle around one of its cells."""
    inside = np.argwhere(cells)
    if len(inside) < 4:
        return cells
    y, x = inside[rng.integers(len(inside))]
    reach = max(1, round(np.sqrt(len(inside)) * rng.uniform(0.1, 0.35)))
    out = cells.copy()
    out[max(0, y - reach + 1) : y + reach, max(0, x - reach + 1) : x + reach] = False
    return out


def dotted(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Single cells flipped, anywhere."""
    return cells ^ (rng.random(cells.shape) < rng.uniform(0, 0.03))


def repeated(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A row written twice, so that those below move down."""
    row = int(rng.integers(len(cells)))
    return np.insert(cells, row, cells[row], 0)[:-1]


ERRORS = ((shifted, 0.2), (regrown, 0.3), (ragged, 0.5), (torn, 0.3), (dotted, 0.3), (repeated, 0.15))


def _cell_sums(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) → (H, W): pixels counted in the cell of their centre."""
    top, left = (np.ceil(np.arange(m) * n / m - 0.5).astype(int) for n, m in zip(pixels.shape, shape, strict=True))
    return np.add.reduceat(np.add.reduceat(pixels.astype(np.int32), top, 0), left, 1)


def _blur(values: np.ndarray) -> np.ndarray:
    near = np.pad(values, 1, mode="edge")
    rows, columns = values.shape
    return sum(near[y : y + rows, x : x + columns] for y in range(3) for x in range(3)) / 9
