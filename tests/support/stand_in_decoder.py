"""A model of a few lines for the decoding loops, and the vocabulary and grids that their tests share."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
import torch

from t4s import codec
from t4s.decoding.constraint import vocabulary
from t4s.models.tiny import architecture

TOKENIZER = architecture.tokenizer(["dog", "cat", "horse", "person", "potted plant"])
WORDS = vocabulary(TOKENIZER)
LABELS = ("others", "dog", "the black dog", "xyé")
SIZE = len(TOKENIZER)


class StandInDecoder:
    """A `CausalDecoder` whose logits are a pure function of the prefix: noise, and a pull towards a true text.

    Every prefix has its own noise, so two paths agree only where they fed the same tokens in the same order.
    """

    def __init__(self, truth: str, pull: float = 0.0, seed: int = 0):
        self.truth, self.pull, self.seed = [*WORDS.spell(truth), *WORDS.spell("</seg>")], pull, seed
        self.cache: list[int] = []
        self.forwards = self.fed = 0
        self.last = self._logits()

    def _logits(self) -> torch.Tensor:
        rng = np.random.default_rng(zlib.crc32(repr((self.seed, self.cache)).encode()))
        row = rng.normal(size=SIZE)
        if len(self.cache) < len(self.truth):
            row[self.truth[len(self.cache)]] += self.pull
        return torch.from_numpy(row)

    def feed(self, ids: Sequence[int], beside: Sequence[int] = (), shared: int = 0) -> torch.Tensor:
        assert len(ids), "an empty pass"
        before, rows = list(self.cache), []
        for start, continuation in (([*before, *ids[:shared]], beside), (before, ids)):
            self.cache = list(start)
            for token in continuation:
                self.cache.append(int(token))
                rows.append(self._logits())
        self.forwards += 1
        self.fed += len(ids) + len(beside)
        return torch.stack(rows[len(beside) :] + rows[: len(beside)])

    def crop(self, n: int) -> None:
        assert n <= len(self.cache)
        del self.cache[n:]


def scene(seed: int, shape: tuple[int, int] = (8, 8), labels: tuple[str, ...] = LABELS) -> codec.DescriptorGrid:
    """A few rectangles on others."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(shape, int)
    for _ in range(rng.integers(0, 4)):
        (top, bottom), (left, right) = (sorted(rng.integers(0, side + 1, 2)) for side in shape)
        ids[top:bottom, left:right] = rng.integers(1, len(labels))
    return codec.DescriptorGrid(ids, labels)
