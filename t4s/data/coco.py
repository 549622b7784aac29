"""Your own photos with a COCO `instances.json`, as annotation tools write it: every category is a phrase.

    coco:FILE.json                    the file is the split: @train and @val take all of it

FILE holds `images`, `annotations` and `categories`. Photos are found beside it, in one of FOLDERS, and in the
layouts of COCO (`annotations/instances_train2017.json` beside `train2017/`) and CVAT (`images/Train/`).

The mask of a category is all its annotations together, crowds too. As in COCO, every photo is taken to be annotated for
every category of the file, so a category without an annotation is absent. An annotation that draws nothing (too few
points, outside the photo, no outline at all) is left out, and its category is then neither present nor absent in that
photo, unless other annotations draw it. `t4s check` names each of them.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s import lexicon
from t4s.data.augment.draws import Draw, draw_samples
from t4s.data.augment.labels import PackedMasks
from t4s.data.augment.views import whole
from t4s.data.folder import ABSENT_PER_PHOTO, ABSENT_SHARE
from t4s.data.reading.inspection import Inspection, orientation_notes, rotation_hint
from t4s.data.reading.names import class_name, name_faults, short
from t4s.data.reading.outlines import stray_faults, surely_draws, usable_mask
from t4s.data.reading.paths import FileFinder, file_name
from t4s.data.reading.text import read_json
from t4s.errors import DataError, ImageError, QueryError
from t4s.imaging.loading import open_photo
from t4s.records import Sample

FOLDERS = ("", "images", "train2017", "val2017", "train2014", "val2014")
LISTED = 5  # ids that one message names


@dataclass
class Photo:
    """One entry of `images`. `size` (h, w) is None where the file does not say it."""

    id: Any
    file: str
    size: tuple[int, int] | None
    annotations: list[dict[str, Any]] = field(default_factory=list)


class CocoDataset:
    """The photos of one file that have a usable annotation.

    names    every category, sorted
    photos   in the order of the file

    Raises DataError at the first thing wrong with the file as a whole: missing or damaged, ids that occur twice,
    categories that cannot be asked, boxes without outlines. With `faults`, collects them there and opens what is left.
    """

    def __init__(self, path: str | Path, split: str = "train", faults: list[DataError] | None = None):
        self.path = Path(path)
        self.name = f"coco:{path}@{split}"
        self.split = split
        self._faults = faults
        data = read_json(self.path, "Name a COCO instances file.")
        if not isinstance(data, dict):
            raise DataError(f"{self.path} holds a {type(data).__name__}; a COCO instances file holds one object.")
        tables = {key: _table(data, key, self.path) for key in ("categories", "images", "annotations")}
        self._reported: set[Any] = set()  # ids of categories that cannot be asked
        self._categories = self._read_categories(tables["categories"])
        self._photos = self._read_photos(tables["images"])
        self._add_annotations(tables["annotations"])
        self._refuse_boxes(tables["annotations"])
        self.names = sorted(set(self._categories.values()))
        self.photos = [photo for photo in self._photos.values() if self._has_usable(photo)]
        if faults is not None:
            faults += map(DataError, self._unused())
        self._finder = FileFinder(_photo_folders(self.path))
        self._subfolders = [FileFinder([folder]) for folder in _subfolders(self.path)]
        self._named = Counter(file_name(photo.file) for photo in self._photos.values())

    def _fault(self, message: str) -> None:
        """Raise or collect what is wrong with the file as a whole."""
        error = DataError(f"{self.path}: {message}")
        if self._faults is None:
            raise error
        self._faults.append(error)

    # --- the file

    def _read_categories(self, rows: list[dict[str, Any]]) -> dict[Any, str]:
        """{id: clean name}."""
        self._name_duplicates("categories", (_id(row) for row in rows), "every category needs an id of its own")
        names: dict[Any, str] = {}
        for row in rows:
            try:
                names[_id(row)] = class_name(row.get("name"))
            except QueryError as error:
                self._reported.add(_id(row))
                self._fault(f"category {short(_id(row))} cannot be asked. {error} Rename it, or leave it out.")
        for fault in name_faults(names.items()):
            self._fault(fault)
        return names

    def _read_photos(self, rows: list[dict[str, Any]]) -> dict[Any, Photo]:
        self._name_duplicates("images", (_id(row) for row in rows), "masks would land on the wrong photo")
        photos: dict[Any, Photo] = {}
        for row in rows:
            number = _id(row)
            file = row.get("file_name")
            if not isinstance(file, str) or not file.strip():
                self._fault(f'image {short(number)} has the file_name {short(file)}; write "file_name": "a.jpg".')
                continue
            try:
                size = _size(row)
            except ValueError:
                given = f"{short(row.get('width'))}×{short(row.get('height'))}"
                self._fault(f"image {short(number)} has the size {given}; width and height are whole numbers above 0.")
                continue
            photos.setdefault(number, Photo(number, file, size))
        files = Counter(photo.file for photo in photos.values())
        for file, count in files.items():
            if count > 1:
                same = [short(photo.id) for photo in photos.values() if photo.file == file]
                self._fault(f"images {' and '.join(same)} are all {file}; give each photo one entry.")
        return photos

    def _add_annotations(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            image = _plain_id(row.get("image_id"))
            category = _plain_id(row.get("category_id"))
            if image in self._photos and category in self._categories:
                self._photos[image].annotations.append(row | {"category_id": category})
            elif category not in self._reported:
                self._fault(
                    f"annotation {short(row.get('id'))} is on image {short(image)} with category {short(category)}, "
                    "and the file lacks one of the two."
                )

    def _refuse_boxes(self, rows: list[dict[str, Any]]) -> None:
        if rows and not any(row.get("segmentation") for row in rows):
            boxes = sum(bool(row.get("bbox")) for row in rows)
            kind = f"{boxes} boxes and no outlines" if boxes else "annotations without a segmentation"
            self._fault(
                f"it holds {kind}; a box is no mask. Export it with polygons or run lengths, or turn the boxes into "
                "masks with SAM first."
            )

    def _name_duplicates(self, table: str, ids: Iterable[Any], why: str) -> None:
        twice = [number for number, count in Counter(ids).items() if count > 1]
        if twice:
            listed = ", ".join(map(short, twice[:LISTED])) + (" …" if len(twice) > LISTED else "")
            self._fault(f"several {table} have the id {listed}; {why}.")

    def _has_usable(self, photo: Photo) -> bool:
        if not photo.annotations:
            return False
        if photo.size is None or any(surely_draws(row.get("segmentation"), *photo.size) for row in photo.annotations):
            return True
        return any(usable_mask(row.get("segmentation"), *photo.size)[0].any() for row in photo.annotations)

    # --- samples

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every category in photo `index`, in the order of the file, and a few absent ones, always the same."""
        image, masks, absent, _ = self._open(self.photos[index])
        chosen = np.random.default_rng(index).permutation(len(absent))[:ABSENT_PER_PHOTO]
        asked = [*masks, *(absent[k] for k in chosen)]
        empty = np.zeros((image.height, image.width), bool)
        return tuple(self._sample(index, image, masks.get(name, empty), name) for name in asked)

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions, in many words (`lexicon.vary`): categories in the photo, and absent ones."""
        return draw_samples(self, index, rng, count)

    def decode(self, index: int, complete: bool = False) -> tuple[Image.Image, tuple[PackedMasks, list[str]]]:
        """Photo `index`, and the masks of its categories with their names; see `PhotoDataset`."""
        image, masks, absent, _ = self._open(self.photos[index])
        if not masks and not absent:
            raise DataError(f"{self.path}: no annotation of {self.photos[index].file} draws anything; leave it out.")
        packed = PackedMasks(image.height, image.width)
        for name, mask in masks.items():
            packed.add(name, mask)
        return image, (packed, list(masks))

    def ask(
        self, index: int, rng: np.random.Generator, count: int, labels: Callable[[int], tuple[PackedMasks, list[str]]]
    ) -> Draw:
        """See `draw`."""
        masks, present = labels(index)
        annotated = {self._categories[row["category_id"]] for row in self.photos[index].annotations}
        absent = [name for name in self.names if name not in annotated]
        samples = []
        for _ in range(count):
            ask_absent = not present or (absent and rng.random() < ABSENT_SHARE)
            name = str(rng.choice(absent if ask_absent else present))
            samples.append(self._sample(index, None, masks.get(name), lexicon.vary(name, rng)))
        return Draw(whole(index, masks.size), tuple(samples))

    def inspect(self, index: int) -> Inspection:
        """For `t4s check`: photo `index`, and what is wrong with its annotations."""
        photo = self.photos[index]
        try:
            image, _, _, problems = self._open(photo)
        except DataError as error:
            return Inspection(problems=[str(error)])
        for row in photo.annotations:
            for fault in stray_faults(row.get("segmentation"), image.height, image.width):
                problems.append(f"{self.path}, annotation {short(row.get('id'))} on {photo.file}: {fault}")
        return Inspection(list(self[index]), problems, orientation_notes(self._find(photo), photo.file))

    def _unused(self) -> list[str]:
        """What is wrong with the annotations of photos that have no usable one, and so are left out."""
        opened = {id(photo) for photo in self.photos}
        left_out = [photo for photo in self._photos.values() if photo.annotations and id(photo) not in opened]
        return [fault for photo in left_out for fault in self._masks(photo, *photo.size)[1]]

    def _open(self, photo: Photo) -> tuple[Image.Image, dict[str, np.ndarray], list[str], list[str]]:
        """The photo, {name: mask (h, w) bool}, the absent names, and what is wrong with its annotations."""
        file = self._find(photo)
        try:
            image = open_photo(file)
        except ImageError as error:
            raise DataError(f"{self.path}, image {short(photo.id)}: {error}") from error
        height, width = image.height, image.width
        if photo.size not in (None, (height, width)):
            raise DataError(
                f"{photo.file} is {width}×{height} pixels and {self.path.name} says {photo.size[1]}×{photo.size[0]}; "
                f"photo and annotations do not match.{rotation_hint(photo.size, height, width)}"
            )
        masks, faults = self._masks(photo, height, width)
        annotated = {self._categories[row["category_id"]] for row in photo.annotations}
        absent = [name for name in self.names if name not in annotated]
        return image, masks, absent, faults

    def _masks(self, photo: Photo, height: int, width: int) -> tuple[dict[str, np.ndarray], list[str]]:
        masks: dict[str, np.ndarray] = {}
        faults = []
        for row in photo.annotations:
            mask, wrong = usable_mask(row.get("segmentation"), height, width)
            name = self._categories[row["category_id"]]
            faults += [
                f'{self.path}, annotation {short(row.get("id"))} ("{name}") on {photo.file} draws nothing: {fault}'
                for fault in wrong
            ]
            if mask.any():
                masks[name] = masks[name] | mask if name in masks else mask
        return masks, faults

    def _find(self, photo: Photo) -> Path:
        """The file of a photo; without its folder if no other photo has that name."""
        names = [photo.file]
        if self._named[file_name(photo.file)] == 1:
            names.append(file_name(photo.file))
        for name in names:
            if found := self._finder.find(name):
                return found
            candidates = [found for finder in self._subfolders if (found := finder.find(name))]
            if len(candidates) > 1:
                raise DataError(
                    f"The photo {photo.file} of {self.path.name} may be {candidates[0]} or {candidates[1]}; write the "
                    "folder into its file_name."
                )
            if candidates:
                return candidates[0]
        searched = ", ".join(os.path.relpath(folder, self.path.parent) for folder in self._finder.folders[1:])
        raise DataError(
            f"The photo {photo.file} of {self.path.name} is not in {self.path.parent}"
            f"{f' nor in {searched}' if searched else ''}; put it there, or into a folder {FOLDERS[1]}."
        )

    def _sample(self, index: int, image: Image.Image | None, mask: np.ndarray, phrase: str) -> Sample:
        number, labels = f"coco/{self.photos[index].file}/{phrase}", ("others", phrase)
        return Sample(number, "coco", image, phrase, labels, mask.astype(np.int16))


def _table(data: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    rows = data.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(
            f"{path} is not a COCO instances file: its {key} are {short(rows)}; they are a list of objects. It needs "
            "images, annotations and categories."
        )
    return rows


def _id(row: dict[str, Any]) -> Any:
    return _plain_id(row.get("id"))


def _plain_id(value: Any) -> Any:
    """7 for 7, 7.0 and "7", which tools mix; a hashable value for anything else."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, (int, float, str)) else short(value)


def _size(row: dict[str, Any]) -> tuple[int, int] | None:
    """(h, w), whether written as 480, 480.0 or "480"; None if neither is given. ValueError if it is no size."""
    given = [row.get("height"), row.get("width")]
    if given in ([None, None], [0, 0]):  # some tools do not know it
        return None
    if not all(isinstance(value, (int, float, str)) for value in given):
        raise ValueError(given)
    height, width = (float(value) for value in given)
    if not (height > 0 and width > 0 and height.is_integer() and width.is_integer()):
        raise ValueError(given)
    return int(height), int(width)


def _bases(path: Path) -> list[Path]:
    """The folder of the file, and the one above if the file is in `annotations`."""
    return [path.parent, path.parent.parent] if path.parent.name.casefold() == "annotations" else [path.parent]


def _photo_folders(path: Path) -> list[Path]:
    """Where photos may be, the likeliest first: those of `instances_train2017.json` in `train2017`."""
    subset = path.stem.partition("_")[2]
    folders = []
    for base in _bases(path):
        if subset:
            folders += [base / subset, base / "images" / subset]
        folders += [base / folder for folder in FOLDERS]
    return folders


def _subfolders(path: Path) -> list[Path]:
    """The folders inside `images`, such as CVAT's `images/Train`."""
    images = [base / "images" for base in _bases(path)]
    return sorted(folder for parent in images if parent.is_dir() for folder in parent.iterdir() if folder.is_dir())
