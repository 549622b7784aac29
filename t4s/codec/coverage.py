"""How much of each cell each class covers, in exact fractions of a pixel. Arrays only, no labels.

Areas are whole numbers: the unit is 1/(H·W) of a pixel, so that a pixel split by the edge between two cells
is divided exactly.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from t4s.errors import CodecError

_MAX_ID_SPAN = 1 << 24  # ids are looked up in a table; 24 bits is what an RGB-coded id map needs
_FEW_IDS = 8  # up to here one comparison for each id is faster than a table and a histogram


def coverage(class_map: np.ndarray, to_bin: dict[int, int], n_bins: int, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, n_bins) float64: the area of each bin in each cell, in units of 1/(H·W) of a pixel.

    `class_map` (h, w) integers; `to_bin` {id: bin}, and bin 0 for every id that it does not contain. Raises CodecError.
    """
    low, high = min(to_bin, default=0), max(to_bin, default=0)
    if high - low >= _MAX_ID_SPAN:
        raise CodecError(f"Class ids from {low} to {high} are too far apart; renumber them within 24 bits.")
    counted = [(key, value) for key, value in to_bin.items() if value]
    if len(counted) > _FEW_IDS:
        return _histogram(class_map, to_bin, n_bins, shape)
    cover = np.zeros((*shape, n_bins))
    for key, value in counted:
        cover[..., value] += cell_areas(class_map == key, shape)
    cover[..., 0] = class_map.size - cover.sum(-1)  # a cell has h·w units
    return cover


def cell_areas(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) int64: the area of `mask` (h, w) bool in each cell, in units of 1/(H·W) of a pixel."""
    bands = _sum_bands(mask.view(np.uint8), shape[0])
    return _sum_bands(np.ascontiguousarray(bands.T), shape[1]).T


def _sum_bands(values: np.ndarray, bands: int) -> np.ndarray:
    """(n, m) integers → (bands, m) int64: sums over `bands` equal parts of the first axis, in units of 1/bands."""
    edges, rest = np.divmod(np.arange(bands + 1) * len(values), bands)
    starts = edges[:-1]
    fits = values.dtype != np.uint8 or len(values) <= 254 * bands  # so that a band of ones does not overflow 8 bits
    sums = np.add.reduceat(values, starts, axis=0, dtype=values.dtype if fits else np.int64).astype(np.int64)
    sums[starts == edges[1:]] = 0  # reduceat gives one value where a part holds no edge between pixels
    split = values[starts] * rest[:-1, None]  # the share of a pixel that an edge cuts off, before the edge
    sums = sums * bands - split
    sums[:-1] += split[1:]
    return sums


@lru_cache(maxsize=256)
def _segments(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A side cut at every pixel and cell edge: pixel, cell and length of each piece, in 1/cells of a pixel."""
    edges = np.union1d(np.arange(pixels + 1) * cells, np.arange(cells + 1) * pixels)
    return edges[:-1] // cells, edges[:-1] // pixels, np.diff(edges).astype(np.float64)


def _histogram(class_map: np.ndarray, to_bin: dict[int, int], n_bins: int, shape: tuple[int, int]) -> np.ndarray:
    """`coverage` for many ids, in one pass over the pixels."""
    low, high = min(to_bin) - 1, max(to_bin) + 1
    table = np.zeros(high - low + 1, dtype=np.intp)  # its two ends stand for every id below and above
    for key, value in to_bin.items():
        table[key - low] = value
    (height, width), (rows, columns) = class_map.shape, shape
    pixel_y, cell_y, length_y = _segments(height, rows)
    pixel_x, cell_x, length_x = _segments(width, columns)
    cover = np.empty((rows, columns * n_bins))
    starts = np.searchsorted(cell_y, np.arange(rows + 1))
    for row in range(rows):  # one band at a time keeps memory low for large images
        band = slice(starts[row], starts[row + 1])
        ids = class_map[pixel_y[band]][:, pixel_x].astype(np.int64)
        bins = table[np.clip(ids, low, high) - low] + cell_x * n_bins
        weights = length_y[band, None] * length_x
        cover[row] = np.bincount(bins.ravel(), weights.ravel(), columns * n_bins)
    return cover.reshape(rows, columns, n_bins)


def keep_small_labels(ids: np.ndarray, cover: np.ndarray) -> None:
    """Give every label that is present but has no cell the cell that it covers best, in place.

    `ids` (H, W) is the label of each cell, `cover` (H, W, labels) its areas. No label loses its only cell,
    unless it moves to another cell that it covers: labels and cells are matched by augmenting paths (Kuhn's
    algorithm), so a label ends without a cell only if no assignment exists.
    """
    won = np.bincount(ids.ravel(), minlength=cover.shape[-1])
    choices = (cover > 0).sum((0, 1))

    def place(label: int, tried: set[tuple[int, int]]) -> bool:
        """Find a cell for `label`: a spare one if possible, else one whose owner can move."""
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
