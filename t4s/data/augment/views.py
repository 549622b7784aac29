"""What a picture shows, as plain numbers: which parts of which photos, mirrored or not, in which light."""

from __future__ import annotations

from dataclasses import dataclass, replace

Shares = tuple[float, float, float, float]
Pixels = tuple[int, int, int, int]


@dataclass(frozen=True)
class Part:
    """A part of a photo, and where the picture shows it.

    photo  its number in the data set
    box    (x0, y0, x1, y1) of the part, in shares of the photo's width and height
    place  (x0, y0, x1, y1) in whole pixels of the picture
    """

    photo: int
    box: Shares
    place: Pixels


@dataclass(frozen=True)
class Light:
    """Changes to a picture's light, colour and sharpness, made in this order. The defaults change nothing.

    brightness, saturation, contrast  factors
    grey                              no colour at all
    blur                              radius of a Gaussian blur, in pixels
    coarse                            the share of its side that the picture is scaled down to, and up again
    """

    brightness: float = 1.0
    saturation: float = 1.0
    contrast: float = 1.0
    grey: bool = False
    blur: float = 0.0
    coarse: float = 1.0


@dataclass(frozen=True)
class View:
    """A picture of `size` (width, height), put together from parts that do not overlap, then mirrored and lit."""

    size: tuple[int, int]
    parts: tuple[Part, ...]
    flip: bool = False
    light: Light = Light()


def whole(photo: int, size: tuple[int, int]) -> View:
    """All of a photo, as a picture of `size` (width, height)."""
    return View(size, (Part(photo, (0.0, 0.0, 1.0, 1.0), (0, 0, *size)),))


def crop(view: View, box: tuple[int, int, int, int], side: int) -> View:
    """The part `box` (x, y, width, height) of a picture, scaled to (side, side). Parts keep to whole pixels."""
    x, y, width, height = box
    parts = []
    for part in view.parts:
        (x0, x1), across = _cropped(part.place[::2], part.box[::2], x, width, side)
        (y0, y1), down = _cropped(part.place[1::2], part.box[1::2], y, height, side)
        if x0 < x1 and y0 < y1:
            parts.append(Part(part.photo, (across[0], down[0], across[1], down[1]), (x0, y0, x1, y1)))
    return replace(view, size=(side, side), parts=tuple(parts))


def _cropped(
    place: tuple[int, ...], box: tuple[float, ...], start: int, length: int, side: int
) -> tuple[tuple[int, int], tuple[float, float]]:
    """`crop` along one axis: the new place of a part, and what of the photo it shows."""
    first, last = (min(max(round((edge - start) * side / length), 0), side) for edge in place)
    shares = [(start + edge * length / side - place[0]) / (place[1] - place[0]) for edge in (first, last)]
    low, high = (box[0] + min(max(share, 0.0), 1.0) * (box[1] - box[0]) for share in shares)
    return (first, last), (low, high)
