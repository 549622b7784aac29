"""What a long run has done so far, on disk after every step, so that it can be stopped at any moment.

    journal = RunLog(folder, settings, rank=0)     # DataError if the folder holds a run with other settings
    journal.append(7, {"id": …})                    # step 7 is done
    journal.done()                                  # {7}, from the files of all ranks

Each process appends JSON lines to a file of its own. A line that a killed process left half written counts as
not written, and is cut off when that file is opened again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from t4s.errors import DataError

SETTINGS = "settings.json"


class RunLog:
    """One process's hand on the run in `folder`; steps are numbers, each done once by whichever process has it."""

    def __init__(self, folder: Path, settings: dict[str, Any], rank: int = 0):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._agree(settings, rank)
        self._file = folder / f"records-{rank}.jsonl"
        self._extra = folder / f"extras-{rank}.jsonl"
        for file in (self._file, self._extra):
            _cut_torn_line(file)

    def _agree(self, settings: dict[str, Any], rank: int) -> None:
        """The first process writes the settings down; any process refuses a folder with other ones."""
        path = self.folder / SETTINGS
        if path.is_file():
            try:
                old = json.loads(path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise DataError(f"{path} is damaged ({error.msg}); delete {self.folder} and start anew.") from error
            new = json.loads(json.dumps(settings))
            differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
            if differing:
                what = "; ".join(f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in differing)
                raise DataError(
                    f"{self.folder} holds a run with other settings: {what}. Name another folder with "
                    "--out, or delete that one."
                )
        elif rank == 0:
            write_whole(path, json.dumps(settings, indent=1))

    def append(self, step: int, record: Any, extra: Any = None) -> None:
        """Write a step down. `extra` goes to a file of its own, before the record."""
        for file, content in ((self._extra, extra), (self._file, record)):
            if content is not None:
                with file.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps([step, content], ensure_ascii=False) + "\n")

    def done(self, extras: bool = False) -> set[int]:
        """The steps that have a record, whoever wrote it; with `extras`, those that have both."""
        steps = {step for step, _ in self._read("records-*.jsonl")}
        return steps & {step for step, _ in self._read("extras-*.jsonl")} if extras else steps

    def records(self, steps: Iterable[int]) -> list[Any]:
        """The records of these steps, in this order. DataError if one is missing."""
        return self._in_order("records-*.jsonl", steps)

    def extras(self, steps: Iterable[int]) -> list[Any]:
        """As `records`, of what was given as `extra`."""
        return self._in_order("extras-*.jsonl", steps)

    def _in_order(self, pattern: str, steps: Iterable[int]) -> list[Any]:
        found: dict[int, Any] = {}
        for step, content in self._read(pattern):
            found.setdefault(step, content)
        steps = list(steps)
        missing = [step for step in steps if step not in found]
        if missing:
            raise DataError(
                f"{self.folder} lacks {len(missing)} steps, the first is {missing[0]}; a process ended "
                "early: give the same command again."
            )
        return [found[step] for step in steps]

    def _read(self, pattern: str) -> Iterator[tuple[int, Any]]:
        for file in sorted(self.folder.glob(pattern)):
            with file.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    if not line.endswith(b"\n"):
                        break  # torn, or another process is writing it
                    try:
                        step, content = json.loads(line)
                    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
                        raise DataError(
                            f"{file}, line {number} is damaged; delete that line, and its step is done again."
                        ) from error
                    yield step, content


def _cut_torn_line(file: Path) -> None:
    if file.is_file() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


def write_whole(path: Path, text: str) -> None:
    """A file that is there in full or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)
