"""The refiner `guided`: local linear models of the photo, fitted on a small copy and painted at any size.

In every window of the small photo I the values p are approximated by q = a·I + b (least squares, a damped by eps).
a and b are smooth, so they can be enlarged and applied to the large photo, whose edges q then follows.
He, Sun and Tang, "Guided image filtering", ECCV 2010; He and Sun, "Fast guided filter", arXiv 1505.00996.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from t4s.refine.interpolate import Painter, bicubic, maps

WORKING_SIDE = 256  # pixels of the longer side of the small copy
RADIUS, EPS = 4, 1e-2


def paint_guided(photo: np.ndarray, soft: np.ndarray) -> Painter:
    """The guided filter over `soft` (L, H, W), interpolated: fitted at the working size, painted at the photo's."""
    small = shrink(photo, WORKING_SIDE)
    return painter(photo, fit(small, maps(bicubic(soft, small.shape[:2]), len(small))[1:], RADIUS, EPS))


def shrink(photo: np.ndarray, side: int) -> np.ndarray:
    """(h, w, 3) uint8 → the same photo with a longer side of at most `side` pixels."""
    return resized(photo, min(side, max(photo.shape[:2])), 1)


def resized(photo: np.ndarray, side: int, multiple: int) -> np.ndarray:
    """(h, w, 3) uint8 → the same photo scaled to a longer side of `side`; both sides are multiples of `multiple`."""
    longest = max(photo.shape[:2])
    rows, columns = (max(1, round(n * side / longest / multiple)) * multiple for n in photo.shape[:2])
    if (rows, columns) == photo.shape[:2]:
        return photo
    return np.asarray(Image.fromarray(photo).resize((columns, rows), Image.Resampling.BILINEAR, reducing_gap=2.0))


def fit(small: np.ndarray, values: np.ndarray, radius: int, eps: float) -> Tensor:
    """`small` (s, t, 3) uint8 and `values` (K, s, t) float32 → (K, 4, s, t): a for red, green and blue, then b.

    Windows reach `radius` pixels each way and are cut at the border; `eps` is in squares of the range [0, 1].
    """
    guide, p = _unit(small), torch.from_numpy(np.ascontiguousarray(values))
    mean, p_mean = _box(guide, radius), _box(p, radius)
    i, j = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)
    rr, rg, rb, gg, gb, bb = _box(guide[i, :] * guide[j, :], radius) - mean[i, :] * mean[j, :]
    rr, gg, bb = rr + eps, gg + eps, bb + eps
    covariance = torch.stack([_box(guide[c] * p, radius) - mean[c] * p_mean for c in range(3)], 1)
    # the inverse of a symmetric 3×3 matrix by cofactors: far quicker than a solver for each pixel
    minors = (
        (gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb),
        (gb * rb - rg * bb, rr * bb - rb * rb, rb * rg - rr * gb),
        (rg * gb - gg * rb, rb * rg - rr * gb, rr * gg - rg * rg),
    )
    determinant = rr * minors[0][0] + rg * minors[0][1] + rb * minors[0][2]
    a = torch.stack([sum(row[c] * covariance[:, c] for c in range(3)) for row in minors], 1) / determinant
    b = p_mean - (a * mean).sum(1)
    return _box(torch.cat([a, b[:, None]], 1).flatten(0, 1), radius).unflatten(0, (-1, 4))


def painter(photo: np.ndarray, model: Tensor) -> Painter:
    """A painter of the photo's rows from `model` (K, 4, s, t): (1 + K, y1 - y0, w) float32 in [0, 1].

    Map 0, "others", is what the K maps of `model` leave of 1.
    """
    size = photo.shape[:2]
    flat = model.flatten(0, 1)

    def paint(y0: int, y1: int) -> np.ndarray:
        a, b = enlarge(flat, y0, y1, size).unflatten(0, (-1, 4)).split((3, 1), 1)
        targets = (a * _unit(photo[y0:y1])).sum(1).add_(b[:, 0]).clamp_(0, 1)
        return torch.cat([(1 - targets.sum(0, keepdim=True)).clamp_(0, 1), targets]).numpy()

    return paint


def enlarge(small: Tensor, y0: int, y1: int, size: tuple[int, int]) -> Tensor:
    """Rows y0 to y1 of `small` (C, s, t) brought to `size` (h, w) by bilinear interpolation: (C, y1 - y0, w)."""
    rows = small.shape[1]
    positions = ((torch.arange(y0, y1) + 0.5) * rows / size[0] - 0.5).clamp(0, rows - 1)
    above = positions.floor().long()
    below = (above + 1).clamp(max=rows - 1)
    band = torch.lerp(small[:, above], small[:, below], (positions - above)[None, :, None])
    if small.shape[2] == size[1]:
        return band
    return F.interpolate(band[None], (y1 - y0, size[1]), mode="bilinear", align_corners=False)[0]


def _unit(photo: np.ndarray) -> Tensor:
    """(h, w, 3) uint8 → (3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.array(photo.transpose(2, 0, 1), np.float32, order="C")).div_(255)


def _box(values: Tensor, radius: int) -> Tensor:
    """The mean of each window of (C, s, t), cut at the border."""
    for axis in (0, 1):
        reach = [0, 0]
        reach[axis] = min(radius, values.shape[1 + axis] - 1)
        window = [2 * n + 1 for n in reach]
        values = F.avg_pool2d(values[None], window, 1, reach, count_include_pad=False)[0]
    return values
