"""What a label may be; the package docstring has the rules. Strings only."""

from __future__ import annotations

import re
from functools import lru_cache

from t4s.errors import QueryError
from t4s.limits import MAX_QUERY

OTHERS = "others"

_FORBIDDEN = re.compile(r"[|*<>\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clean_label(text: str) -> str:
    """`text` as a label: forbidden characters become spaces, runs of whitespace become one space.

    Raises QueryError if nothing is left, or if what is left is the reserved word `others`.
    """
    label = tidy(text)
    if not label:
        raise QueryError(f"The label {short(text)} is empty without | * < > and whitespace; give it a name.")
    if label.casefold() == OTHERS:
        raise QueryError('The label "others" is reserved for the background; call the target something else.')
    return label


def tidy(text: str) -> str:
    """`text` with forbidden characters and runs of whitespace replaced by single spaces; may be empty."""
    return " ".join(_FORBIDDEN.sub(" ", text).split())


def is_clean(label: str) -> bool:
    """True if `clean_label` would return `label` unchanged."""
    return _is_clean_cached(label) if len(label) <= MAX_QUERY else _is_clean(label)


def _is_clean(label: str) -> bool:
    return bool(label) and tidy(label) == label and label.casefold() != OTHERS


_is_clean_cached = lru_cache(maxsize=4096)(_is_clean)  # for labels of ordinary length: long ones would fill the memory


def short(text: str, limit: int = 40) -> str:
    """`text` quoted for a message, at most `limit` characters of it."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
