"""The refiner `guided`: local linear models of the photo, fitted on a small copy and painted at any size.

In every window of the small photo I the values p are approximated by q = a·I + b (least squares, a damped by eps).
a and b are smooth, so they can be enlarged and applied to the large photo, whose edges q then follows.
He, Sun and Tang, "Guided image filtering", ECCV 2010; He and Sun, "Fast guided filter", arXiv 1505.00996.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from t4s.refine.interpolate import Painter, bicubic, maps

WORKING_SIDE = 256  # pixels of the longer side of the small copy
RADIUS, EPS = 4, 1e-2
GAP = 2.0  # a photo is averaged over blocks until it is this much too large, and then interpolated
STRIP = 64  # rows averaged at once, about: what fits into a processor's cache


def paint_guided(photo: np.ndarray, soft: np.ndarray) -> Painter:
    """The guided filter over `soft` (L, H, W), interpolated: fitted at the working size, painted at the photo's."""
    small = shrink(photo, WORKING_SIDE)
    return GuidedPainter(photo, fit(small, maps(bicubic(soft, small.shape[:2]), len(small))[1:], RADIUS, EPS))


def shrink(photo: np.ndarray, side: int) -> np.ndarray:
    """(h, w, 3) uint8 → the same photo with a longer side of at most `side` pixels."""
    return resized(photo, min(side, max(photo.shape[:2])), 1)


def resized(photo: np.ndarray, side: int, multiple: int) -> np.ndarray:
    """(h, w, 3) uint8 → the same photo scaled to a longer side of `side`; both sides are multiples of `multiple`.

    As PIL's `resize(…, reducing_gap=GAP)` does it, but without a copy of the whole photo.
    """
    height, width = photo.shape[:2]
    longest = max(height, width)
    rows, columns = (max(1, round(n * side / longest / multiple)) * multiple for n in (height, width))
    if (rows, columns) == (height, width):
        return photo
    across, down = (max(1, int(n / wanted / GAP)) for n, wanted in ((width, columns), (height, rows)))
    if across * down > 1:
        step = -(-STRIP // down) * down
        strips = (Image.fromarray(photo[y : y + step]).reduce((across, down)) for y in range(0, height, step))
        photo = np.concatenate([np.asarray(strip) for strip in strips])
    picture, box = Image.fromarray(photo), (0, 0, width / across, height / down)
    return np.asarray(picture.resize((columns, rows), Image.Resampling.BILINEAR, box))


def fit(small: np.ndarray, values: np.ndarray, radius: int, eps: float) -> Tensor:
    """`small` (s, t, 3) uint8 and `values` (K, s, t) float32 → (K, 4, s, t): a for red, green and blue, then b.

    Windows reach `radius` pixels each way and are cut at the border; `eps` is in squares of the range [0, 1].
    """
    guide, mean, minors, determinant = _windows(small.tobytes(), small.shape, radius, eps)
    p = torch.from_numpy(np.ascontiguousarray(values))
    p_mean = _box(p, radius)
    covariance = torch.stack([_box(guide[c] * p, radius) - mean[c] * p_mean for c in range(3)], 1)
    a = torch.stack([sum(row[c] * covariance[:, c] for c in range(3)) for row in minors], 1) / determinant
    b = p_mean - (a * mean).sum(1)
    return _box(torch.cat([a, b[:, None]], 1).flatten(0, 1), radius).unflatten(0, (-1, 4))


@lru_cache(maxsize=2)  # both filters of `edge` for the last photo, about which phrases come one after the other
def _windows(pixels: bytes, shape: tuple[int, ...], radius: int, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The guide (3, s, t) in [0, 1], its mean in each window, and the inverse of its damped covariance there.

    The inverse is minors (3, 3, s, t) over a determinant (s, t).
    """
    guide = _unit(np.frombuffer(pixels, np.uint8).reshape(shape))
    mean = _box(guide, radius)
    i, j = (0, 0, 0, 1, 1, 2), (0, 1, 2, 1, 2, 2)
    rr, rg, rb, gg, gb, bb = _box(guide[i, :] * guide[j, :], radius) - mean[i, :] * mean[j, :]
    rr, gg, bb = rr + eps, gg + eps, bb + eps
    # the inverse of a symmetric 3×3 matrix by cofactors: far quicker than a solver for each pixel
    minors = (
        (gg * bb - gb * gb, gb * rb - rg * bb, rg * gb - gg * rb),
        (gb * rb - rg * bb, rr * bb - rb * rb, rb * rg - rr * gb),
        (rg * gb - gg * rb, rb * rg - rr * gb, rr * gg - rg * rg),
    )
    determinant = rr * minors[0][0] + rg * minors[0][1] + rb * minors[0][2]
    return guide, mean, torch.stack([torch.stack(row) for row in minors]), determinant


@dataclass(frozen=True, eq=False)
class GuidedPainter:
    """Paints a photo's rows from local linear models of it: (1 + K, y1 - y0, w) float32 in [0, 1].

    Map 0, "others", is what the K maps of the models leave of 1.

    photo   (h, w, 3) uint8
    models  (K, 4, s, t), as `fit` gives them
    """

    photo: np.ndarray
    models: Tensor

    def __call__(self, y0: int, y1: int, columns: np.ndarray | None = None) -> np.ndarray:
        """`columns` (n,): of the photo, only these."""
        pixels = self.photo[y0:y1] if columns is None else self.photo[y0:y1, columns]
        here = enlarge(self.models.flatten(0, 1), y0, y1, self.photo.shape[:2], columns)
        a, b = here.unflatten(0, (-1, 4)).split((3, 1), 1)
        targets = (a * _unit(pixels)).sum(1).add_(b[:, 0]).clamp_(0, 1)
        return torch.cat([(1 - targets.sum(0, keepdim=True)).clamp_(0, 1), targets]).numpy()

    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """(h,) and (w,): the row and the column of the block that each of the photo's rows and columns lies in.

        A block is what lies between four neighbouring models, the first of which has the block's place in (s, t).
        """
        rows, columns = (_neighbours(*sides)[0] for sides in zip(self.photo.shape, self.models.shape[2:], strict=False))
        return rows, columns

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """(1 + K, s, t) each: the lowest and the highest value that a pixel of the block can have, whatever its colour.

        q = a·I + b with I in [0, 1] and a and b between those of the block's corners.
        """
        a, b = self.models.split((3, 1), 1)
        low = -_highest_corner(-(a.clamp(max=0).sum(1) + b[:, 0])).clamp(-1, 0)
        high = _highest_corner(a.clamp(min=0).sum(1) + b[:, 0]).clamp(0, 1)
        others = (1 - torch.stack([high, low]).sum(1, keepdim=True)).clamp(0, 1)
        return torch.cat([others[0], low]).numpy(), torch.cat([others[1], high]).numpy()


def _highest_corner(values: Tensor) -> Tensor:
    """(K, s, t) → (K, s, t): the highest of each value and its neighbours below, to the right, and both."""
    padded = F.pad(values, (0, 1, 0, 1), mode="replicate")
    columns = torch.maximum(padded[..., :-1], padded[..., 1:])
    return torch.maximum(columns[:, :-1], columns[:, 1:])


def enlarge(small: Tensor, y0: int, y1: int, size: tuple[int, int], columns: np.ndarray | None = None) -> Tensor:
    """Rows y0 to y1 of `small` (C, s, t) brought to `size` (h, w) by bilinear interpolation: (C, y1 - y0, w).

    `columns` (n,): of these w, only these.
    """
    if small.shape[1:] == size and columns is None:
        return small[:, y0:y1]
    above, below, down = (torch.from_numpy(along[y0:y1]) for along in _neighbours(size[0], small.shape[1]))
    wanted = slice(None) if columns is None else columns
    left, right, across = (torch.from_numpy(along[wanted]) for along in _neighbours(size[1], small.shape[2]))
    first, last = int(above[0]), int(below[-1])
    band = small[:, first : last + 1]
    wide = torch.lerp(band.index_select(2, left), band.index_select(2, right), across)
    return torch.lerp(wide.index_select(1, above - first), wide.index_select(1, below - first), down[:, None])


@lru_cache(maxsize=64)
def _neighbours(pixels: int, values: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Along one side: the two of `values` that each pixel lies between, and the share of the second one, float32."""
    positions = np.clip((np.arange(pixels) + 0.5) * values / pixels - 0.5, 0, values - 1)
    first = np.floor(positions).astype(np.intp)
    return first, np.minimum(first + 1, values - 1), (positions - first).astype(np.float32)


def _unit(photo: np.ndarray) -> Tensor:
    """(h, w, 3) uint8 → (3, h, w) float32 in [0, 1]."""
    return torch.from_numpy(np.array(photo.transpose(2, 0, 1), np.float32, order="C")).div_(255)


def _box(values: Tensor, radius: int) -> Tensor:
    """The mean of each window of (C, s, t), cut at the border: sums of shifted copies, quicker than pooling."""
    for axis in (1, 2):
        side = values.shape[axis]
        reach = min(radius, side - 1)
        padded = F.pad(values, (0, 0, reach, reach) if axis == 1 else (reach, reach))
        total = padded.narrow(axis, 0, side).clone()
        for shift in range(1, 2 * reach + 1):
            total += padded.narrow(axis, shift, side)
        at = torch.arange(side)
        inside = (at + reach).clamp(max=side - 1) - (at - reach).clamp(min=0) + 1
        values = total / (inside[:, None] if axis == 1 else inside)
    return values
