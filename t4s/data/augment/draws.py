"""What is drawn of a training sample, before any pixel of its photos is looked at.

    drawn, photo = draw(dataset, 7, rng, 2)       # two questions about photo 7, or about a mosaic with it
    drawn = augment(drawn, rng, 256)              # `changes`
    image = render(drawn.view, photo)             # `render`

A data set that can tell photos from questions has `decode` and `ask` (`PhotoDataset`). Any other is drawn from as a
whole, its photo with its questions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from PIL import Image

from t4s.data.augment.render import render
from t4s.data.augment.views import View, whole
from t4s.records import Sample


@dataclass(frozen=True, eq=False)
class LabelledPixels:
    """The class of every pixel, where a data set labels photos in full.

    ids (h, w); classes {id: name}, other ids are background; void: ids that mean "not labelled"; source of the photo
    """

    ids: np.ndarray
    classes: dict[int, str]
    void: tuple[int, ...]
    source: str


@dataclass(frozen=True, eq=False)
class Draw:
    """What is drawn of a sample.

    view     the picture that all its questions are about
    samples  the questions, with class maps of the picture; their `image` is None
    pixels   the classes in the picture, if the data set knows them all
    """

    view: View
    samples: tuple[Sample, ...]
    pixels: LabelledPixels | None = None

    def on(self, image: Image.Image) -> tuple[Sample, ...]:
        """The samples with their picture."""
        return tuple(replace(sample, image=image) for sample in self.samples)


class PhotoDataset(Protocol):
    """A data set whose draws need the labels of photos, and not their pixels."""

    def __len__(self) -> int: ...

    def decode(self, index: int, complete: bool = False) -> tuple[Image.Image, Any]:
        """Photo `index` (RGB), and what `ask` needs to know of it: it can be pickled, and is
        `labels.reduced`.

        `complete`: nothing of it is left to be read later. Raises DataError.
        """
        ...

    def ask(self, index: int, rng: np.random.Generator, count: int, labels: Callable[[int], Any]) -> Draw:
        """`count` training samples of photo `index`, drawn with `rng`. `labels`: what `decode` gave, by photo."""
        ...


def draw(dataset: Any, index: int, rng: np.random.Generator, count: int) -> tuple[Draw, Callable[[int], Image.Image]]:
    """`count` training samples of photo `index`, and its photos by number."""
    if not hasattr(dataset, "ask"):
        samples = dataset.draw(index, rng, count)
        image = samples[0].image
        drawn = Draw(whole(0, image.size), tuple(replace(sample, image=None) for sample in samples))
        return drawn, lambda _: image
    photos: dict[int, Image.Image] = {}

    def labels(number: int) -> Any:
        photos[number], known = dataset.decode(number)
        return known

    return dataset.ask(index, rng, count, labels), photos.__getitem__


def draw_samples(dataset: PhotoDataset, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
    """`Dataset.draw` of a data set that has `decode` and `ask`."""
    drawn, photo = draw(dataset, index, rng, count)
    return drawn.on(render(drawn.view, photo))
