"""The connected parts of an answer's masks: which pixels each has, and the answer without some of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from scipy import ndimage

from t4s.records import Prediction, box_of, union

LISTED_PARTS = 24  # the largest parts are listed and can be removed; the others stay as they are


def part_map(prediction: Prediction) -> np.ndarray:
    """(h, w) uint8: 1 + the index in `prediction.parts` of each pixel's part; 0 outside the listed ones."""
    numbered = np.zeros(prediction.mask.shape, np.uint8)
    wanted = {
        (part.label, part.box, part.area): i for i, part in reversed([*enumerate(prediction.parts[:LISTED_PARTS])])
    }
    for label, mask in prediction.masks.items():
        if (box := box_of(mask)) is None:
            continue
        left, top, right, bottom = box
        components, count = ndimage.label(mask[top:bottom, left:right], np.ones((3, 3)))
        areas = np.bincount(components.ravel(), minlength=count + 1)
        for number, (rows, columns) in enumerate(ndimage.find_objects(components), 1):
            place = (left + columns.start, top + rows.start, left + columns.stop, top + rows.stop)
            index = wanted.pop((label, place, int(areas[number])), None)
            if index is not None:
                window = numbered[place[1] : place[3], place[0] : place[2]]
                window[components[rows, columns] == number] = index + 1
    return numbered


def without_parts(prediction: Prediction, removed: Collection[int]) -> Prediction:
    """The prediction without the pixels of `removed`, indexes of `prediction.parts`. Text and grid stay."""
    if not removed:
        return prediction
    kept = ~np.isin(part_map(prediction), [index + 1 for index in removed])
    masks = {label: mask & kept for label, mask in prediction.masks.items()}
    mask = union(masks, prediction.mask.shape)
    return replace(prediction, masks=masks, mask=mask, box=box_of(mask))
