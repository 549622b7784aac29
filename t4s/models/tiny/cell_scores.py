"""Shallow fusion: add per-cell label scores to the token logits.

The embedded model's image cells see the question, and each of them is trained to say which label is meant at its place
(`training.losses`), in the pass that photo and question take anyway. The answer reads them, but it is written run by
run and from the top: of two targets that both may be meant it begins with whichever comes first, and has no way back.
So a checkpoint may say in `t4s.json` how much the cells count (`cell_fusion_weight`): each token's logit is raised by
that weight times the most that the cells can still score in an answer that goes on with it, by an exact look ahead to
the end of the row.

Of one target that is known to be there, the grid of most expected IoU takes in cells that show it with a probability
below one half, the lower the less sure the cells are (`iou_margins`).

`CellFusion` is a pure function of the automaton's state, so that every loop writes the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F

from t4s import lexicon
from t4s.decoding.constraint import AllowedTokens
from t4s.decoding.grammar import Grammar, State

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration

    from t4s.models.vlm import VLM, EncodedImage

MARGIN = 1.5  # times `iou_margins`: the text is unsure too, and only the cells are raised
SUREST = 4  # cells whose similarity to a name is averaged: the most similar ones


def cell_logits(
    model: LlavaForConditionalGeneration,
    hidden_states: Sequence[torch.Tensor],
    cells: int,
    tokens: Sequence[int] | None = None,
) -> torch.Tensor:
    """(B, cells, V) logits: what each of the photo's cells, which come first, would say if a run began there.

    Taken from the input of the last layer, where that layer reads them when it writes the answer.
    hidden_states: (B, T, width) of every layer. tokens: only of these, (B, cells, len(tokens)); None: of all.
    """
    states = model.get_decoder().norm(hidden_states[-2][:, :cells])
    head = model.get_output_embeddings()
    return head(states) if tokens is None else F.linear(states, head.weight[list(tokens)])


@torch.inference_mode()
def cell_similarity(vlm: VLM, encoded: EncodedImage, query: str | tuple[str, ...]) -> float:
    """How similar the photo's cells are to the name asked for, of several names the most similar one: in [-1, 1].

    The mean cosine of the `SUREST` most similar cells and the mean embedding of the word's tokens; for a phrase that
    says more than a name, of its nouns. 0 where that says nothing: for names that the cells were not trained on
    (`CheckpointConfig.names`).
    """
    words = [word for name in ([query] if isinstance(query, str) else query) for word in _nouns(vlm, name)]
    if not encoded.features or not vlm.known_words.issuperset(words):
        return 0.0
    embeddings = vlm.model.get_input_embeddings().weight
    vectors = torch.stack([embeddings[vlm.text_ids(f" {word}")].float().mean(0) for word in words])
    cells = F.normalize(encoded.features["image"].pooler_output[0].float().reshape(vlm.cells, -1), dim=1)
    cosines = cells @ F.normalize(vectors, dim=1).T  # (cells, names)
    return float(cosines.topk(min(SUREST, vlm.cells), dim=0).values.mean(0).max())


def _nouns(vlm: VLM, phrase: str) -> list[str]:
    """A phrase that is a word of a name, without its article; of any other one the names of what it is about."""
    word = lexicon.bare(phrase)
    if word in vlm.known_words:
        return [word]
    return [lexicon.taught_name(part, vlm.config.names) or part for part in phrase.split(" and ")]


def iou_margins(logits: np.ndarray) -> np.ndarray:
    """(H, W, L) logits of each label at each cell → (L,) what raises the labels' to the grid of most expected IoU.

    The n cells that most probably show a label have an expected IoU of about E(n) = S(n) / (n + S - S(n)) with the true
    ones, S(n) being the sum of their probabilities and S that of all cells. The best n ends at the probability
    E / (1 + E), which a logit higher by -log E makes one half (Nowozin, "Optimal Decisions from Probabilistic Models:
    the Intersection-over-Union Case", CVPR 2014). 0 for "others", which is labels[0].
    """
    cells = logits.reshape(-1, logits.shape[-1])
    odds = np.exp(cells - cells.max(-1, keepdims=True))
    probabilities = np.sort(odds / odds.sum(-1, keepdims=True), axis=0)[::-1]
    within = probabilities.cumsum(0)  # (H·W, L): S(n)
    count = np.arange(1, len(cells) + 1)[:, None]
    expected = (within / (count + within[-1] - within)).max(0)
    margins = -np.log(expected.clip(np.finfo(float).tiny))
    margins[0] = 0.0
    return margins


class CellFusion:
    """What the cells add to the logits of one answer's tokens, by the states of `grammar`.

    logits  (H, W, L) float64, of each label at each cell, labels[0] being "others"
    weight  what they count beside the text's own logits, above 0
    """

    def __init__(self, grammar: Grammar, logits: np.ndarray, weight: float):
        self.grammar, self.logits, self.weight = grammar, logits, weight
        loss = logits - logits.max(-1, keepdims=True)  # (H, W, L), at most 0: what a label costs at a cell
        height, _, labels = loss.shape
        before = np.concatenate([np.zeros((height, 1, labels)), loss.cumsum(1)], 1)  # of all cells to the left
        others = np.where(np.eye(labels, dtype=bool), -np.inf, loss[..., None, :]).max(-1)
        behind = np.concatenate([others, np.zeros((height, 1, labels))], 1)  # at best, of a cell behind a run
        longest = np.maximum.accumulate((before + behind)[:, :0:-1], 1)[:, ::-1] - before[:, :-1]
        following = np.where(np.eye(labels, dtype=bool), -np.inf, longest[..., None, :]).max(-1)
        # Lists, as they are read number by number: [row][column][label]. `_at_best`: a run of any length from there;
        # `_following`: the best of those that may follow a run of the label there.
        self._before, self._behind, self._at_best = before.tolist(), behind.tolist(), longest.tolist()
        self._following = following.tolist()
        self._known: dict[State, np.ndarray] = {}

    def scores(self, state: State, allowed: AllowedTokens) -> np.ndarray:
        """(n,) float64, at most 0: what is added to the logits of the tokens that are allowed in `state`."""
        if state not in self._known:
            gains = [
                self._score(state, text, after._replace(row=state.row + rows))
                for text, (rows, after) in zip(allowed.texts, allowed.states, strict=True)
            ]
            self._known[state] = self.weight * np.array(gains)
        return self._known[state]

    def _score(self, state: State, text: str, after: State) -> float:
        """Of the runs that `text` closes and, at best, of the one that it leaves open, in `after`."""
        if text[-1] == "|" and text.find("|") == len(text) - 1 and "\n" not in text:  # the usual end of a run
            width, row = self.grammar.shape[1], self._before[state.row]
            start, end, label = width - state.left, width - after.left, after.last
            return row[end][label] - row[start][label] + self._following[state.row][end][label]
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
