"""Cells → pixels, without the photo: nearest and bicubic, exact under mirroring. numpy only.

A painter gives any rows of the large picture, so that nothing larger than a band need be held:

    paint = bicubic(soft, (3000, 4000));  paint(0, 100)     # (L, 100, 4000) float32

A mirrored grid gives exactly the mirrored picture: places are quotients of whole numbers, and sums are taken in
an order that mirroring does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

Painter = Callable[[int, int], np.ndarray]  # rows y0 to y1 → (L, y1 - y0, w) float32


def nearest(soft: np.ndarray, size: tuple[int, int]) -> Painter:
    """`soft` (L, H, W) at `size` (h, w): each pixel has its cell's values, one on a line between cells their mean."""
    (top, bottom), (left, right) = (cells_of(n, cells) for n, cells in zip(size, soft.shape[1:], strict=True))
    columns = (soft[..., left] + soft[..., right]) / 2
    return lambda y0, y1: (columns[:, top[y0:y1]] + columns[:, bottom[y0:y1]]) / 2


def bicubic(soft: np.ndarray, size: tuple[int, int]) -> Painter:
    """`soft` (L, H, W) at `size` (h, w), by bicubic interpolation (Keys, a = -1/2), kept in [0, 1]."""
    (row_taps, row_weights), (taps, weights) = (_taps(n, cells) for n, cells in zip(size, soft.shape[1:], strict=True))
    wide = _four(lambda k: soft[:, :, taps[k]], weights)
    return lambda y0, y1: _four(lambda k: wide[:, row_taps[k, y0:y1]], row_weights[:, y0:y1, None]).clip(0, 1)


@lru_cache(maxsize=64)
def cells_of(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell of every pixel centre, twice: the two differ where the centre is on a line between cells."""
    places = (2 * np.arange(pixels) + 1) * cells
    return (places - 1) // (2 * pixels), places // (2 * pixels)


@lru_cache(maxsize=64)
def _taps(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(4, pixels) cells and (4, pixels) float32 weights of a bicubic interpolation, edges repeated."""
    unit = 2 * pixels
    base, rest = np.divmod((2 * np.arange(pixels) + 1) * cells - pixels, unit)
    taps = np.clip(base + np.arange(-1, 3)[:, None], 0, cells - 1)
    outer, inner = np.stack([unit + rest, 2 * unit - rest]) / unit, np.stack([rest, unit - rest]) / unit
    outer = ((-0.5 * outer + 2.5) * outer - 4) * outer + 2
    inner = (1.5 * inner - 2.5) * inner * inner + 1
    return taps, np.stack([outer[0], *inner, outer[1]]).astype(np.float32)


def _four(part: Callable[[int], np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted sum of four taps."""
    outside = part(0) * weights[0] + part(3) * weights[3]
    return outside + (part(1) * weights[1] + part(2) * weights[2])
