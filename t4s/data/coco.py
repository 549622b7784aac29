"""Your own photos with a COCO `instances.json`, as annotation tools write it: every category is a phrase.

    coco:FILE.json                    the file is the split: @train and @val take all of it

FILE holds `images`, `annotations` and `categories`; the photos lie beside it or in one of FOLDERS there. A category's
mask is all its annotations together, crowds too. As in COCO, every photo is taken to be labelled with every category
of the file, so that what has no annotation is absent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from t4s import lexicon
from t4s.data.folder import ABSENT_PER_PHOTO, ABSENT_SHARE
from t4s.errors import DataError
from t4s.imaging.loading import open_photo
from t4s.imaging.masks import annotation_mask
from t4s.records import Sample

FOLDERS = ("", "images", "train2017", "val2017", "train2014", "val2014")


class CocoDataset:
    """The photos of one file that have an annotation. DataError if it is missing, damaged or names what it lacks."""

    def __init__(self, path: str | Path, split: str = "train"):
        self.path, self.name, self.split = Path(path), f"coco:{path}@{split}", split
        data = _read(self.path)
        try:
            categories = {int(one["id"]): lexicon.clean_name(one["name"]) for one in data["categories"]}
            images = {one["id"]: (str(one["file_name"]), (one["height"], one["width"])) for one in data["images"]}
            owned: dict[Any, list[dict[str, Any]]] = {}
            for one in data["annotations"]:
                if one["image_id"] not in images or one["category_id"] not in categories:
                    raise DataError(
                        f"{self.path}: annotation {one['id']} is on image {one['image_id']} with category "
                        f"{one['category_id']}, and the file lacks one of the two."
                    )
                owned.setdefault(one["image_id"], []).append(one)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"{self.path} is no COCO instances file: {error!r} in its images, annotations or categories."
            ) from error
        self.names = sorted(set(categories.values()))
        self._categories, self._annotations = categories, owned
        self.photos = [(number, *images[number]) for number in images if number in owned]

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every name that is in photo `index`, in the order of the file, and a few that are not."""
        masks, image = self._open(index)
        absent = [name for name in self.names if name not in masks]
        chosen = np.random.default_rng(index).permutation(len(absent))[:ABSENT_PER_PHOTO]
        return tuple(self._sample(index, image, masks, name, name) for name in [*masks, *(absent[k] for k in chosen)])

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions: what is there, in many words (`lexicon.vary`), and what is not."""
        masks, image = self._open(index)
        absent, found = [name for name in self.names if name not in masks], []
        for _ in range(count):
            name = str(rng.choice(absent if absent and rng.random() < ABSENT_SHARE else list(masks)))
            found.append(self._sample(index, image, masks, name, lexicon.vary(name, rng)))
        return tuple(found)

    def _open(self, index: int) -> tuple[dict[str, np.ndarray], Any]:
        number, file, size = self.photos[index]
        image = open_photo(self._find(file))
        if image.size[::-1] != tuple(size):
            raise DataError(
                f"{file} is {image.width}×{image.height} pixels and {self.path.name} says "
                f"{size[1]}×{size[0]}; photo and annotations do not match."
            )
        masks: dict[str, np.ndarray] = {}
        for one in self._annotations[number]:
            try:
                mask = annotation_mask(one.get("segmentation"), *size)
            except DataError as error:
                raise DataError(f"{self.path}, annotation {one.get('id')}: {error}") from error
            name = self._categories[one["category_id"]]
            masks[name] = masks[name] | mask if name in masks else mask
        return masks, image

    def _find(self, file: str) -> Path:
        for folder in FOLDERS:
            if (path := self.path.parent / folder / file).is_file():
                return path
        raise DataError(
            f"The photo {file} of {self.path.name} is not in {self.path.parent} nor in its folders "
            f"{', '.join(FOLDERS[1:])}; put it there."
        )

    def _sample(self, index: int, image: Any, masks: dict[str, np.ndarray], name: str, phrase: str) -> Sample:
        mask = masks.get(name)
        classes = np.zeros(image.size[::-1], np.int16) if mask is None else mask.astype(np.int16)
        return Sample(f"coco/{self.photos[index][1]}/{phrase}", "coco", image, phrase, ("others", phrase), classes)


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} is not there or cannot be read ({error}); name a COCO instances file.") from error
    except ValueError as error:
        raise DataError(f"{path} is no whole JSON file ({error}); it is cut off or damaged.") from error
    if not isinstance(data, dict):
        raise DataError(f"{path} holds a {type(data).__name__}; a COCO instances file holds one object.")
    return data
