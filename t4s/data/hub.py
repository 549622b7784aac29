"""A data set of the Hugging Face Hub, or any folder that `datasets` loads: the fields of `jsonl` as columns.

    image   an Image column
    query   the phrase
    mask    an Image column (every value above 0 is the target), or COCO run lengths, or polygons; null if absent
    absent  optional: true where there is no mask
    box     optional, as in `jsonl`

Every row is one photo with one question. `t4s check hub:ID` checks all of them. RefCOCO-M has another form: a row is a
photo with several instances. Needs the package `datasets`. No code that comes with a data set is run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s.data.augment.draws import Draw, draw_samples
from t4s.data.augment.views import whole
from t4s.data.jsonl import Line, Targets, inspect_lines, parse_line
from t4s.data.reading.inspection import Inspection
from t4s.data.reading.paths import FileFinder
from t4s.data.refcoco import label_of
from t4s.errors import DataError
from t4s.imaging.loading import open_photo
from t4s.imaging.masks import annotation_mask
from t4s.records import Sample

COLUMNS = ("image", "query", "mask", "absent", "box")


class HubDataset:
    """The rows of one split of the data set `path`, in its order; the split "all" has the rows of all splits.

    Raises DataError if it cannot be loaded, has no such split, or lacks a column.
    """

    def __init__(self, path: str, split: str = "train"):
        self.name = f"hub:{path}@{split}"
        self.source = path.rstrip("/").rsplit("/", 1)[-1]
        self.rows = _load(path, split)
        self._finder = FileFinder([Path()])

    def __len__(self) -> int:
        return len(self.rows)

    def phrases(self) -> set[str]:
        """All that is asked; a row whose question is none is told when it is read."""
        return {query for query in self.rows["query"] if isinstance(query, str)}

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """The one question of row `index`. Raises DataError naming data set, row and column."""
        line = self._line(index)
        return (line.sample(line.photo(), self.source),)

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """Row `index`, `count` times: it has only one question."""
        return draw_samples(self, index, rng, count)

    def decode(self, index: int, complete: bool = False) -> tuple[Image.Image, tuple[Line, Targets]]:
        """The photo of row `index`, and its question; see `PhotoDataset`."""
        line = self._line(index)
        photo = line.photo()
        targets = Targets([line], photo)
        if complete:
            targets[0]
            line = replace(line, image=b"", mask=None)  # what is kept of every row has no files in it
            targets.lines = (line,)
        return photo, (line, targets)

    def ask(
        self, index: int, rng: np.random.Generator, count: int, labels: Callable[[int], tuple[Line, Targets]]
    ) -> Draw:
        """See `draw`."""
        line, targets = labels(index)
        return Draw(whole(index, targets.size), (line.sample_of(targets[0], self.source),) * count)

    def inspect(self, index: int) -> Inspection:
        """For `t4s check`: row `index`, and what is wrong with it."""
        try:
            return inspect_lines([self._line(index)], self.source)
        except DataError as error:
            return Inspection(problems=[str(error)])

    def _line(self, index: int) -> Line:
        """Row `index`, checked. Raises DataError naming data set, row and column, IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        columns = self.rows[index]
        row = {column: value for column, value in columns.items() if value is not None}
        for column in ("image", "mask"):
            if isinstance(row.get(column), dict) and "bytes" in row[column]:
                row[column] = row[column]["bytes"] or row[column]["path"]  # not decoded: open_photo has the limits
        if "mask" in columns and "mask" not in row and "absent" not in row:
            row["absent"] = True
        return parse_line(row, f"{self.name}, row {index}", index, self._finder)


class RefCocoMDataset:
    """RefCOCO-M, the validation photos of RefCOCO with masks of pixel accuracy, in its published form on the Hub.

        image, image_id, samples: [{id, sentences: [...], bbox: [x, y, width, height], mask: COCO run lengths}]

    A row is a photo; every sentence about it is one sample, in the file's order. It is meant for evaluation: the only
    split is "validation" ("val" for short). Raises DataError if it cannot be loaded or has another form.
    """

    def __init__(self, path: str, split: str = "validation"):
        split = "validation" if split == "val" else split
        self.name = f"refcoco-m:{path}@{split}"
        self.source = "refcoco-m"
        self.rows = _load(path, split, required=("image", "image_id", "samples"))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every sentence about photo `index`. DataError naming the row, IndexError past the end."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        row = self.rows[index]
        try:
            image = open_photo(row["image"]["bytes"] or row["image"]["path"])
            return tuple(
                self._sample(image, row["image_id"], instance, number)
                for instance in row["samples"]
                for number in range(len(instance["sentences"]))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{self.name}, row {index} is not a photo with samples: {error!r}.") from error

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random sentences about photo `index`, equally likely; repeated only if there are too few."""
        samples = self[index]
        chosen = rng.choice(len(samples), count, replace=count > len(samples))
        return tuple(samples[k] for k in chosen)

    def _sample(self, image: Image.Image, image_id: int, instance: dict[str, Any], number: int) -> Sample:
        sentence = instance["sentences"][number]
        x, y, width, height = map(float, instance["bbox"])
        mask = annotation_mask(instance["mask"], image.height, image.width)
        return Sample(
            f"{self.source}/{image_id}/{instance['id']}/{number}",
            self.source,
            image,
            sentence,
            ("others", label_of(sentence)),
            mask.astype(np.int16),
            (x, y, x + width, y + height),
        )


def _load(path: str, split: str, required: Sequence[str] = ("image", "query")) -> Any:
    """The `datasets.Dataset` of one split, its images as bytes."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise DataError('The hub dataset needs the package "datasets"; install it: pip install datasets') from error
    try:
        rows = datasets.load_dataset(path, split=None if split == "all" else split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"The data set {path!r} has no split {split!r} that can be loaded ({error}); check its id, "
            "the name of the split and the network."
        ) from error
    if split == "all":
        rows = datasets.concatenate_datasets(list(rows.values()))
    columns = rows.column_names
    if missing := [column for column in required if column not in columns]:
        needed = "image, query and mask or absent" if "query" in required else ", ".join(required)
        raise DataError(
            f"The data set {path!r} has no column {' and '.join(missing)}; its columns are "
            f"{', '.join(columns)}, and {needed} are needed."
        )
    rows = rows.select_columns([column for column in columns if column in (*COLUMNS, *required)])
    for column, feature in rows.features.items():
        if isinstance(feature, datasets.Image):
            rows = rows.cast_column(column, datasets.Image(decode=False))
        elif column == "image":
            raise DataError(f"The column image of {path!r} holds {feature}; it must be an Image column of `datasets`.")
    return rows
