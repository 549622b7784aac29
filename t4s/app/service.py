"""The model behind the app: photos come as paths, answers are `Prediction`s. Knows no gradio and no browser.

On ZeroGPU each call runs in a process forked from the app's: arguments and results are pickled, the model is inherited
and never sent, and what a call keeps in memory is lost when it ends. Elsewhere the last photos stay encoded, so that a
second phrase is answered at once.

A forked process has none of its parent's threads. torch does not know that and waits for its own for ever, once the
parent has used them; with one thread it needs no other, so every fork is set to one. Locks may be held by threads that
are gone: a fork takes none here.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t4s.app.downloads import ResultsZip
from t4s.app.suggestions import NO_NAMES, Suggestions, suggest
from t4s.codec import DescriptorGrid
from t4s.errors import QueryError, T4SError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_BATCH, MAX_BYTES, MAX_LIST_SECONDS, MAX_SECONDS, MAX_TOKENS
from t4s.records import Prediction
from t4s.refine import sam
from t4s.refine.refiner import check_refiner
from t4s.segmenter.queries import check_query
from t4s.segmenter.segmenter import Segmenter

ENCODED_BYTES = 256_000_000  # photos that stay encoded
STREAMED_SIDE = 1024  # pixels a side, from twice of which on growing answers are painted on fewer pixels
SUGGESTED_NAMES = 8  # names offered for a photo
KEPT_ANSWERS = 48  # answers to examples: eight photos on two tabs, three decodings
UPDATE_SECONDS = 0.08  # between two updates of a growing answer
PHRASES_AT_ONCE = 4  # of a batch, in one call of the model
REPLAY_SECONDS = 0.035  # a row, when a kept answer is shown again
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)

if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=partial(torch.set_num_threads, 1))


class InferenceService:
    """One model and what the app caches. `refiner`: a name of `t4s.refine` or "sam:SOURCE"; "": the checkpoint's.

    `sams`: Hub ids or folders of the SAMs that visitors may choose besides; None: any of the Hub, for an app that
    only its operator uses. The app's own SAM and those of a list are loaded at once: no visitor waits for one, forked
    processes inherit them, and a wrong name ends the start, as does a refiner whose package is missing.
    """

    def __init__(self, segmenter: Segmenter, refiner: str = "", sams: Sequence[str] | None = ()):
        self.segmenter, self.tokenizer = segmenter, segmenter.vlm.tokenizer
        self.config = config = segmenter.vlm.config
        self.layout, self.shape, self.metrics = "rows", tuple(config.grid), config.metrics
        self.known_names = tuple(getattr(config, "names", ()))
        self.refiner = refiner or config.refiner
        check_refiner(self.refiner)
        own = sam_source(self.refiner)
        if own:
            self.refiner = f"sam:{own}"
        self.any_sam = sams is None
        self.sams = tuple(dict.fromkeys([*([own] if own else []), *(sams or ())]))
        for source in self.sams:
            sam.load(source)
        self._encoded: OrderedDict[str, Any] = OrderedDict()
        self._lock, self._process = threading.Lock(), os.getpid()

    def write(
        self, path: str, query: str | list[str], refiner: str, decoding: str, stop_file: str = ""
    ) -> Iterator[Prediction]:
        """Predictions that grow; `query` is a phrase or a list of names. The last one's `stats["ended"]` says why.

        It stops as soon as `stop_file` exists (a file, because another process cannot see a variable), and ends as
        "truncated" when it has taken the seconds or the tokens of `limits`.
        """

        refiner = self.resolve(refiner)
        rows, shown, started = -1, 0.0, time.perf_counter()
        encoded = self.encode(path)
        seconds = time.perf_counter() - started
        budget = Budget(answer_seconds(query), stop_file)
        for prediction in self._grow(encoded, query, refiner, decoding, budget):
            done = prediction.text.count("\n")
            if prediction.stats["ended"] or done > rows or time.monotonic() - shown > UPDATE_SECONDS:
                rows, shown = done, time.monotonic()
                prediction.stats["encode_seconds"] = seconds
                yield prediction

    def _grow(
        self, encoded: Any, query: str | list[str], refiner: str, decoding: str, budget: Budget
    ) -> Iterator[Prediction]:
        """Every step of an answer; the growing ones are painted on few pixels."""
        small = _small(encoded)
        first_refiner = refiner if small is encoded else "none"
        for prediction in self.segmenter.stream(
            small, query, refine=first_refiner, decoding=decoding, stop=budget.is_over
        ):
            budget.count(prediction)
            if prediction.stats["ended"] and small is not encoded:
                status = prediction.status
                prediction = replace(self.segmenter.refine(prediction, encoded, refiner), status=status)
            yield prediction

    def write_all(self, path: str, phrases: list[str], refiner: str) -> tuple[list[Prediction], str]:
        """(one Prediction a phrase, ""), or ([], what is wrong with this photo)."""
        until = time.monotonic() + answer_seconds(phrases)
        try:
            refiner, encoded = self.resolve(refiner), self.encode(path)
            answers = []
            for phrase in phrases:
                budget = Budget(min(MAX_SECONDS, until - time.monotonic()))
                for answer in self._grow(encoded, phrase, refiner, "fast", budget):
                    last = answer
                answers.append(last)
            return answers, ""
        except T4SError as problem:
            return [], str(problem)

    def refine(self, path: str, prediction: Prediction, refiner: str) -> Prediction:
        """The same answer with other masks; the language model does not run."""
        refiner = self.resolve(refiner)
        return replace(self.segmenter.refine(prediction, open_photo(path), refiner), status=prediction.status)

    def suggest(self, path: str) -> Suggestions:
        """The names that the photo shows; nothing for a checkpoint that was taught no names."""
        return suggest(self.segmenter.vlm, self.encode(path), SUGGESTED_NAMES) if self.known_names else NO_NAMES

    def keep_above(self, path: str, prediction: Prediction, threshold: float, refiner: str) -> Prediction:
        """The answer without the cells whose confidence is below `threshold` in [0, 1], refined again."""
        ids = np.where(prediction.confidence < threshold, 0, prediction.grid.ids)
        grid = DescriptorGrid(ids, prediction.grid.labels)
        return self.refine(path, replace(prediction, grid=grid), refiner)

    def encode(self, path: str) -> Any:
        """The encoded photo, from memory if it is among the last ENCODED_BYTES."""
        key = _digest(path)
        if os.getpid() != self._process:  # forked: nothing that is kept here would last
            return self._encoded.get(key) or self.segmenter.encode(path)
        with self._lock:
            if key in self._encoded:
                self._encoded.move_to_end(key)
                return self._encoded[key]
        encoded = self.segmenter.encode(path)
        with self._lock:
            self._encoded[key] = encoded
            while len(self._encoded) > 1 and sum(kept.nbytes for kept in self._encoded.values()) > ENCODED_BYTES:
                self._encoded.popitem(last=False)
        return encoded

    def resolve(self, refiner: str) -> str:
        """The refiner's full name, if visitors may use it; checked before anything expensive runs.

        "" is the app's own and "sam" its first SAM. Whatever is not offered is refused in the same words, whether it
        exists or not. Raises QueryError, and CheckpointError for a SAM of the Hub that cannot be loaded.
        """
        source = (*self.sams, sam.DEFAULT_SAM)[0] if refiner == "sam" else sam_source(refiner)
        full = f"sam:{source}" if source else refiner or self.refiner
        if full in self.refiners:
            return full
        if not (self.any_sam and source):
            raise QueryError(f"The refiner {refiner!r} is not offered here; choose one of {', '.join(self.refiners)}.")
        if not _HUB_ID.fullmatch(source) or Path(source).exists():
            raise QueryError(f"{source!r} is not a Hub id; name a SAM as owner/name, such as {sam.DEFAULT_SAM!r}.")
        sam.load(source)
        return full

    @property
    def refiners(self) -> list[str]:
        """The refiners that are offered, the app's own first; each SAM as "sam:SOURCE"."""
        crf = ["crf"] if find_spec("pydensecrf") else []
        sams = [f"sam:{source}" for source in self.sams]
        return list(dict.fromkeys([self.refiner, "edge", "smooth", "guided", *crf, *sams, "none"]))


class Budget:
    """When an answer has to end: someone asks for it, or it has taken its seconds or its tokens."""

    def __init__(self, seconds: float, stop_file: str = ""):
        self._until, self._stop_file = time.monotonic() + seconds, stop_file
        self._tokens = 0

    def is_over(self) -> bool:
        """Asked between two passes."""
        return self._is_spent() or (bool(self._stop_file) and os.path.exists(self._stop_file))

    def count(self, prediction: Prediction) -> None:
        """Takes note of what is written; an answer that ended for lack of budget is "truncated"."""
        self._tokens = prediction.stats["tokens"]
        if prediction.stats["ended"] == "stopped" and self._is_spent():
            prediction.stats["ended"] = "truncated"

    def _is_spent(self) -> bool:
        return time.monotonic() > self._until or self._tokens > MAX_TOKENS


def _digest(path: str) -> str:
    """What stands for the contents of a file: a path may hold another photo later, and a photo have several paths."""
    try:
        with open(path, "rb") as file:
            return hashlib.blake2b(file.read(MAX_BYTES + 1), digest_size=16).hexdigest()
    except (OSError, ValueError):
        return path  # which cannot be opened as a photo either


def _small(encoded: Any) -> Any:
    """The encoded photo with fewer pixels, if it is large: growing answers are painted on it, the last on the photo."""
    height, width = encoded.photo.shape[:2]
    step = max(height, width) // STREAMED_SIDE
    return replace(encoded, photo=np.ascontiguousarray(encoded.photo[::step, ::step])) if step > 1 else encoded


def sam_source(refiner: str) -> str:
    """The Hub id or folder of "sam" and "sam:SOURCE"; "" for any other refiner."""
    kind, _, source = refiner.partition(":")
    return (source or sam.DEFAULT_SAM) if kind == "sam" else ""


def answer_seconds(query: str | list[str]) -> int:
    """Seconds that an answer may take. A list may be names of one answer or phrases of many: both take longer."""
    return MAX_SECONDS if isinstance(query, str) else min(MAX_LIST_SECONDS, 35 + 4 * len(query))


def gpu_seconds(path: str, query: Any, *_: Any) -> int:
    """GPU seconds to ask for, for `write` and `write_all`: the answer's own, and some for photo and masks."""
    return answer_seconds(query) + 5


class ExampleAnswers:
    """The last answers to examples, so that the next visitor's click needs no model. In the app's own process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Any, Prediction] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any) -> Prediction | None:
        with self._lock:
            return self._kept.get(key)

    def keep(self, key: Any, answer: Prediction) -> None:
        with self._lock:
            self._kept[key] = answer
            while len(self._kept) > KEPT_ANSWERS:
                self._kept.popitem(last=False)


def replay(answer: Prediction) -> Iterator[Prediction]:
    """A finished answer row by row, as it grew, and then whole."""
    lines = answer.text.split("\n")[:-1]
    for done in range(1, len(lines)):
        yield replace(answer, text="\n".join(lines[:done]) + "\n", stats=answer.stats | {"ended": ""})
        time.sleep(REPLAY_SECONDS)
    yield answer


def run_batch(
    write_all: Callable[..., tuple[list[Prediction], str]],
    paths: list[str] | None,
    phrases: str,
    refiner: str,
    results: ResultsZip,
) -> Iterator[tuple[int, int, str, list[Prediction]]]:
    """Yields (photos done, photos in all, path, its answers) after each photo, and fills `results`.

    While a photo is under way, and before the first one, path is "" and there are no answers.

    `phrases`: one a line. A photo that cannot be read becomes a row with its error, and the batch goes on.
    Raises QueryError before anything runs.
    """
    wanted = list(dict.fromkeys(line.strip() for line in phrases.splitlines() if line.strip()))
    if not paths or not wanted:
        raise QueryError("A batch needs at least one photo and one phrase, each phrase on a line of its own.")
    if len(paths) * len(wanted) > MAX_BATCH:
        raise QueryError(
            f"{len(paths)} photos times {len(wanted)} phrases are more than the {MAX_BATCH} masks of a batch; "
            "hand in fewer."
        )
    check_query(wanted)
    for done, path in enumerate(paths):
        answers: list[Prediction] = []
        for at in range(0, len(wanted), PHRASES_AT_ONCE):
            if at or not done:
                yield done, len(paths), "", []  # where a visitor who has left is noticed
            more, problem = write_all(path, wanted[at : at + PHRASES_AT_ONCE], refiner)
            answers = [] if problem else [*answers, *more]
            if problem:
                results.fail(Path(path).name, problem)
                break
        else:
            results.add(Path(path).name, answers)
        yield done + 1, len(paths), path, answers
