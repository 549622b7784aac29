"""The rows of the answers, and the files that hold them.

    OUT/label.json                             what was asked of what, by which checkpoint
    OUT/labels-00000-of-00003.parquet          the rows of photos 0 … 99, and so on
    OUT/failures.jsonl                         when all is done: the photos without an answer, and why

A row is one question about one photo:

    id          stable: a digest of the photo's name and the question
    index       the photo's number in the source;  photo: its name there
    query       the phrase, or the names of a class list joined by ", ";  names: what was asked, as a list
    width, height  of the upright photo in pixels; null if it could not be read
    text        what the model wrote between `<seg>` and `</seg>`
    score       0 to 1, null where the engine gives no probabilities
    status      "found", "absent", "unsure", "unknown word"; "failed": no answer, and there will be none; "unanswered":
                the server gave none, the same command asks again
    masks       one {label, counts, box, area} a label that is drawn: COCO's packed run lengths of size [height, width],
                [x0, y0, x1, y1] in pixels (x1 and y1 exclusive), and pixels
    faults      what was wrong with the text and repaired (`decoding="free"` and servers without a grammar)
    error       why there is no answer
    checkpoint, revision  what answered: a Hub id and its commit, or a folder's name and a digest of its weights
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from pycocotools import mask as coco

from t4s.errors import DataError
from t4s.imaging.masks import coco_rle
from t4s.records import Prediction, box_of
from t4s.segmenter.queries import names_of

SETTINGS = "label.json"
FAILURES = "failures.jsonl"
PART = ".part"  # a file that is being written
FAILED, UNANSWERED = "failed", "unanswered"  # statuses of rows without an answer

Row = dict[str, Any]
Asked = str | tuple[str, ...]


@cache
def arrow() -> Any:
    """The package `pyarrow` with `pyarrow.parquet`. DataError where it is not installed: it is an extra."""
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise DataError('Labels and Parquet files need the package "pyarrow": pip install "pyarrow>=21,<27"') from error
    return pyarrow


@cache
def schema() -> Any:
    """The `pyarrow.Schema` of a shard."""
    pa = arrow()
    mask = {"label": pa.string(), "counts": pa.string(), "box": pa.list_(pa.int32()), "area": pa.int64()}
    kinds = {
        "id": pa.string(),
        "index": pa.int64(),
        "photo": pa.string(),
        "query": pa.string(),
        "names": pa.list_(pa.string()),
        "class_list": pa.bool_(),
        "width": pa.int32(),
        "height": pa.int32(),
        "text": pa.string(),
        "score": pa.float64(),
        "status": pa.string(),
        "masks": pa.list_(pa.struct(list(mask.items()))),
        "faults": pa.list_(pa.string()),
        "error": pa.string(),
        "checkpoint": pa.string(),
        "revision": pa.string(),
    }
    return pa.schema(list(kinds.items()))


def question_row(index: int, photo: str, asked: Asked, checkpoint: str, revision: str) -> Row:
    """A row without an answer."""
    names = [asked] if isinstance(asked, str) else list(asked)
    listed = not isinstance(asked, str)
    key = "\x1f".join([photo, "list" if listed else "phrase", *names])
    return dict.fromkeys(schema().names) | {
        "id": hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()[:32],
        "index": index,
        "photo": photo.encode("utf-8", "replace").decode(),
        "query": ", ".join(names),
        "names": names,
        "class_list": listed,
        "masks": [],
        "faults": [],
        "checkpoint": checkpoint,
        "revision": revision,
    }


def answered(row: Row, prediction: Prediction) -> Row:
    """The row with its answer. Masks are labelled with what was asked for, whatever words the model was asked in."""
    height, width = prediction.mask.shape
    typed = dict(zip(names_of(prediction.asked), row["names"], strict=True))
    masks = []
    for label, mask in prediction.masks.items():
        if (box := box_of(mask)) is not None:
            counts = coco_rle(mask)["counts"]
            masks.append(
                {"label": typed.get(label, label), "counts": counts, "box": list(box), "area": int(mask.sum())}
            )
    return row | {
        "width": width,
        "height": height,
        "text": prediction.text,
        "score": prediction.score if prediction.stats.get("probabilities", True) else None,
        "status": prediction.status,
        "masks": masks,
        "faults": [f"row {fault.row}, column {fault.column}: {fault.message}" for fault in prediction.faults],
    }


def unanswered(row: Row, reason: str, status: str = FAILED) -> Row:
    """The row with the reason why there is no answer, on one line."""
    return row | {"status": status, "error": " ".join(reason.split())}


def mask_of(row: Row, label: str) -> Any:
    """(height, width) bool: the mask of a label of the row."""
    found = next(mask for mask in row["masks"] if mask["label"] == label)
    return coco.decode({"size": [row["height"], row["width"]], "counts": found["counts"].encode()}).astype(bool)


class Shards:
    """The folder of a run: `photos` photos, `size` in each shard."""

    def __init__(self, folder: Path, photos: int, size: int):
        self.folder, self.photos, self.size = folder, photos, size
        self.total = -(-photos // size)

    @classmethod
    def open(cls, folder: Path) -> Shards:
        """A run that was begun. Raises DataError."""
        settings = read_settings(folder)
        if settings is None:
            raise DataError(f"{folder} holds no labels (no {SETTINGS}); name the folder that `t4s label -o` wrote.")
        return cls(folder, settings["photos"], settings["shard_size"])

    def agree(self, settings: Mapping[str, Any]) -> None:
        """Write the settings down, or refuse a folder with other ones: DataError."""
        new = json.loads(json.dumps(settings))
        old = read_settings(self.folder)
        if old is None:
            if self.folder.is_dir() and any(self.folder.glob("labels-*.parquet")):
                raise DataError(f"{self.folder} has labels but no {SETTINGS}; name another folder.")
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(self.folder / SETTINGS, (json.dumps(new, indent=1, ensure_ascii=False) + "\n").encode())
            return
        changed = [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]
        if changed:
            changes = "; ".join(f"{name} was {old.get(name)!r} and is {new.get(name)!r}" for name in changed)
            raise DataError(f"{self.folder} holds labels made otherwise: {changes}. Name another folder with -o.")

    def path(self, shard: int) -> Path:
        return self.folder / f"labels-{shard:05d}-of-{self.total:05d}.parquet"

    def photos_of(self, shard: int) -> range:
        return range(shard * self.size, min((shard + 1) * self.size, self.photos))

    def done(self, shard: int) -> bool:
        return self.path(shard).is_file()

    def kept(self, shard: int) -> dict[int, list[Row]] | None:
        """{photo: its rows} of a shard in which a server left photos unanswered; None if nothing is to be asked again.

        Photos with an unanswered question are left out.
        """
        path = self.path(shard)
        if not path.is_file():
            return {}
        if UNANSWERED not in arrow().parquet.read_table(path, columns=["status"])["status"].to_pylist():
            return None
        by_photo: dict[int, list[Row]] = {}
        for row in self.rows(shard):
            by_photo.setdefault(row["index"], []).append(row)
        return {index: rows for index, rows in by_photo.items() if all(row["status"] != UNANSWERED for row in rows)}

    def write(self, shard: int, rows: Sequence[Row]) -> None:
        """The file appears whole, under its final name, or not at all."""
        pa = arrow()
        sink = pa.BufferOutputStream()
        pa.parquet.write_table(pa.Table.from_pylist(list(rows), schema()), sink, compression="zstd")
        write_whole(self.path(shard), sink.getvalue())

    def rows(self, shard: int) -> list[Row]:
        return arrow().parquet.read_table(self.path(shard)).to_pylist()

    def all_rows(self) -> Iterator[Row]:
        """Every row, a shard in memory at a time. DataError if a shard is missing."""
        for shard in range(self.total):
            if not self.done(shard):
                raise DataError(f"{self.path(shard)} is missing: the run is not finished; give its command again.")
            yield from self.rows(shard)

    def remove_parts(self, shards: Sequence[int]) -> None:
        """What a killed process left half-written."""
        for shard in shards:
            for left in self.folder.glob(f"{self.path(shard).name}.*{PART}"):
                left.unlink(missing_ok=True)


def read_settings(folder: Path) -> dict[str, Any] | None:
    path = folder / SETTINGS
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged ({error}); delete {folder} and start anew.") from error


def write_whole(path: Path, content: bytes | memoryview) -> None:
    """Written under a temporary name, flushed to the disk, and renamed."""
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
