"""Download formats, in one table, and the ZIP of a batch. Knows no gradio."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import tempfile
import time
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t4s.imaging import drawing, export
from t4s.imaging.loading import open_photo
from t4s.records import Prediction

COLUMNS = (
    "file",
    "phrase",
    "present",
    "status",
    "score",
    "area",
    "x0",
    "y0",
    "x1",
    "y1",
    "tokens",
    "passes",
    "faults",
    "mask",
    "error",
)

SCRATCH_SECONDS = 14_400  # as long as Gradio keeps its files, and longer than any batch takes
NAME_BYTES = 100  # of either half of a mask's file name; unpacking fails beyond 255 for all of it
_SCRATCH = tempfile.TemporaryDirectory(prefix="t4s-")  # removed when the process ends; Gradio serves copies


def scratch_file(name: str) -> Path:
    """The path of a new file of this name, in a folder of its own.

    Folders in which nothing was written for SCRATCH_SECONDS are removed. The scratch folder itself is made again if
    someone cleaned it away.
    """
    scratch = Path(_SCRATCH.name)
    scratch.mkdir(mode=0o700, exist_ok=True)
    for folder in scratch.iterdir():
        if time.time() - _last_written(folder) > SCRATCH_SECONDS:
            shutil.rmtree(folder, ignore_errors=True)
    return Path(tempfile.mkdtemp(dir=scratch)) / name


def _last_written(folder: Path) -> float:
    """When something in a folder was last written; now, if another call is just removing it."""
    try:
        return max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    except FileNotFoundError:
        return time.time()


def _json(data: Any) -> bytes:
    return json.dumps(data, ensure_ascii=False, indent=1).encode()


def _overlay(answer: Prediction, path: str) -> bytes:
    file = io.BytesIO()
    colours = drawing.label_colours(answer.grid)
    drawing.overlay(open_photo(path).convert("RGB"), answer.masks, colours=colours).save(file, "JPEG", quality=92)
    return file.getvalue()


def _coco(answer: Prediction, path: str) -> bytes:
    return _json(export.coco_json([(Path(path).name, answer.mask.shape, answer.masks)]))


def _coco_parts(answer: Prediction, path: str) -> bytes:
    data = export.CocoSet()
    data.add(Path(path).name, answer.mask.shape, answer.masks, answer.parts)
    return _json(data.as_dict())


def _svg(answer: Prediction, path: str) -> bytes:
    return export.svg(answer.masks, answer.mask.shape, drawing.label_colours(answer.grid)).encode()


def _labelme(answer: Prediction, path: str) -> bytes:
    return _json(export.labelme(answer.masks, Path(path).name, answer.mask.shape))


# key: (what the button says, the file's name, how its bytes are made from an answer and the photo's path)
FILES: dict[str, tuple[str, str, Callable[[Prediction, str], bytes]]] = {
    "mask": ("Mask PNG", "{stem}.mask.png", lambda answer, path: export.mask_png(answer.mask)),
    "cutout": ("Cut-out PNG", "{stem}.cutout.png",
               lambda answer, path: export.cutout_png(open_photo(path), answer.mask)),
    "overlay": ("Overlay JPG", "{stem}.overlay.jpg", _overlay),
    "coco": ("COCO", "{stem}.coco.json", _coco),
    "parts": ("COCO, by part", "{stem}.parts.coco.json", _coco_parts),
    "geojson": ("GeoJSON", "{stem}.geojson", lambda answer, path: _json(export.geojson(answer.masks))),
    "labelme": ("LabelMe", "{stem}.json", _labelme),
    "svg": ("SVG", "{stem}.svg", _svg),
    "text": ("Text", "{stem}.seg.txt", lambda answer, path: answer.text.encode()),
    "grid": ("Grid JSON", "{stem}.grid.json",
             lambda answer, path: _json(export.grid_dict(answer.grid, answer.confidence))),
}  # fmt: skip


def make(kind: str, answer: Prediction, path: str) -> tuple[str, bytes]:
    """(file name, contents) of one of FILES, for the photo at `path`."""
    _, name, build = FILES[kind]
    return name.format(stem=Path(path).stem), build(answer, path)


@dataclass
class ResultsZip:
    """A ZIP that grows answer by answer: masks/*.png, coco.json and results.csv. `rows` are those of the CSV.

    A photo that cannot be read is a row with an `error`. `by_part`: an annotation for each connected part in coco.json.
    """

    path: Path
    by_part: bool = False
    rows: list[dict[str, Any]] = field(default_factory=list)
    _coco: export.CocoSet = field(default_factory=export.CocoSet)
    _taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._zip = zipfile.ZipFile(self.path, "w", zipfile.ZIP_STORED)  # PNGs do not shrink any further

    def add(self, photo: str, answers: list[Prediction]) -> None:
        """The answers to all phrases on one photo; `photo` is its file name."""
        masks: dict[str, np.ndarray] = {}
        for answer in answers:
            name = self._mask_name(photo, str(answer.query))
            self._zip.writestr(name, export.mask_png(answer.mask))
            masks |= answer.masks or {str(answer.asked): answer.mask}
            corners = dict(zip(("x0", "y0", "x1", "y1"), answer.box or (None,) * 4, strict=True))
            row = {
                "file": photo,
                "phrase": answer.query,
                "present": answer.present,
                "status": answer.status,
                "score": round(answer.score, 4),
                "area": int(answer.mask.sum()),
                "tokens": answer.stats.get("tokens"),
                "passes": answer.stats.get("forwards"),
                "faults": len(answer.faults),
                "mask": name,
                "error": "",
            } | corners
            self.rows.append(row)
        if answers:
            parts = [part for answer in answers for part in answer.parts] if self.by_part else None
            self._coco.add(photo, answers[0].mask.shape, masks, parts)

    def fail(self, photo: str, reason: str) -> None:
        """A photo without answers, and why."""
        self.rows.append(dict.fromkeys(COLUMNS) | {"file": photo, "error": reason})

    def close(self) -> Path:
        """Writes the two lists and closes the ZIP."""
        table = io.StringIO()
        writer = csv.DictWriter(table, COLUMNS)
        writer.writeheader()
        writer.writerows({key: _without_formula(value) for key, value in row.items()} for row in self.rows)
        self._zip.writestr("results.csv", table.getvalue().encode("utf-8-sig"))
        self._zip.writestr("coco.json", _json(self._coco.as_dict()))
        self._zip.close()
        return self.path

    def _mask_name(self, photo: str, phrase: str) -> str:
        """A plain file name that no other mask of this ZIP has; visitors' names are never used as paths."""
        plain = "__".join(_plain(part) or "unnamed" for part in (Path(photo).stem, phrase))
        name, more = f"masks/{plain}.png", 2
        while name.casefold() in self._taken:
            name, more = f"masks/{plain}-{more}.png", more + 1
        self._taken.add(name.casefold())
        return name


def _plain(text: str) -> str:
    """A name in letters, marks (the vowel signs of many scripts), digits, ".", "-" and "_", of NAME_BYTES at most."""
    text = unicodedata.normalize("NFC", text)
    kept = "".join(char if char in ".-" or unicodedata.category(char)[0] in "LMN" else "_" for char in text)
    plain = re.sub(r"__+", "_", kept).strip("._").encode()[:NAME_BYTES].decode(errors="ignore")
    return plain.rstrip("._")


def _without_formula(value: Any) -> Any:
    """A cell that a spreadsheet would run as a formula is quoted, so that it stays text."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r") else value
