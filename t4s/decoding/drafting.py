"""What the rest of a grid will probably be, given its rows so far.

Boundaries move little from row to row. Where each cell has scores of its own for the labels, they say more: a row is
then what its cells say, and where the text went against the cells above, or they were unsure, its label counts for
more below.

Pure functions over labels by column, and their text. A draft is only a proposal that the model verifies, so
nothing here can change what is written, only how many passes that takes. Knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import groupby

import numpy as np

# What the text says about a row's cells holds for the cells below, in part: where the label that was written does not
# lead by SURE, it gets that share of what it lacks. Both were chosen on answers of the embedded checkpoint.
SURE, CARRIED = 2.0, 0.75  # logits, share


def draft_text(
    written: str, shape: tuple[int, int], labels: Sequence[str], rows: int, scores: np.ndarray | None = None
) -> str:
    """The text that probably follows `written`: to the end of the row under way, and `rows` - 1 rows more.

    `written` is a valid beginning of a body of `shape` (H, W), its first space included and its end open. The row
    above the first one counts as all background. What is drafted is always valid text after `written`.
    scores: (H, W, L) logits of the labels at each cell; None: rows are copies of the one above.
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
    at, end = len(closed_rows), min(len(closed_rows) + rows, shape[0])
    row = complete_row(expected_row(above, at, scores), done, len(labels), fitting, counts)
    drafted = [row]
    for below in range(at + 1, end):
        drafted.append(expected_row(drafted[-1], below, scores))
    return "".join(_spell(row, labels) for row in drafted)[len(line) :]


def expected_row(above: Sequence[int], at: int, scores: np.ndarray | None) -> list[int]:
    """Row `at`, labels by column (W,), below a row: a copy of it, or what the cells say with what it says of them."""
    if scores is None:
        return list(above)
    cells = scores[at].copy()
    if at:
        columns, others = np.arange(len(above)), scores[at - 1].copy()
        others[columns, above] = -np.inf
        lead = scores[at - 1][columns, above] - others.max(-1)  # (W,), of the label that was written over the next best
        cells[columns, above] += np.maximum(CARRIED * (SURE - lead), 0)
    return cells.argmax(-1).tolist()


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

    above    (W,) labels of the previous row, or what this row is expected to be
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
