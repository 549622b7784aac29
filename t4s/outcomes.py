"""What comes after the text: grid, masks, box and score of an answer, however it was asked."""

from __future__ import annotations

from typing import Any

import numpy as np

from t4s import codec
from t4s.checkpoint import Format
from t4s.errors import CodecError
from t4s.refine import disagreements
from t4s.samples import Prediction


def read(text: str, format: Format) -> tuple[codec.DescriptorGrid, tuple[codec.Fault, ...]]:
    """The model's text → its grid, and what had to be mended. Layouts other than rows are not mended."""
    if format.layout == "rows":
        return codec.repair(text, format.grid)
    try:
        return codec.decode(text, format.grid, format.layout), ()
    except CodecError as error:
        empty = codec.DescriptorGrid(np.zeros(format.grid, int), ("others",))
        return empty, (codec.Fault(error.row or 0, error.column or 0, f"unreadable, nothing kept: {error.reason}"),)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(h, w) bool → (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None if it is empty."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1) if len(xs) else None


def whole(query: str | tuple[str, ...], text: str, grid: codec.DescriptorGrid, masks: dict[str, np.ndarray],
          confidence: np.ndarray, size: tuple[int, int], faults: tuple[codec.Fault, ...],
          stats: dict[str, Any]) -> Prediction:  # fmt: skip
    """A Prediction with what follows from the rest of it: mask, box, presence and score."""
    mask, target = union(masks, size), grid.ids > 0
    score = float(confidence[target].mean() if target.any() else confidence.mean())
    return Prediction(query, text, grid, mask, masks, confidence, bool(target.any()), score, box_of(mask), faults,
                      stats)  # fmt: skip


def union(masks: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: every pixel of any mask."""
    mask = np.zeros(size, bool)
    for one in masks.values():
        mask |= one
    return mask


def told(refiner: str, grid: codec.DescriptorGrid, masks: dict[str, np.ndarray]) -> tuple[codec.Fault, ...]:
    """Where a refiner of its own mind disagrees with the grid."""
    return disagreements(grid, masks) if refiner.partition(":")[0] == "sam" else ()
