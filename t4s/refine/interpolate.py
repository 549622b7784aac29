"""Cells to pixels without the photo: the refiners `none` and `smooth`, exact under mirroring. numpy only.

A painter gives any rows of the large picture, so that nothing larger than a band of rows need be held:

    paint = bicubic(soft, (3000, 4000))
    paint(0, 100)                           # (L, 100, 4000) float32

A mirrored grid gives exactly the mirrored picture: positions are quotients of whole numbers, and sums are taken in an
order that mirroring does not change.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

Painter = Callable[[int, int], np.ndarray]  # rows y0 to y1 → (L, y1 - y0, w) float32 in [0, 1]


def paint_none(photo: np.ndarray, soft: np.ndarray) -> Painter:
    """The refiner `none`: each pixel of `photo` (h, w, 3) takes the values of its cell in `soft` (L, H, W)."""
    return nearest(soft, photo.shape[:2])


def paint_smooth(photo: np.ndarray, soft: np.ndarray) -> Painter:
    """The refiner `smooth`: bicubic interpolation between the centres of the cells of `soft` (L, H, W)."""
    return bicubic(soft, photo.shape[:2])


def nearest(soft: np.ndarray, size: tuple[int, int]) -> Painter:
    """`soft` (L, H, W) at `size` (h, w), nearest cell; a pixel centre on the line between cells takes their mean."""
    top, bottom = cells_of(size[0], soft.shape[1])
    left, right = cells_of(size[1], soft.shape[2])
    columns = (soft[..., left] + soft[..., right]) / 2
    return lambda y0, y1: (columns[:, top[y0:y1]] + columns[:, bottom[y0:y1]]) / 2


def bicubic(soft: np.ndarray, size: tuple[int, int]) -> Painter:
    """`soft` (L, H, W) at `size` (h, w) by bicubic interpolation (Keys, a = -1/2), clipped to [0, 1]."""
    row_taps, row_weights = _taps(size[0], soft.shape[1])
    column_taps, column_weights = _taps(size[1], soft.shape[2])
    wide = _weighted_sum(lambda k: soft[:, :, column_taps[k]], column_weights)  # (L, H, w)

    def paint(y0: int, y1: int) -> np.ndarray:
        band = _weighted_sum(lambda k: wide[:, row_taps[k, y0:y1]], row_weights[:, y0:y1, None])
        return band.clip(0, 1)

    return paint


def maps(painter: Painter, height: int) -> np.ndarray:
    """All `height` rows of a painter at once: (L, h, w) float32."""
    return painter(0, height)


@lru_cache(maxsize=64)
def cells_of(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """The cell of every pixel centre along one side, twice; the two differ for a centre on the line between cells."""
    positions = (2 * np.arange(pixels) + 1) * cells
    return (positions - 1) // (2 * pixels), positions // (2 * pixels)


@lru_cache(maxsize=64)
def _taps(pixels: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """(4, pixels) cells and (4, pixels) float32 weights of a bicubic interpolation, edges repeated."""
    unit = 2 * pixels
    base, rest = np.divmod((2 * np.arange(pixels) + 1) * cells - pixels, unit)
    taps = np.clip(base + np.arange(-1, 3)[:, None], 0, cells - 1)
    outer = np.stack([unit + rest, 2 * unit - rest]) / unit  # distances to the two cells further away
    inner = np.stack([rest, unit - rest]) / unit
    outer = ((-0.5 * outer + 2.5) * outer - 4) * outer + 2
    inner = (1.5 * inner - 2.5) * inner * inner + 1
    return taps, np.stack([outer[0], *inner, outer[1]]).astype(np.float32)


def _weighted_sum(tap: Callable[[int], np.ndarray], weights: np.ndarray) -> np.ndarray:
    """The weighted sum of four taps, the outer pair and the inner pair first: the same under mirroring."""
    outside = tap(0) * weights[0] + tap(3) * weights[3]
    return outside + (tap(1) * weights[1] + tap(2) * weights[2])
