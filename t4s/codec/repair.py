"""Read text that is almost a grid, in linear time, and report every fault. Strings only."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from t4s.codec.grid import DescriptorGrid, check_shape
from t4s.codec.labels import OTHERS, short, tidy
from t4s.codec.rle import Run, decode, grid_from_runs
from t4s.errors import CodecError
from t4s.limits import MAX_QUERY, MAX_SIDE

_LINE_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_COUNT = re.compile(r"(?:\s*([+-]?)(\d+))?")

Note = Callable[[int, int, str], None]  # row, column, message


@dataclass(frozen=True)
class Fault:
    """One thing that was wrong with a text, where, and what `repair` did about it."""

    row: int
    column: int
    message: str


def repair(text: str, shape: tuple[int, int]) -> tuple[DescriptorGrid, tuple[Fault, ...]]:
    """The grid of `shape` (H, W) that `text`, in the `rows` layout, most plausibly means, and its faults.

    Accepts any str, in linear time. There are no faults exactly when `decode(text, shape)` accepts the
    text. Otherwise every repair is a `Fault` with its place in the grid:

    - Line r of the text is row r of the grid; a faulty row is repaired by itself and never moves the rows
      below. (Only in clear cases: blank lines are dropped if there are too many lines, and rows that ran
      together are split if that gives the right number of rows.) Missing rows become "others", extra
      rows are dropped.
    - A count that is missing, zero, not a number or wider than the row takes the cells that the other
      counts of its row leave. A row that is still short is filled up with "others", a long one is cut.
    - A label is cleaned; a missing label becomes "others". Words without a count are a label if their
      row has runs with one, or if the text has counted runs of that label; otherwise they are dropped.
    - If the text breaks off, every complete run is kept. A last label followed by "*" keeps one cell,
      whatever its count would have been; without "*" it may be half a label and is dropped.
    - `<seg>`, `</seg>` and everything around them are dropped.

    Raises CodecError if `shape` is not a shape.
    """
    check_shape(shape)
    try:
        return decode(text, shape), ()
    except CodecError:
        rows, faults = _repair_rows(text, *shape)
        return grid_from_runs(rows, shape), tuple(sorted(faults, key=lambda fault: (fault.row, fault.column)))


class _LooseRun(NamedTuple):
    """A run, however it was spelled."""

    label: str  # tidied; "others" where a "*" had none; empty for an empty run
    count: int | None  # None: missing, or not a number from 1
    starred: bool  # there was a "*", so a run was meant
    note: str = ""  # how it was read, if it was not spelled correctly


_EMPTY = _LooseRun("", None, False)


def _repair_rows(text: str, height: int, width: int) -> tuple[list[list[Run]], list[Fault]]:
    """`height` rows of runs, `width` cells each, and the faults in no particular order."""
    faults: list[Fault] = []

    def note(row: int, column: int, message: str) -> None:
        faults.append(Fault(min(row, height - 1), min(column, width - 1), message))

    lines, cut = _split_lines(text, height, note)
    loose = [_loose_runs(line, row) for row, line in enumerate(lines[:height])]
    if cut and len(lines) <= height:
        loose[-1] = _complete_runs(loose[-1])
    split = [part for runs in loose for part in _split_row(runs, width)]
    if len(loose) < len(split) == height:
        note(0, 0, f"rows ran together; missing line breaks were inserted ({len(split) - len(loose)})")
        loose = split
    known = {OTHERS, *(run.label for runs in loose for run in runs if run.count)}
    rows = [_fill_row(runs, row, width, known, note) for row, runs in enumerate(loose)]
    for row in range(len(rows), height):
        note(row, 0, 'the row was missing; it became "others"')
        rows.append([(OTHERS, width)])
    return rows, faults


def _split_lines(text: str, height: int, note: Note) -> tuple[list[str], bool]:
    """The rows of the text as they are, and whether the text breaks off within the last one."""
    body, closed = text, "</seg>" in text
    if "*" not in text.partition("<seg>")[0]:
        body = text.partition("<seg>")[2] or text
    body = body.partition("</seg>")[0].replace("<seg>", " ")
    if body != text:
        note(0, 0, "<seg>, </seg> and the text around them were dropped")
    lines = _LINE_BREAK.split(body)
    if len(lines) != body.count("\n") + 1 or "\r" in body:
        note(0, 0, "a nonstandard line break was read as a plain one")
    if ended := not lines[-1].strip():
        if lines.pop():
            note(height, MAX_SIDE, "whitespace after the end was dropped")
    else:
        note(len(lines) - 1, MAX_SIDE, "the line break at the end was missing; it was inserted")
    if len(lines) > height and not all(line.strip() for line in lines):
        note(0, 0, "blank lines were dropped")
        first = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
        lines = lines[min(first, len(lines) - height) :]  # at the start before anywhere else
        if len(lines) > height:
            lines = [line for line in lines if line.strip()]
    if len(lines) > height:
        note(height, 0, f"extra rows were dropped (rows: {len(lines) - height})")
    return lines, bool(lines) and not ended and not closed


def _loose_runs(line: str, row: int) -> list[_LooseRun]:
    """Everything in a line that can be read as a run, however it is spelled."""
    runs: list[_LooseRun] = []
    for i, piece in enumerate(line.split("|")):
        if not piece.strip():
            runs.append(_EMPTY)
            continue
        label, *tails = piece.split("*")
        found: list[_LooseRun] = []
        for j, tail in enumerate(tails):
            match = _COUNT.match(tail)
            sign, digits = match.groups()
            rest = tail[match.end() :]
            more = j + 1 < len(tails)
            if more and not rest.strip():
                continue  # a doubled star: the label waits for the next count
            found.append(_LooseRun(_run_label(label), _run_count(sign, digits), True))
            label = rest if more or (rest[:1].isspace() and any(map(str.isalnum, rest))) else ""
        if not tails or label.strip():
            found.append(_LooseRun(_run_label(label), None, False))
        read = "| ".join(run.label if run.count is None else f"{run.label} *{run.count}" for run in found)
        if piece != (" " if i or row else "") + read or found[-1].count is None:
            found[0] = found[0]._replace(note=f"{short(piece)} was read as {short(read)}")
        runs += found
    return runs


def _run_label(text: str) -> str:
    """`text` as a label; "others" if it has none."""
    label = tidy(text)
    return label if label and label.casefold() != OTHERS else OTHERS


def _run_count(sign: str | None, digits: str | None) -> int | None:
    digits = (digits or "").lstrip("0")
    if sign == "-" or not digits:
        return None
    return int(digits) if len(digits) < 10 else 10**9


def _complete_runs(runs: list[_LooseRun]) -> list[_LooseRun]:
    """The last row of a text that breaks off, without what the missing part could have changed."""
    *complete, last = runs
    if not last.starred:
        return [*complete, _EMPTY]
    return [*complete, last if last.count else last._replace(count=1)]


def _split_row(runs: list[_LooseRun], width: int) -> list[list[_LooseRun]]:
    """Rows that ran together, split; the line as it is if its runs do not make complete rows."""
    rows: list[list[_LooseRun]] = [[]]
    column = 0
    for run in runs:
        if column == width:
            rows.append([])
            column = 0
        column += run.count or width + 1
        if column > width:
            return [runs]
        rows[-1].append(run)
    return rows if column == width else [runs]


def _fill_row(runs: list[_LooseRun], row: int, width: int, known: set[str], note: Note) -> list[Run]:
    """One row of exactly `width` cells from loosely read runs."""
    counted = any(run.count for run in runs)
    kept = [bool(run.count or run.label in known or (counted and 0 < len(run.label) <= MAX_QUERY)) for run in runs]
    given = [run.count if run.count and run.count <= width else None for run in runs]
    n_open = sum(keep and count is None for keep, count in zip(kept, given, strict=True))
    share, extra = divmod(max(width - sum(count or 0 for count in given), 0), max(n_open, 1))
    filled: list[Run] = []
    dropped: list[int] = []  # the columns
    column = 0
    for run, keep, count in zip(runs, kept, given, strict=True):
        if column == width:
            note(row, column, "the row was full; the rest was dropped")
            break
        if keep and count is None:
            count = share + (extra > 0)
            extra -= 1
            if count:
                note(row, column, f"the count of {short(run.label)} was missing or impossible; it became {count}")
        if not keep or not count:
            dropped.append(column)
            continue
        if run.note:
            note(row, column, run.note)
        if column + count > width:
            note(
                row,
                column,
                f"{short(run.label)} went past the end of the row and was cut (cells kept: {width - column})",
            )
        if filled and filled[-1][0] == run.label:
            note(row, column, f"neighbouring runs of {short(run.label)} were merged")
        filled.append((run.label, min(count, width - column)))
        column += filled[-1][1]
    if dropped:
        note(row, dropped[0], f"text that is not a run with cells was dropped (pieces: {len(dropped)})")
    if column < width:
        note(row, column, f'the row was too short; it was filled up with "others" (cells: {width - column})')
        filled.append((OTHERS, width - column))
    return filled
