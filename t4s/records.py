"""The frozen records that everything passes on: what is asked about a photo, and what was answered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from t4s.codec import DescriptorGrid, Fault, grid_from_classes
from t4s.codec.coverage import cell_areas
from t4s.limits import MAX_PARTS, MIN_PART

IGNORED = -1  # in `Sample.class_map`: a pixel that is neither trained on nor scored

Box = tuple[int, int, int, int]  # (x0, y0, x1, y1) in pixels, x1 and y1 exclusive
Status = Literal["found", "absent", "unsure", "unknown word"]
STATUSES: tuple[str, ...] = get_args(Status)


@dataclass(frozen=True, eq=False)
class Sample:
    """One photo, one question, one true answer: what every data set yields.

    `query` is a phrase, or a tuple of class names (class-list mode). `labels[0]` is always
    "others"; `class_map` (h, w) int16 holds indexes into `labels`, or `IGNORED`. For a phrase
    there is one label besides "others", the phrase itself. `box` is the official box of the data
    set (x0, y0, x1, y1) in pixels, if it has one.
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
        """True if nothing that is asked for is in the photo."""
        return not (self.class_map > 0).any()

    def grid(self, shape: tuple[int, int]) -> DescriptorGrid:
        """The true answer as a grid of `shape` (H, W) cells."""
        return grid_from_classes(self.class_map, dict(enumerate(self.labels)), shape, ignore=(IGNORED,))


@dataclass(frozen=True)
class Part:
    """One connected part of a refined mask.

    label   whose mask it is part of
    score   mean confidence of the cells of this label that it reaches into; of all cells that it reaches
            into, if none of them has the label
    box     (x0, y0, x1, y1) in pixels, x1 and y1 exclusive
    area    in pixels
    inside  which pixels of the box it has, (y1 - y0, x1 - x0) bool
    """

    label: str
    score: float
    box: Box
    area: int
    inside: np.ndarray = field(compare=False, repr=False)


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the model answered. numpy and plain Python only, so it can be pickled. Made by `build_prediction`.

    query       the phrase, or the class names, as they were typed
    text        raw model text between `<seg>` and `</seg>`, as `codec.decode` takes it
    grid        the descriptor grid (H, W); refiners do not change it
    mask        (h, w) bool at the size of the photo: every pixel that is not "others"
    masks       {label: (h, w) bool}, without "others"; one that is alone is `mask` itself
    confidence  (H, W) float32 in [0, 1]: how sure the model is of each cell's label
    present     True if any cell is not "others"
    score       mean confidence of the target's cells; of all cells if it is absent
    box         (x0, y0, x1, y1) in pixels of `mask`, x1 and y1 exclusive, or None
    faults      what was wrong with the text and how it was repaired
    stats       tokens (of the body), forwards (passes after the prefill), prefill_seconds,
                decode_seconds, refine_seconds, …; where they are known: absent, the probability of the
                empty answer; similarity, of the photo's cells to the name; nearest, the taught names that
                an unknown word may have meant; unknown, the untaught names of a class list;
                read_as, {word or phrase: the taught one asked in its place};
                ignored, words of a phrase that the checkpoint was not taught and that were not asked;
                alike, names of a class list that mean the same to it, in groups; either, the things
                that a phrase lists, which are drawn as one
    status      "found", "absent", "unsure" or "unknown word"; by default what `present` says
    asked       what the model was asked for the query: its labels in text, grid and masks; by default the query
    """

    query: str | tuple[str, ...]
    text: str
    grid: DescriptorGrid
    mask: np.ndarray
    masks: dict[str, np.ndarray]
    confidence: np.ndarray
    present: bool
    score: float
    box: Box | None
    faults: tuple[Fault, ...] = ()
    stats: dict[str, Any] = field(default_factory=dict)
    status: str = ""
    asked: str | tuple[str, ...] = ""

    def __post_init__(self) -> None:
        if not self.asked:
            object.__setattr__(self, "asked", self.query)
        if not self.status:
            object.__setattr__(self, "status", "found" if self.present else "absent")

    @cached_property
    def parts(self) -> tuple[Part, ...]:
        """The connected parts of each label's mask, the largest first; pixels that touch at a corner are connected.

        Parts of fewer than `limits.MIN_PART` pixels are left out, unless a label has no larger one, and so are
        those beyond the `limits.MAX_PARTS` largest of a label.
        """
        found = [part for label, mask in self.masks.items() for part in _parts(label, mask, self)]
        return tuple(sorted(found, key=lambda part: -part.area))


@dataclass(frozen=True, eq=False)
class Span:
    """One `<seg>…</seg>` of a free answer, read as a grid.

    start, end  its place in `Answer.text`, tags included: text[start:end]
    text        what is between the tags
    grid        the descriptor grid (H, W) of the checkpoint's size
    mask        (h, w) bool at the size of the photo: every pixel that is not "others"
    masks       {label: (h, w) bool}, without "others"
    box         (x0, y0, x1, y1) in pixels of `mask`, x1 and y1 exclusive, or None
    faults      what was wrong with the text, a missing `</seg>` included, and how it was repaired
    """

    start: int
    end: int
    text: str
    grid: DescriptorGrid
    mask: np.ndarray
    masks: dict[str, np.ndarray]
    box: Box | None
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
        """The faults of all spans, in order."""
        return tuple(fault for span in self.spans for fault in span.faults)


def build_prediction(
    query: str | tuple[str, ...],
    text: str,
    grid: DescriptorGrid,
    masks: dict[str, np.ndarray],
    confidence: np.ndarray,
    size: tuple[int, int],
    faults: tuple[Fault, ...] = (),
    stats: dict[str, Any] | None = None,
    status: Status | None = None,
    asked: str | tuple[str, ...] = "",
) -> Prediction:
    """A Prediction and all that follows from its grid and masks: union mask, box, presence, score and status.

    `size` (h, w) is that of the photo and of every mask; `status` None derives it from the grid; `asked` "": the query.
    """
    mask = union(masks, size)
    target = grid.ids > 0
    present = bool(target.any())
    return Prediction(
        query=query,
        text=text,
        grid=grid,
        mask=mask,
        masks=masks,
        confidence=confidence,
        present=present,
        score=float(confidence[target].mean() if present else confidence.mean()),
        box=box_of(mask),
        faults=faults,
        stats={} if stats is None else stats,
        status=status or "",
        asked=asked,
    )


def box_of(mask: np.ndarray) -> Box | None:
    """(h, w) bool → (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None if it is empty."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def union(masks: Mapping[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: every pixel of any mask; if there is one alone, that very array."""
    if len(masks) == 1:
        return next(iter(masks.values()))
    found = np.zeros(size, bool)
    for mask in masks.values():
        found |= mask
    return found


def _parts(label: str, mask: np.ndarray, prediction: Prediction) -> list[Part]:
    """The connected parts of one label's mask (h, w) bool, the largest first."""
    from scipy import ndimage  # here, as it takes longer to import than the rest of t4s and few need it

    if (box := box_of(mask)) is None:
        return []
    left, top, right, bottom = box
    numbers, count = ndimage.label(mask[top:bottom, left:right], np.ones((3, 3)))  # (h, w) of the box: part, 0 outside
    areas = np.bincount(numbers.ravel(), minlength=count + 1)[1:]
    places = ndimage.find_objects(numbers)
    parts = []
    for index in np.argsort(-areas, kind="stable")[:MAX_PARTS]:
        if areas[index] < MIN_PART and parts:
            break
        rows, columns = places[index]
        x0, y0, x1, y1 = left + columns.start, top + rows.start, left + columns.stop, top + rows.stop
        inside = numbers[rows, columns] == index + 1
        whole = np.zeros(mask.shape, bool)
        whole[y0:y1, x0:x1] = inside
        cells = cell_areas(whole, prediction.grid.shape) > 0
        own = cells & prediction.grid.label_mask(label)
        score = prediction.confidence[own if own.any() else cells].mean()
        parts.append(Part(label, float(score), (x0, y0, x1, y1), int(areas[index]), inside))
    return parts
