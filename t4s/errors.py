"""Everything that can go wrong, as one tree.

    T4SError
    ├── CodecError        text that is not a grid, a grid that is not valid (.row, .column, .reason)
    ├── ImageError        a photo that cannot be read or is beyond the limits
    ├── QueryError        a phrase, a class list or an option that cannot be asked
    ├── CheckpointError   a model, adapter or refiner that is missing, foreign or does not fit
    └── DataError         a dataset that is missing, broken or empty

Every message is a sentence that says what was given, what is allowed and what to do.
"""

from __future__ import annotations


class T4SError(Exception):
    """The root: catch this to catch every error that t4s raises on purpose."""


class CodecError(T4SError, ValueError):
    """Text that is not a valid grid, or a grid that cannot be written as text.

    `row` and `column` count from 0 in cells and are None where no place can be named;
    `reason` says what is wrong without the place.
    """

    def __init__(self, reason: str, row: int | None = None, column: int | None = None):
        self.reason, self.row, self.column = reason, row, column
        place = ", ".join(f"{name} {at}" for name, at in (("row", row), ("column", column)) if at is not None)
        super().__init__(f"{place}: {reason}" if place else reason)

    def __reduce__(self):
        return type(self), (self.reason, self.row, self.column)


class ImageError(T4SError, ValueError):
    """A photo that cannot be read, or that is beyond the limits."""


class QueryError(T4SError, ValueError):
    """A phrase, a class list or an option that cannot be asked."""


class CheckpointError(T4SError):
    """A model, adapter, refiner or optional package that is missing, foreign or does not fit."""


class DataError(T4SError, ValueError):
    """A dataset that is missing, broken or empty."""
