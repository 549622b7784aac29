"""Views to pixels in batches, on any device: what `data.augment.render` does with Pillow, to within rounding.

Scaling a part of a photo is linear along each axis: a matrix for its rows and one for its columns, with Pillow's
weights (a triangle as wide as a source pixel, or as a target pixel where the photo is made smaller). So cropping,
scaling and placing all parts of a batch are two batched matrix products; a blur and a coarser picture are a few more.
Values are rounded where Pillow rounds them. What remains are values that lie exactly between two whole numbers, which
differ by 1; strong changes of light make up to 5 of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple

import torch
from torch import Tensor

from t4s.data.augment.views import View
from t4s.models.efficientnet import PIXEL_MEAN, PIXEL_STD

BLUR_PASSES = 3  # of a box, which is how Pillow approximates a Gaussian
BLUR_REACH = 4  # most pixels to each side that a pass of the box reaches: enough for a radius of 3 pixels
LUMA = (19595, 38470, 7471)  # in 65536ths; a sum of them is exact in float32


def view_tensors(views: Sequence[View], first_photos: Sequence[int]) -> dict[str, Tensor]:
    """B views → what `render` needs, with P parts in all. first_photos: for each view, the album's number of its data
    set's photo 0.

    photo, picture (P,) long; box, place (P, 4) float32; flip (B,) bool; light (B, 4) float32: brightness, saturation,
    contrast, grey; blurred, coarse (n,) long: which pictures; radius, small (n,) float32: of the blur, and the side of
    the coarser picture, in pixels.
    """
    parts = [
        (first + part.photo, number, part.box, part.place)
        for number, (view, first) in enumerate(zip(views, first_photos, strict=True))
        for part in view.parts
    ]
    lights = [astuple(view.light) for view in views]
    side = views[0].size[0]
    blurred = [(number, light[4]) for number, light in enumerate(lights) if light[4]]
    coarse = [(number, max(1, round(side * light[5]))) for number, light in enumerate(lights) if light[5] != 1]
    photo, picture, box, place = zip(*parts, strict=True)
    return {
        "photo": torch.tensor(photo),
        "picture": torch.tensor(picture),
        "box": torch.tensor(box, dtype=torch.float32),
        "place": torch.tensor(place, dtype=torch.float32),
        "flip": torch.tensor([view.flip for view in views]),
        "light": torch.tensor([light[:4] for light in lights], dtype=torch.float32),
        "blurred": torch.tensor([number for number, _ in blurred], dtype=torch.long),
        "radius": torch.tensor([radius for _, radius in blurred], dtype=torch.float32),
        "coarse": torch.tensor([number for number, _ in coarse], dtype=torch.long),
        "small": torch.tensor([small for _, small in coarse], dtype=torch.float32),
    }


def normalised(pictures: Tensor) -> Tensor:
    """(B, 3, S, S) of values up to 255 → as the vision tower expects them."""
    return ((pictures / 255 - PIXEL_MEAN) / PIXEL_STD).contiguous(memory_format=torch.channels_last)


def render(photos: Tensor, sizes: Tensor, views: dict[str, Tensor], side: int) -> Tensor:
    """→ (B, 3, side, side) float32, whole values from 0 to 255.

    photos: (N, 3, M, M) uint8, each in the upper left corner; sizes: (N, 2) float32, heights and widths; views: of
    `view_tensors`; all on one device.
    """
    shown = photos.index_select(0, views["photo"]).float()
    height, width = sizes.index_select(0, views["photo"]).unbind(1)
    (x0, y0, x1, y1), (left, top, right, bottom) = views["box"].unbind(1), views["place"].unbind(1)
    room = photos.shape[-1]
    across = resampling(x0 * width, x1 * width, width, left, right, side, room)
    down = resampling(y0 * height, y1 * height, height, top, bottom, side, room)
    parts = _both_ways(shown, across, down)
    pictures = torch.zeros(len(views["flip"]), 3, side, side, device=photos.device)
    pictures.index_add_(0, views["picture"], parts)  # parts do not overlap: all but one are 0
    pictures = torch.where(_each(views["flip"]), pictures.flip(-1), pictures)
    return _relit(pictures, views)


def resampling(
    start: Tensor, stop: Tensor, length: Tensor, first: Tensor, last: Tensor, side: int, room: int
) -> Tensor:
    """(n, side, room) weights of a bilinear resize along one axis, as Pillow's: row i of target pixel i.

    Source pixels from `start` to `stop`, of a photo that has `length` of them, become the target pixels from `first` to
    `last` (n,); other target pixels get nothing.
    """
    target = torch.arange(side, device=start.device) + 0.5
    source = torch.arange(room, device=start.device) + 0.5
    scale = ((stop - start) / (last - first))[:, None]
    centre = start[:, None] + (target - first[:, None]) * scale  # (n, side)
    reach = scale.clamp(min=1.0)[..., None]
    weights = (1 - (source - centre[..., None]).abs() / reach).clamp(min=0.0)
    weights = weights * (source < length[:, None])[:, None]
    inside = (target > first[:, None]) & (target < last[:, None])
    return weights / weights.sum(-1, keepdim=True).clamp(min=1e-6) * inside[..., None]


def _both_ways(pictures: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """Resample (n, 3, h, w): first along the rows by `across` (n, W, w), then along the columns by `down` (n, H, h)."""
    narrow = _rounded(pictures @ across.mT[:, None])
    return _rounded(down[:, None] @ narrow)


def _rounded(values: Tensor) -> Tensor:
    return (values + 0.5).floor().clamp(0, 255)


def _each(values: Tensor) -> Tensor:
    """(B,) → (B, 1, 1, 1)."""
    return values[:, None, None, None]


# --- light


def _relit(pictures: Tensor, views: dict[str, Tensor]) -> Tensor:
    """`data.augment.render.relight`, with Pillow's rounding."""
    brightness, saturation, contrast, grey = map(_each, views["light"].unbind(1))
    pictures = _blend(torch.zeros_like(pictures), pictures, brightness)
    pictures = _blend(_luma(pictures), pictures, saturation)
    pictures = _blend((_luma(pictures).mean((1, 2, 3), keepdim=True) + 0.5).floor(), pictures, contrast)
    pictures = torch.where(grey > 0, _luma(pictures), pictures)
    pictures = pictures.index_copy(0, views["blurred"], _blurred(pictures.index_select(0, views["blurred"]), views))
    return pictures.index_copy(0, views["coarse"], _coarse(pictures.index_select(0, views["coarse"]), views["small"]))


def _blend(plain: Tensor, pictures: Tensor, factor: Tensor) -> Tensor:
    return (plain + factor * (pictures - plain)).clamp(0, 255).floor()


def _luma(pictures: Tensor) -> Tensor:
    """(B, 3, h, w) → (B, 1, h, w)."""
    red, green, blue = pictures.split(1, dim=1)
    return ((LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + 2**15) / 2**16).floor()


def _blurred(pictures: Tensor, views: dict[str, Tensor]) -> Tensor:
    """Gaussian blur of (n, 3, S, S), as Pillow approximates it: three passes of a box with soft ends."""
    box = _box(views["radius"], pictures.shape[-1])
    for _ in range(BLUR_PASSES):
        pictures = _rounded(pictures @ box.mT[:, None])
    for _ in range(BLUR_PASSES):
        pictures = _rounded(box[:, None] @ pictures)
    return pictures


def _box(radius: Tensor, side: int) -> Tensor:
    """(n, side, side) weights of a pass of the box; beyond the picture its edge goes on."""
    variance = radius.square() / BLUR_PASSES
    whole = ((torch.sqrt(12 * variance + 1) - 1) / 2).floor()
    soft = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1).square()))
    reach = torch.arange(-BLUR_REACH, BLUR_REACH + 1, device=radius.device)
    weights = ((whole + soft)[:, None] + 1 - reach.abs()).clamp(0, 1)
    weights = weights / weights.sum(-1, keepdim=True)  # (n, reach)
    columns = (torch.arange(side, device=radius.device)[:, None] + reach).clamp(0, side - 1)  # (side, reach)
    box = torch.zeros(len(radius), side, side, device=radius.device)
    return box.scatter_add_(2, columns.expand(len(radius), -1, -1), weights[:, None].expand(-1, side, -1))


def _coarse(pictures: Tensor, small: Tensor) -> Tensor:
    """(n, 3, S, S), scaled down to `small` pixels a side and up again."""
    side = pictures.shape[-1]
    none, full = torch.zeros_like(small), torch.full_like(small, side)
    down = resampling(none, full, full, none, small, side, side)
    up = resampling(none, small, small, none, full, side, side)
    return _both_ways(_both_ways(pictures, down, down), up, up)
