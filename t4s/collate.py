"""Samples → a training batch: token ids, labels on the answers alone, positions, and a block mask.

All questions about one photo share its image tokens: a row of the batch is

    [prefix with the photo] [question 1, answer 1] [question 2, answer 2] …

and the block mask lets each question see the prefix and itself, not the other questions. Positions of every question
start where the prefix ends, so a row of several is worth the same as several rows of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from t4s import codec
from t4s.augment import augment
from t4s.backbone import Backbone
from t4s.corpora import Mixture
from t4s.errors import DataError
from t4s.samples import Sample

IGNORE = -100  # a label that the loss leaves out
MULTIPLE = 16  # rows are padded to a multiple of this


@dataclass(frozen=True)
class Row:
    """One photo with its questions. `segments`: 0 for the prefix, then the question's number."""

    inputs: dict[str, torch.Tensor]
    ids: list[int]
    labels: list[int]
    positions: list[int]
    segments: list[int]


def row(backbone: Backbone, samples: Sequence[Sample]) -> Row:
    """The samples of one photo → a row. DataError if it is longer than the model's context."""
    form = backbone.format
    inputs, ids = backbone.look(samples[0].image)
    start, labels, segments = len(ids), [IGNORE] * len(ids), [0] * len(ids)
    positions = backbone.prefix_positions(ids)
    for number, sample in enumerate(samples, 1):
        suffix = backbone.suffix(backbone.question(sample.query))
        answer = sum(backbone.answer_ids(codec.encode(sample.grid(form.grid), form.layout)), [])
        ids = ids + suffix + answer
        labels += [IGNORE] * len(suffix) + answer
        positions = positions + backbone.suffix_positions(len(suffix), start)
        positions = positions + backbone.answer_positions(answer, start + len(suffix))
        segments += [number] * (len(suffix) + len(answer))
    context = getattr(backbone.model.config.get_text_config(), "max_position_embeddings", None)
    if context and max(positions) >= context:
        raise DataError(f"{samples[0].id}: its question and answer take {len(ids)} tokens, the model's context is "
                        f"{context}: use a smaller --grid or fewer --queries-per-image.")  # fmt: skip
    return Row(inputs, ids, labels, positions, segments)


def batch(rows: Sequence[Row], pad: int) -> dict[str, torch.Tensor]:
    """Rows → `input_ids`, `labels`, `position_ids` (B, T), `attention_mask` (B, 1, T, T) bool, and the photos."""
    length = -(-max(len(r.ids) for r in rows) // MULTIPLE) * MULTIPLE

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([getattr(r, name) + [value] * (length - len(r.ids)) for r in rows])

    segments = padded("segments", -1)
    same = segments[:, :, None] == segments[:, None, :]
    mask = (same | (segments == 0)[:, None, :]) & torch.ones(length, length, dtype=torch.bool).tril()
    photos = {name: torch.cat([r.inputs[name] for r in rows]) for name in rows[0].inputs}
    return {
        "input_ids": padded("ids", pad), "labels": padded("labels", IGNORE), "position_ids": padded("positions", 0),
        "attention_mask": mask[:, None], **photos,
    }  # fmt: skip


class Collator:
    """Draws, augments and lays out: a list of draw numbers → a batch. Draw n is a pure function of (seed, n)."""

    def __init__(self, backbone: Backbone, mixture: Mixture, queries: int, seed: int, augmented: bool = True):
        self.backbone, self.mixture, self.queries, self.seed, self.augmented = (
            backbone,
            mixture,
            queries,
            seed,
            augmented,
        )

    def samples(self, number: int) -> tuple[Sample, ...]:
        rng = np.random.default_rng([self.seed, number])
        samples = self.mixture.draw(rng, self.queries)
        return augment(samples, rng, self.backbone.format.image_size) if self.augmented else samples

    def __call__(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        rows = [row(self.backbone, self.samples(number)) for number in numbers]
        return batch(rows, self.backbone.tokenizer.pad_token_id)
