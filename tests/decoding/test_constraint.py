"""Allowed tokens for real vocabularies: all that keep the text valid, and no other."""

from __future__ import annotations

import random

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from t4s import codec
from t4s.decoding.constraint import KEPT, Constraint, Vocabulary, vocabulary
from t4s.errors import CheckpointError, QueryError
from t4s.models.tiny import architecture
from tests.support.vocabularies import NAMES, PARAMS, open_vocabulary

LABELS = ("others", "dog", "the black dog", "5", "café", "犬", "🐈‍⬛ cat")


@pytest.fixture(scope="module", params=PARAMS)
def words(request) -> Vocabulary:
    return open_vocabulary(request.param)


def metaspace(pieces: list[str], **options) -> PreTrainedTokenizerFast:
    """A SentencePiece-style vocabulary of single pieces."""
    inner = Tokenizer(models.BPE({piece: at for at, piece in enumerate(["?", *pieces])}, [], unk_token="?"))
    inner.normalizer = normalizers.Replace(" ", "▁")
    inner.decoder = decoders.Metaspace(prepend_scheme="never")
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?", **options)


def grids(rng: np.random.Generator, count: int, shape=(6, 24), labels=LABELS):
    for _ in range(count):
        ids = np.repeat(rng.integers(0, len(labels), 400), rng.integers(1, 23, 400))[: shape[0] * shape[1]]
        yield codec.DescriptorGrid(ids.reshape(shape), labels)


def test_knows_what_tokens_spell(words):
    """Decoding is the tokenizer's own: a Llama's first space is not part of the text, a byte token is a byte."""
    for grid in grids(np.random.default_rng(1), 5):
        text = codec.encode(grid)
        assert words.text(words.spell(text)) == text


def test_takes_the_tokenizers_own_spelling(words):
    for grid in grids(np.random.default_rng(2), 5):
        constraint = Constraint(words, grid.shape, grid.labels)
        state = constraint.start
        for token in words.spell(codec.encode(grid)):
            assert not constraint.is_final(state)
            state = constraint.advance(state, token)
            assert state is not None
        assert constraint.is_final(state)


def test_allows_every_fitting_token_and_no_other(words):
    """Brute force: every token of the vocabulary, byte by byte through the automaton."""
    grid = next(grids(np.random.default_rng(3), 1))
    constraint = Constraint(words, grid.shape, grid.labels)
    state, seen = constraint.start, []
    for token in words.spell(codec.encode(grid)):
        seen.append(state)
        state = constraint.advance(state, token)
    for state in [seen[0], *random.Random(4).sample(seen, 5), seen[-1]]:
        expected = {}
        for text, token in zip(words.texts, words.ids, strict=True):
            at = state
            for char in text:
                at = at and constraint.grammar.step(at, char)
            if at:
                expected[token] = at
        fitting = constraint.fitting(state)
        assert fitting.ids.tolist() == sorted(expected)
        assert [words.latin1([token]) for token in fitting.ids.tolist()] == list(fitting.texts)
        choice = constraint.choice(state)
        assert set(choice.ids.tolist()) <= set(expected)
        assert all(constraint.advance(state, token) == expected[token] for token in choice.ids.tolist())


def test_the_only_label_left_is_spelled_as_the_tokenizer_spells_it(words):
    """From the first letter that no other label shares to the last; everything else is the model's choice."""
    labels = ("others", "the zoo", "the zebra that zigzags")
    constraint = Constraint(words, (2, 9), labels)
    for label in labels:
        whole = words.spell(f"others *3| {label} *2|" if label != "others" else "the zoo *3| others *2|")
        state = constraint.start
        for token in whole:
            following = constraint.advance(state, token)
            assert following is not None
            fitting, choice = constraint.fitting(state), constraint.choice(state)
            begun = [name for name in labels if f" {name}".startswith(state.spelled) and state.spelled != f" {name}"]
            inside = begun == [label] and f" {label}".startswith(state.spelled + words.latin1([token]))
            assert choice.ids.tolist() == ([token] if inside else fitting.ids.tolist())
            state = following


def test_any_walk_over_allowed_tokens_decodes(words):
    rng = random.Random(5)
    for shape in [(1, 1), (5, 3), (3, 33), (16, 16)]:
        constraint = Constraint(words, shape, LABELS)
        state, ids = constraint.start, []
        while not constraint.is_final(state):
            ids.append(rng.choice(constraint.choice(state).ids.tolist()))
            state = constraint.advance(state, ids[-1])
        assert set(codec.decode(words.text(ids), shape).labels) <= set(LABELS)


def test_remembered_choices_are_those_of_a_fresh_start(words):
    """The memory leaves the row out: a choice made high up must not allow one row too many at the bottom."""
    labels = ("others", "dog")
    text = codec.encode(codec.DescriptorGrid([[0, 0]] * 4, labels))
    used = Constraint(words, (4, 2), labels)
    state = used.start
    for token in words.spell(text):
        fresh = Constraint(words, (4, 2), labels).choice(state)
        assert used.choice(state).ids.tolist() == fresh.ids.tolist()
        state = used.advance(state, token)


def test_spells_a_draft_as_the_tokenizer_does(words):
    """From every token boundary, the rest comes out in the tokens of the whole text; from within one, it still fits."""
    grid = next(grids(np.random.default_rng(6), 1, shape=(4, 24)))
    constraint = Constraint(words, grid.shape, grid.labels)
    text = codec.encode(grid)
    whole = words.spell(text)
    for cut in range(len(whole)):
        written = constraint.pad + words.latin1(whole[:cut])
        assert constraint.spell_after(written, words.latin1(whole[cut:])) == whole[cut:]
    data = " " + text.encode().decode("latin-1")
    for cut in range(1, len(data)):
        assert words.latin1(constraint.spell_after(data[:cut], data[cut:])) == data[cut:]


def test_separators_may_share_a_token():
    """Our own vocabulary writes a count with what follows it: " *16\\n" is one token."""
    words = vocabulary(architecture.tokenizer(NAMES))
    assert [words.latin1([token]) for token in words.spell("others *5| dog *11\n others *16\n")] == [
        "others", " *5|", " dog", " *11\n", " others", " *16\n",
    ]  # fmt: skip


def test_a_special_token_is_never_text():
    """A label may read like a special token; the token would vanish wherever special tokens are skipped."""
    tokenizer = architecture.tokenizer(NAMES)
    tokenizer.add_special_tokens({"additional_special_tokens": ["dog"]})
    constraint = Constraint(vocabulary(tokenizer), (1, 4), ("others", "dog"))
    special = tokenizer.convert_tokens_to_ids("dog")
    assert special in tokenizer.all_special_ids
    assert special not in constraint.choice(constraint.start).ids
    assert constraint.vocabulary.text([special]) == "dog"  # though `free` may write it


def test_refuses_a_label_that_cannot_be_spelled():
    tokenizer = metaspace(list("▁*|\n0123456789othersdg"))
    assert Constraint(vocabulary(tokenizer), (2, 2), ("others", "dog"))
    with pytest.raises(QueryError, match="cannot write 'é', which the label 'dégé' needs"):
        Constraint(vocabulary(tokenizer), (2, 2), ("others", "dégé"))


def test_refuses_a_vocabulary_without_the_formats_own_characters():
    """T5-like vocabularies have no line break: no label could help."""
    with pytest.raises(QueryError, match=r"cannot write '\\n'"):
        Constraint(vocabulary(metaspace(list("▁*|0123456789othersdg"))), (2, 2), ("others", "dog"))


def test_refuses_vocabularies_that_it_cannot_read():
    inner = Tokenizer(models.WordPiece({"[UNK]": 0, "dog": 1}, unk_token="[UNK]"))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.BertPreTokenizer(), decoders.WordPiece()
    with pytest.raises(CheckpointError, match="WordPiece: only byte-level BPE and SentencePiece"):
        Vocabulary(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]"))
    with pytest.raises(CheckpointError, match="no fast tokenizer"):
        Vocabulary(object())


def test_the_vocabulary_is_built_once():
    tokenizer = architecture.tokenizer(NAMES)
    assert vocabulary(tokenizer) is vocabulary(tokenizer)


def test_constraints_are_kept_but_not_for_ever():
    words = vocabulary(architecture.tokenizer(NAMES))
    first = words.constraint((2, 3), ("others", "dog"))
    assert words.constraint((2, 3), ["others", "dog"]) is first
    assert words.constraint((3, 2), ("others", "dog")) is not first
    for number in range(KEPT):
        words.constraint((2, 3), ("others", f"dog {number}"))
    assert words.constraint((2, 3), ("others", "dog")) is not first and len(words._constraints) == KEPT
    with pytest.raises(QueryError, match="1 to 64 cells"):
        words.constraint((0, 3), ("others", "dog"))
