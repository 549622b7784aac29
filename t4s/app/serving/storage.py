"""The folder of uploads and answers, kept below `limits.MAX_STORED` bytes: the files longest unchanged go first.

Gradio removes the files that it knows of after some hours, whatever they amount to by then; of uploads that broke off,
and of files under another name than the one it asks for, it knows nothing.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from gradio.utils import get_upload_folder

from t4s.errors import T4SError
from t4s.limits import MAX_STORED, MAX_UPLOAD_SECONDS

STEP = 10_000_000  # bytes that are asked for at a time, by an upload under way and for an answer's pictures
SMALLEST = 100_000  # bytes that each file counts at least, so that their number is bounded too
EMPTY_SECONDS = 60  # an empty folder is left for its file to come


class StorageFull(T4SError):
    """So much is arriving at the same time that there is no room for more."""


class _File(NamedTuple):
    """`changed`: when it was last written or renamed, in seconds since the epoch; `size` in bytes, as it counts."""

    changed: float
    size: int
    path: str


class Storage:
    """Counts what arrives, and looks through the folder when that might be too much.

    kept  the paths of files that stay, asked for when others go
    most  bytes that there may be
    """

    def __init__(self, kept: Callable[[], Collection[str]] = frozenset, most: int = MAX_STORED):
        self._kept, self._most, self._lock = kept, most, threading.Lock()
        self._room = 0  # bytes that may come before the folder is looked through again

    def take(self, size: int = STEP) -> None:
        """Makes room for what is written next. Raises StorageFull if there is none."""
        if not self.note(size):
            raise StorageFull("So many files are arriving that there is no room for more; try again in some minutes.")

    def note(self, size: int = STEP) -> bool:
        """The same for what is written anyway: False if there is no room."""
        with self._lock:
            if size > self._room:
                self._room = self._most - self._clear()
            enough = size <= self._room
            self._room -= size if enough else 0
            return enough

    def _clear(self) -> int:
        """Returns the bytes that there are, after removing files if they are near the limit.

        A quarter of the room is free then, so that this is seldom done. Files of uploads under way stay.
        """
        folder, now = get_upload_folder(), time.time()
        files = sorted(_files(folder, now))
        total, kept = sum(file.size for file in files), self._kept()
        for file in files:
            if total <= self._most * 3 // 4:
                break
            arriving = os.path.dirname(file.path) == folder and now - file.changed < MAX_UPLOAD_SECONDS
            if not arriving and file.path not in kept:
                Path(file.path).unlink(missing_ok=True)
                total -= file.size
        return total


def _files(folder: str, now: float) -> Iterator[_File]:
    """Every file below `folder`; folders that have been empty for a while are removed."""
    for place, folders, names in os.walk(folder, topdown=False):
        for name in names:
            path = os.path.join(place, name)
            with suppress(FileNotFoundError):  # it went in between
                facts = os.lstat(path)
                yield _File(facts.st_ctime, max(facts.st_size, SMALLEST), path)
        if not names and not folders and place != folder:
            with suppress(OSError):  # its file came in between
                if now - os.lstat(place).st_ctime > EMPTY_SECONDS:
                    os.rmdir(place)
