"""Draw numbers to a batch without pixels: views, tokens, labels, and where something is learned.

What `collator.Collator` draws for the same numbers, it draws too: the same pictures, tokens and grids.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from t4s.data.augment.draws import Draw
from t4s.data.folder import FolderDataset
from t4s.data.spec import Mixture
from t4s.models.vlm import VLM
from t4s.records import Sample
from t4s.training.collator import Collator, Drawn, Row, build_row, count_phrases, padded_rows
from t4s.training.losses import IGNORE, CellLoss, class_shares, word_tensors
from t4s.training.resident.rendering import view_tensors


class CellTargets:
    """What each cell of a batch's own pictures shows, where the data set of --cell-loss-data labels them in full.

    taught: the numbers of the mixture's data sets of which that is so.
    """

    def __init__(self, lesson: CellLoss, mixture: Mixture):
        self.lesson, self.batches = lesson, lesson.batches
        root, split = _folder_of(self.batches.dataset)
        self.taught = {
            number for number, dataset in enumerate(mixture.datasets) if _folder_of(dataset) == (root, split)
        }
        self.sources = sorted(self.batches.dataset.tables)

    @property
    def asked(self) -> Tensor:
        """(sources, classes) float32: 1 for the names that a source labels."""
        return torch.from_numpy(np.stack([self.batches.asked(source) for source in self.sources]))

    def __call__(self, draws: Sequence[Drawn], rng: np.random.Generator) -> dict[str, Tensor]:
        """B draws → shares (B·cells·classes) as a list of what is not 0: `entry` (n,) long, `share` (n,) float32.

        labelled (B, cells) float32: the share of a cell that is labelled; source (B,) long: the row of `asked`;
        pictures () float32: how many are taught; words, offsets: a word for each class, as `word_tensors` gives it.
        """
        classes, (rows, columns) = len(self.batches.names), self.batches.grid
        labelled = np.zeros((len(draws), rows * columns), np.float32)
        source = np.zeros(len(draws), np.int64)
        entries, shares = [], []
        for number, drawn in enumerate(draws):
            pixels = drawn.draw.pixels
            if pixels is None or drawn.dataset not in self.taught:
                continue
            indexes = self.batches.indexes(pixels.classes)
            share, labelled[number] = class_shares(pixels.ids, indexes, pixels.void, classes, (rows, columns))
            source[number] = self.sources.index(pixels.source)
            entry = np.flatnonzero(share)
            entries.append(entry + number * share.size)
            shares.append(share.ravel()[entry])
        words, offsets = word_tensors(self.lesson.draw_words(rng))
        return {
            "entry": torch.from_numpy(np.concatenate([np.empty(0, np.int64), *entries])),
            "share": torch.from_numpy(np.concatenate([np.empty(0, np.float32), *shares])),
            "labelled": torch.from_numpy(labelled),
            "source": torch.from_numpy(source),
            "pictures": torch.tensor(float(len(entries))),
            "words": words,
            "offsets": offsets,
        }


def _folder_of(dataset: Any) -> tuple[Path, str] | None:
    """Where the fully labelled photos of a data set come from, or None if it has none."""
    folder = getattr(dataset, "folder", dataset)  # of `places`
    return (folder.root.resolve(), folder.split) if isinstance(folder, FolderDataset) else None


class ResidentCollator(Collator):
    """Draw numbers → a batch for `ResidentStep`. labels, first: of the `Album`."""

    def __init__(
        self,
        vlm: VLM,
        mixture: Mixture,
        queries: int,
        seed: int,
        labels: Sequence[Sequence[Any]],
        first: Sequence[int],
        targets: CellTargets | None = None,
    ):
        super().__init__(vlm, mixture, queries, seed)
        self.labels, self.first, self.targets = labels, first, targets
        self.prefix = vlm.preprocess(Image.new("RGB", (1, 1)))[1]

    def ask(self, dataset: int, index: int, rng: np.random.Generator) -> tuple[Draw, Callable[[int], Image.Image]]:
        def photo(number: int) -> Image.Image:
            raise AssertionError(f"photo {number} of data set {dataset} is on the device")

        labels = self.labels[dataset].__getitem__
        return self.mixture.datasets[dataset].ask(index, rng, self.queries, labels), photo

    def complete(self, drawn: Drawn) -> tuple[Sample, ...]:
        return drawn.draw.samples

    def build(
        self, samples: Sequence[Sample], corrupt: np.random.Generator | None, wording: np.random.Generator
    ) -> Row:
        return build_row(self.vlm, samples, corrupt, wording, self.prefix)

    def __call__(self, numbers: Sequence[int]) -> dict[str, Any]:
        """B numbers → R rows of T tokens, as `padded_rows` gives them, and

        views      see `view_tensors`
        picture    (R,) long: the picture of each row
        predicting (n,) long: the tokens, of all R·T, that are followed by one to be learned; target (n,): that one
        cells      see `CellTargets`, if there are any
        """
        drawn, rows = zip(*map(self.fitting, numbers), strict=True)
        every = [row for of_number in rows for row in of_number]
        batch = padded_rows(every, self.pad)
        learned = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
        learned[:, : len(self.prefix) - 1] = IGNORE  # the cells have their labels at their own places
        batch["predicting"] = (learned.flatten() != IGNORE).nonzero()[:, 0]
        batch["target"] = learned.flatten()[batch["predicting"]]
        batch["picture"] = torch.tensor([number for number, of_number in enumerate(rows) for _ in of_number])
        batch["views"] = view_tensors([one.draw.view for one in drawn], [self.first[one.dataset] for one in drawn])
        batch["phrases"] = count_phrases(every)
        if self.targets is not None:
            batch["cells"] = self.targets(drawn, np.random.default_rng([self.seed, *numbers, 3]))
        return batch
