"""What happens when someone uses a tab: show a photo, ask about it, stop, refine again, save.

`Model` is the service as the page calls it; `TabController` holds the event handlers of one tab. Both return plain
data for the components; `tabs` connects them.
"""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from t4s.app import downloads, examples, views
from t4s.app.components import ASSETS, as_gradio_error
from t4s.app.service import SUGGESTED_NAMES, ExampleAnswers, InferenceService, replay, sam_source
from t4s.app.suggestions import NO_NAMES, Suggestions, best_names
from t4s.errors import QueryError, T4SError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_LABELS, MAX_QUERY
from t4s.records import Prediction
from t4s.refine import sam
from t4s.segmenter.queries import check_query

HISTORY = 12  # answers that can be gone back to
ABANDONED = "abandoned"  # in the file that means "stop": nobody waits for the answer any more
PHRASE_EXAMPLE = partial(examples.example, ASSETS)


@dataclass(frozen=True, eq=False)
class Answered:
    """The answer on show: the photo's path, what the model answered, what is drawn of it, and the parts taken out.

    `shown` is `answer` after the confidence slider and the refiner; `removed` are indexes of `shown.parts`.
    """

    path: str
    answer: Prediction
    shown: Prediction
    removed: frozenset[int] = frozenset()
    threshold: float = 0.0


@dataclass(frozen=True, eq=False)
class Past:
    """An earlier answer without its masks, of which twelve would fill the memory; `thumbnail` is a data URL."""

    path: str
    answer: Prediction
    thumbnail: str

    def tells(self, answered: Answered) -> bool:
        """Whether this is the same answer, whatever its refiner and its parts on show."""
        now = answered.answer
        return (self.path, self.answer.query, self.answer.text) == (answered.path, now.query, now.text)


@dataclass(frozen=True)
class Model:
    """The service as the page calls it: whatever runs a model goes through a function of app.py.

    On ZeroGPU these functions run in processes of their own; elsewhere they are plain calls.
    """

    service: InferenceService
    write: Callable[..., Iterator[Prediction]]
    write_all: Callable[..., tuple[list[Prediction], str]]
    refine_on_gpu: Callable[..., Prediction]
    suggest: Callable[[str], Suggestions]

    def refine(self, path: str, answer: Prediction, refiner: str) -> Prediction:
        """The answer with other pixels. Only SAM is worth a GPU."""
        if sam_source(refiner):
            return self.refine_on_gpu(path, answer, refiner)
        return as_gradio_error(self.service.refine)(path, answer, refiner)


class TabController:
    """The event handlers of one tab. `read_query` makes a phrase, or a list of names, of what was typed.

    `example`: (photo, what is asked about it) of one of the examples, by its index.
    """

    def __init__(
        self,
        model: Model,
        read_query: Callable[[str], str | list[str]],
        example: Callable[[int], tuple[str, str]] = PHRASE_EXAMPLE,
    ):
        self.model, self.read_query, self.example = model, read_query, example
        self.example_answers = ExampleAnswers()

    def show_photo(self, path: str | None, answered: Answered | None = None) -> dict[str, Any]:
        """The photo under an empty grid, or under the answer about it, if that is kept.

        The sample drawing where there is no photo, or where it cannot be read.
        """
        if path is None:
            return views.sample_view(examples.DRAWING)
        if answered is not None and answered.path == path:
            refiner = answered.shown.stats.get("refiner", "")
            view, _ = self._redrawn(answered, answered.shown, refiner, answered.threshold)
            return view | {"removed": sorted(answered.removed)}
        try:
            return views.photo_view(*_preview(path), self.model.service.shape)
        except T4SError as problem:
            return views.sample_view(examples.DRAWING) | {"kind": "fault", "message": str(problem)}

    def check_phrase(self, photo: str | None, phrase: str, *others: Any) -> list[dict[str, Any]]:
        """One verdict a field: is there a photo, and can the phrase be asked?"""
        length = len(phrase.strip())
        if 1 <= length <= MAX_QUERY:
            refusal = self._refusal(phrase)
        else:
            refusal = f"Write what to find, in 1 to {MAX_QUERY} characters; this has {length}."
        return _verdicts(photo, refusal, len(others))

    def check_names(self, photo: str | None, names: str, *others: Any) -> list[dict[str, Any]]:
        """One verdict a field: is there a photo, and can the names be asked?"""
        given = views.names(names)
        longest = max(map(len, given), default=0)
        if 1 <= len(given) <= MAX_LABELS and longest <= MAX_QUERY:
            refusal = self._refusal(given)
        else:
            refusal = (
                f"Give 1 to {MAX_LABELS} names of up to {MAX_QUERY} characters, comma-separated; "
                f"there are {len(given)}, and the longest has {longest}."
            )
        return _verdicts(photo, refusal, len(others))

    def _refusal(self, query: str | list[str]) -> str:
        """Why this checkpoint cannot be asked this; "" if it can."""
        try:
            check_query(query, self.model.service.config)
        except QueryError as problem:
            return str(problem)
        return ""

    @as_gradio_error
    def start(self, path: str, *asked: Any) -> tuple[Any, ...]:
        """The empty grid, no answer, and the path of the file that will mean "stop"; the last one is abandoned."""
        abandon(asked[-1])
        view = views.photo_view(*_preview(path), self.model.service.shape)
        return views.waiting_view(view), None, str(downloads.scratch_file("stop"))

    @as_gradio_error
    def ask(self, path: str, query: str, refiner: str, sam_id: str, decoding: str, stop_file: str) -> Iterator[Any]:
        """(view, answer) as the answer grows; `gr.skip()` in place of an answer that is not finished."""
        refiner = full_refiner_name(refiner, sam_id)
        answers = self.model.write(path, self.read_query(query), refiner, decoding, stop_file)
        yield from self.show_answers(path, refiner, answers, stop_file)

    @as_gradio_error
    def ask_example(
        self, index: int, path: str, query: str, refiner: str, sam_id: str, decoding: str, stop_file: str
    ) -> Iterator[Any]:
        """As `ask`, but the first visitor's answer serves the others: the model runs once.

        What others will see is never made from what a client sent: photo and query have to be those of the example.
        """
        if not self._is_example(index, path, query):
            yield from self.ask(path, query, refiner, sam_id, decoding, stop_file)
            return
        key = index, decoding
        kept = self.example_answers.get(key)
        if kept is None:
            for view, answered in self.ask(path, query, refiner, sam_id, decoding, stop_file):
                yield view, answered
                if isinstance(answered, Answered) and answered.answer.stats["ended"] == "complete":
                    self.example_answers.keep(key, answered.answer)
            return
        refiner = full_refiner_name(refiner, sam_id)
        if kept.stats.get("refiner") != refiner:
            kept = self.model.refine(path, kept, refiner)
        yield from self.show_answers(path, refiner, replay(kept), stop_file)

    def _is_example(self, index: int, path: str | None, query: str) -> bool:
        if not isinstance(index, int) or not 0 <= index < len(examples.EXAMPLES) or path is None:
            return False
        photo, asked = self.example(index)
        return query == asked and Path(path).is_file() and filecmp.cmp(path, photo, shallow=False)

    def show_answers(
        self, path: str, refiner: str, answers: Iterator[Prediction], stop_file: str
    ) -> Iterator[tuple[Any, Any]]:
        """What the panels show and what is kept, answer by answer, until another takes their place."""
        url, _ = _preview(path)
        for answer in answers:
            if _is_abandoned(stop_file):
                yield gr.skip(), gr.skip()  # Gradio sends the last of them once more: it must not be an old view
                return
            if answer.stats["ended"]:
                view = views.finished_view(answer, url, self.model.service.layout, refiner)
                yield view, Answered(path, answer, answer)
            else:
                yield views.growing_view(answer, url, self.model.service.layout), gr.skip()

    @as_gradio_error
    def refine(self, photo: str | None, answered: Answered | None, refiner: str, sam_id: str) -> tuple[Any, Any]:
        """The answer on show with another refiner; nothing where no answer, or one about another photo, is kept."""
        if answered is None or answered.path != photo:
            return gr.skip(), gr.skip()
        refiner = full_refiner_name(refiner, sam_id)
        shown = self.model.refine(answered.path, answered.shown, refiner)
        return self._redrawn(answered, shown, refiner, answered.threshold)

    @as_gradio_error
    def keep_above(self, answered: Answered | None, event: gr.EventData) -> tuple[Any, Any]:
        """The answer without the cells below the slider's confidence, refined again; the model does not run."""
        if answered is None:
            return gr.skip(), gr.skip()
        threshold = min(1.0, max(0.0, float(event.threshold)))
        refiner = answered.shown.stats.get("refiner") or self.model.service.refiner
        if sam_source(refiner):
            refiner = "smooth"  # a SAM belongs on the GPU, and not behind a slider
        shown = as_gradio_error(self.model.service.keep_above)(answered.path, answered.answer, threshold, refiner)
        return self._redrawn(answered, shown, refiner, threshold)

    def _redrawn(self, answered: Answered, shown: Prediction, refiner: str, threshold: float) -> tuple[Any, Any]:
        url, _ = _preview(answered.path)
        view = views.finished_view(shown, url, self.model.service.layout, refiner, threshold)
        return view, Answered(answered.path, answered.answer, shown, threshold=threshold)

    @as_gradio_error
    def list_names(self, path: str | None) -> str:
        """The names that the photo shows, as a list to segment it by."""
        if path is None:
            raise QueryError("Choose a photo first; then its names can be listed.")
        names = self.model.suggest(path).names or self._best_names
        if not names:
            raise QueryError("This model says of no name that it knows it: write the names yourself.")
        return ", ".join(names)

    @as_gradio_error
    def suggest(self, path: str | None) -> dict[str, Any]:
        """The names that the photo shows, or that the checkpoint draws best; none for a photo that cannot be read."""
        if path is None:
            return self.choices()
        try:
            found = self.model.suggest(path)
        except (T4SError, gr.Error):  # the panels say what is wrong with the photo
            return self.choices()
        return self.choices(found if found.names else Suggestions(self._best_names))

    def choices(self, found: Suggestions = NO_NAMES) -> dict[str, Any]:
        """The value of the chips; without names a note, if there will be names for a photo."""
        words = sorted(self.model.service.known_names)
        return {
            "title": "What can I ask?",
            "items": [{"text": name} for name in found.names],
            "cells": list(found.cells),
            "note": "Names of what a photo shows come here." if words or self._best_names else "",
            "words": words,
            "examples": [phrase for _, phrase in examples.EXAMPLES],
        }

    @property
    def _best_names(self) -> tuple[str, ...]:
        return best_names(self.model.service.metrics, SUGGESTED_NAMES)

    def remember(self, answered: Answered | None, history: list[Past]) -> tuple[list[Past], dict[str, Any]]:
        """The history with the answer on show, newest first, and its thumbnails as choices.

        An answer that was stopped before it had drawn anything is left out.
        """
        if answered is not None and _is_kept(answered.answer) and all(not past.tells(answered) for past in history):
            light = replace(answered.answer, masks={}, mask=np.zeros((0, 0), bool))
            url = views.small_picture(_preview(answered.path)[0], answered.answer)
            history = [Past(answered.path, light, url), *history][:HISTORY]
        items = [{"text": views.query_text(past.answer), "image": past.thumbnail} for past in history]
        return history, {"title": "Answers", "items": items}

    @as_gradio_error
    def go_back(self, history: list[Past], stop_file: str, event: gr.EventData) -> tuple[Any, ...]:
        """(photo, phrase, view, answer) of an answer of the history; its masks are made again."""
        if not 0 <= int(event.index) < len(history):
            return (gr.skip(),) * 4
        abandon(stop_file)
        past = history[int(event.index)]
        refiner = past.answer.stats.get("refiner") or self.model.service.refiner
        refined = self.model.refine(past.path, past.answer, refiner)
        answer = replace(refined, stats=past.answer.stats, status=past.answer.status)
        view = views.finished_view(answer, _preview(past.path)[0], self.model.service.layout, refiner)
        return past.path, views.query_text(answer), view, Answered(past.path, answer, answer)


def _is_kept(answer: Prediction) -> bool:
    """Whether an answer is worth going back to."""
    return answer.present or answer.stats["ended"] != "stopped"


def full_refiner_name(refiner: str, sam_id: str) -> str:
    """The chosen refiner as the service takes it: "sam" becomes "sam:ID"."""
    return f"sam:{sam_id.strip() or sam.DEFAULT_SAM}" if refiner == "sam" else refiner


def remove_parts(answered: Answered | None, event: gr.EventData) -> Answered | None:
    """The parts that were taken out on the page are left out of downloads too."""
    if answered is None:
        return None
    removed = frozenset(int(index) for index in event.removed)
    return replace(answered, removed=removed)


def request_stop(stop_file: str | None) -> None:
    """Creates the file that the running answer looks for between two passes."""
    if stop_file and Path(stop_file).parent.is_dir():
        Path(stop_file).touch()


def abandon(stop_file: str | None) -> None:
    """Stops the running answer, of which nothing more is shown: another takes its place, or its photo is gone."""
    if stop_file and Path(stop_file).parent.is_dir():
        Path(stop_file).write_text(ABANDONED)


def _is_abandoned(stop_file: str) -> bool:
    return Path(stop_file).is_file() and Path(stop_file).read_text() == ABANDONED


@as_gradio_error
def save(kind: str, answered: Answered | None) -> str:
    """The path of a new file with the answer, in one of the formats of `downloads.FILES`."""
    if answered is None:
        raise QueryError("There is nothing to save yet: segment a photo first.")
    answer = views.without_parts(answered.shown, answered.removed)
    name, data = downloads.make(kind, answer, answered.path)
    file = downloads.scratch_file(name)
    file.write_bytes(data)
    return str(file)


def _verdicts(photo: str | None, refusal: str, others: int) -> list[dict[str, Any]]:
    """For the photo, the query, and so many other fields, which are always right."""
    has_photo = gr.validate(photo is not None, "Choose a photo first: drop one here, paste one, or take an example.")
    return [has_photo, gr.validate(not refusal, refusal), *(gr.validate(True, "") for _ in range(others))]


@lru_cache(maxsize=64)
def _preview(path: str) -> tuple[str, tuple[int, int]]:
    """(data URL, (h, w)) of an uploaded photo. Gradio's paths hold the file's digest, so a path is a photo."""
    photo = open_photo(path)
    return views.preview(photo), photo.size[::-1]
