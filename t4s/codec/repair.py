"""Reading text that is nearly a grid: what `codec.repair` does, in linear time. Knows strings only.

`codec.repair` says by which rules.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from t4s.codec.labels import OTHERS, short, tidy
from t4s.limits import MAX_QUERY, MAX_SIDE

_LINE_BREAK = re.compile(r"\r\n|[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_COUNT = re.compile(r"(?:\s*([+-]?)(\d+))?")


class _Run(NamedTuple):
    """A run as `repair` reads it."""

    label: str  # tidied; "others" where a "*" had none; empty for an empty run
    count: int | None  # None: missing, or no number from 1
    starred: bool  # a "*" was there, so a run was meant
    note: str = ""  # how it was read, if it was not written to the letter


_EMPTY = _Run("", None, False)


def mend(text: str, height: int, width: int) -> tuple[list[list[tuple[str, int]]], list[tuple[int, int, str]]]:
    """`height` rows of (label, count) runs, `width` cells each, and the faults: (row, column, message)."""
    faults: list[tuple[int, int, str]] = []

    def note(row: int, column: int, message: str) -> None:
        faults.append((min(row, height - 1), min(column, width - 1), message))

    lines, cut = _lines(text, height, note)
    loose = [_loose_runs(line, row) for row, line in enumerate(lines[:height])]
    if cut and len(lines) <= height:
        loose[-1] = _cut_off(loose[-1])
    parted = [part for runs in loose for part in _part(runs, width)]
    if len(loose) < len(parted) == height:
        note(0, 0, f"rows had run together, {len(parted) - len(loose)} line breaks were missing; they were put in")
        loose = parted
    known = {OTHERS, *(run.label for runs in loose for run in runs if run.count)}
    rows = [_fill(runs, row, width, known, note) for row, runs in enumerate(loose)]
    for row in range(len(rows), height):
        note(row, 0, 'the row was missing; it became "others"')
        rows.append([(OTHERS, width)])
    return rows, sorted(faults, key=lambda fault: fault[:2])


def _lines(text: str, height: int, note: Callable[[int, int, str], None]) -> tuple[list[str], bool]:
    """The text's rows as they stand, and whether the text breaks off within the last one."""
    body, closed = text, "</seg>" in text
    if "*" not in text.partition("<seg>")[0]:
        body = text.partition("<seg>")[2] or text
    body = body.partition("</seg>")[0].replace("<seg>", " ")
    if body != text:
        note(0, 0, "<seg>, </seg> and what stands around them were left out")
    lines = _LINE_BREAK.split(body)
    if len(lines) != body.count("\n") + 1 or "\r" in body:
        note(0, 0, "an odd kind of line break was read as a plain one")
    if ended := not lines[-1].strip():
        if lines.pop():
            note(height, MAX_SIDE, "blanks after the end were left out")
    else:
        note(len(lines) - 1, MAX_SIDE, "the line break at the end was missing; it was put in")
    if len(lines) > height and not all(line.strip() for line in lines):
        note(0, 0, "blank lines were left out")
        first = next((i for i, line in enumerate(lines) if line.strip()), len(lines))
        lines = lines[min(first, len(lines) - height) :]  # at the start before anywhere else
        if len(lines) > height:
            lines = [line for line in lines if line.strip()]
    if len(lines) > height:
        note(height, 0, f"rows too many were left out (rows: {len(lines) - height})")
    return lines, bool(lines) and not ended and not closed


def _loose_runs(line: str, row: int) -> list[_Run]:
    """Whatever of a line can be taken for a run, however it is spelled."""
    runs: list[_Run] = []
    for i, piece in enumerate(line.split("|")):
        if not piece.strip():
            runs.append(_EMPTY)
            continue
        label, *tails = piece.split("*")
        found: list[_Run] = []
        for j, tail in enumerate(tails):
            sign, digits = (match := _COUNT.match(tail)).groups()
            rest, more = tail[match.end() :], j + 1 < len(tails)
            if more and not rest.strip():
                continue  # a doubled star: the label waits for the next count
            digits = (digits or "").lstrip("0")
            count = None if sign == "-" or not digits else int(digits) if len(digits) < 10 else 10**9
            found.append(_Run(_run_label(label), count, True))
            label = rest if more or (rest[:1].isspace() and any(map(str.isalnum, rest))) else ""
        if not tails or label.strip():
            found.append(_Run(_run_label(label), None, False))
        read = "| ".join(run.label if run.count is None else f"{run.label} *{run.count}" for run in found)
        if piece != (" " if i or row else "") + read or found[-1].count is None:
            found[0] = found[0]._replace(note=f"{short(piece)} was read as {short(read)}")
        runs += found
    return runs


def _run_label(text: str) -> str:
    """`text` as a label; "others" where there is none."""
    label = tidy(text)
    return label if label and label.casefold() != OTHERS else OTHERS


def _cut_off(runs: list[_Run]) -> list[_Run]:
    """The last row of a text that breaks off: nothing that the missing part could have changed."""
    *whole, last = runs
    if not last.starred:
        return [*whole, _EMPTY]
    return [*whole, last if last.count else last._replace(count=1)]


def _part(runs: list[_Run], width: int) -> list[list[_Run]]:
    """Rows that ran together, parted; the line as it is if its runs do not make whole rows."""
    rows: list[list[_Run]] = [[]]
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


def _fill(
    runs: list[_Run], row: int, width: int, known: set[str], note: Callable[[int, int, str], None]
) -> list[tuple[str, int]]:
    """One row of exactly `width` cells from its loosely read runs."""
    sure = any(run.count for run in runs)
    kept = [bool(run.count or run.label in known or (sure and 0 < len(run.label) <= MAX_QUERY)) for run in runs]
    given = [run.count if run.count and run.count <= width else None for run in runs]
    n_open = sum(keep and count is None for keep, count in zip(kept, given, strict=True))
    share, extra = divmod(max(width - sum(count or 0 for count in given), 0), max(n_open, 1))
    filled: list[tuple[str, int]] = []
    left_out: list[int] = []  # the columns
    column = 0
    for run, keep, count in zip(runs, kept, given, strict=True):
        if column == width:
            note(row, column, "the row was full; what followed was left out")
            break
        if keep and count is None:
            count, extra = share + (extra > 0), extra - 1
            if count:
                note(row, column, f"the count of {short(run.label)} was missing or impossible; it became {count}")
        if not keep or not count:
            left_out.append(column)
            continue
        if run.note:
            note(row, column, run.note)
        if column + count > width:
            note(row, column, f"{short(run.label)} went past the row's end and was cut (cells kept: {width - column})")
        if filled and filled[-1][0] == run.label:
            note(row, column, f"neighbouring runs of {short(run.label)} became one")
        filled.append((run.label, min(count, width - column)))
        column += filled[-1][1]
    if left_out:
        note(row, left_out[0], f"what is no run with cells of its own was left out (pieces: {len(left_out)})")
    if column < width:
        note(row, column, f'the row was too short; "others" filled it up (cells: {width - column})')
        filled.append((OTHERS, width - column))
    return filled
