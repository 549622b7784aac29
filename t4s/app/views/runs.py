"""A text cut into runs, each with the cells that it covers. Takes any text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_PIECES = re.compile(r"\n|\||[^\n|]+")


def runs(text: str, labels: Sequence[str], shape: tuple[int, int], layout: str = "rows") -> list[dict[str, Any]]:
    """`text` cut into runs and what stands between them; joined again they are exactly `text`.

    Each is {"text", "label", "at", "count"}: `label` an index into `labels`, `at` the first of its `count` cells
    in reading order. Separators have the label None; so has a piece that is not a run of a known label, and its
    "fault" says so. What is beyond the grid is kept and covers no cell.
    """
    index = {label: i for i, label in enumerate(labels)}
    height, width = shape
    cells, row, column = height * width, 0, 0
    found: list[dict[str, Any]] = []
    for piece in _PIECES.findall(text):
        if piece in ("\n", "|"):
            found.append({"text": piece, "label": None})
            if piece == "\n" and layout != "image":
                row, column = row + 1, 0
            continue
        if not piece.strip():
            found.append({"text": piece, "label": None})
            continue
        label, count = _label_and_count(piece, layout)
        if label not in index or not count:
            found.append({"text": piece, "label": None, "fault": 'This is not a run: a label, " *" and a count.'})
            continue
        at = row * width + column
        if layout == "image":
            room = cells - at
        else:
            room = width - column if row < height else 0
        found.append({"text": piece, "label": index[label], "at": at, "count": max(0, min(count, room))})
        column += count
    return found


def _label_and_count(piece: str, layout: str) -> tuple[str, int]:
    """(label, count) of a run; a count of 0 for what is not a run."""
    if layout == "full":
        return piece.strip(), 1
    label, _, digits = piece.partition("*")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 4):
        return piece, 0
    return label.lstrip(" \t\r\v\f").removesuffix(" "), int(digits)
