"""The descriptor grid, and the conversions between pixels and cells; the package docstring has the rules."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from t4s.codec.coverage import cell_areas, coverage, keep_small_labels
from t4s.codec.labels import OTHERS, clean_label, is_clean, short
from t4s.errors import CodecError
from t4s.limits import MAX_SIDE


@dataclass(frozen=True, eq=False)
class DescriptorGrid:
    """H×W cells, each with a label: `labels[ids[r, c]]`.

    `ids` (H, W) integers, kept as a read-only int32 copy; 1 to `limits.MAX_SIDE` cells a side. `labels`
    starts with "others"; the others are clean and distinct, and need not all occur. Two grids are equal
    if every cell has the same label: the order of `labels`, and labels without cells, do not count.
    Raises CodecError.
    """

    ids: np.ndarray
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        ids, labels = np.asarray(self.ids), tuple(self.labels)
        if ids.ndim != 2 or ids.dtype.kind not in "iub":
            raise CodecError(f"The ids of a grid are a 2-D array of integers, not {ids.ndim}-D of {ids.dtype}.")
        check_shape(ids.shape)
        if not labels or labels[0] != OTHERS:
            raise CodecError(f'The first label of a grid must be "others", not {labels[0] if labels else None!r}.')
        for label in labels[1:]:
            if not isinstance(label, str) or not is_clean(label):
                raise CodecError(f"{short(str(label))} is not a clean label; pass it through codec.clean_label first.")
        if len(set(labels)) != len(labels):
            raise CodecError("The labels of a grid must differ from one another; merge the ids of equal labels.")
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
        """(H, W) bool: the cells with `label`; all False if the grid does not have the label."""
        return self.ids == self.labels.index(label) if label in self.labels else np.zeros(self.shape, bool)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DescriptorGrid):
            return NotImplemented
        index = {label: i for i, label in enumerate(other.labels)}
        same = np.array([index.get(label, -1) for label in self.labels])
        return self.shape == other.shape and bool((same[self.ids] == other.ids).all())

    def __hash__(self) -> int:
        """Equal for equal grids: ids are renumbered in order of appearance."""
        used, first, ids = np.unique(self.ids, return_index=True, return_inverse=True)
        order = np.argsort(first)
        labels = tuple(self.labels[i] for i in used[order])
        return hash((self.shape, labels, np.argsort(order)[ids].tobytes()))

    def __reduce__(self) -> tuple[type[DescriptorGrid], tuple[np.ndarray, tuple[str, ...]]]:
        return DescriptorGrid, (self.ids, self.labels)  # an unpickled grid is checked and read-only again


def valid_grid(ids: np.ndarray, labels: tuple[str, ...]) -> DescriptorGrid:
    """A grid from parts that are known to be valid: nothing is checked, and `ids` (H, W) int32 becomes read-only."""
    grid = object.__new__(DescriptorGrid)
    ids.setflags(write=False)
    object.__setattr__(grid, "ids", ids)
    object.__setattr__(grid, "labels", labels)
    return grid


def check_shape(shape: tuple[int, int]) -> None:
    """Raises CodecError unless `shape` is (H, W) with 1 to `limits.MAX_SIDE` cells a side."""
    if len(shape) != 2 or not all(isinstance(n, (int, np.integer)) and 1 <= n <= MAX_SIDE for n in shape):
        raise CodecError(f"A grid has two sides (H, W) of 1 to {MAX_SIDE} cells each, not {tuple(shape)}.")


def grid_from_mask(mask: np.ndarray, label: str, shape: tuple[int, int] = (16, 16)) -> DescriptorGrid:
    """The grid of one target. `mask` (h, w) bool, or integers 0 and 1; `shape` (H, W) in cells.

    The labels are ("others", clean_label(label)), even if the mask is empty. Raises CodecError, and
    QueryError for a label that is not allowed.
    """
    mask = np.asarray(mask)
    if mask.dtype.kind not in "biu" or (mask.dtype.kind != "b" and mask.size and not 0 <= mask.min() <= mask.max() < 2):
        raise CodecError("A mask is an array of bool, or of 0 and 1; compare it first, as in `mask > 0`.")
    _check_map(mask, "A mask")
    check_shape(shape)
    labels = (OTHERS, clean_label(label))
    inside = cell_areas(np.ascontiguousarray(mask, bool), shape)
    return _grid_from_cover(np.stack([mask.size - inside, inside], -1), labels)


def grid_from_classes(
    class_map: np.ndarray,
    names: Mapping[int, str],
    shape: tuple[int, int] = (16, 16),
    ignore: Collection[int] = (),
) -> DescriptorGrid:
    """The grid of a class map. `class_map` (h, w) integers of any sign; `names` {id: label}.

    Everything that `names` does not name is background: every id that it does not contain, and an id
    named "others", whatever its number. Pixels with an id in `ignore` are not counted, even if it has a
    name. Labels are cleaned; ids with the same label become one. The labels of the grid are "others" and
    then all of `names`, in its order, whether they occur or not. Raises CodecError and QueryError.

    A label that is present but wins no cell gets the cell that it covers best among those that are not
    another label's only one (ties: the first in reading order). If there is none, the owners move to
    other cells that they cover; a label is lost only where this cannot help, as there are more labels
    than cells.
    """
    class_map = np.asarray(class_map)
    if class_map.dtype.kind not in "iu":
        raise CodecError(f"A class map is a 2-D array of integers, not of {class_map.dtype}.")
    _check_map(class_map, "A class map")
    check_shape(shape)
    index = {OTHERS: 0}
    to_label = {}
    for key, name in names.items():
        label = OTHERS if name == OTHERS else clean_label(name)
        to_label[int(key)] = index.setdefault(label, len(index))
    ignored = len(index)  # one bin more, for the ignored pixels
    to_label.update({int(key): ignored for key in ignore})
    cover = coverage(class_map, to_label, ignored + 1, shape)[..., :ignored]
    return _grid_from_cover(cover, tuple(index))


def _check_map(pixels: np.ndarray, name: str) -> None:
    if pixels.ndim != 2 or not pixels.size:
        raise CodecError(f"{name} is a 2-D array (h, w) with at least one pixel, not {pixels.shape}.")


def _grid_from_cover(cover: np.ndarray, labels: tuple[str, ...]) -> DescriptorGrid:
    """`cover` (H, W, labels): the area of each label in each cell."""
    ids = cover.argmax(-1).astype(np.int32)
    keep_small_labels(ids, cover)
    return valid_grid(ids, labels)


def mask_from_grid(grid: DescriptorGrid, label: str, size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool, `size` = (h, w): the pixels whose centre lies in a cell with `label`.

    The cells are those of `grid_from_classes`. A label that the grid does not have gives an empty mask.
    Raises CodecError.
    """
    if len(size) != 2 or min(size) < 1:
        raise CodecError(f"The size of a mask is (h, w), at least one pixel each, not {tuple(size)}.")
    rows, columns = ((2 * np.arange(n) + 1) * cells // (2 * n) for n, cells in zip(size, grid.shape, strict=True))
    return grid.label_mask(label).take(columns, 1).take(rows, 0)  # many times quicker than indexing with both
