"""What the photo's cells say for themselves, weighed with the text while it is written.

The embedded model's cells see the question, and each is taught to say which label is meant at its place
(`learning.cell_losses`), in the pass that the photo and the question take anyway. The answer reads them, but it is
written run by run and from the top: of two things that both may be meant it begins with whichever comes first, and has
no way back. So a checkpoint may say in `t4s.json` how much the cells count (`cell_weight`): to each token's logit is
added that weight times the most that the cells can still say for an answer which goes on with it.

Pure functions of the automaton's state, so that every loop writes the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from t4s.constrain import Choice
from t4s.grammar import Grammar, State


class Cells(NamedTuple):
    """What the photo's cells say of one question.

    logits  (H, W, L) float64, of each label at each cell, labels[0] being "others"
    weight  what they count beside the text's own logits, above 0
    """

    logits: np.ndarray
    weight: float


class Evidence:
    """The cells' say in one answer, by the states of `grammar`."""

    def __init__(self, grammar: Grammar, cells: Cells):
        self.grammar, self.weight = grammar, cells.weight
        loss = cells.logits - cells.logits.max(-1, keepdims=True)  # (H, W, L), at most 0: what a label costs at a cell
        height, _, labels = loss.shape
        self._before = np.concatenate([np.zeros((height, 1, labels)), loss.cumsum(1)], 1)  # of all cells to the left
        others = np.where(np.eye(labels, dtype=bool), -np.inf, loss[..., None, :]).max(-1)
        self._after = np.concatenate([others, np.zeros((height, 1, labels))], 1)  # at best, of a cell behind a run
        self._known: dict[State, np.ndarray] = {}

    def of(self, state: State, choice: Choice) -> np.ndarray:
        """(n,) float64, at most 0: what is added to the logits of the tokens that are allowed in `state`."""
        if state not in self._known:
            self._known[state] = self.weight * np.array([self._going_on(state, text) for text in choice.texts])
        return self._known[state]

    def _going_on(self, state: State, text: str) -> float:
        """The cells' say for the runs that `text` closes and, at best, for the one that it leaves open."""
        closed = 0.0
        for char in text:
            if char in "|\n":
                start, count = self.grammar.shape[1] - state.left, int(state.spelled.partition("*")[2])
                row = self._before[state.row, :, self.grammar.current(state)]
                closed += row[start + count] - row[start]
            state = self.grammar.step(state, char)
        return closed if self.grammar.is_final(state) else closed + self._open(state)

    def _open(self, state: State) -> float:
        """The most for the run under way and the cell behind it, which has another label; later ones cost nothing."""
        start, label = self.grammar.shape[1] - state.left, self.grammar.current(state)
        labels = [label] if label >= 0 else self.grammar.labels_beginning(state)
        digits = state.spelled.partition("*")[2]
        ends = [start + count for count in range(1, state.left + 1) if str(count).startswith(digits)]
        before, after = self._before[state.row], self._after[state.row]
        return float((before[ends][:, labels] - before[start, labels] + after[ends][:, labels]).max())
