"""Photos with indexed masks: a folder that holds an `index.jsonl`, one photo a line.

    {"image": "images/a.jpg", "mask": "masks/a.png", "source": "voc", "split": "train",
     "classes": {"12": "dog", "15": "person"}, "ignore": [255], "weak": true}

    mask     a PNG of integer ids, as large as the photo; an id that `classes` does not name is background
    source   which data set the photo is from; see the first rule below
    ignore   optional: ids that are not scored
    weak     optional: true for a mask made automatically; such photos are drawn less often

Two rules hold for training and scoring alike:
- a name is *absent* from a photo only if another photo of the same source is labelled with it and this photo is not.
  What a source does not label may be in its photos all the same.
- ignored pixels are never scored. In training, id 255 (the outline of objects) is left out when a cell's pixels are
  counted; every other ignored id (unlabelled areas) counts as background, so that labels do not spread into it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s import lexicon
from t4s.data.augment.draws import Draw, LabelledPixels, draw_samples
from t4s.data.augment.labels import reduced
from t4s.data.augment.mosaics import LAYOUTS, Tile, mosaic
from t4s.data.augment.views import View, whole
from t4s.data.reading.inspection import Inspection, orientation_notes, rotation_hint
from t4s.data.reading.names import class_name, misspelt_fields, name_faults, short
from t4s.data.reading.paths import FileFinder
from t4s.data.reading.splits import ALL, by_photo, split_faults
from t4s.data.reading.text import read_json_lines
from t4s.errors import DataError, ImageError, QueryError
from t4s.imaging.loading import open_mask, open_photo
from t4s.records import IGNORED, Sample

INDEX = "index.jsonl"
FIELDS = ("image", "mask", "source", "split", "classes")
OPTIONAL_FIELDS = ("ignore", "weak")
EXAMPLE = '{"image": "a.jpg", "mask": "a.png", "source": "mine", "split": "train", "classes": {"1": "dog"}}'
OUTLINE = 255  # the usual id of "do not care" pixels along outlines
ABSENT_PER_PHOTO = 2  # absent names asked of every photo in evaluation
ABSENT_SHARE = 0.3  # of training questions: absent names
LIST_SHARE = 0.1  # of training questions: class lists
KIND_SHARE = 0.06  # of training questions: a hypernym such as "animal"
MAX_LIST = 4  # names of a training class list
BALANCE = 0.6  # a source of n photos is drawn in proportion to n to this power
WEAK_SHARE = 0.25  # how much a weak photo counts in n
COMMON = 0.1  # a name in less than this share of a source's photos is rare
MAX_REPEAT = 3.0  # a photo with a rare name is drawn at most this many times as often as the others
RARE_ABSENT = 0.25  # an absent name is asked in proportion to its number of photos to this power
REPEATS = 20  # tries to find a question that was not asked yet
MOSAIC = 0.35  # share of training photos that are combined with others of their source

Query = str | tuple[str, ...]
Targets = list[tuple[str, list[int]]]  # for each label, the mask ids that it means; none if it is absent


@dataclass(frozen=True)
class Photo:
    """One line of the index.

    classes   {mask id: name}
    place     "FILE, line N", for messages
    misspelt  (field, the field that was probably meant) for fields that nothing reads
    """

    id: str
    image: Path
    mask: Path
    source: str
    split: str
    classes: dict[int, str]
    ignore: tuple[int, ...]
    weak: bool
    place: str = ""
    misspelt: tuple[tuple[str, str], ...] = ()


class FolderDataset:
    """The photos of one split.

    tables   {source: how many photos are labelled with each name}, of all splits
    names    every name of every source, sorted

    Raises DataError at the first faulty line of the index; with `faults`, collects the errors of all lines there.
    """

    def __init__(self, path: str | Path, split: str = "train", faults: list[DataError] | None = None):
        self.root = Path(path)
        self.split = split
        self.name = f"folder:{path}@{split}"
        self.photos: list[Photo] = []
        all_photos: list[Photo] = []
        self.tables: dict[str, Counter[str]] = {}
        splits = set()
        for photo in self._read_index():
            if isinstance(photo, DataError):
                if faults is None:
                    raise photo
                faults.append(photo)
                continue
            self.tables.setdefault(photo.source, Counter()).update(set(photo.classes.values()))
            splits.add(photo.split)
            all_photos.append(photo)
            if split in (photo.split, ALL):
                self.photos.append(photo)
        if not self.photos and not faults:
            raise DataError(
                f"{self.root / INDEX} has no photo of split {split!r}; it has {sorted(splits) or 'no lines'}."
            )
        spelling = self._name_faults()
        if faults is not None:
            faults += [*spelling, *map(DataError, split_faults(by_photo(all_photos), split))]
        elif spelling:
            raise spelling[0]
        self.names = sorted({name for table in self.tables.values() for name in table})
        self._members: dict[tuple[str, bool], list[int]] = {}  # photo numbers by source, weak ones apart
        for number, photo in enumerate(self.photos):
            self._members.setdefault((photo.source, photo.weak), []).append(number)
        self._chances = {key: self._photo_chances(numbers) for key, numbers in self._members.items()}

    def _name_faults(self) -> list[DataError]:
        """Names of one source that differ only in case."""
        faults = [
            fault
            for source, table in self.tables.items()
            for fault in name_faults((f"source {source}", name) for name in table)
        ]
        return [DataError(f"{self.root / INDEX}: {fault}") for fault in faults]

    def _read_index(self) -> Iterator[Photo | DataError]:
        index = self.root / INDEX
        if not index.is_file():
            raise DataError(f"{index} is not there: a folder dataset needs an {INDEX} with one photo a line.")
        finder = FileFinder([self.root])
        for place, _, row in read_json_lines(index, EXAMPLE):
            try:
                yield row if isinstance(row, DataError) else _parse_row(row, place, self.root, finder)
            except DataError as error:
                yield error

    def __len__(self) -> int:
        return len(self.photos)

    # --- photos and their masks

    def open(self, index: int) -> tuple[Image.Image, np.ndarray]:
        """Photo `index` as RGB and its mask (h, w) of ids, as large as the photo. Raises DataError naming the file."""
        photo = self.photos[index]
        try:
            image = open_photo(photo.image)
            ids = open_mask(photo.mask)
        except ImageError as error:
            raise DataError(f"{self.root / INDEX} names {photo.image.name} and {photo.mask.name}: {error}") from error
        if ids.shape != image.size[::-1]:
            raise DataError(
                f"{photo.mask} is {ids.shape[1]}×{ids.shape[0]} pixels, its photo {photo.image.name} "
                f"{image.size[0]}×{image.size[1]}: a mask is as large as its photo."
                f"{rotation_hint(ids.shape, image.height, image.width)}"
            )
        return image, ids

    def void(self, photo: Photo) -> tuple[int, ...]:
        """The ids that training leaves out when a cell's pixels are counted."""
        return tuple(value for value in photo.ignore if value == OUTLINE)

    def absent(self, photo: Photo, present: set[str]) -> list[str]:
        """The names that the photo's source labels and the photo lacks, sorted."""
        return sorted(set(self.tables[photo.source]) - present - set(photo.classes.values()))

    def _present(self, photo: Photo, ids: np.ndarray) -> dict[str, list[int]]:
        """{name: its ids}, for the names that have at least one pixel, in the order of the index."""
        values = set(np.unique(ids).tolist())
        present: dict[str, list[int]] = {}
        for value, name in photo.classes.items():
            if value in values and value not in photo.ignore:
                present.setdefault(name, []).append(value)
        return present

    def _sample(
        self,
        photo: Photo,
        image: Image.Image | None,
        ids: np.ndarray,
        query: Query,
        targets: Targets,
        ignore: tuple[int, ...],
    ) -> Sample:
        class_map = np.zeros(ids.shape, np.int16)
        for label, (_, values) in enumerate(targets, 1):
            class_map[np.isin(ids, values)] = label
        class_map[np.isin(ids, ignore)] = IGNORED
        asked = query if isinstance(query, str) else ", ".join(query)
        labels = ("others", *(label for label, _ in targets))
        return Sample(f"{photo.id}/{asked}", photo.source, image, query, labels, class_map)

    # --- evaluation

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every class in photo `index` by its name, then a few absent names, always the same."""
        photo = self.photos[index]
        image, ids = self.open(index)
        present = self._present(photo, ids)
        absent = self.absent(photo, set(present))
        rng = np.random.default_rng([*photo.id.encode()])
        chosen = rng.choice(len(absent), min(ABSENT_PER_PHOTO, len(absent)), replace=False) if absent else []
        asked = [*present.items(), *((absent[k], []) for k in sorted(chosen))]
        return tuple(self._sample(photo, image, ids, name, [(name, values)], photo.ignore) for name, values in asked)

    def inspect(self, index: int) -> Inspection:
        """For `t4s check`: photo `index`, and what is wrong with it."""
        photo = self.photos[index]
        try:
            image, ids = self.open(index)
        except DataError as error:
            return Inspection(problems=[str(error)])
        found = Inspection(list(self[index]), notes=orientation_notes(photo.image, photo.image.name))
        for field, meant in photo.misspelt:
            found.problems.append(f'{photo.place}, field "{field}" is not read; probably "{meant}" was meant.')
        present = self._present(photo, ids)
        for value, name in photo.classes.items():
            if name not in present:
                held = ", ".join(map(str, np.unique(ids)[:8].tolist()))
                found.problems.append(f'{photo.mask} has no pixel of {value} ("{name}"); it holds {held}.')
        return found

    # --- training

    def pick(self, rng: np.random.Generator) -> int:
        """A random photo to train on: first a source, small ones more often than their share, then one of its photos.

        The weak photos of a source are a group of their own and count less; otherwise they would be half of all draws.
        """
        groups = list(self._members)
        sizes = np.array([len(self._members[group]) * (WEAK_SHARE if group[1] else 1) for group in groups])
        chances = sizes**BALANCE
        group = groups[int(rng.choice(len(groups), p=chances / chances.sum()))]
        return int(rng.choice(self._members[group], p=self._chances[group]))

    def _photo_chances(self, numbers: list[int]) -> np.ndarray:
        """The probability of each of a group's photos: those with a rare name are drawn more often.

        Repeat factors of Gupta, Dollár and Girshick, "LVIS", CVPR 2019, by the rarest name of the photo.
        """
        counts = Counter(name for number in numbers for name in set(self.photos[number].classes.values()))
        repeats = {name: min(MAX_REPEAT, (COMMON * len(numbers) / count) ** 0.5) for name, count in counts.items()}
        factors = np.array([max([1.0, *map(repeats.get, self.photos[number].classes.values())]) for number in numbers])
        return factors / factors.sum()

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions about photo `index` or a mosaic with it; see `ask`."""
        return draw_samples(self, index, rng, count)

    def decode(self, index: int, complete: bool = False) -> tuple[Image.Image, np.ndarray]:
        """Photo `index` and its mask (h, w) of ids, reduced; see `PhotoDataset`."""
        image, ids = self.open(index)
        return image, reduced(ids)

    def ask(self, index: int, rng: np.random.Generator, count: int, labels: Callable[[int], np.ndarray]) -> Draw:
        """`count` random questions about photo `index` or a mosaic with it, different ones where there are enough.

        Questions are class names, other words for them, hypernyms, class lists and absent names.
        """
        photo = self.photos[index]
        is_mosaic = rng.random() < MOSAIC
        if is_mosaic:
            photo, view, ids = self._mosaic(index, rng, labels)
        else:
            ids = labels(index)
            view = whole(index, ids.shape[::-1])
        present = self._present(photo, ids)
        absent = self.absent(photo, set(present))
        if not present and not absent:
            if is_mosaic:  # its crops cut off every object: draw again
                return self.ask(index, rng, count, labels)
            raise DataError(f"{photo.mask} holds none of its classes and its source has no other names.")
        asked: dict[Query, Targets] = {}
        repeated = []
        for _ in range(count * REPEATS):
            if len(asked) == count:
                break
            query, targets = self._question(photo, present, absent, rng)
            if query in asked:
                repeated.append((query, targets))
            asked[query] = targets
        questions = [*asked.items(), *repeated][:count]
        void = self.void(photo)
        samples = tuple(self._sample(photo, None, ids, query, targets, void) for query, targets in questions)
        return Draw(view, samples, LabelledPixels(ids, photo.classes, void, photo.source))

    def _mosaic(
        self, index: int, rng: np.random.Generator, labels: Callable[[int], np.ndarray]
    ) -> tuple[Photo, View, np.ndarray]:
        """Photo `index` and others of its source as one picture: its index line, the view and the ids (h, w)."""
        first = self.photos[index]
        rows, columns = LAYOUTS[int(rng.integers(len(LAYOUTS)))]
        group = (first.source, first.weak)
        others = rng.choice(self._members[group], rows * columns - 1, p=self._chances[group]).tolist()
        numbers = rng.permutation([index, *others]).tolist()
        photos = [self.photos[number] for number in numbers]
        names = sorted({name for photo in photos for name in photo.classes.values()})
        ids_of = {name: OUTLINE + 1 + k for k, name in enumerate(names)}
        tiles = []
        for number, photo in zip(numbers, photos, strict=True):
            new_ids = {value: ids_of[name] for value, name in photo.classes.items() if value not in photo.ignore}
            new_ids |= dict.fromkeys(self.void(photo), OUTLINE)
            tiles.append(Tile(number, labels(number), new_ids))
        combined = replace(first, classes={value: name for name, value in ids_of.items()}, ignore=(OUTLINE,))
        return combined, *mosaic(tiles, (rows, columns), rng)

    def _question(
        self, photo: Photo, present: dict[str, list[int]], absent: list[str], rng: np.random.Generator
    ) -> tuple[Query, Targets]:
        """A random query, and for each of its labels the mask ids that it means."""
        kind = rng.random()
        if absent and (kind < ABSENT_SHARE or not present):
            phrase = lexicon.vary(self._some_absent(photo, absent, 1, rng)[0], rng)
            return phrase, [(phrase, [])]
        if kind > 1 - LIST_SHARE and len(present) + len(absent) > 1:
            extra = self._some_absent(photo, absent, int(rng.integers(0, 3)), rng)
            names = rng.permutation([*rng.permutation(list(present)), *extra][:MAX_LIST]).tolist()
            return tuple(names), [(name, present.get(name, [])) for name in names]
        kinds = [word for word in self._kinds(photo.source) if set(lexicon.HYPERNYMS[word]) & set(present)]
        if kinds and kind > 1 - LIST_SHARE - KIND_SHARE:
            word = str(rng.choice(kinds))
            phrase = lexicon.vary(word, rng)
            return phrase, [(phrase, [value for name in lexicon.HYPERNYMS[word] for value in present.get(name, [])])]
        name = str(rng.choice(list(present)))
        phrase = lexicon.vary(name, rng)
        return phrase, [(phrase, present[name])]

    def _some_absent(self, photo: Photo, absent: list[str], count: int, rng: np.random.Generator) -> list[str]:
        """Random absent names, the source's common ones more often: a cat is asked for where there is a dog."""
        count = min(count, len(absent))
        if not count:
            return []
        chances = np.array([self.tables[photo.source][name] for name in absent], float) ** RARE_ABSENT
        return rng.choice(absent, count, replace=False, p=chances / chances.sum()).tolist()

    def _kinds(self, source: str) -> list[str]:
        """The hypernyms that a source is asked for: those of which it labels several names.

        A hypernym is never asked as absent: the photo may show an animal that the source does not label.
        """
        table = self.tables[source]
        return [
            word
            for word, names in lexicon.HYPERNYMS.items()
            if sum(name in table for name in names) >= lexicon.MIN_KIND
        ]


def _parse_row(row: Any, place: str, root: Path, finder: FileFinder) -> Photo:
    if not isinstance(row, dict):
        raise DataError(f"{place} is not a JSON object; write one such as {EXAMPLE}.")
    missing = [field for field in FIELDS if field not in row]
    misspelt = tuple(misspelt_fields(row, (*FIELDS, *OPTIONAL_FIELDS)))
    if missing:
        hints = "".join(f' It has the field "{field}"; probably "{meant}" was meant.' for field, meant in misspelt)
        raise DataError(f"{place} has no field {missing[0]!r}; it needs {', '.join(FIELDS)}.{hints}")
    for field in ("image", "mask", "source", "split"):
        if not isinstance(row[field], str) or not row[field] or "\0" in row[field]:
            raise DataError(f'{place}, field "{field}": it is {short(row[field])}; write a text.')
    classes = row["classes"]
    ignore = row.get("ignore", [])
    try:
        ids = [int(value) for value in classes]
        ignored = tuple(int(value) for value in ignore)
        names = list(classes.values())
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{place}: {error}; classes is an object of ids and names, ignore a list of ids.") from error
    return Photo(
        id=f"{row['source']}/{Path(row['image']).stem}",
        image=finder.find(row["image"]) or root / row["image"],
        mask=finder.find(row["mask"]) or root / row["mask"],
        source=row["source"],
        split=row["split"],
        classes={number: _class_name(name, number, place) for number, name in zip(ids, names, strict=True)},
        ignore=ignored,
        weak=bool(row.get("weak", False)),
        place=place,
        misspelt=misspelt,
    )


def _class_name(name: Any, number: int, place: str) -> str:
    try:
        return class_name(name)
    except QueryError as error:
        raise DataError(f"{place}: class {number} cannot be asked. {error} Rename it, or leave it out.") from error
