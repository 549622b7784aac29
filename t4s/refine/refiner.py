"""The refiners: a coarse grid and its photo to masks at the photo's size.

    masks = refine("edge", photo, grid, confidence)         # {label: (h, w) bool}, "others" left out

Every refiner is a plain function of `photo` (h, w, 3) uint8 and `soft` (L, H, W) float32: one map per label, [0] for
"others", summing to 1 over L. It returns a painter of soft masks: rows y0 to y1 → (L, y1 - y0, w) float32 in [0, 1].
A pixel goes to the label with the highest value (the earlier one in a tie), so masks have no gaps and no overlaps.

    none     nearest cell                                                                   numpy
    smooth   bicubic interpolation                                                          numpy
    guided   guided filter: `smooth` made to follow the photo                               torch, working size 256
    crf      dense CRF, the paper's other refiner; needs the package pydensecrf2            working size 256
    edge     a small learned network (the default)                                          torch, working size 256
    sam      SAM, SAM-HQ or SAM 2 through transformers; "sam:SOURCE" names a Hub id or folder

It takes the time of the working size plus some 5 to 40 ns per pixel of the photo and label (`bench refine` measures
it), the least for `guided` and `edge`, which paint pixels near edges alone. Pixels are painted in bands of rows, so
memory is bounded by the masks themselves. All sizes go together: a photo smaller than its grid, a single pixel,
10,000×3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from t4s.codec import DescriptorGrid, Fault, mask_from_grid
from t4s.errors import ImageError, QueryError
from t4s.refine.crf import check_package, paint_crf
from t4s.refine.edge import paint_edge
from t4s.refine.guided import GuidedPainter, paint_guided
from t4s.refine.interpolate import Painter, cells_of, paint_none, paint_smooth

Refiner = Callable[[np.ndarray, np.ndarray], Painter]


def paint_sam(photo: np.ndarray, soft: np.ndarray, source: str = "") -> Painter:
    """The refiner `sam`, imported when it is first used, as few use it; `source` "": the default SAM."""
    from t4s.refine import sam

    return sam.paint_sam(photo, soft, source or sam.DEFAULT_SAM)


REFINERS: dict[str, Refiner] = {
    "none": paint_none,
    "smooth": paint_smooth,
    "guided": paint_guided,
    "crf": paint_crf,
    "edge": paint_edge,
    "sam": paint_sam,
}
NAMES = tuple(REFINERS)
DEFAULT = "edge"
BAND = 2_000_000  # values painted at once: 8 MB
STRIP = 64  # rows painted at once where only some of their pixels are
ROUNDING = 1e-4  # by which values may differ from their bounds
AGREEMENT = 0.5  # a mask whose IoU with its own cells is below this is reported


def refine(
    name: str, photo: np.ndarray, grid: DescriptorGrid, confidence: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The mask of every label that has a cell, "others" left out, at the photo's size: {label: (h, w) bool}.

    `photo` (h, w, 3) uint8; `confidence` (H, W) in [0, 1], how sure the model is of each cell's label, or None.
    No pixel belongs to two masks; if the grid has no "others", every pixel belongs to one. If the photo is at least as
    large as the grid, no mask is empty: a label that lost all its pixels gets its best cell back.
    Raises QueryError (unknown refiner, confidence of another shape), ImageError, CheckpointError (missing package or
    model).
    """
    refiner = _find(name)
    photo = _checked(photo)
    soft, labels = soft_grid(grid, confidence)
    cells = _cell_ids(grid, labels)  # (H, W): indexes into `labels`
    owners = np.unique(cells)
    if not owners.any():
        return {}
    paint = refiner(photo, soft)
    winner = _winner(paint, owners, photo.shape[:2], len(labels))
    masks = {index: winner == index for index in owners.tolist()}
    large = winner.shape[0] >= grid.shape[0] and winner.shape[1] >= grid.shape[1]
    if large and not all(mask.any() for mask in masks.values()):
        _restore_lost_labels(winner, cells, paint)
        masks = {index: winner == index for index in owners.tolist()}
    return {labels[index]: mask for index, mask in masks.items() if index}


def check_refiner(name: str) -> None:
    """Before anything runs: QueryError if there is no such refiner, CheckpointError if its package is missing."""
    if _find(name) is paint_crf:
        check_package()


def disagreements(grid: DescriptorGrid, masks: dict[str, np.ndarray], bound: float = AGREEMENT) -> tuple[Fault, ...]:
    """One Fault, at the label's first cell, for each mask (h, w) bool whose IoU with its own cells is below `bound`.

    The masks stay as they are: the fault tells the user that the refiner drew something else than the model wrote.
    """
    faults = []
    for label, mask in masks.items():
        cells = mask_from_grid(grid, label, mask.shape)
        union = int((cells | mask).sum())
        iou = int((cells & mask).sum()) / union if union else 1.0
        if iou < bound:
            row, column = (int(i) for i in np.argwhere(grid.label_mask(label))[0])
            reason = (
                f"the refined mask of {label!r} has an IoU of only {iou:.0%} with its cells (below {bound:.0%} it is "
                "reported, and kept)"
            )
            faults.append(Fault(row, column, reason))
    return tuple(faults)


def disagreement_faults(refiner: str, grid: DescriptorGrid, masks: dict[str, np.ndarray]) -> tuple[Fault, ...]:
    """Faults for masks that disagree with the grid (SAM only: the other refiners follow it)."""
    return disagreements(grid, masks) if refiner.partition(":")[0] == "sam" else ()


def soft_grid(grid: DescriptorGrid, confidence: np.ndarray | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(L, H, W) float32 maps that sum to 1 over L, and their labels: "others", then each label that has a cell.

    Without confidence a cell belongs to its label alone. With confidence c its label has (1 + c) / 2 and so stays on
    top; the rest goes to the other labels among its eight neighbours, in proportion to their number of cells there.
    """
    present = [0, *(int(i) for i in np.unique(grid.ids) if i)]
    labels = tuple(grid.labels[i] for i in present)
    hard = (grid.ids == np.array(present)[:, None, None]).astype(np.float32)
    if confidence is None:
        return hard, labels
    sure = np.asarray(confidence, np.float32)
    if sure.shape != grid.shape or not ((sure >= 0) & (sure <= 1)).all():
        raise QueryError(
            f"A confidence is one number from 0 to 1 for each cell of the {grid.shape} grid; this one is "
            f"{sure.shape} or leaves that range."
        )
    padded = np.pad(hard, ((0, 0), (1, 1), (1, 1)))
    rows, columns = grid.shape
    neighbours = sum(padded[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3)) * (1 - hard)
    total = neighbours.sum(0)
    share = np.divide(neighbours, total, out=np.zeros_like(neighbours), where=total > 0)
    share[0] += (total == 0) * (1 - hard[0])  # nothing else near: the doubt is whether there is anything at all
    share += (share.sum(0) == 0) * hard  # "others" amid "others"
    return (hard * (1 + sure) / 2 + share * (1 - sure) / 2).astype(np.float32), labels


def _find(name: str) -> Refiner:
    """The function that `name` stands for. QueryError if there is none."""
    if name in REFINERS:
        return REFINERS[name]
    kind, _, source = name.partition(":")
    if kind == "sam" and source:
        return partial(paint_sam, source=source)
    raise QueryError(
        f"There is no refiner {name!r}; the refiners are {', '.join(NAMES)} and sam:SOURCE, where SOURCE "
        "is a Hub id or folder."
    )


def _checked(photo: np.ndarray) -> np.ndarray:
    photo = np.asarray(photo)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise ImageError(
            f"A photo to refine on is (h, w, 3) uint8 with at least one pixel, not {photo.shape} "
            f"{photo.dtype}; open it with t4s.imaging.loading.open_photo."
        )
    return photo


def _winner(paint: Painter, owners: np.ndarray, size: tuple[int, int], labels: int) -> np.ndarray:
    """(h, w) int16: the label of every pixel, one of `owners`, which are indexes of the `labels` that `paint` paints.

    Where it is the same whatever the colour of the photo's pixels, as it is away from the edges, none is painted.
    """
    if not isinstance(paint, GuidedPainter):
        winner = np.empty(size, np.int16)
        for y0, y1 in _bands(size[1], labels, 0, size[0]):
            winner[y0:y1] = owners[_argmax(paint(y0, y1)[owners])]
        return winner
    low, high = (bound[owners] for bound in paint.bounds())
    best = low.argmax(0)  # (s, t): of each block
    np.put_along_axis(high, best[None], -np.inf, 0)
    unsure = low.max(0) <= high.max(0) + ROUNDING
    rows, columns = paint.blocks()
    winner = owners[best].astype(np.int16).take(columns, 1).take(rows, 0)
    for y0, y1 in _bands(size[1], labels, 0, size[0], STRIP):
        wanted = np.flatnonzero(unsure[rows[y0] : rows[y1 - 1] + 1].any(0)[columns])
        if len(wanted):
            winner[y0:y1, wanted] = owners[_argmax(paint(y0, y1, wanted)[owners])]
    return winner


def _argmax(maps: np.ndarray) -> np.ndarray:
    """(L, h, w) → (h, w) int16: the map with the highest value, the first in a tie (faster than argmax over axis 0)."""
    winner = np.zeros(maps.shape[1:], np.int16)
    best = maps[0].copy()
    for index, values in enumerate(maps[1:], 1):
        np.copyto(winner, index, where=values > best)
        np.maximum(best, values, out=best)
    return winner


def _bands(width: int, labels: int, start: int, end: int, most: int = 10**9) -> list[tuple[int, int]]:
    """Rows start to end in bands of at most `BAND` values (or of one row) and `most` rows."""
    step = min(max(1, BAND // (width * labels)), most)
    return [(y, min(y + step, end)) for y in range(start, end, step)]


def _cell_ids(grid: DescriptorGrid, labels: tuple[str, ...]) -> np.ndarray:
    """(H, W): the grid with its labels numbered as in `labels`."""
    numbers = {label: index for index, label in enumerate(labels)}
    return np.array([numbers.get(label, 0) for label in grid.labels])[grid.ids]


def _restore_lost_labels(winner: np.ndarray, cells: np.ndarray, paint: Painter) -> None:
    """Give every label without a pixel its best cell back, in place: where its soft mask peaks within its own cells.

    Cells that tie are all given back, so that mirroring changes nothing. Giving one back may take another label's
    last pixels, so it goes on until none is empty; a cell that was given back is never taken again.
    """
    top, bottom = cells_of(winner.shape[0], cells.shape[0])
    left, right = cells_of(winner.shape[1], cells.shape[1])
    inside = (top == bottom)[:, None] & (left == right)  # pixels on a line between cells belong to no cell
    wanted = set(np.unique(cells).tolist())
    owner = None  # (h, w): the label of the cell that a pixel lies in, -1 on a line
    while lost := wanted - set(np.flatnonzero(np.bincount(winner.ravel())).tolist()):
        if owner is None:
            owner = np.where(inside, cells[top][:, left], -1)
        label = min(lost)
        where = owner == label
        rows = np.flatnonzero(where.any(1))
        peaks = np.full(cells.shape, -np.inf, np.float32)
        for y0, y1 in _bands(winner.shape[1], len(wanted) + 1, rows[0], rows[-1] + 1):
            y, x = np.nonzero(where[y0:y1])
            np.maximum.at(peaks, (top[y0 + y], left[x]), paint(y0, y1)[label, y, x])
        best = (peaks == peaks.max()) & (cells == label)
        winner[inside & best[top][:, left]] = label
