r"""Masks as text: the format, its grid, and the ways between them. Knows numpy, and no model.

A photo is cut into H×W cells; every cell carries one label; the labels are written as text, row by row.
This docstring is the format's specification.

**Labels.** Label 0 is always `others`, the background, found by its name and never by its position in a
list. Any other label is a phrase ("the dog on the left") or a class name. A label is *clean* when
`clean_label` leaves it as it is: not empty; no `|`, `*`, `<`, `>`; no line break or other control
character; words parted by one plain space, none at the ends; not the word `others` in any letter case.
A target that is absent is a grid of `others` alone; one that fills the frame is a grid without `others`.

**The `rows` layout** (R-RLE, what the models write):

    text  = row { "\n " row } "\n"          exactly H rows; every later row begins with one space
    row   = run { "| " run }                the counts of a row add up to W
    run   = label " *" count                neighbouring runs of a row differ in label
    count = "1"…"9" { "0"…"9" }             always written, at least 1, no leading zero, ASCII digits

A 3×6 grid with a dog in the middle of its second row, which a model wraps in `<seg>` and `</seg>`
(plain text, and no part of what `encode` writes or `decode` reads):

    "others *6\n others *2| dog *3| others *1\n others *6\n"

**The `image` layout** (I-RLE): the same runs over the flattened grid (row after row), in one line; runs
go on across row ends. The shape is not in the text, so `decode` must be told it:

    "others *8| dog *3| others *7\n"

**The `full` layout**: rows and line breaks as in `rows`, every cell's label written out, no counts:

    "others| others| others| others| others| others\n others| others| dog| dog| dog| others\n …\n"

**From pixels to cells.** Cell (r, c) is the part [r·h/H, (r+1)·h/H) × [c·w/W, (c+1)·w/W) of an h×w map,
to exact fractions of a pixel, so any photo goes with any grid. It takes the label that covers most of it
(a tie goes to the lower label, `others` first; a cell where nothing counts is `others`). A label that is
present but wins no cell keeps the cell that it covers best, so a small object never disappears.

**Places.** `row` and `column` of an error or a `Fault` count cells from 0, from the top left corner.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from t4s.errors import CodecError, QueryError
from t4s.limits import MAX_SIDE

OTHERS = "others"
LAYOUTS = ("rows", "image", "full")

_FORBIDDEN = re.compile(r"[|*<>\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MAX_ID_SPAN = 1 << 24  # ids are looked up in a table; 24 bits is what an RGB-coded id map needs


def clean_label(text: str) -> str:
    """`text` as a label: forbidden characters become spaces, runs of blanks become one space.

    Raises QueryError if nothing is left, or if what is left is the reserved word `others`.
    """
    label = _tidy(text)
    if not label:
        raise QueryError(f"The label {_short(text)} is empty once | * < > and blanks are taken out; give it a name.")
    if label.casefold() == OTHERS:
        raise QueryError('The label "others" is reserved for the background; call the target something else.')
    return label


def _tidy(text: str) -> str:
    return " ".join(_FORBIDDEN.sub(" ", text).split())


@lru_cache(maxsize=4096)
def _is_clean(label: str) -> bool:
    return bool(label) and _tidy(label) == label and label.casefold() != OTHERS


def _short(text: str, limit: int = 40) -> str:
    """`text` quoted for a message, never longer than a glance."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


@dataclass(frozen=True)
class Fault:
    """One thing that was wrong with a text, where, and what `repair` did about it."""

    row: int
    column: int
    message: str


@dataclass(frozen=True, eq=False)
class DescriptorGrid:
    """H×W cells, each with a label: `labels[ids[r, c]]`.

    `ids` (H, W) integers, kept as a read-only int32 copy; 1 to `limits.MAX_SIDE` cells a side. `labels`
    starts with "others"; the rest are clean and distinct, and need not all occur. Two grids are equal
    when they read the same, cell by cell: the order of the labels, and labels without cells, do not
    count. Raises CodecError.
    """

    ids: np.ndarray
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        ids, labels = np.asarray(self.ids), tuple(self.labels)
        if ids.ndim != 2 or ids.dtype.kind not in "iub":
            raise CodecError(f"A grid's ids are a 2-D array of integers, not {ids.ndim}-D of {ids.dtype}.")
        _check_shape(ids.shape)
        if not labels or labels[0] != OTHERS:
            raise CodecError(f'A grid\'s first label must be "others", not {labels[0] if labels else None!r}.')
        for label in labels[1:]:
            if not isinstance(label, str) or not _is_clean(label):
                raise CodecError(f"{_short(str(label))} is not a clean label; pass it through codec.clean_label first.")
        if len(set(labels)) != len(labels):
            raise CodecError("A grid's labels must differ from one another; merge the ids of equal labels.")
        bad = (ids < 0) | (ids >= len(labels))
        if bad.any():
            row, column = (int(i) for i in np.argwhere(bad)[0])
            raise CodecError(f"id {ids[row, column]} has no label; ids go from 0 to {len(labels) - 1}", row, column)
        ids = np.array(ids, dtype=np.int32, order="C")
        ids.setflags(write=False)
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "labels", labels)

    @property
    def shape(self) -> tuple[int, int]:
        """(H, W) in cells."""
        return self.ids.shape

    def label_mask(self, label: str) -> np.ndarray:
        """(H, W) bool: the cells that carry `label`; none if the grid does not know it."""
        return self.ids == self.labels.index(label) if label in self.labels else np.zeros(self.shape, bool)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DescriptorGrid):
            return NotImplemented
        index = {label: i for i, label in enumerate(other.labels)}
        same = np.array([index.get(label, -1) for label in self.labels])
        return self.shape == other.shape and bool((same[self.ids] == other.ids).all())

    def __hash__(self) -> int:
        return hash(encode(self))

    def __reduce__(self):  # an unpickled grid is checked and read-only again
        return DescriptorGrid, (self.ids, self.labels)


def _check_shape(shape: tuple[int, int]) -> None:
    if len(shape) != 2 or not all(isinstance(n, (int, np.integer)) and 1 <= n <= MAX_SIDE for n in shape):
        raise CodecError(f"A grid has two sides (H, W) of 1 to {MAX_SIDE} cells each, not {tuple(shape)}.")


def grid_from_mask(mask: np.ndarray, label: str, shape: tuple[int, int] = (16, 16)) -> DescriptorGrid:
    """The grid of one target. `mask` (h, w) bool, or integers 0 and 1; `shape` (H, W) in cells.

    The labels are ("others", clean_label(label)), also when the mask is empty. Raises CodecError,
    and QueryError for a label that cannot be one.
    """
    mask = np.asarray(mask)
    if mask.dtype.kind not in "biu" or (mask.dtype.kind != "b" and mask.size and not 0 <= mask.min() <= mask.max() < 2):
        raise CodecError("A mask is an array of bool, or of 0 and 1; compare it first, as in `mask > 0`.")
    return grid_from_classes(mask.astype(np.uint8), {1: clean_label(label)}, shape)


def grid_from_classes(
    class_map: np.ndarray,
    names: Mapping[int, str],
    shape: tuple[int, int] = (16, 16),
    ignore: Collection[int] = (),
) -> DescriptorGrid:
    """The grid of a class map. `class_map` (h, w) integers of any sign; `names` {id: label}.

    `names` says what is asked for, and everything else is background: an id named "others", whatever
    its number, and every id that `names` does not know. Ids in `ignore` count for nothing, even if
    named. Labels are cleaned; ids with the same label become one. The grid's labels are "others" and
    then all of `names`, in its order, whether they occur or not. Raises CodecError and QueryError.

    A label that is present but wins no cell gets its best-covered cell (ties: the first in reading
    order). Labels with the fewest cells to choose from go first, and none takes a cell that is the only
    one of another label; so a label is lost only where it lies within cells that others need as much.
    """
    class_map = np.asarray(class_map)
    if class_map.ndim != 2 or class_map.dtype.kind not in "iu" or not class_map.size:
        given = f"{class_map.shape} of {class_map.dtype}"
        raise CodecError(f"A class map is a 2-D array of integers with at least one pixel, not {given}.")
    _check_shape(shape)
    index = {OTHERS: 0}
    to_label = {}
    for key, name in names.items():
        label = OTHERS if name == OTHERS else clean_label(name)
        to_label[int(key)] = index.setdefault(label, len(index))
    dropped = len(index)  # one bin more, for the ignored pixels
    to_label.update({int(key): dropped for key in ignore})
    cover = _coverage(_look_up(class_map, to_label), dropped + 1, shape)[..., :dropped]
    ids = cover.argmax(-1)
    _keep_small(ids, cover)
    return DescriptorGrid(ids, tuple(index))


def _look_up(class_map: np.ndarray, to_label: dict[int, int]) -> np.ndarray:
    """(h, w) bins: `to_label` of every id, 0 for the ids that it does not know."""
    low, high = min(to_label, default=0) - 1, max(to_label, default=0) + 1
    if high - low > _MAX_ID_SPAN:
        raise CodecError(f"Class ids from {low + 1} to {high - 1} lie too far apart; renumber them within 24 bits.")
    table = np.zeros(high - low + 1, dtype=np.intp)  # its two ends stand for "below" and "above"
    for key, value in to_label.items():
        table[key - low] = value
    return table[np.clip(class_map.astype(np.int64), low, high) - low]


@lru_cache(maxsize=256)
def _segments(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A side cut at every pixel edge and every cell edge: pixel, cell and length of each piece.

    Lengths are whole numbers: the unit is 1/(pixels·cells) of the side, so coverage is exact.
    """
    edges = np.union1d(np.arange(pixels + 1) * cells, np.arange(cells + 1) * pixels)
    return edges[:-1] // cells, edges[:-1] // pixels, np.diff(edges)


def _coverage(bins: np.ndarray, n_bins: int, shape: tuple[int, int]) -> np.ndarray:
    """(H, W, n_bins) float64: the area of each bin in each cell. Whole numbers, in `_segments` units."""
    (height, width), (rows, columns) = bins.shape, shape
    pixel_y, cell_y, length_y = _segments(height, rows)
    pixel_x, cell_x, length_x = _segments(width, columns)
    cover = np.empty((rows, columns * n_bins))
    starts = np.searchsorted(cell_y, np.arange(rows + 1))
    for row in range(rows):  # a band at a time keeps the memory small for large photos
        band = slice(starts[row], starts[row + 1])
        where = bins[pixel_y[band]][:, pixel_x] + cell_x * n_bins
        weights = np.broadcast_to(length_y[band, None] * length_x, where.shape)
        cover[row] = np.bincount(where.ravel(), weights.ravel(), columns * n_bins)
    return cover.reshape(rows, columns, n_bins)


def _keep_small(ids: np.ndarray, cover: np.ndarray) -> None:
    """Give every label that is present without a cell its best-covered cell, in place."""
    won = np.bincount(ids.ravel(), minlength=cover.shape[-1])
    choices = (cover > 0).sum((0, 1))
    lost = [label for label in range(1, len(won)) if choices[label] and not won[label]]
    for label in sorted(lost, key=lambda label: (choices[label], label)):
        free = (ids == 0) | (won[ids] > 1)
        best = np.where(free, cover[..., label], 0)
        at = np.unravel_index(best.argmax(), best.shape)
        if best[at] > 0:
            won[ids[at]] -= 1
            ids[at], won[label] = label, 1


def mask_from_grid(grid: DescriptorGrid, label: str, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, `size` = (h, w): the pixels whose centre lies in a cell with `label`.

    The cells are those of `grid_from_classes`. A label that the grid does not know gives an empty mask.
    """
    if len(size) != 2 or min(size) < 1:
        raise CodecError(f"A mask's size is (h, w), at least one pixel each, not {tuple(size)}.")
    rows, columns = ((2 * np.arange(n) + 1) * cells // (2 * n) for n, cells in zip(size, grid.shape, strict=True))
    return grid.label_mask(label)[rows][:, columns]


def encode(grid: DescriptorGrid, layout: str = "rows") -> str:
    """The grid as text in one of `LAYOUTS`, without `<seg>` and `</seg>`. Raises CodecError."""
    _check_layout(layout)
    if layout == "image":
        return _runs(grid.ids.ravel(), grid.labels) + "\n"
    if layout == "full":
        return "\n ".join("| ".join(grid.labels[i] for i in row) for row in grid.ids.tolist()) + "\n"
    return "\n ".join(_runs(row, grid.labels) for row in grid.ids) + "\n"


def _runs(ids: np.ndarray, labels: tuple[str, ...]) -> str:
    ends = np.append(np.flatnonzero(ids[1:] != ids[:-1]) + 1, len(ids)).tolist()
    return "| ".join(f"{labels[ids[end - 1]]} *{end - start}" for start, end in zip([0, *ends], ends, strict=False))


def _check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise CodecError(f"{layout!r} is no layout; choose one of {', '.join(LAYOUTS)}.")
