"""What the rest of a grid will probably be, given its rows so far: boundaries move little from row to row.

Pure functions over labels by column, and their text. A draft is only a proposal that the model verifies, so
nothing here can change what is written, only how many passes that takes. Knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby


def draft_text(written: str, shape: tuple[int, int], labels: Sequence[str], rows: int) -> str:
    """The text that probably follows `written`: to the end of the row under way, and `rows` - 1 copies of that row.

    `written` is a valid beginning of a body of `shape` (H, W), its first space included and its end open. The row
    above the first one counts as all background. What is drafted is always valid text after `written`.
    """
    *closed_rows, line = written.split("\n")
    closed, _, unit = line.rpartition("|")
    index = {label: at for at, label in enumerate(labels)}
    above = _columns(closed_rows[-1], index) if closed_rows else [0] * shape[1]
    done = _columns(closed, index)
    name, star, digits = unit.partition(" *")
    if star:
        fitting = [index[name[1:]]]
        counts = [count for count in range(1, shape[1] - len(done) + 1) if str(count).startswith(digits)]
    else:
        last = done[-1] if done else None
        fitting = [at for label, at in index.items() if at != last and f" {label} *".startswith(unit)]
        counts = None
    row = _spell(complete_row(above, done, len(labels), fitting, counts), labels)
    return (row * min(rows, shape[0] - len(closed_rows)))[len(line) :]


def _columns(line: str, index: Mapping[str, int]) -> list[int]:
    """Closed runs, " label *N| label *N", as labels by column."""
    row: list[int] = []
    for run in line.split("|") if line else ():
        label, _, count = run[1:].partition(" *")
        row += [index[label]] * int(count)
    return row


def _spell(row: Sequence[int], labels: Sequence[str]) -> str:
    return "|".join(f" {labels[label]} *{len(list(cells))}" for label, cells in groupby(row)) + "\n"


def complete_row(
    above: Sequence[int],
    done: Sequence[int],
    labels: int,
    fitting: Collection[int] | None = None,
    counts: Collection[int] | None = None,
) -> list[int]:
    """The current row, labels by column (W,), as the row above suggests.

    above    (W,) labels of the previous row
    done     labels of the row's closed runs, fewer than W columns
    labels   how many labels there are; each is below it
    fitting  labels that the next run may have (None: any but the last one's)
    counts   lengths that the next run may have (None: any)
    """
    row, width = list(done), len(above)
    while len(row) < width:
        at = len(row)
        if fitting is None:
            fitting = [label for label in range(labels) if not row or label != row[-1]]
        label = _label(above, at, fitting)
        end = _end(above, at, label)
        if counts is not None:
            end = at + min(counts, key=lambda count: (abs(at + count - end), count))
        row += [label] * (end - at)
        fitting = counts = None
    return row


def _label(above: Sequence[int], at: int, fitting: Collection[int]) -> int:
    """The label of a run that starts at a column: the one above, else the next one ahead, else the nearest behind."""
    nearest = (*above[at:], *reversed(above[:at]))
    return next((label for label in nearest if label in fitting), min(fitting))


def _end(above: Sequence[int], at: int, label: int) -> int:
    """Where a run ends: at the next boundary above that lies ahead and leads to another label."""
    ahead = range(at + 1, len(above))
    return next((x for x in ahead if above[x] != above[x - 1] and above[x] != label), len(above))
