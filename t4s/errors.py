"""Everything that can go wrong, as one tree.

    T4SError
    ├── CodecError        text that is not a grid, a grid that is not valid (.row, .column, .reason)
    ├── ImageError        an image that cannot be read or exceeds a limit
    ├── QueryError        a phrase, a class list or an option that is not allowed
    ├── CheckpointError   a model, adapter or refiner that is missing, invalid or does not match
    ├── DataError         a data set that is missing, broken or empty
    └── EndpointError     a server that refuses, fails or falls silent (.concerns)

Every message is a sentence that says what was given, what is allowed and what to do. So that a command can print it,
with the names in it, it first calls `use_utf8`.
"""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import Literal

Concern = Literal["photo", "moment", "server"]


class T4SError(Exception):
    """The root: catch this to catch every error that t4s raises on purpose."""


class CodecError(T4SError, ValueError):
    """Text that is not a valid grid, or a grid that cannot be written as text.

    `row` and `column` count cells from 0 and are None if the error has no position; `reason` is the
    message without the position.
    """

    def __init__(self, reason: str, row: int | None = None, column: int | None = None):
        self.reason = reason
        self.row = row
        self.column = column
        position = ", ".join(f"{name} {at}" for name, at in (("row", row), ("column", column)) if at is not None)
        super().__init__(f"{position}: {reason}" if position else reason)

    def __reduce__(self) -> tuple[type[CodecError], tuple[str, int | None, int | None]]:
        return type(self), (self.reason, self.row, self.column)


class ImageError(T4SError, ValueError):
    """An image that cannot be read, or that exceeds a limit."""


class QueryError(T4SError, ValueError):
    """A phrase, a class list or an option that is not allowed."""


class CheckpointError(T4SError):
    """A model, adapter, refiner or optional package that is missing, invalid or does not match."""


class DataError(T4SError, ValueError):
    """A data set that is missing, broken or empty."""


class EndpointError(T4SError):
    """A server gave no answer.

    `concerns` says what would be the same again: "photo" (this photo and question, whenever they are sent), "moment"
    (nothing: it was overloaded or broke off, however often it was tried) or "server" (every photo: a refused key, an
    unknown model, no images).
    """

    def __init__(self, message: str, concerns: Concern = "moment"):
        self.concerns: Concern = concerns
        super().__init__(message)

    def __reduce__(self) -> tuple[type[EndpointError], tuple[str, Concern]]:
        return type(self), (str(self), self.concerns)


def use_utf8() -> None:
    """What a command prints is UTF-8 in files and pipes, whatever the locale says; on a terminal what it cannot show is
    written as \\u…."""
    for stream in (sys.stdout, sys.stderr):
        if not isinstance(stream, TextIOWrapper):  # someone else's
            continue
        if stream.isatty():
            stream.reconfigure(errors="backslashreplace")
        else:
            stream.reconfigure(encoding="utf-8")
