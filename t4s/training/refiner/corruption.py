"""True masks to coarse grids such as a model might write: the input of the refiner's training.

    cells, confidence = corrupted_cells(mask, known, shape, rng)

Typical errors: a run ends a cell early or late, a row repeats the one above, a part is missing, the whole object is
shifted by a cell. 60 % of the grids are true, the others have some of these errors. 40 % come with a confidence, which
is noisy and low where a cell is only partly covered.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SIDES = {16: 0.55, 24: 0.17, 32: 0.12, 0: 0.16}  # cells a side and how often; 0: any two numbers from 8 to 32
TRUE_SHARE, CONFIDENCE_SHARE = 0.6, 0.4


def draw_shape(rng: np.random.Generator) -> tuple[int, int]:
    """(H, W) cells."""
    side = int(rng.choice(list(SIDES), p=list(SIDES.values())))
    return (side, side) if side else (int(rng.integers(8, 33)), int(rng.integers(8, 33)))


def coverage(mask: np.ndarray, known: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) in [0, 1]: share of each cell's known pixels that the mask covers; 0 where none is known."""
    covered = _cell_sums(mask & known, shape)
    total = _cell_sums(known, shape)
    return np.divide(covered, total, out=np.zeros(shape), where=total > 0)


def true_cells(cover: np.ndarray) -> np.ndarray:
    """(H, W) coverage → (H, W) bool: the cells that are more than half covered, or else the best-covered ones."""
    return (cover > 0.5) | (cover == max(cover.max(), 1e-9))


def corrupted_cells(
    mask: np.ndarray, known: np.ndarray, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray | None]:
    """`mask` and `known` (h, w) bool → (H, W) bool cells, at least one, and (H, W) confidence in [0, 1] or None."""
    cover = coverage(mask, known, shape)
    true = true_cells(cover)
    cells = true
    if rng.random() > TRUE_SHARE:
        for error, share in ERRORS:
            if rng.random() < share:
                cells = error(cells, rng)
        if not cells.any():
            cells = true
    if rng.random() > CONFIDENCE_SHARE:
        return cells, None
    return cells, simulated_confidence(cells, cover, rng)


def simulated_confidence(cells: np.ndarray, cover: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W) in [0, 1]: low where coverage is half or contradicts the cell; blurred, noisy, with a random gamma."""
    agreement = np.where(cells, cover, 1 - cover)
    if rng.random() < 0.5:
        agreement = ndimage.uniform_filter(agreement, 3, mode="nearest")
    confidence = rng.uniform(0.3, 0.9) + (1 - rng.uniform(0, 0.6)) * (agreement - 0.5)
    noisy = confidence + rng.normal(0, rng.uniform(0, 0.15), cells.shape)
    return np.clip(noisy, 0, 1) ** rng.uniform(0.4, 1.5)


# --- the errors: (H, W) bool → (H, W) bool


def shifted(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The whole object shifted by at most a cell each way."""
    dy, dx = rng.integers(-1, 2, 2)
    rows = np.clip(np.arange(cells.shape[0]) - dy, 0, cells.shape[0] - 1)
    columns = np.clip(np.arange(cells.shape[1]) - dx, 0, cells.shape[1] - 1)
    return cells[rows][:, columns]


def grown_or_shrunk(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One cell more, or less, all around."""
    if rng.random() < 0.5:
        return ndimage.binary_dilation(cells)
    return ndimage.binary_erosion(cells, border_value=1)


def ragged(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Runs that end a cell early or late: each boundary of each row moves independently."""
    result, chance = cells.copy(), rng.uniform(0.1, 0.5)
    for row in result:
        for edge in np.flatnonzero(row[1:] != row[:-1]) + 1:
            if rng.random() < chance:
                x = edge if rng.random() < 0.5 else edge - 1
                row[x] = not row[x]
    return result


def torn(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part missing: a rectangle around one of its cells."""
    inside = np.argwhere(cells)
    if len(inside) < 4:
        return cells
    y, x = inside[rng.integers(len(inside))]
    reach = max(1, round(np.sqrt(len(inside)) * rng.uniform(0.1, 0.35)))
    result = cells.copy()
    result[max(0, y - reach + 1) : y + reach, max(0, x - reach + 1) : x + reach] = False
    return result


def speckled(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Single cells flipped, anywhere."""
    return cells ^ (rng.random(cells.shape) < rng.uniform(0, 0.03))


def repeated(cells: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A row written twice, which moves those below down."""
    row = int(rng.integers(len(cells)))
    return np.insert(cells, row, cells[row], 0)[:-1]


# (error, how often)
ERRORS = (
    (shifted, 0.2),
    (grown_or_shrunk, 0.3),
    (ragged, 0.5),
    (torn, 0.3),
    (speckled, 0.3),
    (repeated, 0.15),
)


def _cell_sums(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(h, w) → (H, W): pixels counted in the cell that holds their centre."""
    height, width = pixels.shape
    rows = np.ceil(np.arange(shape[0]) * height / shape[0] - 0.5).astype(int)
    columns = np.ceil(np.arange(shape[1]) * width / shape[1] - 0.5).astype(int)
    return np.add.reduceat(np.add.reduceat(pixels.astype(np.int32), rows, 0), columns, 1)
