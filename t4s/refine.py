"""The refiners: a coarse grid and its photo → masks at the photo's size.

    masks = refine("smooth", photo, grid, confidence)       # {label: (h, w) bool}, "others" left out

Every refiner is a plain function of `photo` (h, w, 3) uint8 and `soft` (L, H, W) float32, one map a label,
[0] for "others", summing to 1 over L; it gives soft masks (L, h, w) float32 in [0, 1]. Pixels go to the label
with the highest value (the earlier one in a tie), so masks have no gaps and no overlaps.

    none     nearest cell                                           milliseconds
    smooth   bicubic interpolation                                  about 10 ns a pixel and label
    guided   guided filter: `smooth` made to follow the photo       working size 256, then 30 ns a pixel and label
    crf      dense CRF, the paper's; needs the package pydensecrf2  about 1 s
    edge     the small learned network of `edge.py` (default)       working size 256, then as guided
    sam      SAM, SAM-HQ or SAM 2 through transformers (`sam.py`); "sam:SOURCE" names a Hub id or folder

Sides are not squeezed into one another: all of them work on a photo smaller than its grid, on one pixel, and on
10,000×3. Memory is bounded: pixels are painted a band of rows at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from t4s.codec import DescriptorGrid
from t4s.errors import ImageError, QueryError

NAMES = ("none", "smooth", "guided", "crf", "edge", "sam")
DEFAULT = "edge"
WORKING_SIDE = 256  # pixels of the longest side that guided and crf look at
BAND = 2_000_000  # values painted at once: 8 MB a map
GUIDED_RADIUS, GUIDED_EPS = 8, 1e-3  # chosen on the validation photos at 16×16

Painter = Callable[[int, int], np.ndarray]  # rows y0 to y1 of the photo → (L, y1 - y0, w) float32


def refine(
    name: str, photo: np.ndarray, grid: DescriptorGrid, confidence: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The mask of every label that has a cell, "others" left out, at the photo's size: {label: (h, w) bool}.

    `photo` (h, w, 3) uint8; `confidence` (H, W) in [0, 1], how sure the model is of each cell's label, or None.
    No pixel belongs to two masks; where the grid has no "others", every pixel belongs to one. If the photo is at
    least as large as the grid, no mask is empty: a label that lost all its pixels gets its best cell back.
    Raises QueryError (unknown refiner, confidence of another shape), ImageError, CheckpointError (missing package
    or model).
    """
    photo = _checked(photo)
    soft, labels = soft_grid(grid, confidence)
    paint = _painter(name, photo, soft)
    cells = _cell_ids(grid, labels)
    owners = np.unique(cells)
    winner = np.empty(photo.shape[:2], np.int16)
    for y0, y1 in _bands(photo.shape[1], len(labels), 0, photo.shape[0]):
        winner[y0:y1] = owners[paint(y0, y1)[owners].argmax(0)]
    if all(pixels >= side for pixels, side in zip(winner.shape, grid.shape, strict=True)):
        _give_back(winner, cells, paint)
    return {labels[index]: winner == index for index in owners if index}


def soft_grid(grid: DescriptorGrid, confidence: np.ndarray | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(L, H, W) float32 maps that sum to 1 over L, and their labels: "others", then each label that has a cell.

    Without confidence a cell belongs to its label alone. With confidence c its own label has (1 + c) / 2 and so
    stays on top; the rest goes to the other labels among its eight neighbours, each by its number of cells there.
    """
    present = [0, *(int(i) for i in np.unique(grid.ids) if i)]
    labels = tuple(grid.labels[i] for i in present)
    hard = (grid.ids == np.array(present)[:, None, None]).astype(np.float32)
    if confidence is None:
        return hard, labels
    sure = np.asarray(confidence, np.float32)
    if sure.shape != grid.shape or not ((sure >= 0) & (sure <= 1)).all():
        raise QueryError(f"A confidence is one number from 0 to 1 for each cell of the {grid.shape} grid; this one is "
                         f"{sure.shape} or leaves that range.")  # fmt: skip
    padded = np.pad(hard, ((0, 0), (1, 1), (1, 1)))
    rows, columns = grid.shape
    around = sum(padded[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3)) * (1 - hard)
    total = around.sum(0)
    share = np.divide(around, total, out=np.zeros_like(around), where=total > 0)
    share[0] += (total == 0) * (1 - hard[0])  # nothing else near: the doubt is whether there is anything at all
    share += (share.sum(0) == 0) * hard  # "others" amid "others"
    return (hard * (1 + sure) / 2 + share * (1 - sure) / 2).astype(np.float32), labels


def none(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """(L, h, w): each pixel takes its cell; a centre on the line between two cells takes the mean of both."""
    return _whole(paint_none(photo, soft), photo)


def smooth(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """(L, h, w): bicubic interpolation (Keys, a = -1/2) between the centres of cells."""
    return _whole(paint_smooth(photo, soft), photo)


def guided(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """(L, h, w): the guided filter (He et al., ECCV 2010; its fast form, arXiv 1505.00996) over `smooth`."""
    return _whole(paint_guided(photo, soft), photo)


def paint_none(photo: np.ndarray, soft: np.ndarray) -> Painter:
    (top, bottom), (left, right) = (_cells(n, cells) for n, cells in zip(photo.shape, soft.shape[1:], strict=False))
    columns = (soft[..., left] + soft[..., right]) / 2

    return lambda y0, y1: (columns[:, top[y0:y1]] + columns[:, bottom[y0:y1]]) / 2


def paint_smooth(photo: np.ndarray, soft: np.ndarray) -> Painter:
    (height, width), (rows, columns) = photo.shape[:2], soft.shape[1:]
    (row_taps, row_weights), (taps, weights) = _taps(height, rows), _taps(width, columns)
    wide = _four(lambda k: soft[:, :, taps[k]], weights)

    def paint(y0: int, y1: int) -> np.ndarray:
        band = _four(lambda k: wide[:, row_taps[k, y0:y1]], row_weights[:, y0:y1, None])
        return band.clip(0, 1)

    return paint


def paint_guided(photo: np.ndarray, soft: np.ndarray) -> Painter:
    from t4s.guided import fit, painter, shrink

    small = shrink(photo, WORKING_SIDE)
    return painter(photo, fit(small, smooth(small, soft)[1:], GUIDED_RADIUS, GUIDED_EPS))


def _painter(name: str, photo: np.ndarray, soft: np.ndarray) -> Painter:
    match name:
        case "none":
            return paint_none(photo, soft)
        case "smooth":
            return paint_smooth(photo, soft)
        case "guided":
            return paint_guided(photo, soft)
        case _:
            raise QueryError(f"There is no refiner {name!r}; the refiners are {', '.join(NAMES)}.")


def _checked(photo: np.ndarray) -> np.ndarray:
    photo = np.asarray(photo)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise ImageError(f"A photo to refine on is (h, w, 3) uint8 with at least one pixel, not {photo.shape} "
                         f"{photo.dtype}; open it with t4s.photo.open_photo.")  # fmt: skip
    return photo


def _whole(paint: Painter, photo: np.ndarray) -> np.ndarray:
    return paint(0, photo.shape[0])


def _bands(width: int, labels: int, start: int, end: int) -> list[tuple[int, int]]:
    """Rows start to end in bands of at most `BAND` values (or of one row)."""
    step = max(1, BAND // (width * labels))
    return [(y, min(y + step, end)) for y in range(start, end, step)]


@lru_cache(maxsize=64)
def _cells(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell of every pixel centre, twice: the two differ where the centre is on a line between cells."""
    places = (2 * np.arange(pixels) + 1) * cells
    return (places - 1) // (2 * pixels), places // (2 * pixels)


@lru_cache(maxsize=64)
def _taps(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(4, pixels) cells and (4, pixels) float32 weights of a bicubic interpolation, edges repeated.

    Distances are quotients of whole numbers, so that a mirrored photo has exactly the mirrored weights.
    """
    unit = 2 * pixels
    base, rest = np.divmod((2 * np.arange(pixels) + 1) * cells - pixels, unit)
    taps = np.clip(base + np.arange(-1, 3)[:, None], 0, cells - 1)
    outer, inner = (np.stack([unit + rest, 2 * unit - rest]) / unit, np.stack([rest, unit - rest]) / unit)
    outer = ((-0.5 * outer + 2.5) * outer - 4) * outer + 2
    inner = (1.5 * inner - 2.5) * inner * inner + 1
    return taps, np.stack([outer[0], *inner, outer[1]]).astype(np.float32)


def _four(part: Callable[[int], np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted sum of four taps, added in an order that mirroring does not change."""
    outside = part(0) * weights[0] + part(3) * weights[3]
    return outside + (part(1) * weights[1] + part(2) * weights[2])


def _cell_ids(grid: DescriptorGrid, labels: tuple[str, ...]) -> np.ndarray:
    """(H, W): the grid with its labels numbered as in `labels`."""
    numbers = {label: index for index, label in enumerate(labels)}
    return np.array([numbers.get(label, 0) for label in grid.labels])[grid.ids]


def _give_back(winner: np.ndarray, cells: np.ndarray, paint: Painter) -> None:
    """Give every label without a pixel its best cell, in place: where its soft mask is highest in its own cells.

    Cells that tie are all given back, so that mirroring changes nothing. Giving one back may take another label's
    last pixels, so it goes on until nobody is empty; a cell that was given back is never taken again.
    """
    (top, bottom), (left, right) = (_cells(n, side) for n, side in zip(winner.shape, cells.shape, strict=True))
    inside = (top == bottom)[:, None] & (left == right)
    home = np.where(inside, cells[top][:, left], -1)
    while empty := set(np.unique(cells).tolist()) - set(np.unique(winner).tolist()):
        label = min(empty)
        where = home == label
        rows = np.flatnonzero(where.any(1))
        peaks = np.full(cells.shape, -np.inf, np.float32)
        for y0, y1 in _bands(winner.shape[1], cells.max() + 1, rows[0], rows[-1] + 1):
            y, x = np.nonzero(where[y0:y1])
            np.maximum.at(peaks, (top[y0 + y], left[x]), paint(y0, y1)[label, y, x])
        best = (peaks == peaks.max()) & (cells == label)
        winner[inside & best[top][:, left]] = label
