"""The connected parts of an answer's masks: a list, which pixels each has, and the answer without some of them.

They are found in the mask as the page shows it, at most PARTS_SIDE pixels a side, so that a large photo costs no more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from t4s.limits import MIN_PART
from t4s.records import Part, Prediction, box_of, union

LISTED_PARTS = 24  # the largest parts are listed and can be taken out; the others stay as they are, but for specks
PARTS_SIDE = 768  # pixels of the longest side


@dataclass(frozen=True, eq=False)
class PartMap:
    """The listed parts, with boxes and areas in the photo's pixels, and where they are.

    parts          `Part.inside` is in the pixels of `numbers`
    numbers        (h, w) uint8: 1 + the index in `parts`; 0 outside the listed ones. Specks, which are too small to be
                   listed, have the number of the nearest part with their label
    rows, columns  which of the photo's pixels those of `numbers` are
    """

    parts: tuple[Part, ...]
    numbers: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def part_map(prediction: Prediction) -> PartMap:
    """The parts of the answer's masks, the largest first."""
    height, width = prediction.mask.shape
    scale = min(1.0, PARTS_SIDE / max(height, width))
    rows, columns = (sampled(side, max(1, round(side * scale))) for side in (height, width))
    masks = {label: mask[rows][:, columns] for label, mask in prediction.masks.items()}
    small = replace(prediction, masks=masks, mask=union(masks, (len(rows), len(columns))))
    listed = small.parts[:LISTED_PARTS]
    numbers = np.zeros((len(rows), len(columns)), np.uint8)
    down, across = height / len(rows), width / len(columns)
    parts = []
    for index, part in enumerate(listed):
        x0, y0, x1, y1 = part.box
        numbers[y0:y1, x0:x1][part.inside] = index + 1
        box = (round(x0 * across), round(y0 * down), round(x1 * across), round(y1 * down))
        parts.append(replace(part, box=box, area=round(part.area * down * across)))
    for label, mask in masks.items():
        components, areas = _components(mask)
        specks = mask & (numbers == 0) & (areas < MIN_PART)[components]
        if specks.any():
            numbers[specks] = _nearest(numbers, parts, label)[specks]
    return PartMap(tuple(parts), numbers, rows, columns)


def _components(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) bool → the number of each pixel's connected part, from 1, 0 outside; and the parts' areas, by number."""
    components, count = ndimage.label(mask, np.ones((3, 3)))
    return components, np.bincount(components.ravel(), minlength=count + 1)


def _nearest(numbers: np.ndarray, parts: Sequence[Part], label: str) -> np.ndarray:
    """(h, w): the number of the nearest part with this label; 0 if there is none."""
    own = np.isin(numbers, [index + 1 for index, part in enumerate(parts) if part.label == label])
    if not own.any():
        return np.zeros_like(numbers)
    return numbers[tuple(ndimage.distance_transform_edt(~own, return_distances=False, return_indices=True))]


def without_parts(prediction: Prediction, removed: Collection[int]) -> Prediction:
    """The prediction without the listed parts of these indexes. Text and grid stay."""
    if not removed:
        return prediction
    found = part_map(prediction)
    gone = [index + 1 for index in removed]
    height, width = prediction.mask.shape
    row = np.arange(height) * len(found.rows) // height  # of each of the photo's pixels, the one of `numbers`
    column = np.arange(width) * len(found.columns) // width
    masks = {}
    for label, mask in prediction.masks.items():
        components, areas = _components(mask)
        every, here = np.arange(len(areas)), components[found.rows][:, found.columns]
        dropped = np.isin(every, here[np.isin(found.numbers, gone)])
        between = ~np.isin(every, here)  # of a photo larger than the map: specks between the pixels that it has
        if between.any():
            near = np.isin(_nearest(found.numbers, found.parts, label), gone)[row][:, column]
            dropped |= between & (np.bincount(components[near], minlength=len(areas)) > 0)
        masks[label] = mask & ~dropped[components]
    mask = union(masks, prediction.mask.shape)
    return replace(prediction, masks=masks, mask=mask, box=box_of(mask))


def sampled(pixels: int, wanted: int) -> np.ndarray:
    """(wanted,) int: which of `pixels` pixels the centres of `wanted` larger ones fall on."""
    return ((np.arange(wanted) + 0.5) * pixels / wanted).astype(int)
