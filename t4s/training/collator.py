"""Samples to a training batch: token ids, labels on the answers alone, positions, and a block attention mask.

All questions about one photo share its image tokens. A row of the batch is

    [prefix with the photo] [question 1, answer 1] [question 2, answer 2] …

and the mask lets each question attend to the prefix and to itself, not to the other questions. The positions of every
question start where the prefix ends, so a row with several questions gives the same loss and gradients as several rows
with one each. Where the photo attends to the question too (`VLM.bidirectional_prefix`), every question has its own row,
and the embedded model's image tokens have labels as well: the label of their cell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from t4s import codec
from t4s.data.augment.changes import augment
from t4s.data.augment.draws import Draw, draw
from t4s.data.augment.render import render
from t4s.data.spec import Mixture
from t4s.errors import DataError
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.vlm import VLM
from t4s.prompts import ANSWERS, CLASS_QUESTIONS, QUESTIONS, question
from t4s.records import Sample
from t4s.segmenter.queries import clean_query
from t4s.training.losses import IGNORE

CORRUPTED_SHARE = 0.5  # of the embedded model's training answers have wrong rows in their input
NEARBY_SHARE = 0.4  # of the embedded model's training answers attend to nearby rows of the photo only
PAD_MULTIPLE = 16  # row lengths are padded to a multiple of this
MAX_DRAWS = 20  # attempts to draw a row that fits into the model's context


class TooLongError(DataError):
    """No question of the row fits into the model's context."""


@dataclass(frozen=True)
class Row:
    """One photo with its questions: T tokens.

    `positions`: (T,), or (3, T) where the family has time, row and column. `segments`: 0 for the prefix, then the
    number of the question. `bidirectional_prefix`: tokens of segment 0 attend to each other in both directions.
    `nearby_columns`: cells per row of the grid if answers attend to nearby rows of the photo only, else 0.
    `left_out`: questions that did not fit into the model's context.
    """

    inputs: dict[str, torch.Tensor]
    ids: list[int]
    labels: list[int]
    positions: torch.Tensor
    segments: list[int]
    bidirectional_prefix: bool = False
    nearby_columns: int = 0
    left_out: int = 0


# --- one answer


def corrupt_rows(grid: codec.DescriptorGrid, rng: np.random.Generator) -> tuple[codec.DescriptorGrid, np.ndarray]:
    """Make some rows of a true grid wrong (empty, shifted, or a copy of the row above) → the grid, (H,) bool: which.

    They are input only and never learned. A model trained on true rows alone learns to copy the row above, and never
    writes an object whose first row it missed; wrong rows make it look at the photo instead.
    """
    ids, height = grid.ids.copy(), grid.shape[0]
    wrong = rng.random(height) < rng.uniform(0, 0.5)
    top = int(np.argmax((ids > 0).any(1)))
    if rng.random() < 0.5:
        wrong[top : top + int(rng.integers(1, 6))] = True  # the object starts too late
    for y in np.flatnonzero(wrong):
        kind = rng.random()
        if kind < 0.6:
            ids[y] = 0
        elif kind < 0.8:
            ids[y] = np.roll(ids[y], int(rng.integers(-2, 3)))
        elif y:
            ids[y] = ids[y - 1]
    return codec.DescriptorGrid(ids, grid.labels), wrong


def answer_tokens(
    vlm: VLM, sample: Sample, corrupt: np.random.Generator | None, template: str | None = None
) -> tuple[list[int], list[int]]:
    """The true answer → (its tokens, their labels). With `corrupt`, half of the answers get wrong, unlearned rows."""
    grid, wrong = sample.grid(vlm.config.grid), None
    if corrupt is not None and corrupt.random() < CORRUPTED_SHARE:
        grid, wrong = corrupt_rows(grid, corrupt)
    before, body, after = vlm.answer_ids(codec.encode(grid), template, sample.query)
    labels = list(body)
    if wrong is not None:
        y = 0
        for i, token in enumerate(body):
            piece = vlm.piece(token)
            if wrong[y : y + piece[:-1].count("\n") + 1].any():
                labels[i] = IGNORE
            y += piece.count("\n")
    return before + body + after, before + labels + after


def cell_labels(vlm: VLM, sample: Sample) -> list[int]:
    """For every cell, in row order, the first token of its label: what the answer says where a run starts there."""
    grid = sample.grid(vlm.config.grid)
    first_tokens = vlm.first_token_ids(grid.labels)
    return [first_tokens[label] for label in grid.ids.flatten()]


def draw_wording(
    config: CheckpointConfig, query: str | tuple[str, ...], rng: np.random.Generator | None
) -> tuple[str, str | None]:
    """The question, and the answer's template. A checkpoint that has the default templates is trained on all of
    `prompts`; one with its own templates is trained on those alone. Without `rng`: always the checkpoint's."""

    def draw(template: str, alternatives: Sequence[str]) -> str:
        if rng is None or template != alternatives[0]:
            return template
        return str(rng.choice(alternatives))

    if isinstance(query, str):
        template, answer = draw(config.question, QUESTIONS), config.answer
    else:
        template, answer = draw(config.class_question, CLASS_QUESTIONS), config.class_answer or config.answer
    return question(template, query, config.class_separator), draw(answer, ANSWERS)


def as_asked(sample: Sample, config: CheckpointConfig) -> Sample:
    """The sample with its phrase or names as the checkpoint will be asked them (`segmenter.queries`)."""
    names = (sample.query,) if isinstance(sample.query, str) else sample.query
    asked = tuple(clean_query(name, config) for name in names)
    if len(set(asked)) < len(asked):
        raise DataError(
            f"{sample.id}: the names {', '.join(names)} are the same to this model, {', '.join(asked)}: rename one."
        )
    labels = tuple(clean_query(label, config) for label in sample.labels[1:])
    return replace(sample, query=asked[0] if isinstance(sample.query, str) else asked, labels=(codec.OTHERS, *labels))


# --- a row


def build_row(
    vlm: VLM,
    samples: Sequence[Sample],
    corrupt: np.random.Generator | None = None,
    wording: np.random.Generator | None = None,
    prefix: Sequence[int] | None = None,
) -> Row:
    """The samples of one photo as a row. `corrupt` draws wrong rows (`corrupt_rows`), `wording` the templates. With
    `prefix`, the tokens up to and including the photo, the row has no pixels.

    Questions that do not fit into the model's context are left out. TooLongError (a DataError) if none remains;
    ValueError for several samples where the photo attends to the question.
    """
    if vlm.bidirectional_prefix and len(samples) > 1:
        raise ValueError(f"{len(samples)} questions, and the photo attends to each: give every one its own row")
    samples = [as_asked(sample, vlm.config) for sample in samples]
    inputs, ids = vlm.preprocess(samples[0].image) if prefix is None else ({}, list(prefix))
    label_cells = vlm.bidirectional_prefix and vlm.config.positions == "cells"
    labels = cell_labels(vlm, samples[0]) if label_cells else [IGNORE] * len(ids)
    segments = [0] * len(ids)
    prefix_positions, start = vlm.position_ids(ids, inputs)
    context = getattr(vlm.model.config.get_text_config(), "max_position_embeddings", None)
    positions: list[int] = []
    longest = 0
    for sample in samples:
        text, template = draw_wording(vlm.config, sample.query, wording)
        suffix = vlm.suffix(text)
        answer, answer_labels = answer_tokens(vlm, sample, corrupt, template)
        of_question = vlm.suffix_positions(len(suffix), start) + vlm.answer_positions(answer, start + len(suffix))
        if context and max(of_question) >= context:
            longest = max(longest, start + len(suffix) + len(answer))
            continue
        number = segments[-1] + 1
        ids = ids + suffix + answer
        positions = positions + of_question
        labels += [IGNORE] * len(suffix) + answer_labels
        segments += [0 if vlm.bidirectional_prefix else number] * len(suffix) + [number] * len(answer)
    if not positions:
        raise TooLongError(
            f"{samples[0].id}: question and answer take {longest} tokens, and the model's context is {context}: "
            "use a smaller --grid or --image-size."
        )
    text_positions = torch.tensor(positions, dtype=prefix_positions.dtype)
    text_positions = text_positions.expand(*prefix_positions.shape[:-1], -1)
    nearby_only = label_cells and corrupt is not None and corrupt.random() < NEARBY_SHARE
    return Row(
        inputs,
        ids,
        labels,
        torch.cat([prefix_positions, text_positions], -1),
        segments,
        vlm.bidirectional_prefix,
        nearby_columns=vlm.config.grid[1] if nearby_only else 0,
        left_out=len(samples) - segments[-1],
    )


def attention_mask(segments: torch.Tensor, bidirectional_prefix: bool) -> torch.Tensor:
    """segments (B, T), -1 for padding → (B, T, T) bool: who attends to whom."""
    length = segments.shape[1]
    same = segments[:, :, None] == segments[:, None, :]
    prefix = (segments == 0)[:, None, :]
    mask = (same | prefix) & torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return mask | (prefix & prefix.mT) if bidirectional_prefix else mask


def nearby_mask(
    segments: torch.Tensor, positions: torch.Tensor, nearby_columns: torch.Tensor, cells: int
) -> torch.Tensor:
    """(B, T, cells) bool, False where a token of the answer does not attend to a cell. It attends to the cells from one
    grid row before the next one to be written to two rows after it, in the rows of the batch that have columns.

    The image tokens know what is at their place. An answer that attends to all of them also memorises training photos
    as a whole, and in a new photo contradicts what the cells say. segments, positions (B, T); nearby_columns (B,).
    """
    columns = nearby_columns[:, None, None]
    written = positions - cells  # per token of an answer: cells written up to and including it
    distance = torch.arange(cells, device=positions.device) - written[..., None]
    nearby = (distance >= -columns) & (distance < 2 * columns)
    return nearby | (segments <= 0)[..., None] | (columns == 0)


def collate(rows: Sequence[Row], pad: int) -> dict[str, Any]:
    """Rows → `input_ids` and `labels` (B, T), `position_ids` (B, T) or (3, B, T), `attention_mask` (B, 1, T, T) bool,
    the photos' tensors, and `output_hidden_states` where image tokens have labels."""
    batch = padded_rows(rows, pad)
    segments, nearby_columns = batch.pop("segments"), batch.pop("nearby_columns")
    mask = attention_mask(segments, rows[0].bidirectional_prefix)
    if nearby_columns.any():
        cells = rows[0].ids.count(rows[0].ids[0])  # image tokens come first
        mask[:, :, :cells] &= nearby_mask(segments, batch["position_ids"], nearby_columns, cells)
    batch["attention_mask"] = mask[:, None]
    for name in rows[0].inputs:
        batch[name] = torch.cat([row.inputs[name] for row in rows])
    if rows[0].labels[0] != IGNORE:
        batch["output_hidden_states"] = True  # for `losses.image_token_losses`
    return batch


def padded_rows(rows: Sequence[Row], pad: int) -> dict[str, Any]:
    """Rows → `input_ids`, `labels`, `segments` (B, T), `position_ids` (B, T) or (3, B, T), `nearby_columns` (B,)."""
    longest = max(len(row.ids) for row in rows)
    length = -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE

    def padded(name: str, value: int) -> torch.Tensor:
        return torch.tensor([getattr(row, name) + [value] * (length - len(row.ids)) for row in rows])

    positions = [F.pad(row.positions, (0, length - len(row.ids))) for row in rows]
    return {
        "input_ids": padded("ids", pad),
        "labels": padded("labels", IGNORE),
        "segments": padded("segments", -1),
        "position_ids": torch.stack(positions, -2),
        "nearby_columns": torch.tensor([row.nearby_columns for row in rows]),
    }


def count_phrases(rows: Sequence[Row]) -> torch.Tensor:
    """() long: the questions in these rows."""
    return torch.tensor(sum(row.segments[-1] for row in rows))


@dataclass(frozen=True, eq=False)
class Drawn:
    """A draw, the number of its data set in the mixture, and how to open its photos."""

    dataset: int
    draw: Draw
    photo: Callable[[int], Image.Image]


class Collator:
    """Draw numbers → a batch: draws samples, augments them and builds rows. Draw n is a pure function of (seed, n).

    `too_long` counts the questions that did not fit into the model's context, over all data-loading processes.
    """

    def __init__(self, vlm: VLM, mixture: Mixture, queries: int, seed: int, augmented: bool = True):
        self.vlm, self.mixture, self.queries = vlm, mixture, queries
        self.seed, self.augmented = seed, augmented
        self.too_long = torch.zeros((), dtype=torch.long).share_memory_()

    def drawn(self, *number: int) -> Drawn:
        """Different questions about one picture, at most `queries`."""
        rng = np.random.default_rng([self.seed, *number])
        dataset, index = self.mixture.pick(rng)
        drawn, photo = self.ask(dataset, index, rng)
        different = tuple({sample.query: sample for sample in drawn.samples}.values())
        drawn = replace(drawn, samples=different)
        if self.augmented:
            drawn = augment(drawn, rng, self.vlm.config.image_size)
        return Drawn(dataset, drawn, photo)

    def ask(self, dataset: int, index: int, rng: np.random.Generator) -> tuple[Draw, Callable[[int], Image.Image]]:
        """Questions about a photo of a data set of the mixture."""
        return draw(self.mixture.datasets[dataset], index, rng, self.queries)

    def samples(self, *number: int) -> tuple[Sample, ...]:
        """What `drawn` drew, with its picture."""
        drawn = self.drawn(*number)
        return self.complete(drawn)

    def complete(self, drawn: Drawn) -> tuple[Sample, ...]:
        """The samples of a draw as `build` takes them: with their picture."""
        return drawn.draw.on(render(drawn.draw.view, drawn.photo))

    def build(
        self, samples: Sequence[Sample], corrupt: np.random.Generator | None, wording: np.random.Generator
    ) -> Row:
        """A row of a batch."""
        return build_row(self.vlm, samples, corrupt, wording)

    def rows(self, number: int) -> list[Row]:
        """The rows of draw `number`: one, or one per question where the photo attends to the question."""
        return self.fitting(number)[1]

    def fitting(self, number: int) -> tuple[Drawn, list[Row]]:
        """What is drawn as `number`, and its rows.

        If nothing of a draw fits into the model's context, another takes its place; DataError after MAX_DRAWS of them.
        """
        cell_positions = self.vlm.config.positions == "cells"
        for attempt in range(MAX_DRAWS):
            key = (number, attempt) if attempt else (number,)
            corrupt = np.random.default_rng([self.seed, *key, 1]) if cell_positions else None
            wording = np.random.default_rng([self.seed, *key, 2])
            drawn = self.drawn(*key)
            rows = []
            for group in self._groups(self.complete(drawn)):
                try:
                    rows.append(self.build(group, corrupt, wording))
                except TooLongError as error:
                    last = error
                    self.too_long += len(group)
                else:
                    self.too_long += rows[-1].left_out
            if rows:
                return drawn, rows
        raise DataError(f"All of {MAX_DRAWS} samples drawn are too long for the model; the last one: {last}")

    def _groups(self, samples: Sequence[Sample]) -> list[Sequence[Sample]]:
        """Samples that can share a row."""
        return [(sample,) for sample in samples] if self.vlm.bidirectional_prefix else [samples]

    @property
    def pad(self) -> int:
        """Padding is masked out, so any token serves where a tokenizer has none for it."""
        tokenizer = self.vlm.tokenizer
        return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        rows = [row for number in numbers for row in self.rows(number)]
        return collate(rows, self.pad) | {"phrases": count_phrases(rows)}

    def count_too_long(self, numbers: Sequence[int]) -> tuple[int, int]:
        """(questions of these draws that do not fit into the model's context, all of their questions)."""
        too_long = total = 0
        for number in numbers:
            for group in self._groups(self.samples(number)):
                total += len(group)
                try:
                    too_long += build_row(self.vlm, group).left_out
                except TooLongError:
                    too_long += len(group)
        return too_long, total
