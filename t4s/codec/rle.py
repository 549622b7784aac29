"""Grids to text and back, strictly; the package docstring specifies the three layouts."""

from __future__ import annotations

import re
from functools import lru_cache
from operator import eq

import numpy as np

from t4s.codec.grid import DescriptorGrid, check_shape, valid_grid
from t4s.codec.labels import OTHERS, is_clean, short
from t4s.errors import CodecError
from t4s.limits import MAX_SIDE

LAYOUTS = ("rows", "image", "full")

Run = tuple[str, int]  # label, cells

_STARS = tuple(f" *{n}" for n in range(MAX_SIDE**2 + 1))  # how a count is written
_COUNTS = {str(n): n for n in range(1, MAX_SIDE**2 + 1)}  # and read


def encode(grid: DescriptorGrid, layout: str = "rows") -> str:
    """The grid as text in one of `LAYOUTS`, without `<seg>` and `</seg>`. Raises CodecError."""
    _check_layout(layout)
    if layout == "full":
        return "\n ".join("| ".join(grid.labels[i] for i in row) for row in grid.ids.tolist()) + "\n"
    cells, labels = grid.ids.ravel(), grid.labels
    width = cells.size if layout == "image" else grid.ids.shape[1]
    edges = np.empty(cells.size + 1, bool)  # where runs start and end
    np.not_equal(cells[1:], cells[:-1], out=edges[1:-1])
    edges[::width] = True
    at = edges.nonzero()[0]
    counts = (at[1:] - at[:-1]).tolist()
    # Another separator precedes the first run of a row: there the id is inverted, to count from the end of the list.
    ids = (cells ^ _row_starts(cells.size, width))[at[:-1]].tolist()
    before = ["| " + label for label in labels] + ["\n " + label for label in reversed(labels)]
    return "".join([before[i] + _STARS[n] for i, n in zip(ids, counts, strict=True)])[2:] + "\n"


@lru_cache(maxsize=256)
def _row_starts(size: int, width: int) -> np.ndarray:
    """(size,) int32: -1 at multiples of `width`, 0 elsewhere."""
    starts = np.zeros(size, np.int32)
    starts[::width] = -1
    return starts


def decode(text: str, shape: tuple[int, int] | None = None, layout: str = "rows") -> DescriptorGrid:
    """The grid that `text` spells, exactly as the format is specified.

    Without `shape` (H, W) the number of rows and the width of the first row are taken from the text; the
    `image` layout always needs it. Labels are numbered in order of first appearance, after "others",
    which the grid has whether or not the text does. Raises CodecError with `.row`, `.column` and
    `.reason` of the first fault in reading order.
    """
    _check_layout(layout)
    if shape is not None:
        check_shape(shape)
    elif layout == "image":
        raise CodecError(
            "The image layout does not contain the shape; call decode(text, shape=(H, W), layout='image')."
        )
    return (_decode_valid(text, shape, layout) if layout != "full" else None) or _decode_slowly(text, shape, layout)


def grid_from_runs(rows: list[list[Run]], shape: tuple[int, int]) -> DescriptorGrid:
    """The grid of `shape` (H, W) from (label, count) runs in reading order. Raises CodecError for an unclean label."""
    index = {OTHERS: 0}
    ids = [index.setdefault(label, len(index)) for row in rows for label, count in row for _ in range(count)]
    return DescriptorGrid(np.reshape(ids, shape), tuple(index))


def _check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise CodecError(f"There is no layout {layout!r}; choose one of {', '.join(LAYOUTS)}.")


def _decode_valid(text: str, shape: tuple[int, int] | None, layout: str) -> DescriptorGrid | None:
    """The grid of a valid text with runs; None for any other, so that `_decode_slowly` finds the first fault."""
    if not text.endswith("\n"):
        return None
    lines = [text[:-1]] if layout == "image" else text[:-1].split("\n ")
    height = shape[0] if shape and layout != "image" else len(lines)
    width = shape[0] * shape[1] if shape and layout == "image" else shape and shape[1]
    if len(lines) != height or height > MAX_SIDE:
        return None
    index = {OTHERS: 0}
    known: dict[str, tuple[list[int], list[int]]] = {}  # rows repeat
    ids: list[int] = []
    counts: list[int] = []
    for line in lines:
        if line not in known:
            row_ids, row_counts = [], []
            for piece in line.split("| "):
                label, _, digits = piece.rpartition(" *")
                row_ids.append(index.setdefault(label, len(index)))
                row_counts.append(_COUNTS.get(digits, 0))
            width = width or sum(row_counts)
            repeated = True in map(eq, row_ids, row_ids[1:])
            if repeated or 0 in row_counts or sum(row_counts) != width or not shape and width > MAX_SIDE:
                return None
            known[line] = row_ids, row_counts
        ids += known[line][0]
        counts += known[line][1]
    labels = tuple(index)
    if not all(map(is_clean, labels[1:])):
        return None
    cells = np.array(ids, np.int32).repeat(counts)
    return valid_grid(cells.reshape(shape or (height, width)), labels)


def _decode_slowly(text: str, shape: tuple[int, int] | None, layout: str) -> DescriptorGrid:
    """`decode`, one run at a time. Raises CodecError naming the first fault."""
    if layout != "image":
        rows = _read_rows(text, *(shape or (None, None)), layout)
        return grid_from_runs(rows, (len(rows), sum(count for _, count in rows[0])))
    cells = shape[0] * shape[1]
    try:
        return grid_from_runs(_read_rows(text, 1, cells, layout), shape)
    except CodecError as error:
        raise CodecError(error.reason, *divmod(min(error.column or 0, cells - 1), shape[1])) from None


def _read_rows(text: str, height: int | None, width: int | None, layout: str) -> list[list[Run]]:
    """The runs of every row; the counts of each row add up to the same width."""
    *lines, tail = text.split("\n")
    rows: list[list[Run]] = []
    for line in [*lines, tail] if tail else lines:
        at = len(rows)
        if at == (height or MAX_SIDE):
            raise CodecError(f"there are more rows than {at}", at, 0)
        if at and not line.startswith(" "):
            raise CodecError("a line break must be followed by one space and the next row", at, 0)
        rows.append(_read_row(line[1:] if at else line, at, width, layout, cut=at == len(lines)))
        width = width or sum(count for _, count in rows[0])
    if len(rows) < (height or 1):
        raise CodecError(f"the text ends after {len(rows)} of {height or 'at least 1'} rows", len(rows), 0)
    return rows


def _read_row(line: str, row: int, width: int | None, layout: str, cut: bool) -> list[Run]:
    """The runs of one row. `cut`: no line break follows, which is the last fault to report."""
    runs: list[Run] = []
    column, limit = 0, width or MAX_SIDE
    pieces = line.split("| ")
    for i, piece in enumerate(pieces):
        run = (piece, 1) if layout == "full" else _read_run(piece)
        reason = run if isinstance(run, str) else _label_fault(run[0])
        if reason and cut and i == len(pieces) - 1:
            reason = f"the text is cut off within the run {short(piece)}"
        elif not reason and layout != "full" and runs and runs[-1][0] == run[0]:
            reason = f"two neighbouring runs have the label {short(run[0])}; write them as one"
        if reason:
            raise CodecError(reason, row, column)
        if column + run[1] > limit:
            raise CodecError(f"the run {short(piece)} goes past the {limit} cells of the row", row, column)
        runs.append(run)
        column += run[1]
    if cut:
        raise CodecError("the text is cut off: its last row does not end with a line break", row, column)
    if width and column < width:
        raise CodecError(f"the counts add up to {column} cells, the row has {width}", row, column)
    return runs


def _read_run(piece: str) -> Run | str:
    """(label, count), or what is wrong with the count."""
    label, star, digits = piece.rpartition(" *")
    if not star:
        return f"the run {short(piece)} has no ' *' and count" if piece else "a run is missing"
    if not re.fullmatch("[1-9][0-9]*", digits):
        return f"the count {short(digits)} is not a whole number from 1 in ASCII digits"
    return label, int(digits) if len(digits) < 10 else 10**9


def _label_fault(label: str) -> str | None:
    if label == OTHERS or is_clean(label):
        return None
    if label.casefold() == OTHERS:
        return f'the background is written "others", not {short(label)}'
    return f"{short(label)} is not a clean label: no | * < > or control character, single spaces between words"
