"""The model behind the app: photos come as paths, answers are `Prediction`s. Knows no gradio and no browser.

On ZeroGPU each call runs in a process forked from the app's: arguments and results are pickled, the model is inherited
and never sent, and what a call keeps in memory is lost when it ends. Elsewhere the last photos stay encoded, so that a
second phrase is answered at once.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from t4s.app.downloads import ResultsZip
from t4s.app.suggestions import names_in_photo
from t4s.codec import DescriptorGrid
from t4s.errors import QueryError, T4SError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_BATCH
from t4s.records import Prediction
from t4s.refine import sam
from t4s.refine.refiner import check_refiner
from t4s.segmenter.queries import check_query
from t4s.segmenter.segmenter import Segmenter

ENCODED_BYTES = 256_000_000  # photos that stay encoded
SUGGESTED_NAMES = 8  # names offered for a photo
KEPT_ANSWERS = 48  # answers to examples: eight photos on two tabs, three decodings
UPDATE_SECONDS = 0.08  # between two updates of a growing answer
REPLAY_SECONDS = 0.035  # a row, when a kept answer is shown again
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class InferenceService:
    """One model and what the app caches. `refiner`: a name of `t4s.refine` or "sam:SOURCE"; "": the checkpoint's.

    A SAM that is the app's own refiner is loaded at once: forked processes inherit it, and a wrong name ends the start.
    """

    def __init__(self, segmenter: Segmenter, refiner: str = ""):
        config = segmenter.vlm.config
        self.segmenter, self.tokenizer = segmenter, segmenter.vlm.tokenizer
        self.layout, self.shape, self.metrics = "rows", tuple(config.grid), config.metrics
        self.known_names = tuple(getattr(config, "names", ()))
        self.refiner = refiner or config.refiner
        check_refiner(self.refiner)
        if source := sam_source(self.refiner):
            sam.load(source)
        self._encoded: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def write(
        self, path: str, query: str | list[str], refiner: str, decoding: str, stop_file: str = ""
    ) -> Iterator[Prediction]:
        """Predictions that grow; `query` is a phrase or a list of names. The last one's `stats["ended"]` says why.

        It stops as soon as `stop_file` exists (a file, because another process cannot see a variable).
        """

        def stop() -> bool:
            return bool(stop_file) and os.path.exists(stop_file)

        self.check(refiner)
        rows, shown, started = -1, 0.0, time.perf_counter()
        encoded = self.encode(path)
        seconds = time.perf_counter() - started
        for prediction in self.segmenter.stream(encoded, query, refine=refiner, decoding=decoding, stop=stop):
            done = prediction.text.count("\n")
            if prediction.stats["ended"] or done > rows or time.monotonic() - shown > UPDATE_SECONDS:
                rows, shown = done, time.monotonic()
                prediction.stats["encode_seconds"] = seconds
                yield prediction

    def write_all(self, path: str, phrases: list[str], refiner: str) -> tuple[list[Prediction], str]:
        """(one Prediction a phrase, ""), or ([], what is wrong with this photo)."""
        try:
            self.check(refiner)
            return [self.segmenter(self.encode(path), phrase, refine=refiner) for phrase in phrases], ""
        except T4SError as problem:
            return [], str(problem)

    def refine(self, path: str, prediction: Prediction, refiner: str) -> Prediction:
        """The same answer with other masks; the language model does not run."""
        self.check(refiner)
        return self.segmenter.refine(prediction, open_photo(path), refiner)

    def names_seen(self, path: str, count: int = SUGGESTED_NAMES) -> list[str]:
        """The names that the photo shows, the surest first; [] for a checkpoint that was taught no names."""
        if not self.known_names:
            return []
        return names_in_photo(self.segmenter.vlm, self.encode(path))[:count]

    def keep_above(self, path: str, prediction: Prediction, threshold: float, refiner: str) -> Prediction:
        """The answer without the cells whose confidence is below `threshold` in [0, 1], refined again."""
        ids = np.where(prediction.confidence < threshold, 0, prediction.grid.ids)
        grid = DescriptorGrid(ids, prediction.grid.labels)
        return replace(self.refine(path, replace(prediction, grid=grid), refiner), status=prediction.status)

    def encode(self, path: str) -> Any:
        """The encoded photo, from memory if it is among the last ENCODED_BYTES."""
        with self._lock:
            if path in self._encoded:
                self._encoded.move_to_end(path)
                return self._encoded[path]
        encoded = self.segmenter.encode(path)
        with self._lock:
            self._encoded[path] = encoded
            while len(self._encoded) > 1 and sum(kept.nbytes for kept in self._encoded.values()) > ENCODED_BYTES:
                self._encoded.popitem(last=False)
        return encoded

    def check(self, refiner: str) -> None:
        """Before anything expensive runs: does this refiner exist, and may visitors use it? Loads a SAM.

        Visitors name a SAM by its Hub id; only the operator names a folder of this machine (T4S_REFINER).
        Raises QueryError or CheckpointError.
        """
        check_refiner(refiner)
        source = sam_source(refiner)
        if source and refiner != self.refiner and (not _HUB_ID.fullmatch(source) or Path(source).exists()):
            raise QueryError(f"{source!r} is not a Hub id; name a SAM as owner/name, such as {sam.DEFAULT_SAM!r}.")
        if source:
            sam.load(source)


def available_refiners(default: str) -> list[str]:
    """The refiners that can be chosen, `default` first: CRF needs its package; "sam" stands for any SAM."""
    crf = ["crf"] if find_spec("pydensecrf") else []
    return list(dict.fromkeys([default.partition(":")[0], "edge", "smooth", "guided", *crf, "sam", "none"]))


def sam_source(refiner: str) -> str:
    """The Hub id or folder of "sam" and "sam:SOURCE"; "" for any other refiner."""
    kind, _, source = refiner.partition(":")
    return (source or sam.DEFAULT_SAM) if kind == "sam" else ""


def gpu_seconds(path: str, query: Any, *_: Any) -> int:
    """GPU seconds to ask for: a big model writes a row in about a second, a list of names has longer rows.

    For `write` and `write_all`: a list may be names of one answer or phrases of many, and both take longer.
    """
    return 30 if isinstance(query, str) else min(120, 40 + 4 * len(query))


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
    """Yields (photos done, photos in all, path of the last one, its answers), from 0 photos on, and fills `results`.

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
    yield 0, len(paths), "", []
    for done, path in enumerate(paths, 1):
        answers, problem = write_all(path, wanted, refiner)
        if problem:
            results.fail(Path(path).name, problem)
        else:
            results.add(Path(path).name, answers)
        yield done, len(paths), path, answers
