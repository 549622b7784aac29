"""What may be asked: phrases and class lists, checked and cleaned before anything runs. Knows no models."""

from __future__ import annotations

from collections.abc import Sequence

from t4s import codec
from t4s.errors import QueryError
from t4s.limits import MAX_QUERY


def check_query(query: str | Sequence[str]) -> tuple[str | tuple[str, ...], tuple[str, ...]]:
    """A phrase or class names → (what is asked, labels with "others" first). Raises QueryError."""
    names = [query] if isinstance(query, str) else list(query)
    if not names:
        raise QueryError("The class list is empty: give at least one name.")
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name.strip()) <= MAX_QUERY:
            given = f"{len(name.strip())} characters" if isinstance(name, str) else type(name).__name__
            raise QueryError(f"A phrase has 1 to {MAX_QUERY} characters; this one has {given}.")
    labels = [codec.clean_label(name) for name in names]
    if len(set(labels)) < len(labels):
        twice = sorted({label for label in labels if labels.count(label) > 1})
        raise QueryError(f"The class list names {', '.join(map(repr, twice))} more than once: give each name once.")
    return (labels[0] if isinstance(query, str) else tuple(labels)), ("others", *labels)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """A class list → its names, cleaned. Raises QueryError, for a lone string too: its letters are no names."""
    if isinstance(names, str):
        raise QueryError(f"The class list is the string {names!r}: give a list of names, [{names!r}].")
    asked, _ = check_query(tuple(names))
    return tuple(asked)
