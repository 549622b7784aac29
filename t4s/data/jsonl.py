"""Your own photos: a text file with one JSON object a line, one phrase about one photo each.

    {"image": "a.jpg", "query": "the dog on the left", "mask": "a_dog.png"}
    {"image": "a.jpg", "query": "the dogs", "mask": {"size": [480, 640], "counts": "…"}}
    {"image": "b.jpg", "query": "a red car", "mask": [[10, 10, 200, 10, 200, 90], […]], "split": "val"}
    {"image": "b.jpg", "query": "a cat", "absent": true}

    image   path of a photo, relative to the file's folder (or absolute)
    query   the phrase, 1 to `limits.MAX_QUERY` characters; it is the label, cleaned by `codec.clean_label`
    mask    the target: the path of a mask file, or a COCO segmentation (polygons or run lengths), as large as the
            upright photo and not empty
    absent  true, in place of a mask: the photo shows nothing of it
    split   "train", "val" or "test". As soon as any line has one, a line without it is for training. Where no line has
            one, a share of the photos is held out if the file is both trained and validated on; see `reading.splits`
    box     optional: the official box [x0, y0, x1, y1] in pixels

Other fields are ignored; `t4s check` reports those that look misspelt. Lines about one photo need not be adjacent. All
lines are checked when the file is opened, photos and masks when they are used: `t4s check` checks all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s.codec import clean_label
from t4s.data.augment.draws import Draw, draw_samples
from t4s.data.augment.labels import PackedMasks
from t4s.data.augment.views import whole
from t4s.data.reading.inspection import Inspection, orientation_notes, rotation_hint
from t4s.data.reading.names import misspelt_fields, short
from t4s.data.reading.outlines import stray_faults, usable_mask
from t4s.data.reading.paths import FileFinder
from t4s.data.reading.splits import ALL, by_photo, photos_of, split_faults
from t4s.data.reading.text import read_json_lines
from t4s.errors import DataError, ImageError, QueryError
from t4s.imaging.loading import open_photo
from t4s.imaging.masks import annotation_mask, read_mask
from t4s.limits import MAX_QUERY
from t4s.records import Sample

FIELDS = ("image", "query", "mask", "absent", "split", "box")
EXAMPLE = '{"image": "a.png", "query": "a dog", "mask": "a_dog.png"}'


@dataclass(frozen=True)
class Line:
    """One valid line.

    place     "FILE, line N", for messages
    image     a path, or the bytes of an image file
    mask      None if the target is absent; otherwise a path, the bytes of a file, or a COCO segmentation
    misspelt  (field, the field that was probably meant) for fields that nothing reads
    """

    place: str
    number: int
    image: Path | bytes
    query: str
    mask: Path | bytes | dict[str, Any] | list[Any] | None
    split: str | None
    box: tuple[float, float, float, float] | None
    misspelt: tuple[tuple[str, str], ...] = ()

    def sample(self, image: Image.Image, source: str) -> Sample:
        """The line with its mask, on its photo. Raises DataError naming file, line and field."""
        return self.sample_of(self.target(image.height, image.width), source, image)

    def sample_of(self, target: np.ndarray, source: str, image: Image.Image | None = None) -> Sample:
        """The line with a mask (h, w) bool."""
        labels = ("others", self.query)
        class_map = target.astype(np.int16)
        return Sample(f"{source}/{self.number}", source, image, self.query, labels, class_map, self.box)

    def photo(self) -> Image.Image:
        """The photo, upright. Raises DataError naming file, line and field."""
        try:
            return open_photo(self.image)
        except ImageError as error:
            raise DataError(f'{self.place}, field "image": {error}') from error

    def remarks(self, height: int, width: int) -> list[str]:
        """For `t4s check`: what is odd about a line that can be used, such as polygons outside the photo."""
        found = [f'field "{field}" is not read; probably "{meant}" was meant.' for field, meant in self.misspelt]
        if isinstance(self.mask, list):
            faults = [*usable_mask(self.mask, height, width)[1], *stray_faults(self.mask, height, width)]
            found += [f'field "mask": {fault}' for fault in dict.fromkeys(faults)]
        return [f"{self.place}, {remark}" for remark in found]

    def target(self, height: int, width: int) -> np.ndarray:
        """The mask (height, width) bool, empty for an absent target. Raises DataError naming file, line and field."""
        if self.mask is None:
            return np.zeros((height, width), bool)
        place = f'{self.place}, field "mask"'
        try:
            if isinstance(self.mask, (Path, bytes)):
                mask = read_mask(self.mask).classes > 0
            else:
                mask = annotation_mask(self.mask, height, width)
        except (ImageError, DataError) as error:
            raise DataError(f"{place}: {error}") from error
        if mask.shape != (height, width):
            raise DataError(
                f"{place}: the mask is {mask.shape[1]}×{mask.shape[0]} pixels and its upright photo "
                f"{width}×{height}; a mask is as large as its photo.{rotation_hint(mask.shape, height, width)}"
            )
        if not mask.any():
            faults = usable_mask(self.mask, height, width)[1] if isinstance(self.mask, list) else []
            reason = f" {faults[0]}" if faults else ""
            raise DataError(
                f'{place}: the mask is empty.{reason} If nothing of it is in the photo, write "absent": true instead.'
            )
        return mask


class Targets(PackedMasks):
    """The masks of a photo's lines, by their place among `lines`. Each is read when it is first asked for."""

    def __init__(self, lines: Sequence[Line], photo: Image.Image):
        super().__init__(photo.height, photo.width)
        self.lines, self.photo_shape = lines, (photo.height, photo.width)

    def __getitem__(self, number: int) -> np.ndarray:
        """(h, w) bool of line `number`, counted from 0. Raises DataError."""
        if number not in self:
            self.add(number, self.lines[number].target(*self.photo_shape))
        return super().__getitem__(number)


class JsonlDataset:
    """The photos of one split, in the order in which the file first names them.

    hold_out  whether a file in which no line names a split is divided; otherwise every split has all its lines
    notes     what the user should know about the splits

    Raises DataError at the first faulty line of the file, and if no line belongs to the split. With `faults`, collects
    there what is wrong with any line, also what only `t4s check` minds, and opens what is left.
    """

    def __init__(
        self, path: str | Path, split: str = "train", hold_out: bool = False, faults: list[DataError] | None = None
    ):
        self.name = f"jsonl:{path}@{split}"
        self.source = Path(path).stem
        lines: list[Line] = []
        for line in read(Path(path)):
            if isinstance(line, Line):
                lines.append(line)
            elif faults is None:
                raise line
            else:
                faults.append(line)
        if faults is not None:
            faults += map(DataError, [*_repeated(lines), *split_faults(by_photo(lines), split)])
        self.photos: list[tuple[Line, ...]] = []
        self.notes: list[str] = []
        if lines or not faults:
            self.photos, self.notes = photos_of(Path(path), lines, split, hold_out)

    def __len__(self) -> int:
        return len(self.photos)

    def phrases(self) -> set[str]:
        """All that is asked."""
        return {line.query for lines in self.photos for line in lines}

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every line about photo `index`, in the order of the file. Raises DataError naming file, line and field."""
        lines = self.photos[index]
        image = lines[0].photo()
        return tuple(line.sample(image, self.source) for line in lines)

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random lines about photo `index`, equally likely; repeated only if there are too few."""
        return draw_samples(self, index, rng, count)

    def decode(self, index: int, complete: bool = False) -> tuple[Image.Image, Targets]:
        """Photo `index` and its lines' masks; see `PhotoDataset`."""
        lines = self.photos[index]
        photo = lines[0].photo()
        targets = Targets(lines, photo)
        for number in range(len(lines) if complete else 0):
            targets[number]
        return photo, targets

    def ask(self, index: int, rng: np.random.Generator, count: int, labels: Callable[[int], Targets]) -> Draw:
        """See `draw`."""
        lines = self.photos[index]
        targets = labels(index)
        chosen = rng.choice(len(lines), count, replace=count > len(lines)).tolist()
        samples = tuple(lines[k].sample_of(targets[k], self.source) for k in chosen)
        return Draw(whole(index, targets.size), samples)

    def inspect(self, index: int) -> Inspection:
        """Everything about photo `index` that can be used, and what is wrong with the rest."""
        return inspect_lines(self.photos[index], self.source)


def inspect_lines(lines: Sequence[Line], source: str) -> Inspection:
    """For `t4s check`: lines about one photo."""
    try:
        image = lines[0].photo()
    except DataError as error:
        return Inspection(problems=[str(error)])
    photo = lines[0].image
    found = Inspection(notes=orientation_notes(photo, photo.name if isinstance(photo, Path) else lines[0].place))
    for line in lines:
        try:
            found.samples.append(line.sample(image, source))
            found.problems += line.remarks(image.height, image.width)
            if isinstance(line.mask, (Path, bytes)) and (note := read_mask(line.mask).note):
                found.notes.append(f'{line.place}, field "mask": {note}')
        except DataError as error:
            found.problems.append(str(error))
    return found


def _repeated(lines: Sequence[Line]) -> list[str]:
    """What asks the same of a photo as an earlier line."""
    first: dict[tuple[Any, str], Line] = {}
    faults = []
    for line in lines:
        image = line.image.resolve() if isinstance(line.image, Path) else line.image
        earlier = first.setdefault((image, line.query), line)
        if earlier is not line:
            faults.append(
                f'{line.place} asks "{line.query}" of its photo, as line {earlier.number} does; leave one out.'
            )
    return faults


def read(path: Path) -> Iterator[Line | DataError]:
    """Every line of the file, or what is wrong with it. Raises DataError if the file cannot be read."""
    if not path.is_file():
        raise DataError(f"There is no file {path}; a jsonl dataset is a text file with one JSON object a line.")
    finder = FileFinder([path.parent])
    for place, number, row in read_json_lines(path, EXAMPLE):
        try:
            yield row if isinstance(row, DataError) else parse_line(row, place, number, finder)
        except DataError as error:
            yield error


def parse_line(row: Any, place: str, number: int, finder: FileFinder) -> Line:
    """The fields of a row as a Line; `image` and `mask` may also be the bytes of a file. Raises DataError."""
    if not isinstance(row, dict):
        raise DataError(f"{place} is not a JSON object; write it in braces, with image, query and mask or absent.")
    misspelt = tuple(misspelt_fields(row, FIELDS))
    try:
        return _parse_fields(row, place, number, finder, misspelt)
    except DataError as error:
        if not misspelt:
            raise
        hints = " ".join(f'It has the field "{field}"; probably "{meant}" was meant.' for field, meant in misspelt)
        raise DataError(f"{error} {hints}") from error


def _parse_fields(
    row: dict[str, Any], place: str, number: int, finder: FileFinder, misspelt: tuple[tuple[str, str], ...]
) -> Line:
    absent = row.get("absent", False)
    if not isinstance(absent, bool):
        raise DataError(f'{place}, field "absent": it is {short(absent)}; it is true or left out.')
    if absent == ("mask" in row):
        given = 'both "mask" and "absent": true' if absent else 'neither "mask" nor "absent": true'
        raise DataError(f"{place} has {given}; give the mask, or mark the target as absent.")
    image = find_file(row, "image", place, finder)
    mask = None if absent else row["mask"]
    if isinstance(mask, (str, bytes)):
        mask = find_file(row, "mask", place, finder)
    if not absent and not isinstance(mask, (Path, bytes, dict, list)):
        raise DataError(
            f'{place}, field "mask": it is {short(mask)}; write the path of a PNG, a list of polygons '
            '[[x, y, x, y, x, y, …], …] or run lengths {"size": [h, w], "counts": …}.'
        )
    return Line(place, number, image, _query(row, place), mask, split_of(row, place), _box(row, place), misspelt)


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


def split_of(row: Mapping[str, Any], place: str) -> str | None:
    """The split that a row names, or None. Raises DataError."""
    split = row.get("split")
    if split is None:
        return None
    if not isinstance(split, str) or not split.strip() or split == ALL:
        raise DataError(f'{place}, field "split": it is {short(split)}; write a name such as "train" or "val".')
    return split.strip()


def find_file(row: Mapping[str, Any], field: str, place: str, finder: FileFinder) -> Path | bytes:
    """A field as the path of an existing file, or the bytes that it holds. Raises DataError."""
    value = row.get(field)
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value or "\0" in value:
        raise DataError(f'{place}, field "{field}": it is {short(value)}; write the path of a file.')
    path = finder.find(value)
    if path is None:
        raise DataError(
            f'{place}, field "{field}": there is no file {finder.folders[0] / value}; paths start at the folder of the '
            "dataset file."
        )
    return path


def _box(row: Mapping[str, Any], place: str) -> tuple[float, float, float, float] | None:
    box = row.get("box")
    if box is None:
        return None
    numbers = isinstance(box, list) and len(box) == 4 and all(type(value) in (int, float) for value in box)
    if not numbers or not (box[0] < box[2] and box[1] < box[3]):
        raise DataError(f'{place}, field "box": it is {short(box)}; write [x0, y0, x1, y1] with x0 < x1 and y0 < y1.')
    return tuple(float(value) for value in box)
