"""Samples → a training batch: token ids, labels on the answers alone, positions, and a block mask.

All questions about one photo share its image tokens: a row of the batch is

    [prefix with the photo] [question 1, answer 1] [question 2, answer 2] …

and the block mask lets each question see the prefix and itself, not the other questions. Positions of every question
start where the prefix ends, so a row of several is worth the same as several rows of one. Where the photo sees the
question too (`VLM.bidirectional_prefix`), every question has a row of its own, and the embedded model's cells have labels
too: what is meant there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from t4s import codec
from t4s.data.augment import augment
from t4s.data.spec import Mixture
from t4s.errors import DataError
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.vlm import VLM
from t4s.prompts import ANSWERS, CLASS_QUESTIONS, QUESTIONS, question
from t4s.records import Sample

IGNORE = -100  # a label that the loss leaves out
SPOILT = 0.5  # of training answers are read with wrong rows
NEAR = 0.4  # of training answers of the embedded kind see the photo's nearby rows alone
MULTIPLE = 16  # rows are padded to a multiple of this
TRIES = 20  # draws for one row of the batch, until one is short enough


class TooLong(DataError):
    """No question of the row fits into the model's context."""


@dataclass(frozen=True)
class Row:
    """One photo with its questions. `positions`: (T,), or (3, T) where a family has time, row and column.

    `segments`: 0 for the prefix, then the question's number. `bidirectional_prefix`: segment 0 attends to all of itself.
    `near`: how many cells a row has, where the answers see only the nearby ones; 0: they see the whole photo.
    `left_out`: questions that were too long for the model.
    """

    inputs: dict[str, torch.Tensor]
    ids: list[int]
    labels: list[int]
    positions: torch.Tensor
    segments: list[int]
    bidirectional_prefix: bool = False
    near: int = 0
    left_out: int = 0


def corrupt_rows(grid: codec.DescriptorGrid, rng: np.random.Generator) -> tuple[codec.DescriptorGrid, np.ndarray]:
    """Some rows of a true grid made wrong, and which (H,) bool: left empty, moved sideways, or the row above again.

    The model reads them and is not taught to write them. It learns to look at the photo where the rows above mislead:
    taught on true rows alone it copies the row above, and an object whose first row it missed is never written.
    """
    ids, height = grid.ids.copy(), grid.shape[0]
    wrong = rng.random(height) < rng.uniform(0, 0.5)
    top = int(np.argmax((ids > 0).any(1)))
    if rng.random() < 0.5:
        wrong[top : top + int(rng.integers(1, 6))] = True  # the object begins too late
    for at in np.flatnonzero(wrong):
        kind = rng.random()
        if kind < 0.6:
            ids[at] = 0
        elif kind < 0.8:
            ids[at] = np.roll(ids[at], int(rng.integers(-2, 3)))
        elif at:
            ids[at] = ids[at - 1]
    return codec.DescriptorGrid(ids, grid.labels), wrong


def answer(
    vlm: VLM, sample: Sample, rng: np.random.Generator | None, template: str | None = None
) -> tuple[list[int], list[int]]:
    """The true answer's tokens and their labels; with `rng`, every second answer is read with spoilt rows."""
    config = vlm.config
    grid, wrong = sample.grid(config.grid), None
    if rng is not None and config.layout == "rows" and rng.random() < SPOILT:
        grid, wrong = corrupt_rows(grid, rng)
    before, body, after = vlm.answer_ids(codec.encode(grid, config.layout), template)
    labels = list(body)
    if wrong is not None:
        at = 0
        for i, token in enumerate(body):
            piece = vlm.piece(token)
            if wrong[at : at + piece[:-1].count("\n") + 1].any():
                labels[i] = IGNORE
            at += piece.count("\n")
    return before + body + after, before + labels + after


def words_of_cells(vlm: VLM, sample: Sample) -> list[int]:
    """For every cell, in row order, the first token of its label: what the answer says where that cell's run begins."""
    grid = sample.grid(vlm.config.grid)
    first = vlm.first_token_ids(grid.labels)
    return [first[label] for label in grid.ids.flatten()]


def wording(
    config: CheckpointConfig, query: str | tuple[str, ...], rng: np.random.Generator | None
) -> tuple[str, str | None]:
    """The question and the answer's template: the checkpoint's own, or, if it has the first of `prompts`, any there."""

    def drawn(own: str, templates: Sequence[str]) -> str:
        return str(rng.choice(templates)) if rng is not None and own == templates[0] else own

    one = isinstance(query, str)
    template = drawn(config.question, QUESTIONS) if one else drawn(config.class_question, CLASS_QUESTIONS)
    return question(template, query), drawn(config.answer, ANSWERS)


def row(
    vlm: VLM,
    samples: Sequence[Sample],
    rng: np.random.Generator | None = None,
    words: np.random.Generator | None = None,
) -> Row:
    """The samples of one photo → a row; `rng` spoils what is read (`corrupt_rows`), `words` draws templates (`wording`).

    A question that is too long for the model's context is left out. TooLong (a DataError) if none remains, ValueError
    for several samples where the photo sees the question.
    """
    if vlm.bidirectional_prefix and len(samples) > 1:
        raise ValueError(f"{len(samples)} questions, and this model's photo sees each: give a row to each")
    inputs, ids = vlm.look(samples[0].image)
    taught = vlm.bidirectional_prefix and vlm.config.positions == "cells"
    labels = words_of_cells(vlm, samples[0]) if taught else [IGNORE] * len(ids)
    segments = [0] * len(ids)
    photo, start = vlm.position_ids(ids, inputs)
    context = getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None)
    positions: list[int] = []
    longest = 0
    for sample in samples:
        asked, template = wording(vlm.config, sample.query, words)
        suffix = vlm.suffix(asked)
        read, learnt = answer(vlm, sample, rng, template)
        own = vlm.suffix_positions(len(suffix), start) + vlm.answer_positions(read, start + len(suffix))
        if context and max(own) >= context:
            longest = max(longest, start + len(suffix) + len(read))
            continue
        number = segments[-1] + 1
        ids, positions = ids + suffix + read, positions + own
        labels += [IGNORE] * len(suffix) + learnt
        segments += [0 if vlm.bidirectional_prefix else number] * len(suffix) + [number] * len(read)
    if not positions:
        raise TooLong(
            f"{samples[0].id}: its question and answer take {longest} tokens, the model's context is "
            f"{context}: use a smaller --grid or --image-size."
        )
    text = torch.tensor(positions, dtype=photo.dtype).expand(*photo.shape[:-1], -1)
    left_out = len(samples) - segments[-1]
    near = vlm.config.grid[1] if taught and rng is not None and rng.random() < NEAR else 0
    return Row(inputs, ids, labels, torch.cat([photo, text], -1), segments, vlm.bidirectional_prefix, near, left_out)


def nearby(row: Row, cells: int) -> torch.Tensor:
    """(T, T) bool, False where a token of the answer does not see a cell: it sees a row's length of cells behind the
    next one to be written, and two rows' ahead.

    The cells know what is meant at their place. Where all are seen, an answer also learns the photo as a whole by
    heart, and denies in a new one what the cells say.
    """
    written = row.positions - cells  # of a token of the answer: how many cells it and those before it have written
    ahead = torch.arange(cells) - written[:, None]
    seen = torch.ones(len(row.ids), len(row.ids), dtype=torch.bool)
    seen[:, :cells] = (torch.tensor(row.segments) == 0)[:, None] | ((ahead >= -row.near) & (ahead < 2 * row.near))
    return seen


def batch(rows: Sequence[Row], pad: int) -> dict[str, Any]:
    """Rows → `input_ids`, `labels` (B, T), `position_ids` (B, T) or (3, B, T), `attention_mask` (B, 1, T, T) bool, the
    photos, and `output_hidden_states` where the photos' cells are taught."""
    length = -(-max(len(r.ids) for r in rows) // MULTIPLE) * MULTIPLE

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([getattr(r, name) + [value] * (length - len(r.ids)) for r in rows])

    segments = padded("segments", -1)
    same = segments[:, :, None] == segments[:, None, :]
    prefix = (segments == 0)[:, None, :]
    mask = (same | prefix) & torch.ones(length, length, dtype=torch.bool).tril()
    if rows[0].bidirectional_prefix:
        mask |= prefix & prefix.mT
    for one, whole in zip(rows, mask, strict=True):
        if one.near:
            cells = one.ids.count(one.ids[0])  # the photo's tokens come first
            whole[: len(one.ids), : len(one.ids)] &= nearby(one, cells)
    positions = [F.pad(r.positions, (0, length - len(r.ids))) for r in rows]
    photos = {name: torch.cat([r.inputs[name] for r in rows]) for name in rows[0].inputs}
    return {
        "input_ids": padded("ids", pad),
        "labels": padded("labels", IGNORE),
        "position_ids": torch.stack(positions, -2),
        "attention_mask": mask[:, None],
        **photos,
        **({"output_hidden_states": True} if rows[0].labels[0] != IGNORE else {}),  # learning.cell_losses reads them
    }


class Collator:
    """Draws, augments and lays out: a list of draw numbers → a batch. Draw n is a pure function of (seed, n).

    `too_long` counts the questions that did not fit into the model's context, whichever process laid them out.
    """

    def __init__(self, vlm: VLM, mixture: Mixture, queries: int, seed: int, augmented: bool = True):
        self.vlm, self.mixture, self.queries = vlm, mixture, queries
        self.seed, self.augmented = seed, augmented
        self.too_long = torch.zeros((), dtype=torch.long).share_memory_()

    def samples(self, *number: int) -> tuple[Sample, ...]:
        """Different questions about one photo, at most `queries`."""
        rng = np.random.default_rng([self.seed, *number])
        samples = self.mixture.draw(rng, self.queries)
        different = tuple({sample.query: sample for sample in samples}.values())
        return augment(different, rng, self.vlm.config.image_size) if self.augmented else different

    def rows(self, number: int) -> list[Row]:
        """Draw `number`, or, if it is too long for the model, what is drawn in its place: a row, or, where the photo
        sees the question, one for each question.

        DataError if TRIES draws are too long, one after the other.
        """
        cells = self.vlm.config.positions == "cells"
        for attempt in range(TRIES):
            draw = (number, *([attempt] if attempt else []))
            spoilt = np.random.default_rng([self.seed, *draw, 1]) if cells else None
            words, made = np.random.default_rng([self.seed, *draw, 2]), []
            for group in self._groups(self.samples(*draw)):
                try:
                    made.append(row(self.vlm, group, spoilt, words))
                except TooLong as error:
                    last = error
                    self.too_long += len(group)
                else:
                    self.too_long += made[-1].left_out
            if made:
                return made
        raise DataError(f"{TRIES} samples of {TRIES} drawn are too long for the model, the last is {last}")

    def _groups(self, samples: Sequence[Sample]) -> list[Sequence[Sample]]:
        """What can share a photo's tokens."""
        return [(sample,) for sample in samples] if self.vlm.bidirectional_prefix else [samples]

    def __call__(self, numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        rows = [made for number in numbers for made in self.rows(number)]
        return batch(rows, self.vlm.tokenizer.pad_token_id)

    def refused(self, numbers: Sequence[int]) -> tuple[int, int]:
        """How many questions of these draws are too long for the model, and how many there are."""
        long = every = 0
        for number in numbers:
            for group in self._groups(self.samples(number)):
                every += len(group)
                try:
                    long += row(self.vlm, group).left_out
                except TooLong:
                    long += len(group)
        return long, every
