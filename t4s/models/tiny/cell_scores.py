"""What the photo's cells say for themselves, weighed with the text while it is written.

The embedded model's cells see the question, and each is taught to say which label is meant at its place
(`learning.cell_losses`), in the pass that the photo and the question take anyway. The answer reads them, but it is
written run by run and from the top: of two things that both may be meant it begins with whichever comes first, and has
no way back. So a checkpoint may say in `t4s.json` how much the cells count (`cell_fusion_weight`): to each token's logit is
added that weight times the most that the cells can still say for an answer which goes on with it (shallow fusion of
the text with one unary score a cell and label, by an exact look ahead to the end of the row).

Pure functions of the automaton's state, so that every loop writes the same.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from t4s.decoding.constraint import AllowedTokens
from t4s.decoding.grammar import Grammar, State


class Cells(NamedTuple):
    """What the photo's cells say of one question.

    logits  (H, W, L) float64, of each label at each cell, labels[0] being "others"
    weight  what they count beside the text's own logits, above 0
    """

    logits: np.ndarray
    weight: float


class CellFusion:
    """The cells' say in one answer, by the states of `grammar`."""

    def __init__(self, grammar: Grammar, cells: Cells):
        self.grammar, self.weight = grammar, cells.weight
        loss = cells.logits - cells.logits.max(-1, keepdims=True)  # (H, W, L), at most 0: what a label costs at a cell
        height, _, labels = loss.shape
        before = np.concatenate([np.zeros((height, 1, labels)), loss.cumsum(1)], 1)  # of all cells to the left
        others = np.where(np.eye(labels, dtype=bool), -np.inf, loss[..., None, :]).max(-1)
        behind = np.concatenate([others, np.zeros((height, 1, labels))], 1)  # at best, of a cell behind a run
        longest = np.maximum.accumulate((before + behind)[:, :0:-1], 1)[:, ::-1] - before[:, :-1]
        # Lists, as they are read number by number: [row][column][label]. `_at_best`: a run of any length from there.
        self._before, self._behind, self._at_best = before.tolist(), behind.tolist(), longest.tolist()
        self._known: dict[State, np.ndarray] = {}

    def of(self, state: State, choice: AllowedTokens) -> np.ndarray:
        """(n,) float64, at most 0: what is added to the logits of the tokens that are allowed in `state`."""
        if state not in self._known:
            gains = [
                self._going_on(state, text, after._replace(row=state.row + rows))
                for text, (rows, after) in zip(choice.texts, choice.states, strict=True)
            ]
            self._known[state] = self.weight * np.array(gains)
        return self._known[state]

    def _going_on(self, state: State, text: str, after: State) -> float:
        """The cells' say for the runs that `text` closes and, at best, for the one that it leaves open, in `after`."""
        closed = 0.0
        if "|" in text or "\n" in text:
            for char in text:
                if char in "|\n":
                    start, count = self.grammar.shape[1] - state.left, int(state.spelled.partition("*")[2])
                    row, label = self._before[state.row], self.grammar.current(state)
                    closed += row[start + count][label] - row[start][label]
                state = self.grammar.step(state, char)
        return closed if self.grammar.is_final(after) else closed + self._open(after)

    def _open(self, state: State) -> float:
        """The most for the run under way and the cell behind it, which has another label; later ones cost nothing."""
        start, label = self.grammar.shape[1] - state.left, self.grammar.current(state)
        digits = state.spelled.partition("*")[2]
        if not digits:
            labels = [label] if label >= 0 else self.grammar.labels_beginning(state)
            return max(self._at_best[state.row][start][label] for label in labels)
        before, behind = self._before[state.row], self._behind[state.row]
        ends = [start + count for count in range(1, state.left + 1) if str(count).startswith(digits)]
        return max(before[end][label] + behind[end][label] for end in ends) - before[start][label]
