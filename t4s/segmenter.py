"""The front door: a photo and a query in, a `Prediction` out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s import backbone as backbones
from t4s import codec, decoding
from t4s.backbone import Backbone, Encoded
from t4s.errors import QueryError
from t4s.limits import MAX_QUERY
from t4s.photo import open_photo
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
        return self._last(self.stream(image, query, refine, decoding))

    def classes(self, image: Photo, names: Sequence[str], refine: str | None = None,
                decoding: str = "fast") -> Prediction:  # fmt: skip
        """Open-vocabulary semantic segmentation: each pixel gets one of the names, or "others"."""
        return self._last(self.stream(image, tuple(names), refine, decoding))

    @staticmethod
    def _last(predictions: Iterator[Prediction]) -> Prediction:
        for prediction in predictions:  # noqa: B007
            pass
        return prediction

    def stream(self, image: Photo, query: str | Sequence[str], refine: str | None = None, decoding: str = "fast",
               stop: Callable[[], bool] = lambda: False) -> Iterator[Prediction]:  # fmt: skip
        """Predictions that grow as text is accepted; only the last one is refined. `stop` is asked between passes."""
        query, labels = check_query(query)
        started = time.perf_counter()
        encoded = self.encode(image)
        writing = self.backbone.begin(encoded, query)
        prefilled = time.perf_counter()
        form = self.backbone.format
        steps = decode_body(decoding, self.backbone, writing, labels, stop)
        for step in steps:
            stats = {"tokens": len(step.ids), "forwards": step.forwards, "prefill_seconds": prefilled - started,
                     "decode_seconds": time.perf_counter() - prefilled, "refine_seconds": 0.0, "ended": step.ended}  # fmt: skip
            name = (refine or form.refiner) if step.ended else "none"
            yield predict(encoded.photo, query, labels, step.text, form.grid, form.layout, name, stats)


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


def decode_body(mode: str, backbone: Backbone, writing, labels: tuple[str, ...], stop: Callable[[], bool]):
    form = backbone.format
    return decoding.decode(mode, writing, backbone.tokenizer, form.grid, labels, layout=form.layout,
                           eos=(backbone.tokenizer.eos_token_id,), stop=stop)  # fmt: skip


def predict(photo: np.ndarray, query: str | tuple[str, ...], labels: tuple[str, ...], text: str, shape: tuple[int, int],
            layout: str, refiner: str, stats: dict[str, Any]) -> Prediction:  # fmt: skip
    """The model's text → grid, masks, box and score."""
    grid, faults = codec.repair(text, shape)
    started = time.perf_counter()
    masks = refine_grid(refiner, photo, grid)
    stats["refine_seconds"] = time.perf_counter() - started
    mask = np.zeros(photo.shape[:2], bool)
    for one in masks.values():
        mask |= one
    confidence = np.ones(shape, np.float32)
    present = bool(mask.any())
    ys, xs = np.nonzero(mask)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) if present else None
    target = grid.ids > 0
    score = float(confidence[target].mean() if target.any() else confidence.mean())
    return Prediction(query, text, grid, mask, masks, confidence, present, score, box, faults, stats)
