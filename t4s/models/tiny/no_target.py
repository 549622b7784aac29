"""No-target decision: compare P(all background) with a threshold, before anything is drawn.

A greedy answer is empty wherever each row is likelier empty than begun. Where a target is there and the model is
unsure in which row it begins, the probability of drawing is spread over the rows and loses in every one of them. So a
checkpoint may say, in `t4s.json`, from which probability of the empty answer on a target is absent
(`no_target_threshold`). Where it has less, and greedy decoding would still write it, drawing begins in the row in
which it most probably does.

The cells of the photo may count as well. Those of the embedded model were trained to tell names apart, beside the
answers and in the same space as words (`CellLoss`): the more they look like the name asked for, the less the empty
answer is believed (`Rule.cell_similarity`).

Pure functions of the picks along the empty answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import exp
from typing import NamedTuple

import numpy as np

from t4s.decoding.confidence import Pick
from t4s.decoding.constraint import AllowedTokens, Constraint

LIKENESS = 12.0  # logit of a cosine of 1, as in the training of the cells: the odds of a name are its exponential


class Rule(NamedTuple):
    """When a target is absent.

    above            the probability of the empty answer, in (0, 1), from which on it is
    cell_similarity  cosine of the photo's most similar cells and the name (`cell_scores.cell_similarity`);
                     0 where that says nothing
    """

    above: float
    cell_similarity: float = 0.0

    def probability(self, empty: np.ndarray) -> float:
        """The empty answer's probability, to be compared with `above`, from `empty_rows`."""
        return float(empty.prod()) ** exp(LIKENESS * self.cell_similarity)


def empty_rows(constraint: Constraint, picks: Sequence[Pick]) -> np.ndarray:
    """(H,) float64 in [0, 1]: the probability that a row is empty if all above it are, from the empty answer's picks.

    That of the tokens themselves, in the tokenizer's own spelling, under the grammar-masked distribution.
    """
    rows = np.ones(constraint.grammar.shape[0])
    for row, pick in zip(rows_of(constraint, picks), picks, strict=True):
        rows[row] *= pick.p[pick.best]
    return rows


def rows_of(constraint: Constraint, picks: Sequence[Pick]) -> list[int]:
    """The row in which each token of the empty answer ends: all of its rows have the same length."""
    length = len(f" {constraint.labels[0]} *{constraint.grammar.shape[1]}\n")
    ends = accumulate((len(pick.choice.texts[pick.best]) for pick in picks), initial=len(constraint.pad))
    return [(end - 1) // length for end in list(ends)[1:]]


def first_drawn(empty: np.ndarray) -> int:
    """The row in which the first drawn cell most probably is, from `empty_rows`."""
    reached = np.concatenate([[1.0], np.cumprod(empty)[:-1]])
    return int(np.argmax(reached * (1 - empty)))


def can_draw(constraint: Constraint, allowed: AllowedTokens, written: str, row: int) -> np.ndarray:
    """(n,) bool: the allowed tokens after which row `row` can still show something.

    `written`: the text before them as latin-1, the space before the first word included.
    """
    width = constraint.grammar.shape[1]
    lost = f" {constraint.labels[0]} *{width}" if width > 1 else f" {constraint.labels[0]}"
    closed, line = written.count("\n"), written[written.rfind("\n") + 1 :]

    def can(text: str) -> bool:
        lines = (line + text).split("\n")
        return not closed <= row < closed + len(lines) or not lines[row - closed].startswith(lost)

    return np.array([can(text) for text in allowed.texts])
