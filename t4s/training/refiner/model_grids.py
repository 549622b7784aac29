"""What a model wrote about photos with true masks: the real errors that the refiner learns to correct.

    grids = collect("embedded", [(dataset, 0), (dataset, 7)], folder)      # {"voc/a/dog": ModelGrid, ...}

Each photo of a folder data set is queried once for every class in it. The answers are cached in `folder`, one file per
model with one JSON object per photo, so an interrupted run continues and a second call queries nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t4s import codec
from t4s.codec import DescriptorGrid
from t4s.data.folder import FolderDataset
from t4s.models.checkpoint import FILES, find, fingerprint

if TYPE_CHECKING:
    from t4s.segmenter.segmenter import Segmenter

EMBEDDED = "embedded"  # as `checkpoint`: the one that comes with t4s
CORRECTABLE_IOU = 0.4  # with the true cells: an answer below it shows something else
LABEL = "target"


@dataclass(frozen=True, eq=False)
class ModelGrid:
    """A model's answer about one class: `cells` (H, W) bool and `confidence` (H, W) float32 in [0, 1]."""

    cells: np.ndarray
    confidence: np.ndarray

    def correctable(self, true: np.ndarray) -> bool:
        """True if the cells overlap the true ones (H, W) bool enough for a boundary between the two to make sense."""
        union = int((self.cells | true).sum())
        return bool(union) and int((self.cells & true).sum()) / union >= CORRECTABLE_IOU


def collect(checkpoint: str, photos: Sequence[tuple[FolderDataset, int]], folder: Path) -> dict[str, ModelGrid]:
    """{sample id: ModelGrid} for every class in these photos.

    checkpoint: "embedded", a folder or a Hub id. Raises CheckpointError and DataError.
    """
    cache = cache_file(checkpoint, folder)
    answers = _read(cache)
    missing = [(dataset, index) for dataset, index in photos if dataset.photos[index].id not in answers]
    if missing:
        from t4s.segmenter.segmenter import Segmenter

        segmenter = Segmenter.from_pretrained(None if checkpoint == EMBEDDED else checkpoint)
        folder.mkdir(parents=True, exist_ok=True)
        with cache.open("a", encoding="utf-8") as file:
            for done, (dataset, index) in enumerate(missing, 1):
                photo_id = dataset.photos[index].id
                answers[photo_id] = _query(segmenter, dataset, index)
                file.write(json.dumps({"photo": photo_id, "answers": answers[photo_id]}) + "\n")
                file.flush()
                if done % 100 == 0 or done == len(missing):
                    print(f"{done} of {len(missing)} photos answered", file=sys.stderr)
    grids = {}
    for dataset, index in photos:
        for sample_id, answer in answers[dataset.photos[index].id].items():
            grids[sample_id] = _parse(answer)
    return grids


def cache_file(checkpoint: str, folder: Path) -> Path:
    """The file of a model's answers: another one when its weights change. Raises CheckpointError."""
    weights = fingerprint(find(None if checkpoint == EMBEDDED else checkpoint))
    return folder / f"model-grids-{weights.removeprefix(FILES)}.jsonl"


def _query(segmenter: Segmenter, dataset: FolderDataset, index: int) -> dict[str, dict[str, Any]]:
    """{sample id: the answer as it is cached} for the classes in photo `index`."""
    samples = [sample for sample in dataset[index] if not sample.absent]
    if not samples:
        return {}
    encoded = segmenter.encode(samples[0].image)
    found = {}
    for sample in samples:
        prediction = segmenter(encoded, sample.query, refine="none")
        binary = DescriptorGrid(prediction.grid.ids > 0, ("others", LABEL))
        confidence = np.rint(255 * prediction.confidence).astype(int).tolist()
        found[sample.id] = {"rows": codec.encode(binary), "confidence": confidence}
    return found


def _parse(answer: dict[str, Any]) -> ModelGrid:
    confidence = np.array(answer["confidence"], np.float32) / 255
    return ModelGrid(codec.decode(answer["rows"], confidence.shape).label_mask(LABEL), confidence)


def _read(cache: Path) -> dict[str, dict[str, Any]]:
    """{photo id: its answers}; a last line cut off by an interruption is removed from the file."""
    if not cache.is_file():
        return {}
    complete, _, cut_off = cache.read_text(encoding="utf-8").rpartition("\n")
    if cut_off:
        cache.write_text(complete + "\n" if complete else "", encoding="utf-8")
    return {line["photo"]: line["answers"] for line in map(json.loads, complete.splitlines())}
