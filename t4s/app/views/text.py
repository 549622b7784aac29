"""A pasted text, and a mask file, as grid and text: the tab Text ↔ mask and the endpoints beside it. Needs no model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from t4s import codec
from t4s.app.views.panels import panel_view, with_marks
from t4s.app.views.wording import fault_lines
from t4s.codec import OTHERS, DescriptorGrid, Fault
from t4s.errors import CodecError, QueryError
from t4s.imaging import export
from t4s.imaging.masks import read_mask
from t4s.limits import MAX_TEXT

_SEPARATOR = re.compile(r"[,;|\n\t，、；]")


def text_view(
    grid: DescriptorGrid,
    text: str,
    layout: str,
    faults: Sequence[Fault],
    note: str,
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """A pasted or encoded text and its grid, without a photo. `size` (h, w) gives the picture's proportions."""
    size = size or (grid.shape[0] * 24, grid.shape[1] * 24)
    cells = {label: codec.mask_from_grid(grid, label, grid.shape) for label in grid.labels[1:]}
    view = panel_view(grid, text, size, None, layout, None, cells)
    return with_marks(view, faults) | {
        "kind": "fault" if faults else "done",
        "message": note,
        "faults": fault_lines(faults),
        "count": f"{len(text):,} characters",
    }


def read_text(text: str, shape: tuple[int, int], layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pasted text → (view, plain JSON). A faulty text is a result and not an error; only `rows` is repaired.

    Raises QueryError for a text beyond MAX_TEXT, CodecError for a shape or layout that does not exist.
    """
    if len(text) > MAX_TEXT:
        raise QueryError(f"The text has {len(text):,} characters; at most {MAX_TEXT:,} are read, so paste less.")
    outcome = "repaired as listed below"
    text, unindented = _with_leading_spaces(text) if layout == "rows" else (text, ())
    if layout == "rows":
        grid, faults = codec.repair(text, shape)
        faults = (*unindented, *faults)
    else:
        outcome = f"and the {layout} layout is not repaired"
        try:
            grid, faults = codec.decode(text, shape, layout), ()
        except CodecError as problem:
            if problem.row is None:
                raise  # the shape or the layout, not the text
            grid = DescriptorGrid(np.zeros(shape, int), (OTHERS,))
            faults = (Fault(problem.row, problem.column or 0, problem.reason),)
    note = f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}, {outcome}." if faults else "Valid."
    answer = export.grid_dict(grid) | {"valid": not faults, "faults": [asdict(fault) for fault in faults]}
    return text_view(grid, text, layout, faults, note), answer


def _with_leading_spaces(text: str) -> tuple[str, tuple[Fault, ...]]:
    """Every row after the first with the one space that it begins with; one fault if rows lacked it."""
    first, *rest = text.replace("\r\n", "\n").split("\n")
    rows = [f" {row}" if row and row[0] != " " else row for row in rest]
    if rows == rest:
        return text, ()
    fault = Fault(1, 0, "rows after the first begin with a space; the spaces were added")
    return "\n".join([first, *rows]), (fault,)


def sample_view(text: str) -> dict[str, Any]:
    """What the panels show before there is a photo: a drawing, as an example of an answer."""
    return read_text(text, (16, 16), "rows")[0] | {
        "sample": True,
        "kind": "sample",
        "message": "Choose a photo and say what to find.",
        "hint": "A drawing; point at its cells.",
        "count": "This is how a mask is written.",
    }


def write_text(
    tokenizer: Any, path: str, labels: str, shape: tuple[int, int], layout: str
) -> tuple[dict[str, Any], DescriptorGrid]:
    """A mask file → (view, grid).

    `labels`: one name for each class of the file, comma-separated, in the order of their values. The view's facts
    compare the layouts in characters and in the tokens of `tokenizer` (None: on a server).
    """
    mask = read_mask(path)
    given = names(labels)
    named = {value: given[i] if i < len(given) else f"class {i + 1}" for i, value in enumerate(mask.values)}
    grid = codec.grid_from_classes(mask.classes, {0: OTHERS} | named, shape)
    sizes = []
    for name in codec.LAYOUTS:
        body = codec.encode(grid, name)
        size = f"{len(body):,} characters"
        if tokenizer is not None:
            size += f", {len(tokenizer.encode(body, add_special_tokens=False)):,} tokens"
        sizes.append((name, size))
    note = f"{shape[0]}×{shape[1]} cells as text, in the {layout} layout. {mask.note}".strip()
    return text_view(grid, codec.encode(grid, layout), layout, (), note, mask.classes.shape) | {"facts": sizes}, grid


def names(text: str) -> list[str]:
    """A class list as people write it, between commas, semicolons, bars or line breaks; each name once."""
    return list(dict.fromkeys(name.strip() for name in _SEPARATOR.split(text) if name.strip()))
