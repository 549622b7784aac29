"""What is where in a photo, as training keeps it: small enough to keep it of every photo, large enough for any grid."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

LABEL_SIDE = 512  # most pixels per side of a label map in training: 32 for each of 16 cells


def reduced(labels: np.ndarray) -> np.ndarray:
    """A label map or mask (h, w), its longer side at most LABEL_SIDE: every pixel that is kept keeps its label."""
    longest = max(labels.shape)
    if longest <= LABEL_SIDE:
        return labels
    rows, columns = (
        (np.arange(side) + 0.5) * length / side
        for length in labels.shape
        for side in [max(1, round(length * LABEL_SIDE / longest))]
    )
    return labels[rows.astype(int)[:, None], columns.astype(int)]


def reduced_mask(mask: np.ndarray) -> np.ndarray:
    """A mask (h, w) bool, reduced; it keeps a pixel however small its object is."""
    small = reduced(mask)
    if mask.any() and not small.any():
        small = small.copy()
        row, column = np.argwhere(mask)[0] * small.shape // mask.shape
        small[row, column] = True
    return small


class PackedMasks:
    """Masks (h, w) bool of one photo, reduced to `shape` and packed: eight pixels a byte."""

    def __init__(self, height: int, width: int):
        self.shape = reduced(np.empty((height, width), bool)).shape
        self._packed: dict[Hashable, np.ndarray] = {}

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.shape[::-1]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._packed

    def add(self, key: Hashable, mask: np.ndarray) -> None:
        self._packed[key] = np.packbits(reduced_mask(mask), axis=1)

    def __getitem__(self, key: Hashable) -> np.ndarray:
        """(h, w) bool. KeyError."""
        return np.unpackbits(self._packed[key], axis=1, count=self.shape[1]).view(bool)

    def get(self, key: Hashable) -> np.ndarray:
        """The mask, or an empty one."""
        return self[key] if key in self else np.zeros(self.shape, bool)
