"""Mask files as people have them: what is drawn is read, whatever the program, the mode and the format."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from t4s.errors import ImageError
from t4s.imaging.masks import read_mask

SIZE = (60, 80)
TRUTH = np.zeros(SIZE, bool)
TRUTH[10:45, 20:60] = True
TWO = TRUTH.astype(np.uint8)
TWO[50:57, 5:70] = 2
BLACK, WHITE, RED, BLUE = (0, 0, 0), (255, 255, 255), (220, 20, 30), (10, 30, 200)
EXAMPLE = "assets/examples/two_cats.jpg"


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def painted(*colours: tuple[int, ...], classes: np.ndarray = TRUTH) -> Image.Image:
    return Image.fromarray(np.array(colours, np.uint8)[classes.astype(int)])


def disc(inside: tuple[int, ...], outside: tuple[int, ...]) -> tuple[Image.Image, np.ndarray]:
    """An anti-aliased disc, and where it is more than half."""
    large = Image.new("L", (SIZE[1] * 8, SIZE[0] * 8))
    ImageDraw.Draw(large).ellipse((150, 60, 480, 400), fill=255)
    share = np.asarray(large.resize(SIZE[::-1], Image.Resampling.BOX), float)[..., None] / 255
    pixels = np.array(inside) * share + np.array(outside) * (1 - share)
    return Image.fromarray(pixels.round().astype(np.uint8)), share[..., 0] > 0.5


PALETTE = Image.fromarray(TWO)
PALETTE.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
CUT_OUT = np.random.default_rng(0).integers(1, 256, (*SIZE, 4), np.uint8)
CUT_OUT[..., 3] = 255 * TRUTH
TWO_VALUED = [
    ("1 bit", saved(Image.fromarray(TRUTH))),
    ("grey, 0 and 1", saved(Image.fromarray(TRUTH.astype(np.uint8)))),
    ("grey, 0 and 255", saved(Image.fromarray(TRUTH.astype(np.uint8) * 255))),
    ("16 bits", saved(Image.fromarray(TRUTH.astype(np.uint16) * 65_535))),
    ("white on black, RGB", saved(painted(BLACK, WHITE))),
    ("white on black, RGBA", saved(painted(BLACK, WHITE).convert("RGBA"))),
    ("white on black, BMP", saved(painted(BLACK, WHITE), "BMP")),
    ("red on white", saved(painted(WHITE, RED))),
    ("red on white, RGBA", saved(painted(WHITE, RED).convert("RGBA"))),
    ("red on black", saved(painted(BLACK, RED))),
    ("red on blue", saved(painted(BLUE, RED))),
    ("dark grey on light grey", saved(painted((230,) * 3, (90,) * 3).convert("L"))),
    ("red on nothing", saved(painted((0, 0, 0, 0), (*RED, 255)))),
    ("a cut-out", saved(Image.fromarray(CUT_OUT))),
    ("indexed", saved(Image.fromarray(TRUTH.astype(np.uint8)).convert("P"))),
    ("white on black, GIF", saved(painted(BLACK, WHITE), "GIF")),
]


@pytest.mark.parametrize("data", [case[1] for case in TWO_VALUED], ids=[case[0] for case in TWO_VALUED])
def test_a_picture_of_two_colours_is_a_mask(data):
    found = read_mask(data)
    assert len(found.values) == 1 and found.classes.dtype == np.int32
    assert np.array_equal(found.classes > 0, TRUTH)


@pytest.mark.parametrize("colours", [(WHITE, BLACK), (RED, WHITE), (RED, BLACK), ((90, 90, 90), WHITE)])
def test_smooth_edges_are_thresholded(colours):
    """Anti-aliasing made 14 to 58 "classes" of one object."""
    picture, truth = disc(*colours)
    for data in (saved(picture), saved(picture.convert("RGBA"))):
        found = read_mask(data)
        assert found.values == (1,) and "thresholded" in found.note
        assert (found.classes != truth).sum() <= 8  # of 4,800: levels at the threshold itself


def test_smooth_edges_of_every_depth_are_thresholded():
    picture, truth = disc(WHITE, BLACK)
    grey = np.asarray(picture.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    for data in (saved(Image.fromarray(grey)), saved(deep), saved(Image.fromarray(grey), "GIF")):
        found = read_mask(data)
        assert found.values == (1,) and (found.classes != truth).sum() <= 8


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize("colours", [(WHITE, BLACK), (RED, WHITE)])
def test_lossy_formats_are_thresholded(kind, colours):
    picture = painted(colours[1], colours[0])
    found = read_mask(saved(picture, kind, quality=75))
    assert found.values == (1,) and "lossy" in found.note
    assert (found.classes != TRUTH).sum() <= 12
    grey = read_mask(saved(painted(BLACK, WHITE).convert("L"), kind, quality=60))
    assert (grey.classes != TRUTH).sum() <= 12


def test_blurred_masks_and_ramps_are_thresholded():
    blurred = painted(BLACK, WHITE).convert("L").filter(ImageFilter.GaussianBlur(2))
    assert (read_mask(saved(blurred)).classes != TRUTH).sum() < 60
    ramp = np.tile(np.linspace(0, 255, 80).round().astype(np.uint8), (60, 1))
    assert np.array_equal(read_mask(saved(Image.fromarray(ramp))).classes, ramp > 127)


@pytest.mark.parametrize(
    ("image", "values"),
    [
        (Image.fromarray(TWO), (1, 2)),
        (Image.fromarray(TWO * 100), (100, 200)),
        (Image.fromarray(TWO.astype(np.uint16) * 300), (300, 600)),
        (PALETTE, (1, 2)),
        (painted(BLACK, RED, BLUE, classes=TWO), (0x0A1EC8, 0xDC141E)),
        (painted(WHITE, RED, BLUE, classes=TWO), (0x0A1EC8, 0xDC141E)),
    ],
)
def test_exact_numbers_and_colours_are_classes(image, values):
    found = read_mask(saved(image))
    assert found.values == values
    assert np.array_equal(found.classes > 0, TWO > 0) and len(np.unique(found.classes)) == 3


def test_small_classes_stay_classes():
    """Two pixels of a third class are no smooth edge."""
    classes = TWO * 100
    classes[3, 3:5] = 50
    assert read_mask(saved(Image.fromarray(classes))).values == (50, 100, 200)


def test_the_void_outline_of_voc_is_background():
    classes = TWO.copy()
    classes[9, :] = 255
    picture = Image.fromarray(classes)
    picture.putpalette([level for i in range(256) for level in (i, 255 - i, i)])
    found = read_mask(saved(picture))
    assert found.values == (1, 2) and not found.classes[9].any()


@pytest.mark.parametrize("dtype", [np.uint16, np.int32])
def test_many_instances_are_one_mask(dtype):
    """200 ids of 16 bits came out empty: all are dark if their upper 8 bits are taken for grey."""
    ids = np.kron(np.arange(200, dtype=dtype).reshape(10, 20), np.ones((6, 6), dtype))
    found = read_mask(saved(Image.fromarray(ids), "PNG" if dtype == np.uint16 else "TIFF"))
    assert found.values == (1,) and "199" in found.note
    assert np.array_equal(found.classes > 0, ids > 0)


def test_photos_are_refused_in_words():
    photo = Image.open(EXAMPLE)
    for data in (saved(photo, "JPEG"), saved(photo), saved(photo.convert("L")), saved(photo.convert("L"), "JPEG")):
        with pytest.raises(ImageError, match="looks like a photo"):
            read_mask(data)
    with pytest.raises(ImageError, match="fractions"):
        read_mask(saved(Image.new("F", (3, 3), 0.5), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_in_the_file_is_applied(orientation):
    """As for photos: a mask belongs to the upright photo."""
    method = Image.Transpose
    undo = [None, method.FLIP_LEFT_RIGHT, method.ROTATE_180, method.FLIP_TOP_BOTTOM]
    undo += [method.TRANSPOSE, method.ROTATE_90, method.TRANSVERSE, method.ROTATE_270]
    stored = painted(BLACK, WHITE)
    if undo[orientation - 1] is not None:
        stored = stored.transpose(undo[orientation - 1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    for options in ({"kind": "PNG"}, {"kind": "JPEG", "quality": 95}):
        found = read_mask(saved(stored, exif=exif, **options))
        assert found.classes.shape == SIZE and ((found.classes > 0) != TRUTH).sum() <= 8


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (9, 1)])
def test_tiny_masks(size):
    mask = np.zeros(size, np.uint8)
    mask[0, 0] = 255
    for image in (Image.fromarray(mask), Image.fromarray(mask).convert("RGB"), Image.fromarray(mask).convert("RGBA")):
        assert np.array_equal(read_mask(saved(image)).classes > 0, mask > 0)


def test_nothing_drawn():
    assert read_mask(saved(Image.new("L", (5, 4)))).values == ()
    assert read_mask(saved(Image.new("RGBA", (5, 4)))).values == ()
