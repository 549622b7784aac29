"""The refiners' promises: nothing lost, nothing invented, sizes kept, mirrors obeyed, bad input refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t4s import codec
from t4s.codec import DescriptorGrid
from t4s.errors import CheckpointError, ImageError, QueryError
from t4s.refine.interpolate import bicubic, maps, nearest
from t4s.refine.refiner import NAMES, disagreements, refine, soft_grid

PLAIN = ("none", "smooth")
BUILT_IN = (*PLAIN, "guided", "edge")
LABELS = ("others", "dog", "cat", "grass")


@st.composite
def scenes(draw, cells: int = 9, pixels: int = 40):
    """A random grid and a random photo at least as large."""
    shape = draw(st.integers(1, cells)), draw(st.integers(1, cells))
    size = tuple(draw(st.integers(side, pixels)) for side in shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    blocks = rng.integers(0, len(LABELS), (3, 3))
    ids = blocks[np.arange(shape[0]) * 3 // shape[0]][:, np.arange(shape[1]) * 3 // shape[1]]
    ids = np.where(rng.random(shape) < 0.15, rng.integers(0, len(LABELS), shape), ids)
    return DescriptorGrid(ids, LABELS), rng.integers(0, 256, (*size, 3), dtype=np.uint8)


def mirrored(grid: DescriptorGrid) -> DescriptorGrid:
    return DescriptorGrid(grid.ids[:, ::-1], grid.labels)


def check(masks: dict[str, np.ndarray], grid: DescriptorGrid, photo: np.ndarray) -> None:
    present = {label for label in grid.labels[1:] if grid.label_mask(label).any()}
    assert set(masks) == present
    for label, mask in masks.items():
        assert mask.shape == photo.shape[:2] and mask.dtype == bool
        assert mask.any(), f"{label} has cells and no pixel"
    if masks:
        owners = sum(mask.astype(int) for mask in masks.values())
        assert owners.max() <= 1, "two masks share a pixel"
        if not grid.label_mask("others").any():
            assert owners.min() == 1, "a gap, though the grid has no others"


@pytest.mark.parametrize("name", PLAIN)
@settings(max_examples=100)
@given(scene=scenes())
def test_no_label_is_lost_and_a_mirror_changes_nothing(name, scene):
    grid, photo = scene
    masks = refine(name, photo, grid)
    check(masks, grid, photo)
    other = refine(name, photo[:, ::-1], mirrored(grid))
    for label, mask in masks.items():
        assert (other[label][:, ::-1] == mask).all()


@pytest.mark.parametrize("name", ("guided", "edge"))
@settings(max_examples=8)
@given(scene=scenes(pixels=24))
def test_refiners_that_look_at_the_photo_lose_no_label_either(name, scene):
    grid, photo = scene
    check(refine(name, photo, grid), grid, photo)


@pytest.mark.parametrize("name", ("guided", "edge"))
def test_a_mirrored_example_gives_nearly_the_mirrored_mask(name, examples, true_masks):
    for file in ("two_cats.jpg", "gull.jpg", "motorcycle.jpg"):
        photo = np.asarray(Image.open(examples / file).convert("RGB"))
        for label, truth in true_masks[file].items():
            grid = codec.grid_from_mask(truth, label)
            if grid.label_mask(label).sum() < 8:
                continue  # a single pixel weighs too much
            here = refine(name, photo, grid)[label]
            there = refine(name, photo[:, ::-1], mirrored(grid))[label][:, ::-1]
            assert (here & there).sum() / (here | there).sum() >= 0.95, (file, label)


def test_a_single_cell_that_smoothing_loses_comes_back():
    # Between two cell centres the bicubic peak of one cell is 0.56 each way, 0.32 in all: less than half.
    grid = DescriptorGrid(np.pad([[1]], 2), ("others", "dog"))
    photo = np.zeros((6, 6, 3), np.uint8)
    assert maps(bicubic(soft_grid(grid)[0], (6, 6)), 6)[1].max() < 0.5
    assert (refine("smooth", photo, grid)["dog"] == refine("none", photo, grid)["dog"]).all()


def test_giving_a_cell_back_never_empties_another_label():
    # A chessboard of single cells: each label is lost in turn, and each cell given back takes its neighbours' pixels.
    ids = np.arange(25).reshape(5, 5)
    grid = DescriptorGrid(ids, ("others", *(f"thing {i}" for i in range(1, 25))))
    for size in ((5, 5), (6, 7), (9, 5), (11, 13)):
        for name in ("none", "smooth", "guided"):
            masks = refine(name, np.zeros((*size, 3), np.uint8), grid)
            assert len(masks) == 24 and all(mask.any() for mask in masks.values())


def test_none_is_the_codec_where_no_centre_lies_between_two_cells():
    rng = np.random.default_rng(1)
    grid = DescriptorGrid(rng.integers(0, 4, (16, 16)), LABELS)
    masks = refine("none", np.zeros((48, 64, 3), np.uint8), grid)
    for label, mask in masks.items():
        assert (mask == codec.mask_from_grid(grid, label, (48, 64))).all()


def test_a_pixel_on_the_line_between_two_cells_is_shared():
    soft = np.array([[[1, 0]], [[0, 1]]], np.float32)
    assert maps(nearest(soft, (1, 3)), 1)[1].tolist() == [[0, 0.5, 1]]


def test_smooth_is_flat_in_a_flat_grid_and_halfway_between_two_cells():
    soft = np.array([[[1, 1, 0, 0]], [[0, 0, 1, 1]]], np.float32)
    row = maps(bicubic(soft, (1, 400)), 1)[1, 0]
    assert (row[:49] == 0).all() and np.abs(row[351:] - 1).max() < 1e-6
    assert np.abs(row + row[::-1] - 1).max() < 1e-6
    assert np.diff(row[150:250]).min() > 0


def test_masks_come_in_bands_for_large_photos(monkeypatch):
    rng = np.random.default_rng(3)
    grid = DescriptorGrid(rng.integers(0, 4, (8, 8)), LABELS)
    photo = rng.integers(0, 256, (67, 53, 3), dtype=np.uint8)
    whole = {name: refine(name, photo, grid) for name in ("none", "smooth", "guided")}
    monkeypatch.setattr("t4s.refine.refiner.BAND", 53 * 4 * 5)
    for name, masks in whole.items():
        for label, mask in refine(name, photo, grid).items():
            assert (mask != masks[label]).mean() < 1e-3, name  # guided: rounding at a tie


@pytest.mark.parametrize("name", ("guided", "edge"))
def test_pixels_that_are_not_painted_are_as_if_they_were(name, examples, true_masks, monkeypatch):
    """Away from the edges a pixel's label does not depend on its colour; with endless rounding, all are painted."""
    photo = np.asarray(Image.open(examples / "two_cats.jpg").convert("RGB"))
    grids = [codec.grid_from_mask(true_masks["two_cats.jpg"]["cat"], "cat")]
    grids.append(DescriptorGrid(grids[0].ids + np.arange(16) // 6, ("others", "cat", "left", "right")))
    some = [refine(name, photo, grid) for grid in grids]
    monkeypatch.setattr("t4s.refine.refiner.ROUNDING", np.inf)
    for grid, masks in zip(grids, some, strict=True):
        for label, mask in refine(name, photo, grid).items():
            np.testing.assert_array_equal(mask, masks[label])


def test_soft_grid_keeps_the_label_on_top_and_sends_doubt_to_the_neighbours():
    grid = DescriptorGrid(np.array([[0, 0, 1, 1], [0, 0, 1, 2]]), ("others", "dog", "cat", "absent"))
    sure = np.array([[1, 0, 0, 0.5], [1, 1, 0.5, 1]])
    soft, labels = soft_grid(grid, sure)
    assert labels == ("others", "dog", "cat")
    assert np.allclose(soft.sum(0), 1) and soft.min() >= 0
    assert (soft.argmax(0) == grid.ids).all()
    assert np.allclose(soft[:, 0, 1], [0.5, 0.5, 0])  # beside the dog: the doubt is about the dog
    assert np.allclose(soft[:, 0, 3], [0, 0.75, 0.25])  # beside the cat alone
    assert (soft_grid(grid)[0].argmax(0) == grid.ids).all()


def test_doubt_moves_the_edge_of_a_smooth_mask():
    grid = DescriptorGrid(np.array([[0, 0, 1, 1]]), ("others", "dog"))
    photo = np.zeros((4, 40, 3), np.uint8)
    plain = refine("smooth", photo, grid)["dog"].sum()
    doubtful = refine("smooth", photo, grid, np.array([[1, 1, 0.1, 1]]))["dog"].sum()
    assert doubtful < plain


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("size", [(1, 1), (3, 10_000), (10_000, 3), (5, 7), (1, 300)])
def test_odd_sizes(name, size):
    """Grids larger than the photo, photos that are lines or points: an answer of the photo's size, and no crash."""
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    grid = DescriptorGrid(np.arange(256).reshape(16, 16) % 3, ("others", "dog", "cat"))
    masks = refine(name, photo, grid)
    assert set(masks) == {"dog", "cat"} and all(mask.shape == size for mask in masks.values())


@pytest.mark.parametrize("name", BUILT_IN)
def test_full_frame_and_absent_targets(name):
    photo = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    full = DescriptorGrid(np.ones((8, 8), int), ("others", "wall"))
    assert refine(name, photo, full)["wall"].all()
    assert refine(name, photo, DescriptorGrid(np.zeros((8, 8), int), ("others", "dog"))) == {}


def test_edges_follow_the_photo_where_the_grid_cannot():
    """A bright disc whose edge no grid line meets: refiners that look must come closer to it than those that do not."""
    y, x = np.mgrid[:128, :160]
    truth = np.hypot(y - 61, x - 83) < 37
    photo = np.where(truth[..., None], (230, 200, 60), (40, 60, 120)).astype(np.uint8)
    grid = codec.grid_from_mask(truth, "disc")
    scores = {}
    for name in BUILT_IN:
        mask = refine(name, photo, grid)["disc"]
        scores[name] = (mask & truth).sum() / (mask | truth).sum()
    assert scores["none"] < scores["smooth"] < scores["guided"]
    assert scores["edge"] > 0.97 and scores["guided"] > 0.95


def test_photos_in_turn_are_refined_as_each_alone():
    """What `edge` sees in a photo is kept for the next phrase, and must not be taken for another photo's."""
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(2)]
    grids = [codec.grid_from_mask(rng.random((16, 16)) > 0.5, "cat", (16, 16)) for _ in range(2)]
    alone = [refine("edge", photo, grid)["cat"] for photo in photos for grid in grids]
    in_turn = [refine("edge", photo, grid)["cat"] for grid in grids for photo in photos]
    for one, at in zip(alone, (0, 2, 1, 3), strict=True):
        np.testing.assert_array_equal(one, in_turn[at])
    assert (alone[0] != alone[2]).any()


def test_unknown_refiners_and_wrong_arrays_are_refused():
    photo, grid = np.zeros((8, 8, 3), np.uint8), DescriptorGrid(np.ones((2, 2), int), ("others", "dog"))
    with pytest.raises(QueryError, match="none, smooth, guided, crf, edge, sam"):
        refine("grabcut", photo, grid)
    for wrong in ("sam:", ""):
        with pytest.raises(QueryError, match="sam:SOURCE"):
            refine(wrong, photo, grid)
    for bad in (photo.astype(float), photo[..., 0], np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4, 4), np.uint8)):
        with pytest.raises(ImageError, match="uint8"):
            refine("none", bad, grid)
    for bad in (np.ones((3, 3)), np.full((2, 2), 1.5), np.full((2, 2), np.nan)):
        with pytest.raises(QueryError, match="from 0 to 1"):
            refine("none", photo, grid, bad)


def test_a_missing_crf_package_is_said_and_nothing_stands_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    grid = DescriptorGrid(np.ones((2, 2), int), ("others", "dog"))
    with pytest.raises(CheckpointError, match="pip install pydensecrf2"):
        refine("crf", np.zeros((8, 8, 3), np.uint8), grid)


def test_crf_gives_soft_masks_that_sum_to_one(examples, true_masks):
    pytest.importorskip("pydensecrf")
    photo = np.asarray(Image.open(examples / "two_cats.jpg").convert("RGB"))
    truth = true_masks["two_cats.jpg"]["cat"]
    grid = codec.grid_from_mask(truth, "cat")
    from t4s.refine.crf import paint_crf

    soft = maps(paint_crf(photo, soft_grid(grid)[0]), len(photo))
    assert soft.shape == (2, *photo.shape[:2]) and np.allclose(soft.sum(0), 1, atol=1e-4)
    mask = refine("crf", photo, grid)["cat"]
    assert (mask & truth).sum() / (mask | truth).sum() > 0.7


def test_disagreement_is_reported_with_its_cell_and_only_below_the_bound():
    grid = DescriptorGrid(np.array([[0, 0], [0, 1]]), ("others", "dog"))
    cells = codec.mask_from_grid(grid, "dog", (20, 20))
    assert disagreements(grid, {"dog": cells}) == ()
    fault = disagreements(grid, {"dog": ~cells})[0]
    assert (fault.row, fault.column) == (1, 1) and "'dog'" in fault.message and "0%" in fault.message
    assert len(disagreements(grid, {"dog": np.zeros((20, 20), bool)})) == 1


def test_the_names_are_all_there():
    assert NAMES == ("none", "smooth", "guided", "crf", "edge", "sam")
