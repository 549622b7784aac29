"""Text files: UTF-8 with or without a byte-order mark; lines end at a line feed and nowhere else.

Everything else is a DataError that names the encoding, the line and the fix. `str.splitlines` is not used: it also
splits at U+2028, U+0085 and other characters that may be part of a phrase.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t4s.errors import DataError

# Longer marks first: UTF-32's begins like UTF-16's.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_SAMPLE = 4096  # bytes that are searched for the zero bytes of UTF-16


def read_text(path: Path) -> str:
    """The whole file as text, without a byte-order mark. Raises DataError if it is missing or not UTF-8."""
    return "\n".join(_raise_fault(text) for _, text in _decoded_lines(path))


def read_lines(path: Path) -> Iterator[tuple[int, str | DataError]]:
    """(line number, text) of every line that is not blank; a DataError in place of text that is not UTF-8.

    Raises DataError if the file is missing or has another encoding throughout.
    """
    for number, text in _decoded_lines(path):
        if isinstance(text, DataError) or text.strip():
            yield number, text


def read_json(path: Path, advice: str) -> Any:
    """The value in a JSON file; `advice` is the last sentence of error messages. Raises DataError."""
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path} is not whole JSON ({error.msg} at line {error.lineno}, character {error.colno}); it is cut off or "
            f"damaged. {advice}"
        ) from error
    except RecursionError as error:
        raise DataError(f"{path} is nested too deeply to be read. {advice}") from error


def read_json_lines(path: Path, example: str) -> Iterator[tuple[str, int, Any]]:
    """(place, line number, value) of every line that is not blank; a DataError in place of a value that is not JSON.

    `example` shows in error messages what a line should look like. Raises DataError if the file cannot be read at all.
    """
    for number, text in read_lines(path):
        place = f"{path}, line {number}"
        if isinstance(text, DataError):
            yield place, number, text
            continue
        try:
            value = json.loads(text)
        except json.JSONDecodeError as error:
            value = DataError(
                f"{place} is not a JSON object ({error.msg} at character {error.pos + 1}); "
                f"write one object a line, such as {example}."
            )
        except RecursionError:
            value = DataError(f"{place} is nested too deeply to be read; write one flat object a line.")
        yield place, number, value


def _decoded_lines(path: Path) -> Iterator[tuple[int, str | DataError]]:
    try:
        with path.open("rb") as file:
            start = file.read(_SAMPLE)
            _refuse_other_encodings(path, start)
            file.seek(len(codecs.BOM_UTF8) if start.startswith(codecs.BOM_UTF8) else 0)
            for number, raw in enumerate(file, 1):  # a binary file: its lines end at b"\n" alone
                try:
                    yield number, raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
                except UnicodeDecodeError as error:
                    yield number, _not_utf8(path, number, raw, error.start)
    except OSError as error:
        raise DataError(f"{path} is not there or cannot be read ({error.strerror}); check the path.") from error


def _refuse_other_encodings(path: Path, start: bytes) -> None:
    encoding = next((name for mark, name in _MARKS if start.startswith(mark)), None)
    if encoding is None and b"\0" in start:
        encoding = "UTF-16"
    if encoding:
        raise DataError(
            f"{path}, line 1 is not UTF-8 but {encoding}; save the file as UTF-8, for example with: "
            f"iconv -f {encoding} -t UTF-8 {path.name} > new{path.suffix}"
        )


def _not_utf8(path: Path, number: int, line: bytes, bad: int) -> DataError:
    """Almost always Windows-1252 or its subset Latin-1: show what it would read as."""
    guess = line[max(bad - 15, 0) : bad + 15].decode("cp1252", errors="replace").strip()
    return DataError(
        f'{path}, line {number} is not UTF-8 at byte {bad + 1}; it looks like Windows-1252 or Latin-1 ("{guess}"). '
        f"Save the file as UTF-8, for example with: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > new{path.suffix}"
    )


def _raise_fault(text: str | DataError) -> str:
    if isinstance(text, DataError):
        raise text
    return text
