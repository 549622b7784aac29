"""What a model wrote of photos whose true masks are known: the mistakes that the learned refiner is to mend.

    found = attempts("embedded", [(dataset, 0), (dataset, 7)], folder)      # {"voc/a/dog": ModelGrid, ...}

Each photo of a folder dataset is asked once for every name that is in it. The answers are kept in `folder`, one JSON
object a photo in a file for each model, so that what was interrupted goes on and a second call asks nothing.
Weak photos, whose masks were made automatically, are never asked: such a mask tells nobody what is wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from t4s import codec
from t4s.codec import DescriptorGrid
from t4s.data.folder import FolderDataset
from t4s.models.checkpoint import FILES, find, fingerprint

MENDABLE = 0.4  # IoU with the true cells: what shares less with them than this shows something else


@dataclass(frozen=True, eq=False)
class ModelGrid:
    """A model's answer to one name: `cells` (H, W) bool and `confidence` (H, W) float32 in [0, 1]."""

    cells: np.ndarray
    confidence: np.ndarray

    def mendable(self, true: np.ndarray) -> bool:
        """True if the cells overlap the `true` ones (H, W) bool enough for an edge to be found between the two."""
        union = int((self.cells | true).sum())
        return bool(union) and int((self.cells & true).sum()) / union >= MENDABLE


def attempts(checkpoint: str, photos: Iterable[tuple[FolderDataset, int]], folder: Path) -> dict[str, ModelGrid]:
    """{sample id: ModelGrid} of every name that is in these photos, weak ones left out.

    `checkpoint` is "embedded", a folder or a Hub id. Raises CheckpointError and DataError.
    """
    cache = kept_in(checkpoint, folder)
    known, model = _read(cache), None
    asked = [(dataset, index) for dataset, index in photos if not dataset.photos[index].weak]
    missing = [(dataset, index) for dataset, index in asked if dataset.photos[index].id not in known]
    if missing:
        from t4s.segmenter.segmenter import Segmenter

        model = Segmenter.from_pretrained(None if checkpoint == "embedded" else checkpoint)
        folder.mkdir(parents=True, exist_ok=True)
        with cache.open("a", encoding="utf-8") as stream:
            for done, (dataset, index) in enumerate(missing, 1):
                name = dataset.photos[index].id
                known[name] = _ask(model, dataset, index)
                stream.write(json.dumps({"photo": name, "answers": known[name]}) + "\n")
                stream.flush()
                if done % 100 == 0 or done == len(missing):
                    print(f"{done} of {len(missing)} photos answered", file=sys.stderr)
    answers = {key: one for dataset, index in asked for key, one in known[dataset.photos[index].id].items()}
    return {key: _attempt(one) for key, one in answers.items()}


def kept_in(checkpoint: str, folder: Path) -> Path:
    """The file of a model's answers: another one when its weights change. Raises CheckpointError."""
    weights = fingerprint(find(None if checkpoint == "embedded" else checkpoint))
    return folder / f"own-{weights.removeprefix(FILES)}.jsonl"


def _ask(model, dataset: FolderDataset, index: int) -> dict[str, dict]:
    """{sample id: the answer as it is kept} of the names that are in photo `index`."""
    samples = [sample for sample in dataset[index] if not sample.absent]
    photo = model.encode(samples[0].image) if samples else None
    found = {}
    for sample in samples:
        answer = model(photo, sample.query, refine="none")
        plain = DescriptorGrid(answer.grid.ids > 0, ("others", "it"))
        sure = np.rint(255 * answer.confidence).astype(int).tolist()
        found[sample.id] = {"rows": codec.encode(plain), "sure": sure}
    return found


def _attempt(kept: dict) -> ModelGrid:
    sure = np.array(kept["sure"], np.float32) / 255
    return ModelGrid(codec.decode(kept["rows"], sure.shape).label_mask("it"), sure)


def _read(cache: Path) -> dict[str, dict]:
    """{photo's id: its answers}; a last line that was cut off when the run was stopped is dropped from the file."""
    if not cache.is_file():
        return {}
    whole, _, torn = cache.read_text(encoding="utf-8").rpartition("\n")
    if torn:
        cache.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return {row["photo"]: row["answers"] for row in map(json.loads, whole.splitlines())}
