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

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from t4s.constrain import Choice, Constraint
from t4s.grammar import State


class Pick(NamedTuple):
    """How a token of the path was chosen: the state before it, what was allowed, the log-probabilities (n,), which."""

    state: State
    choice: Choice
    logp: np.ndarray
    best: int


class Run(NamedTuple):
    """A closed run of the path: where it is, and the bounds of what the model could have written instead.

    reach  (2, left): lower and upper bound of P(the run has its label and more than i cells), i = 0, 1, …
    by     (2, left + 1): bounds of P(the run has at most i cells | its label)
    """

    row: int
    start: int
    count: int
    reach: np.ndarray
    by: np.ndarray


def of(constraint: Constraint, picks: Sequence[Pick]) -> np.ndarray:
    """(H, W) float32 in [0, 1]. Cells of runs that `picks` do not close are 0."""
    lower, upper = bounds(constraint, picks)
    return ((lower + upper) / 2).astype(np.float32)


def bounds(constraint: Constraint, picks: Sequence[Pick]) -> np.ndarray:
    """(2, H, W) float64: the lower and the upper bound."""
    cells = np.zeros((2, *constraint.grammar.shape))
    before: Run | None = None
    for run in path_runs(constraint, picks):
        inside = np.arange(run.count)
        value = run.reach[:, inside].copy()
        if run.start:
            assert before is not None  # a run that starts inside a row follows another one
            value *= before.by[:, run.start - before.start + inside]
        cells[:, run.row, run.start : run.start + run.count] = value
        before = run
    return cells


def path_runs(constraint: Constraint, picks: Sequence[Pick]) -> list[Run]:
    """The closed runs along the path, in order."""
    height, width = constraint.grammar.shape
    texts = [constraint.texts(pick.choice) for pick in picks]
    ends = np.cumsum([0, *(len(text[pick.best]) for text, pick in zip(texts, picks, strict=True))])
    pad = 0 if constraint.vocabulary.lead else 1
    written = " " * pad + "".join(text[pick.best] for text, pick in zip(texts, picks, strict=True))
    ends += pad
    runs, row, column, begin = [], 0, 0, 0
    while row < height:
        stop = next((at for at in range(begin, len(written)) if written[at] in "|\n"), None)
        if stop is None:
            break
        first = int(np.searchsorted(ends, begin, side="right")) - 1  # the token that writes the unit's first character
        last = int(np.searchsorted(ends, stop, side="right")) - 1
        steps = range(max(first, 0), last + 1)
        outcomes = _Outcomes(written[begin:stop], width - column)
        reached = 1.0
        for step in steps:
            head = written[begin : ends[step]]  # of this unit, before the step
            skip = written[min(ends[step], begin) : begin] if ends[step] < begin else ""
            reached = outcomes.add(reached, np.exp(picks[step].logp), texts[step], picks[step].best, head, skip)
        outcomes.close(reached)
        reach, by = outcomes.bounds()
        runs.append(Run(row, column, outcomes.count, reach, by))
        row, column = (row + 1, 0) if written[stop] == "\n" else (row, column + outcomes.count)
        begin = stop + 1
    return runs


class _Outcomes:
    """What one unit could have become, as probability mass by its number of cells.

    sure    (left + 1,): the label is the path's, the count is known
    open    (mass, fewest, most cells, whether the label is known): a token not chosen that leaves it open
    missed  another label
    """

    def __init__(self, unit: str, left: int):
        label, _, digits = unit.partition(" *")
        self.label, self.count, self.left = label + " *", int(digits), left
        self.sure = np.zeros(left + 1)
        self.open: list[tuple[float, int, int, bool]] = []
        self.missed = 0.0

    def add(self, reached: float, p: np.ndarray, texts: Sequence[str], best: int, head: str, skip: str) -> float:
        """The tokens not chosen at a step that is reached with a probability; returns that of the chosen one.

        head  what the path has written of the unit; skip  the end of the unit before, where the token writes it too:
        the run is conditional on it, so tokens that differ there do not count.
        """
        weights = np.array([w if text.startswith(skip) or skip.startswith(text) else 0.0
                            for w, text in zip(p, texts, strict=True)]) if skip else p  # fmt: skip
        weights = weights * (reached / weights.sum())
        for at in np.flatnonzero(weights > 0):
            if at != best:
                self._sort(weights[at], head + texts[at][len(skip) :])
        return float(weights[best])

    def close(self, mass: float) -> None:
        """What is left is the path itself."""
        self.sure[self.count] += mass

    def _sort(self, mass: float, unit: str) -> None:
        if "*" not in unit:
            if self.label.startswith(unit):
                self.open.append((mass, 1, self.left, False))
            else:
                self.missed += mass
            return
        if not unit.startswith(self.label):
            self.missed += mass
            return
        digits = unit[len(self.label) :].partition("|")[0].partition("\n")[0]
        if len(self.label) + len(digits) < len(unit):
            self.sure[int(digits)] += mass
            return
        fits = [count for count in range(1, self.left + 1) if str(count).startswith(digits)]
        if len(fits) == 1:
            self.sure[fits[0]] += mass
        else:
            self.open.append((mass, fits[0], fits[-1], True))

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """`Run.reach` and `Run.by`."""
        upto = np.cumsum(self.sure)
        short, long = np.stack([upto, upto]), np.stack([upto[-1] - upto] * 2)  # at most i cells, more than i cells
        at = np.arange(self.left + 1)
        for mass, fewest, most, known in self.open:
            short[0] += mass * (known & (most <= at))
            short[1] += mass * (fewest <= at)
            long[0] += mass * (known & (fewest > at))
            long[1] += mass * (most > at)
        low, high = (short[i] / np.maximum(short[i] + long[1 - i], 1e-300) for i in (0, 1))
        return long[:, :-1], np.stack([low, high])
