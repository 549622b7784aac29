"""The frozen records that flow through: what is asked of a photo, and what was answered."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from t4s.codec import DescriptorGrid, Fault, grid_from_classes

IGNORED = -1  # in `Sample.class_map`: a pixel that is neither trained on nor scored


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo, one question, one true answer: what every dataset yields.

    `query` is a phrase, or a tuple of class names (class-list mode). `labels[0]` is always
    "others"; `class_map` (h, w) int16 holds indexes into `labels`, or `IGNORED`. For a phrase
    there is one label besides "others", the phrase itself. `box` is the data set's official
    box (x0, y0, x1, y1) in pixels, where it has one.
    """

    id: str
    source: str
    image: Image.Image
    query: str | tuple[str, ...]
    labels: tuple[str, ...]
    class_map: np.ndarray
    box: tuple[float, float, float, float] | None = None

    @property
    def absent(self) -> bool:
        """True if nothing of what is asked for is in the photo."""
        return not (self.class_map > 0).any()

    def grid(self, shape: tuple[int, int]) -> DescriptorGrid:
        """The true answer as a grid of `shape` (H, W) cells."""
        return grid_from_classes(self.class_map, dict(enumerate(self.labels)), shape, ignore=(IGNORED,))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model answered. numpy and plain Python only, so it pickles.

    text        raw model text between `<seg>` and `</seg>`, as `codec.decode` takes it
    grid        the descriptor grid (H, W), untouched by any refiner
    mask        (h, w) bool at the photo's size: every pixel that is not "others"
    masks       {label: (h, w) bool}, "others" left out
    confidence  (H, W) float32 in [0, 1]: how sure the model is of each cell's label
    present     True if any cell is not "others"
    score       mean confidence of the target's cells; of all cells when absent
    box         (x0, y0, x1, y1) in pixels of `mask`, x1 and y1 exclusive, or None
    faults      what was wrong with the text and how it was mended
    stats       tokens (of the body), forwards (passes after the prefill), prefill_seconds,
                decode_seconds, refine_seconds, …; absent: the probability of the empty answer, where the checkpoint
                has it weighed (`no_target_threshold` in its t4s.json)
    """

    query: str | tuple[str, ...]
    text: str
    grid: DescriptorGrid
    mask: np.ndarray
    masks: dict[str, np.ndarray]
    confidence: np.ndarray
    present: bool
    score: float
    box: tuple[int, int, int, int] | None
    faults: tuple[Fault, ...] = ()
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Span:
    """One `<seg>…</seg>` of a free answer, read as a grid.

    start, end  where in `Answer.text` it is, marks included: text[start:end]
    text        what stands between the marks
    grid        the descriptor grid (H, W) of the checkpoint's size
    mask        (h, w) bool at the photo's size: every pixel that is not "others"
    masks       {label: (h, w) bool}, "others" left out
    box         (x0, y0, x1, y1) in pixels of `mask`, x1 and y1 exclusive, or None
    faults      what was wrong with the text, a missing `</seg>` included, and how it was mended
    """

    start: int
    end: int
    text: str
    grid: DescriptorGrid
    mask: np.ndarray
    masks: dict[str, np.ndarray]
    box: tuple[int, int, int, int] | None
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, eq=False)
class Answer:
    """A free answer to a question about a photo: its text, and every grid in it. numpy and plain Python only.

    stats  tokens, forwards (passes after the prefill), prefill_seconds, decode_seconds, refine_seconds, and ended:
           "complete", or "truncated" at the limit
    """

    question: str
    text: str
    spans: tuple[Span, ...]
    stats: dict[str, Any] = field(default_factory=dict)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Those of all spans, in order."""
        return tuple(fault for span in self.spans for fault in span.faults)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(h, w) bool → (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None if it is empty."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1) if len(xs) else None


def build_prediction(
    query: str | tuple[str, ...],
    text: str,
    grid: DescriptorGrid,
    masks: dict[str, np.ndarray],
    confidence: np.ndarray,
    size: tuple[int, int],
    faults: tuple[Fault, ...],
    stats: dict[str, Any],
) -> Prediction:
    """A Prediction with what follows from the rest of it: mask, box, presence and score."""
    mask, target = union(masks, size), grid.ids > 0
    score = float(confidence[target].mean() if target.any() else confidence.mean())
    return Prediction(
        query, text, grid, mask, masks, confidence, bool(target.any()), score, box_of(mask), faults, stats
    )


def union(masks: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: every pixel of any mask."""
    mask = np.zeros(size, bool)
    for one in masks.values():
        mask |= one
    return mask
