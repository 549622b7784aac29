"""The text accepted so far, and how every token of it was chosen. Knows models only by their logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from t4s.decoding.confidence import Pick, Run, of_runs, path_runs
from t4s.decoding.constraint import AllowedTokens, Constraint
from t4s.decoding.drafting import draft_text
from t4s.decoding.grammar import State
from t4s.decoding.protocols import TokenScorer

if TYPE_CHECKING:
    import torch

CLOSING = "</seg>"
MAX_DRAFT = 256  # tokens of a draft: more cost a pass much and are seldom all accepted


class Hypothesis:
    """One body of text under way.

    ids    its tokens
    data   what they spell: latin-1, one character a byte, the tokenizer's leading space included
    picks  how each of them was chosen; in free text only those before the first one that the grammar does not allow
    state  of the automaton after them; None once free text has left the grammar
    """

    def __init__(self, constraint: Constraint, scorer: TokenScorer | None = None):
        self.constraint, self.scorer = constraint, scorer
        self.ids: list[int] = []
        self.data = ""
        self.picks: list[Pick] = []
        self.state: State | None = constraint.start
        self._runs: list[Run] = []

    @property
    def complete(self) -> bool:
        return self.state is not None and self.constraint.is_final(self.state)

    @property
    def written(self) -> str:
        """`data` with the space before the first word, which some tokenizers do not write."""
        return self.constraint.pad + self.data

    def confidence(self, tokens: int) -> np.ndarray:
        """(H, W) float32 in [0, 1]: how sure the model is of each cell of the first `tokens` tokens.

        What was computed for fewer of them is used again.
        """
        self._runs = path_runs(self.constraint, self.picks[:tokens], self._runs)
        return of_runs(self.constraint, self._runs)

    def accept(self, logits: torch.Tensor, draft: Sequence[int], states: Sequence[State]) -> None:
        """Takes the draft as far as it is the greedy choice, then the greedy choice itself.

        states[i] is the state before draft[i] and row i of `logits` (rows, V) its prediction; one more of both is
        for the model's own next token, but for a draft that completes the body.
        """
        choices = [self.constraint.choice(state) for state in states]
        for at, (allowed, values) in enumerate(zip(choices, gather(logits, choices), strict=True)):
            best = int(values.argmax()) if self.scorer is None else None
            if self.scorer is not None:
                values, best = self.scorer.choose(self.state, allowed, values, self.written)
            self._take(Pick(allowed, values, best))
            if at == len(draft) or self.ids[-1] != draft[at]:
                return

    def score(self, logits: torch.Tensor, draft: Sequence[int], states: Sequence[State]) -> list[Pick]:
        """The picks along a given text, with the logits (rows, V) of the text alone; nothing is taken."""
        choices = [self.constraint.choice(state) for state in states]
        return [
            Pick(allowed, values, allowed.index[token])
            for token, allowed, values in zip(draft, choices, gather(logits, choices), strict=True)
        ]

    def take_all(self, picks: Sequence[Pick]) -> None:
        """Takes tokens that are decided already."""
        for pick in picks:
            self._take(pick)

    def _take(self, pick: Pick) -> None:
        self.picks.append(pick)
        self._append(int(pick.choice.ids[pick.best]))
        rows, following = pick.choice.states[pick.best]
        self.state = State(self.state.row + rows, *following[1:])

    def _append(self, token: int) -> None:
        self.ids.append(token)
        self.data += self.constraint.vocabulary.latin1([token])

    def follow(self, logits: torch.Tensor, token: int) -> None:
        """Takes a token of free text, whatever it is, and follows the grammar as long as it can."""
        allowed = self.constraint.fitting(self.state) if self.state is not None and not self.complete else None
        if allowed is not None and token in allowed.index:
            self._take(Pick(allowed, gather(logits[None], [allowed])[0], allowed.index[token]))
            return
        if allowed is not None:
            self.state = None
        self._append(token)

    def close(self) -> bool:
        """True if `</seg>` is written: it, what follows it and its tokens are taken off the body.

        So is the space that a Llama-like tokenizer puts before it, for the closing is tokenised on its own.
        """
        if CLOSING not in self.data[-len(CLOSING) - len(self.constraint.vocabulary.latin1(self.ids[-1:])) :]:
            return False
        size, lead = len(self.data), self.constraint.vocabulary.lead
        self.data = self.data[: self.data.rfind(CLOSING)].removesuffix(lead)
        while self.ids and size > len(self.data):
            size -= len(self.constraint.vocabulary.latin1([self.ids.pop()]))
        return True

    def draft(self, rows: int) -> tuple[list[int], list[State]]:
        """What probably comes next, as `accept` takes it: to the end of this row and `rows` - 1 rows more, or as far
        as there are scores of the cells; at most `MAX_DRAFT` tokens."""
        if rows < 1:
            return [], [self.state]
        grammar, scores = self.constraint.grammar, self.scorer.label_scores if self.scorer is not None else None
        rows = rows if scores is None else grammar.shape[0]
        tokens, states = self.spell(draft_text(self.written, grammar.shape, grammar.labels, rows, scores))
        return tokens[:MAX_DRAFT], states[: MAX_DRAFT + 1]

    def spell(self, ahead: str) -> tuple[list[int], list[State]]:
        """(tokens for the text `ahead` of what is written, the state before each and, if they do not complete the
        body, the one after them)."""
        tokens, states, spelled, at = [], [self.state], self.constraint.spell_after(self.written, ahead), 0
        while spelled and not self.constraint.is_final(states[-1]):
            choice = self.constraint.choice(states[-1])
            place = choice.index.get(spelled[0], 0)
            piece, fits = choice.texts[place], spelled[0] in choice.index
            if not fits and (len(choice.ids) > 1 or not ahead.startswith(piece, at)):
                break  # spelled in other bytes than the label's (a tokenizer that normalises Unicode)
            at += len(piece)
            spelled = spelled[1:] if fits else self.constraint.spell_after(self.written + ahead[:at], ahead[at:])
            rows, following = choice.states[place]
            tokens.append(int(choice.ids[place]))
            states.append(State(states[-1].row + rows, *following[1:]))
        return tokens, states[: len(tokens)] if self.constraint.is_final(states[-1]) else states


def gather(logits: torch.Tensor, choices: Sequence[AllowedTokens]) -> list[np.ndarray]:
    """The logits of the allowed tokens, a float64 array for each choice, in one transfer from the device."""
    import torch

    sizes = [len(choice.ids) for choice in choices]
    rows = torch.from_numpy(np.repeat(np.arange(len(choices)), sizes)).to(logits.device)
    columns = torch.from_numpy(np.concatenate([choice.ids for choice in choices])).to(logits.device)
    return np.split(logits[rows, columns].cpu().double().numpy(), np.cumsum(sizes)[:-1])
