"""What the decoding loops know of a model, and of what a checkpoint adds to the logits of its text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from t4s.decoding.confidence import Pick
from t4s.decoding.constraint import AllowedTokens
from t4s.decoding.grammar import State

if TYPE_CHECKING:
    import torch


class CausalDecoder(Protocol):
    """A model in the middle of an answer: the prompt and the answer's opening are already in.

    last      (V,) float logits after everything fed so far
    forwards  passes since the prefill
    """

    last: torch.Tensor
    forwards: int

    def feed(self, ids: Sequence[int], beside: Sequence[int] = (), shared: int = 0) -> torch.Tensor:
        """One pass. Appends `ids`; (len(ids) + len(beside), V) float logits, row i follows token i of both in turn.

        `beside`: another continuation of the first `shared` of `ids`, which does not see the others and is not kept.
        It is asked for only where a `TokenScorer` has both a candidate and label scores.
        """
        ...

    def crop(self, n: int) -> None:
        """Keeps only the first `n` fed ids. `last` is not restored: the caller keeps what it needs."""
        ...


class TokenScorer(Protocol):
    """A checkpoint's own say in one answer, beside the logits of its text.

    `constrained` and `fast` ask it the same questions, so that both write the same; `free` does not use it.

    no_target     the probability that the target is absent, once it is known
    label_scores  (H, W, L) float logits of the labels at each cell, for drafts; None: there are none
    """

    no_target: float | None
    label_scores: np.ndarray | None

    def candidate(self) -> str | None:
        """A whole body to be scored in one pass before anything is written; None: there is none."""
        ...

    def review(self, picks: Sequence[Pick]) -> int:
        """With how many of the candidate's tokens the answer begins; all of them: it is the answer.

        `picks`: the candidate's tokens, with the logits of the text alone. What follows them is greedy.
        """
        ...

    def choose(self, state: State, allowed: AllowedTokens, logits: np.ndarray, written: str) -> tuple[np.ndarray, int]:
        """(the (n,) float64 logits of the allowed tokens with this scorer's own added, the index of the best one).

        `written`: the text before them as latin-1, the space before the first word included.
        """
        ...
