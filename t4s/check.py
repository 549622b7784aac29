"""Check a data set before training on it: open every photo and mask, and report everything that is wrong.

    python t4s/check.py data.jsonl                          # or: t4s check data.jsonl
    python t4s/check.py PHOTOS --sheet check.png            # a folder with an index.jsonl
    python t4s/check.py annotations/instances.json          # a COCO file
    python t4s/check.py refcoco:PATH@val --limit 500

Prints counts and every problem with its file and line (a missing or damaged file, an empty mask, a mask of another
size, a misspelt field, a duplicate line, a photo in two splits), and writes a contact sheet. Exit code 0 if there is no
problem, 1 if there are problems, 2 if there is nothing to check.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from t4s.data.reading.inspection import Inspection
    from t4s.data.spec import Dataset
    from t4s.errors import DataError
    from t4s.records import Sample

SHEET = "check.png"
TILES = 24  # of the contact sheet
COLUMNS = 6
SHOWN = 50  # problems that are printed, and notes
CELL = 1 / 256  # of a photo: one cell of a 16×16 grid


@dataclass
class Report:
    """What was found so far.

    covers  the share of the photo that each target covers, 0 to 1
    sizes   (w, h) of the smallest and the largest photo
    """

    photos: int = 0
    absent: int = 0
    lists: int = 0
    queries: Counter[str] = field(default_factory=Counter)
    covers: list[float] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, found: Inspection) -> None:
        self.photos += 1
        self.problems += found.problems
        self.notes += found.notes
        for sample in found.samples:
            self.lists += not isinstance(sample.query, str)
            self.absent += sample.absent
            self.queries.update([sample.query] if isinstance(sample.query, str) else sample.query)
            if not sample.absent:
                self.covers.append(float((sample.class_map > 0).mean()))
        if found.samples:
            sizes = sorted([*self.sizes, found.samples[0].image.size], key=lambda size: size[0] * size[1])
            self.sizes = [sizes[0], sizes[-1]]

    def __str__(self) -> str:
        asked = len(self.covers) + self.absent
        lines = [f"{self.photos} photos, {asked} questions ({self.absent} absent, {self.lists} class lists)"]
        if self.sizes:
            smallest, largest = (f"{width}×{height}" for width, height in self.sizes)
            lines.append(f"photos    {smallest} to {largest} pixels")
        if self.covers:
            covers = sorted(self.covers)
            small = sum(cover < CELL for cover in covers)
            least, median, most = (f"{covers[at]:.2%}" for at in (0, len(covers) // 2, -1))
            lines.append(f"targets   cover {least} to {most} of their photo, half of them less than {median}")
            lines.append(f"          {small} are smaller than a cell of a 16×16 grid")
        if self.queries:
            often = ", ".join(f'"{query}" {count}' for query, count in self.queries.most_common(5))
            lines.append(f"phrases   {len(self.queries)} different, most often {often}")
        if self.notes:
            lines += [f"notes     {len(self.notes)}", *_shown(self.notes)]
        lines += [f"problems  {len(self.problems) or 'none'}", *_shown(self.problems)]
        return "\n".join(lines)


def _shown(messages: Sequence[str]) -> list[str]:
    lines = [f"  {message}" for message in messages[:SHOWN]]
    if len(messages) > SHOWN:
        lines.append(f"  … and {len(messages) - SHOWN} more")
    return lines


def arguments() -> argparse.ArgumentParser:
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("t4s check", description=__doc__, formatter_class=formatter)
    add = parser.add_argument
    add(
        "data",
        metavar="DATA",
        help="a .jsonl file, a COCO .json file, a folder with an index.jsonl, or NAME[:PATH][@SPLIT] as in train.py",
    )
    add("--split", help='the split to check (default: all lines; "train" for data sets with fixed splits)')
    add("--limit", type=int, metavar="N", help="only the first N photos")
    add("--sheet", type=Path, default=Path(SHEET), metavar="FILE", help=f"the contact sheet, a PNG (default: {SHEET})")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    from t4s.errors import DataError, T4SError, use_utf8

    use_utf8()
    options = arguments().parse_args(argv)
    try:
        if options.limit is not None and options.limit < 1:
            raise DataError(f"--limit is {options.limit}; give a number from 1, or leave it out.")
        if options.sheet.suffix.lower() != ".png" or not options.sheet.resolve().parent.is_dir():
            raise DataError(f"--sheet is {str(options.sheet)!r}; name a .png file in a folder that exists.")
        return check(options.data, options.split, options.limit, options.sheet)
    except T4SError as error:
        print(f"t4s check: {error}", file=sys.stderr)
        return 2


def check(data: str, split: str | None, limit: int | None, sheet: Path) -> int:
    """Check everything, print the report and write the contact sheet. Returns the exit code."""
    dataset, faults = open_leniently(data, split)
    total = min(len(dataset), limit or len(dataset))
    report = Report(problems=[str(fault) for fault in faults], notes=list(getattr(dataset, "notes", ())))
    shown = {round(k * (total - 1) / max(min(TILES, total) - 1, 1)) for k in range(min(TILES, total))}
    tiles = []
    for index in range(total):
        found = inspect(dataset, index)
        report.add(found)
        if index in shown and found.samples:
            tiles.append(_tile(found.samples))
        if index % 1000 == 999:
            print(f"{index + 1} of {total} photos", file=sys.stderr)
    print(report)
    if tiles:
        _write(tiles, sheet, f"{data}: {report.photos} photos, {len(report.problems)} problems")
    return 1 if report.problems else 0


def open_leniently(data: str, split: str | None) -> tuple[Dataset, list[DataError]]:
    """The data set, opened past its faulty lines and entries, and what is wrong with those."""
    from t4s.data.coco import CocoDataset
    from t4s.data.folder import INDEX, FolderDataset
    from t4s.data.jsonl import JsonlDataset
    from t4s.data.spec import DatasetSpec, open_dataset
    from t4s.errors import DataError

    path = Path(data)
    if path.is_file():
        spec = DatasetSpec("coco" if path.suffix.lower() == ".json" else "jsonl", data)
    elif (path / INDEX).is_file():
        spec = DatasetSpec("folder", data)
    elif path.is_dir():
        raise DataError(
            f"The folder {data!r} holds no {INDEX}; name a .jsonl or COCO .json file, or a folder that has one."
        )
    else:
        spec = DatasetSpec.parse(data)
    split = split or spec.split or ("all" if spec.name in ("jsonl", "folder") else "train")
    faults: list[DataError] = []
    match spec.name:
        case "jsonl":
            dataset = JsonlDataset(spec.path, split, hold_out=True, faults=faults)
        case "folder":
            dataset = FolderDataset(spec.path, split, faults)
        case "coco":
            dataset = CocoDataset(spec.path, split, faults)
        case _:
            dataset = open_dataset(DatasetSpec(spec.name, spec.path, split))
    if not len(dataset) and not faults:
        raise DataError(f"{data} has no photo with a usable mask in the split {split!r}; name another with --split.")
    return dataset, faults


def inspect(dataset: Dataset, index: int) -> Inspection:
    """Photo `index` of any data set: its samples, and what is wrong."""
    from t4s.data.reading.inspection import Inspection
    from t4s.errors import DataError, ImageError

    if hasattr(dataset, "inspect"):
        return dataset.inspect(index)
    try:
        return Inspection(list(dataset[index]))
    except (DataError, ImageError) as error:
        return Inspection(problems=[str(error)])


def _tile(samples: Sequence[Sample]) -> tuple[str, Image.Image]:
    """One question about a photo, a present target if there is one: (caption, picture)."""
    from t4s.imaging.drawing import overlay

    sample = next((sample for sample in samples if not sample.absent), samples[0])
    masks = {label: sample.class_map == number for number, label in enumerate(sample.labels) if number}
    picture = overlay(sample.image, masks)
    picture.thumbnail((256, 192))
    query = sample.query if isinstance(sample.query, str) else ", ".join(sample.query)
    return (f"absent: {query}" if sample.absent else query), picture


def _write(tiles: Sequence[tuple[str, Image.Image]], file: Path, title: str) -> None:
    from t4s.errors import DataError
    from t4s.imaging.drawing import sheet

    rows = [tiles[start : start + COLUMNS] for start in range(0, len(tiles), COLUMNS)]
    try:
        sheet(rows, title=title).save(file)
    except OSError as error:
        raise DataError(f"The sheet {file} cannot be written ({error.strerror}); name another with --sheet.") from error
    print(f"picture   {file}")


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
