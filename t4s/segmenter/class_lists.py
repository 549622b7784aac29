"""Class lists longer than a model takes at once: asked in parts, and merged by confidence.

Cell by cell: of all parts that give a cell a name, the most confident one wins (the first of equals), whatever the
confidence of parts that call it "others", since they were not asked for that name. A cell is "others" only if every
part says so, with the lowest of their confidences. A single part stays as it is, and names of different parts never
share a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from t4s import codec
from t4s.codec import OTHERS, DescriptorGrid
from t4s.records import Prediction
from t4s.segmenter.results import refined_prediction

# A label map has far fewer runs than the longest text there could be, in which every cell is one: the 417 photos that
# the embedded checkpoint is measured on have at most a third as many, with all their classes. Room is kept for half.
DENSEST = 0.5


def parts(names: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> list[tuple[str, ...]]:
    """The names in their order, in as few parts of nearly equal size as `fits` takes; single names if none does."""
    for count in range(1, len(names)):
        bounds = [round(k * len(names) / count) for k in range(count + 1)]
        split = [tuple(names[a:b]) for a, b in zip(bounds, bounds[1:], strict=False)]
        if all(map(fits, split)):
            return split
    return [(name,) for name in names]


def merge(grids: Sequence[DescriptorGrid], confidences: Sequence[np.ndarray]) -> tuple[DescriptorGrid, np.ndarray]:
    """One grid (H, W) and its confidence (H, W) float32 from those of the parts; the module docstring has the rule."""
    labels = (OTHERS, *dict.fromkeys(label for grid in grids for label in grid.labels if label != OTHERS))
    index = {label: k for k, label in enumerate(labels)}
    ids = np.stack([np.array([index[label] for label in grid.labels])[grid.ids] for grid in grids])
    sure = np.stack(list(confidences)).astype(np.float32)
    named = ids > 0
    winner = np.where(named, sure, -1).argmax(0)[None]  # argmax takes the first of equals
    some = named.any(0)
    cells = np.where(some, np.take_along_axis(ids, winner, 0)[0], 0)
    least = np.where(named, np.inf, sure).min(0)
    return DescriptorGrid(cells, labels), np.where(some, np.take_along_axis(sure, winner, 0)[0], least)


def merge_predictions(photo: np.ndarray, answers: Sequence[Prediction], refiner: str, seconds: float) -> Prediction:
    """The answers to the parts of a class list as one, refined once. `seconds`: what the photo took.

    A fault names its part; `stats` has the sums, `parts`, and `invalid_parts`: those whose own text was not valid.
    """
    grid, confidence = merge([answer.grid for answer in answers], [answer.confidence for answer in answers])
    endings = [answer.stats["ended"] for answer in answers]
    invalid = [answer.faults or not set(answer.grid.labels[1:]) <= set(answer.asked) for answer in answers]
    faults = tuple(
        replace(fault, message=f"part {number} of the list: {fault.message}")
        for number, answer in enumerate(answers, 1)
        for fault in answer.faults
    )
    stats = {
        name: sum(answer.stats[name] for answer in answers)
        for name in ("tokens", "forwards", "prefill_seconds", "decode_seconds")
    }
    stats |= {
        "prefill_seconds": stats["prefill_seconds"] + seconds,
        "ended": next((ending for ending in endings if ending != "complete"), "complete"),
        "parts": len(answers),
        "invalid_parts": sum(map(bool, invalid)),
    }
    if not all(answer.stats.get("probabilities", True) for answer in answers):
        stats["probabilities"] = False
    return refined_prediction(
        tuple(name for answer in answers for name in answer.query),
        codec.encode(grid),
        grid,
        confidence,
        photo,
        refiner,
        faults,
        stats,
        trust_confidence=all(endings),
        asked=tuple(name for answer in answers for name in answer.asked),
    )
