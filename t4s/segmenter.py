"""The front door: a photo and a query in, a `Prediction` out; or a question to a model that chats, and an `Answer`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s import absence, answering, codec, decoding, evidence, lists
from t4s.backbone import Backbone, Encoded, Writing
from t4s.checkpoint import Format
from t4s.constrain import vocabulary
from t4s.errors import QueryError
from t4s.limits import MAX_ANSWER, MAX_QUERY
from t4s.loading import load
from t4s.outcomes import read, told, whole
from t4s.photo import open_photo
from t4s.refine import check_refiner
from t4s.refine import refine as refine_grid
from t4s.samples import Answer, Prediction

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
        return cls(load(source, revision, device, dtype, quantize))

    def encode(self, image: Photo) -> Encoded:
        """The photo's part of the prompt, run once; give the result instead of the photo to any other method."""
        return image if isinstance(image, Encoded) else self.backbone.encode(open_photo(image))

    def __call__(self, image: Photo, query: str, refine: str | None = None, decoding: str = "fast") -> Prediction:
        """Segments what the phrase means. `refine` None: the checkpoint's own choice."""
        return self._answer(image, query, refine, decoding)

    def classes(self, image: Photo, names: Sequence[str], refine: str | None = None, decoding: str = "fast",
                at_once: int | None = None) -> Prediction:  # fmt: skip
        """Open-vocabulary semantic segmentation: each pixel gets one of the names, or "others".

        A list of any length: so many names are asked `at_once`; None: as many as the checkpoint answers best, or,
        where its t4s.json does not say, as its context takes. What is asked in parts is merged by confidence, cell by
        cell, as `lists` says; the photo is encoded once. `text` is then the merged grid's, and `stats` has `parts` and
        `invalid_parts` (whose own text was not valid).
        """
        encoded, parts, spent = self._parts(image, names, refine, decoding, at_once)
        if len(parts) == 1:
            return self._answer(encoded, parts[0], refine, decoding, spent)
        answers = [self._answer(encoded, part, "none", decoding) for part in parts]
        return lists.joined(encoded.photo, answers, refine or self.backbone.format.refiner, spent)

    def _parts(self, image: Photo, names: Sequence[str], refine: str | None, mode: str, at_once: int | None = None
               ) -> tuple[Encoded, list[tuple[str, ...]], float]:  # fmt: skip
        """The photo, the class list cut so that each part can be asked, and the seconds that the photo took."""
        form = self.backbone.format
        asked, labels = check_query(tuple(names))
        check_refiner(refine or form.refiner)
        decoding.check(mode, self.backbone.tokenizer, form.grid, labels, form.layout)
        if at_once is not None and at_once < 1:
            raise QueryError(f"at_once is {at_once}; it is how many names are asked in one question, 1 or more.")
        at_once = at_once or form.at_once
        started = time.perf_counter()
        encoded = self.encode(image)
        spent = time.perf_counter() - started
        if at_once is not None:
            return encoded, lists.parts(asked, lambda part: len(part) <= at_once), spent
        return encoded, lists.parts(asked, lambda part: self._fits(encoded, part, mode)), spent

    def _fits(self, encoded: Encoded, names: Sequence[str], mode: str) -> bool:
        """True if the question and the answer to it stay within the positions that the model knows."""
        backbone, form = self.backbone, self.backbone.format
        suffix = backbone.suffix(backbone.question(tuple(names)))
        if form.positions == "cells":  # its answers lie apart from its questions, and their room is fixed
            return backbone.suffix_positions(len(suffix), encoded.next_position)[-1] < self._context
        constraint = decoding.check(mode, backbone.tokenizer, form.grid, ("others", *names), form.layout)
        answer = len(backbone.answer_ids()[0]) + lists.DENSEST * decoding.token_limit(constraint, form.layout)
        return self._prompt(encoded, suffix) + answer <= self._context

    @property
    def _context(self) -> float:
        """How many positions the language model knows; infinite where it does not say."""
        config = self.backbone.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or math.inf

    def _prompt(self, encoded: Encoded, suffix: Sequence[int]) -> int:
        """The positions that photo and question take."""
        return encoded.next_position + len(suffix)

    def ask(self, image: Photo, question: str, refine: str | None = None, limit: int = MAX_ANSWER) -> Answer:
        """A question in free words to a checkpoint that chats; the answer may hold any number of grids.

        Every `<seg>` of the answer is read as a grid of the checkpoint's size and refined; what is unfinished or
        faulty is mended and said in the span's `faults`. The answer is plain greedy text of at most `limit` tokens,
        or as many as the model's context leaves. Raises QueryError, and CheckpointError for a checkpoint that does
        not chat (`answering.check_chats`).
        """
        backbone, form, started = self.backbone, self.backbone.format, time.perf_counter()
        answering.check_chats(backbone)
        asked = answering.check_question(question, backbone)
        check_refiner(refine or form.refiner)
        if limit < 1:
            raise QueryError(f"limit is {limit}; it is how many tokens an answer may have, 1 or more.")
        encoded, suffix = self.encode(image), backbone.suffix(asked)
        room = self._context - self._prompt(encoded, suffix)
        if room < 1:
            raise QueryError(f"The question takes {len(suffix)} tokens and leaves no room for an answer; shorten it.")
        writing, words = Writing(backbone, encoded, suffix, []), vocabulary(backbone.tokenizer)
        began = time.perf_counter()
        reply = answering.write(writing, words, form.grid, limit=int(min(limit, room)),
                                eos=answering.end_tokens(backbone),
                                hidden=answering.special_tokens(backbone))  # fmt: skip
        written = time.perf_counter()
        spans = tuple(answering.span(encoded.photo, reply.text, place, backbone, refine or form.refiner)
                      for place in answering.places(reply.text))  # fmt: skip
        return Answer(asked, reply.text, spans, {
            "tokens": len(reply.ids), "forwards": reply.forwards, "prefill_seconds": began - started,
            "decode_seconds": written - began, "refine_seconds": time.perf_counter() - written, "ended": reply.ended,
        })  # fmt: skip

    def _answer(self, image: Photo, query: str | Sequence[str], refine: str | None, mode: str,
                spent: float = 0.0) -> Prediction:  # fmt: skip
        steps, answer = self._begin(image, query, refine, mode, spent=spent)
        *_, last = steps
        return answer.prediction(last)

    def stream(self, image: Photo, query: str | Sequence[str], refine: str | None = None, decoding: str = "fast",
               stop: Callable[[], bool] = lambda: False) -> Iterator[Prediction]:  # fmt: skip
        """Predictions that grow as text is accepted; `stop` is asked between passes.

        Partial ones are painted cell by cell, their missing rows are "others" and have confidence 0; the last one
        is refined. `stats["ended"]` is "" until then. Of a class list in parts, each is merged with those before it.
        """
        parts, spent = [query], 0.0
        if not isinstance(query, str):
            image, parts, spent = self._parts(image, query, refine, decoding)
        if len(parts) == 1:
            steps, answer = self._begin(image, parts[0], refine, decoding, stop, spent)
            yield from map(answer.prediction, steps)
            return
        answers: list[Prediction] = []
        for part in parts:
            steps, answer = self._begin(image, part, "none", decoding, stop)
            for step in steps:
                last = answer.prediction(step)
                if not last.stats["ended"]:
                    yield lists.joined(image.photo, [*answers, last], "none", spent)
            answers.append(last)
            if last.stats["ended"] == "stopped":
                break
        yield lists.joined(image.photo, answers, refine or self.backbone.format.refiner, spent)

    def _begin(self, image: Photo, query: str | Sequence[str], refine: str | None, mode: str,
               stop: Callable[[], bool] = lambda: False, spent: float = 0.0,
               ) -> tuple[Iterator[decoding.Step], _UnderWay]:  # fmt: skip
        """Everything is checked, photo and question go in; → the loop that will write the body.

        `spent`: seconds that the photo took before.
        """
        backbone, form, started = self.backbone, self.backbone.format, time.perf_counter()
        asked, labels = check_query(query)
        check_refiner(refine or form.refiner)
        decoding.check(mode, backbone.tokenizer, form.grid, labels, form.layout)
        encoded = self.encode(image)
        writing = backbone.begin(encoded, asked)
        steps = decoding.decode(mode, writing, backbone.tokenizer, form.grid, labels, layout=form.layout,
                                eos=(backbone.tokenizer.eos_token_id,), rule=self._rule(encoded, asked),
                                cells=self._cells(writing, labels), stop=stop)  # fmt: skip
        began = time.perf_counter()
        return steps, _UnderWay(encoded.photo, asked, form, refine or form.refiner, began, began - started + spent)

    def _rule(self, encoded: Encoded, asked: str | tuple[str, ...]) -> absence.Rule | None:
        """When the checkpoint wants this called absent."""
        above = self.backbone.format.absent_above
        return None if above is None else absence.Rule(above, self.backbone.likeness(encoded, asked))

    def _cells(self, writing: Writing, labels: Sequence[str]) -> evidence.Cells | None:
        """What the photo's cells say of these labels, where the checkpoint lets that count."""
        if writing.said is None:
            return None
        backbone, form = self.backbone, self.backbone.format
        logits = writing.said[:, backbone.begins_with(labels)].double().cpu().numpy()
        return evidence.Cells(logits.reshape(*form.grid, -1), form.cell_weight)


@dataclass(frozen=True)
class _UnderWay:
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
            "ended": step.ended, "refiner": refiner, **({} if step.absent is None else {"absent": step.absent}),
        }  # fmt: skip
        faults = faults + told(refiner, grid, masks) if step.ended else ()
        return whole(self.query, step.text, grid, masks, confidence, self.photo.shape[:2], faults, stats)


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
