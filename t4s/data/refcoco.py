"""Referring expressions on COCO photos: RefCOCO, RefCOCO+ (unc), RefCOCOg (umd) and gRefCOCO.

Files are laid out as `github.com/lichengunc/refer` and the gRefCOCO authors ship them. PATH is the folder that holds
the data sets, or the folder of one data set:

    PATH/refcoco/refs(unc).p        PATH/refcoco/instances.json
    PATH/refcoco+/refs(unc).p       PATH/refcoco+/instances.json
    PATH/refcocog/refs(umd).p       PATH/refcocog/instances.json
    PATH/grefcoco/grefs(unc).json   PATH/grefcoco/instances.json
    PATH/images/train2014/COCO_train2014_000000000009.jpg   (or one of IMAGE_FOLDERS)

Every sentence is one sample. `box` is the official box of the annotation; gRefCOCO has several targets or none, and so
no box. A training split leaves out every photo that is in a validation or test split of *any* of the four data sets:
their splits overlap, and RefCOCOg's training photos include RefCOCO's test photos.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from t4s.codec import clean_label
from t4s.data.reading.paths import FileFinder
from t4s.data.reading.text import read_json
from t4s.errors import DataError, QueryError
from t4s.imaging.loading import open_photo
from t4s.imaging.masks import annotation_mask
from t4s.records import Sample

FILES = {"refcoco": "refs(unc).p", "refcoco+": "refs(unc).p", "refcocog": "refs(umd).p", "grefcoco": "grefs(unc).json"}
SPLITS = dict.fromkeys(FILES, ("train", "val", "testA", "testB")) | {"refcocog": ("train", "val", "test")}
IMAGE_FOLDERS = ("images/train2014", "images/mscoco/images/train2014", "train2014", "coco/train2014", "images")
SOURCES = {
    "refcoco": "https://github.com/lichengunc/refer",
    "refcoco+": "https://github.com/lichengunc/refer",
    "refcocog": "https://github.com/lichengunc/refer",
    "grefcoco": "https://github.com/henghuiding/gRefCOCO",
    "images": "http://images.cocodataset.org/zips/train2014.zip",
}
UNASKABLE = "a phrase that cannot be asked"  # the label of sentences that cannot be a label, such as "***"

# What unpickling damaged or hostile bytes can raise, according to the documentation of `pickle`.
_BROKEN = (
    pickle.UnpicklingError,
    EOFError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    ImportError,
    OverflowError,
    MemoryError,
    RecursionError,
)


class _PlainUnpickler(pickle.Unpickler):
    """Reads lists, dicts, strings and numbers; refuses to look up any class or function."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only plain lists, dicts and strings are read")


def read_pickle(file: BinaryIO) -> Any:
    """Read a pickle of plain data, also one by Python 2. Runs no code; raises UnpicklingError for anything else."""
    return _PlainUnpickler(file, encoding="utf-8", errors="replace").load()


@dataclass(frozen=True)
class _Expression:
    """One ref: several sentences for the same target annotations (none: the target is absent)."""

    id: int
    image: int
    split: str
    targets: tuple[int, ...]
    sentences: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class _Photo:
    id: int
    file: str
    size: tuple[int, int]  # (h, w)
    expressions: tuple[_Expression, ...]


class RefCocoDataset:
    """One split of one data set, photo by photo.

    photos     in the order of their COCO ids
    held_back  number of training photos left out because they are in a validation or test split
    unasked    number of training sentences left out because they cannot be a label

    Raises DataError for a missing or damaged file, a split that the data set does not have, or a ref whose annotation
    or photo is not in `instances.json`.
    """

    def __init__(self, name: str, path: str | Path, split: str = "val"):
        if name not in FILES:
            raise DataError(f"There is no referring data set {name!r}; the names are {', '.join(FILES)}.")
        if split not in SPLITS[name]:
            raise DataError(f"{name} has no split {split!r}; its splits are {', '.join(SPLITS[name])}.")
        self.name = f"{name}:{path}@{split}"
        self.split = split
        self.source = name
        self.root = _root(name, Path(path))
        self._finder = FileFinder(self.root / folder for folder in IMAGE_FOLDERS)
        self.held_back = 0
        self.unasked = 0
        expressions = [e for e in read_expressions(self.root / name / FILES[name], name) if e.split == split]
        if not expressions:
            raise DataError(
                f"{self.root / name / FILES[name]} has no expression of the split {split!r}; the file is "
                f"another version, get it again from {SOURCES[name]}."
            )
        if split == "train":
            expressions = self._askable(self._not_held_back(expressions))
        self.annotations: dict[int, dict[str, Any]] = {}
        self.photos = self._join(expressions)

    def _not_held_back(self, expressions: list[_Expression]) -> list[_Expression]:
        """Those whose photo is in no validation or test split of the family."""
        held: set[int] = set()
        unknown = []
        for name, file in FILES.items():
            path = self.root / name / file
            if path.is_file():
                held |= {e.image for e in read_expressions(path, name) if e.split != "train"}
            else:
                unknown.append(name)
        if unknown:
            warnings.warn(
                f"The training split of {self.source} may contain evaluation photos of {', '.join(unknown)}, whose "
                f"files are not in {self.root}: do not report results on them for a model trained on it.",
                stacklevel=3,
            )
        kept = [e for e in expressions if e.image not in held]
        self.held_back = len({e.image for e in expressions}) - len({e.image for e in kept})
        return kept

    def _askable(self, expressions: list[_Expression]) -> list[_Expression]:
        kept = []
        for e in expressions:
            sentences = tuple((number, text) for number, text in e.sentences if label_of(text) != UNASKABLE)
            self.unasked += len(e.sentences) - len(sentences)
            if sentences:
                kept.append(_Expression(e.id, e.image, e.split, e.targets, sentences))
        return kept

    def _join(self, expressions: list[_Expression]) -> list[_Photo]:
        """Group expressions by photo, and keep only the annotations of instances.json that they refer to."""
        path = self.root / self.source / "instances.json"
        data = _read_json(path, self.source)
        try:
            wanted = {target for e in expressions for target in e.targets}
            self.annotations = {a["id"]: a for a in data["annotations"] if a["id"] in wanted}
            images = {i["id"]: (i["file_name"], (i["height"], i["width"])) for i in data["images"]}
        except (KeyError, TypeError) as error:
            raise DataError(f"{path} is not a COCO instances file: {error!r} in images or annotations.") from error
        photos: dict[int, list[_Expression]] = {}
        for e in expressions:
            if e.image not in images:
                raise DataError(f"{path} has no image {e.image}, which ref {e.id} is about; the files do not match.")
            for target in e.targets:
                if self.annotations.get(target, {}).get("image_id") != e.image:
                    raise DataError(
                        f"{path} has no annotation {target} on image {e.image}, which ref {e.id} means; "
                        "the files do not match."
                    )
            photos.setdefault(e.image, []).append(e)
        return [_Photo(image, *images[image], tuple(photos[image])) for image in sorted(photos)]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every sentence about photo `index`, in the file's order. DataError if the photo is not where it should be."""
        photo = self.photos[index]
        return self._samples(photo, [(e, sentence) for e in photo.expressions for sentence in e.sentences])

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random sentences about photo `index`, equally likely; repeated only if there are too few."""
        photo = self.photos[index]
        sentences = [(e, sentence) for e in photo.expressions for sentence in e.sentences]
        chosen = rng.choice(len(sentences), count, replace=count > len(sentences))
        return self._samples(photo, [sentences[k] for k in chosen])

    def _samples(self, photo: _Photo, asked: Iterable[tuple[_Expression, tuple[int, str]]]) -> tuple[Sample, ...]:
        image = open_photo(self._find(photo))
        if image.size[::-1] != photo.size:
            raise DataError(
                f"{photo.file} is {image.width}×{image.height} pixels, instances.json says "
                f"{photo.size[1]}×{photo.size[0]}; the photos are not COCO's train2014."
            )
        masks: dict[int, np.ndarray] = {}
        samples = []
        for e, (number, text) in asked:
            if e.id not in masks:
                masks[e.id] = self._mask(e, photo.size)
            samples.append(
                Sample(
                    f"{self.source}/{photo.id}/{e.id}/{number}",
                    self.source,
                    image,
                    text,
                    ("others", label_of(text)),
                    masks[e.id],
                    self._box(e),
                )
            )
        return tuple(samples)

    def _mask(self, e: _Expression, size: tuple[int, int]) -> np.ndarray:
        mask = np.zeros(size, np.int16)
        for target in e.targets:
            try:
                mask[annotation_mask(self.annotations[target].get("segmentation"), *size)] = 1
            except DataError as error:
                raise DataError(f"Annotation {target} of {self.source}/instances.json: {error}") from error
        return mask

    def _box(self, e: _Expression) -> tuple[float, float, float, float] | None:
        """The official box (x0, y0, x1, y1), never one computed from a mask."""
        if self.source == "grefcoco":
            return None
        box = self.annotations[e.targets[0]].get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise DataError(
                f"Annotation {e.targets[0]} of {self.source}/instances.json has the bbox {box!r}; "
                "it is [x, y, width, height]."
            )
        x, y, width, height = map(float, box)
        return x, y, x + width, y + height

    def _find(self, photo: _Photo) -> Path:
        if found := self._finder.find(photo.file):
            return found
        raise DataError(
            f"The photo {photo.file} is in none of {', '.join(IMAGE_FOLDERS)} of {self.root}; get COCO's "
            f"train2014 photos from {SOURCES['images']} and unpack them there."
        )


def label_of(text: str) -> str:
    """The label for a sentence, or UNASKABLE: such a sentence is still scored, as a failure."""
    try:
        return clean_label(text)
    except QueryError:
        return UNASKABLE


def read_expressions(path: Path, name: str) -> list[_Expression]:
    """Every ref of a `refs(…).p` or `grefs(…).json`, whatever its split. DataError names file and ref."""
    if path.suffix == ".json":
        refs = _read_json(path, name)
    else:
        _require(path, name)
        try:
            with path.open("rb") as file:
                refs = read_pickle(file)
        except _BROKEN as error:
            raise DataError(
                f"{path} cannot be read as a pickle of refs: {error}. Get it again from {SOURCES[name]}."
            ) from error
    if not isinstance(refs, list):
        raise DataError(f"{path} holds {type(refs).__name__}, not a list of refs; get it again from {SOURCES[name]}.")
    return [_expression(ref, f"{path}, ref number {number}", name) for number, ref in enumerate(refs)]


def _expression(ref: Any, place: str, name: str) -> _Expression:
    try:
        targets = ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]
        sentences = tuple((int(s["sent_id"]), str(s["sent"])) for s in ref["sentences"])
        expression = _Expression(
            int(ref["ref_id"]),
            int(ref["image_id"]),
            str(ref["split"]),
            tuple(int(t) for t in targets if t not in (-1, None)),
            sentences,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{place} is not a ref of ref_id, ann_id, image_id, split and sentences: {error!r}.") from error
    if not expression.targets and name != "grefcoco":
        raise DataError(f"{place} has no annotation; only gRefCOCO has expressions without a target.")
    return expression


def _root(name: str, path: Path) -> Path:
    """The folder of the data sets, given it or the data set's own folder."""
    if (path / name).is_dir():
        return path
    if path.name == name and path.is_dir():
        return path.parent
    raise DataError(
        f"{path} has no folder {name!r}; put {FILES[name]} and instances.json of {SOURCES[name]} into {path / name}."
    )


def _require(path: Path, name: str) -> None:
    if not path.is_file():
        raise DataError(f"{path} is not there; get {name} from {SOURCES[name]}.")


def _read_json(path: Path, name: str) -> Any:
    _require(path, name)
    return read_json(path, f"Get it again from {SOURCES[name]}.")
