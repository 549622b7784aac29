"""Free text that may hold grids: the loop of a model that chats, and the grids found in what it wrote.

    It is <seg>others *16\\n … </seg>, and that is <seg>others *4| cat *12\\n … </seg>.

Plain greedy, and nothing is forced: the model decides which labels come, how many grids, and whether any. Inside an
open `<seg>` the next rows are drafted as copies of the last one and verified in one pass, as in `generate.fast`: the
same text in fewer passes.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from t4s import codec
from t4s.decoding.constraint import Constraint, Vocabulary, vocabulary
from t4s.decoding.drafting import draft_text
from t4s.decoding.generate import DRAFT_ROWS, DRAFT_ROWS_ELSEWHERE, Ending
from t4s.decoding.hypothesis import CLOSING
from t4s.decoding.protocols import CausalDecoder
from t4s.errors import CheckpointError, CodecError, QueryError
from t4s.limits import MAX_QUESTION
from t4s.models.checkpoint import FORMAT_FILE
from t4s.models.vlm import VLM
from t4s.records import Span
from t4s.segmenter.results import refined_prediction

OPENING = "<seg>"
UNNAMED = "object"  # a second label for grids of "others" alone, since a grammar needs one; it is never drafted


class Reply(NamedTuple):
    """What was written: tokens (the end token left out), their text, passes after the prefill, and why it ended:
    "complete" (the model's own end) or "truncated" (the limit)."""

    ids: tuple[int, ...]
    text: str
    forwards: int
    ended: Ending


class Place(NamedTuple):
    """A span of a text: text[start:end] is all of it, marks included, and text[body:closing] what is between them.

    closed  whether it has its `</seg>`; if not, it ends before the next `<seg>` or with the text
    """

    start: int
    body: int
    closing: int
    end: int
    closed: bool


def places(text: str) -> tuple[Place, ...]:
    """Every `<seg>` of a text, in order. A `</seg>` without one is plain text."""
    found = []
    for mark in re.finditer(re.escape(OPENING), text):
        body = mark.end()
        following = text.find(OPENING, body)
        until = len(text) if following < 0 else following
        closing = text.find(CLOSING, body, until)
        closed = closing >= 0
        closing = closing if closed else until
        found.append(Place(mark.start(), body, closing, closing + len(CLOSING) * closed, closed))
    return tuple(found)


def write(
    decoder: CausalDecoder,
    words: Vocabulary,
    shape: tuple[int, int],
    *,
    eos: Collection[int],
    limit: int,
    hidden: Collection[int] = (),
    draft_rows: int | None = None,
) -> Reply:
    """Plain greedy until an `eos` token or `limit` tokens.

    shape       of the grids that are expected, for the drafts alone
    hidden      tokens that are no text (turn marks and the like): written, but left out of the text
    draft_rows  rows drafted ahead at most; 0: one token a pass; None: what pays on the device
    """
    if draft_rows is None:
        draft_rows = DRAFT_ROWS.get(decoder.last.device.type, DRAFT_ROWS_ELSEWHERE)
    ids: list[int] = []
    data, logits, draft = "", decoder.last[None], []  # data: latin-1, as the vocabulary spells
    while True:
        for at, token in enumerate(logits.argmax(-1).tolist()):
            if token in eos or len(ids) == limit:
                ended = "complete" if token in eos else "truncated"
                return Reply(tuple(ids), words.as_text(data), decoder.forwards, ended)
            ids.append(token)
            data += "" if token in hidden else words.latin1([token])
            if at == len(draft) or token != draft[at]:
                break
        if draft:
            decoder.crop(len(ids) - 1)  # all but the model's own last token has been fed
        draft = propose(words, data, shape, draft_rows)[: limit - len(ids)]
        logits = decoder.feed([ids[-1], *draft])


def propose(words: Vocabulary, data: str, shape: tuple[int, int], rows: int) -> list[int]:
    """Tokens that probably come next: the rest of the row under way and copies of it; none outside a valid grid."""
    start = data.rfind(OPENING)
    if rows < 1 or start < 0 or CLOSING in data[start:]:
        return []
    body = data[start + len(OPENING) :].removeprefix(words.lead)
    closed = body.count("\n")
    if not 0 < closed < shape[0]:
        return []
    try:
        text = body[: body.rfind("\n") + 1].encode("latin-1").decode("utf-8")
        labels = codec.decode(text, (closed, shape[1])).labels
        constraint = Constraint(words, shape, labels if len(labels) > 1 else (*labels, UNNAMED))
        constraint.grammar.advance(constraint.grammar.start, body)
    except (CodecError, QueryError, UnicodeDecodeError):  # no valid grid so far: nothing to copy
        return []
    written = " " + body
    return constraint.spell_after(written, draft_text(written, shape, constraint.grammar.labels, rows))


def span(photo: np.ndarray, text: str, place: Place, vlm: VLM, refiner: str) -> Span:
    """A span of `text` read as a grid and refined on the photo (h, w, 3) uint8; what was repaired is a fault."""
    # The space that a Llama-like tokenizer puts before a text of its own, as the body and `</seg>` are in training.
    lead = vocabulary(vlm.tokenizer).lead
    body = text[place.body : place.closing].removeprefix(lead).removesuffix(lead)
    grid, faults = codec.repair(body, vlm.config.grid)
    if not place.closed:
        row, column = (side - 1 for side in grid.shape)
        faults += (codec.Fault(row, column, "there is no </seg>: what is written so far was taken"),)
    sure = np.ones(grid.shape, np.float32)
    found = refined_prediction("", body, grid, sure, photo, refiner, faults, trust_confidence=False)
    return Span(place.start, place.end, body, grid, found.mask, found.masks, found.box, found.faults)


def check_chats(vlm: VLM) -> None:
    """CheckpointError for a checkpoint that writes one grid and nothing else.

    With cell-aligned positions, an answer token's position is the number of cells written, so words have no order.
    """
    if vlm.config.positions == "cells":
        raise CheckpointError(
            f"This checkpoint does not chat: its {FORMAT_FILE} says positions 'cells', so it writes "
            "one grid and nothing else. Ask it for a phrase or for classes, or load a checkpoint "
            "that was fine-tuned from a chat model."
        )


def check_question(question: str, vlm: VLM) -> str:
    """A question in free words, trimmed. Raises QueryError for one that is empty, too long, or holds special tokens."""
    if not isinstance(question, str) or not 1 <= len(question.strip()) <= MAX_QUESTION:
        given = f"{len(question.strip())} characters" if isinstance(question, str) else type(question).__name__
        raise QueryError(f"A question has 1 to {MAX_QUESTION} characters; this one has {given}.")
    asked = question.strip()
    marks = special_tokens(vlm) & set(vlm.text_ids(asked))
    if marks:
        raise QueryError(
            f"The question holds {vlm.piece(min(marks))!r}, a special token of this model and not text: leave it out."
        )
    return asked


def special_tokens(vlm: VLM) -> frozenset[int]:
    """Tokens that mark turns, photos and ends and are no text; the one for unknown characters is not among them."""
    tokenizer = vlm.tokenizer
    special = {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
    return frozenset(special | {vlm.image_token}) - {tokenizer.unk_token_id}


def end_tokens(vlm: VLM) -> frozenset[int]:
    """The tokens that end a turn, by the tokenizer and by the model's own generation settings."""
    config = getattr(vlm.model, "generation_config", None)
    own = getattr(config, "eos_token_id", None)
    return frozenset([vlm.tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]) - {None}
