"""The front door: a photo and a query in, a `Prediction` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s import backbone as backbones
from t4s import codec, decoding
from t4s.backbone import Backbone, Encoded, Format
from t4s.errors import CodecError, QueryError
from t4s.limits import MAX_QUERY
from t4s.photo import open_photo
from t4s.refine import check_refiner, disagreements
from t4s.refine import refine as refine_grid
from t4s.samples import Prediction

Photo = str | Path | Image.Image | np.ndarray | Encoded


class Segmenter:
    """Image and query → `Prediction`. Make one with `from_pretrained`."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, revision: str | None = None, device: str | None = None,
                        dtype: Any = None, quantize: str | None = None) -> Segmenter:  # fmt: skip
        """None = the embedded checkpoint; else a folder or a Hub id (a full model or a LoRA adapter).

        device: "cpu", "cuda", …; dtype: a torch dtype or its name; quantize: "4bit" or "8bit", CUDA only.
        Raises CheckpointError that says what to do.
        """
        return cls(backbones.load(source, revision, device, dtype, quantize))

    def encode(self, image: Photo) -> Encoded:
        """The photo's part of the prompt, run once; give the result instead of the photo to any other method."""
        return image if isinstance(image, Encoded) else self.backbone.encode(open_photo(image))

    def __call__(self, image: Photo, query: str, refine: str | None = None, decoding: str = "fast") -> Prediction:
        """Segments what the phrase means. `refine` None: the checkpoint's own choice."""
        return self._answer(image, query, refine, decoding)

    def classes(self, image: Photo, names: Sequence[str], refine: str | None = None,
                decoding: str = "fast") -> Prediction:  # fmt: skip
        """Open-vocabulary semantic segmentation: each pixel gets one of the names, or "others"."""
        return self._answer(image, tuple(names), refine, decoding)

    def _answer(self, image: Photo, query: str | Sequence[str], refine: str | None, mode: str) -> Prediction:
        steps, answer = self._begin(image, query, refine, mode)
        *_, last = steps
        return answer.prediction(last)

    def stream(self, image: Photo, query: str | Sequence[str], refine: str | None = None, decoding: str = "fast",
               stop: Callable[[], bool] = lambda: False) -> Iterator[Prediction]:  # fmt: skip
        """Predictions that grow as text is accepted; `stop` is asked between passes.

        Partial ones are painted cell by cell, their missing rows are "others" and have confidence 0; the last one
        is refined. `stats["ended"]` is "" until then.
        """
        steps, answer = self._begin(image, query, refine, decoding, stop)
        for step in steps:
            yield answer.prediction(step)

    def _begin(self, image: Photo, query: str | Sequence[str], refine: str | None, mode: str,
               stop: Callable[[], bool] = lambda: False) -> tuple[Iterator[decoding.Step], _Answer]:  # fmt: skip
        """Everything is checked, photo and question go in; → the loop that will write the body."""
        backbone, form, started = self.backbone, self.backbone.format, time.perf_counter()
        asked, labels = check_query(query)
        check_refiner(refine or form.refiner)
        decoding.check(mode, backbone.tokenizer, form.grid, labels, form.layout)
        encoded = self.encode(image)
        writing = backbone.begin(encoded, asked)
        steps = decoding.decode(mode, writing, backbone.tokenizer, form.grid, labels, layout=form.layout,
                                eos=(backbone.tokenizer.eos_token_id,), stop=stop)  # fmt: skip
        began = time.perf_counter()
        return steps, _Answer(encoded.photo, asked, form, refine or form.refiner, began, began - started)


@dataclass(frozen=True)
class _Answer:
    """An answer under way: everything about it but the text."""

    photo: np.ndarray
    query: str | tuple[str, ...]
    format: Format
    refiner: str
    began: float
    prefill_seconds: float

    def prediction(self, step: decoding.Step) -> Prediction:
        """Text so far → grid, masks, box and score. What is not yet written is not a fault."""
        written = time.perf_counter()
        grid, faults = read(step.text, self.format)
        confidence = step.confidence()
        refiner = self.refiner if step.ended else "none"
        started = time.perf_counter()
        masks = refine_grid(refiner, self.photo, grid, confidence if step.ended else None)
        stats = {
            "tokens": len(step.ids), "forwards": step.forwards, "prefill_seconds": self.prefill_seconds,
            "decode_seconds": written - self.began, "refine_seconds": time.perf_counter() - started,
            "ended": step.ended, "refiner": refiner,
        }  # fmt: skip
        if not step.ended:
            faults = ()
        elif refiner.partition(":")[0] == "sam":
            faults += disagreements(grid, masks)
        mask = np.zeros(self.photo.shape[:2], bool)
        for one in masks.values():
            mask |= one
        target = grid.ids > 0
        score = float(confidence[target].mean() if target.any() else confidence.mean())
        return Prediction(self.query, step.text, grid, mask, masks, confidence, bool(target.any()), score, box_of(mask),
                          faults, stats)  # fmt: skip


def read(text: str, format: Format) -> tuple[codec.DescriptorGrid, tuple[codec.Fault, ...]]:
    """The model's text → its grid, and what had to be mended. Layouts other than rows are not mended."""
    if format.layout == "rows":
        return codec.repair(text, format.grid)
    try:
        return codec.decode(text, format.grid, format.layout), ()
    except CodecError as error:
        empty = codec.DescriptorGrid(np.zeros(format.grid, int), ("others",))
        return empty, (codec.Fault(error.row or 0, error.column or 0, f"unreadable, nothing kept: {error.reason}"),)


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(h, w) bool → (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None if it is empty."""
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(xs[0]), int(ys[0]), int(xs[-1]) + 1, int(ys[-1]) + 1) if len(xs) else None


def check_query(query: str | Sequence[str]) -> tuple[str | tuple[str, ...], tuple[str, ...]]:
    """A phrase or class names → (what is asked, labels with "others" first). Raises QueryError."""
    names = [query] if isinstance(query, str) else list(query)
    if not names:
        raise QueryError("The class list is empty: give at least one name.")
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name.strip()) <= MAX_QUERY:
            given = f"{len(name.strip())} characters" if isinstance(name, str) else type(name).__name__
            raise QueryError(f"A phrase has 1 to {MAX_QUERY} characters; this one has {given}.")
    labels = [codec.clean_label(name) for name in names]
    if len(set(labels)) < len(labels):
        twice = sorted({label for label in labels if labels.count(label) > 1})
        raise QueryError(f"The class list names {', '.join(map(repr, twice))} more than once: give each name once.")
    return (labels[0] if isinstance(query, str) else tuple(labels)), ("others", *labels)
