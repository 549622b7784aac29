"""From logits to a body of text: three greedy loops over one key-value cache.

    free          plain greedy, as published: may write anything, faults are repaired later
    constrained   greedy among the tokens that the grammar allows, one token a pass
    fast          the same output as `constrained`, in several times fewer passes: drafts are verified

All three are generators. They yield a `Step` after every pass, and the last one has `ended` set.
They know a model only through `CausalDecoder`, so tests drive them with stand-ins.

By a `rule` (`absence`), `constrained` and `fast` weigh the empty answer first: one pass over all of it, then as above.
With `cells` (`evidence`), what the photo's cells say counts beside the text's logits in each of their choices.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from t4s import codec
from t4s.decoding import confidence
from t4s.decoding.confidence import Pick
from t4s.decoding.constraint import AllowedTokens, Constraint, vocabulary
from t4s.decoding.drafting import draft_text
from t4s.decoding.grammar import State
from t4s.errors import QueryError
from t4s.models.tiny import no_target
from t4s.models.tiny.cell_scores import CellFusion, Cells

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

Mode = Literal["fast", "constrained", "free"]
MODES: tuple[Mode, ...] = ("fast", "constrained", "free")
Ending = Literal["", "complete", "stopped", "truncated"]
CLOSING = "</seg>"
DRAFT_ROWS = {"cpu": 4}  # rows drafted ahead at most, by device type; a longer draft costs a CPU more than it saves
DRAFT_ROWS_ELSEWHERE = 8  # on a GPU a pass costs the same for 10 tokens and for 200


class CausalDecoder(Protocol):
    """A model in the middle of an answer: the prompt and the answer's opening are already in.

    last      (V,) float logits after everything fed so far
    forwards  passes since the prefill
    """

    last: torch.Tensor
    forwards: int

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        """One pass. Appends `ids`; (len(ids), V) float logits, row i follows ids[i]."""
        ...

    def crop(self, n: int) -> None:
        """Keeps only the first `n` fed ids. `last` is not restored: the caller keeps what it needs."""
        ...


@dataclass(frozen=True)
class Step:
    """Where a loop stands after a pass.

    ids       the body's tokens accepted so far
    text      the body they spell, without `</seg>`
    forwards  passes so far, the prefill not counted
    ended     "" while running; "complete" (the body is whole), "stopped" (on request), "truncated"
              (`free` alone: the model ended early or ran into the limit without `</seg>`)
    absent    the empty answer's probability, where it was weighed first (`no_target.Rule.absent`)
    """

    ids: tuple[int, ...]
    text: str
    forwards: int
    ended: Ending = ""
    absent: float | None = None
    _path: Hypothesis | None = field(default=None, repr=False, compare=False)

    def confidence(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]: how sure the model is of each cell (`confidence.of`); 0 where not yet written.

        In `free` text a cell from the first fault on is 0 as well: nothing vouches for what repair puts there.
        """
        assert self._path is not None, "a Step made by hand has no confidence"
        return confidence.of(self._path.constraint, self._path.picks[: len(self.ids)])


def decode(
    mode: Mode,
    continuation: CausalDecoder,
    tokenizer: PreTrainedTokenizerBase,
    shape: tuple[int, int],
    labels: Sequence[str],
    *,
    layout: str = "rows",
    eos: Collection[int] = (),
    draft_rows: int | None = None,
    rule: no_target.Rule | None = None,
    cells: Cells | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Writes the body of one answer: a grid of `shape` (H, W) with `labels`, labels[0] == "others".

    `draft_rows` limits how far `fast` drafts ahead (None: what pays on the device). `rule`: when the empty answer is
    written; None: where it is the greedy one. `cells`: what the photo's cells say beside the text (`evidence`). `free`
    knows nothing of either. `stop` is asked between passes. Raises `QueryError` before any pass, as `check` does.
    """
    constraint = check(mode, tokenizer, shape, labels, layout)
    if mode == "free":
        return free(continuation, constraint, layout=layout, eos=eos, stop=stop)
    if mode == "constrained":
        return constrained(continuation, constraint, rule=rule, cells=cells, stop=stop)
    if draft_rows is None:
        draft_rows = DRAFT_ROWS.get(continuation.last.device.type, DRAFT_ROWS_ELSEWHERE)
    return fast(continuation, constraint, draft_rows=draft_rows, rule=rule, cells=cells, stop=stop)


def check(
    mode: Mode, tokenizer: PreTrainedTokenizerBase, shape: tuple[int, int], labels: Sequence[str], layout: str = "rows"
) -> Constraint:
    """What the loops write by, or a `QueryError`; call it before the photo and the question are run.

    Refused are an unknown mode, a layout without a grammar (but by `free`), a shape outside 1 … 64 per side, no
    labels, labels that cannot be or are given twice, and a label that the tokenizer cannot spell.
    """
    if mode not in MODES:
        raise QueryError(f"There is no decoding {mode!r}: choose one of {', '.join(MODES)}.")
    if mode != "free" and layout != "rows":
        raise QueryError(f"A checkpoint of layout {layout!r} has no grammar: use decoding='free', not {mode!r}.")
    return Constraint(vocabulary(tokenizer), shape, labels)


def free(
    continuation: CausalDecoder,
    constraint: Constraint,
    *,
    layout: str = "rows",
    eos: Collection[int] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Plain greedy, one token a pass, until `</seg>`, an end-of-sequence token or `token_limit` tokens."""
    path, limit = Hypothesis(constraint), token_limit(constraint, layout)
    logits = continuation.last
    while True:
        token = int(logits.argmax())
        if token in eos:
            yield path.step(continuation, "truncated")
            return
        path.watch(logits, token)
        if path.close():
            yield path.step(continuation, "complete")
            return
        ended = "truncated" if len(path.ids) >= limit else "stopped" if stop() else ""
        yield path.step(continuation, ended)
        if ended:
            return
        logits = continuation.feed([token])[-1]


def constrained(
    continuation: CausalDecoder,
    constraint: Constraint,
    *,
    rule: no_target.Rule | None = None,
    cells: Cells | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Greedy among the allowed tokens, one token a pass: always valid."""
    return fast(continuation, constraint, draft_rows=0, rule=rule, cells=cells, stop=stop)


def fast(
    continuation: CausalDecoder,
    constraint: Constraint,
    *,
    draft_rows: int,
    rule: no_target.Rule | None = None,
    cells: Cells | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """What `constrained` writes, in fewer passes: drafts of up to `draft_rows` rows are verified in one pass each.

    A pass takes the model's last own token and the draft after it. The longest part of the draft that the
    constrained greedy choice agrees with is accepted, and then the model's own next token.
    """
    evidence = CellFusion(constraint.grammar, cells) if cells is not None else None
    path, ahead = (
        Hypothesis(constraint, evidence),
        False,
    )  # ahead: whether the cache may hold more than what is accepted
    if rule is not None:
        path, ahead = path.weighed(continuation, rule), True
    else:
        path.accept(continuation.last[None], [], [path.state])
    while True:
        ended = "complete" if path.complete else "stopped" if stop() else ""
        yield path.step(continuation, ended)
        if ended:
            return
        if ahead:
            continuation.crop(len(path.ids) - 1)  # all that is accepted is in the cache but the model's own token
        draft, states = path.draft(draft_rows)
        logits = continuation.feed([path.ids[-1], *draft[: len(states) - 1]])  # a body's last token is not fed
        path.accept(logits, draft, states)
        ahead = bool(draft)


class Hypothesis:
    """What is accepted so far: tokens, what they spell, the automaton's state behind them, and how each was chosen."""

    def __init__(self, constraint: Constraint, evidence: CellFusion | None = None):
        self.constraint, self.evidence = constraint, evidence
        self.state: State | None = constraint.start  # None: `free` text has left the grammar, and picks end there
        self.ids: list[int] = []
        self.data = ""  # latin-1
        self.picks: list[Pick] = []
        self.absent: float | None = None  # the empty answer's probability, where it was weighed
        self._begun: int | None = None  # the row that must show something, where greedy decoding would leave all empty

    @property
    def complete(self) -> bool:
        return self.state is not None and self.constraint.is_final(self.state)

    def step(self, continuation: CausalDecoder, ended: Ending) -> Step:
        text = self.constraint.vocabulary.as_text(self.data)
        return Step(tuple(self.ids), text, continuation.forwards, ended, self.absent, self)

    def accept(self, logits: torch.Tensor, draft: Sequence[int], states: Sequence[State]) -> None:
        """Takes the draft as far as it is the greedy choice, then the greedy choice itself.

        states[i] is the state before draft[i] and row i of `logits` (rows, V) its prediction; one more of both is
        for the model's own next token, but for a draft that completes the body.
        """
        choices = [self.constraint.choice(state) for state in states]
        for at, (choice, values) in enumerate(zip(choices, _gather(logits, choices), strict=True)):
            if self.evidence is not None:
                values = values + self.evidence.of(self.state, choice)
            self._take(choice, values, self._best(choice, values))
            if at == len(draft) or self.ids[-1] != draft[at]:
                return

    def _best(self, choice: AllowedTokens, values: np.ndarray) -> int:
        """The greedy choice, among those that still draw something in the row that must."""
        if self._begun is not None and self.state.row <= self._begun:
            drawing = no_target.drawing(self.constraint, choice, self.constraint.pad + self.data, self._begun)
            values = np.where(drawing, values, -np.inf)
        return int(values.argmax())

    def weighed(self, continuation: CausalDecoder, rule: no_target.Rule) -> Hypothesis:
        """This path, where nothing is written yet, after a pass over the whole empty answer: that answer, if the rule
        says so; else the greedy beginning, or, where that is empty too, the likeliest drawn one."""
        import torch

        draft, states = self.draft(self.constraint.grammar.shape[0])
        logits = torch.cat([continuation.last[None], continuation.feed(draft[:-1])])
        choices = [self.constraint.choice(state) for state in states]
        empty = Hypothesis(self.constraint, self.evidence)
        for token, choice, values in zip(draft, choices, _gather(logits, choices), strict=True):
            empty._take(choice, values, choice.index[token])
        rows = no_target.empty_rows(self.constraint, empty.picks)
        self.absent = empty.absent = rule.absent(rows)
        if self.absent >= rule.above:
            return empty
        self.accept(logits, draft, states)
        return empty.begun(no_target.first_drawn(rows)) if self.complete else self

    def begun(self, row: int) -> Hypothesis:
        """The path of an empty answer up to a row, and a token more: the likeliest of those that draw there."""
        path, at = Hypothesis(self.constraint, self.evidence), no_target.rows_of(self.constraint, self.picks).index(row)
        for pick in self.picks[:at]:
            path._take(*pick)
        path._begun, path.absent = row, self.absent
        choice, values, _ = self.picks[at]
        path._take(choice, values, path._best(choice, values))
        return path

    def _take(self, choice: AllowedTokens, values: np.ndarray, best: int) -> None:
        self.picks.append(Pick(choice, values, best))
        self._append(int(choice.ids[best]))
        self.state = self.constraint.advance(self.state, self.ids[-1])

    def _append(self, token: int) -> None:
        self.ids.append(token)
        self.data += self.constraint.vocabulary.latin1([token])

    def watch(self, logits: torch.Tensor, token: int) -> None:
        """Takes a token of `free`, whatever it is, and follows the grammar as long as it can."""
        choice = self.constraint.choice(self.state) if self.state is not None and not self.complete else None
        if choice is not None and token in choice.index:
            self._take(choice, _gather(logits[None], [choice])[0], choice.index[token])
            return
        if choice is not None:
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
        """What probably comes next, to the end of this row and `rows` - 1 rows more, as `accept` takes it."""
        tokens, states = [], [self.state]
        if rows > 0:
            constraint, written = self.constraint, self.constraint.pad + self.data
            ahead = draft_text(written, constraint.grammar.shape, constraint.grammar.labels, rows)
            for token in constraint.spell_after(written, ahead):
                state = constraint.advance(states[-1], token)
                if state is None:
                    break  # spelled in other bytes than the label's (a tokenizer that normalises Unicode)
                tokens.append(token)
                if constraint.is_final(state):
                    break
                states.append(state)
        return tokens, states


def _gather(logits: torch.Tensor, choices: Sequence[AllowedTokens]) -> list[np.ndarray]:
    """The logits of the allowed tokens, a float64 array for each choice, in one transfer from the device."""
    import torch

    sizes = [len(choice.ids) for choice in choices]
    rows = torch.from_numpy(np.repeat(np.arange(len(choices)), sizes)).to(logits.device)
    columns = torch.from_numpy(np.concatenate([choice.ids for choice in choices])).to(logits.device)
    return np.split(logits[rows, columns].cpu().double().numpy(), np.cumsum(sizes)[:-1])


def token_limit(constraint: Constraint, layout: str = "rows") -> int:
    """Tokens of the longest valid answer, so that the limit never cuts one: the two longest labels in turn."""
    height, width = constraint.grammar.shape
    spell, labels = constraint.vocabulary.spell, constraint.labels
    longest, second, *_ = sorted(range(len(labels)), key=lambda at: -len(spell(" " + labels[at])))
    cells = np.arange(height * width).reshape(height, width)
    odd = (cells if layout == "image" else cells % width) % 2 == 1
    grid = codec.DescriptorGrid(np.where(odd & (layout != "full"), second, longest), labels)
    return len(spell(codec.encode(grid, layout))) + len(spell(CLOSING))
