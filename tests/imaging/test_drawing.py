"""Pictures: right size, right place, right colour; and colours that can be distinguished."""

from __future__ import annotations

import numpy as np
from PIL import Image

from t4s.codec import DescriptorGrid
from t4s.imaging import drawing

GRID = DescriptorGrid(np.array([[0, 1], [2, 2]]), ("others", "dog", "cat"))
PHOTO = np.full((40, 60, 3), 100, np.uint8)


def at(picture: Image.Image, row: int, column: int) -> tuple[int, ...]:
    return picture.getpixel((column, row))


def test_colours_are_distinct_and_the_first_seven_are_seen_by_everyone():
    assert len({drawing.colour(index) for index in range(64)}) == 64
    assert drawing.colour(0) == drawing.OTHERS_COLOUR
    # red-green blindness, roughly: only the mean of red and green, and blue, remain (and vice versa for lightness)
    seen = [((r + g) / 2, b) for r, g, b in map(drawing.colour, range(1, 8))]
    gaps = [np.hypot(a[0] - b[0], a[1] - b[1]) for i, a in enumerate(seen) for b in seen[:i]]
    assert min(gaps) > 15


def test_overlay_tints_the_mask_alone():
    mask = np.zeros((40, 60), bool)
    mask[10:30, 20:40] = True
    picture = drawing.overlay(PHOTO, {"dog": mask}, opacity=0.5, outline=False)
    assert picture.size == (60, 40)
    assert at(picture, 5, 5) == (100, 100, 100)
    assert at(picture, 20, 30) == tuple(round((100 + c) / 2) for c in drawing.colour(1))
    outlined = drawing.overlay(PHOTO, {"dog": mask}, opacity=0)
    assert at(outlined, 10, 20) == drawing.colour(1) and at(outlined, 20, 30) == (100, 100, 100)


def test_an_outline_is_not_drawn_along_the_photos_border():
    picture = drawing.overlay(PHOTO, {"wall": np.ones((40, 60), bool)}, opacity=0)
    assert set(picture.getcolors()) == {(2400, (100, 100, 100))}


def test_overlay_of_a_grid_and_of_masks_agree_in_colour():
    picture = drawing.overlay(PHOTO, GRID, opacity=1, outline=False)
    assert at(picture, 5, 50) == drawing.colour(1) and at(picture, 30, 5) == drawing.colour(2)
    cat = {"cat": np.ones((40, 60), bool)}  # the dog has no mask; the cat must keep its colour
    alone = drawing.overlay(PHOTO, cat, opacity=1, outline=False, colours=drawing.label_colours(GRID))
    assert at(alone, 5, 5) == drawing.colour(2)


def test_the_photo_is_not_changed():
    photo = PHOTO.copy()
    drawing.overlay(photo, GRID)
    drawing.grid_picture(GRID, photo)
    assert (photo == 100).all()


def test_grid_picture_alone_and_over_a_photo():
    plain = drawing.grid_picture(GRID)
    assert plain.size == (48, 48)
    assert at(plain, 10, 30) == drawing.colour(1) and at(plain, 5, 5) == drawing.OTHERS_COLOUR
    over = drawing.grid_picture(GRID, PHOTO)
    assert over.size == (60, 40) and at(over, 5, 5) == (100, 100, 100) and at(over, 5, 50) != (100, 100, 100)
    assert drawing.grid_picture(GRID, size=(7, 3), lines=True).size == (3, 7)


def test_confidence_is_opacity():
    picture = drawing.grid_picture(GRID, confidence=np.array([[1, 0], [0.5, 1]]))
    assert at(picture, 10, 30) == drawing.PAPER
    half = at(picture, 30, 10)
    assert all(abs(h - (255 + c) / 2) <= 1 for h, c in zip(half, drawing.colour(2), strict=True))


def test_a_sheet_has_room_for_every_tile_and_takes_any_caption():
    red, tall = Image.new("RGB", (30, 30), (255, 0, 0)), Image.new("RGB", (10, 90), (0, 0, 255))
    tiles = [[("a" * 300, red), None], [("", tall)]]
    picture = drawing.sheet(tiles, tile=(60, 80), title="Ω and 漢字, <b>no markup</b>")
    assert picture.width == 2 * 86 + 6
    colours = {colour for _, colour in picture.getcolors(1 << 20)}
    assert (255, 0, 0) in colours and (0, 0, 255) in colours
    assert drawing.sheet([]).size == (6, 6)
