"""How sure the model is of each cell, from the distributions along the greedy path: no pass of its own.

A row is runs (l₁, n₁), (l₂, n₂), …; run k starts at column s. Under the grammar-masked distribution, given the rows
above and the runs before run k - 1 as they were written, the confidence of a cell at column x of run k is

    P(run k - 1 ends by x) · P(run k has label l, and reaches x)

(the first factor is 1 in a row's first run). It is summed over where boundaries could have been, so a doubtful left
boundary lowers the cells behind it, as a doubtful right boundary lowers the cells before it.

The path shows what every single token was chosen from, but not what would have followed the tokens that were not
chosen. Where a count or a label takes several tokens, such a token may leave open what it would have become: the
value then has a lower bound (nothing open counts for the cell) and an upper bound (all of it does). The confidence
is the middle of the two. With one token a label and one a count the two agree, and the value is exact.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from t4s.decoding.constraint import AllowedTokens, Constraint


class Pick(NamedTuple):
    """How a token of the path was chosen: the allowed ones, their logits (n,) float64, and which it was."""

    choice: AllowedTokens
    logits: np.ndarray
    best: int

    @property
    def p(self) -> np.ndarray:
        """(n,) probabilities under the grammar-masked distribution."""
        weights = np.exp(self.logits - self.logits.max())
        return weights / weights.sum()


class Run(NamedTuple):
    """A closed run of the path: where it is, and the bounds of what the model could have written instead.

    end    where the text goes on behind it and its separator
    reach  (2, left): lower and upper bound of P(the run has its label and more than i cells), i = 0, 1, …
    by     (2, left + 1): bounds of P(the run has at most i cells | its label)
    """

    row: int
    start: int
    count: int
    end: int
    reach: np.ndarray
    by: np.ndarray


def of(constraint: Constraint, picks: Sequence[Pick]) -> np.ndarray:
    """(H, W) float32 in [0, 1]. Cells of runs that `picks` do not close are 0."""
    return of_runs(constraint, path_runs(constraint, picks))


def of_runs(constraint: Constraint, runs: Sequence[Run]) -> np.ndarray:
    """The same from the path's runs."""
    lower, upper = _bounds(constraint, runs)
    return ((lower + upper) / 2).astype(np.float32)


def bounds(constraint: Constraint, picks: Sequence[Pick]) -> np.ndarray:
    """(2, H, W) float64: the lower and the upper bound."""
    return _bounds(constraint, path_runs(constraint, picks))


def _bounds(constraint: Constraint, runs: Sequence[Run]) -> np.ndarray:
    cells = np.zeros((2, *constraint.grammar.shape))
    before: Run | None = None
    for run in runs:
        inside = np.arange(run.count)
        value = run.reach[:, inside].copy()
        if run.start:
            assert before is not None  # a run that starts inside a row follows another one
            value *= before.by[:, run.start - before.start + inside]
        cells[:, run.row, run.start : run.start + run.count] = value
        before = run
    return cells


def path_runs(constraint: Constraint, picks: Sequence[Pick], known: Sequence[Run] = ()) -> list[Run]:
    """The closed runs along the path, in order. `known`: those of a path that begins alike, not computed again."""
    height, width = constraint.grammar.shape
    pieces = [pick.choice.texts[pick.best] for pick in picks]
    written = constraint.pad + "".join(pieces)
    ends = list(accumulate(map(len, pieces), initial=len(constraint.pad)))  # where each token begins, and the end
    runs, row, column, begin = [run for run in known if run.end <= len(written)], 0, 0, 0
    if runs:
        last_run = runs[-1]
        row, column, begin = last_run.row, last_run.start + last_run.count, last_run.end
        if column == width:
            row, column = row + 1, 0
    while row < height:
        stop = next((at for at in range(begin, len(written)) if written[at] in "|\n"), None)
        if stop is None:
            break
        first, last = (max(bisect_right(ends, at) - 1, 0) for at in (begin, stop))  # the tokens that write the unit
        outcomes = _Outcomes(written[begin:stop], width - column)
        reached = 1.0
        for at in range(first, last + 1):
            reached = outcomes.add(reached, picks[at], written[begin : ends[at]], written[ends[at] : begin])
        outcomes.close(reached)
        reach, by = outcomes.bounds()
        runs.append(Run(row, column, outcomes.count, stop + 1, reach, by))
        row, column = (row + 1, 0) if written[stop] == "\n" else (row, column + outcomes.count)
        begin = stop + 1
    return runs


class _Outcomes:
    """What one unit could have become, as probability mass by its number of cells.

    sure  (left + 1,): the label is the path's, the count is known
    open  {(fewest, most cells, whether the label is known): mass}, for tokens not chosen that leave it open
    """

    def __init__(self, unit: str, left: int):
        label, _, digits = unit.partition(" *")
        self.label, self.count, self.left = label + " *", int(digits), left
        self.sure = np.zeros(left + 1)
        self.open: dict[tuple[int, int, bool], float] = {}

    def add(self, reached: float, pick: Pick, head: str, skip: str) -> float:
        """The tokens not chosen at a step that is reached with a probability; returns that of the chosen one.

        head  what the path has written of the unit; skip  the end of the unit before, where the token writes it too:
        the run is conditional on it, so tokens that differ there do not count.
        """
        meant, counted, counts, left_open = _readings(pick.choice.texts, self.label, self.left, head, skip)
        weights = pick.p * meant
        weights *= reached / weights.sum()
        chosen, weights[pick.best] = float(weights[pick.best]), 0.0
        np.add.at(self.sure, counts, weights[counted])
        for at, key in left_open:
            self.open[key] = self.open.get(key, 0.0) + float(weights[at])
        return chosen

    def close(self, mass: float) -> None:
        """What is left is the path itself."""
        self.sure[self.count] += mass

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """`Run.reach` and `Run.by`."""
        upto = np.cumsum(self.sure)
        short, long = np.stack([upto, upto]), np.stack([upto[-1] - upto] * 2)  # at most i cells, more than i cells
        at = np.arange(self.left + 1)
        for (fewest, most, known), mass in self.open.items():
            short[0] += mass * (known & (most <= at))
            short[1] += mass * (fewest <= at)
            long[0] += mass * (known & (fewest > at))
            long[1] += mass * (most > at)
        low, high = (short[i] / np.maximum(short[i] + long[1 - i], 1e-300) for i in (0, 1))
        return long[:, :-1], np.stack([low, high])


@lru_cache(maxsize=4096)  # the same few choices come back in every row
def _readings(
    texts: tuple[str, ...], label: str, left: int, head: str, skip: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[tuple[int, tuple[int, int, bool]], ...]]:
    """What each of the tokens `texts` would make of a unit that begins with `head` and should have `label`.

    meant      (n,) bool: it ends the unit before as the path does, which is `skip`
    counted    the places of those that say how many cells there are; counts: how many
    left_open  (place, (fewest, most cells, whether the label is known)) of those that leave it open
    """
    counted, counts, left_open = [], [], []
    for at, text in enumerate(texts):
        unit = head + text[len(skip) :]
        if "*" not in unit:
            if label.startswith(unit):
                left_open.append((at, (1, left, False)))
        elif unit.startswith(label):
            digits = unit[len(label) :].partition("|")[0].partition("\n")[0]
            fits = [count for count in range(1, left + 1) if str(count).startswith(digits)]
            if len(label) + len(digits) < len(unit):
                fits = [int(digits)]
            if len(fits) == 1:
                counted.append(at)
                counts.append(fits[0])
            else:
                left_open.append((at, (fits[0], fits[-1], True)))
    meant = np.array([text.startswith(skip) or skip.startswith(text) for text in texts])
    return meant, np.array(counted, np.intp), np.array(counts, np.intp), tuple(left_open)
