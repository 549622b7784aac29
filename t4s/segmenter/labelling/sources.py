"""The photos to label, in a fixed order: a folder, image files, JSON lines, Parquet files, or a data set of the Hub.

    PHOTOS                       every image file below a folder
    PHOTOS/*.jpg a.png           globs and files
    list.jsonl                   {"image": "a.jpg"} a line, with a "query" of its own where wanted: a phrase or a list
    train-*.parquet              a column image (bytes, {bytes, path} or paths), and query where wanted
    OWNER/NAME[@SPLIT]           a data set of the Hub with an image column (default split: train)

Sources are read piece by piece: nothing but names is kept in memory.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from t4s.data.reading.paths import FileFinder
from t4s.errors import DataError
from t4s.segmenter.labelling.shards import arrow

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .gif .webp .avif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm".split()
)  # what `open_photo` reads
HUB = re.compile(r"(?:hub:)?(?P<id>\w[\w.-]*/\w[\w.-]*)(?:@(?P<split>[\w.-]+))?", re.ASCII)
BATCH = 16  # rows of a Parquet file that are in memory at once

Query = str | tuple[str, ...]


@dataclass(frozen=True)
class Photo:
    """One photo of a source.

    name   what it is called in the source: the same on every machine
    image  a path, the bytes of an image file, or None
    query  the question that the source itself asks about it: a phrase, a class list, or None
    fault  why there is nothing to label
    """

    name: str
    image: Path | bytes | None
    query: Query | None = None
    fault: str = ""


class PhotoSource(Protocol):
    """`len` counts photos; `state` is a digest that changes when they do."""

    state: str

    def __len__(self) -> int: ...

    def photos(self, start: int, stop: int) -> Iterator[Photo]:
        """The photos start … stop - 1, in order."""
        ...


def open_source(given: Sequence[str], out: Path | None = None) -> PhotoSource:
    """What a command line names, opened. Raises DataError: nothing there, kinds mixed, or `out` among the photos."""
    given = [absolute(text) for text in given]
    hub = HUB.fullmatch(given[0])
    if hub and len(given) == 1:
        return HubSource(hub["id"], hub["split"] or "train")
    roots, files = _expand(given)
    if out is not None and any(out.resolve().is_relative_to(root.resolve()) for root in roots):
        raise DataError(
            f"{out} lies among the photos, and its own pictures would be labelled; name a folder elsewhere."
        )
    kinds = {file.suffix.lower() if file.suffix.lower() in (".jsonl", ".parquet") else "photos" for file in files}
    if len(kinds) > 1 or (kinds == {".jsonl"} and len(files) > 1):
        raise DataError(f"{' '.join(given)} is of several kinds; give photos, or Parquet files, or one .jsonl file.")
    if kinds == {".jsonl"}:
        return JsonLines(files[0])
    if kinds == {".parquet"}:
        return ParquetFiles(files)
    return ImageFiles(files, roots)


def absolute(text: str) -> str:
    """A path or glob in full; "hub:OWNER/NAME[@SPLIT]" for what is no file here and may be a data set of the Hub."""
    if text.startswith("hub:") or (HUB.fullmatch(text) and not glob.glob(text)):
        return f"hub:{text.removeprefix('hub:')}"
    return os.path.abspath(text)


def _expand(given: Sequence[str]) -> tuple[list[Path], list[Path]]:
    """Folders, globs and files → (the folders, all files, sorted and each once). DataError for what is not there."""
    roots, files = [], []
    for text in given:
        path = Path(text)
        if path.is_dir():
            found = [Path(folder, name) for folder, _, names in os.walk(path) for name in names]
            found = [file for file in found if _is_photo(file.relative_to(path))]
            roots.append(path)
        elif path.is_file():
            found = [path]
        else:
            found = [Path(name) for name in glob.glob(text, recursive=True) if Path(name).is_file()]
        if not found:
            what = "no photo in it" if path.is_dir() else "no such file, folder or data set"
            raise DataError(f"{text!r}: {what}; give a folder, image files, a glob, .jsonl, .parquet or OWNER/NAME.")
        files += found
    return roots, sorted(set(files), key=lambda file: file.as_posix())


def _is_photo(file: Path) -> bool:
    return file.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in file.parts)


class ImageFiles:
    """Files, named by their path below the folder that holds them all."""

    def __init__(self, files: Sequence[Path], roots: Sequence[Path] = ()):
        whole = len(roots) == 1 and all(file.is_relative_to(roots[0]) for file in files)
        self._root = roots[0] if whole else Path(os.path.commonpath([file.parent.absolute() for file in files]))
        self._names = [os.path.relpath(file, self._root).replace(os.sep, "/") for file in files]
        self.state = _digest("\0".join(self._names))

    def __len__(self) -> int:
        return len(self._names)

    def photos(self, start: int, stop: int) -> Iterator[Photo]:
        return (Photo(name, self._root / name) for name in self._names[start:stop])


class JsonLines:
    """The lines of a text file; paths start at its folder. A faulty line is a photo with a fault."""

    def __init__(self, path: Path):
        self._path, self._finder = path, FileFinder([path.parent])
        self._starts, self._numbers, digest = array("Q"), array("Q"), hashlib.sha256()
        with path.open("rb") as file:
            at = 0
            for number, line in enumerate(file, 1):
                if line.strip(b"\xef\xbb\xbf \t\r\n"):
                    self._starts.append(at)
                    self._numbers.append(number)
                at += len(line)
                digest.update(line)
        if not self._starts:
            raise DataError(f'{path} is empty; write a photo a line: {{"image": "a.jpg"}}.')
        self.state = digest.hexdigest()[:16]

    def __len__(self) -> int:
        return len(self._starts)

    def photos(self, start: int, stop: int) -> Iterator[Photo]:
        with self._path.open("rb") as file:
            for at in range(start, min(stop, len(self))):
                file.seek(self._starts[at])
                yield self._photo(file.readline(), self._numbers[at])

    def _photo(self, line: bytes, number: int) -> Photo:
        place = f"line {number}"
        try:
            row = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return Photo(place, None, fault=f'{place} is not JSON in UTF-8; write {{"image": "a.jpg"}}.')
        name = row.get("image") if isinstance(row, dict) else None
        if not isinstance(name, str):
            return Photo(place, None, fault=f'{place} has no "image" with the path of a photo.')
        query, fault = _query(row.get("query"), place)
        path = self._finder.find(name)
        if path is None and not fault:
            fault = f"There is no file {name!r} beside {self._path.name}."
        return Photo(name, path, query, fault)


class ParquetFiles:
    """The rows of Parquet files, named FILE:ROW."""

    def __init__(self, files: Sequence[Path]):
        parquet = arrow().parquet
        self._files, self._counts = list(files), []
        for file in files:
            try:
                opened = parquet.ParquetFile(file)
            except (OSError, ValueError) as error:  # ArrowInvalid is a ValueError
                raise DataError(f"{file} cannot be read ({error}); it must be a whole Parquet file.") from error
            if "image" not in opened.schema_arrow.names:
                raise DataError(f"{file} has the columns {', '.join(opened.schema_arrow.names)}; image is missing.")
            self._counts.append(opened.metadata.num_rows)
        facts = [(file.name, file.stat().st_size, count) for file, count in zip(files, self._counts, strict=True)]
        self.state = _digest(json.dumps(facts))
        self._next, self._rows = 0, self._from(0)

    def __len__(self) -> int:
        return sum(self._counts)

    def photos(self, start: int, stop: int) -> Iterator[Photo]:
        if start != self._next:  # in order, nothing is read twice
            self._rows = self._from(start)
        self._next = start
        for _ in range(start, min(stop, len(self))):
            self._next += 1
            yield next(self._rows)

    def _from(self, start: int) -> Iterator[Photo]:
        """The rows from number `start` on; groups of rows before it are not read."""
        parquet, before = arrow().parquet, 0
        for file, count in zip(self._files, self._counts, strict=True):
            if before + count > start:
                opened = parquet.ParquetFile(file)
                columns = [name for name in ("image", "query") if name in opened.schema_arrow.names]
                row = 0
                for group in range(opened.num_row_groups):
                    size = opened.metadata.row_group(group).num_rows
                    if before + row + size <= start:
                        row += size
                        continue
                    for batch in opened.iter_batches(BATCH, row_groups=[group], columns=columns):
                        for values in batch.to_pylist():
                            if before + row >= start:
                                yield _row_photo(values, f"{file.name}:{row}", FileFinder([file.parent]))
                            row += 1
            before += count


class HubSource:
    """The rows of a split of a data set that `datasets` loads, named SPLIT:ROW."""

    def __init__(self, path: str, split: str):
        try:
            import datasets
        except ModuleNotFoundError as error:
            raise DataError('A data set of the Hub needs the package "datasets": pip install datasets') from error
        try:
            rows = datasets.load_dataset(path, split=split)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"The data set {path!r} has no split {split!r} that loads ({error}).") from error
        if not isinstance(rows.features.get("image"), datasets.Image):
            raise DataError(f"The data set {path!r} has no Image column called image; it has {rows.column_names}.")
        rows = rows.select_columns([name for name in ("image", "query") if name in rows.column_names])
        self._split, self._finder = split, FileFinder([Path()])
        self._rows = rows.cast_column("image", datasets.Image(decode=False))
        self.state = _digest(f"{rows._fingerprint} {len(rows)}")

    def __len__(self) -> int:
        return len(self._rows)

    def photos(self, start: int, stop: int) -> Iterator[Photo]:
        for row in range(start, min(stop, len(self))):
            yield _row_photo(self._rows[row], f"{self._split}:{row}", self._finder)


def _row_photo(values: dict[str, Any], name: str, finder: FileFinder) -> Photo:
    """A row with the columns image and query; `finder` looks for images that are paths."""
    image = values["image"]
    if isinstance(image, dict):
        image = image.get("bytes") or image.get("path")
    query, fault = _query(values.get("query"), name)
    if isinstance(image, str):
        path = finder.find(image)
        fault = fault or ("" if path else f"There is no file {image!r}.")
        image = path
    elif not isinstance(image, bytes):
        fault = fault or f"{name} has no image, neither bytes nor a path."
        image = None
    return Photo(name, image, query, fault)


def _query(value: Any, place: str) -> tuple[Query | None, str]:
    """A question as a source has it: a phrase, a list of names, or None; and what is wrong with it."""
    if value is None or isinstance(value, str):
        return value, ""
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return tuple(value), ""
    return None, f'{place} has a "query" that is neither a phrase nor a list of names.'


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
