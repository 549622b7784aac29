"""Which lines of a file are for training and which for validation, for data sets whose lines name their split.

- As soon as any line names a split, a line without one belongs to "train".
- Where no line does, all lines are used, unless the file is both trained and validated on (or a split is asked for by
  name): then a share of the photos, chosen by their names, is held out as "val", and the rest is "train".
- The split "all" has every line. No photo is ever on both sides of the held-out share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from t4s.data.reading.names import probable_name
from t4s.errors import DataError

ALL = "all"
TRAIN = "train"
VAL = "val"
SPLITS = (TRAIN, VAL, "test")
HELD_OUT = 0.1  # share of the photos
_OTHER_WORDS = {"valid": VAL, "validation": VAL, "dev": VAL, "eval": VAL, "training": TRAIN, "testing": "test"}


class SplitLine(Protocol):
    """A line about one photo. `image` is hashable; `split` is None where the line names none."""

    image: Any
    split: str | None


LineT = TypeVar("LineT", bound=SplitLine)


def photos_of(
    path: Path, lines: Iterable[LineT], split: str, hold_out: bool
) -> tuple[list[tuple[LineT, ...]], list[str]]:
    """The lines of one split, those about one photo together in the order of the file; and what the user should know.

    hold_out  whether a file without splits is divided; otherwise all its lines are used

    Raises DataError if no line belongs to the split.
    """
    photos = by_photo(lines)
    named = {line.split for same in photos for line in same if line.split}
    notes: list[str] = []
    if split == ALL:
        chosen = photos
    elif named:
        chosen, notes = _named_split(path, photos, split)
    elif hold_out and photos:
        chosen, notes = _held_out_split(path, photos, split)
    else:
        chosen = photos
        if split != TRAIN:
            notes = [
                f"No line of {path} names a split: all {len(photos)} photos are used, also those that a checkpoint may "
                'have been trained on. Write "split" into its lines to keep them apart.'
            ]
    if not chosen:
        found = f"its lines are of {', '.join(sorted(named | {TRAIN}))}" if named else "it has no lines"
        raise DataError(f"{path} has no line of the split {split!r}; {found}.")
    return chosen, notes


def _named_split(
    path: Path, photos: Sequence[tuple[LineT, ...]], split: str
) -> tuple[list[tuple[LineT, ...]], list[str]]:
    chosen = [tuple(line for line in same if (line.split or TRAIN) == split) for same in photos]
    both = [same[0] for same in photos if len({line.split or TRAIN for line in same}) > 1]
    notes = [f"{path}: {len(both)} photos are in several splits, the first of them {_name(both[0])}."] if both else []
    return [same for same in chosen if same], notes


def _held_out_split(
    path: Path, photos: Sequence[tuple[LineT, ...]], split: str
) -> tuple[list[tuple[LineT, ...]], list[str]]:
    held = held_out(photos)
    if split not in (TRAIN, VAL) or not held:
        raise DataError(
            f"No line of {path} names a split, and {_why_not(split)}; write a split into its lines, or use @all."
        )
    chosen = [same for number, same in enumerate(photos) if (number in held) == (split == VAL)]
    note = (
        f'No line of {path} names a split: {len(held)} of its {len(photos)} photos are held out as "val" and not '
        'trained on. Write "split" into its lines to choose them, or use @all for all photos.'
    )
    return chosen, [note]


def by_photo(lines: Iterable[LineT]) -> list[tuple[LineT, ...]]:
    """Lines about one photo together, in the order in which the file first names the photos."""
    photos: dict[Any, list[LineT]] = {}
    for line in lines:
        photos.setdefault(_identity(line.image), []).append(line)
    return [tuple(same) for same in photos.values()]


def held_out(photos: Sequence[Sequence[SplitLine]]) -> set[int]:
    """The numbers of the photos that are held out: those whose names hash below HELD_OUT, at least one.

    A photo stays on its side when others are added. Empty if there is only one photo.
    """
    if len(photos) < 2:
        return set()
    ranks = [_rank(same[0]) for same in photos]
    held = {number for number, rank in enumerate(ranks) if rank < HELD_OUT}
    if not held or len(held) == len(photos):
        return {ranks.index(min(ranks))}
    return held


def split_faults(photos: Iterable[Sequence[Any]], wanted: str) -> list[str]:
    """For `t4s check`: photos in several splits, and splits that nothing reads."""
    faults = []
    places: dict[str, list[str]] = {}
    for same in photos:
        splits = sorted({line.split for line in same if line.split})
        if len(splits) > 1:
            faults.append(
                f"{_name(same[0])} is in the splits {' and '.join(splits)}, as {same[0].place} and others say; a photo "
                "belongs to one."
            )
        for line in same:
            if line.split and line.split not in (*SPLITS, wanted):
                places.setdefault(line.split, []).append(line.place)
    for split, where in places.items():
        meant = _OTHER_WORDS.get(split.casefold()) or probable_name(split, SPLITS)
        hint = f'probably "{meant}" was meant' if meant else f"the splits are {', '.join(SPLITS)}"
        faults.append(f'{where[0]} has the split "{split}" ({len(where)} lines in all), which nothing reads; {hint}.')
    return faults


def _why_not(split: str) -> str:
    if split in (TRAIN, VAL):
        return "of its only photo nothing can be held out"
    return f'only "train" and "val" can be made from it, not {split!r}'


def _identity(image: Any) -> Any:
    """What two names of one photo have in common: the file that they lead to."""
    return image.resolve() if isinstance(image, Path) else image


def _rank(line: SplitLine) -> float:
    """A number in [0, 1) that depends on nothing but the photo's folder and name."""
    name = "/".join(Path(line.image).parts[-2:]) if isinstance(line.image, Path) else repr(line.image)
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6], "big") / 2**48


def _name(line: Any) -> str:
    return line.image.name if isinstance(line.image, Path) else "The photo"
