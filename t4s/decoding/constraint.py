"""From characters to tokens: which tokens of a vocabulary keep a grid's text valid.

`Vocabulary` knows what text every token of a Hugging Face tokenizer spells, byte by byte, and is built once per
tokenizer. `Constraint` walks it together with the automaton of one grid and one set of labels: a token is allowed
when the automaton takes all of its bytes. How text is cut into tokens is the model's choice, with one exception: where
only one label is left that a run can have, the rest of it is spelled as the tokenizer spells it. There is nothing to
choose, and no model was trained on another spelling.

Byte-level BPE (GPT-2, Llama 3, Qwen, DeepSeek, our own) and SentencePiece-style vocabularies (Llama 2, Mistral,
Gemma; with byte tokens or without) are read from the tokenizer's decoder. Knows nothing of models.
"""

from __future__ import annotations

import codecs
import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from t4s.decoding.grammar import MARK, Grammar, State
from t4s.errors import CheckpointError, QueryError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ROWS_CROSSED = re.compile(r"(?:^|[0-9])\n(?: ?[^ \n]|$)")  # a line break as the format has it
KEPT = 16  # constraints that a vocabulary remembers
_Utf8 = codecs.getincrementaldecoder("utf-8")
_vocabularies: WeakKeyDictionary = WeakKeyDictionary()


class Vocabulary:
    """What every token spells, as latin-1 text (one character a UTF-8 byte), sorted: a prefix tree by bisection."""

    def __init__(self, tokenizer):
        """`tokenizer` is a fast Hugging Face tokenizer. Raises `CheckpointError` for a kind that cannot be read."""
        self._tokenizer = tokenizer
        spelled = _spellings(tokenizer)
        specials = set(tokenizer.all_special_ids)
        order = sorted((text, token) for token, text in spelled.items() if text and token not in specials)
        self.texts = [text for text, _ in order]
        self.ids = [token for _, token in order]
        self._spelled = spelled
        self._constraints: dict[tuple, Constraint] = {}
        self.max_rows = max((len(_ROWS_CROSSED.findall(text)) for text in self.texts if "\n" in text), default=0)
        # Llama-like tokenizers put a space before a text's first word, and leave it out again when decoding.
        self.lead = " " if self.latin1(self.spell("others")).startswith(" ") else ""

    def spell(self, text: str) -> list[int]:
        """`text` as the tokenizer itself spells it, a whole body in one go, as in training."""
        return self._tokenizer.encode(text, add_special_tokens=False)

    def latin1(self, ids: Sequence[int]) -> str:
        """The bytes that `ids` spell, one character each, the tokenizer's leading space included."""
        return "".join(self._spelled.get(token, "") for token in ids)

    def text(self, ids: Sequence[int]) -> str:
        """The text of a body's tokens."""
        return self.as_text(self.latin1(ids))

    def as_text(self, data: str) -> str:
        """Bytes (latin-1) as text, without a last character half written; what is not UTF-8 becomes U+FFFD."""
        return _Utf8("replace").decode(data.removeprefix(self.lead).encode("latin-1"))

    def find(self, text: str, lo: int, hi: int) -> tuple[int, int]:
        """The part of [lo, hi) of the sorted tokens that begin with `text`."""
        lo = bisect_left(self.texts, text, lo, hi)
        return lo, bisect_left(self.texts, text + "\u0100", lo, hi)

    def constraint(self, shape: tuple[int, int], labels: Sequence[str]) -> Constraint:
        """`Constraint(self, shape, labels)`; the latest ones are kept, with all that they know by then."""
        key = (tuple(shape), tuple(labels))
        found = self._constraints.pop(key, None) or Constraint(self, shape, labels)
        self._constraints[key] = found
        if len(self._constraints) > KEPT:
            self._constraints.pop(next(iter(self._constraints)), None)
        return found

    def can_spell(self, char: str) -> bool:
        """True if a character can be written whatever stands before it: by a token of its own, or byte by byte."""
        data = char.encode().decode("latin-1")
        return data in self or all(byte in self for byte in data)

    def __contains__(self, text: str) -> bool:
        at = bisect_left(self.texts, text)
        return at < len(self.texts) and self.texts[at] == text


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """The tokenizer's `Vocabulary`, built once."""
    if tokenizer not in _vocabularies:
        _vocabularies[tokenizer] = Vocabulary(tokenizer)
    return _vocabularies[tokenizer]


class AllowedTokens(NamedTuple):
    """The allowed tokens in one state, by ascending id.

    ids (n,) int64; texts: what each spells (latin-1); states: what each leads to, as (rows completed, the state
    after it with row 0); index {id: place}.
    """

    ids: np.ndarray
    texts: tuple[str, ...]
    states: tuple[tuple[int, State], ...]
    index: dict[int, int]


class Constraint:
    """The allowed tokens for one grid, one set of labels and one tokenizer. States are the automaton's, over bytes."""

    def __init__(self, vocabulary: Vocabulary, shape: tuple[int, int], labels: Sequence[str]):
        """Raises `QueryError` for a shape or labels that cannot be, and for a label that cannot be spelled."""
        grammar = Grammar(shape, labels)
        for label in grammar.labels:
            if missing := sorted({char for char in label + " *|\n0123456789" if not vocabulary.can_spell(char)}):
                raise QueryError(
                    f"This checkpoint's tokenizer cannot write {', '.join(map(repr, missing))}, which the label "
                    f"{label!r} needs: use other words, or a checkpoint with a byte-level tokenizer."
                )
        self.vocabulary, self.labels, self.grammar = vocabulary, grammar.labels, grammar.utf8()
        self._choices: dict[tuple[int, int, int, str], AllowedTokens] = {}
        self._fitting: dict[tuple[int, int, int, str], AllowedTokens] = {}
        self._lines: dict[str, tuple[list[int], list[int]]] = {}

    @property
    def start(self) -> State:
        """Nothing is written yet."""
        return self.grammar.start._replace(spelled=self.pad)

    @property
    def pad(self) -> str:
        """The space that the automaton counts before the body's first word and the tokens do not have."""
        return "" if self.vocabulary.lead else " "

    def is_final(self, state: State) -> bool:
        return self.grammar.is_final(state)

    def choice(self, state: State) -> AllowedTokens:
        """The allowed tokens; remembered by all that matters of `state`, which leaves out most of its row."""
        key = self._key(state)
        if key not in self._choices:
            self._choices[key] = self._as_spelled(state, self.fitting(state))
        return self._choices[key]

    def fitting(self, state: State) -> AllowedTokens:
        """The tokens that keep the text valid, labels in any spelling."""
        key = self._key(state)
        if key not in self._fitting:
            self._fitting[key] = self._walk(state)
        return self._fitting[key]

    def _key(self, state: State) -> tuple[int, int, int, str]:
        return (min(self.grammar.shape[0] - state.row, self.vocabulary.max_rows + 1), *state[1:])

    def _as_spelled(self, state: State, fitting: AllowedTokens) -> AllowedTokens:
        """In the rest of the only label that there can be, the tokenizer's own next token alone, if it ends in it."""
        labels = [] if MARK in state.spelled else self.grammar.labels_beginning(state)
        rest = f" {self.grammar.labels[labels[0]]}"[len(state.spelled) :] if len(labels) == 1 else ""
        own = self.spell_after("\n" + state.spelled, rest + MARK)[:1] if rest else []
        at = fitting.index.get(own[0]) if own else None
        if at is None or len(fitting.texts[at]) > len(rest):
            return fitting
        ids, texts, states = fitting.ids[at : at + 1], (fitting.texts[at],), (fitting.states[at],)
        return AllowedTokens(ids, texts, states, {own[0]: 0})

    def advance(self, state: State, token: int) -> State | None:
        """The state after a token, or None if it is not allowed."""
        choice = self.choice(state)
        at = choice.index.get(token)
        if at is None:
            return None
        rows, following = choice.states[at]
        return following._replace(row=state.row + rows)

    def spell_after(self, written: str, more: str) -> list[int]:
        """Tokens for `more` (latin-1) after `written`, as the tokenizer spells them in that context.

        The context is the line, for no vocabulary of note has a token that goes on behind a line break. Where the
        tokenizer's own spelling has a token across the seam, the rest of that token is spelled on its own.
        """
        line = written[written.rfind("\n") + 1 :]
        tokens: list[int] = []
        for part in re.findall(r"[^\n]*\n|[^\n]+", more):
            ids, ends = self._line(line + part, first=not tokens and "\n" not in written)
            whole = next((at for at, end in enumerate(ends) if end >= len(line)), len(ids))
            tokens += self._pieces(part[: max(ends[whole] - len(line), 0)]) + ids[whole:]
            line = ""
        return tokens

    def _line(self, line: str, first: bool) -> tuple[list[int], list[int]]:
        """A line's own tokens, and where in it they begin and, last, end. A body's first has no space before it."""
        key = "\n" + line if first else line
        if key not in self._lines:
            words = self.vocabulary
            hidden = " " if first or words.lead else ""  # a space that the tokenizer must not see, or sees by itself
            ids = words.spell(line.removeprefix(hidden).encode("latin-1").decode("utf-8"))
            begin = len(self.pad) if first else 0
            self._lines[key] = ids, list(accumulate((len(words.latin1([token])) for token in ids), initial=begin))
        return self._lines[key]

    def _pieces(self, text: str) -> list[int]:
        """`text` in the longest tokens, left to right; stops where no token fits."""
        words, pieces = self.vocabulary, []
        while text:
            size = next((size for size in range(len(text), 0, -1) if text[:size] in words), 0)
            if not size:
                break
            pieces.append(words.ids[bisect_left(words.texts, text[:size])])
            text = text[size:]
        return pieces

    def _walk(self, state: State) -> AllowedTokens:
        found: list[tuple[int, str, tuple[int, State]]] = []
        words, grammar = self.vocabulary, self.grammar
        stack = [("", 0, len(words.texts), state)]
        while stack:
            prefix, lo, hi, at = stack.pop()
            while lo < hi and words.texts[lo] == prefix:  # tokens that end here
                found.append((words.ids[lo], prefix, (at.row - state.row, at._replace(row=0))))
                lo += 1
            if lo == hi:
                continue
            for char in grammar.allowed(at):
                first, last = words.find(prefix + char, lo, hi)
                if first < last:
                    stack.append((prefix + char, first, last, grammar.step(at, char)))
        if not found:
            raise QueryError(f"This checkpoint's tokenizer has no token that may follow {state.spelled!r} in a grid.")
        ids, texts, states = zip(*sorted(found), strict=True)
        return AllowedTokens(np.array(ids, dtype=np.int64), texts, states, {token: at for at, token in enumerate(ids)})


def _spellings(tokenizer) -> dict[int, str]:
    """{token: its bytes as latin-1}, special tokens included (as the text they are)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise CheckpointError(f"{type(tokenizer).__name__} is no fast tokenizer: save it with a tokenizer.json.")
    decoder = json.loads(backend.to_str())["decoder"] or {}
    parts = decoder.get("decoders", [decoder])
    kinds = [part.get("type") for part in parts]
    spaces = [part["pattern"].get("String") for part in parts if part.get("type") == "Replace"]
    if "ByteLevel" in kinds:
        spell = _byte_level
    elif "Metaspace" in kinds or "▁" in spaces:
        spell = _sentencepiece
    else:
        raise CheckpointError(
            f"The tokenizer's decoder is {'+'.join(map(str, kinds))}: only byte-level BPE and SentencePiece-style "
            "vocabularies can be constrained."
        )
    added = {token: str(piece) for token, piece in tokenizer.added_tokens_decoder.items()}
    spelled = {token: spell(piece) for piece, token in tokenizer.get_vocab().items() if token not in added}
    return spelled | {token: text.encode().decode("latin-1") for token, text in added.items()}


def _byte_level(piece: str) -> str:
    """GPT-2's printable stand-ins for bytes, undone."""
    return "".join(_BYTE_OF.get(char) or char.encode().decode("latin-1") for char in piece)


def _sentencepiece(piece: str) -> str:
    """ "▁" is a space and "<0x0A>" a byte."""
    if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece):
        return chr(int(piece[3:5], 16))
    return piece.replace("▁", " ").encode().decode("latin-1")


def _byte_table() -> dict[str, str]:
    """{stand-in: byte} of the GPT-2 vocabulary: printable bytes stand for themselves, the others follow at U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): chr(byte) for byte in plain} | {chr(256 + at): chr(byte) for at, byte in enumerate(others)}


_BYTE_OF = _byte_table()
