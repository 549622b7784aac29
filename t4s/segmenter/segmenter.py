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

from t4s import codec
from t4s.decoding import generate
from t4s.decoding.constraint import vocabulary
from t4s.errors import QueryError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_ANSWER, MAX_QUERY
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.loading import load
from t4s.models.tiny import cell_scores, no_target
from t4s.models.vlm import VLM, DecoderState, EncodedImage
from t4s.records import Answer, Prediction, build_prediction
from t4s.refine.refiner import check_refiner, disagreement_faults
from t4s.refine.refiner import refine as refine_grid
from t4s.segmenter import chat, class_lists
from t4s.segmenter.reading import read

Photo = str | Path | Image.Image | np.ndarray | EncodedImage


class Segmenter:
    """Image and query → `Prediction`. Make one with `from_pretrained`."""

    def __init__(self, vlm: VLM):
        self.vlm = vlm

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        revision: str | None = None,
        device: str | None = None,
        dtype: Any = None,
        quantize: str | None = None,
    ) -> Segmenter:
        """None = the embedded checkpoint; else a folder or a Hub id (a full model or a LoRA adapter).

        device: "cpu", "cuda", …; dtype: a torch dtype or its name; quantize: "4bit" or "8bit", CUDA only.
        Raises CheckpointError that says what to do.
        """
        return cls(load(source, revision, device, dtype, quantize))

    def encode(self, image: Photo) -> EncodedImage:
        """The photo's part of the prompt, run once; give the result instead of the photo to any other method."""
        return image if isinstance(image, EncodedImage) else self.vlm.encode(open_photo(image))

    def __call__(self, image: Photo, query: str, refine: str | None = None, decoding: str = "fast") -> Prediction:
        """Segments what the phrase means. `refine` None: the checkpoint's own choice."""
        return self._answer(image, query, refine, decoding)

    def classes(
        self,
        image: Photo,
        names: Sequence[str],
        refine: str | None = None,
        decoding: str = "fast",
        classes_per_query: int | None = None,
    ) -> Prediction:
        """Open-vocabulary semantic segmentation: each pixel gets one of the names, or "others".

        A list of any length: so many names are asked `classes_per_query`; None: as many as the checkpoint answers best, or,
        where its t4s.json does not say, as its context takes. What is asked in parts is merged by confidence, cell by
        cell, as `lists` says; the photo is encoded once. `text` is then the merged grid's, and `stats` has `parts` and
        `invalid_parts` (whose own text was not valid).
        """
        encoded, parts, spent = self._parts(image, names, refine, decoding, classes_per_query)
        if len(parts) == 1:
            return self._answer(encoded, parts[0], refine, decoding, spent)
        answers = [self._answer(encoded, part, "none", decoding) for part in parts]
        return class_lists.merge_predictions(encoded.photo, answers, refine or self.vlm.config.refiner, spent)

    def _parts(
        self, image: Photo, names: Sequence[str], refine: str | None, mode: str, classes_per_query: int | None = None
    ) -> tuple[EncodedImage, list[tuple[str, ...]], float]:
        """The photo, the class list cut so that each part can be asked, and the seconds that the photo took."""
        config = self.vlm.config
        asked, labels = check_query(tuple(names))
        check_refiner(refine or config.refiner)
        generate.check(mode, self.vlm.tokenizer, config.grid, labels, config.layout)
        if classes_per_query is not None and classes_per_query < 1:
            raise QueryError(
                f"classes_per_query is {classes_per_query}; it is how many names are asked in one question, 1 or more."
            )
        classes_per_query = classes_per_query or config.classes_per_query
        started = time.perf_counter()
        encoded = self.encode(image)
        spent = time.perf_counter() - started
        if classes_per_query is not None:
            return encoded, class_lists.parts(asked, lambda part: len(part) <= classes_per_query), spent
        return encoded, class_lists.parts(asked, lambda part: self._fits(encoded, part, mode)), spent

    def _fits(self, encoded: EncodedImage, names: Sequence[str], mode: str) -> bool:
        """True if the question and the answer to it stay within the positions that the model knows."""
        vlm, config = self.vlm, self.vlm.config
        suffix = vlm.suffix(vlm.question(tuple(names)))
        if config.positions == "cells":  # its answers lie apart from its questions, and their room is fixed
            return vlm.suffix_positions(len(suffix), encoded.next_position)[-1] < self._context
        constraint = generate.check(mode, vlm.tokenizer, config.grid, ("others", *names), config.layout)
        answer = len(vlm.answer_ids()[0]) + class_lists.DENSEST * generate.token_limit(constraint, config.layout)
        return self._prompt(encoded, suffix) + answer <= self._context

    @property
    def _context(self) -> float:
        """How many positions the language model knows; infinite where it does not say."""
        config = self.vlm.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or math.inf

    def _prompt(self, encoded: EncodedImage, suffix: Sequence[int]) -> int:
        """The positions that photo and question take."""
        return encoded.next_position + len(suffix)

    def ask(self, image: Photo, question: str, refine: str | None = None, limit: int = MAX_ANSWER) -> Answer:
        """A question in free words to a checkpoint that chats; the answer may hold any number of grids.

        Every `<seg>` of the answer is read as a grid of the checkpoint's size and refined; what is unfinished or
        faulty is mended and said in the span's `faults`. The answer is plain greedy text of at most `limit` tokens,
        or as many as the model's context leaves. Raises QueryError, and CheckpointError for a checkpoint that does
        not chat (`chat.check_chats`).
        """
        vlm, config, started = self.vlm, self.vlm.config, time.perf_counter()
        chat.check_chats(vlm)
        asked = chat.check_question(question, vlm)
        check_refiner(refine or config.refiner)
        if limit < 1:
            raise QueryError(f"limit is {limit}; it is how many tokens an answer may have, 1 or more.")
        encoded, suffix = self.encode(image), vlm.suffix(asked)
        room = self._context - self._prompt(encoded, suffix)
        if room < 1:
            raise QueryError(f"The question takes {len(suffix)} tokens and leaves no room for an answer; shorten it.")
        writing, words = DecoderState(vlm, encoded, suffix, []), vocabulary(vlm.tokenizer)
        began = time.perf_counter()
        reply = chat.write(
            writing,
            words,
            config.grid,
            limit=int(min(limit, room)),
            eos=chat.end_tokens(vlm),
            hidden=chat.special_tokens(vlm),
        )
        written = time.perf_counter()
        spans = tuple(
            chat.span(encoded.photo, reply.text, place, vlm, refine or config.refiner)
            for place in chat.places(reply.text)
        )
        return Answer(
            asked,
            reply.text,
            spans,
            {
                "tokens": len(reply.ids),
                "forwards": reply.forwards,
                "prefill_seconds": began - started,
                "decode_seconds": written - began,
                "refine_seconds": time.perf_counter() - written,
                "ended": reply.ended,
            },
        )

    def _answer(
        self, image: Photo, query: str | Sequence[str], refine: str | None, mode: str, spent: float = 0.0
    ) -> Prediction:
        steps, answer = self._begin(image, query, refine, mode, spent=spent)
        *_, last = steps
        return answer.prediction(last)

    def stream(
        self,
        image: Photo,
        query: str | Sequence[str],
        refine: str | None = None,
        decoding: str = "fast",
        stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Prediction]:
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
                    yield class_lists.merge_predictions(image.photo, [*answers, last], "none", spent)
            answers.append(last)
            if last.stats["ended"] == "stopped":
                break
        yield class_lists.merge_predictions(image.photo, answers, refine or self.vlm.config.refiner, spent)

    def _begin(
        self,
        image: Photo,
        query: str | Sequence[str],
        refine: str | None,
        mode: str,
        stop: Callable[[], bool] = lambda: False,
        spent: float = 0.0,
    ) -> tuple[Iterator[generate.Step], _UnderWay]:
        """Everything is checked, photo and question go in; → the loop that will write the body.

        `spent`: seconds that the photo took before.
        """
        vlm, config, started = self.vlm, self.vlm.config, time.perf_counter()
        asked, labels = check_query(query)
        check_refiner(refine or config.refiner)
        generate.check(mode, vlm.tokenizer, config.grid, labels, config.layout)
        encoded = self.encode(image)
        writing = vlm.begin(encoded, asked)
        steps = generate.decode(
            mode,
            writing,
            vlm.tokenizer,
            config.grid,
            labels,
            layout=config.layout,
            eos=(vlm.tokenizer.eos_token_id,),
            rule=self._rule(encoded, asked),
            cells=self._cells(writing, labels),
            stop=stop,
        )
        began = time.perf_counter()
        return steps, _UnderWay(encoded.photo, asked, config, refine or config.refiner, began, began - started + spent)

    def _rule(self, encoded: EncodedImage, asked: str | tuple[str, ...]) -> no_target.Rule | None:
        """When the checkpoint wants this called absent."""
        above = self.vlm.config.no_target_threshold
        return None if above is None else no_target.Rule(above, self.vlm.cell_similarity(encoded, asked))

    def _cells(self, writing: DecoderState, labels: Sequence[str]) -> cell_scores.Cells | None:
        """What the photo's cells say of these labels, where the checkpoint lets that count."""
        if writing.said is None:
            return None
        vlm, config = self.vlm, self.vlm.config
        logits = writing.said[:, vlm.first_token_ids(labels)].double().cpu().numpy()
        return cell_scores.Cells(logits.reshape(*config.grid, -1), config.cell_fusion_weight)


@dataclass(frozen=True)
class _UnderWay:
    """An answer under way: everything about it but the text."""

    photo: np.ndarray
    query: str | tuple[str, ...]
    config: CheckpointConfig
    refiner: str
    began: float
    prefill_seconds: float

    def prediction(self, step: generate.Step) -> Prediction:
        """Text so far → grid, masks, box and score. What is not yet written is not a fault."""
        written = time.perf_counter()
        grid, faults = read(step.text, self.config)
        confidence = step.confidence()
        refiner = self.refiner if step.ended else "none"
        started = time.perf_counter()
        masks = refine_grid(refiner, self.photo, grid, confidence if step.ended else None)
        stats = {
            "tokens": len(step.ids),
            "forwards": step.forwards,
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": written - self.began,
            "refine_seconds": time.perf_counter() - started,
            "ended": step.ended,
            "refiner": refiner,
            **({} if step.absent is None else {"absent": step.absent}),
        }
        faults = faults + disagreement_faults(refiner, grid, masks) if step.ended else ()
        return build_prediction(self.query, step.text, grid, masks, confidence, self.photo.shape[:2], faults, stats)


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
