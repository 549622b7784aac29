"""From finished labels to data sets that `t4s check` and training read.

    DIR/instances.json     COCO, a category for every phrase:                 coco:DIR/instances.json
    DIR/index.jsonl        photos with indexed masks, DIR/masks/0000012.png:  folder:DIR
    DIR/data.jsonl         one phrase about one photo a line:                 jsonl:DIR/data.jsonl
    DIR/photos/            photos that were bytes in a Parquet file or a data set; files stay where they are

`data.jsonl` says everything that the labels say; it suits phrases, whose masks may overlap and of which each photo may
have others. In the other two a photo that does not show a name that others show counts as a photo without it. In an
indexed mask the answer with the highest score lies on top.

Left out, and counted: photos with a question that failed, is unanswered, had faults in its text, or has a score below
`min_score`; and, from all photos, words that the checkpoint was never taught.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

from t4s.errors import DataError
from t4s.imaging.drawing import colour
from t4s.segmenter.labelling.shards import FAILED, UNANSWERED, Row, Shards, mask_of, read_settings
from t4s.segmenter.labelling.sources import Photo, PhotoSource, open_source

UNKNOWN = "unknown word"
MAX_IDS = 255  # of an 8-bit mask


def merge(folder: Path, to: Path | None = None, min_score: float = 0.0) -> int:
    """Write the data sets of the run in `folder` into `to` (default: its "merged"). Returns the exit code."""
    shards = Shards.open(folder)
    settings = read_settings(folder) or {}
    target = to or folder / "merged"
    if target.exists() and any(target.iterdir()):
        raise DataError(f"{target} is not empty; delete it, or name another folder with --to.")
    places = [text if text.startswith("hub:") else str(folder.absolute() / text) for text in settings["source"]]
    source = open_source(places)
    if source.state != settings["photos_state"]:
        raise DataError(f"{' '.join(places)} is not what it was when it was labelled; restore it.")
    merged = _Merged(target)
    for index, photo, rows in _photos(shards, source):
        reason = _reason(rows, min_score)
        if reason:
            merged.left_out[reason] += 1
        else:
            merged.add(index, photo, [row for row in rows if row["status"] != UNKNOWN])
    merged.close()
    print(f"{merged.count} photos, {merged.drawn} masks, {merged.absent} absent names: {target}")
    for reason, count in merged.left_out.most_common():
        print(f"  left out: {count} photos, {reason}")
    if not merged.count:
        raise DataError("No photo is left; look at the reasons above.")
    return 0


def _photos(shards: Shards, source: PhotoSource) -> Iterator[tuple[int, Photo, list[Row]]]:
    photos = source.photos(0, shards.photos)
    by_photo = groupby(shards.all_rows(), key=lambda row: row["index"])
    for photo, (index, rows) in zip(photos, by_photo, strict=True):
        yield index, photo, list(rows)


def _reason(rows: list[Row], min_score: float) -> str:
    """Why a photo is left out; "" if it is not."""
    if any(row["status"] == FAILED for row in rows):
        return "a question failed"
    if any(row["status"] == UNANSWERED for row in rows):
        return "a question is unanswered"
    if any(row["faults"] for row in rows):
        return "a text had faults"
    if any(row["score"] is not None and row["score"] < min_score for row in rows if row["status"] != UNKNOWN):
        return f"a score is below {min_score:g}"
    if all(row["status"] == UNKNOWN for row in rows):
        return "its words were never taught"
    return ""


class _Merged:
    """The three data sets, written photo by photo; the annotations wait in a file of their own."""

    def __init__(self, folder: Path):
        self._folder = folder
        (folder / "masks").mkdir(parents=True, exist_ok=True)
        self._lines, self._index = self._open("data.jsonl"), self._open("index.jsonl")
        self._images, self._annotations = self._open("instances.json"), self._open("annotations.part")
        self._images.write('{"info": {"description": "Masks drawn by Text4Seg", "version": "1.0"},\n "images": [')
        self._categories: dict[str, int] = {}
        self.count = self.drawn = self.absent = 0
        self.left_out: Counter[str] = Counter()

    def _open(self, name: str) -> IO[str]:
        return (self._folder / name).open("w", encoding="utf-8", newline="\n")

    def add(self, index: int, photo: Photo, rows: list[Row]) -> None:
        """A photo and its answers, of which none failed."""
        self.count += 1
        image = self._image(index, photo)
        width, height = rows[0]["width"], rows[0]["height"]
        entry = {"id": self.count, "file_name": image, "width": width, "height": height}
        self._images.write(("" if self.count == 1 else ",") + "\n  " + _json(entry))
        masks = {}  # {label: (score, row)}, the highest score of those that draw it
        for row in rows:
            drawn = {mask["label"]: mask for mask in row["masks"]}
            for name in row["names"]:
                self._categories.setdefault(name, len(self._categories) + 1)
                self._add_line(image, name, drawn.get(name), row)
            for label, mask in drawn.items():
                score = 1.0 if row["score"] is None else row["score"]
                if label not in masks or masks[label][0] < score:
                    masks[label] = score, row, mask
        for label, (_, row, mask) in masks.items():
            self._add_annotation(label, row, mask)
        self._add_indexed(index, image, (height, width), {label: found[:2] for label, found in masks.items()})

    def _image(self, index: int, photo: Photo) -> str:
        """The photo's path from the folder, written there if it has none."""
        path = photo.image
        if isinstance(path, bytes):
            suffix = next((kind for magic, kind in _MAGIC.items() if path.startswith(magic)), ".img")
            written = self._folder / "photos" / f"{index:07d}{suffix}"
            written.parent.mkdir(exist_ok=True)
            written.write_bytes(path)
            path = written
        assert path is not None  # a photo without an image has failed
        return os.path.relpath(path.resolve(), self._folder.resolve()).replace(os.sep, "/")

    def _add_line(self, image: str, name: str, mask: dict[str, Any] | None, row: Row) -> None:
        line: dict[str, Any] = {"image": image, "query": name}
        if mask is None:
            self.absent += 1
            line["absent"] = True
        else:
            self.drawn += 1
            line["mask"] = {"size": [row["height"], row["width"]], "counts": mask["counts"]}
        self._lines.write(_json(line) + "\n")

    def _add_annotation(self, label: str, row: Row, mask: dict[str, Any]) -> None:
        x0, y0, x1, y1 = mask["box"]
        first = self._annotations.tell() == 0
        number = self._number = 1 if first else self._number + 1
        annotation = {
            "id": number,
            "image_id": self.count,
            "category_id": self._categories.setdefault(label, len(self._categories) + 1),
            "iscrowd": 0,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": mask["area"],
            "segmentation": {"size": [row["height"], row["width"]], "counts": mask["counts"]},
        }
        self._annotations.write(("" if first else ",") + "\n  " + _json(annotation))

    def _add_indexed(self, index: int, image: str, size: tuple[int, int], masks: dict[str, tuple[float, Row]]) -> None:
        if len(masks) > MAX_IDS:
            raise DataError(f"{image} has {len(masks)} names; an indexed mask holds {MAX_IDS}.")
        ids = np.zeros(size, np.uint8)
        numbers = {label: number for number, label in enumerate(masks, 1)}
        for label, (_, row) in sorted(masks.items(), key=lambda item: item[1][0]):
            ids[mask_of(row, label)] = numbers[label]
        picture = Image.fromarray(ids).convert("P")
        picture.putpalette([0, 0, 0, *(value for number in numbers.values() for value in colour(number))])
        name = f"masks/{index:07d}.png"
        picture.save(self._folder / name)
        seen = {str(number): label for label, number in numbers.items() if (ids == number).any()}
        line = {"image": image, "mask": name, "source": "labels", "split": "train", "classes": seen}
        self._index.write(_json(line) + "\n")

    def close(self) -> None:
        """Put the COCO file together."""
        for file in (self._lines, self._index, self._annotations):
            file.close()
        self._images.write('],\n "annotations": [')
        part = self._folder / "annotations.part"
        with part.open(encoding="utf-8") as annotations:
            for line in annotations:
                self._images.write(line)
        part.unlink()
        categories = [{"id": number, "name": label} for label, number in self._categories.items()]
        self._images.write(f'],\n "categories": {_json(categories)}}}\n')
        self._images.close()


_MAGIC = {  # how image files begin
    b"\xff\xd8": ".jpg",
    b"\x89PNG": ".png",
    b"GIF8": ".gif",
    b"BM": ".bmp",
    b"RIFF": ".webp",
    b"II": ".tif",
    b"MM": ".tif",
}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
