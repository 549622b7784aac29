"""Persistence drafting: what the next rows look like if boundaries stay where they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t4s import codec
from t4s.decoding.drafting import complete_row, draft_text, expected_row
from t4s.decoding.grammar import Grammar
from t4s.errors import CodecError

ABOVE = [0, 0, 1, 1, 1, 0, 2, 2]


@pytest.mark.parametrize(
    ("done", "row", "why"),
    [
        ([], ABOVE, "nothing known: a copy"),
        ([0], [0, 1, 1, 1, 1, 0, 2, 2], "an early start keeps the end"),
        ([0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 2, 2], "a late start keeps the end"),
        ([0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1, 2, 2], "a run over a gap leads to what is ahead"),
        ([1], [1, 0, 1, 1, 1, 0, 2, 2], "a run that ends early gives way to what is above"),
        ([0] * 7, [0, 0, 0, 0, 0, 0, 0, 2], "the last run ends late"),
    ],
)
def test_boundaries_ahead_stay_where_they_are(done, row, why):
    assert complete_row(ABOVE, done, 3) == row, why


def test_a_label_under_way_is_taken_up():
    assert complete_row([0, 0, 0, 0], [0], 3, fitting=[2]) == [0, 2, 2, 2]
    assert complete_row(ABOVE, [0, 0], 3, fitting=[2]) == [0, 0, 2, 2, 2, 0, 2, 2]  # another object in its place


def test_digits_under_way_are_taken_up():
    above = [0] * 4 + [1] * 13 + [0] * 4
    assert complete_row(above, [0] * 3, 2, fitting=[1], counts=[1, 10, 11, 12, 13, 14, 15, 16, 17, 18]) == (
        [0] * 3 + [1] * 14 + [0] * 4
    )
    assert complete_row(above, [0] * 3, 2, fitting=[1], counts=[2]) == [0] * 3 + [1] * 2 + [0] * 16


def test_after_a_short_count_the_label_changes():
    """A run whose count ends it within the same label above must not merge with what is copied from above."""
    assert complete_row([1, 1, 1, 1], [], 2, fitting=[1], counts=[2]) == [1, 1, 0, 0]


LABELS = ("others", "dog", "dog house")


@pytest.mark.parametrize(
    ("written", "rows", "draft"),
    [
        (" ", 1, "others *4\n"),
        (" others", 2, " *4\n others *4\n"),
        (" others *4\n", 9, " others *4\n others *4\n"),  # never more rows than the grid has
        (" others *1| dog *3\n", 1, " others *1| dog *3\n"),
        (" others *1| dog *3\n others *2|", 2, " dog *2\n others *2| dog *2\n"),
        (" others *1| dog *3\n others *", 1, "1| dog *3\n"),
        (" others *1| dog *3\n do", 1, "g *4\n"),
        (" others *1| dog *3\n dog h", 1, "ouse *1| dog *3\n"),
        (" others *1| dog *3\n others *1", 1, "| dog *3\n"),
        (" others *1| dog *3\n others *4\n others *4", 9, "\n"),
    ],
)
def test_draft_text(written, rows, draft):
    assert draft_text(written, (3, 4), LABELS, rows) == draft


def cells(*rows: str) -> np.ndarray:
    """(H, W, 3) logits: each digit is the label that leads at its cell, by 3; a "?" is label 1, which leads by 1."""
    scores = np.zeros((len(rows), len(rows[0]), len(LABELS)))
    for y, row in enumerate(rows):
        for x, char in enumerate(row):
            scores[y, x, 1 if char == "?" else int(char)] = 1.0 if char == "?" else 3.0
    return scores


@pytest.mark.parametrize(
    ("written", "draft"),
    [
        (" ", "others *4\n others *2| dog *2\n others *2| dog *2\n"),  # what the cells say
        (" others *4\n others *3", "| dog *1\n others *3| dog *1\n"),  # an unsure cell gives way, below as well
        (" others *4\n others *1|", " dog *3\n others *1| dog *3\n"),  # and a sure one that was wrong above
        (" others *4\n others *4\n", " others *4\n"),
        (" dog house *4\n", " dog house *4\n dog house *4\n"),
        (" dog house *1| others *3\n others *2| dog *1| ", "others *1\n others *2| dog *1| others *1\n"),
    ],
)
def test_cells_say_what_comes_and_the_text_overrules_them(written, draft):
    assert draft_text(written, (3, 4), LABELS, 9, cells("0000", "00??", "00??")) == draft


def test_a_sure_cell_below_an_unsure_one_is_what_it_says():
    assert expected_row([0, 0, 0, 1], 1, cells("00?1", "0011")) == [0, 0, 1, 1]
    assert expected_row([0, 0, 0, 1], 1, cells("00?1", "00?1")) == [0, 0, 0, 1]


@given(st.data())
def test_drafts_are_always_valid(data):
    """Whatever is written so far, what is drafted follows it by the grammar, and goes as far as it is asked to."""
    shape = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 24)))
    ids = np.array(data.draw(st.lists(st.integers(0, 2), min_size=2, max_size=60)))
    grid = codec.DescriptorGrid(np.resize(ids, shape), LABELS)
    text = " " + codec.encode(grid)
    written = text[: data.draw(st.integers(1, len(text) - 1))]
    rows = data.draw(st.integers(1, 6))
    scores = np.random.default_rng(data.draw(st.integers(0, 9))).normal(0, 3, (*shape, len(LABELS)))
    draft = draft_text(written, shape, LABELS, rows, data.draw(st.sampled_from([None, scores])))
    grammar = Grammar(shape, LABELS)
    try:
        state = grammar.advance(grammar.start, (written + draft)[1:])
    except CodecError as error:
        raise AssertionError(f"{draft!r} after {written!r}") from error
    assert state.row == min(shape[0], written.count("\n") + rows) and state.spelled == ""
