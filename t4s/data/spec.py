"""Open data sets by name, and mix several.

    dataset = open_dataset("folder:PHOTOS@val")      # NAME[:PATH][@SPLIT][*WEIGHT]
    dataset[0]                                       # the evaluation samples of photo 0, always the same
    dataset.draw(0, np.random.default_rng(7), 2)     # two random training samples of photo 0

    training = Mixture.open(["folder:PHOTOS*3", "synthetic*1"])
    training.draw(np.random.default_rng([0, 41]), 2)    # three times out of four from PHOTOS

PATH    a folder or file; for `hub` and `refcoco-m`, the id of a data set; for `synthetic`, options (`scenes` takes some
        after a comma)
SPLIT   "train" by default
WEIGHT  how often a mixture draws from this data set relative to the others, whatever its number of photos (default: 1)

A PATH that itself ends in `@word` or `*number` needs an explicit SPLIT or WEIGHT after it.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from t4s.errors import DataError
from t4s.records import Sample

NAMES = (
    "synthetic",
    "scenes",
    "places",
    "folder",
    "jsonl",
    "coco",
    "hub",
    "refcoco",
    "refcoco+",
    "refcocog",
    "grefcoco",
    "refcoco-m",
    "ade20k",
    "pc59",
    "voc20",
    "cocostuff",
    "vqa",
)
PATHLESS = ("synthetic",)
FORM = "NAME[:PATH][@SPLIT][*WEIGHT]"

_SPEC = re.compile(r"(?P<name>[^:@*]*)(?::(?P<path>.*?))?(?:@(?P<split>[\w-]*))?(?:\*(?P<weight>[^*@:/\\]*))?", re.S)


class Dataset(Protocol):
    """What all data sets have in common. `len` counts photos; all samples of a photo share one image object.

    Those that can be drawn from without a look at their pixels are a `PhotoDataset` as well (`augment.draws`).
    """

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """The evaluation samples of one photo, always the same. IndexError past the end."""
        ...

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` training samples of one photo, drawn with `rng`."""
        ...


@dataclass(frozen=True)
class DatasetSpec:
    """A data set as written on a command line. `path` is "" and `split` is None where not given."""

    name: str
    path: str = ""
    split: str | None = None
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> DatasetSpec:
        """Parse `NAME[:PATH][@SPLIT][*WEIGHT]`. DataError says which part is wrong and what is allowed."""
        parts = _SPEC.fullmatch(text)
        if parts is None:
            raise DataError(f"The dataset {text!r} cannot be read; write {FORM}.")
        name = parts["name"]
        path = parts["path"] or ""
        split = parts["split"]
        if name not in NAMES:
            raise DataError(
                f"The dataset {text!r} begins with the name {name!r}; write {FORM} with one of "
                f"{', '.join(NAMES)} as NAME."
            )
        if not path and name not in PATHLESS:
            raise DataError(f"The dataset {text!r} does not say where its data is; write {name}:PATH.")
        if split == "":
            raise DataError(f"The dataset {text!r} has an @ with no split after it; write a split such as @val.")
        return cls(name, path, split, _weight(parts["weight"], text))


def _weight(given: str | None, text: str) -> float:
    try:
        weight = 1.0 if given is None else float(given)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise DataError(f"The dataset {text!r} has the weight {given!r}; a weight is a number above 0, such as *0.5.")
    return weight


def open_dataset(
    spec: str | DatasetSpec, split: str = "train", seed: int = 0, other_side: Iterable[str] = ()
) -> Dataset:
    """Open the data set that `spec` names.

    split       used if the spec names none
    seed        of composed scenes
    other_side  the specs that the same run validates on (when it trains on this one) or trains on (when it validates):
                if a jsonl file without splits is on both sides, a share of its photos is held out

    Warns about what the data set has to say about its splits. Raises DataError if the spec cannot be parsed, the data
    is missing or broken, or the split has no photo.
    """
    spec = DatasetSpec.parse(spec) if isinstance(spec, str) else spec
    others = [DatasetSpec.parse(other) for other in other_side]
    on_both_sides = any(other.name == spec.name and _same_path(other.path, spec.path) for other in others)
    dataset = _open(spec, spec.split or split, seed, hold_out=on_both_sides or spec.split is not None)
    if not len(dataset):
        raise DataError(
            f"The dataset {spec.name}:{spec.path} has no photo in the split {spec.split or split!r}; "
            "name another split with @SPLIT or check the data."
        )
    for note in getattr(dataset, "notes", ()):
        warnings.warn(note, stacklevel=2)
    return dataset


def _same_path(first: str, second: str) -> bool:
    return Path(first).resolve() == Path(second).resolve()


def _open(spec: DatasetSpec, split: str, seed: int, hold_out: bool) -> Dataset:
    """Each module is imported only when needed: some need packages that others do not."""
    match spec.name:
        case "synthetic":
            from t4s.data.scenes.synthetic import SyntheticDataset

            return SyntheticDataset.from_options(spec.path, split, seed)
        case "scenes":
            from t4s.data.scenes.composed import SceneDataset

            return SceneDataset.from_options(spec.path, split, seed)
        case "places":
            from t4s.data.scenes.places import PlacesDataset

            return PlacesDataset(spec.path, split)
        case "folder":
            from t4s.data.folder import FolderDataset

            return FolderDataset(spec.path, split)
        case "jsonl":
            from t4s.data.jsonl import JsonlDataset

            return JsonlDataset(spec.path, split, hold_out)
        case "coco":
            from t4s.data.coco import CocoDataset

            return CocoDataset(spec.path, split)
        case "hub":
            from t4s.data.hub import HubDataset

            return HubDataset(spec.path, split)
        case "refcoco-m":
            from t4s.data.hub import RefCocoMDataset

            return RefCocoMDataset(spec.path, split)
        case "refcoco" | "refcoco+" | "refcocog" | "grefcoco":
            from t4s.data.refcoco import RefCocoDataset

            return RefCocoDataset(spec.name, spec.path, split)
        case "ade20k" | "pc59" | "voc20" | "cocostuff":
            from t4s.data.semantic import SemanticDataset

            return SemanticDataset(spec.name, spec.path, split)
        case "vqa":  # yields no `Sample`
            raise DataError(
                f"The dataset vqa:{spec.path} holds questions and no masks; only t4s/eval.py takes it, to "
                "measure how a checkpoint answers them."
            )
        case _:
            raise DataError(f"There is no dataset {spec.name!r}; the names are {', '.join(NAMES)}.")


@dataclass(frozen=True)
class Mixture:
    """Several data sets to train on; each is drawn from with probability weight / sum of weights."""

    datasets: tuple[Dataset, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.datasets or len(self.datasets) != len(self.weights):
            raise DataError(
                f"A mixture needs at least one dataset and one weight for each; got {len(self.datasets)} "
                f"datasets and {len(self.weights)} weights."
            )

    @classmethod
    def open(cls, specs: Iterable[str], split: str = "train", seed: int = 0, other_side: Iterable[str] = ()) -> Mixture:
        """Open all `specs`, each with its weight; see `open_dataset`."""
        parsed = [DatasetSpec.parse(spec) for spec in specs]
        datasets = tuple(open_dataset(spec, split, seed, tuple(other_side)) for spec in parsed)
        return cls(datasets, tuple(spec.weight for spec in parsed))

    def __len__(self) -> int:
        """The number of photos in all data sets."""
        return sum(map(len, self.datasets))

    def pick(self, rng: np.random.Generator) -> tuple[int, int]:
        """Numbers of a data set, drawn by weight, and of one of its photos.

        Photos are equally likely unless the data set has a `pick` method.
        """
        weights = np.asarray(self.weights) / sum(self.weights)
        number = int(rng.choice(len(self.datasets), p=weights))
        dataset = self.datasets[number]
        pick = getattr(dataset, "pick", None)
        return number, pick(rng) if pick else int(rng.integers(len(dataset)))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` samples of one photo; see `pick`."""
        number, index = self.pick(rng)
        return self.datasets[number].draw(index, rng, count)
