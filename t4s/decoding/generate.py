"""From logits to a body of text: three greedy loops over one key-value cache.

    free          plain greedy, as published: may write anything, faults are repaired later
    constrained   greedy among the tokens that the grammar allows, one token a pass
    fast          the same output as `constrained`, in several times fewer passes: drafts are verified

All three are generators. They yield a `Step` after every pass, and the last one has `ended` set. They know a model
only through `CausalDecoder`, so tests drive them with stand-ins, and a checkpoint's own scores only through
`TokenScorer`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import TYPE_CHECKING, Literal

import numpy as np

from t4s import codec
from t4s.decoding.constraint import Constraint, vocabulary
from t4s.decoding.hypothesis import CLOSING, Hypothesis
from t4s.decoding.protocols import CausalDecoder, TokenScorer
from t4s.errors import QueryError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Mode = Literal["fast", "constrained", "free"]
MODES: tuple[Mode, ...] = ("fast", "constrained", "free")
Ending = Literal["", "complete", "stopped", "truncated"]
DRAFT_ROWS = {"cpu": 4}  # rows drafted ahead at most, by device type; a longer draft costs a CPU more than it saves
DRAFT_ROWS_ELSEWHERE = 8  # on a GPU a pass costs the same for 10 tokens and for 200


@dataclass(frozen=True)
class Step:
    """Where a loop stands after a pass.

    ids        the body's tokens accepted so far
    text       the body they spell, without `</seg>`
    forwards   passes so far, the prefill not counted
    ended      "" while running; "complete" (the body is whole), "stopped" (on request), "truncated"
               (`free` alone: the model ended early or ran into the limit without `</seg>`)
    no_target  the probability that the target is absent, where a `TokenScorer` knows it
    """

    ids: tuple[int, ...]
    text: str
    forwards: int
    ended: Ending = ""
    no_target: float | None = None
    _hypothesis: Hypothesis | None = field(default=None, repr=False, compare=False)

    def confidence(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]: how sure the model is of each cell (`confidence.of`); 0 where not yet written.

        In `free` text a cell from the first fault on is 0 as well: nothing vouches for what repair puts there.
        """
        assert self._hypothesis is not None, "a Step made by hand has no confidence"
        return self._hypothesis.confidence(len(self.ids))


def check(mode: Mode, tokenizer: PreTrainedTokenizerBase, shape: tuple[int, int], labels: Sequence[str]) -> Constraint:
    """What a grid of `shape` (H, W) with `labels` may be written with; call it before the photo and the question run.

    Raises `QueryError` for an unknown mode, a side outside 1 … 64, no labels, labels that cannot be or are given
    twice, and a label that the tokenizer cannot spell. labels[0] is "others".
    """
    if mode not in MODES:
        raise QueryError(f"There is no decoding {mode!r}: choose one of {', '.join(MODES)}.")
    return vocabulary(tokenizer).constraint(shape, labels)


def decode(
    mode: Mode,
    decoder: CausalDecoder,
    constraint: Constraint,
    *,
    eos: Collection[int] = (),
    draft_rows: int | None = None,
    scorer: TokenScorer | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Writes the body of one answer with the loop of that name.

    eos         tokens that end an answer of `free`
    draft_rows  how far `fast` drafts ahead at most; None: what pays on the device
    scorer      what the checkpoint adds to its text's logits; `free` does not use it
    stop        asked between passes
    """
    if mode == "free":
        return free(decoder, constraint, eos=eos, stop=stop)
    if mode == "constrained":
        return constrained(decoder, constraint, scorer=scorer, stop=stop)
    if draft_rows is None:
        draft_rows = DRAFT_ROWS.get(decoder.last.device.type, DRAFT_ROWS_ELSEWHERE)
    return fast(decoder, constraint, draft_rows=draft_rows, scorer=scorer, stop=stop)


def last_step(steps: Iterable[Step]) -> Step:
    """Runs a loop to its end and keeps only its last step."""
    for step in steps:
        last = step
    return last


def free(
    decoder: CausalDecoder,
    constraint: Constraint,
    *,
    eos: Collection[int] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Plain greedy, one token a pass, until `</seg>`, an end-of-sequence token or `token_limit` tokens."""
    hypothesis, limit = Hypothesis(constraint), token_limit(constraint)
    logits = decoder.last
    while True:
        token = int(logits.argmax())
        if token in eos:
            yield _step(hypothesis, decoder, "truncated")
            return
        hypothesis.follow(logits, token)
        if hypothesis.close():
            yield _step(hypothesis, decoder, "complete")
            return
        ended: Ending = ""
        if len(hypothesis.ids) >= limit:
            ended = "truncated"
        elif stop():
            ended = "stopped"
        yield _step(hypothesis, decoder, ended)
        if ended:
            return
        logits = decoder.feed([token])[-1]


def constrained(
    decoder: CausalDecoder,
    constraint: Constraint,
    *,
    scorer: TokenScorer | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Greedy among the allowed tokens, one token a pass: always valid."""
    return fast(decoder, constraint, draft_rows=0, scorer=scorer, stop=stop)


def fast(
    decoder: CausalDecoder,
    constraint: Constraint,
    *,
    draft_rows: int,
    scorer: TokenScorer | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """What `constrained` writes, in fewer passes: drafts of up to `draft_rows` rows are verified in one pass each.

    A pass takes the model's last own token and the draft after it. The longest part of the draft that the
    constrained greedy choice agrees with is accepted, and then the model's own next token.
    """
    hypothesis = Hypothesis(constraint, scorer)
    candidate = scorer.candidate() if scorer is not None else None
    if candidate is None:
        hypothesis.accept(decoder.last[None], [], [hypothesis.state])
        kept = 0
    else:
        kept = _weigh(hypothesis, decoder, candidate, draft_rows)
    while True:
        ended: Ending = ""
        if hypothesis.complete:
            ended = "complete"
        elif stop():
            ended = "stopped"
        yield _step(hypothesis, decoder, ended)
        if ended:
            return
        decoder.crop(kept)
        draft, states = hypothesis.draft(draft_rows)
        new = hypothesis.ids[kept:]
        logits = decoder.feed([*new, *draft[: len(states) - 1]])  # a body's last token is not fed
        hypothesis.accept(logits[len(new) - 1 :], draft, states)
        kept = len(hypothesis.ids) - 1  # all that is accepted is in the cache but the model's own token


def _weigh(hypothesis: Hypothesis, decoder: CausalDecoder, candidate: str, draft_rows: int) -> int:
    """One pass over a whole body and the draft beside it; takes what it decides, and returns how much of it is kept.

    The body is the answer, or the answer begins with some of it, or it begins with as much of the draft as the greedy
    choice agrees with. Without label scores the draft is the body's own beginning.
    """
    import torch

    scorer, pad = hypothesis.scorer, hypothesis.constraint.pad
    assert scorer is not None
    body, along = hypothesis.spell((" " + candidate.encode().decode("latin-1"))[len(pad) :])
    draft, states = hypothesis.draft(draft_rows)
    first = decoder.last[None]
    if body[: len(draft)] == draft:
        draft, states = body, along
        logits = other = torch.cat([first, decoder.feed(body[:-1])])
    else:
        fed, shared = draft[: len(states) - 1], len(commonprefix([draft, body]))
        both = decoder.feed(fed, beside=body[shared:-1], shared=shared)
        logits = torch.cat([first, both[: len(fed)]])
        other = torch.cat([logits[: shared + 1], both[len(fed) :]])
    picks = hypothesis.score(other, body, along)
    decided = scorer.review(picks)
    if decided == len(body):
        hypothesis.take_all(picks)
    elif decided:
        hypothesis.accept(other[: decided + 1], body[:decided], along[: decided + 1])
    else:
        hypothesis.accept(logits, draft, states)
    return len(commonprefix([hypothesis.ids[:-1], draft]))


def _step(hypothesis: Hypothesis, decoder: CausalDecoder, ended: Ending) -> Step:
    text = hypothesis.constraint.vocabulary.as_text(hypothesis.data)
    no_target = hypothesis.scorer.no_target if hypothesis.scorer is not None else None
    return Step(tuple(hypothesis.ids), text, decoder.forwards, ended, no_target, hypothesis)


def token_limit(constraint: Constraint) -> int:
    """Tokens of the longest valid answer, so that the limit never cuts one: the two longest labels in turn."""
    height, width = constraint.grammar.shape
    spell, labels = constraint.vocabulary.spell, constraint.labels
    longest, second, *_ = sorted(range(len(labels)), key=lambda at: -len(spell(" " + labels[at])))
    odd = np.arange(width) % 2 == 1
    grid = codec.DescriptorGrid(np.tile(np.where(odd, second, longest), (height, 1)), labels)
    return len(spell(codec.encode(grid))) + len(spell(CLOSING))
