"""From logits to a body of text: three greedy loops over one key-value cache.

    free          plain greedy, as published: may write anything, faults are repaired later
    constrained   greedy among the tokens that the grammar allows, one token a pass
    fast          the same output as `constrained`, in several times fewer passes: drafts are verified

All three are generators. They yield a `Step` after every pass, and the last one has `ended` set.
They know a model only through `Continuation`, so tests drive them with stand-ins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from t4s import codec
from t4s.errors import QueryError

if TYPE_CHECKING:
    import torch

Mode = Literal["fast", "constrained", "free"]
MODES: tuple[Mode, ...] = ("fast", "constrained", "free")
CLOSING = "</seg>"


class Continuation(Protocol):
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
    """

    ids: tuple[int, ...]
    text: str
    forwards: int
    ended: Literal["", "complete", "stopped", "truncated"] = ""


def decode(
    mode: Mode,
    continuation: Continuation,
    tokenizer,
    shape: tuple[int, int],
    labels: Sequence[str],
    *,
    layout: str = "rows",
    eos: Collection[int] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Writes the body of one answer: a grid of `shape` (H, W) with `labels`, labels[0] == "others".

    `stop` is asked between passes. Raises `QueryError` before any pass for an unknown mode.
    """
    if mode not in MODES:
        raise QueryError(f"There is no decoding {mode!r}: choose one of {', '.join(MODES)}.")
    limit = token_limit(tokenizer, shape, labels, layout)
    return free(continuation, lambda ids: tokenizer.decode(ids), limit, eos=eos, stop=stop)


def free(
    continuation: Continuation,
    text_of: Callable[[Sequence[int]], str],
    limit: int,
    *,
    eos: Collection[int] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Step]:
    """Plain greedy, one token a pass, until `</seg>`, an end-of-sequence token or `limit` tokens."""
    ids: list[int] = []
    text, logits = "", continuation.last
    while True:
        token = int(logits.argmax())
        if token in eos:
            yield Step(tuple(ids), text, continuation.forwards, "truncated")
            return
        ids.append(token)
        text, closed, _ = text_of(ids).partition(CLOSING)
        if closed:
            yield Step(tuple(ids), text, continuation.forwards, "complete")
            return
        if len(ids) >= limit:
            yield Step(tuple(ids), text, continuation.forwards, "truncated")
            return
        if stop():
            yield Step(tuple(ids), text, continuation.forwards, "stopped")
            return
        yield Step(tuple(ids), text, continuation.forwards)
        logits = continuation.feed([token])[-1]


def token_limit(tokenizer, shape: tuple[int, int], labels: Sequence[str], layout: str = "rows") -> int:
    """Tokens of the longest valid answer, so that the limit never cuts one: every cell a run of its own."""
    height, width = shape
    longest = max(labels[1:], key=lambda label: len(tokenizer.encode(" " + label, add_special_tokens=False)))
    ids = [[column % 2 for column in range(width)]] * height
    text = codec.encode(codec.DescriptorGrid(ids, (labels[0], longest)), layout) + CLOSING
    return len(tokenizer.encode(text, add_special_tokens=False))
