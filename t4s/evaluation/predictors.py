"""Who answers in an evaluation: a checkpoint that draws, a checkpoint that talks, or the truth itself.

Each has `settings` (what the results say it was), `state` (what changes when its files do), and `answers`, which takes
the questions about one photo and gives for each an answer and None, or None and why the question was refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t4s.errors import QueryError

if TYPE_CHECKING:
    from t4s.data.vqa import Question
    from t4s.records import Answer, Prediction, Sample
    from t4s.segmenter.segmenter import Segmenter

MAX_REPLY = 128  # tokens of an answer to a VQA question: what asks for a word and takes more is cut, and counted


class Model:
    """A checkpoint. The questions about one photo share its encoding."""

    def __init__(self, options: argparse.Namespace):
        from t4s.models.checkpoint import find
        from t4s.segmenter.segmenter import Segmenter

        device = device_of(options.device)
        self.segmenter = Segmenter.from_pretrained(options.checkpoint, options.revision, device, options.dtype)
        config = self.segmenter.vlm.config
        self.layout, self.shape = "rows", tuple(config.grid)
        self.refiner, self.decoding, self.classes_per_query = (
            options.refine or config.refiner,
            options.decoding,
            options.classes_per_query,
        )
        self.state = fingerprint(find(options.checkpoint, options.revision))
        self.settings = settings_of(options, self.segmenter) | {
            "refine": self.refiner,
            "decoding": self.decoding,
            "grid": list(self.shape),
            "classes_per_query": self.classes_per_query,
        }

    def answers(self, samples: Sequence[Sample]) -> Iterator[tuple[Prediction | None, str | None]]:
        encoded = self.segmenter.encode(samples[0].image)
        for sample in samples:
            ask, more = self.segmenter, {}
            if not isinstance(sample.query, str):
                ask, more = self.segmenter.classes, {"classes_per_query": self.classes_per_query}
            try:
                yield ask(encoded, sample.query, refine=self.refiner, decoding=self.decoding, **more), None
            except QueryError as error:
                yield None, str(error)


class ChatPredictor:
    """A checkpoint, or a model before it became one, asked in free words: greedy, at most MAX_REPLY tokens."""

    layout, shape = "rows", (1, 1)

    def __init__(self, options: argparse.Namespace):
        from t4s.models.checkpoint import FORMAT_FILE, find
        from t4s.segmenter import chat
        from t4s.segmenter.segmenter import Segmenter

        folder, device = find(options.checkpoint, options.revision), device_of(options.device)
        if (folder / FORMAT_FILE).is_file():
            self.segmenter = Segmenter.from_pretrained(options.checkpoint, options.revision, device, options.dtype)
        else:  # to see what fine-tuning changed, a base is asked as training would start from it
            self.segmenter = Segmenter(untuned(options, device))
        chat.check_chats(self.segmenter.vlm)
        self.state = fingerprint(folder)
        self.settings = settings_of(options, self.segmenter) | {
            "refine": None,
            "decoding": "free",
            "max_reply": MAX_REPLY,
            "image_size": self.segmenter.vlm.config.image_size,
        }

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[Answer | None, str | None]]:
        from t4s import prompts

        encoded = self.segmenter.encode(questions[0].image)
        for question in questions:
            words = prompts.question(prompts.FREE_QUESTION, question.question)
            try:
                yield self.segmenter.ask(encoded, words, refine="none", limit=MAX_REPLY), None
            except QueryError as error:
                yield None, str(error)


class Oracle:
    """The true answers, as grids that are refined or as masks: what is left to lose once the model is perfect."""

    layout, state = "rows", None

    def __init__(self, options: argparse.Namespace):
        from t4s.refine.refiner import DEFAULT

        self.mode, self.shape = options.oracle, tuple(options.grid or (16, 16))
        self.refiner = options.refine or DEFAULT
        self.settings = {
            "checkpoint": f"oracle {self.mode}",
            "oracle": self.mode,
            "grid": list(self.shape),
            "refine": self.refiner if self.mode == "grid" else None,
        }

    def answers(self, samples: Sequence[Sample]) -> Iterator[tuple[Prediction | None, str | None]]:
        from t4s.evaluation.baselines import oracle

        return ((oracle(sample, self.mode, self.refiner, self.shape), None) for sample in samples)


def untuned(options: argparse.Namespace, device: str | None):
    """A base without a `t4s.json`, with photos of the size that training would give it."""
    import torch

    from t4s.errors import CheckpointError
    from t4s.models import create
    from t4s.models.loading import DTYPES

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = options.dtype or ("bfloat16" if device.startswith("cuda") and torch.cuda.is_bf16_supported() else "float32")
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype is one of {', '.join(DTYPES)}, not {dtype!r}.")
    vlm = create.base(options.checkpoint, options.revision, dtype=getattr(torch, dtype), device=device)
    vlm.model.eval().requires_grad_(False)
    return vlm


def settings_of(options: argparse.Namespace, segmenter: Segmenter) -> dict[str, Any]:
    """What every checkpoint's results say of it; the name without this machine's folders."""
    from t4s.hub import public

    model = segmenter.vlm.model
    return {
        "checkpoint": public(options.checkpoint or "t4s-tiny"),
        "revision": options.revision,
        "oracle": None,
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def device_of(wanted: str | None) -> str | None:
    """Each process on a machine takes a GPU of its own."""
    import torch

    if wanted is None and "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        return f"cuda:{int(os.environ['LOCAL_RANK']) % torch.cuda.device_count()}"
    return wanted


def fingerprint(folder: Path) -> str:
    """Changes when the checkpoint's files do: half a run with other weights must not be gone on with."""
    files = sorted(file for file in folder.iterdir() if file.suffix in (".safetensors", ".json"))
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
