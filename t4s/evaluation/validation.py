"""Evaluation while training goes on: photos answered as a user's would be, scored, and shown on a sheet.

    result = Validation(dataset, photos=32).run(vlm)
    result.line                                  # "cIoU 61.2, gIoU 58.0, N-acc 80.0, valid 97.5 % of 40 (32 photos)"
    result.sheet.save("step-000250.png")

Answers are decoded freely: what the grammar would forbid is what shows how far a model has learnt the format. The
model is left as it was found: modes, gradients, random numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from t4s.data.spec import Dataset
from t4s.errors import QueryError
from t4s.evaluation.scoring import Record, figures, score
from t4s.hub import Figure
from t4s.imaging import drawing
from t4s.models.vlm import VLM
from t4s.records import Prediction, Sample
from t4s.segmenter.segmenter import Segmenter

TILES, COLUMNS = 12, 4  # answers on the sheet; each is two pictures wide
NAMES = {"cIoU": "target_ciou", "gIoU": "giou", "N-acc": "n_accuracy"}


@dataclass(frozen=True)
class Result:
    """One evaluation. `figures`: percent, "valid" the share of texts without a fault; None where nothing was asked."""

    figures: dict[str, float | None]
    answers: int
    photos: int
    sheet: Image.Image

    @property
    def line(self) -> str:
        said = [f"{name} {value:.1f}" for name, value in self.figures.items() if value is not None]
        return f"{', '.join(said)} % of {self.answers} answers about {self.photos} photos"

    def card_figures(self, dataset: str) -> list[Figure]:
        data = f"{dataset}, {self.photos} photos, free decoding"
        return [
            Figure(name, round(value, 2), data, self.answers)
            for name, value in self.figures.items()
            if value is not None
        ]


class Validation:
    """The same photos every time, evenly spaced over the dataset; several processes share them.

    `glance`: one phrase a photo, decoded within the grammar: for the picture, not for figures.
    """

    def __init__(self, dataset: Dataset, photos: int, glance: bool = False):
        count = min(photos, len(dataset))
        self.dataset, self.glance = dataset, glance
        self.photos = [int(n) for n in np.linspace(0, len(dataset) - 1, count).round()]

    def run(self, vlm: VLM, bf16: bool = False, title: str = "") -> Result:
        """Answer everything. `bf16`: run as mixed-precision training does."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        with as_it_was(vlm.model), torch.autocast(vlm.device.type, torch.bfloat16, enabled=bf16):
            vlm.model.eval()
            mine = [part for photo in self.photos[rank::world] for part in self._answered(vlm, photo)]
        if world > 1:
            from accelerate.utils import gather_object

            mine = sorted(gather_object(mine), key=lambda part: part[:2])
        return _result([record for _, _, record, _ in mine], [tile for *_, tile in mine], len(self.photos), title)

    def _answered(self, vlm: VLM, photo: int) -> Iterator[tuple[int, int, Record, Any]]:
        """(photo, question, record, the sheet's pair of pictures) of every phrase; class lists are for eval.py."""
        segmenter, samples = Segmenter(vlm), [s for s in self.dataset[photo] if isinstance(s.query, str)]
        encoded = segmenter.encode(samples[0].image) if samples else None
        for number, sample in enumerate(samples[:1] if self.glance else samples):
            try:
                said, refused = segmenter(encoded, sample.query, decoding="fast" if self.glance else "free"), None
            except QueryError as error:
                said, refused = None, str(error)
            yield photo, number, score(sample, said, refused), _pair(sample, said)


def _result(records: Sequence[Record], tiles: Sequence[Any], photos: int, title: str) -> Result:
    if not records:
        return Result(dict.fromkeys([*NAMES, "valid"]), 0, photos, drawing.sheet([], title=title))
    scores = figures(records)["phrases"]
    found = {name: scores["strict"].get(key) for name, key in NAMES.items()}
    found["valid"] = 100 * (1 - scores["invalid"] / scores["phrases"])
    shown = [tiles[round(n)] for n in np.linspace(0, len(tiles) - 1, min(TILES, len(tiles)))]
    rows = [[tile for pair in shown[at : at + COLUMNS] for tile in pair] for at in range(0, len(shown), COLUMNS)]
    return Result(found, scores["phrases"], photos, drawing.sheet(rows, title=title))


def _pair(sample: Sample, said: Prediction | None) -> list[tuple[str, Image.Image]]:
    """The truth and, beside it, the answer: small, since they travel between processes."""
    pictures = [
        (
            f"{sample.query}{' (absent)' if sample.absent else ''}",
            drawing.overlay(sample.image, {"truth": sample.class_map > 0}),
        )
    ]
    caption = "refused" if said is None else "invalid" if said.faults else "" if said.present else "not there"
    mask = np.zeros(sample.class_map.shape, bool) if said is None else said.mask
    pictures.append((caption, drawing.overlay(sample.image, {"answer": mask})))
    for _, picture in pictures:
        picture.thumbnail((256, 192))
    return pictures


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """Each module's mode and the state of the random numbers are put back, whatever happens inside."""
    modes = {module: module.training for module in model.modules()}
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        try:
            yield
        finally:
            for module, mode in modes.items():
                module.training = mode
            if devices:
                torch.cuda.empty_cache()
