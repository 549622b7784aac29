"""COCO segmentations part by part: what can be used of an annotation, and what is wrong with the rest.

A polygon that draws nothing is usually a slip: a click of two points, coordinates from 0 to 1, or an outline that was
drawn on a photo of another size. It must not make the object *absent*.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from t4s.errors import DataError
from t4s.imaging.masks import annotation_mask

MARGIN = 2  # pixels that an outline may leave the photo by: tools round differently
SURE = 2.0  # pixels: a polygon whose box is this wide and high inside the photo, and its area as large, draws something


def usable_mask(segmentation: Any, height: int, width: int) -> tuple[np.ndarray, list[str]]:
    """What an annotation draws, as a mask (height, width) bool, and for each part that draws nothing, why."""
    mask = np.zeros((height, width), bool)
    faults = []
    for part in _parts(segmentation):
        try:
            drawn = annotation_mask(part, height, width)
        except DataError as error:
            faults.append(str(error))
            continue
        if drawn.any():
            mask |= drawn
        else:
            faults.append(_why_nothing(part, height, width))
    return mask, faults


def stray_faults(segmentation: Any, height: int, width: int) -> list[str]:
    """Polygons that reach beyond the photo by more than MARGIN pixels: drawn on a photo of another size, perhaps."""
    faults = []
    for part in _parts(segmentation):
        points = _points(part)
        if points is None:
            continue
        low = points.min(axis=0)
        high = points.max(axis=0)
        if low.min() < -MARGIN or high[0] > width + MARGIN or high[1] > height + MARGIN:
            faults.append(
                f"A polygon reaches from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}), outside its photo of "
                f"{width}×{height} pixels; was the photo resized?"
            )
    return faults


def surely_draws(segmentation: Any, height: int, width: int) -> bool:
    """True if an annotation certainly covers a pixel: a quick test that decodes nothing. False means: decode it."""
    for part in _parts(segmentation):
        points = _points(part)
        if points is None:
            continue
        inside = points.min() >= 0 and points[:, 0].max() <= width and points[:, 1].max() <= height
        extent = np.ptp(points, axis=0)
        following = np.roll(points, -1, axis=0)
        area = abs((points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]).sum()) / 2
        if inside and extent.min() >= SURE and area >= SURE * SURE:
            return True
    return False


def _parts(segmentation: Any) -> list[Any]:
    """Each polygon as a segmentation of its own; anything else as it is."""
    if isinstance(segmentation, list) and segmentation and all(isinstance(part, list) for part in segmentation):
        return [[part] for part in segmentation]
    return [segmentation]


def _points(part: Any) -> np.ndarray | None:
    """The points (n, 2) of a single valid polygon, else None."""
    if not isinstance(part, list) or len(part) != 1 or not isinstance(part[0], list):
        return None
    numbers = part[0]
    if len(numbers) < 6 or len(numbers) % 2:
        return None
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in numbers):
        return None
    return np.array(numbers, float).reshape(-1, 2)


def _why_nothing(part: Any, height: int, width: int) -> str:
    points = _points(part)
    if points is None:
        return "Its run lengths are all background."
    low = points.min(axis=0)
    high = points.max(axis=0)
    if low.min() >= 0 and high.max() <= 1:
        return "Its coordinates lie between 0 and 1; COCO's are in pixels, so multiply them by width and height."
    if high[0] <= 0 or high[1] <= 0 or low[0] >= width or low[1] >= height:
        return (
            f"Its polygon from ({low[0]:g}, {low[1]:g}) to ({high[0]:g}, {high[1]:g}) lies outside its photo of "
            f"{width}×{height} pixels."
        )
    return "Its polygon is too thin to cover the centre of a pixel."
