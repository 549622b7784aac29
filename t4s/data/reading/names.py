"""Names that would be taught wrongly, or stop training at a late sample: found when the data is opened."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from t4s import lexicon
from t4s.codec import clean_label
from t4s.errors import QueryError
from t4s.limits import MAX_QUERY

# Field names of other tools, and what they are called here.
_ALIASES = {
    "image": ("file", "file_name", "filename", "image_path", "img", "path", "photo"),
    "query": ("caption", "expression", "label", "phrase", "prompt", "sentence", "text"),
    "mask": ("annotation", "mask_path", "masks", "rle", "segmentation"),
    "split": ("fold", "set", "subset"),
    "box": ("bbox",),
}
ALIASES = {alias: name for name, aliases in _ALIASES.items() for alias in aliases}


def class_name(text: Any) -> str:
    """A class name as it is asked: one line, no underscores, no character that the text format reserves.

    Raises QueryError if it is no text, empty, "others" in any case, or too long.
    """
    if not isinstance(text, str):
        raise QueryError(f"It is {short(text)}; a name is a text.")
    name = clean_label(lexicon.clean_name(text))
    if len(name) > MAX_QUERY:
        raise QueryError(f"It has {len(name)} characters; at most {MAX_QUERY} can be asked.")
    return name


def name_faults(names: Iterable[tuple[Any, str]]) -> list[str]:
    """What is wrong with names that differ only in case, given as (id, clean name): "Cup" and "cup" are one class."""
    spelled: dict[str, dict[str, Any]] = {}
    for number, name in names:
        spelled.setdefault(name.casefold(), {}).setdefault(name, number)
    faults = []
    for same in spelled.values():
        if len(same) > 1:
            listed = " and ".join(f'{number} ("{name}")' for name, number in same.items())
            faults.append(f"The names of {listed} differ only in case; write them alike.")
    return faults


def misspelt_fields(row: Mapping[str, Any], known: Collection[str]) -> list[tuple[str, str]]:
    """(field, the known field that was probably meant) for the unknown fields of a row that look like a missing one."""
    missing = [field for field in known if field not in row]
    found = []
    for field in row:
        if field in known:
            continue
        probable = probable_name(field, missing)
        if probable:
            found.append((field, probable))
    return found


def probable_name(word: str, known: Collection[str]) -> str | None:
    """The known name that `word` probably means: another tool's name for it, or a near spelling."""
    folded = word.strip().casefold().replace("-", "_")
    if ALIASES.get(folded) in known:
        return ALIASES[folded]
    close = difflib.get_close_matches(folded, list(known), n=1, cutoff=0.7)
    return close[0] if close else None


def short(value: Any, limit: int = 60) -> str:
    """A JSON value for a message, at most `limit` characters of it."""
    if value is None:
        return "missing"
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else text[:limit] + "…"
