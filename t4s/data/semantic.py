"""Semantic segmentation data sets in their published folders: ADE20K-150, Pascal Context-59, VOC-20, COCO-Stuff-171.

    ade20k     PATH/images/{training,validation}/X.jpg     PATH/annotations/{training,validation}/X.png
    pc59       PATH/JPEGImages/X.jpg                       PATH/SegmentationClassContext/X.png
               PATH/ImageSets/SegmentationContext/{train,val}.txt
    voc20      PATH/JPEGImages/X.jpg                       PATH/SegmentationClass/X.png
               PATH/ImageSets/Segmentation/{train,val}.txt
    cocostuff  PATH/images/{train2017,val2017}/X.jpg       PATH/stuffthingmaps/{train2017,val2017}/X.png
               (masks may also be PATH/annotations/{train2017,val2017}/X_labelTrainIds.png)

PATH is that folder or one above it (ADEChallengeData2016, VOCdevkit/VOC2010, VOCdevkit/VOC2012, coco_stuff164k). In
evaluation each photo is one question: all class names as a list. Pixels outside the class table (the background of VOC
and Context, unlabelled ones) are ignored in training and scoring, as the benchmarks with 20 and 59 classes do. A name
is absent if the table has it and the photo's mask lacks it.

Class names are the data sets' own, the first of several synonyms, with compound words split ("pottedplant" becomes
"potted plant").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from t4s import lexicon
from t4s.data.reading.paths import FileFinder, photos_in
from t4s.data.reading.text import read_text
from t4s.errors import DataError
from t4s.imaging.loading import open_photo
from t4s.records import IGNORED, Sample

ABSENT_SHARE = 0.2  # of training questions: absent names
LIST_SHARE = 0.3  # of training questions: class lists
MAX_LIST = 12  # names of a training class list


# --- class tables, in the order of their label ids


def _names(text: str) -> tuple[str, ...]:
    return tuple(" ".join(name.split()) for name in text.split(","))


# SceneParse150, ids 1 to 150
ADE20K = _names("""
    wall, building, sky, floor, tree, ceiling, road, bed, windowpane, grass, cabinet, sidewalk, person, earth, door,
    table, mountain, plant, curtain, chair, car, water, painting, sofa, shelf, house, sea, mirror, rug, field,
    armchair, seat, fence, desk, rock, wardrobe, lamp, bathtub, railing, cushion, base, box, column, signboard,
    chest of drawers, counter, sand, sink, skyscraper, fireplace, refrigerator, grandstand, path, stairs, runway,
    case, pool table, pillow, screen door, stairway, river, bridge, bookcase, blind, coffee table, toilet, flower,
    book, hill, bench, countertop, stove, palm, kitchen island, computer, swivel chair, boat, bar, arcade machine,
    hovel, bus, towel, light, truck, tower, chandelier, awning, streetlight, booth, television receiver, airplane,
    dirt track, apparel, pole, land, bannister, escalator, ottoman, bottle, buffet, poster, stage, van, ship,
    fountain, conveyer belt, canopy, washer, plaything, swimming pool, stool, barrel, basket, waterfall, tent, bag,
    minibike, cradle, oven, ball, food, step, tank, trade name, microwave, pot, animal, bicycle, lake, dishwasher,
    screen, blanket, sculpture, hood, sconce, vase, traffic light, tray, ashcan, fan, pier, crt screen, plate,
    monitor, bulletin board, shower, radiator, glass, clock, flag
""")

# Pascal Context, ids 1 to 59 of `SegmentationClassContext`
PC59 = _names("""
    aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, table, dog, horse, motorbike, person, potted
    plant, sheep, sofa, train, tv monitor, bag, bed, bench, book, building, cabinet, ceiling, cloth, computer, cup,
    door, fence, floor, flower, food, grass, ground, keyboard, light, mountain, mouse, curtain, platform, sign,
    plate, road, rock, shelves, sidewalk, sky, snow, bedclothes, track, tree, truck, wall, water, window, wood
""")

# Pascal VOC, ids 1 to 20
VOC20 = _names("""
    aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, dining table, dog, horse, motorbike, person,
    potted plant, sheep, sofa, train, tv monitor
""")

# COCO-Stuff, 80 things and 91 kinds of stuff: training ids 0 to 170
COCO_STUFF = _names("""
    person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign,
    parking meter, bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella,
    handbag, tie, suitcase, frisbee, skis, snowboard, sports ball, kite, baseball bat, baseball glove, skateboard,
    surfboard, tennis racket, bottle, wine glass, cup, fork, knife, spoon, bowl, banana, apple, sandwich, orange,
    broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed, dining table, toilet, tv,
    laptop, mouse, remote, keyboard, cell phone, microwave, oven, toaster, sink, refrigerator, book, clock, vase,
    scissors, teddy bear, hair drier, toothbrush, banner, blanket, branch, bridge, building-other, bush, cabinet,
    cage, cardboard, carpet, ceiling-other, ceiling-tile, cloth, clothes, clouds, counter, cupboard, curtain,
    desk-stuff, dirt, door-stuff, fence, floor-marble, floor-other, floor-stone, floor-tile, floor-wood, flower,
    fog, food-other, fruit, furniture-other, grass, gravel, ground-other, hill, house, leaves, light, mat, metal,
    mirror-stuff, moss, mountain, mud, napkin, net, paper, pavement, pillow, plant-other, plastic, platform,
    playingfield, railing, railroad, river, road, rock, roof, rug, salad, sand, sea, shelf, sky-other, skyscraper,
    snow, solid-other, stairs, stone, straw, structural-other, table, tent, textile-other, towel, tree, vegetable,
    wall-brick, wall-concrete, wall-other, wall-panel, wall-stone, wall-tile, wall-wood, water-other, waterdrops,
    window-blind, window-other, wood
""")


# --- folders and mask ids

_OUTSIDE = -2  # in a look-up: a mask id that the class table does not have
_COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91)  # ids from 1 to 182 that COCO-Stuff does not use


def _look_up(ids: Sequence[int], void: Sequence[int]) -> np.ndarray:
    """Mask id → label, as an array (256,) int16: ids[k] becomes k + 1."""
    table = np.full(256, _OUTSIDE, np.int16)
    table[list(void)] = IGNORED
    table[list(ids)] = np.arange(1, len(ids) + 1)
    return table


@dataclass(frozen=True)
class _Layout:
    """Where a data set keeps its files, below any of `roots`, and what its mask ids mean.

    splits   {split: the word that replaces {} in the other fields}
    masks    pairs of a file pattern (the second {} is the photo's name) and a look-up; the first that matches is used
    listing  the file that lists the photos, if there is one
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
        names=ADE20K,
        roots=("", "ADEChallengeData2016", "ade/ADEChallengeData2016"),
        splits={"train": "training", "val": "validation"},
        images="images/{}",
        masks=(("annotations/{}/{}.png", _look_up(range(1, 151), [0])),),
        listing=None,
        url="http://sceneparsing.csail.mit.edu (ADEChallengeData2016.zip)",
    ),
    "pc59": _Layout(
        names=PC59,
        roots=("", "VOC2010", "VOCdevkit/VOC2010"),
        splits={"train": "train", "val": "val"},
        images="JPEGImages",
        masks=(("SegmentationClassContext/{1}.png", _look_up(range(1, 60), [0, 255])),),
        listing="ImageSets/SegmentationContext/{}.txt",
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2010 (photos) and https://cs.stanford.edu/~roozbeh/"
        "pascal-context (masks, converted to 59 classes as mmsegmentation does)",
    ),
    "voc20": _Layout(
        names=VOC20,
        roots=("", "VOC2012", "VOCdevkit/VOC2012"),
        splits={"train": "train", "val": "val", "trainval": "trainval"},
        images="JPEGImages",
        masks=(("SegmentationClass/{1}.png", _look_up(range(1, 21), [0, 255])),),
        listing="ImageSets/Segmentation/{}.txt",
        url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012 (VOCtrainval_11-May-2012.tar)",
    ),
    "cocostuff": _Layout(
        names=COCO_STUFF,
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
    """One split of one data set.

    names   the class table: label k + 1 is `names[k]`
    photos  file names without their extensions

    Raises DataError for a folder or file that is missing (with where to get it), a split that the data set does not
    have, a mask of the wrong size or kind, or a mask id outside the class table.
    """

    def __init__(self, name: str, path: str | Path, split: str = "val"):
        if name not in _LAYOUTS:
            raise DataError(f"There is no semantic data set {name!r}; the names are {', '.join(_LAYOUTS)}.")
        layout = _LAYOUTS[name]
        if split not in layout.splits:
            raise DataError(f"{name} has no split {split!r}; its splits are {', '.join(layout.splits)}.")
        self.name = f"{name}:{path}@{split}"
        self.source = name
        self.split = split
        self.names = layout.names
        self._layout = layout
        self._folder = layout.splits[split]  # the word that file names have for the split
        self.root = self._find_root(Path(path))
        self._finder = FileFinder([self.root])
        self._pattern, self._label_of_id = self._find_masks()
        self.photos = self._list_photos()

    def _find_root(self, path: Path) -> Path:
        images = self._layout.images.format(self._folder)
        for inner in self._layout.roots:
            if (path / inner / images).is_dir():
                return path / inner
        raise DataError(
            f"{path} has no folder {images}, itself or in {', '.join(self._layout.roots[1:])}; get "
            f"{self.source} from {self._layout.url}."
        )

    def _find_masks(self) -> tuple[str, np.ndarray]:
        """The first pattern that finds a mask, and its look-up of ids."""
        for pattern, table in self._layout.masks:
            if any(self.root.glob(pattern.format(self._folder, "*"))):
                return pattern, table
        wanted = " or ".join(pattern.format(self._folder, "X") for pattern, _ in self._layout.masks)
        raise DataError(f"{self.root} has no masks {wanted}; get them from {self._layout.url}.")

    def _list_photos(self) -> list[str]:
        """In the order of the data set's list, or sorted by name."""
        if self._layout.listing is None:
            return [file.stem for file in photos_in(self.root / self._layout.images.format(self._folder), ".jpg")]
        file = self.root / self._layout.listing.format(self._folder)
        if not file.is_file():
            raise DataError(f"{file} is not there: it lists the photos of the split; get it from {self._layout.url}.")
        return [name.strip() for name in read_text(file).split("\n") if name.strip()]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """One sample: the whole class table as a list."""
        image, labels = self._open(index)
        return (self._sample(index, image, self.names, labels),)

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions about photo `index`: a class in it, an absent one, or a list of both."""
        image, labels = self._open(index)
        present = [int(k) for k in np.unique(labels) if k > 0]
        absent = [k for k in range(1, len(self.names) + 1) if k not in present]
        samples = []
        for _ in range(count):
            kind = rng.random()
            if absent and (kind < ABSENT_SHARE or not present):
                samples.append(self._phrase_sample(index, image, labels, int(rng.choice(absent)), rng))
            elif kind < ABSENT_SHARE + LIST_SHARE:
                extra = rng.permutation(absent)[: rng.integers(0, 4)]
                some = rng.permutation(present)[: MAX_LIST - len(extra)]
                asked = [int(k) for k in rng.permutation([*some, *extra])]
                position = np.zeros(len(self.names) + 1, np.int16)
                position[asked] = np.arange(1, len(asked) + 1)
                class_map = np.where(labels < 0, IGNORED, position[labels]).astype(np.int16)
                samples.append(self._sample(index, image, tuple(self.names[k - 1] for k in asked), class_map))
            else:
                samples.append(self._phrase_sample(index, image, labels, int(rng.choice(present)), rng))
        return tuple(samples)

    def _phrase_sample(
        self, index: int, image: Image.Image, labels: np.ndarray, label: int, rng: np.random.Generator
    ) -> Sample:
        class_map = np.where(labels < 0, IGNORED, labels == label).astype(np.int16)
        return self._sample(index, image, lexicon.vary(self.names[label - 1], rng), class_map)

    def _sample(self, index: int, image: Image.Image, query: str | tuple[str, ...], class_map: np.ndarray) -> Sample:
        names = (query,) if isinstance(query, str) else query
        asked = query if isinstance(query, str) else f"{len(query)} classes"
        number = f"{self.source}/{self.photos[index]}/{asked}"
        return Sample(number, self.source, image, query, ("others", *names), class_map)

    def _find(self, file: str, photo: str) -> Path:
        found = self._finder.find(file)
        if found is None:
            raise DataError(
                f"{self.root / file} is not there, but {self.name} has the photo {photo}; get it from "
                f"{self._layout.url}."
            )
        return found

    def _open(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """The photo and its labels (h, w) int16: 1 + index into `names`, or IGNORED."""
        name = self.photos[index]
        photo = self._find(f"{self._layout.images.format(self._folder)}/{name}.jpg", name)
        mask = self._find(self._pattern.format(self._folder, name), name)
        image = open_photo(photo)
        try:
            with Image.open(mask) as file:
                mode = file.mode
                ids = np.asarray(file)
        except (OSError, SyntaxError) as error:
            raise DataError(f"{mask} is not a whole PNG: {error}; get it again from {self._layout.url}.") from error
        if mode not in ("L", "P"):
            raise DataError(f"{mask} is a picture of mode {mode}, not a mask of 8-bit ids (grey or palette PNG).")
        if ids.shape != image.size[::-1]:
            raise DataError(
                f"{mask} is {ids.shape[1]}×{ids.shape[0]} pixels, its photo {image.width}×{image.height}; "
                "a mask is as large as its photo."
            )
        labels = self._label_of_id[ids]
        if (labels == _OUTSIDE).any():
            raise DataError(
                f"{mask} holds the id {int(ids[labels == _OUTSIDE][0])}, which is not in the table of "
                f"{len(self.names)} classes; is it a mask of {self.source}?"
            )
        return image, labels
