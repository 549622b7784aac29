"""How much of each cell each class covers, in exact fractions of a pixel. Knows arrays, and no labels."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from t4s.errors import CodecError

_MAX_ID_SPAN = 1 << 24  # ids are looked up in a table; 24 bits is what an RGB-coded id map needs


@lru_cache(maxsize=256)
def _segments(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A side cut at every pixel edge and every cell edge: pixel, cell and length of each piece.

    Lengths are whole numbers: the unit is 1/(pixels·cells) of the side, so coverage is exact.
    """
    edges = np.union1d(np.arange(pixels + 1) * cells, np.arange(cells + 1) * pixels)
    return edges[:-1] // cells, edges[:-1] // pixels, np.diff(edges).astype(np.float64)


def coverage(class_map: np.ndarray, to_bin: dict[int, int], n_bins: int, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, n_bins) float64: the area of each bin in each cell. Whole numbers, in `_segments` units.

    `class_map` (h, w) integers; `to_bin` {id: bin}, and bin 0 for every id that it does not know.
    """
    low, high = min(to_bin, default=0) - 1, max(to_bin, default=0) + 1
    if high - low > _MAX_ID_SPAN:
        raise CodecError(f"Class ids from {low + 1} to {high - 1} lie too far apart; renumber them within 24 bits.")
    table = np.zeros(high - low + 1, dtype=np.intp)  # its two ends stand for every id below and above
    for key, value in to_bin.items():
        table[key - low] = value
    (height, width), (rows, columns) = class_map.shape, shape
    pixel_y, cell_y, length_y = _segments(height, rows)
    pixel_x, cell_x, length_x = _segments(width, columns)
    cover = np.empty((rows, columns * n_bins))
    starts = np.searchsorted(cell_y, np.arange(rows + 1))
    for row in range(rows):  # a band at a time keeps the memory small for large photos
        band = slice(starts[row], starts[row + 1])
        ids = class_map[pixel_y[band]][:, pixel_x].astype(np.int64)
        where = table[np.clip(ids, low, high) - low] + cell_x * n_bins
        weights = length_y[band, None] * length_x
        cover[row] = np.bincount(where.ravel(), weights.ravel(), columns * n_bins)
    return cover.reshape(rows, columns, n_bins)


def keep_small(ids: np.ndarray, cover: np.ndarray) -> None:
    """Give every label that is present without a cell the cell that it covers best, in place.

    No label loses its only cell by it, unless it moves to another cell that it covers: labels and cells
    are matched by augmenting paths (Kuhn), so a label stays without only if there is no way at all.
    """
    won = np.bincount(ids.ravel(), minlength=cover.shape[-1])
    choices = (cover > 0).sum((0, 1))

    def place(label: int, tried: set[tuple[int, int]]) -> bool:
        """Find a cell for `label`: a spare one if there is one, else one whose owner can move."""
        wanted = np.argwhere(cover[..., label] > 0)
        best_first = np.argsort(-cover[wanted[:, 0], wanted[:, 1], label], kind="stable")
        cells = [(int(row), int(column)) for row, column in wanted[best_first]]
        cells = [cell for cell in cells if ids[cell] != label and cell not in tried]
        spare = next((cell for cell in cells if ids[cell] == 0 or won[ids[cell]] > 1), None)
        for cell in [spare] if spare else cells:
            tried.add(cell)
            if spare or place(int(ids[cell]), tried):
                won[ids[cell]] -= 1
                won[label] += 1
                ids[cell] = label
                return True
        return False

    lost = [label for label in range(1, len(won)) if choices[label] and not won[label]]
    for label in sorted(lost, key=lambda label: (choices[label], label)):
        place(label, set())
