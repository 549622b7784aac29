"""Look over a dataset before hours of training: every photo and mask is opened, and everything wrong is listed.

    python t4s/check.py data.jsonl                          # or: t4s check data.jsonl
    python t4s/check.py PHOTOS --sheet seen.png             # a folder with an index.jsonl
    python t4s/check.py refcoco:PATH@val --limit 500

Prints counts and every problem with its file and line (a file that is missing or broken, an empty mask, a mask of
another size, a line written twice, a photo in two splits), and writes a picture sheet. Exit code 0 if all is well,
1 if there are problems, 2 if there is nothing to look at.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

    from t4s.data.jsonl import Line
    from t4s.records import Sample

SHEET = "check.png"
TILES, COLUMNS = 24, 6  # of the picture sheet
SHOWN = 50  # problems that are printed
CELL = 1 / 256  # of a photo: one cell of a 16×16 grid

# One photo: its samples, and what is wrong with it.
Seen = tuple[list["Sample"], list[str]]


@dataclass
class Report:
    """What was seen so far. `covers` holds the share of the photo that each target covers, 0 to 1."""

    photos: int = 0
    absent: int = 0
    lists: int = 0
    queries: Counter[str] = field(default_factory=Counter)
    covers: list[float] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)  # (w, h) of the smallest and the largest photo
    problems: list[str] = field(default_factory=list)

    def add(self, seen: Seen) -> None:
        samples, problems = seen
        self.photos += 1
        self.problems += problems
        for sample in samples:
            self.lists += not isinstance(sample.query, str)
            self.absent += sample.absent
            self.queries.update([sample.query] if isinstance(sample.query, str) else sample.query)
            if not sample.absent:
                self.covers.append(float((sample.class_map > 0).mean()))
        if samples:
            sizes = sorted([*self.sizes, samples[0].image.size], key=lambda size: size[0] * size[1])
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
            least, middle, most = (f"{covers[at]:.2%}" for at in (0, len(covers) // 2, -1))
            lines.append(f"targets   cover {least} to {most} of their photo, half of them less than {middle}")
            lines.append(f"          {small} are smaller than a cell of a 16×16 grid")
        if self.queries:
            often = ", ".join(f'"{query}" {count}' for query, count in self.queries.most_common(5))
            lines.append(f"phrases   {len(self.queries)} different, most often {often}")
        lines.append(f"problems  {len(self.problems) or 'none'}")
        lines += [f"  {problem}" for problem in self.problems[:SHOWN]]
        if len(self.problems) > SHOWN:
            lines.append(f"  … and {len(self.problems) - SHOWN} more")
        return "\n".join(lines)


def arguments() -> argparse.ArgumentParser:
    config = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("t4s check", description=__doc__, formatter_class=config)
    add = parser.add_argument
    add(
        "data",
        metavar="DATA",
        help="a .jsonl file, a folder with an index.jsonl, or NAME[:PATH][@SPLIT] as in train.py",
    )
    add("--split", help='the split to look at (default: all lines; "train" for data sets with fixed splits)')
    add("--limit", type=int, metavar="N", help="only the first N photos")
    add("--sheet", type=Path, default=Path(SHEET), metavar="FILE", help=f"the picture sheet, a PNG (default: {SHEET})")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    from t4s.errors import DataError, T4SError

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
    """Look at everything, print the report and write the sheet. Returns the exit code."""
    total, photos, problems = look(data, split)
    total = min(total, limit or total)
    report = Report(problems=problems)
    shown = {round(k * (total - 1) / max(min(TILES, total) - 1, 1)) for k in range(min(TILES, total))}
    tiles = []
    for number, seen in zip(range(total), photos, strict=False):
        report.add(seen)
        if number in shown and seen[0]:
            tiles.append(_tile(seen[0]))
        if number % 1000 == 999:
            print(f"{number + 1} of {total} photos", file=sys.stderr)
    print(report)
    if tiles:
        _write(tiles, sheet, f"{data}: {report.photos} photos, {len(report.problems)} problems")
    return 1 if report.problems else 0


def look(data: str, split: str | None) -> tuple[int, Iterator[Seen], list[str]]:
    """The number of photos, each photo (opened as it is asked for), and what is wrong with the index itself."""
    from t4s.data.folder import INDEX, FolderDataset
    from t4s.data.spec import DatasetSpec, open_dataset
    from t4s.errors import DataError

    if Path(data).is_file():
        spec = DatasetSpec("jsonl", data)
    elif (Path(data) / INDEX).is_file():
        spec = DatasetSpec("folder", data)
    elif Path(data).is_dir():
        raise DataError(f"The folder {data!r} holds no {INDEX}; name a .jsonl file, or a folder that has one.")
    else:
        spec = DatasetSpec.parse(data)
    split = split or spec.split or ("all" if spec.name in ("jsonl", "folder") else "train")
    if spec.name == "jsonl":
        return _lines(Path(spec.path), split)
    faults: list[DataError] = []
    if spec.name == "folder":
        dataset = FolderDataset(spec.path, split, faults)
    else:
        dataset = open_dataset(DatasetSpec(spec.name, spec.path, split))
    return len(dataset), (_photo(dataset, index) for index in range(len(dataset))), [str(fault) for fault in faults]


def _photo(dataset, index: int) -> Seen:
    from t4s.errors import DataError, ImageError

    try:
        return list(dataset[index]), []
    except (DataError, ImageError) as error:
        return [], [str(error)]


def _lines(path: Path, split: str) -> tuple[int, Iterator[Seen], list[str]]:
    """A jsonl file, past its faulty lines."""
    from t4s.data.jsonl import ALL, read
    from t4s.errors import DataError

    problems: list[str] = []
    asked: dict[tuple[Path, str], Line] = {}
    photos: dict[Path, list[Line]] = {}
    for line in read(path):
        if isinstance(line, DataError):
            problems.append(str(line))
            continue
        first = asked.setdefault((line.image.resolve(), line.query), line)
        if first is not line:
            problems.append(
                f'{line.place} asks "{line.query}" of its photo, as line {first.number} does; leave one out.'
            )
        photos.setdefault(line.image.resolve(), []).append(line)
    for image, lines in photos.items():
        splits = sorted({line.split for line in lines if line.split})
        if len(splits) > 1:
            problems.append(f"{path}: {image.name} is in the splits {' and '.join(splits)}; a photo belongs to one.")
    chosen = [[line for line in lines if split == ALL or line.split in (None, split)] for lines in photos.values()]
    chosen = [lines for lines in chosen if lines]
    if not chosen and not problems:
        raise DataError(f"{path} has no line of the split {split!r}; name another one with --split.")
    return len(chosen), map(_samples, chosen), problems


def _samples(lines: list[Line]) -> Seen:
    from t4s.errors import DataError

    samples, problems = [], []
    try:
        image = lines[0].photo()
    except DataError as error:
        return [], [str(error)]
    for line in lines:
        try:
            samples.append(line.sample(image, Path(line.place).stem))
        except DataError as error:
            problems.append(str(error))
    return samples, problems


def _tile(samples: list[Sample]) -> tuple[str, Image.Image]:
    """One question of a photo, if possible one whose target is there: (caption, picture)."""
    from t4s.imaging.drawing import overlay

    sample = next((sample for sample in samples if not sample.absent), samples[0])
    masks = {label: sample.class_map == number for number, label in enumerate(sample.labels) if number}
    picture = overlay(sample.image, masks)
    picture.thumbnail((256, 192))
    query = sample.query if isinstance(sample.query, str) else ", ".join(sample.query)
    return (f"absent: {query}" if sample.absent else query), picture


def _write(tiles: list[tuple[str, Image.Image]], file: Path, title: str) -> None:
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
