"""What a label is (`codec` has the specification). Knows strings only."""

from __future__ import annotations

import re
from functools import lru_cache

from t4s.errors import QueryError

OTHERS = "others"

_FORBIDDEN = re.compile(r"[|*<>\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clean_label(text: str) -> str:
    """`text` as a label: forbidden characters become spaces, runs of blanks become one space.

    Raises QueryError if nothing is left, or if what is left is the reserved word `others`.
    """
    label = tidy(text)
    if not label:
        raise QueryError(f"The label {short(text)} is empty once | * < > and blanks are taken out; give it a name.")
    if label.casefold() == OTHERS:
        raise QueryError('The label "others" is reserved for the background; call the target something else.')
    return label


def tidy(text: str) -> str:
    return " ".join(_FORBIDDEN.sub(" ", text).split())


@lru_cache(maxsize=4096)
def is_clean(label: str) -> bool:
    return bool(label) and tidy(label) == label and label.casefold() != OTHERS


def short(text: str, limit: int = 40) -> str:
    """`text` quoted for a message, never longer than a glance."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")
