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

import numpy as np

from t4s.codec.coverage import coverage, keep_small
from t4s.codec.labels import OTHERS, clean_label, is_clean, short
from t4s.codec.repair import mend
from t4s.errors import CodecError
from t4s.limits import MAX_SIDE

__all__ = [
    "LAYOUTS",
    "OTHERS",
    "DescriptorGrid",
    "Fault",
    "clean_label",
    "decode",
    "encode",
    "grid_from_classes",
    "grid_from_mask",
    "mask_from_grid",
    "repair",
]

LAYOUTS = ("rows", "image", "full")


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
            if not isinstance(label, str) or not is_clean(label):
                raise CodecError(f"{short(str(label))} is not a clean label; pass it through codec.clean_label first.")
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

    A label that is present but wins no cell gets the cell that it covers best, of those that are no other
    label's only one (ties: the first in reading order). If all are, their owners move to other cells that
    they cover; a label is lost only where this cannot help, as there are more labels than cells.
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
    cover = coverage(class_map, to_label, dropped + 1, shape)[..., :dropped]
    ids = cover.argmax(-1)
    keep_small(ids, cover)
    return DescriptorGrid(ids, tuple(index))


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


def decode(text: str, shape: tuple[int, int] | None = None, layout: str = "rows") -> DescriptorGrid:
    """The grid that `text` is, to the letter of the specification above.

    Without `shape` (H, W) the text's own number of rows and its first row's width are taken; the `image`
    layout always needs it. Labels are numbered in order of first appearance, after "others", which the
    grid has whether or not the text does. Raises CodecError with `.row`, `.column` and `.reason` of the
    first fault in reading order.
    """
    _check_layout(layout)
    if shape is not None:
        _check_shape(shape)
    if layout != "image":
        rows = _read_rows(text, *(shape or (None, None)), layout)
        return _grid(rows, (len(rows), sum(count for _, count in rows[0])))
    if shape is None:
        raise CodecError("The image layout does not hold its shape; say decode(text, shape=(H, W), layout='image').")
    cells = shape[0] * shape[1]
    try:
        return _grid(_read_rows(text, 1, cells, layout), shape)
    except CodecError as error:
        raise CodecError(error.reason, *divmod(min(error.column or 0, cells - 1), shape[1])) from None


def _grid(rows: list[list[tuple[str, int]]], shape: tuple[int, int]) -> DescriptorGrid:
    index = {OTHERS: 0}
    ids = [index.setdefault(label, len(index)) for row in rows for label, count in row for _ in range(count)]
    return DescriptorGrid(np.reshape(ids, shape), tuple(index))


def _read_rows(text: str, height: int | None, width: int | None, layout: str) -> list[list[tuple[str, int]]]:
    """The (label, count) runs of every row; the counts of each add up to the same width."""
    *lines, tail = text.split("\n")
    rows: list[list[tuple[str, int]]] = []
    for line in [*lines, tail] if tail else lines:
        at = len(rows)
        if at == (height or MAX_SIDE):
            raise CodecError(f"there are more rows than {at}", at, 0)
        if at and not line.startswith(" "):
            raise CodecError("a line break is followed by one space and the next row", at, 0)
        rows.append(_read_row(line[1:] if at else line, at, width, layout, cut=at == len(lines)))
        width = width or sum(count for _, count in rows[0])
    if len(rows) < (height or 1):
        raise CodecError(f"the text ends after {len(rows)} of {height or 'at least 1'} rows", len(rows), 0)
    return rows


def _read_row(line: str, row: int, width: int | None, layout: str, cut: bool) -> list[tuple[str, int]]:
    """One row's runs. `cut`: no line break follows, which is a fault too, but the last one."""
    runs: list[tuple[str, int]] = []
    column, limit = 0, width or MAX_SIDE
    pieces = line.split("| ")
    for i, piece in enumerate(pieces):
        run = (piece, 1) if layout == "full" else _read_run(piece)
        reason = run if isinstance(run, str) else _label_fault(run[0])
        if reason and cut and i == len(pieces) - 1:
            reason = f"the text is cut off within the run {short(piece)}"
        elif not reason and layout != "full" and runs and runs[-1][0] == run[0]:
            reason = f"two neighbouring runs carry the label {short(run[0])}; write them as one"
        if reason:
            raise CodecError(reason, row, column)
        if column + run[1] > limit:
            raise CodecError(f"the run {short(piece)} goes past the row's {limit} cells", row, column)
        runs.append(run)
        column += run[1]
    if cut:
        raise CodecError("the text is cut off: its last row does not end with a line break", row, column)
    if width and column < width:
        raise CodecError(f"the counts add up to {column} cells, the row has {width}", row, column)
    return runs


def _read_run(piece: str) -> tuple[str, int] | str:
    """(label, count), or what is wrong with the count."""
    label, star, digits = piece.rpartition(" *")
    if not star:
        return f"the run {short(piece)} has no ' *' and count" if piece else "a run is missing"
    if not re.fullmatch("[1-9][0-9]*", digits):
        return f"the count {short(digits)} is not a whole number from 1, in plain digits"
    return label, int(digits) if len(digits) < 10 else 10**9


def _label_fault(label: str) -> str | None:
    if label == OTHERS or is_clean(label):
        return None
    if label.casefold() == OTHERS:
        return f'the background is written "others", not {short(label)}'
    return f"{short(label)} is not a clean label: no | * < > or control character, single spaces between words"


def repair(text: str, shape: tuple[int, int]) -> tuple[DescriptorGrid, tuple[Fault, ...]]:
    """The grid of `shape` (H, W) that `text`, in the `rows` layout, most plausibly means, and its faults.

    Takes any str, in linear time. Faults are empty exactly when `decode(text, shape)` takes the text.
    Otherwise every mend is a `Fault`, placed in a cell of the grid:

    - Line r of the text is row r of the grid; a faulty row is mended in itself and never moves the rows
      below. (Only where it is plain: blank lines go when there are too many lines, and rows that ran
      together are parted when that makes the number of rows right.) Missing rows are "others", rows
      too many are left out.
    - A count that is missing, zero, no number or wider than the row takes the cells that its row's other
      counts leave. A row that is still short is filled up with "others", one too long is cut.
    - A label is cleaned; where it is missing, "others" stands in. Words without a count are a label if
      their row has runs with one, or if the text has counted runs of that label; else they are left out.
    - In a text that breaks off, every complete run is kept. A last label followed by "*" keeps one cell,
      whatever its count would have been; without "*" it may be half a label and is left out.
    - `<seg>`, `</seg>` and what stands around them are left out.

    Raises CodecError if `shape` is none.
    """
    _check_shape(shape)
    try:
        return decode(text, shape), ()
    except CodecError:
        rows, faults = mend(text, *shape)
        return _grid(rows, shape), tuple(Fault(*fault) for fault in faults)
