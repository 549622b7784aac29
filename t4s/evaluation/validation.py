"""Evaluation during training: photos answered as a user's would be, scored, and drawn on a sheet.

    result = Validation(dataset, photos=32).run(vlm)
    result.line                                  # "cIoU 61.2, gIoU 58.0, N-acc 80.0, valid 97.5 % of 40 (32 photos)"
    result.sheet.save("step-000250.png")

Decoding is free: what the grammar would forbid shows how far a model has learnt the format. The model is left as it
was: modes, gradients, random state.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from tqdm import tqdm

from t4s.data.spec import Dataset
from t4s.errors import QueryError
from t4s.evaluation.figures import figures
from t4s.evaluation.scoring import Record, score
from t4s.hub import Figure
from t4s.imaging import drawing
from t4s.models.vlm import VLM
from t4s.records import Prediction, Sample
from t4s.segmenter.segmenter import Segmenter

TILES, COLUMNS = 12, 4  # answers on the sheet, answers per row; each is two pictures wide
NAMES = {"cIoU": "target_ciou", "gIoU": "giou", "N-acc": "n_accuracy"}
Tile = list[tuple[str, Image.Image]]  # captions and pictures: the truth, the answer


@dataclass(frozen=True)
class Result:
    """One validation. `figures`: percent, "valid" the share of texts without a fault; None: nothing was queried."""

    figures: dict[str, float | None]
    answers: int
    photos: int
    sheet: Image.Image

    @property
    def line(self) -> str:
        shown = [f"{name} {value:.1f}" for name, value in self.figures.items() if value is not None]
        return f"{', '.join(shown)} % of {self.answers} answers about {self.photos} photos"

    def card_figures(self, dataset: str) -> list[Figure]:
        data = f"{dataset}, {self.photos} photos, free decoding"
        return [
            Figure(name, round(value, 2), data, self.answers)
            for name, value in self.figures.items()
            if value is not None
        ]


class _Answered(NamedTuple):
    """One answer, small enough to travel between processes."""

    photo: int
    number: int  # of the query about this photo
    record: Record
    tile: Tile


class Validation:
    """The same photos every time, evenly spaced over the dataset; several processes share them.

    `glance`: one phrase per photo, decoded within the grammar: for the picture, not for figures.
    """

    def __init__(self, dataset: Dataset, photos: int, glance: bool = False):
        count = min(photos, len(dataset))
        self.dataset = dataset
        self.glance = glance
        self.photos = [int(n) for n in np.linspace(0, len(dataset) - 1, count).round()]

    def run(self, vlm: VLM, bf16: bool = False, title: str = "") -> Result:
        """Answer everything, with a progress bar. `bf16`: run as mixed-precision training does."""
        rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        mine = tqdm(self.photos[rank::world], desc="validation", unit="photo", disable=rank > 0, leave=False)
        with restored(vlm.model), torch.autocast(vlm.device.type, torch.bfloat16, enabled=bf16):
            vlm.model.eval()
            answers = [answer for photo in mine for answer in self._answers(vlm, photo)]
        if world > 1:
            from accelerate.utils import gather_object

            answers = sorted(gather_object(answers), key=lambda answer: answer[:2])
        return _result(answers, len(self.photos), title)

    def _answers(self, vlm: VLM, photo: int) -> Iterator[_Answered]:
        """The answer to every phrase about a photo; class lists are left to eval.py."""
        segmenter = Segmenter(vlm)
        samples = [sample for sample in self.dataset[photo] if isinstance(sample.query, str)]
        encoded = segmenter.encode(samples[0].image) if samples else None
        for number, sample in enumerate(samples[:1] if self.glance else samples):
            prediction, refused = None, None
            try:
                prediction = segmenter(encoded, sample.query, decoding="fast" if self.glance else "free")
            except QueryError as error:
                refused = str(error)
            yield _Answered(photo, number, score(sample, prediction, refused), _tile(sample, prediction))


def _result(answers: Sequence[_Answered], photos: int, title: str) -> Result:
    if not answers:
        return Result(dict.fromkeys([*NAMES, "valid"]), 0, photos, drawing.sheet([], title=title))
    scores = figures(answer.record for answer in answers)["phrases"]
    shown = {name: scores["strict"].get(key) for name, key in NAMES.items()}
    shown["valid"] = 100 * (1 - scores["invalid"] / scores["phrases"])
    picked = np.linspace(0, len(answers) - 1, min(TILES, len(answers))).round().astype(int)
    tiles = [answers[n].tile for n in picked]
    rows = [[picture for tile in tiles[at : at + COLUMNS] for picture in tile] for at in range(0, len(tiles), COLUMNS)]
    return Result(shown, scores["phrases"], photos, drawing.sheet(rows, title=title))


def _tile(sample: Sample, prediction: Prediction | None) -> Tile:
    """The truth and, beside it, the answer."""
    truth = f"{sample.query} (absent)" if sample.absent else str(sample.query)
    mask = np.zeros(sample.class_map.shape, bool) if prediction is None else prediction.mask
    pictures = [
        (truth, drawing.overlay(sample.image, {"truth": sample.class_map > 0})),
        (_verdict(prediction), drawing.overlay(sample.image, {"answer": mask})),
    ]
    for _, picture in pictures:
        picture.thumbnail((256, 192))
    return pictures


def _verdict(prediction: Prediction | None) -> str:
    if prediction is None:
        return "refused"
    if prediction.faults:
        return "invalid"
    return "" if prediction.present else "not there"


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore each module's mode and the random state, whatever happens inside."""
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
