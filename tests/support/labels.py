"""A stand-in for a segmenter in bulk labelling: instant answers that depend on the photo and nothing else."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from PIL import Image

from t4s import codec
from t4s.imaging.loading import open_photo
from t4s.records import Prediction, build_prediction


class StandIn:
    """Answers "dog" in a block that depends on the photo; `refuse` may raise for a photo's sum of pixels."""

    def __init__(self, refuse: Callable[[int], None] = lambda number: None):
        self.refuse, self.asked = refuse, 0
        self._lock = threading.Lock()

    def encode(self, image: Image.Image) -> np.ndarray:
        return np.asarray(open_photo(image))

    def __call__(self, photo: np.ndarray, query: str, refine: str | None, decoding: str) -> Prediction:
        with self._lock:
            self.asked += 1
        number = int(photo.sum())
        self.refuse(number)
        mask = np.zeros(photo.shape[:2], bool)
        mask[: 1 + number % photo.shape[0]] = True
        grid = codec.grid_from_mask(mask, query, (4, 4))
        sure = np.full((4, 4), 0.5, np.float32)
        return build_prediction(query, codec.encode(grid), grid, {query: mask}, sure, mask.shape)

    def classes(self, photo: np.ndarray, names: tuple[str, ...], refine: str | None, decoding: str,
                classes_per_query: int | None) -> Prediction:  # fmt: skip
        first = self(photo, names[0], refine, decoding)
        return build_prediction(names, first.text, first.grid, first.masks, first.confidence, first.mask.shape)
