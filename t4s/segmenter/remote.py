"""A checkpoint that runs on a server: photo and question go out, text comes back, grid and mask are made here.

    model = RemoteModel(Endpoint("http://127.0.0.1:8000/v1", "mine"), "user/mine")     # "user/mine" has the t4s.json

How the model is asked is never guessed: grid, photo size and templates are those of the checkpoint's own `t4s.json`, a
folder's or a Hub id's; weights are not downloaded. The photo goes as a PNG of the size that the model was trained on.

Where the server keeps to a grammar, that of this grid and these labels goes along, the answer's opening included, so
that the text is valid; elsewhere it is decoded as it comes, repaired, and faults are reported. Where it gives the
probabilities of tokens, they become the confidence of cells, as on this machine (`decoding.confidence`); what the
server does not list may be anything allowed, which the bounds there are for. Elsewhere all cells have confidence 1, and
`stats["probabilities"]` is False: such a score says nothing.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from t4s import codec, prompts
from t4s.decoding import confidence
from t4s.decoding.confidence import Pick
from t4s.decoding.constraint import AllowedTokens
from t4s.decoding.dialects import MAX_DISTINCT_LABELS, grammar_text
from t4s.decoding.generate import MODES, Ending, Mode
from t4s.decoding.grammar import Grammar, State, check_labels
from t4s.decoding.hypothesis import CLOSING
from t4s.errors import CheckpointError, EndpointError, QueryError
from t4s.imaging.loading import pixels_of
from t4s.models.checkpoint import FORMAT_FILE, CheckpointConfig
from t4s.segmenter.endpoint import Endpoint, Reply, Token

OPENING = "<seg>"
CLASSES = 20  # names asked in one question where the checkpoint does not say how many: the context is not known here
TOKENS_A_CELL = 4  # of an answer, at most: it keeps a model that never closes its text from running on


def find_format(source: str | Path, revision: str | None = None) -> Path:
    """The t4s.json of a folder or a Hub id; nothing else is downloaded. Raises CheckpointError."""
    if Path(source).is_dir():
        file = Path(source) / FORMAT_FILE
        if not file.is_file():
            raise CheckpointError(f"{source} has no {FORMAT_FILE}, which says how the model is asked.")
        return file
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError, HTTPError

    try:
        return Path(hf_hub_download(str(source), FORMAT_FILE, revision=revision))
    except HFValidationError as error:
        raise CheckpointError(
            f"{source} is neither a folder nor a Hub id such as user/model: name the one that has the {FORMAT_FILE} as "
            "checkpoint (--checkpoint), and the server's own name as model (--model)."
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(f"{source} has no {FORMAT_FILE}, which says how the model is asked.") from error
    except (HTTPError, OSError) as error:
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"The {FORMAT_FILE} of {source} could not be fetched from the Hub: {detail}") from error


@dataclass(frozen=True, eq=False)
class RemoteImage:
    """A photo (h, w, 3) uint8, and what is sent of it: a data URL."""

    photo: np.ndarray
    url: str

    @property
    def nbytes(self) -> int:
        """What keeping it costs, in bytes."""
        return self.photo.nbytes + len(self.url)


class RemoteModel:
    """An `Endpoint` and the format of the checkpoint that it serves."""

    tokenizer = None  # it is on the server

    def __init__(self, endpoint: Endpoint, source: str | Path, revision: str | None = None):
        """Raises CheckpointError for a checkpoint that no server runs as it was trained."""
        self.endpoint = endpoint
        self.config = CheckpointConfig.read(find_format(source, revision).parent)
        if self.config.positions == "cells" or self.config.bidirectional_prefix:
            raise CheckpointError(
                f"{source} has positions and attention of its own (its {FORMAT_FILE} says so), which no server knows; "
                "run it here, without an endpoint."
            )

    def check(self, mode: str, labels: Sequence[str]) -> None:
        """What can be refused before anything is sent: an unknown mode, labels that cannot be. Raises QueryError."""
        if mode not in MODES:
            raise QueryError(f"There is no decoding {mode!r}: choose one of {', '.join(MODES)}.")
        check_labels(labels)

    def encode(self, image: Image.Image) -> RemoteImage:
        """The photo as it is sent, squashed to the model's square."""
        size = self.config.image_size
        square = image.resize((size, size), Image.Resampling[self.config.resampling.upper()])
        file = BytesIO()
        square.save(file, "PNG")
        return RemoteImage(pixels_of(image), "data:image/png;base64," + base64.b64encode(file.getvalue()).decode())

    def write(
        self, image: RemoteImage, asked: str | tuple[str, ...], mode: Mode, stop: Callable[[], bool] = lambda: False
    ) -> Iterator[RemoteStep]:
        """The answer as it grows; `mode` "free" sends no grammar; `stop` is asked between pieces of text.

        Raises EndpointError.
        """
        config, labels = self.config, ("others", *((asked,) if isinstance(asked, str) else asked))
        listed = not isinstance(asked, str)
        template = config.class_question if listed else config.question
        question = prompts.question(template, asked, config.class_separator)
        before, _ = prompts.split_answer((config.class_answer if listed else None) or config.answer, asked)
        content = [{"type": "image_url", "image_url": {"url": image.url}}, {"type": "text", "text": question}]
        options = self.endpoint.logprob_options() | {"max_tokens": math.prod(config.grid) * TOKENS_A_CELL + 64}
        form = None if mode == "free" else self.endpoint.grammar_form()
        if form is not None:
            grammar = answer_grammar(config.grid, labels[1:], before, form.dialect)
            options["extra_body"] = form.fields(grammar)
        reply = Reply()
        for reply in self.endpoint.stream([{"role": "user", "content": content}], **options):
            found = _body(reply.text)
            if found is not None and (found.closed or not reply.finish):
                ended: Ending = "complete" if found.closed else "stopped" if stop() else ""
                yield RemoteStep(reply, config.grid, labels, ended, form is not None)
                if ended:
                    return
        if _body(reply.text) is None:
            raise EndpointError(
                f"{self.endpoint.model!r} answered without {OPENING}: {reply.text[:80]!r}; it was not trained to write "
                f"masks, or not with the templates of this {FORMAT_FILE}.",
                "photo",
            )
        yield RemoteStep(reply, config.grid, labels, "truncated", form is not None)


@dataclass(frozen=True)
class _Body:
    """Where the body of a grid is in an answer: text[start:end]. `inside`: where its `<seg>` ends; `closed`: its
    `</seg>` is there."""

    inside: int
    start: int
    end: int
    closed: bool


def _body(text: str) -> _Body | None:
    """The first grid of an answer, without the space that some tokenizers put before the body and before `</seg>`."""
    at = text.find(OPENING)
    if at < 0:
        return None
    start = inside = at + len(OPENING)
    closing = text.find(CLOSING, start)
    closed = closing >= 0
    end = closing if closed else text.find("<", start)  # labels hold none: it is the beginning of `</seg>`
    end = len(text) if end < 0 else end
    start += text.startswith(" ", start, end)
    end -= closed and text.endswith("\n ", start, end)
    return _Body(inside, start, end, closed)


def answer_grammar(shape: tuple[int, int], labels: Sequence[str], before: str, dialect: str) -> str:
    """The grammar of a whole answer: its opening, a body, `</seg>`; spaces of tokenizers may stand around the body."""
    root, is_, name = ("start", ":", "body") if dialect == "lark" else ("root", " ::=", "body")
    body = grammar_text(shape, labels, dialect).replace(f"{root}{is_}", f"{name}{is_}", 1)
    opening = before.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'{root}{is_} "{opening}" " "? {name} " "? "{CLOSING}"\n{body}'


class RemoteStep:
    """Where an answer stands: what `decoding.generate.Step` says of one that is written here.

    ids            as many as the server has written pieces of text
    text           the body so far
    ended          "" while it grows; "complete", "stopped" or "truncated"
    probabilities  whether `confidence` comes from the server; otherwise it is 1
    """

    no_target = None

    def __init__(self, reply: Reply, shape: tuple[int, int], labels: tuple[str, ...], ended: Ending, constrained: bool):
        self._reply, self._shape, self._labels = reply, shape, labels
        self._place = _body(reply.text)
        assert self._place is not None
        self.text = reply.text[self._place.start : self._place.end]
        self._distinct = not constrained or len(labels) <= MAX_DISTINCT_LABELS
        if ended == "complete" and not self._distinct:  # the grammar could not keep equal neighbours apart
            self.text = codec.encode(codec.repair(self.text, shape)[0])
        self.ended = ended
        self.ids = range(len(reply.tokens) or reply.chunks)
        self.forwards = len(self.ids)
        # Tokens of turns may stand around the text; some servers give tokens without their spaces, which help nobody.
        self._offset = b"".join(token.data for token in reply.tokens).find(reply.text.encode())
        self.probabilities = bool(reply.tokens) and self._offset >= 0

    def confidence(self) -> np.ndarray:
        """(H, W) float32 in [0, 1]; 0 where nothing is written yet, and from the first fault on."""
        if not self.probabilities:
            return np.ones(self._shape, np.float32)
        text = self._reply.text
        start, end = (self._offset + len(text[:at].encode()) for at in (self._place.inside, self._place.end))
        return cell_confidence(self._reply.tokens, start, end, Grammar(self._shape, self._labels), self._distinct)


def cell_confidence(
    tokens: Sequence[Token], start: int, end: int, grammar: Grammar, distinct: bool = True
) -> np.ndarray:
    """(H, W) float32: the confidence of the cells of a body that is bytes start … end of the tokens.

    A body may begin with the space that some tokenizers put there.
    """
    grammar = grammar.utf8()
    pad = "" if b"".join(token.data for token in tokens)[start : start + 1] == b" " else " "
    state, picks, at = grammar.start._replace(spelled=pad), [], 0
    for token in tokens:
        begins, at = at, at + len(token.data)
        cut = max(start - begins, 0)
        piece = token.data[cut : len(token.data) - max(at - end, 0)].decode("latin-1")
        if at <= start or not piece:
            continue
        following = _advanced(grammar, state, piece, distinct)
        if following is None:
            break
        picks.append(_pick(token, token.data[:cut], piece, grammar, state, distinct))
        state = following
    bare: Any = SimpleNamespace(grammar=grammar, pad=pad)
    return confidence.of(bare, picks)


def _pick(token: Token, head: bytes, piece: str, grammar: Grammar, state: State, distinct: bool) -> Pick:
    """What the token was chosen from: the alternatives that the grammar allows, and what the server did not list.

    The rest is a text of length 0: whatever may follow, as `confidence` takes what is left open.
    """
    others = list(token.top)
    if (token.data, token.logprob) in others:
        others.remove((token.data, token.logprob))  # the token itself; another may spell the same
    texts, weights = [piece], [math.exp(token.logprob)]
    for data, logprob in others:
        text = data[len(head) :].decode("latin-1").partition("<")[0]
        written = data.startswith(head) and (text or data == head)
        if written and _advanced(grammar, state, text, distinct) is not None:
            texts.append(text)
            weights.append(math.exp(logprob))
    unlisted = 1 - math.exp(token.logprob) - sum(math.exp(logprob) for _, logprob in others)
    if unlisted > 0 and not grammar.forced(state).startswith(piece):
        texts.append("")
        weights.append(unlisted)
    logits = np.log(np.maximum(weights, 1e-30))
    return Pick(AllowedTokens(np.zeros(0, np.int64), tuple(texts), (), {}), logits, 0)


def _advanced(grammar: Grammar, state: State, text: str, distinct: bool) -> State | None:
    """The state after `text`, or None if the grammar refuses it."""
    for char in text:
        following = grammar.step(state if distinct else state._replace(last=-1), char)
        if following is None:
            return None
        state = following
    return state
