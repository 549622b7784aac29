"""The text format: nothing is lost on the way there and back, and no text, however broken, costs more than it must.

The decoder in here (`second_decoder`) was written from the specification with regular expressions and
shares no line with the codec's own.
"""

from __future__ import annotations

import pickle
import re
import time

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from t4s import CodecError, QueryError, codec
from t4s.codec import DescriptorGrid
from t4s.codec.coverage import cell_areas, coverage
from t4s.codec.labels import is_clean
from t4s.codec.rle import _decode_slowly, _decode_valid

# ---------------------------------------------------------------- strategies


def _label(text: str) -> str | None:
    try:
        return codec.clean_label(text)
    except QueryError:
        return None


labels_st = st.lists(
    st.one_of(
        st.text(min_size=1, max_size=12).map(_label),
        st.sampled_from(
            [
                "dog",
                "the dog on the left",
                "3 dogs",
                "16",
                "seg",
                "狗",
                "собака",
                "👩‍👩‍👧",
                "e\u0301",
                ") dog",
                ".",
                "other",
            ]
        ),
    ).filter(bool),
    max_size=6,
    unique=True,
).map(lambda found: ("others", *found))


@st.composite
def grids(draw: st.DrawFn, max_side: int = 64) -> DescriptorGrid:
    """Any shape and any labels; cells in runs and columns (as masks have them) or pure noise."""
    labels = draw(labels_st)
    h, w = draw(st.integers(1, max_side)), draw(st.integers(1, max_side))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = rng.integers(0, len(labels), (h, w))
    if draw(st.booleans()):
        block = draw(st.integers(1, 16))
        ids = np.kron(ids, np.ones((block, block), int))[:h, :w]
    return DescriptorGrid(ids, labels)


def cells(grid: DescriptorGrid) -> list[list[str]]:
    return [[grid.labels[i] for i in row] for row in grid.ids]


# ---------------------------------------------------------------- there and back


def second_decoder(text: str, layout: str, width: int) -> list[list[str]]:
    """The label of every cell, read with regular expressions from a text known to be valid."""
    if layout == "full":
        return [line.split("| ") for line in re.split("\n ", text[:-1])]
    flat = [
        label for label, n in re.findall(r"(?:^|\| |\n )([^|*\n]+) \*([1-9]\d*)(?=\||\n)", text) for _ in range(int(n))
    ]
    return [flat[i : i + width] for i in range(0, len(flat), width)]


@given(grids(), st.sampled_from(codec.LAYOUTS))
@settings(max_examples=300)
def test_every_grid_survives_in_every_layout(grid, layout):
    text = codec.encode(grid, layout)
    back = codec.decode(text, grid.shape, layout)
    assert back == grid and hash(back) == hash(grid)
    assert cells(back) == cells(grid) == second_decoder(text, layout, grid.shape[1])
    assert codec.encode(back, layout) == text
    if layout != "image":
        assert codec.decode(text, layout=layout) == grid


@given(grids(), st.sampled_from(["rows", "image"]))
def test_the_quick_decoder_reads_every_valid_text(grid, layout):
    """It may leave a text to the slow one; if it did so for valid ones, only the speed would be lost, unnoticed."""
    text = codec.encode(grid, layout)
    shapes = [grid.shape] if layout == "image" else [grid.shape, None]
    for shape in shapes:
        quick = _decode_valid(text, shape, layout)
        slow = _decode_slowly(text, shape, layout)
        assert quick is not None and quick.labels == slow.labels and np.array_equal(quick.ids, slow.ids)
        assert quick.ids.dtype == np.int32 and not quick.ids.flags.writeable


@given(grids(max_side=20))
def test_text_follows_the_specification_to_the_letter(grid):
    text = codec.encode(grid)
    assert text.endswith("\n") and "<seg>" not in text
    rows = text[:-1].split("\n ")
    assert len(rows) == grid.shape[0]
    for row, line in zip(cells(grid), rows, strict=True):
        runs = [run.rsplit(" *", 1) for run in line.split("| ")]
        assert sum(int(n) for _, n in runs) == len(row)
        assert all(a[0] != b[0] for a, b in zip(runs, runs[1:], strict=False)), "runs are maximal"


def test_the_worked_examples_of_the_docstring():
    grid = DescriptorGrid([[0] * 6, [0, 0, 1, 1, 1, 0], [0] * 6], ("others", "dog"))
    assert codec.encode(grid) == "others *6\n others *2| dog *3| others *1\n others *6\n"
    assert codec.encode(grid, "image") == "others *8| dog *3| others *7\n"
    assert codec.encode(grid, "full").startswith(
        "others| others| others| others| others| others\n others| others| dog| dog| dog| others\n o"
    )


@given(grids(max_side=12), st.sampled_from(codec.LAYOUTS), st.data())
@settings(max_examples=300)
def test_whatever_decode_takes_is_what_encode_writes(grid, layout, data):
    """One edit anywhere: either it is refused, or it is again the one spelling of some grid."""
    text = codec.encode(grid, layout)
    at = data.draw(st.integers(0, len(text)))
    edited = text[:at] + data.draw(
        st.sampled_from(["", " ", "|", "*", "\n", "1", "0", "others", "\r", "\u2028", "-", "١"])
    )
    edited += text[at + data.draw(st.integers(0, 3)) :]
    try:
        back = codec.decode(edited, grid.shape, layout)
    except CodecError as error:
        assert error.reason and 0 <= error.row <= grid.shape[0] and 0 <= error.column <= grid.shape[1]
    else:
        assert codec.encode(back, layout) == edited


def test_a_full_frame_object_is_not_background():
    """Published code takes the commonest, or the first, label for the background, and the elephant is gone."""
    grid = codec.grid_from_mask(np.ones((50, 70), bool), "elephant", (4, 4))
    assert codec.encode(grid) == "elephant *4\n elephant *4\n elephant *4\n elephant *4\n"
    for back in (codec.decode(codec.encode(grid)), codec.repair(codec.encode(grid)[:-1], (4, 4))[0]):
        assert back.labels == ("others", "elephant") and back.label_mask("elephant").all()
        assert codec.mask_from_grid(back, "elephant", (50, 70)).all()


def test_an_absent_target_is_others_alone():
    grid = codec.grid_from_mask(np.zeros((5, 5), bool), "unicorn", (2, 3))
    assert codec.encode(grid) == "others *3\n others *3\n" and grid.labels == ("others", "unicorn")
    back = codec.decode(codec.encode(grid))
    assert back == grid and back.labels == ("others",)
    assert not codec.mask_from_grid(back, "unicorn", (5, 5)).any()


def test_decode_numbers_labels_by_first_appearance():
    assert codec.decode("cat *1| others *1\n ant *2\n").labels == ("others", "cat", "ant")


# ---------------------------------------------------------------- labels and grids


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("dog", "dog"),
        ("  the  dog\ton the\nleft ", "the dog on the left"),
        ("a|b*c<d>e", "a b c d e"),
        ("</seg>dog", "/seg dog"),
        ("dog\u2028cat\x85ant\x00bee", "dog cat ant bee"),
        ("dog\ud800", "dog"),  # a lone surrogate could not be written to a file
        ("Dog", "Dog"),
        ("others too", "others too"),
        ("the\u00a0dog", "the dog"),
    ],
)
def test_clean_label(text, label):
    assert codec.clean_label(text) == label == codec.clean_label(label)


@pytest.mark.parametrize("text", ["", "  ", "|*<>", "\n", "others", " others ", "Others", "<others>"])
def test_labels_that_cannot_be(text):
    with pytest.raises(QueryError, match="empty|reserved"):
        codec.clean_label(text)


@given(st.text())
def test_clean_labels_are_always_accepted(text):
    label = _label(text)
    assume(label)
    assert DescriptorGrid([[1]], ("others", label)).labels[1] == label
    assert not set(label) & set("|*<>\n\r")


@pytest.mark.parametrize(
    ("ids", "labels", "complaint"),
    [
        ([[0]], (), "first label"),
        ([[0]], ("dog", "others"), "first label"),  # by name, never by position
        ([[0]], ("others", "dog", "dog"), "differ"),
        ([[0]], ("others", "a|b"), "clean"),
        ([[0]], ("others", "Others"), "clean"),
        ([[0]], ("others", ""), "clean"),
        ([[0]], ("others", 3), "clean"),
        ([[0, 2]], ("others", "dog"), "id 2"),
        ([[0, -1]], ("others", "dog"), "id -1"),
        ([0, 1], ("others", "dog"), "2-D"),
        ([[0.0]], ("others",), "integers"),
        (np.zeros((0, 4), int), ("others",), "1 to 64"),
        (np.zeros((65, 4), int), ("others",), "1 to 64"),
    ],
)
def test_grids_that_cannot_be(ids, labels, complaint):
    with pytest.raises(CodecError, match=complaint):
        DescriptorGrid(ids, labels)


def test_a_bad_id_is_named_by_its_place():
    with pytest.raises(CodecError) as caught:
        DescriptorGrid([[0, 0], [0, 7]], ("others",))
    assert (caught.value.row, caught.value.column) == (1, 1)
    assert pickle.loads(pickle.dumps(caught.value)).row == 1


def test_long_labels_are_not_kept_in_memory():
    """Checked labels are cached; texts of 200 kB in one label would have filled it with gigabytes."""
    from t4s.codec import labels

    before = labels._is_clean_cached.cache_info().currsize
    assert all(is_clean("a" * (1000 + i)) for i in range(10))
    assert labels._is_clean_cached.cache_info().currsize == before


def test_grids_are_values():
    one = DescriptorGrid([[0, 1, 2]], ("others", "cat", "dog"))
    same = DescriptorGrid(np.array([[0, 3, 1]], np.uint8), ["others", "dog", "unused", "cat"])
    assert one == same and hash(one) == hash(same) and len({one, same}) == 1
    assert one != DescriptorGrid([[0, 2, 1]], ("others", "cat", "dog"))
    assert one != DescriptorGrid([[0], [1], [2]], ("others", "cat", "dog"))
    assert one != DescriptorGrid([[0, 1, 2]], ("others", "cat", "bee")) and one != "others *3\n"


def test_grids_cannot_be_changed_behind_their_back():
    ids = np.zeros((2, 2), int)
    grid = DescriptorGrid(ids, ("others", "dog"))
    ids[0, 0] = 1
    assert not grid.ids.any()
    for copy in (grid, pickle.loads(pickle.dumps(grid))):
        assert copy == grid
        with pytest.raises(ValueError, match="read-only"):
            copy.ids[0, 0] = 1


# ---------------------------------------------------------------- pixels and cells


def areas(class_map: np.ndarray, shape: tuple[int, int], ids: list[int]) -> np.ndarray:
    """(H, W, ids): exact areas, by blowing every pixel up to H×W and counting."""
    (h, w), (rows, columns) = class_map.shape, shape
    big = np.kron(class_map, np.ones((rows, columns), int))
    return np.stack([(big == i).reshape(rows, h, columns, w).sum((1, 3)) for i in ids], -1)


@st.composite
def class_maps(draw: st.DrawFn):
    h, w = draw(st.integers(1, 23)), draw(st.integers(1, 23))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ids = draw(st.permutations([-1, 0, 1, 7, 200]))
    return rng.choice(ids, (h, w), p=[0.5, 0.3, 0.15, 0.04, 0.01]), draw(
        st.tuples(st.integers(1, 9), st.integers(1, 9))
    )


@given(class_maps())
@settings(max_examples=300)
def test_cells_take_the_class_that_covers_most(case):
    """Also when the photo is smaller than the grid or no multiple of it."""
    class_map, shape = case
    names = {7: "dog", 200: "others", 0: "cat"}  # 1 is unnamed: background; -1 is ignored
    grid = codec.grid_from_classes(class_map, names, shape, ignore=(-1,))
    assert grid.labels == ("others", "dog", "cat")
    cover = areas(np.where(class_map == 1, 200, class_map), shape, [200, 7, 0])
    changed = grid.ids != cover.argmax(-1)
    assert changed.sum() <= 2 and (grid.ids[changed] > 0).all()  # only to save a label
    dog, cat = cover[..., 1] > 0, cover[..., 2] > 0
    for label, here in ((1, dog), (2, cat)):
        assert (cover[..., label][grid.ids == label] > 0).all()
        if here.any() and (dog | cat).sum() > 1:
            assert (grid.ids == label).any()  # it is in the photo, so it is in the grid


@given(class_maps())
def test_few_and_many_classes_are_counted_alike(case):
    """Few ids are compared one by one, many are looked up in a table: the same exact areas."""
    class_map, shape = case
    few = {-1: 1, 7: 2, 200: 3}
    unused = {1000 + i: 4 for i in range(20)}
    expected = areas(np.where(np.isin(class_map, list(few)), class_map, 0), shape, [0, -1, 7, 200])
    assert np.array_equal(coverage(class_map, few, 4, shape), expected)
    many = coverage(class_map, few | unused, 5, shape)
    assert np.array_equal(many[..., :4], expected) and not many[..., 4].any()


@pytest.mark.parametrize("size", [(1, 1), (3, 5000), (5000, 3), (4099, 70), (16, 16), (17, 31)])
def test_areas_are_exact_at_any_size(size):
    """Bands of more than 255 rows must not overflow, and a pixel may span several cells."""
    mask = np.random.default_rng(0).random(size) < 0.7
    found = cell_areas(mask, (16, 7))
    assert found.sum() == mask.sum() * 16 * 7
    top = sum(int(row.sum()) * max(0, min(size[0], 16 * y + 16) - 16 * y) for y, row in enumerate(mask))
    assert found[0].sum() == top * 7
    assert (cell_areas(np.ones(size, bool), (16, 7)) == size[0] * size[1]).all()


def test_a_24_bit_colour_map_is_counted():
    """White is 0xffffff: the span of ids from black to white was called too wide."""
    class_map = np.where(np.arange(64).reshape(8, 8) < 32, 0, 0xFFFFFF)
    grid = codec.grid_from_classes(class_map, {0: "others", 0xFFFFFF: "dog"}, (2, 2))
    assert codec.encode(grid) == "others *2\n dog *2\n"


def test_a_speck_keeps_its_best_cell():
    mask = np.zeros((160, 160), bool)
    mask[35, 38:42] = True  # two pixels of four either side of a cell's edge, and a fifth
    mask[36, 40] = True
    grid = codec.grid_from_mask(mask, "bird")
    assert np.argwhere(grid.ids).tolist() == [[3, 4]]


def test_specks_do_not_push_each_other_out():
    """ant wins cells 0 and 1; bee and cow are specks in 0, cow in 3 too: each gets a cell, ant keeps one."""
    class_map = np.zeros((10, 20), int)
    class_map[:, :10] = 1
    class_map[0, 0:2] = 2
    class_map[1, 0:5] = 3
    class_map[1, 19] = 3
    grid = codec.grid_from_classes(class_map, {0: "others", 1: "ant", 2: "bee", 3: "cow"}, (1, 4))
    assert grid.ids.tolist() == [[2, 1, 0, 3]]


def test_an_owner_makes_room_where_it_can():
    """bee lies in ant's only cell and nowhere else; ant also touches the next cell, and moves there."""
    class_map = np.zeros((4, 8), int)
    class_map[:, :5] = 1
    class_map[0, 0] = 2
    names = {1: "ant", 2: "bee"}
    assert codec.grid_from_classes(class_map, names, (1, 2)).ids.tolist() == [[2, 1]]
    class_map[:, 4] = 0  # now it does not: one cell, two labels, and the larger stays
    assert codec.grid_from_classes(class_map, names, (1, 2)).ids.tolist() == [[1, 0]]


def test_ignored_pixels_count_for_nobody():
    class_map = np.full((4, 8), 255)
    class_map[0, 0] = 1  # one labelled pixel in a cell of ignored ones
    grid = codec.grid_from_classes(class_map, {1: "dog", 255: "void"}, (1, 2), ignore=(255,))
    assert grid.ids.tolist() == [[1, 0]]


def test_background_is_found_by_name():
    class_map = np.array([[5, 5, 9, 0]])
    grid = codec.grid_from_classes(class_map, {5: "sky", 9: "others", 0: "sky"}, (1, 4))
    assert cells(grid) == [["sky", "sky", "others", "sky"]] and grid.labels == ("others", "sky")


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.int64])
def test_ids_of_every_integer_type(dtype):
    class_map = np.array([[1, 100, 3]], dtype)
    grid = codec.grid_from_classes(class_map, {100: "dog", 1: "cat"}, (1, 3), ignore=(-1, 255))
    assert cells(grid) == [["cat", "dog", "others"]]


@pytest.mark.parametrize(
    "call",
    [
        lambda: codec.grid_from_mask(np.zeros((4, 4)), "dog"),
        lambda: codec.grid_from_mask(np.full((4, 4), 255, np.uint8), "dog"),
        lambda: codec.grid_from_mask(np.zeros((4, 4, 3), bool), "dog"),
        lambda: codec.grid_from_mask(np.zeros((0, 4), bool), "dog"),
        lambda: codec.grid_from_mask(np.zeros((4, 4), bool), "dog", (0, 4)),
        lambda: codec.grid_from_mask(np.zeros((4, 4), bool), "dog", (4, 65)),
        lambda: codec.grid_from_mask(np.zeros((4, 4), bool), "dog", (4,)),
        lambda: codec.grid_from_classes(np.zeros((4, 4)), {}),
        lambda: codec.grid_from_classes(np.zeros((4, 4), bool), {}),
        lambda: codec.grid_from_classes(np.zeros((0, 4), int), {}),
        lambda: codec.grid_from_classes(np.zeros((4, 4), int), {0: "a", 1 << 30: "b"}),
        lambda: codec.mask_from_grid(DescriptorGrid([[0]], ("others",)), "dog", (0, 5)),
        lambda: codec.encode(DescriptorGrid([[0]], ("others",)), "columns"),
        lambda: codec.decode("others *1\n", layout="columns"),
        lambda: codec.decode("others *1\n", layout="image"),  # its shape is not in the text
        lambda: codec.decode("others *1\n", (0, 1)),
        lambda: codec.repair("", (0, 1)),
    ],
)
def test_arguments_that_cannot_be(call):
    with pytest.raises(CodecError):
        call()


@given(grids(max_side=9), st.integers(1, 40), st.integers(1, 40))
def test_nearest_mask_has_the_cells_of_the_grid(grid, h, w):
    """The pixel's centre decides; checked against exact fractions."""
    for label in grid.labels:
        mask = codec.mask_from_grid(grid, label, (h, w))
        assert mask.shape == (h, w) and mask.dtype == bool
        for y, x in ((0, 0), (h // 2, w // 3), (h - 1, w - 1)):
            row, column = int((y + 0.5) / h * grid.shape[0]), int((x + 0.5) / w * grid.shape[1])
            assert mask[y, x] == (grid.labels[grid.ids[row, column]] == label)


@given(grids(max_side=9), st.integers(1, 5), st.integers(0, 3))
def test_mask_and_grid_agree(grid, factor, more):
    """grid → masks → grid is the same grid, at any size that has a pixel for every cell."""
    size = (grid.shape[0] * factor, grid.shape[1] * (factor + more))
    class_map = sum(i * codec.mask_from_grid(grid, label, size) for i, label in enumerate(grid.labels))
    assert codec.grid_from_classes(np.asarray(class_map, int), dict(enumerate(grid.labels)), grid.shape) == grid


# ---------------------------------------------------------------- malformed text, strictly

GOOD = "others *4\n dog *2| cat *2\n others *4\n"

MALFORMED = [
    # text, (row, column) of the fault, a word of the reason
    ("", (0, 0), "ends after 0"),  # no rows
    ("\n", (0, 0), "run is missing"),
    ("others *4\n dog *2| cat *2\n", (2, 0), "ends after 2"),  # too few rows
    ("others *4\n others *4\n others *4\n others *4\n", (3, 0), "more rows"),
    (GOOD + "\n", (3, 0), "more rows"),  # a blank line after the end
    (GOOD[:-1], (2, 4), "cut off"),  # only the last line break is missing
    ("others *4\n dog *2| ca", (1, 2), "cut off within"),  # mid-word
    ("others *4\n dog *2| cat *", (1, 2), "cut off within"),
    ("others *4\n dog *2| ", (1, 2), "cut off within"),
    ("others *4\n dog *2", (1, 2), "cut off"),
    ("others *4\n dog *2| cat *1\n others *4\n", (1, 3), "add up to 3"),  # short row
    ("others *4\n dog *2| cat *3\n others *4\n", (1, 2), "goes past"),  # long row
    ("others *5\n dog *2| cat *2\n others *4\n", (0, 0), "goes past"),
    ("others *4\n dog *2| cat *0\n others *4\n", (1, 2), "whole number"),
    ("others *4\n dog *2| cat *-2\n others *4\n", (1, 2), "whole number"),
    ("others *4\n dog *2| cat *+2\n others *4\n", (1, 2), "whole number"),
    ("others *4\n dog *2| cat *02\n others *4\n", (1, 2), "whole number"),  # leading zero
    ("others *4\n dog *2| cat *２\n others *4\n", (1, 2), "whole number"),  # full-width digit
    ("others *4\n dog *2| cat *2.\n others *4\n", (1, 2), "whole number"),
    ("others *4\n dog *2| cat *\n others *4\n", (1, 2), "whole number"),  # missing count
    ("others *4\n dog *2| cat\n others *4\n", (1, 2), "no ' \\*'"),
    ("others *4\n dog *2| cat*2\n others *4\n", (1, 2), "no ' \\*'"),  # missing space
    ("others *4\n dog *2| cat * 2\n others *4\n", (1, 2), "whole number"),
    ("others *4\n dog *2| cat  *2\n others *4\n", (1, 2), "clean label"),
    ("others *4\n dog *2|cat *2\n others *4\n", (1, 0), "clean label"),  # missing space after |
    ("others *4\n dog *2|  cat *2\n others *4\n", (1, 2), "clean label"),
    ("others *4\n dog *2| | cat *2\n others *4\n", (1, 2), "run is missing"),
    ("others *4\n dog *2| cat *2| \n others *4\n", (1, 4), "run is missing"),  # trailing separator
    ("others *4\n dog *2, cat *2\n others *4\n", (1, 0), "clean label"),
    ("others *4\ndog *2| cat *2\n others *4\n", (1, 0), "one space"),  # no space after the line break
    ("others *4\n  dog *2| cat *2\n others *4\n", (1, 0), "clean label"),
    (" others *4\n dog *2| cat *2\n others *4\n", (0, 0), "clean label"),  # one before the first row
    ("others *4\r\n dog *2| cat *2\r\n others *4\r\n", (0, 0), "whole number"),
    ("others *4\n\n dog *2| cat *2\n others *4\n", (1, 0), "one space"),  # a blank line between
    ("others *4\n dog *2| dog *2\n others *4\n", (1, 2), "neighbouring"),
    ("others *4\n dog *2| *2\n others *4\n", (1, 2), "no ' \\*'"),  # no label
    ("others *4\n dog *2|  *2\n others *4\n", (1, 2), "clean label"),
    ("others *4\n dog *2| c<at *2\n others *4\n", (1, 2), "clean label"),  # forbidden characters
    ("others *4\n dog *2| c*at *2\n others *4\n", (1, 2), "clean label"),
    ("others *4\n dog *2| c\u2028at *2\n others *4\n", (1, 2), "clean label"),
    ("others *4\n dog *2| Others *2\n others *4\n", (1, 2), 'written "others"'),
    ("<seg>" + GOOD, (0, 0), "clean label"),  # the tags are no part of the text
    (GOOD + "</seg>", (3, 0), "more rows"),
    ("others *99999999999999999999999999\n", (0, 0), "goes past"),
    ("others *4\n dog *2| cat *" + "9" * 5000 + "\n others *4\n", (1, 2), "goes past"),  # beyond int()'s limit
]


@pytest.mark.parametrize(("text", "place", "word"), MALFORMED)
def test_decode_names_the_place_and_the_reason(text, place, word):
    with pytest.raises(CodecError, match=word) as caught:
        codec.decode(text, (3, 4))
    error = caught.value
    assert (error.row, error.column) == place
    assert f"row {place[0]}, column {place[1]}: {error.reason}" == str(error) and len(str(error)) < 200


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("others *4\n others *3\n", (1, 3), "row has 4"),  # the first row sets the width
        ("others *4\n others *5\n", (1, 0), "goes past the 4 cells"),
        ("others *65\n", (0, 0), "64"),
        ("others *60| dog *5\n", (0, 60), "64"),
        ("\n ".join(["others *1"] * 65) + "\n", (64, 0), "more rows than 64"),
        ("", (0, 0), "at least 1"),
    ],
)
def test_decode_without_a_shape(text, place, word):
    with pytest.raises(CodecError, match=word) as caught:
        codec.decode(text)
    assert (caught.value.row, caught.value.column) == place


@pytest.mark.parametrize(
    ("text", "layout", "place", "word"),
    [
        ("others *8| dog *3| others *8\n", "image", (1, 5), "goes past"),
        ("others *8| dog *3| others *6\n", "image", (2, 5), "add up to 17"),
        ("others *8| dog *3| dog *7\n", "image", (1, 5), "neighbouring"),
        ("others *8| dog *10", "image", (2, 5), "cut off"),
        ("others *8\n dog *10\n", "image", (1, 2), "add up to 8"),
        ("a| b| c| d| e| f\n a| b| c| d| e| f\n a| b| c| d| e\n", "full", (2, 5), "add up to 5"),
        ("a| b| c| d| e| f\n a| b| c| d| e| f| g\n", "full", (1, 6), "goes past"),
        ("a| b| c| d| e| f *1\n", "full", (0, 5), "clean label"),
        ("a| b| c| d| e| f\n a| b| c| d| e| f\n a| b| c| d| e| f", "full", (2, 6), "cut off"),
    ],
)
def test_decode_names_the_place_in_the_other_layouts(text, layout, place, word):
    with pytest.raises(CodecError, match=word) as caught:
        codec.decode(text, (3, 6), layout)
    assert (caught.value.row, caught.value.column) == place


# ---------------------------------------------------------------- malformed text, repaired


def rows(*lines: str) -> str:
    return "\n ".join(lines) + "\n"


BG, DC = "others *4", "dog *2| cat *2"

REPAIRED = [
    # text, what the grid then says, the rows that have faults
    # -- a faulty row is repaired in that row, and the rows below stay where they are
    (rows(BG, "dog *2| cat *1", DC), rows(BG, "dog *2| cat *1| others *1", DC), {1}),  # short
    (rows(BG, "dog *2| cat *7", DC), rows(BG, DC, DC), {1}),  # long, by one impossible count
    (rows(BG, "dog *2| cat *4", DC), rows(BG, DC, DC), {1}),  # long, by counts that are possible
    (rows(BG, "dog *2| cat *2| ant *1", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "dog *9| cat *1", DC), rows(BG, "dog *3| cat *1", DC), {1}),  # what follows is kept
    (rows(BG, "dog *2| cat *0", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "dog *-1| cat *2", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "dog *| cat *2", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "dog| cat *2", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "dog| cat", DC), rows(BG, DC, DC), {1}),  # known from elsewhere; they share the row
    (rows(BG, "dog *two| cat *2", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "dog *02| cat *２", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "others *4| dog *0", DC), rows(BG, BG, DC), {1}),  # no cell is left for it
    (rows(BG, "dog *1| dog *3", DC), rows(BG, "dog *4", DC), {1}),  # neighbours of one label
    (rows(BG, "dog *2| cat *2| ", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "dog *2| | cat *2", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "dog*2|cat  * 2 ", DC), rows(BG, DC, DC), {1}),  # spacing
    (rows(BG, "dog *2 cat *2", DC), rows(BG, DC, DC), {1}),  # separator missing
    (rows(BG, "dog *2cat *2", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "dog **2| cat *2.", DC), rows(BG, DC, DC), {1}),
    (rows(BG, "do<g *2| *2", DC), rows(BG, "do g *2| others *2", DC), {1}),  # label unclean, label missing
    (rows(BG, "OTHERS *2| cat *2", DC), rows(BG, "others *2| cat *2", DC), {1}),
    (rows(BG, "", DC), rows(BG, BG, DC), {1}),  # a blank line is a lost row
    (rows(BG, "%$ nothing here", DC), rows(BG, BG, DC), {1}),
    ("others *4\ndog *2| cat *2\n others *4\n", rows(BG, DC, BG), {1}),  # no space after the line break
    (" " + rows(BG, DC, BG), rows(BG, DC, BG), {0}),
    (rows(BG, DC, BG).replace("\n", "\r\n"), rows(BG, DC, BG), {0}),
    # -- a text that breaks off keeps every complete run
    (rows(BG, DC, BG)[:-1], rows(BG, DC, BG), {2}),
    ("others *4\n dog *2| ca", rows(BG, "dog *2| others *2", BG), {1, 2}),
    ("others *4\n dog *2| cat", rows(BG, "dog *2| others *2", BG), {1, 2}),  # it may go on: "cattle"
    ("others *4\n dog *2| cat *", rows(BG, "dog *2| cat *1| others *1", BG), {1, 2}),
    ("others *4\n dog *2| ", rows(BG, "dog *2| others *2", BG), {1, 2}),
    ("others *4\n dog *2", rows(BG, "dog *2| others *2", BG), {1, 2}),
    ("others *4\n ", rows(BG, BG, BG), {1, 2}),
    ("oth", rows(BG, BG, BG), {0, 1, 2}),
    ("", rows(BG, BG, BG), {0, 1, 2}),
    # -- rows missing, rows too many
    (rows(DC), rows(DC, BG, BG), {1, 2}),
    (rows(DC, BG, DC, DC, DC), rows(DC, BG, DC), {2}),
    ("\n " + rows(DC, BG, DC), rows(DC, BG, DC), {0}),  # a line break too many before, after, between
    (rows(DC, BG, DC) + "\n", rows(DC, BG, DC), {0}),
    (rows(DC, BG, DC) + " ", rows(DC, BG, DC), {2}),
    (rows(DC, BG, DC).replace("\n", "\n\n"), rows(DC, BG, DC), {0}),
    # -- rows that ran together, where that explains the missing rows
    (rows(DC + " " + BG, DC), rows(DC, BG, DC), {0}),
    (rows(DC + "| " + BG + "| " + DC), rows(DC, BG, DC), {0}),
    (rows(BG, "dog *2| cat *2| ant *4", BG), rows(BG, DC, BG), {1}),  # not here: no row is missing
    # -- tags and talk
    ("<seg>" + rows(DC, BG, DC) + "</seg>", rows(DC, BG, DC), {0}),
    ("It is <seg>" + rows(DC, BG, DC) + "</seg>. *Bye*!", rows(DC, BG, DC), {0}),
    (rows(DC, BG, DC)[:-1] + "</seg>", rows(DC, BG, DC), {0, 2}),
    (rows(DC, BG) + "</seg>", rows(DC, BG, BG), {0, 2}),
    ("Sorry, I cannot see a dog.", rows(BG, BG, BG), {0, 1, 2}),  # talk is no object
    ("Sorry, **I** cannot see a dog.\n", rows(BG, BG, BG), {0, 1, 2}),
    # -- a full-frame object stays an object, and no count makes us allocate
    (rows("dog *4", "dog *3", "dog *4"), rows("dog *4", "dog *3| others *1", "dog *4"), {1}),
    ("dog *999999999999\n dog *" + "9" * 5000 + "\n dog *4\n", rows("dog *4", "dog *4", "dog *4"), {0, 1}),
]


@pytest.mark.parametrize(("text", "meant", "faulty"), REPAIRED)
def test_repair_loses_as_little_as_possible(text, meant, faulty):
    grid, faults = codec.repair(text, (3, 4))
    assert codec.encode(grid) == meant
    assert {fault.row for fault in faults} == faulty
    assert all(0 <= fault.column < 4 and fault.message and len(fault.message) < 200 for fault in faults)
    assert list(faults) == sorted(faults, key=lambda fault: (fault.row, fault.column))


def test_a_fault_says_where_and_what_was_done():
    _, faults = codec.repair(rows(BG, "dog *2| cat *0| ant *1", BG), (3, 4))
    assert [(fault.row, fault.column) for fault in faults] == [(1, 2), (1, 2)]
    assert "'cat'" in faults[0].message and "became 1" in faults[0].message


@given(grids(max_side=16), st.data())
@settings(max_examples=300)
def test_a_broken_row_never_moves_another(grid, data):
    """The published decoder loses or shifts the whole mask for one bad row."""
    lines = codec.encode(grid)[:-1].split("\n ")
    at = data.draw(st.integers(0, len(lines) - 1))
    lines[at] = data.draw(st.text(alphabet="dog*|1 95-<x", max_size=30))
    back, _ = codec.repair("\n ".join(lines) + "\n", grid.shape)
    for row, (was, now) in enumerate(zip(cells(grid), cells(back), strict=True)):
        assert row == at or was == now


@given(grids(max_side=16), st.data())
@settings(max_examples=300)
def test_a_cut_text_keeps_every_complete_run(grid, data):
    text = codec.encode(grid)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    back, faults = codec.repair(cut, grid.shape)
    assert faults
    whole = cut.count("\n")
    was, now = cells(grid), cells(back)
    assert now[:whole] == was[:whole]
    last = cut[cut.rfind("\n") + 1 :]
    sure = sum(int(n) for n in re.findall(r"\*(\d+)\|", last))  # a count that "|" ends is complete
    if whole < grid.shape[0]:
        assert now[whole][:sure] == was[whole][:sure]
        for a, b in zip(now[whole], was[whole], strict=True):
            assert a in (b, "others")  # what is not there is never invented


@given(
    st.one_of(st.text(), st.text(alphabet="dog others*|1290 \n<seg/>-\r", max_size=200)),
    st.tuples(st.integers(1, 5), st.integers(1, 8)),
)
@example("\ud800 *3| \x00*2", (1, 5))
@settings(max_examples=1000)
def test_repair_takes_any_text_and_is_silent_only_about_perfect_ones(text, shape):
    grid, faults = codec.repair(text, shape)
    assert grid.shape == shape
    try:
        assert codec.decode(text, shape) == grid and not faults
    except CodecError:
        assert faults and all(0 <= f.row < shape[0] and 0 <= f.column < shape[1] for f in faults)
    assert codec.repair(codec.encode(grid), shape) == (grid, ())


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "|",
        "*",
        "\n",
        " ",
        "9",
        "dog *1",
        "dog *x| ",
        "others *16\n ",
        "*1",
        "<seg>",
        "</seg>",
        "\r",
        "dog *99999999| ",
    ],
)
def test_a_hundred_kilobytes_of_anything_take_no_time(unit):
    """Linear: a text ten times as long takes about ten times as long, not a hundred times."""
    text = unit * (100_000 // len(unit))
    start = time.perf_counter()
    grid, faults = codec.repair(text, (16, 16))
    assert time.perf_counter() - start < 5  # 0.2 s on a busy machine; quadratic would be minutes
    assert grid.shape == (16, 16) and 0 < len(faults) < 200
