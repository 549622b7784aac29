"""Your own photos: a text file with one JSON object a line, one phrase about one photo each.

    {"image": "a.jpg", "query": "the dog on the left", "mask": "a_dog.png"}
    {"image": "a.jpg", "query": "the dogs", "mask": {"size": [480, 640], "counts": "…"}}
    {"image": "b.jpg", "query": "a red car", "mask": [[10, 10, 200, 10, 200, 90], […]], "split": "val"}
    {"image": "b.jpg", "query": "a cat", "absent": true}

    image   path of a photo, from the file's own folder (or absolute)
    query   the phrase, 1 to `limits.MAX_QUERY` characters; it is the label, cleaned by `codec.clean_label`
    mask    where it is: a path of a mask file (lossless; every pixel above 0 is meant), or a COCO
            segmentation as `annotations` reads them; as large as the upright photo, and not empty
    absent  true, in place of a mask: nothing of it is in the photo
    split   optional; a line without one belongs to every split, and the split "all" has every line
    box     optional: the official box [x0, y0, x1, y1] in pixels

Other fields are left alone. Lines about one photo need not stand together. The whole file is checked
when it is opened, photos and masks when they are asked for: `t4s check` looks at all of them at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s.codec import clean_label
from t4s.errors import DataError, ImageError, QueryError
from t4s.imaging.loading import open_mask, open_photo
from t4s.imaging.masks import annotation_mask
from t4s.limits import MAX_QUERY
from t4s.records import Sample

ALL = "all"


@dataclass(frozen=True)
class Line:
    """One line that holds what it must. `mask` is None where the target is absent; bytes are a whole file's."""

    place: str  # "FILE, line N"
    number: int
    image: Path | bytes
    query: str
    mask: Path | bytes | dict[str, Any] | list[Any] | None
    split: str | None
    box: tuple[float, float, float, float] | None

    def sample(self, image: Image.Image, source: str) -> Sample:
        """The line with its mask, on its photo. Raises DataError naming file, line and field."""
        classes = np.zeros((image.height, image.width), np.int16)
        if self.mask is not None:
            classes[self._target(image.height, image.width)] = 1
        return Sample(f"{source}/{self.number}", source, image, self.query, ("others", self.query), classes, self.box)

    def photo(self) -> Image.Image:
        try:
            return open_photo(self.image)
        except ImageError as error:
            raise DataError(f'{self.place}, field "image": {error}') from error

    def _target(self, height: int, width: int) -> np.ndarray:
        place = f'{self.place}, field "mask"'
        try:
            stored = isinstance(self.mask, (Path, bytes))
            mask = open_mask(self.mask) > 0 if stored else annotation_mask(self.mask, height, width)
        except (ImageError, DataError) as error:
            raise DataError(f"{place}: {error}") from error
        if mask.shape != (height, width):
            raise DataError(
                f"{place}: the mask is {mask.shape[1]}×{mask.shape[0]} pixels and its upright photo "
                f"{width}×{height}; a mask is as large as its photo."
            )
        if not mask.any():
            raise DataError(
                f'{place}: the mask is empty; if nothing of it is in the photo, write "absent": true instead.'
            )
        return mask


def read(path: Path) -> Iterator[Line | DataError]:
    """Every line of the file, or what is wrong with it. Raises DataError if there is no such file."""
    for place, number, row in objects(path, '{"image": "a.jpg", "query": "a dog", "mask": "a.png"}'):
        try:
            yield row if isinstance(row, DataError) else line_of(row, place, number, path.parent)
        except DataError as error:
            yield error


def objects(path: Path, example: str) -> Iterator[tuple[str, int, Any]]:
    """(place, number, value) of every line that is not empty; the value is a DataError where the line is no JSON.

    `example` is what a line should look like. Raises DataError if there is no such file.
    """
    if not path.is_file():
        raise DataError(f"There is no file {path}; a jsonl dataset is a text file with one JSON object a line.")
    with path.open("rb") as file:
        for number, raw in enumerate(file, 1):
            place, wrong = f"{path}, line {number}", ""
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield place, number, json.loads(text)
            except UnicodeDecodeError as error:
                wrong = f"{place} is not UTF-8 text ({error.reason} at byte {error.start}); save the file so."
            except json.JSONDecodeError as error:
                wrong = (
                    f"{place} is no JSON object ({error.msg} at character {error.pos + 1}); "
                    f"write one object a line, such as {example}."
                )
            except RecursionError:
                wrong = f"{place} is nested too deeply to be read; write one flat object a line."
            if wrong:
                yield place, number, DataError(wrong)


def line_of(row: Any, place: str, number: int, root: Path) -> Line:
    """A row's fields as a Line; in place of a path, `image` and `mask` may be a file's bytes. Raises DataError."""
    if not isinstance(row, dict):
        raise DataError(f"{place} is no JSON object; write it in braces, with image, query and mask or absent.")
    absent = row.get("absent", False)
    if not isinstance(absent, bool):
        raise DataError(f'{place}, field "absent": it is {short(absent)}; it is true or left out.')
    if absent == ("mask" in row):
        given = 'both "mask" and "absent": true' if absent else 'neither "mask" nor "absent": true'
        raise DataError(f"{place} has {given}; give the mask, or say that the target is absent.")
    split = row.get("split")
    if split is not None and not isinstance(split, str):
        raise DataError(f'{place}, field "split": it is {short(split)}; write a name such as "train" or "val".')
    image = file_of(row, "image", place, root)
    mask = None if absent else row["mask"]
    if isinstance(mask, (str, bytes)):
        mask = file_of(row, "mask", place, root)
    if not absent and not isinstance(mask, (Path, bytes, dict, list)):
        raise DataError(
            f'{place}, field "mask": it is {short(mask)}; write the path of a PNG, a list of polygons '
            '[[x, y, x, y, x, y, …], …] or run lengths {"size": [h, w], "counts": …}.'
        )
    return Line(place, number, image, _query(row, place), mask, split, _box(row, place))


def _query(row: Mapping[str, Any], place: str) -> str:
    query = row.get("query")
    if not isinstance(query, str):
        raise DataError(f'{place}, field "query": it is {short(query)}; write a phrase such as "the dog on the left".')
    try:
        label = clean_label(query)
    except QueryError as error:
        raise DataError(f'{place}, field "query": {error}') from error
    if len(label) > MAX_QUERY:
        raise DataError(f'{place}, field "query": it has {len(label)} characters; at most {MAX_QUERY} can be asked.')
    return label


def file_of(row: Mapping[str, Any], field: str, place: str, root: Path) -> Path | bytes:
    """A row's field as the path of a file that is there, or the bytes that it holds. Raises DataError."""
    value = row.get(field)
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise DataError(f'{place}, field "{field}": it is {short(value)}; write the path of a file.')
    path = root / value
    if not path.is_file():
        raise DataError(
            f'{place}, field "{field}": there is no file {path}; paths start at the folder of the dataset file.'
        )
    return path


def _box(row: Mapping[str, Any], place: str) -> tuple[float, float, float, float] | None:
    box = row.get("box")
    if box is None:
        return None
    numbers = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
    if not numbers or not (box[0] < box[2] and box[1] < box[3]):
        raise DataError(f'{place}, field "box": it is {short(box)}; write [x0, y0, x1, y1] with x0 < x1 and y0 < y1.')
    return tuple(float(v) for v in box)


def short(value: Any, limit: int = 60) -> str:
    if value is None:
        return "missing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= limit else text[:limit] + "…"


def photos_of(path: str | Path, lines: Iterable[Any], split: str) -> list[tuple[Any, ...]]:
    """The lines of one split, those about one photo together, in the file's order: each has `image` and `split`.

    DataError where one of them is a DataError, wherever it is, and if none is of the split.
    """
    photos: dict[Path, list[Any]] = {}
    splits: set[str] = set()
    for line in lines:
        if isinstance(line, DataError):
            raise line
        splits.add(line.split or ALL)
        if split == ALL or line.split in (None, split):
            photos.setdefault(line.image, []).append(line)
    if not photos:
        found = f"its lines are of {', '.join(sorted(splits))}" if splits else "it has no lines"
        raise DataError(f"{path} has no line of the split {split!r}; {found}.")
    return [tuple(own) for own in photos.values()]


class JsonlDataset:
    """The photos of one split, in the order in which the file first names them.

    Raises DataError at the file's first faulty line, wherever it is, and if no line is of the split.
    """

    def __init__(self, path: str | Path, split: str = "train"):
        self.name, self.source = f"jsonl:{path}@{split}", Path(path).stem
        self.photos = photos_of(path, read(Path(path)), split)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every line about photo `index`, in the file's order. Raises DataError naming file, line and field."""
        return self._samples(self.photos[index])

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random lines about photo `index`, all alike likely; repeated only if there are too few."""
        lines = self.photos[index]
        return self._samples([lines[k] for k in rng.choice(len(lines), count, replace=count > len(lines))])

    def _samples(self, lines: tuple[Line, ...] | list[Line]) -> tuple[Sample, ...]:
        image = lines[0].photo()
        return tuple(line.sample(image, self.source) for line in lines)
