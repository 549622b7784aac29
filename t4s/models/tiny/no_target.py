"""Whether the thing is there at all: the empty answer's whole probability, weighed before anything is drawn.

Token by token a greedy answer is empty wherever each row is likelier empty than begun: where a thing is there and the
model is unsure in which row it begins, that is spread over the rows and loses in every one of them. So a checkpoint may
say, in `t4s.json`, from which probability of the empty answer on a thing is not there (`no_target_threshold`). Where it has
less, and greedy decoding would still write it, the drawing begins in the row in which it most probably does.

What the photo's cells say for themselves may count as well. The embedded model's were taught by name, beside the
answers and in the same space as words (`cell_lesson`): the more they look like what is asked for, the less the empty
answer is believed (`Rule.cell_similarity`). They tell names apart better than the answers that are read from them.

Pure functions over the picks along the empty answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import exp
from typing import NamedTuple

import numpy as np

from t4s.decoding.confidence import Pick
from t4s.decoding.constraint import AllowedTokens, Constraint

LIKENESS = 12.0  # what a cosine of 1 counts, as in the cells' lesson: their odds of a name go with its exponential


class Rule(NamedTuple):
    """When a thing is not there.

    above     the probability of the empty answer, in (0, 1), from which it is not
    cell_similarity  how much the photo's surest cells look like it, a cosine (`VLM.cell_similarity`); 0: that tells nothing
    """

    above: float
    cell_similarity: float = 0.0

    def absent(self, empty: np.ndarray) -> float:
        """The empty answer's probability, to be compared with `above`, from `empty_rows`."""
        return float(empty.prod()) ** exp(LIKENESS * self.cell_similarity)


def empty_rows(constraint: Constraint, picks: Sequence[Pick]) -> np.ndarray:
    """(H,) float64 in [0, 1]: the probability that a row is empty if all above it are, from the empty answer's picks.

    The tokens' own, as the model would spell that answer, under the grammar-masked distribution.
    """
    rows = np.ones(constraint.grammar.shape[0])
    for row, pick in zip(rows_of(constraint, picks), picks, strict=True):
        rows[row] *= pick.p[pick.best]
    return rows


def rows_of(constraint: Constraint, picks: Sequence[Pick]) -> list[int]:
    """The row in which each token of the empty answer ends: all of its rows are of one length."""
    length = len(f" {constraint.labels[0]} *{constraint.grammar.shape[1]}\n")
    ends = accumulate((len(pick.choice.texts[pick.best]) for pick in picks), initial=len(constraint.pad))
    return [(end - 1) // length for end in list(ends)[1:]]


def first_drawn(empty: np.ndarray) -> int:
    """The row in which the first drawn cell most probably is, from `empty_rows`."""
    reached = np.concatenate([[1.0], np.cumprod(empty)[:-1]])
    return int(np.argmax(reached * (1 - empty)))


def drawing(constraint: Constraint, choice: AllowedTokens, written: str, row: int) -> np.ndarray:
    """(n,) bool: the tokens of `choice` after which row `row` can still show something. `written`: all before them,
    the space before the first word included (latin-1)."""
    width = constraint.grammar.shape[1]
    lost = f" {constraint.labels[0]} *{width}" if width > 1 else f" {constraint.labels[0]}"
    closed, line = written.count("\n"), written[written.rfind("\n") + 1 :]

    def can(text: str) -> bool:
        lines = (line + text).split("\n")
        return not closed <= row < closed + len(lines) or not lines[row - closed].startswith(lost)

    return np.array([can(text) for text in choice.texts])
