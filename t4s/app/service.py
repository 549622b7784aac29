"""What the app asks of a model: photos come as paths, answers are `Prediction`s. Knows no gradio and no browser.

On ZeroGPU each of these calls is a process of its own, forked from the app's: arguments and results are pickled, the
model is inherited and never sent, and what a call keeps in memory is gone with it. Elsewhere the last photos stay
encoded, so that a second phrase answers at once.
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
from t4s.errors import QueryError, T4SError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_BATCH
from t4s.records import Prediction, box_of, union
from t4s.refine import sam
from t4s.refine.refiner import check_refiner, disagreement_faults
from t4s.refine.refiner import refine as refine_grid
from t4s.segmenter.reading import read
from t4s.segmenter.segmenter import Segmenter, check_query

ENCODED_BYTES = 256_000_000  # photos that stay encoded
KEPT_ANSWERS = 48  # to examples: eight photos on two tabs, three decodings
DRAW_EVERY = 0.08  # seconds between two looks at a growing answer
REPLAY_ROW = 0.035  # seconds a row, when a kept answer is shown again
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


class InferenceService:
    """One model and what the app keeps about it. `refiner`: a name of refiner.py or "sam:SOURCE"; "": the checkpoint's.

    A SAM that is the app's own refiner is loaded at once: so it is inherited too, and a wrong name stops the start.
    """

    def __init__(self, segmenter: Segmenter, refiner: str = ""):
        config = segmenter.vlm.config
        self.segmenter, self.tokenizer = segmenter, segmenter.vlm.tokenizer
        self.layout, self.shape, self.metrics = config.layout, tuple(config.grid), config.metrics
        self.refiner = refiner or config.refiner
        check_refiner(self.refiner)
        if source := sam_source(self.refiner):
            sam.load(source)
        self._encoded: OrderedDict[str, Any] = OrderedDict()
        self._lock = threading.Lock()

    def write(
        self, path: str, query: str | list[str], refiner: str, decoding: str, flag: str = ""
    ) -> Iterator[Prediction]:
        """Predictions that grow; `query` is a phrase or a list of names. The last one's `stats["ended"]` says why.

        It stops as soon as there is a file `flag` (a file, because another process cannot see a variable).
        """

        def stop() -> bool:
            return bool(flag) and os.path.exists(flag)

        self.check(refiner)
        rows, shown, started = -1, 0.0, time.perf_counter()
        encoded = self.encode(path)
        seconds = time.perf_counter() - started
        for prediction in self.segmenter.stream(encoded, query, refine=refiner, decoding=decoding, stop=stop):
            done = prediction.text.count("\n")
            if prediction.stats["ended"] or done > rows or time.monotonic() - shown > DRAW_EVERY:
                rows, shown = done, time.monotonic()
                prediction.stats["encode_seconds"] = seconds
                yield prediction

    def write_all(self, path: str, phrases: list[str], refiner: str) -> tuple[list[Prediction], str]:
        """(one Prediction a phrase, "") or ([], what is wrong with this photo)."""
        try:
            self.check(refiner)
            return [self.segmenter(self.encode(path), phrase, refine=refiner) for phrase in phrases], ""
        except T4SError as problem:
            return [], str(problem)

    def refine(self, path: str, prediction: Prediction, refiner: str) -> Prediction:
        """The same answer with other masks; the language model is not asked."""
        self.check(refiner)
        _, faults = read(prediction.text, self.segmenter.vlm.config)
        started = time.perf_counter()
        masks = refine_grid(refiner, np.asarray(open_photo(path)), prediction.grid, prediction.confidence)
        mask = union(masks, prediction.mask.shape)
        faults += disagreement_faults(refiner, prediction.grid, masks)
        stats = prediction.stats | {"refine_seconds": time.perf_counter() - started, "refiner": refiner}
        return replace(prediction, masks=masks, mask=mask, box=box_of(mask), faults=faults, stats=stats)

    def encode(self, path: str) -> Any:
        """The photo as the model sees it, from memory if it was among the last ENCODED_BYTES."""
        with self._lock:
            if path in self._encoded:
                self._encoded.move_to_end(path)
                return self._encoded[path]
        encoded = self.segmenter.encode(path)
        with self._lock:
            self._encoded[path] = encoded
            while len(self._encoded) > 1 and sum(each.nbytes for each in self._encoded.values()) > ENCODED_BYTES:
                self._encoded.popitem(last=False)
        return encoded

    def check(self, refiner: str) -> None:
        """Before anything expensive runs: is there such a refiner, and may visitors have it? Loads a SAM.

        Visitors name a SAM by its Hub id; a folder of this machine is for who starts the app (T4S_REFINER) to name.
        Raises QueryError or CheckpointError.
        """
        check_refiner(refiner)
        source = sam_source(refiner)
        if source and refiner != self.refiner and (not _HUB_ID.fullmatch(source) or Path(source).exists()):
            raise QueryError(f"{source!r} is no Hub id; name a SAM as owner/name, such as {sam.DEFAULT_SAM!r}.")
        if source:
            sam.load(source)


def refiners(default: str) -> list[str]:
    """What can be chosen here, `default` first: CRF needs its package; "sam" stands for any SAM."""
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


class Answers:
    """The last answers to examples, so that the next visitor's click costs no model. In the app's own process."""

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
    """A finished answer as it grew, row by row, and then itself."""
    lines = answer.text.split("\n")[:-1]
    for done in range(1, len(lines)):
        yield replace(answer, text="\n".join(lines[:done]) + "\n", stats=answer.stats | {"ended": ""})
        time.sleep(REPLAY_ROW)
    yield answer


def batch(
    write_all: Callable[..., tuple[list[Prediction], str]],
    paths: list[str] | None,
    phrases: str,
    refiner: str,
    box: ResultsZip,
) -> Iterator[tuple[int, int, str, list[Prediction]]]:
    """(photos done, of how many, the last one's path, its answers), photo by photo from none on, while `box` grows.

    `phrases` one a line. A photo that cannot be answered for is a row of `box` with its error, and the rest goes on.
    Raises QueryError before anything else.
    """
    wanted = list(dict.fromkeys(line.strip() for line in phrases.splitlines() if line.strip()))
    if not paths or not wanted:
        raise QueryError("A batch needs at least one photo and one phrase, each phrase on a line of its own.")
    if len(paths) * len(wanted) > MAX_BATCH:
        raise QueryError(f"{len(paths)} photos times {len(wanted)} phrases are more than the {MAX_BATCH} of a batch.")
    check_query(wanted)
    yield 0, len(paths), "", []
    for done, path in enumerate(paths, 1):
        answers, problem = write_all(path, wanted, refiner)
        if problem:
            box.fail(Path(path).name, problem)
        else:
            box.add(Path(path).name, answers)
        yield done, len(paths), path, answers
