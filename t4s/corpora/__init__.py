"""Corpora: photos with questions and true answers, whatever files they come from.

    corpus = open_corpus("folder:PHOTOS@val")       # NAME[:PATH][@SPLIT][*WEIGHT]
    corpus[0]                                       # the evaluation samples of photo 0, always the same
    corpus.draw(0, np.random.default_rng(7), 2)     # two random training samples of photo 0

    training = Mixture.open(["folder:PHOTOS*3", "synthetic*1"])
    training.draw(np.random.default_rng([0, 41]), 2)    # three times in four from PHOTOS

PATH is a folder or file, a data set's id for `hub`, and options for `synthetic` (`scenes` and `emoji` take some after
a comma); SPLIT is "train" unless given; WEIGHT is how often a mixture draws from this corpus, relative to the other
weights (1 unless given), whatever the number of photos. A PATH that ends in `@word` or `*number` needs its SPLIT or
WEIGHT spelled out after it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from t4s.errors import DataError
from t4s.samples import Sample

NAMES = ("synthetic", "scenes", "emoji", "places", "folder", "jsonl", "coco", "hub", "refcoco", "refcoco+", "refcocog",
         "grefcoco", "ade20k", "pc59", "voc20", "cocostuff", "vqa")  # fmt: skip
PATHLESS = ("synthetic",)
FORM = "NAME[:PATH][@SPLIT][*WEIGHT]"

_SPEC = re.compile(r"(?P<name>[^:@*]*)(?::(?P<path>.*?))?(?:@(?P<split>[\w-]*))?(?:\*(?P<weight>[^*@:/\\]*))?", re.S)


class Corpus(Protocol):
    """What every corpus is. `len` counts photos; both ways in share one image object among a photo's samples."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """The evaluation samples of one photo: deterministic. IndexError past the end."""
        ...

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` training samples of one photo, drawn with `rng`."""
        ...


@dataclass(frozen=True)
class CorpusSpec:
    """A corpus as it is written on a command line. `path` is "" and `split` is None where not given."""

    name: str
    path: str = ""
    split: str | None = None
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> CorpusSpec:
        """`NAME[:PATH][@SPLIT][*WEIGHT]` → CorpusSpec. DataError says which part is wrong and what is allowed."""
        parts = _SPEC.fullmatch(text)
        if parts is None:
            raise DataError(f"The corpus {text!r} cannot be read; write {FORM}.")
        name, path, split = parts["name"], parts["path"] or "", parts["split"]
        if name not in NAMES:
            raise DataError(f"The corpus {text!r} begins with the name {name!r}; write {FORM} with one of "
                            f"{', '.join(NAMES)} as NAME.")  # fmt: skip
        if not path and name not in PATHLESS:
            raise DataError(f"The corpus {text!r} says not where its data is; write {name}:PATH.")
        if split == "":
            raise DataError(f"The corpus {text!r} has an @ with no split after it; write a split such as @val.")
        return cls(name, path, split, _weight(parts["weight"], text))


def _weight(given: str | None, text: str) -> float:
    try:
        weight = 1.0 if given is None else float(given)
    except ValueError:
        weight = math.nan
    if not 0 < weight < math.inf:
        raise DataError(f"The corpus {text!r} has the weight {given!r}; a weight is a number above 0, such as *0.5.")
    return weight


def open_corpus(spec: str | CorpusSpec, split: str = "train", seed: int = 0) -> Corpus:
    """Open what `spec` names; `split` is used where the spec names none, `seed` by composed scenes alone.

    DataError if the spec cannot be read, the data is missing or broken, or the split holds no photo.
    """
    spec = CorpusSpec.parse(spec) if isinstance(spec, str) else spec
    corpus = _open(spec, spec.split or split, seed)
    if not len(corpus):
        raise DataError(f"The corpus {spec.name}:{spec.path} has no photo in the split {spec.split or split!r}; "
                        "name another split with @SPLIT or check the data.")  # fmt: skip
    return corpus


def _open(spec: CorpusSpec, split: str, seed: int) -> Corpus:
    """Each corpus is imported when it is asked for: some need packages that others do not."""
    match spec.name:
        case "synthetic":
            from t4s.corpora.synthetic import SyntheticCorpus

            return SyntheticCorpus.from_options(spec.path, split, seed)
        case "scenes":
            from t4s.corpora.scenes import SceneCorpus

            return SceneCorpus.from_options(spec.path, split, seed)
        case "emoji":
            from t4s.corpora.emoji import EmojiCorpus

            return EmojiCorpus.from_options(spec.path, split, seed)
        case "places":
            from t4s.corpora.places import PlacesCorpus

            return PlacesCorpus(spec.path, split)
        case "folder":
            from t4s.corpora.folder import FolderCorpus

            return FolderCorpus(spec.path, split)
        case "jsonl":
            from t4s.corpora.jsonl import JsonlCorpus

            return JsonlCorpus(spec.path, split)
        case "coco":
            from t4s.corpora.coco import CocoCorpus

            return CocoCorpus(spec.path, split)
        case "hub":
            from t4s.corpora.hub import HubCorpus

            return HubCorpus(spec.path, split)
        case "refcoco" | "refcoco+" | "refcocog" | "grefcoco":
            from t4s.corpora.refer import ReferCorpus

            return ReferCorpus(spec.name, spec.path, split)
        case "ade20k" | "pc59" | "voc20" | "cocostuff":
            from t4s.corpora.semantic import SemanticCorpus

            return SemanticCorpus(spec.name, spec.path, split)
        case "vqa":  # its records are no `Sample`
            raise DataError(f"The corpus vqa:{spec.path} holds questions and no masks; t4s/eval.py alone takes it, to "
                            "measure how a checkpoint answers them.")  # fmt: skip
        case _:
            raise DataError(f"There is no corpus {spec.name!r}; the names are {', '.join(NAMES)}.")


@dataclass(frozen=True)
class Mixture:
    """Several corpora to train on, each with the share `weight / sum of weights` of what is drawn."""

    corpora: tuple[Corpus, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.corpora or len(self.corpora) != len(self.weights):
            raise DataError(f"A mixture needs one weight a corpus and at least one corpus; got {len(self.corpora)} "
                            f"corpora and {len(self.weights)} weights.")  # fmt: skip

    @classmethod
    def open(cls, specs: Iterable[str], split: str = "train", seed: int = 0) -> Mixture:
        parsed = [CorpusSpec.parse(spec) for spec in specs]
        return cls(tuple(open_corpus(spec, split, seed) for spec in parsed), tuple(spec.weight for spec in parsed))

    def __len__(self) -> int:
        """The number of photos of all corpora."""
        return sum(map(len, self.corpora))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` samples of one photo: first a corpus by weight, then one of its photos, all alike likely unless the
        corpus has a `pick` of its own."""
        weights = np.asarray(self.weights) / sum(self.weights)
        corpus = self.corpora[int(rng.choice(len(self.corpora), p=weights))]
        pick = getattr(corpus, "pick", None)
        return corpus.draw(pick(rng) if pick else int(rng.integers(len(corpus))), rng, count)
