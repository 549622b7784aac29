"""The automaton accepts exactly what the strict decoder accepts, on small grids by trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t4s import codec
from t4s.decoding.grammar import Grammar, State
from t4s.errors import CodecError, QueryError


def every_text(grammar: Grammar) -> set[str]:
    """All texts the automaton can write."""
    found, open_ends = set(), [("", grammar.start)]
    while open_ends:
        text, state = open_ends.pop()
        if grammar.is_final(state):
            found.add(text)
        for char in grammar.allowed(state):
            open_ends.append((text + char, grammar.advance(state, char)))
    return found


def every_grid(shape: tuple[int, int], labels: tuple[str, ...]) -> set[str]:
    cells = itertools.product(range(len(labels)), repeat=shape[0] * shape[1])
    return {codec.encode(codec.DescriptorGrid(np.reshape(ids, shape), labels)) for ids in cells}


@pytest.mark.parametrize(
    ("shape", "labels"),
    [
        ((1, 1), ("others", "dog")),
        ((2, 2), ("others", "dog")),
        ((1, 4), ("others", "dog", "dog house")),  # a label that begins like another
        ((2, 2), ("others", "other", "others too")),  # … like the background
        ((3, 2), ("others", "a", "ab")),
        ((1, 11), ("others", "5")),  # counts of two digits, a label that is a number
        ((2, 3), ("others", "über dog", "úber")),
    ],
)
def test_writes_every_grid_and_nothing_else(shape, labels):
    assert every_text(Grammar(shape, labels)) == every_grid(shape, labels)


def test_agrees_with_the_decoder_on_every_short_string():
    """Brute force over strings, not grids: every string of up to five of these pieces."""
    grammar, accepted = Grammar((1, 2), ("others", "o")), 0
    pieces = ["others", "o", " ", "*", "1", "2", "0", "|", "\n"]
    for length in range(1, 6):
        for combination in itertools.product(pieces, repeat=length):
            text = "".join(combination)
            assert accepts(grammar, text) == decodes(text, (1, 2), ("others", "o")), repr(text)
            accepted += accepts(grammar, text)
    assert accepted == 2  # one run over both cells; two runs take more pieces


def accepts(grammar: Grammar, text: str) -> bool:
    try:
        return grammar.is_final(grammar.advance(grammar.start, text))
    except CodecError:
        return False


def decodes(text: str, shape: tuple[int, int], labels: tuple[str, ...]) -> bool:
    try:
        return set(codec.decode(text, shape).labels) <= set(labels)
    except CodecError:
        return False


label_sets = st.lists(
    st.text(alphabet="ab é*5", min_size=1, max_size=6).filter(lambda text: text.strip(" *")).map(codec.clean_label),
    min_size=1,
    max_size=4,
    unique=True,
)


@st.composite
def worlds(draw):
    labels = ("others", *draw(label_sets))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 64)))
    ids = draw(st.lists(st.integers(0, len(labels) - 1), min_size=4, max_size=40))
    flat = np.repeat(ids, draw(st.integers(1, 9)))
    return codec.DescriptorGrid(np.resize(flat, shape), labels)


@settings(max_examples=150, deadline=None)
@given(worlds(), st.data())
def test_accepts_true_texts_and_judges_mutations_as_the_decoder_does(grid, data):
    grammar, text = Grammar(grid.shape, grid.labels), codec.encode(grid)
    assert accepts(grammar, text)
    at = data.draw(st.integers(0, len(text) - 1))
    cut = data.draw(st.integers(0, 3))
    mutated = text[:at] + data.draw(st.text(alphabet="abo0123 *|\n", max_size=3)) + text[at + cut :]
    assert accepts(grammar, mutated) == decodes(mutated, grid.shape, grid.labels)


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.integers(1, 9), st.integers(1, 64)), label_sets, st.randoms(use_true_random=False))
def test_a_random_walk_never_gets_stuck_and_always_decodes(shape, labels, random):
    grammar = Grammar(shape, ("others", *labels))
    text, state = "", grammar.start
    while not grammar.is_final(state):
        allowed = grammar.allowed(state)
        assert allowed, f"stuck after {text!r}"
        forced = grammar.forced(state)
        assert bool(forced) == (len(allowed) == 1)
        char = random.choice(allowed)
        assert grammar.step(state, char) == grammar.advance(state, char)
        text, state = text + char, grammar.advance(state, char)
    assert grammar.allowed(state) == () and grammar.forced(state) == ""
    assert set(codec.decode(text, shape).labels) <= {"others", *labels}


def test_allowed_and_step_are_one_truth():
    """`step` answers for one character what `allowed` lists: over every state of a small world."""
    grammar = Grammar((2, 12), ("others", "dog", "dog house", "do"))
    alphabet = sorted(set("".join(grammar.labels)) | set(" *|\n0123456789x"))
    seen, todo = set(), [grammar.start]
    while todo:
        state = todo.pop()
        if state in seen:
            continue
        seen.add(state)
        following = {char: grammar.step(state, char) for char in alphabet}
        assert tuple(sorted(char for char in following if following[char])) == tuple(sorted(grammar.allowed(state)))
        todo += [state for state in following.values() if state]
    assert len(seen) > 1000


def test_forced_text():
    grammar = Grammar((2, 4), ("others", "dog"))
    after = lambda text: grammar.forced(grammar.advance(grammar.start, text))  # noqa: E731
    assert after("") == ""
    assert after("o") == "thers *"
    assert after("others *3") == "| dog *1\n "  # one label is left for the last cell, and one count
    assert after("others *4") == "\n "
    assert after("others *4\n dog *4") == "\n"  # the body ends with its last line break
    assert Grammar((1, 12), ("others", "dog")).forced(State(0, 12, -1, " dog *1")) == ""  # 1, 10, 11 or 12


def test_utf8_twin_writes_the_same_bytes():
    grammar = Grammar((1, 2), ("others", "é", "è犬"))
    assert {text.encode("latin-1").decode() for text in every_text(grammar.utf8())} == every_text(grammar)


def test_refusal_names_the_place():
    grammar = Grammar((2, 4), ("others", "dog"))
    with pytest.raises(CodecError, match="'5' cannot follow .* allowed here: '1', '2', '3', '4'") as error:
        grammar.advance(grammar.start, "others *4\n dog *5")
    assert (error.value.row, error.value.column) == (1, 0)
    with pytest.raises(CodecError, match="the grid is complete"):
        grammar.advance(grammar.start, "others *4\n dog *4\n ")


@pytest.mark.parametrize("shape", [(0, 16), (16, 65), (-1, 4), (16,), (2, 2, 2), (1.5, 2)])
def test_refuses_a_grid_outside_the_limits(shape):
    with pytest.raises(QueryError, match="1 to 64 cells per side"):
        Grammar(shape, ("others", "dog"))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((), "first one must be"),
        (("dog", "others"), "first one must be"),
        (("others",), "no labels"),
        (("others", "dog", " dog"), "'dog' are given twice"),
        (("others", "dog|", "dog"), "'dog' are given twice"),
        (("others", "**"), "empty"),
        (("others", "Others"), "reserved"),
    ],
)
def test_refuses_labels_that_cannot_be_asked(labels, message):
    with pytest.raises(QueryError, match=message):
        Grammar((4, 4), labels)


def test_takes_numpy_integers_and_cleans_labels():
    grammar = Grammar(np.array([2, 3]), ["others", " a\n|dog "])
    assert grammar.labels == ("others", "a dog") and grammar.shape == (2, 3)
