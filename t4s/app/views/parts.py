"""The connected parts of an answer's masks: a list, which pixels each has, and the answer without some of them.

They are found in the mask as the page shows it, at most PARTS_SIDE pixels a side, so that a large photo costs no more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from t4s.records import Part, Prediction, box_of, union

LISTED_PARTS = 24  # the largest parts are listed and can be taken out; the others stay as they are
PARTS_SIDE = 768  # pixels of the longest side


@dataclass(frozen=True, eq=False)
class PartMap:
    """The listed parts, with boxes and areas in the photo's pixels, and where they are.

    parts          `Part.inside` is in the pixels of `numbers`
    numbers        (h, w) uint8: 1 + the index in `parts`; 0 outside the listed ones
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
    return PartMap(tuple(parts), numbers, rows, columns)


def without_parts(prediction: Prediction, removed: Collection[int]) -> Prediction:
    """The prediction without the listed parts of these indexes. Text and grid stay."""
    if not removed:
        return prediction
    found = part_map(prediction)
    gone = np.isin(found.numbers, [index + 1 for index in removed])
    masks = {}
    for label, mask in prediction.masks.items():
        components, count = ndimage.label(mask, np.ones((3, 3)))
        dropped = np.zeros(count + 1, bool)
        dropped[np.unique(components[found.rows][:, found.columns][gone])] = True
        masks[label] = mask & ~dropped[components]
    mask = union(masks, prediction.mask.shape)
    return replace(prediction, masks=masks, mask=mask, box=box_of(mask))


def sampled(pixels: int, wanted: int) -> np.ndarray:
    """(wanted,) int: which of `pixels` pixels the centres of `wanted` larger ones fall on."""
    return ((np.arange(wanted) + 0.5) * pixels / wanted).astype(int)
