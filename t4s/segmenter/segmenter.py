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
from t4s.imaging.loading import open_photo, pixels_of
from t4s.limits import MAX_ANSWER
from t4s.models.loading import load
from t4s.models.tiny.scorer import scorer_for
from t4s.models.tiny.vision_tower import fold_towers
from t4s.models.vlm import VLM, DecoderState, EncodedImage
from t4s.records import Answer, Prediction
from t4s.refine.refiner import check_refiner
from t4s.segmenter import chat, class_lists
from t4s.segmenter.endpoint import SILENCE, TRIES, Endpoint
from t4s.segmenter.queries import Query, check_names, check_query
from t4s.segmenter.remote import CLASSES, RemoteImage, RemoteModel, RemoteStep
from t4s.segmenter.results import refine_again, refined_prediction
from t4s.segmenter.status import with_status

Encoded = EncodedImage | RemoteImage
Photo = str | Path | Image.Image | np.ndarray | Encoded


class Segmenter:
    """Image and query → `Prediction`. Make one with `from_pretrained` or `remote`."""

    def __init__(self, vlm: VLM | RemoteModel):
        self.vlm = vlm

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        revision: str | None = None,
        device: Any = None,
        dtype: Any = None,
        quantize: str | None = None,
    ) -> Segmenter:
        """None = the embedded checkpoint; else a folder or a Hub id (a full model or a LoRA adapter).

        device: anything torch accepts ("cpu", "cuda:1", 0, …), None: CUDA, else MPS, else the CPU; dtype: a torch dtype
        or its name; quantize: "4bit" or "8bit", CUDA only.
        Raises CheckpointError that says what to do.
        """
        vlm = load(source, revision, device, dtype, quantize)
        fold_towers(vlm.model)
        return cls(vlm)

    @classmethod
    def remote(
        cls,
        base_url: str,
        model: str | None = None,
        api_key: str | None = None,
        *,
        checkpoint: str | Path | None = None,
        revision: str | None = None,
        silence: float = SILENCE,
        tries: int = TRIES,
    ) -> Segmenter:
        """A checkpoint on an OpenAI-compatible server, asked as its own t4s.json says.

        base_url    such as http://127.0.0.1:8000/v1
        model       the server's name for it; None: `checkpoint`
        api_key     None: what the variable T4S_ENDPOINT_KEY has, if anything
        checkpoint  the folder or Hub id that has the t4s.json; None: `model`
        silence     seconds without a word after which a request is tried again, `tries` times in all

        Nothing is sent before the first question. Raises QueryError and CheckpointError; answers raise EndpointError.
        """
        source, name = checkpoint or model, model or checkpoint
        if source is None or name is None:
            raise QueryError("A server needs a model: name the folder or Hub id whose t4s.json says how to ask it.")
        return cls(RemoteModel(Endpoint(base_url, str(name), api_key, silence, tries), source, revision))

    def encode(self, image: Photo) -> Encoded:
        """The photo's part of the prompt, run once; give the result instead of the photo to any other method."""
        if isinstance(image, Encoded):
            return image
        sent = isinstance(self.vlm, RemoteModel)  # then as a new image, which has none of the file's metadata
        return self.vlm.encode(open_photo(image, copy=sent))

    def __call__(self, image: Photo, query: str, refine: str | None = None, decoding: str = "fast") -> Prediction:
        """Segments what the phrase means, as people type it (`queries`). `refine`: None: the checkpoint's own."""
        return self._answer(image, check_query(query, self.vlm.config), refine, decoding)

    def classes(
        self,
        image: Photo,
        names: Sequence[str],
        refine: str | None = None,
        decoding: str = "fast",
        classes_per_query: int | None = None,
    ) -> Prediction:
        """Open-vocabulary semantic segmentation: each pixel gets one of the names, or "others".

        The list may have any length: `classes_per_query` names are asked in one question; None: as many as the
        checkpoint answers best, or, where its t4s.json does not say, as its context takes. What is asked in parts is
        merged by confidence, cell by cell (`class_lists`); the photo is encoded once. `text` is then that of the
        merged grid, and `stats` has `parts` and `invalid_parts` (those whose own text was not valid).
        """
        encoded, parts, seconds = self._parts(image, names, refine, decoding, classes_per_query)
        if len(parts) == 1:
            return self._answer(encoded, parts[0], refine, decoding, seconds)
        answers = [self._answer(encoded, part, "none", decoding) for part in parts]
        merged = class_lists.merge_predictions(encoded.photo, answers, refine or self.vlm.config.refiner, seconds)
        return with_status(merged, self.vlm.config)

    def refine(self, prediction: Prediction, image: Photo, refiner: str | None = None) -> Prediction:
        """The same text and grid with the masks of another refiner; the language model does not run.

        `image`: the photo that was asked about, in any form; `refiner` None: the checkpoint's own.
        """
        photo = image.photo if isinstance(image, Encoded) else pixels_of(open_photo(image, copy=False))
        return with_status(refine_again(prediction, photo, refiner or self.vlm.config.refiner), self.vlm.config)

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
        seconds = 0.0
        if isinstance(query, str):
            parts = [check_query(query, self.vlm.config)]
        else:
            image, parts, seconds = self._parts(image, query, refine, decoding)
        if len(parts) == 1:
            steps, running = self._begin(image, parts[0], refine, decoding, stop, seconds)
            for step in steps:
                yield with_status(running.prediction(step), self.vlm.config)
            return
        answers: list[Prediction] = []
        for part in parts:
            steps, running = self._begin(image, part, "none", decoding, stop)
            for step in steps:
                last = running.prediction(step)
                if not last.stats["ended"]:
                    yield class_lists.merge_predictions(image.photo, [*answers, last], "none", seconds)
            answers.append(last)
            if last.stats["ended"] == "stopped":
                break
        merged = class_lists.merge_predictions(image.photo, answers, refine or self.vlm.config.refiner, seconds)
        yield with_status(merged, self.vlm.config)

    def ask(self, image: Photo, question: str, refine: str | None = None, limit: int = MAX_ANSWER) -> Answer:
        """A question in free words to a checkpoint that chats; the answer may hold any number of grids.

        Every `<seg>` of the answer is read as a grid of the checkpoint's size and refined; what is unfinished or
        faulty is repaired and reported in the span's `faults`. The answer is plain greedy text of at most `limit`
        tokens, or as many as the model's context leaves. Raises QueryError, and CheckpointError for a checkpoint that
        does not chat (`chat.check_chats`).
        """
        vlm, started = self.vlm, time.perf_counter()
        if isinstance(vlm, RemoteModel):
            raise QueryError("Free questions are asked of checkpoints that run here; load it without an endpoint.")
        chat.check_chats(vlm)
        asked = chat.check_question(question, vlm)
        refiner = refine or vlm.config.refiner
        check_refiner(refiner)
        if limit < 1:
            raise QueryError(f"limit is {limit}; it is how many tokens an answer may have, 1 or more.")
        encoded, suffix = self.encode(image), vlm.suffix(asked)
        room = self._context - (encoded.next_position + len(suffix))
        if room < 1:
            raise QueryError(f"The question takes {len(suffix)} tokens and leaves no room for an answer; shorten it.")
        decoder = DecoderState(vlm, encoded, suffix, [])
        began = time.perf_counter()
        reply = chat.write(
            decoder,
            vocabulary(vlm.tokenizer),
            vlm.config.grid,
            limit=int(min(limit, room)),
            eos=chat.end_tokens(vlm),
            hidden=chat.special_tokens(vlm),
        )
        written = time.perf_counter()
        places = chat.places(reply.text)
        spans = tuple(chat.span(encoded.photo, reply.text, place, vlm, refiner) for place in places)
        stats = {
            "tokens": len(reply.ids),
            "forwards": reply.forwards,
            "prefill_seconds": began - started,
            "decode_seconds": written - began,
            "refine_seconds": time.perf_counter() - written,
            "ended": reply.ended,
        }
        return Answer(asked, reply.text, spans, stats)

    def _answer(self, image: Photo, query: Query, refine: str | None, mode: str, seconds: float = 0.0) -> Prediction:
        steps, running = self._begin(image, query, refine, mode, seconds=seconds)
        return with_status(running.prediction(generate.last_step(steps)), self.vlm.config)

    def _begin(
        self,
        image: Photo,
        query: Query,
        refine: str | None,
        mode: str,
        stop: Callable[[], bool] = lambda: False,
        seconds: float = 0.0,
    ) -> tuple[Iterator[generate.Step] | Iterator[RemoteStep], _Running]:
        """Everything is checked, photo and question go in; → the loop that will write the body.

        `seconds`: what the photo took before.
        """
        vlm, config, started = self.vlm, self.vlm.config, time.perf_counter()
        refiner, similarity = refine or config.refiner, 0.0
        check_refiner(refiner)
        if isinstance(vlm, RemoteModel):
            vlm.check(mode, query.labels)
            encoded = self.encode(image)
            steps = vlm.write(encoded, query.asked, mode, stop)
        else:
            constraint = generate.check(mode, vlm.tokenizer, config.grid, query.labels)
            encoded = self.encode(image)
            decoder = vlm.begin(encoded, query.asked)
            scorer = scorer_for(vlm, encoded, decoder, query.asked, constraint)
            if scorer is not None and scorer.rule is not None:
                similarity = scorer.rule.cell_similarity
            eos = (vlm.tokenizer.eos_token_id,)
            steps = generate.decode(mode, decoder, constraint, eos=eos, scorer=scorer, stop=stop)
        began = time.perf_counter()
        return steps, _Running(encoded.photo, query, config.grid, refiner, began, began - started + seconds, similarity)

    def _parts(
        self, image: Photo, names: Sequence[str], refine: str | None, mode: str, classes_per_query: int | None = None
    ) -> tuple[Encoded, list[Query], float]:
        """The photo, the class list cut so that each part can be asked, and the seconds that the photo took."""
        config = self.vlm.config
        query = check_names(names, config)
        check_refiner(refine or config.refiner)
        if isinstance(self.vlm, RemoteModel):
            self.vlm.check(mode, query.labels)
        else:
            generate.check(mode, self.vlm.tokenizer, config.grid, query.labels)
        if classes_per_query is not None and classes_per_query < 1:
            raise QueryError(
                f"classes_per_query is {classes_per_query}; it is how many names are asked in one question, 1 or more."
            )
        most = classes_per_query or config.classes_per_query
        if most is None and isinstance(self.vlm, RemoteModel):
            most = CLASSES
        started = time.perf_counter()
        encoded = self.encode(image)
        seconds = time.perf_counter() - started

        def fits(part: Sequence[str]) -> bool:
            return self._fits(encoded, part, mode) if most is None else len(part) <= most

        return encoded, query.parts([len(part) for part in class_lists.parts(query.asked, fits)]), seconds

    def _fits(self, encoded: EncodedImage, names: Sequence[str], mode: str) -> bool:
        """True if the question and the answer to it stay within the positions that the model knows."""
        vlm, config = self.vlm, self.vlm.config
        suffix = vlm.suffix(vlm.question(tuple(names)))
        if config.positions == "cells":  # its answers lie apart from its questions, and their room is fixed
            return vlm.suffix_positions(len(suffix), encoded.next_position)[-1] < self._context
        constraint = generate.check(mode, vlm.tokenizer, config.grid, ("others", *names))
        answer = len(vlm.answer_ids()[0]) + class_lists.DENSEST * generate.token_limit(constraint)
        return encoded.next_position + len(suffix) + answer <= self._context

    @property
    def _context(self) -> float:
        """How many positions the language model knows; infinite where it does not say."""
        config = self.vlm.model.config.get_text_config()
        return getattr(config, "max_position_embeddings", None) or math.inf


@dataclass(frozen=True)
class _Running:
    """An answer under way: everything about it but the text."""

    photo: np.ndarray
    query: Query
    shape: tuple[int, int]
    refiner: str
    began: float
    prefill_seconds: float
    similarity: float  # of the photo's cells and the name asked for; 0 where that says nothing

    def prediction(self, step: generate.Step | RemoteStep) -> Prediction:
        """Text so far → grid, masks, box and score. What is not yet written is not a fault."""
        written = time.perf_counter()
        grid, faults = codec.repair(step.text, self.shape)
        stats = {
            "tokens": len(step.ids),
            "forwards": step.forwards,
            "prefill_seconds": self.prefill_seconds,
            "decode_seconds": written - self.began,
            "ended": step.ended,
        }
        if step.no_target is not None:
            stats["absent"] = step.no_target
        if self.similarity:
            stats["similarity"] = self.similarity
        unrated = isinstance(step, RemoteStep) and not step.probabilities
        if unrated:
            stats["probabilities"] = False
        return refined_prediction(
            self.query.typed,
            step.text,
            grid,
            step.confidence(),
            self.photo,
            self.refiner if step.ended else "none",
            faults if step.ended else (),
            stats,
            trust_confidence=bool(step.ended) and not unrated,
            asked=self.query.asked,
        )
