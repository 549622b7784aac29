"""Post-processing: a grid and its photo to masks, box and score, however the photo was asked about."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from t4s import codec
from t4s.records import Prediction, build_prediction
from t4s.refine.refiner import disagreement_faults, refine


def refined_prediction(
    query: str | tuple[str, ...],
    text: str,
    grid: codec.DescriptorGrid,
    confidence: np.ndarray,
    photo: np.ndarray,
    refiner: str,
    faults: tuple[codec.Fault, ...] = (),
    stats: dict[str, Any] | None = None,
    *,
    trust_confidence: bool = True,
    asked: str | tuple[str, ...] = "",
) -> Prediction:
    """The grid refined on its photo (h, w, 3) uint8, and all that follows from it.

    An answer under way (`stats["ended"]` is "") is painted cell by cell: no refiner sees it, not even `none`.

    confidence        (H, W) float32 in [0, 1]; with `trust_confidence` the refiner sees it too, else all cells as sure
    faults            of the text; where SAM disagrees with the grid, that is added
    stats             of the text; `refine_seconds` and `refiner` are added
    asked             what the model was asked for the query; "": the query itself
    """
    started, stats = time.perf_counter(), stats or {}
    if stats.get("ended") == "":
        masks = {grid.labels[i]: codec.mask_from_grid(grid, grid.labels[i], photo.shape[:2]) for i in drawn(grid)}
    else:
        masks = refine(refiner, photo, grid, confidence if trust_confidence else None)
        faults += disagreement_faults(refiner, grid, masks)
    stats = {**stats, "refine_seconds": time.perf_counter() - started, "refiner": refiner}
    return build_prediction(query, text, grid, masks, confidence, photo.shape[:2], faults, stats, asked=asked)


def drawn(grid: codec.DescriptorGrid) -> list[int]:
    """The labels that have a cell, "others" left out, as indexes."""
    return [int(index) for index in np.unique(grid.ids) if index]


def refine_again(prediction: Prediction, photo: np.ndarray, refiner: str) -> Prediction:
    """The same grid and text with the masks of another refiner. `photo` (h, w, 3) uint8 is the one that was asked."""
    before = disagreement_faults(prediction.stats.get("refiner", ""), prediction.grid, prediction.masks)
    return refined_prediction(
        prediction.query,
        prediction.text,
        prediction.grid,
        prediction.confidence,
        photo,
        refiner,
        tuple(fault for fault in prediction.faults if fault not in before),
        prediction.stats,
        asked=prediction.asked,
    )
