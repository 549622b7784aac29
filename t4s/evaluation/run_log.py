"""What a long run has done so far, on disk after every step, so that it can be stopped at any moment and resumed.

    log = RunLog(folder, settings, rank=0)          # DataError if the folder holds a run with other settings
    log.append(7, key, {"id": …})                   # step 7 is done
    log.entries()                                   # {7: Entry(revision=0, key=key)}, from the files of all ranks
    log.contents([7])                               # [{"id": …}]

Settings are what was asked for; a folder holds one run. A step's `key` says what its result depends on besides: the
weights, the code, the data. A step that was done under another key is stale: whoever does it again appends it anew, and
the latest revision counts.

Each process appends JSON lines to a file of its own, `records-RANK.jsonl`: {"step", "revision", "key", "content"}. A
line that a killed process left half written counts as not written, and is cut off when that file is opened again.
Version 2 of the format; lines of version 1, [step, content], have no key, and so are stale.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import t4s
from t4s.data.vqa import Question
from t4s.errors import DataError
from t4s.records import Sample

SETTINGS = "settings.json"
VERSION = 2
# Sources whose change can change an answer or its score.
DECISIVE = (
    "codec", "decoding", "imaging", "models", "refine", "data", "segmenter", "records.py", "lexicon.py", "prompts.py",
    "evaluation/metrics.py", "evaluation/predictors.py", "evaluation/scoring.py",
)  # fmt: skip
Key = dict[str, str]  # {what the result depends on: a digest of it}


@dataclass(frozen=True)
class Entry:
    """The latest revision of one step, and what its result depends on."""

    revision: int
    key: Key


class RunLog:
    """One process's part of the run in `folder`; steps are numbers."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], rank: int = 0):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._agree(settings, rank)
        self._file = folder / f"records-{rank}.jsonl"
        self._extra = folder / f"extras-{rank}.jsonl"
        for file in (self._file, self._extra):
            _cut_torn_line(file)

    def _agree(self, settings: Mapping[str, Any], rank: int) -> None:
        """The first process writes the settings down; any process refuses a folder with other ones."""
        path = self.folder / SETTINGS
        new = json.loads(json.dumps({"format_version": VERSION, **settings}))
        old = new
        if path.is_file():
            try:
                old = json.loads(path.read_text(encoding="utf-8"))
            except json.JSONDecodeError as error:
                raise DataError(f"{path} is damaged ({error.msg}); delete {self.folder} and start anew.") from error
        if old.get("format_version") == VERSION:
            differing = [key for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
            if differing:
                changes = "; ".join(f"{key} was {old.get(key)!r} and is {new.get(key)!r}" for key in differing)
                raise DataError(
                    f"{self.folder} holds a run with other settings: {changes}. Name another folder with "
                    "--out, or delete that one."
                )
        if rank == 0:
            write_atomically(path, json.dumps(new, indent=1))

    def append(self, step: int, key: Key, content: Any, extra: Any = None, revision: int = 0) -> None:
        """Write a step down. `extra` goes to a file of its own, before the content."""
        for file, part in ((self._extra, extra), (self._file, content)):
            if part is not None:
                line = {"step": step, "revision": revision, "key": key, "content": part}
                with file.open("a", encoding="utf-8", newline="\n") as stream:
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")

    def entries(self, extras: bool = False) -> dict[int, Entry]:
        """The latest entry of each step, whoever wrote it; with `extras`, of the steps whose extra is there as well."""
        latest = {step: entry for step, (entry, _) in self._latest("records-*.jsonl").items()}
        if not extras:
            return latest
        extra = {step: entry for step, (entry, _) in self._latest("extras-*.jsonl").items()}
        return {step: entry for step, entry in latest.items() if extra.get(step) == entry}

    def contents(self, steps: Iterable[int]) -> list[Any]:
        """The latest contents of these steps, in this order. DataError if one is missing."""
        return self._in_order("records-*.jsonl", steps)

    def extras(self, steps: Iterable[int]) -> list[Any]:
        """As `contents`, of what was given as `extra`."""
        return self._in_order("extras-*.jsonl", steps)

    def _in_order(self, pattern: str, steps: Iterable[int]) -> list[Any]:
        latest = self._latest(pattern)
        wanted = list(steps)
        missing = [step for step in wanted if step not in latest]
        if missing:
            raise DataError(
                f"{self.folder} lacks {len(missing)} steps, the first is {missing[0]}; a process ended "
                "early: give the same command again."
            )
        return [latest[step][1] for step in wanted]

    def _latest(self, pattern: str) -> dict[int, tuple[Entry, Any]]:
        latest: dict[int, tuple[Entry, Any]] = {}
        for step, entry, content in self._read(pattern):
            if step not in latest or entry.revision > latest[step][0].revision:
                latest[step] = entry, content
        return latest

    def _read(self, pattern: str) -> Iterator[tuple[int, Entry, Any]]:
        for file in sorted(self.folder.glob(pattern)):
            with file.open("rb") as stream:
                for number, line in enumerate(stream, 1):
                    if not line.endswith(b"\n"):
                        break  # torn, or another process is writing it
                    try:
                        yield _parse(line)
                    except (UnicodeDecodeError, TypeError, ValueError, KeyError) as error:
                        raise DataError(
                            f"{file}, line {number} is damaged; delete that line, and its step is done again."
                        ) from error


def _parse(line: bytes) -> tuple[int, Entry, Any]:
    row = json.loads(line)
    if isinstance(row, list):  # version 1
        step, content = row
        return step, Entry(0, {}), content
    return row["step"], Entry(row["revision"], row["key"]), row["content"]


def _cut_torn_line(file: Path) -> None:
    if file.is_file() and (content := file.read_bytes()) and not content.endswith(b"\n"):
        with file.open("r+b") as stream:
            stream.truncate(content.rfind(b"\n") + 1)


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is there in full or not at all."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8", newline="\n")
    part.replace(path)


# --- what a result depends on


@cache
def code_version() -> str:
    """A digest of the sources that decide answers and scores."""
    package = Path(t4s.__file__).parent
    digest = hashlib.sha256(t4s.__version__.encode())
    for name in DECISIVE:
        place = package / name
        for file in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(f"{file.relative_to(package).as_posix()} ".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def data_digest(samples: Sequence[Sample] | Sequence[Question]) -> str:
    """Changes when a photo's pixels, queries or true answers do."""
    digest = hashlib.sha256()
    image = None
    for sample in samples:
        if sample.image is not image:
            image = sample.image
            digest.update(f"{image.mode} {image.size} ".encode() + image.tobytes())
        if isinstance(sample, Question):
            digest.update(repr((sample.id, sample.question, sample.answers)).encode())
        else:
            digest.update(repr((sample.id, sample.source, sample.query, sample.labels, sample.box)).encode())
            digest.update(sample.class_map.tobytes())
    return digest.hexdigest()[:16]


def digest_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def files_state(path: str) -> str:
    """Names, sizes and times of a file, or of all files below a folder; "" if there is neither."""
    root = Path(path) if path else None
    if root is None or not root.exists():
        return ""
    files = [root] if root.is_file() else sorted(file for file in root.rglob("*") if file.is_file())
    facts = [(file.relative_to(root).as_posix(), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return digest_of(json.dumps(facts))
