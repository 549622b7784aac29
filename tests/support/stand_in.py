"""A segmenter that needs no model: it knows the true masks of the example photos and writes them, a row a step.

It has the front door's shape (`stream`, `encode`, calls, `vlm.config`), counts its calls, and can be made to
be slow, so the tests of the app can watch what the app asks of a model and when. On any other photo everything but
the word "nothing" is a block in the middle; its width comes from the phrase, so answers can be distinguished. It is not
sure of "maybe cat", and does not know the word UNKNOWN.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from pycocotools import mask as coco

from t4s import codec
from t4s.errors import QueryError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_QUERY
from t4s.models.checkpoint import CheckpointConfig
from t4s.records import Prediction
from t4s.refine.refiner import refine as refine_grid
from t4s.segmenter.results import refine_again

KNOWN = ("bird", "bus", "car", "cat", "dog", "horse", "person", "toilet")
UNKNOWN = "hrose"  # a word that it was never taught
EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"


@dataclass(frozen=True, eq=False)
class EncodedImage:
    photo: np.ndarray
    nbytes: int = 1_000_000


class StandIn:
    """`pause`: seconds a row. `encoded` and `asked` count what was asked of it."""

    def __init__(self, pause: float = 0.0):
        self.pause, self.encoded, self.asked = pause, 0, 0
        tokenizer = SimpleNamespace(encode=lambda text, add_special_tokens=False: text.split())
        self.vlm = SimpleNamespace(
            config=CheckpointConfig(refiner="smooth", names=KNOWN, positions="cells", bidirectional_prefix=True),
            tokenizer=tokenizer,
        )
        self.truth = _truth()

    @contextmanager
    def slowed(self, pause: float) -> Iterator[None]:
        """Takes `pause` seconds a row, and afterwards as many as before."""
        before, self.pause = self.pause, pause
        try:
            yield
        finally:
            self.pause = before

    def encode(self, image: Any) -> EncodedImage:
        if isinstance(image, EncodedImage):
            return image
        self.encoded += 1
        return EncodedImage(np.asarray(open_photo(image)))

    def __call__(self, image: Any, query: str, refine: str | None = None, decoding: str = "fast") -> Prediction:
        return list(self.stream(image, query, refine, decoding))[-1]

    def classes(
        self, image: Any, names: Sequence[str], refine: str | None = None, decoding: str = "fast"
    ) -> Prediction:
        return list(self.stream(image, tuple(names), refine, decoding))[-1]

    def refine(self, prediction: Prediction, image: Any, refiner: str | None = None) -> Prediction:
        photo = image.photo if isinstance(image, EncodedImage) else np.asarray(open_photo(image))
        return refine_again(prediction, photo, refiner or "smooth")

    def stream(self, image: Any, query: str | Sequence[str], refine: str | None = None, decoding: str = "fast",
               stop: Any = None) -> Iterator[Prediction]:  # fmt: skip
        names = [query] if isinstance(query, str) else list(query)
        if not names or any(not 1 <= len(name.strip()) <= MAX_QUERY for name in names):
            raise QueryError(f"A phrase has 1 to {MAX_QUERY} characters.")
        self.asked += 1
        labels = [codec.clean_label(name) for name in names]
        photo = self.encode(image).photo
        grid = self.grid(photo, labels)
        text = codec.encode(grid)
        rows = text.split("\n")
        for done in range(1, len(rows)):
            time.sleep(self.pause)
            part = "\n".join(rows[:done]) + "\n"
            ended = "complete" if done == len(rows) - 1 else "stopped" if stop and stop() else ""
            yield self.predict(photo, query if isinstance(query, str) else tuple(labels), part, refine, done, ended)
            if ended:
                return

    def predict(
        self, photo: np.ndarray, query: Any, text: str, refiner: str | None, passes: int, ended: str
    ) -> Prediction:
        grid, faults = codec.repair(text, self.vlm.config.grid)
        rows, columns = np.indices(grid.shape)
        confidence = (0.62 + 0.36 * np.abs(np.sin(rows * 1.7 + columns * 0.9))).astype(np.float32)
        refiner = (refiner or "smooth") if ended else "none"
        masks = refine_grid(refiner, photo, grid, confidence if ended else None)
        mask = np.zeros(photo.shape[:2], bool)
        for one in masks.values():
            mask |= one
        target = grid.ids > 0
        ys, xs = np.nonzero(mask)
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1) if len(xs) else None
        score = float(confidence[target].mean() if target.any() else confidence.mean())
        stats = {"tokens": len(text.split()), "forwards": passes, "prefill_seconds": 0.21, "decode_seconds": 0.4,
                 "refine_seconds": 0.02, "ended": ended, "refiner": refiner}  # fmt: skip
        faults = faults if ended else ()
        status = ""
        if query == UNKNOWN:
            status, stats["nearest"] = "unknown word", ["horse"]
        elif all(name.startswith("maybe ") for name in ([query] if isinstance(query, str) else query)):
            status = "unsure"
        present = bool(mask.any())
        return Prediction(query, text, grid, mask, masks, confidence, present, score, box, faults, stats, status)

    def grid(self, photo: np.ndarray, labels: list[str]) -> codec.DescriptorGrid:
        known = self.truth.get(_key(photo))
        shape = self.vlm.config.grid
        classes = np.zeros(photo.shape[:2], np.int32)
        for index, label in enumerate(labels, 1):
            if known is not None:
                classes[known.get(label.removeprefix("maybe "), np.zeros(photo.shape[:2], bool))] = index
            elif label != "nothing":
                height, width = photo.shape[:2]
                classes[height // 4 : height, width // 8 : width // 8 + max(1, width * (1 + len(label) % 6) // 8)] = (
                    index
                )
        return codec.grid_from_classes(classes, dict(enumerate(["others", *labels])), shape)


def _key(photo: np.ndarray) -> str:
    return hashlib.sha256(photo[::16, ::16].tobytes()).hexdigest()


def _truth() -> dict[str, dict[str, np.ndarray]]:
    """{key of a photo: {category: (h, w) bool}}"""
    data = json.loads((EXAMPLES / "instances.json").read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    found: dict[str, dict[str, np.ndarray]] = {}
    for photo in data["images"]:
        height, width = photo["height"], photo["width"]
        masks: dict[str, np.ndarray] = {}
        for each in data["annotations"]:
            if each["image_id"] == photo["id"]:
                shape = each["segmentation"]
                rle = coco.frPyObjects(shape, height, width)
                area = coco.decode(coco.merge(rle) if isinstance(shape, list) else rle).astype(bool)
                name = names[each["category_id"]]
                masks[name] = masks.get(name, np.zeros_like(area)) | area
        found[_key(np.asarray(open_photo(EXAMPLES / photo["file_name"])))] = masks
    return found
