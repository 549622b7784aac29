"""Semantic segmentation in its published folders: ADE20K-150, Pascal Context-59, VOC-20, COCO-Stuff-171.

    ade20k     PATH/images/{training,validation}/X.jpg     PATH/annotations/{training,validation}/X.png
    pc59       PATH/JPEGImages/X.jpg                       PATH/SegmentationClassContext/X.png
               PATH/ImageSets/SegmentationContext/{train,val}.txt
    voc20      PATH/JPEGImages/X.jpg                       PATH/SegmentationClass/X.png
               PATH/ImageSets/Segmentation/{train,val}.txt
    cocostuff  PATH/images/{train2017,val2017}/X.jpg       PATH/stuffthingmaps/{train2017,val2017}/X.png
               (masks may also be PATH/annotations/{train2017,val2017}/X_labelTrainIds.png)

PATH is that folder or one above it (ADEChallengeData2016, VOCdevkit/VOC2010, VOCdevkit/VOC2012,
coco_stuff164k). Each photo is one question: the whole class table as a list. Pixels outside the table
(VOC's and Context's background, unlabelled ones) are void: not trained on, not scored, as the
benchmarks with 20 and 59 classes have it. A name is absent if the table has it and the photo's mask
lacks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from t4s import lexicon
from t4s.data import class_names
from t4s.errors import DataError
from t4s.imaging.loading import open_photo
from t4s.records import IGNORED, Sample

ABSENT_SHARE, LIST_SHARE = 0.2, 0.3  # of training questions: names that are not there, class lists
MAX_LIST = 12  # names of a training class list
_OUTSIDE = -2  # in a look-up: a mask id that the table does not have
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # ids 1 to 182 that COCO-Stuff never gave out


def _look_up(ids: Sequence[int], void: Sequence[int]) -> np.ndarray:
    """(256,) int16: mask id → label, ids[k] → k + 1."""
    table = np.full(256, _OUTSIDE, np.int16)
    table[list(void)] = IGNORED
    table[list(ids)] = np.arange(1, len(ids) + 1)
    return table


@dataclass(frozen=True)
class _Layout:
    """Where a data set keeps its files, below any of `roots`, and what its mask ids mean.

    `splits` maps a split to the word that stands for {} in the other fields. `masks` are pairs of
    a pattern (the second {} is the photo's name) and a look-up; the first folder that exists is taken.
    """

    names: tuple[str, ...]
    roots: tuple[str, ...]
    splits: dict[str, str]
    images: str
    masks: tuple[tuple[str, np.ndarray], ...]
    listing: str | None
    url: str


_LAYOUTS = {
    "ade20k": _Layout(
        names=class_names.ADE20K,
        roots=("", "ADEChallengeData2016", "ade/ADEChallengeData2016"),
        splits={"train": "training", "val": "validation"},
        images="images/{}",
        masks=(("annotations/{}/{}.png", _look_up(range(1, 151), [0])),),
        listing=None,
        url="http://sceneparsing.csail.mit.edu (ADEChallengeData2016.zip)",
    ),
    "pc59": _Layout(
        names=class_names.PC59,
        roots=("", "VOC2010", "VOCdevkit/VOC2010"),
        splits={"train": "train", "val": "val"},
        images="JPEGImages",
        masks=(("SegmentationClassContext/{1}.png", _look_up(range(1, 60), [0, 255])),),
        listing="ImageSets/SegmentationContext/{}.txt",
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2010 (photos) and https://cs.stanford.edu/~roozbeh/"
        "pascal-context (masks, converted to 59 classes as mmsegmentation does)",
    ),
    "voc20": _Layout(
        names=class_names.VOC20,
        roots=("", "VOC2012", "VOCdevkit/VOC2012"),
        splits={"train": "train", "val": "val", "trainval": "trainval"},
        images="JPEGImages",
        masks=(("SegmentationClass/{1}.png", _look_up(range(1, 21), [0, 255])),),
        listing="ImageSets/Segmentation/{}.txt",
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)",
    ),
    "cocostuff": _Layout(
        names=class_names.COCO_STUFF,
        roots=("", "coco_stuff164k"),
        splits={"train": "train2017", "val": "val2017"},
        images="images/{}",
        masks=(
            ("annotations/{}/{}_labelTrainIds.png", _look_up(range(171), [255])),
            ("stuffthingmaps/{}/{}.png", _look_up([i - 1 for i in range(1, 183) if i not in _COCO_GAPS], [255])),
        ),
        listing=None,
        url="https://github.com/nightrome/cocostuff (stuffthingmaps_trainval2017.zip) and http://images.cocodataset.org",
    ),
}


class SemanticDataset:
    """One split of one data set. `names` is its class table, label k + 1 being `names[k]`.

    Raises DataError for a folder or file that is not there (with where to get it), a split that the
    data set does not have, a mask of another size or kind, or a mask id outside the class table.
    """

    def __init__(self, name: str, path: str | Path, split: str = "val"):
        if name not in _LAYOUTS:
            raise DataError(f"There is no semantic data set {name!r}; the names are {', '.join(_LAYOUTS)}.")
        layout = _LAYOUTS[name]
        if split not in layout.splits:
            raise DataError(f"{name} has no split {split!r}; its splits are {', '.join(layout.splits)}.")
        self.name, self.source, self.split = f"{name}:{path}@{split}", name, split
        self.names, self._layout, self._word = layout.names, layout, layout.splits[split]
        self.root = self._root(Path(path))
        self._pattern, self._table = self._masks()
        self.photos = self._list()

    def _root(self, path: Path) -> Path:
        images = self._layout.images.format(self._word)
        for inner in self._layout.roots:
            if (path / inner / images).is_dir():
                return path / inner
        raise DataError(
            f"{path} has no folder {images}, itself or in {', '.join(self._layout.roots[1:])}; get "
            f"{self.source} from {self._layout.url}."
        )

    def _masks(self) -> tuple[str, np.ndarray]:
        """The first pattern that finds a mask, and what the ids mean there."""
        for pattern, table in self._layout.masks:
            if any(self.root.glob(pattern.format(self._word, "*"))):
                return pattern, table
        wanted = " or ".join(pattern.format(self._word, "X") for pattern, _ in self._layout.masks)
        raise DataError(f"{self.root} has no masks {wanted}; get them from {self._layout.url}.")

    def _list(self) -> list[str]:
        """The names of the split's photos, without their endings, in the order of the list or of the names."""
        if self._layout.listing is None:
            return sorted(file.stem for file in (self.root / self._layout.images.format(self._word)).glob("*.jpg"))
        file = self.root / self._layout.listing.format(self._word)
        if not file.is_file():
            raise DataError(f"{file} is not there: it lists the photos of the split; get it from {self._layout.url}.")
        return file.read_text(encoding="utf-8").split()

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """One sample: the class list of the whole table."""
        image, truth = self._open(index)
        return (self._sample(index, image, self.names, truth),)

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions about photo `index`: a class in it, one that is absent, or a list of both."""
        image, truth = self._open(index)
        present = [int(k) for k in np.unique(truth) if k > 0]
        absent = [k for k in range(1, len(self.names) + 1) if k not in present]
        samples = []
        for _ in range(count):
            kind = rng.random()
            if absent and (kind < ABSENT_SHARE or not present):
                samples.append(self._phrase(index, image, truth, int(rng.choice(absent)), rng))
            elif kind < ABSENT_SHARE + LIST_SHARE:
                some = rng.permutation(absent)[: rng.integers(0, 4)]
                ids = [int(k) for k in rng.permutation([*rng.permutation(present)[: MAX_LIST - len(some)], *some])]
                order = np.zeros(len(self.names) + 1, np.int16)
                order[ids] = np.arange(1, len(ids) + 1)
                own = np.where(truth < 0, IGNORED, order[truth]).astype(np.int16)
                samples.append(self._sample(index, image, tuple(self.names[k - 1] for k in ids), own))
            else:
                samples.append(self._phrase(index, image, truth, int(rng.choice(present)), rng))
        return tuple(samples)

    def _phrase(self, index: int, image: Image.Image, truth: np.ndarray, k: int, rng: np.random.Generator) -> Sample:
        own = np.where(truth < 0, IGNORED, truth == k).astype(np.int16)
        return self._sample(index, image, lexicon.vary(self.names[k - 1], rng), own)

    def _sample(self, index: int, image: Image.Image, query: str | tuple[str, ...], truth: np.ndarray) -> Sample:
        labels = ("others", query) if isinstance(query, str) else ("others", *query)
        asked = query if isinstance(query, str) else f"{len(query)} classes"
        return Sample(f"{self.source}/{self.photos[index]}/{asked}", self.source, image, query, labels, truth)

    def _open(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The photo and its labels (h, w) int16: 1 + index into `names`, or IGNORED."""
        name = self.photos[index]
        photo = self.root / self._layout.images.format(self._word) / f"{name}.jpg"
        mask = self.root / self._pattern.format(self._word, name)
        for file in (photo, mask):
            if not file.is_file():
                raise DataError(
                    f"{file} is not there, but {self.name} has the photo {name}; get it from {self._layout.url}."
                )
        image = open_photo(photo)
        try:
            with Image.open(mask) as file:
                mode, ids = file.mode, np.asarray(file)
        except (OSError, SyntaxError) as error:
            raise DataError(f"{mask} is not a whole PNG: {error}; get it again from {self._layout.url}.") from error
        if mode not in ("L", "P"):
            raise DataError(f"{mask} is a picture of mode {mode}, not a mask of 8-bit ids (grey or palette PNG).")
        if ids.shape != image.size[::-1]:
            raise DataError(
                f"{mask} is {ids.shape[1]}×{ids.shape[0]} pixels, its photo {image.width}×{image.height}; "
                "a mask is as large as its photo."
            )
        labels = self._table[ids]
        if (labels == _OUTSIDE).any():
            raise DataError(
                f"{mask} holds the id {int(ids[labels == _OUTSIDE][0])}, which is not in the table of "
                f"{len(self.names)} classes; is it a mask of {self.source}?"
            )
        return image, labels
