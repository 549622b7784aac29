"""The value of the three panels: a photo, a growing answer, a finished one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from t4s.app.views.parts import part_map
from t4s.app.views.pictures import index_picture
from t4s.app.views.runs import runs
from t4s.app.views.wording import SHOWN_FAULTS, facts, fault_lines, headline, percent, share, suggestions, written_rows
from t4s.codec import OTHERS, DescriptorGrid, Fault
from t4s.imaging import drawing
from t4s.records import Part, Prediction

SHOWN_CHARACTERS = 60_000  # of a pasted text; more make the browser slow


def photo_view(url: str, size: tuple[int, int], shape: tuple[int, int]) -> dict[str, Any]:
    """A photo of `size` (h, w) that nothing was asked about yet, and the empty grid of `shape` over it."""
    grid = DescriptorGrid(np.zeros(shape, int), (OTHERS,))
    return panel_view(grid, "", size, url) | {"written": 0}


def waiting_view(view: dict[str, Any]) -> dict[str, Any]:
    """The view of a photo that the model is reading."""
    return view | {"running": True, "kind": "running", "message": "Reading the photo …", "hint": ""}


def growing_view(prediction: Prediction, url: str, layout: str) -> dict[str, Any]:
    """A prediction that is still being written: no refined mask yet."""
    grid, text = prediction.grid, prediction.text
    rows = written_rows(text, grid.shape)
    view = panel_view(grid, text, prediction.mask.shape, url, layout, prediction.confidence)
    if view["runs"]:
        view["runs"][-1].pop("fault", None)  # half a run is not a fault while it is being written
    return view | {
        "running": True,
        "written": rows * grid.shape[1],
        "kind": "running",
        "message": _progress(prediction, rows),
    }


def _progress(prediction: Prediction, rows: int) -> str:
    """What a growing answer is at: the row; of a class list also the name, if its names are asked one by one."""
    height = prediction.grid.shape[0]
    if isinstance(prediction.query, str):
        return f"Writing row {min(rows + 1, height)} of {height} …"
    return f"Name {len(prediction.query)}: “{prediction.query[-1]}” …"


def finished_view(
    prediction: Prediction, url: str, layout: str, refiner: str, threshold: float = 0.0
) -> dict[str, Any]:
    """A whole answer: text, grid, mask, parts, and what it cost. `threshold`: the confidence below which cells went."""
    kind, message = headline(prediction)
    size, stopped = prediction.mask.shape, kind == "stopped"
    faults = () if stopped else prediction.faults  # the missing rows of a stopped answer are not faults
    found = part_map(prediction)
    view = panel_view(
        prediction.grid,
        prediction.text,
        size,
        url,
        layout,
        prediction.confidence,
        prediction.masks,
        found.numbers,
    )
    return with_marks(view, faults) | {
        "written": written_rows(prediction.text, prediction.grid.shape) * prediction.grid.shape[1]
        if stopped
        else view["written"],
        "kind": kind,
        "message": message,
        "facts": facts(prediction, refiner),
        "count": f"{len(prediction.text)} characters, {prediction.stats.get('tokens', 0)} tokens",
        "faults": fault_lines(faults),
        "parts": _part_list(found.parts, prediction),
        "suggestions": suggestions(prediction),
        "threshold": threshold,
        "hidden": kind in ("unsure", "unknown") and prediction.present,
    }


def _part_list(parts: Sequence[Part], prediction: Prediction) -> list[dict[str, Any]]:
    """The largest parts for the list: index of the label, score in percent, box, share of the photo."""
    labels = prediction.grid.labels
    pixels = prediction.mask.size
    return [
        {
            "label": labels.index(part.label),
            "score": round(100 * part.score),
            "box": list(part.box),
            "area": percent(part.area / pixels),
        }
        for part in parts
    ]


def panel_view(
    grid: DescriptorGrid,
    text: str,
    size: tuple[int, int],
    url: str | None,
    layout: str = "rows",
    confidence: np.ndarray | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
    parts: np.ndarray | None = None,
) -> dict[str, Any]:
    """Every key that the script reads; `size` (h, w): of the photo, at `url`; `parts`: `PartMap.numbers`."""
    height, width = size
    colours = drawing.label_colours(grid)
    areas = masks or {label: grid.label_mask(label) for label in grid.labels[1:]}
    present = [int(label) for label in np.unique(grid.ids) if label and areas[grid.labels[label]].any()]
    return {
        "photo": url,
        "size": [width, height],
        "shape": list(grid.shape),
        "labels": list(grid.labels),
        "colours": [list(colours[label]) for label in grid.labels],
        "ids": grid.ids.ravel().tolist(),
        "confidence": None if confidence is None else np.asarray(confidence, float).round(3).ravel().tolist(),
        "layout": layout,
        "text": text,
        "runs": runs(text[:SHOWN_CHARACTERS], grid.labels, grid.shape, layout),
        "written": grid.ids.size,
        "running": False,
        "mask": None if masks is None else index_picture(masks, grid.labels, size, parts),
        "legend": [{"label": label, "area": share(areas[grid.labels[label]])} for label in present],
        "kind": "",
        "message": "",
        "hint": "Point at cells, runs, pixels; click one.",
        "marks": [],
        "facts": [],
        "count": "",
        "faults": [],
        "parts": [],
        "suggestions": [],
        "threshold": 0.0,
        "hidden": False,
    }


def with_marks(view: dict[str, Any], faults: Sequence[Fault]) -> dict[str, Any]:
    """The view with every fault at its cell and at the run that covers the cell, or ends the row before it."""
    width = view["shape"][1]
    covering = [run for run in view["runs"] if run.get("count")]
    for fault in faults[:SHOWN_FAULTS]:
        cell = fault.row * width + fault.column
        before = [run for run in covering if run["at"] <= cell and run["at"] // width == fault.row]
        if before:
            before[-1]["fault"] = fault.message
        view["marks"].append(cell)
    return view
