"""Photos with indexed masks: a folder that holds an `index.jsonl`, one photo a line.

    {"image": "images/a.jpg", "mask": "masks/a.png", "source": "voc", "split": "train",
     "classes": {"12": "dog", "15": "person"}, "ignore": [255], "weak": true}

`mask` is a PNG of ids, as large as the photo; an id that `classes` does not name is background. `ignore` names ids
that are not scored. `weak` (optional) marks a mask made automatically.

Two rules hold for training and scoring alike:
- a name is *absent* from a photo only if another photo of the same source is labelled with it and this photo is not:
  what a source does not label may be in its photos all the same;
- ignored pixels are never scored. In training, id 255 (the outline of objects) is left out of the count of a cell,
  and every other ignored id (unlabelled areas) counts as background, so that a label does not spread into them.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s import lexicon
from t4s.data import mosaic
from t4s.errors import DataError, ImageError
from t4s.imaging.loading import open_mask, open_photo
from t4s.records import IGNORED, Sample

INDEX = "index.jsonl"
OUTLINE = 255  # the usual id of "do not care" pixels along outlines
ABSENT_PER_PHOTO = 2  # names that are not there, asked of every photo in evaluation
ABSENT_SHARE, LIST_SHARE = 0.3, 0.1  # of training questions: absent names, class lists
KIND_SHARE = 0.06  # of training questions: a hypernym such as "animal"
MIN_KIND = 3  # of a hypernym's names must be in a source's table, or its photos are not asked for it
BALANCE = 0.6  # a source of n photos is trained on as often as n to this power
COMMON, MAX_REPEAT = 0.1, 3.0  # a name in this share of a source's photos is no rare one; repeats of a rare one
RARE_ABSENT = 0.25  # an absent name is asked as often as its number of photos to this power
WEAK_SHARE = 0.25  # of a photo: what a weak one counts in n
REPEATS = 20  # tries to find a question that was not asked yet
MAX_LIST = 4  # names of a training class list
MOSAIC = 0.35  # of the photos trained on are put together with others of their source


@dataclass(frozen=True)
class Photo:
    """One line of the index. `classes` maps mask ids to names."""

    id: str
    image: Path
    mask: Path
    source: str
    classes: dict[int, str]
    ignore: tuple[int, ...]
    weak: bool


class FolderDataset:
    """The photos of one split. `tables[source]` counts the photos of each name that the source labels.

    The index's first faulty line is raised as a DataError; given `faults`, every one is put there instead.
    """

    def __init__(self, path: str | Path, split: str = "train", faults: list[DataError] | None = None):
        self.root, self.split, self.name = Path(path), split, f"folder:{path}@{split}"
        self.photos: list[Photo] = []
        self.tables: dict[str, Counter[str]] = {}
        splits = set()
        for row in self._rows():
            if isinstance(row, DataError):
                if faults is None:
                    raise row
                faults.append(row)
                continue
            photo = row.pop("photo")
            self.tables.setdefault(photo.source, Counter()).update(set(photo.classes.values()))
            splits.add(row["split"])
            if split in (row["split"], "all"):
                self.photos.append(photo)
        self.names = sorted({name for table in self.tables.values() for name in table})
        self._sources: dict[tuple[str, bool], list[int]] = {}  # photo numbers of each source, weak ones apart
        for i, photo in enumerate(self.photos):
            self._sources.setdefault((photo.source, photo.weak), []).append(i)
        self._chances = {key: self._repeated(own) for key, own in self._sources.items()}
        if not self.photos and not faults:
            raise DataError(
                f"{self.root / INDEX} has no photo of split {split!r}; it has {sorted(splits) or 'no lines'}."
            )

    def _rows(self):
        index = self.root / INDEX
        if not index.is_file():
            raise DataError(f"{index} is not there: a folder dataset needs an {INDEX} with one photo a line.")
        for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), 1):
            try:
                if line.strip():
                    yield self._row(line, f"{index}, line {number}")
            except DataError as error:
                yield error

    def _row(self, line: str, place: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
            photo = Photo(
                id=f"{row['source']}/{Path(row['image']).stem}",
                image=self.root / row["image"],
                mask=self.root / row["mask"],
                source=row["source"],
                classes={int(value): lexicon.clean_name(name) for value, name in row["classes"].items()},
                ignore=tuple(int(value) for value in row.get("ignore", [])),
                weak=bool(row.get("weak", False)),
            )
            return {"photo": photo, "split": row["split"]}
        except json.JSONDecodeError as error:
            raise DataError(f"{place} is not JSON ({error.msg}, character {error.pos}).") from error
        except KeyError as error:
            raise DataError(
                f"{place} has no field {error}; it needs image, mask, source, split and classes."
            ) from error
        except (AttributeError, TypeError, ValueError) as error:
            raise DataError(
                f"{place}: {error}; classes is an object of ids and names, ignore a list of ids."
            ) from error

    def __len__(self) -> int:
        return len(self.photos)

    def void(self, photo: Photo) -> tuple[int, ...]:
        """The ids that training leaves out of a cell's count."""
        return tuple(value for value in photo.ignore if value == OUTLINE)

    def open(self, i: int) -> tuple[Image.Image, np.ndarray]:
        """Photo i as RGB and its mask (h, w) of ids, both at the photo's size. Raises DataError naming the file."""
        photo = self.photos[i]
        try:
            image, ids = open_photo(photo.image), open_mask(photo.mask)
        except ImageError as error:
            raise DataError(f"{self.root / INDEX} names {photo.image.name} and {photo.mask.name}: {error}") from error
        if ids.shape != image.size[::-1]:
            raise DataError(
                f"{photo.mask} is {ids.shape[1]}×{ids.shape[0]} pixels, its photo {photo.image.name} "
                f"{image.size[0]}×{image.size[1]}: a mask is as large as its photo."
            )
        return image, ids

    def _present(self, photo: Photo, ids: np.ndarray) -> dict[str, list[int]]:
        """{name: its ids}, for the names that have at least one pixel, the order that of the index."""
        values, present = set(np.unique(ids).tolist()), {}
        for value, name in photo.classes.items():
            if value in values and value not in photo.ignore:
                present.setdefault(name, []).append(value)
        return present

    def absent(self, photo: Photo, present: set[str]) -> list[str]:
        """The names that this photo's source labels and this photo does not have, in alphabetical order."""
        return sorted(set(self.tables[photo.source]) - present - set(photo.classes.values()))

    def _sample(
        self,
        photo: Photo,
        image: Image.Image,
        ids: np.ndarray,
        query: str | tuple[str, ...],
        targets: list[tuple[str, list[int]]],
        ignore: tuple[int, ...],
    ) -> Sample:
        """`targets`: for each label, the mask ids that it stands for (none: absent)."""
        classes = np.zeros(ids.shape, np.int16)
        for label, (_, values) in enumerate(targets, 1):
            classes[np.isin(ids, values)] = label
        classes[np.isin(ids, ignore)] = IGNORED
        name = query if isinstance(query, str) else ", ".join(query)
        labels = ("others", *(label for label, _ in targets))
        return Sample(f"{photo.id}/{name}", photo.source, image, query, labels, classes)

    def __getitem__(self, i: int) -> tuple[Sample, ...]:
        """Photo i's evaluation samples: every class in it by its name, then names that are not there (seeded)."""
        photo = self.photos[i]
        image, ids = self.open(i)
        present = self._present(photo, ids)
        absent = self.absent(photo, set(present))
        rng = np.random.default_rng([*photo.id.encode()])
        chosen = rng.choice(len(absent), min(ABSENT_PER_PHOTO, len(absent)), replace=False) if absent else []
        asked = [*present.items(), *((absent[k], []) for k in sorted(chosen))]
        return tuple(self._sample(photo, image, ids, name, [(name, values)], photo.ignore) for name, values in asked)

    def pick(self, rng: np.random.Generator) -> int:
        """A random photo to train on: first a source, the small ones more often than their share, then its photo.

        Automatic masks of one object would be half of all; they are a source of their own, and count less.
        """
        members = list(self._sources)
        sizes = np.array([len(own) * (WEAK_SHARE if weak else 1) for (_, weak), own in self._sources.items()])
        chances = sizes**BALANCE
        chosen = members[int(rng.choice(len(members), p=chances / chances.sum()))]
        return int(rng.choice(self._sources[chosen], p=self._chances[chosen]))

    def _repeated(self, numbers: list[int]) -> np.ndarray:
        """How likely each photo of a source is drawn: one with a rare name more often, as its rarest name says (repeat
        factors, Gupta, Dollár and Girshick, "LVIS", CVPR 2019)."""
        counts = Counter(name for i in numbers for name in set(self.photos[i].classes.values()))
        repeats = {name: min(MAX_REPEAT, (COMMON * len(numbers) / count) ** 0.5) for name, count in counts.items()}
        factors = np.array([max([1.0, *map(repeats.get, self.photos[i].classes.values())]) for i in numbers])
        return factors / factors.sum()

    def draw(self, i: int, rng: np.random.Generator, k: int) -> tuple[Sample, ...]:
        """k random questions about photo i, at times put together with others, different ones where it has as many:
        classes under their names, other words for them, hypernyms, class lists, absent names."""
        photo = self.photos[i]
        photo, image, ids = self._mosaic(i, rng) if rng.random() < MOSAIC else (photo, *self.open(i))
        void = self.void(photo)
        present = self._present(photo, ids)
        absent = self.absent(photo, set(present))
        if not present and not absent:
            if photo is not self.photos[i]:
                return self.draw(i, rng, k)  # its tiles show none of what their photos do
            raise DataError(f"{photo.mask} holds none of its classes and its source has no other names.")
        asked: dict[str | tuple[str, ...], list[tuple[str, list[int]]]] = {}
        repeated = []
        for _ in range(k * REPEATS):
            if len(asked) == k:
                break
            query, targets = self._question(photo, present, absent, rng)
            repeated += [(query, targets)] * (query in asked)
            asked[query] = targets
        questions = [*asked.items(), *repeated][:k]
        return tuple(self._sample(photo, image, ids, query, targets, void) for query, targets in questions)

    def _mosaic(self, i: int, rng: np.random.Generator) -> tuple[Photo, Image.Image, np.ndarray]:
        """Photo i and others of its source as one picture: (what that shows, it, its ids (h, w))."""
        first = self.photos[i]
        rows, columns = mosaic.LAYOUTS[int(rng.integers(len(mosaic.LAYOUTS)))]
        key = (first.source, first.weak)
        others = rng.choice(self._sources[key], rows * columns - 1, p=self._chances[key]).tolist()
        numbers = rng.permutation([i, *others]).tolist()
        photos = [self.photos[number] for number in numbers]
        names = sorted({name for photo in photos for name in photo.classes.values()})
        ids = {name: OUTLINE + 1 + k for k, name in enumerate(names)}
        tiles = []
        for number, photo in zip(numbers, photos, strict=True):
            there = {value: ids[name] for value, name in photo.classes.items() if value not in photo.ignore}
            tiles.append(mosaic.Tile(*self.open(number), there | dict.fromkeys(self.void(photo), OUTLINE)))
        whole = replace(first, classes={value: name for name, value in ids.items()}, ignore=(OUTLINE,))
        return whole, *mosaic.joined(tiles, (rows, columns), rng)

    def _question(
        self, photo: Photo, present: dict[str, list[int]], absent: list[str], rng: np.random.Generator
    ) -> tuple[str | tuple[str, ...], list[tuple[str, list[int]]]]:
        """A random query, and for each of its labels the mask ids that it stands for."""
        kind = rng.random()
        if absent and (kind < ABSENT_SHARE or not present):
            phrase = lexicon.vary(str(self._some_absent(photo, absent, 1, rng)[0]), rng)
            return phrase, [(phrase, [])]
        if kind > 1 - LIST_SHARE and len(present) + len(absent) > 1:
            extra = self._some_absent(photo, absent, int(rng.integers(0, 3)), rng)
            names = tuple(str(name) for name in rng.permutation([*rng.permutation(list(present)), *extra][:MAX_LIST]))
            return names, [(name, present.get(name, [])) for name in names]
        kinds = [word for word in self._kinds(photo.source) if set(lexicon.HYPERNYMS[word]) & set(present)]
        if kinds and kind > 1 - LIST_SHARE - KIND_SHARE:
            word = str(rng.choice(kinds))
            phrase = lexicon.vary(word, rng)
            return phrase, [(phrase, [value for name in lexicon.HYPERNYMS[word] for value in present.get(name, [])])]
        name = str(rng.choice(list(present)))
        phrase = lexicon.vary(name, rng)
        return phrase, [(phrase, present[name])]

    def _some_absent(self, photo: Photo, absent: list[str], count: int, rng: np.random.Generator) -> list[str]:
        """Names that are not there, the common ones of the source more often: a cat is asked for where a dog is."""
        chances = np.array([self.tables[photo.source][name] for name in absent], float) ** RARE_ABSENT
        count = min(count, len(absent))
        return [*rng.choice(absent, count, replace=False, p=chances / chances.sum())] if count else []

    def _kinds(self, source: str) -> list[str]:
        """The hypernyms that mean something in this source. None is asked in vain: it may label other animals too."""
        table = self.tables[source]
        return [word for word, names in lexicon.HYPERNYMS.items() if sum(name in table for name in names) >= MIN_KIND]
