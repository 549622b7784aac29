"""What answers in an evaluation: a checkpoint that segments, one that chats, or the truth; and the mean-mask baseline.

A predictor takes all queries about one photo and gives, for each, an answer and None, or None and why the query was
refused. `info` is what the results say about it, `state` a digest of the files that its answers depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from t4s import codec
from t4s.errors import DataError, EndpointError, QueryError
from t4s.records import build_prediction

if TYPE_CHECKING:
    from t4s.data.vqa import Question
    from t4s.evaluation.arguments import EvalConfig, OracleMode
    from t4s.models.vlm import VLM
    from t4s.records import Answer, Prediction, Sample
    from t4s.segmenter.segmenter import Segmenter

MAX_REPLY = 128  # tokens of a reply to a VQA question: what asks for a word and takes more is truncated, and counted
ORACLE_GRID = (16, 16)


@dataclass(frozen=True)
class PredictorInfo:
    """What the results say about a predictor; None where it does not apply. `grid`: (rows, columns)."""

    checkpoint: str  # without this machine's folders
    revision: str | None = None
    oracle: str | None = None
    device: str | None = None
    dtype: str | None = None
    refine: str | None = None
    decoding: str | None = None
    grid: tuple[int, int] | None = None
    classes_per_query: int | None = None
    max_reply: int | None = None
    image_size: int | None = None


class Predictor(Protocol):
    """`shape`: (rows, columns) of its grids."""

    info: PredictorInfo
    state: str
    shape: tuple[int, int]

    def answers(
        self, queries: Sequence[Sample] | Sequence[Question]
    ) -> Iterator[tuple[Prediction | Answer | None, str | None]]:
        """One answer per query; at least one query, all about one photo."""
        ...


class SegmenterPredictor:
    """A checkpoint. The queries about one photo share its encoding."""

    def __init__(self, config: EvalConfig):
        from t4s.models.checkpoint import find
        from t4s.segmenter.segmenter import Segmenter

        if config.endpoint is None:
            device = device_for(config.device)
            self._segmenter = Segmenter.from_pretrained(config.checkpoint, config.revision, device, config.dtype)
            self.state = checkpoint_state(find(config.checkpoint, config.revision))
            info = _checkpoint_info(config, self._segmenter)
        else:
            self._segmenter = Segmenter.remote(
                config.endpoint, config.model, checkpoint=config.checkpoint, revision=config.revision
            )
            self.state, info = _remote_state(config), _remote_info(config)
        checkpoint = self._segmenter.vlm.config
        self._classes_per_query = config.classes_per_query
        self.shape = (checkpoint.grid[0], checkpoint.grid[1])
        self.info = replace(
            info,
            refine=config.refine or checkpoint.refiner,
            decoding=config.decoding,
            grid=self.shape,
            classes_per_query=config.classes_per_query,
        )

    def answers(self, queries: Sequence[Sample]) -> Iterator[tuple[Prediction | None, str | None]]:
        encoded = self._segmenter.encode(queries[0].image)
        how = {"refine": self.info.refine, "decoding": self.info.decoding}
        for sample in queries:
            try:
                if isinstance(sample.query, str):
                    prediction = self._segmenter(encoded, sample.query, **how)
                else:
                    prediction = self._segmenter.classes(
                        encoded, sample.query, classes_per_query=self._classes_per_query, **how
                    )
                yield prediction, None
            except QueryError as error:
                yield None, str(error)
            except EndpointError as error:
                if error.concerns != "photo":
                    raise
                yield None, str(error)


class ChatPredictor:
    """A checkpoint, or a base model that was never fine-tuned, that answers VQA questions in free text: greedy."""

    shape = (1, 1)  # it draws no masks

    def __init__(self, config: EvalConfig):
        from t4s.models.checkpoint import FORMAT_FILE, find
        from t4s.segmenter import chat
        from t4s.segmenter.segmenter import Segmenter

        folder, device = find(config.checkpoint, config.revision), device_for(config.device)
        if (folder / FORMAT_FILE).is_file():
            self._segmenter = Segmenter.from_pretrained(config.checkpoint, config.revision, device, config.dtype)
        else:  # to see what fine-tuning changed, a base is queried as training would start from it
            self._segmenter = Segmenter(base_vlm(config, device))
        chat.check_chats(self._segmenter.vlm)
        self.state = checkpoint_state(folder)
        self.info = replace(
            _checkpoint_info(config, self._segmenter),
            decoding="free",
            max_reply=MAX_REPLY,
            image_size=self._segmenter.vlm.config.image_size,
        )

    def answers(self, queries: Sequence[Question]) -> Iterator[tuple[Answer | None, str | None]]:
        from t4s import prompts

        encoded = self._segmenter.encode(queries[0].image)
        for question in queries:
            prompt = prompts.question(prompts.FREE_QUESTION, question.question)
            try:
                yield self._segmenter.ask(encoded, prompt, refine="none", limit=MAX_REPLY), None
            except QueryError as error:
                yield None, str(error)


class OraclePredictor:
    """The true grids, refined, or the true masks: what is lost even if the model is perfect."""

    state = ""

    def __init__(self, mode: OracleMode, shape: tuple[int, int] = ORACLE_GRID, refiner: str | None = None):
        from t4s.refine.refiner import DEFAULT

        self._mode = mode
        self._refiner = refiner or DEFAULT
        self.shape = shape
        refine = self._refiner if mode == "grid" else None
        self.info = PredictorInfo(f"oracle {mode}", oracle=mode, grid=shape, refine=refine)

    def answers(self, queries: Sequence[Sample]) -> Iterator[tuple[Prediction | None, str | None]]:
        return ((self.predict(sample), None) for sample in queries)

    def predict(self, sample: Sample) -> Prediction:
        """What a perfect model would answer."""
        from t4s.refine.refiner import refine

        grid, size = sample.grid(self.shape), sample.class_map.shape
        if self._mode == "grid":
            masks = refine(self._refiner, np.asarray(sample.image), grid)
        else:
            masks = {sample.labels[k]: sample.class_map == k for k in np.unique(sample.class_map) if k > 0}
        certain = np.ones(self.shape, np.float32)
        names = sample.labels[1:]
        asked = names[0] if isinstance(sample.query, str) else names
        prediction = build_prediction(sample.query, codec.encode(grid), grid, masks, certain, size, asked=asked)
        if self._mode == "mask" and sample.box is not None:  # the official box is the true one
            return replace(prediction, box=sample.box)
        return prediction


class MeanMasks:
    """The baseline that knows the class and never sees the photo: the mean true grid of each (source, label).

    The mean is cut at the threshold with the best pooled IoU on the photos it was made from.
    """

    def __init__(self, shape: tuple[int, int]):
        self.shape = shape
        self.sums: dict[tuple[str, str] | None, np.ndarray] = {}  # None: all phrases together
        self.photos: dict[tuple[str, str] | None, int] = {}

    def add(self, sample: Sample) -> None:
        if isinstance(sample.query, str) and not sample.absent:
            cells = sample.grid(self.shape).ids > 0
            for key in ((sample.source, sample.labels[1]), None):
                self.sums[key] = self.sums.get(key, 0) + cells.astype(np.int64)
                self.photos[key] = self.photos.get(key, 0) + 1

    def to_json(self) -> str:
        keys = sorted(self.sums, key=lambda key: key or ())
        return json.dumps([self.shape, [[key, self.photos[key], self.sums[key].ravel().tolist()] for key in keys]])

    @classmethod
    def from_json(cls, text: str) -> MeanMasks:
        shape, rows = json.loads(text)
        means = cls((shape[0], shape[1]))
        for pair, photos, sums in rows:
            key = None if pair is None else (pair[0], pair[1])
            means.photos[key] = photos
            means.sums[key] = np.array(sums, np.int64).reshape(shape)
        return means

    def cells(self, sample: Sample) -> np.ndarray:
        """(H, W) bool for a phrase: its own mean mask if there is one, else that of all phrases.

        Of all thresholds the one with the highest pooled IoU is taken: with the k fullest cells marked in each of n
        photos, I is what they hold and U is n k plus what they miss. DataError if no phrase was added at all.
        """
        key: tuple[str, str] | None = (sample.source, sample.labels[1])
        if key not in self.sums:
            key = None
        if key not in self.sums:
            raise DataError("The mean-mask baseline has no phrase with a target; name a split that has some.")
        sums = self.sums[key].ravel()
        fullest = np.argsort(-sums, kind="stable")
        inter = np.cumsum(sums[fullest])
        union = self.photos[key] * np.arange(1, sums.size + 1) + inter[-1] - inter
        marked = np.zeros(sums.size, bool)
        marked[fullest[: int(np.argmax(inter / union)) + 1]] = True
        return marked.reshape(self.shape)


def base_vlm(config: EvalConfig, device: str | None) -> VLM:
    """A base model without a `t4s.json`, with photos of the size that training would give it."""
    from t4s.models import create
    from t4s.models.loading import resolve_device, resolve_dtype

    place = resolve_device(device)
    dtype = resolve_dtype(config.dtype, place)
    vlm = create.base(config.checkpoint, config.revision, dtype=dtype, device=place)
    vlm.model.eval().requires_grad_(False)
    return vlm


def device_for(device: str | None) -> str | None:
    """The device that was named; under torchrun, where none was, each process on a machine takes a GPU of its own."""
    import torch

    if device is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return device


def checkpoint_state(folder: Path) -> str:
    """Changes when a checkpoint's weights or settings do; published figures in its t4s.json do not count."""
    from t4s.models.checkpoint import FORMAT_FILE, fingerprint

    digest = hashlib.sha256(fingerprint(folder).encode())
    for file in sorted(folder.glob("*.json")):
        content = file.read_bytes()
        if file.name == FORMAT_FILE:
            settings = json.loads(content)
            settings.pop("metrics", None)
            content = json.dumps(settings, sort_keys=True).encode()
        digest.update(f"{file.name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:16]


def _remote_state(config: EvalConfig) -> str:
    """What is known here of a checkpoint on a server: its name there and its settings, but not its weights."""
    from t4s.segmenter.remote import find_format

    file = find_format(str(config.checkpoint or config.model), config.revision)
    return hashlib.sha256(f"{config.model} ".encode() + file.read_bytes()).hexdigest()[:16]


def _remote_info(config: EvalConfig) -> PredictorInfo:
    from t4s.hub import public

    return PredictorInfo(public(str(config.checkpoint or config.model)), revision=config.revision, device="endpoint")


def _checkpoint_info(config: EvalConfig, segmenter: Segmenter) -> PredictorInfo:
    from t4s.hub import public

    model = segmenter.vlm.model
    return PredictorInfo(
        public(config.checkpoint or "t4s-tiny"),
        revision=config.revision,
        device=model.device.type,
        dtype=str(model.dtype).removeprefix("torch."),
    )
