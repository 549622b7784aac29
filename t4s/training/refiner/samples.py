"""Photos with true masks for the refiner's training: decoded once, resized, and kept with their masks as bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from t4s.data.folder import FolderDataset
from t4s.data.spec import open_dataset
from t4s.records import IGNORED, Sample
from t4s.refine.edge_net import STRIDE
from t4s.refine.guided import resized
from t4s.training.refiner.corruption import coverage, true_cells
from t4s.training.refiner.model_grids import ModelGrid, collect

SMALLEST_MASK = 0.003  # share of the photo's known pixels: smaller masks are left out
ANSWERED_SHARE = 0.5  # how often the next photo is one that has model grids


@dataclass(frozen=True, eq=False)
class RefinerSample:
    """A photo at the network's working size (s, t, 3) uint8; its masks and its known pixels, packed to bits.

    `model_grids`: (number of a mask, what a model wrote about it).
    """

    photo: np.ndarray
    masks: tuple[np.ndarray, ...]
    known: np.ndarray
    source: str
    model_grids: tuple[tuple[int, ModelGrid], ...] = ()

    def unpack(self, packed: np.ndarray) -> np.ndarray:
        """(s, t) bool."""
        rows, columns = self.photo.shape[:2]
        return np.unpackbits(packed, count=rows * columns).reshape(rows, columns).astype(bool)


class RefinerSamples:
    """The photos of some data sets; each is decoded when it is first used and then kept (about 100 kB)."""

    def __init__(
        self,
        specs: Sequence[str],
        side: int,
        exclude_sources: Sequence[str],
        limit: int | None,
        smallest_mask: float = SMALLEST_MASK,
    ):
        """side: pixels of the longer side; limit: photos of each data set."""
        self.photos = [
            (dataset, i)
            for dataset in map(open_dataset, specs)
            for i in range(min(len(dataset), limit or len(dataset)))
            if not (isinstance(dataset, FolderDataset) and dataset.photos[i].source in exclude_sources)
        ]
        self.side, self.exclude_sources, self.smallest_mask = side, exclude_sources, smallest_mask
        self.answered: list[int] = []  # photos that have model grids
        self._samples: dict[int, RefinerSample | None] = {}
        self._grids: dict[str, ModelGrid] = {}

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> RefinerSample | None:
        """None for a photo of an excluded source, or without a mask that is large enough."""
        if index not in self._samples:
            dataset, i = self.photos[index]
            self._samples[index] = self._load([s for s in dataset[i] if s.source not in self.exclude_sources])
        return self._samples[index]

    def collect_model_grids(self, checkpoint: str, count: int, folder: Path) -> int:
        """Let a model answer `count` photos of the folder data sets, evenly spaced → the number of usable grids.

        Answers are cached in `folder`. CheckpointError.
        """
        candidates = [index for index, (dataset, _) in enumerate(self.photos) if isinstance(dataset, FolderDataset)]
        count = min(count, len(candidates))
        chosen = [candidates[i * len(candidates) // count] for i in range(count)]
        self._grids = collect(checkpoint, [self.photos[index] for index in chosen], folder)
        for index in chosen:
            self._samples.pop(index, None)
        self.answered = [index for index in chosen if self[index] is not None and self[index].model_grids]
        return sum(len(self[index].model_grids) for index in self.answered)

    def epoch(self, rng: np.random.Generator) -> Iterator[int]:
        """All photos in random order; between them, photos with model grids as often as ANSWERED_SHARE says."""
        for index in rng.permutation(len(self)):
            while self.answered and rng.random() < ANSWERED_SHARE:
                yield self.answered[rng.integers(len(self.answered))]
            yield int(index)

    def _load(self, samples: Sequence[Sample]) -> RefinerSample | None:
        if not samples:
            return None
        photo = resized(np.asarray(samples[0].image.convert("RGB")), self.side, STRIDE)
        known = np.ones(photo.shape[:2], bool)
        masks: dict[tuple[str, int], np.ndarray] = {}
        for sample in samples:
            ids = Image.fromarray(sample.class_map.astype(np.int32))
            classes = np.asarray(ids.resize(photo.shape[1::-1], Image.Resampling.NEAREST))
            known &= classes != IGNORED
            for label in range(1, len(sample.labels)):
                masks[sample.id, label] = classes == label
        smallest = self.smallest_mask * known.sum()
        masks = {key: mask for key, mask in masks.items() if (mask & known).sum() > smallest}
        if not masks:
            return None
        grids = []
        for number, ((sample_id, _), mask) in enumerate(masks.items()):
            grid = self._grids.get(sample_id)
            if grid is not None and grid.correctable(true_cells(coverage(mask, known, grid.cells.shape))):
                grids.append((number, grid))
        packed = tuple(np.packbits(mask) for mask in masks.values())
        return RefinerSample(photo, packed, np.packbits(known), samples[0].source, tuple(grids))
