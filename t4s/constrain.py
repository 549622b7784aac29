"""From characters to tokens: which tokens of a vocabulary keep a grid's text valid.

`Vocabulary` knows what text every token of a Hugging Face tokenizer spells, byte by byte, and is built once per
tokenizer. `Constraint` walks it together with the automaton of one grid and one set of labels: a token is allowed
when the automaton takes all of its bytes. Any spelling of valid text is allowed, not only the tokenizer's own:
which one is written is the model's choice.

Byte-level BPE (GPT-2, Llama 3, Qwen, DeepSeek, our own) and SentencePiece-style vocabularies (Llama 2, Mistral,
Gemma; with byte tokens or without) are read from the tokenizer's decoder. Knows nothing of models.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from t4s.errors import CheckpointError, CodecError, QueryError
from t4s.grammar import Grammar, State

Relative = tuple[int, State]  # rows completed by a token, and the state after it with row 0

_ROWS_CROSSED = re.compile(r"(?:^|[0-9])\n(?: ?[^ \n]|$)")  # a line break as the format has it
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
        """The text of a body's tokens; bytes that are not UTF-8 (a character half written) become U+FFFD."""
        return self.latin1(ids).removeprefix(self.lead).encode("latin-1").decode("utf-8", errors="replace")

    def find(self, text: str, lo: int, hi: int) -> tuple[int, int]:
        """The part of [lo, hi) of the sorted tokens that begin with `text`."""
        lo = bisect_left(self.texts, text, lo, hi)
        return lo, bisect_left(self.texts, text + "\u0100", lo, hi)

    def can_spell(self, char: str) -> bool:
        """True if a character can be written whatever stands before it: by a token of its own, or byte by byte."""
        data = char.encode().decode("latin-1")
        return data in self or all(byte in self for byte in data)

    def __contains__(self, text: str) -> bool:
        at = bisect_left(self.texts, text)
        return at < len(self.texts) and self.texts[at] == text


def vocabulary(tokenizer) -> Vocabulary:
    """The tokenizer's `Vocabulary`, built once."""
    if tokenizer not in _vocabularies:
        _vocabularies[tokenizer] = Vocabulary(tokenizer)
    return _vocabularies[tokenizer]


class Choice(NamedTuple):
    """The allowed tokens in one state: ids (n,) int64, ascending, and what each of them leads to."""

    ids: np.ndarray
    states: tuple[Relative, ...]


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
        self._choices: dict[tuple[int, State], Choice] = {}

    @property
    def start(self) -> State:
        """Nothing is written yet."""
        return self.grammar.start._replace(spelled="") if self.vocabulary.lead else self.grammar.start

    def is_final(self, state: State) -> bool:
        return self.grammar.is_final(state)

    def choice(self, state: State) -> Choice:
        """The allowed tokens; remembered by all that matters of `state`, which leaves out most of its row."""
        rows_left = min(self.grammar.shape[0] - state.row, self.vocabulary.max_rows + 1)
        key = (rows_left, state._replace(row=0))
        if key not in self._choices:
            self._choices[key] = self._walk(state)
        return self._choices[key]

    def texts(self, choice: Choice) -> list[str]:
        """What each of the allowed tokens spells (latin-1)."""
        return [self.vocabulary.latin1([token]) for token in choice.ids.tolist()]

    def advance(self, state: State, token: int) -> State | None:
        """The state after a token, or None if it is not allowed."""
        ids, states = self.choice(state)
        at = int(np.searchsorted(ids, token))
        if at == len(ids) or ids[at] != token:
            return None
        rows, following = states[at]
        return following._replace(row=state.row + rows)

    def written(self, ids: Sequence[int]) -> str:
        """What `ids` spell (latin-1), as the automaton counts it: with the space before the first word."""
        return self.vocabulary.latin1(ids) if self.vocabulary.lead else " " + self.vocabulary.latin1(ids)

    def spell_after(self, ids: Sequence[int], more: str) -> list[int]:
        """Tokens for `more` (latin-1) after `ids`, as the tokenizer spells them in that context.

        Where its own spelling has a token across the seam, the rest of that token is spelled on its own.
        """
        words = self.vocabulary
        written = words.latin1(ids)
        whole = (written + more).removeprefix(words.lead).encode("latin-1").decode("utf-8")
        at, seam, spelled = 0, len(written), words.spell(whole)
        for index, token in enumerate(spelled):
            if at >= seam:
                rest = spelled[index:]
                return rest if at == seam else self._pieces(more[: at - seam]) + rest
            at += len(words.latin1([token]))
        return self._pieces(more[: at - seam])

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

    def _walk(self, state: State) -> Choice:
        found: list[tuple[int, Relative]] = []
        words, grammar = self.vocabulary, self.grammar
        stack = [("", 0, len(words.texts), state)]
        while stack:
            prefix, lo, hi, at = stack.pop()
            while lo < hi and words.texts[lo] == prefix:  # tokens that end here
                found.append((words.ids[lo], (at.row - state.row, at._replace(row=0))))
                lo += 1
            if lo == hi:
                continue
            for char in grammar.allowed(at):
                first, last = words.find(prefix + char, lo, hi)
                if first < last:
                    stack.append((prefix + char, first, last, grammar.step(at, char)))
        if not found:
            raise QueryError(f"This checkpoint's tokenizer has no token that may follow {state.spelled!r} in a grid.")
        found.sort(key=lambda pair: pair[0])
        return Choice(np.array([token for token, _ in found], dtype=np.int64), tuple(to for _, to in found))


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
    """"▁" is a space and "<0x0A>" a byte."""
    if re.fullmatch(r"<0x[0-9A-Fa-f]{2}>", piece):
        return chr(int(piece[3:5], 16))
    return piece.replace("▁", " ").encode().decode("latin-1")


def _byte_table() -> dict[str, str]:
    """{stand-in: byte} of the GPT-2 vocabulary: printable bytes stand for themselves, the others follow at U+0100."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): chr(byte) for byte in plain} | {chr(256 + at): chr(byte) for at, byte in enumerate(others)}


_BYTE_OF = _byte_table()
