"""Photos as people have them: every odd kind is opened as it looks, or refused with a sentence that helps."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, features

from t4s import ImageError
from t4s.imaging.loading import open_mask, open_photo, pixels_of
from t4s.imaging.masks import read_mask
from t4s.limits import MAX_BYTES, MAX_PIXELS


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int = 8, colour: int = 2, rows: bytes = b"", before: bytes = b"") -> bytes:
    """A PNG written by hand: any header, and as many rows as we like."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def text_bomb() -> bytes:
    packed = zlib.compress(bytes(200_000_000), 9)
    data = b"zTXt" + b"note\0\0" + packed
    return png(
        1, 1, rows=bytes(4), before=struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data))
    )


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
RED = Image.new("RGB", (6, 4), (250, 10, 20))
HALF = Image.fromarray(np.dstack([np.full((4, 6, 3), (250, 10, 20), np.uint8), np.full((4, 6), 128, np.uint8)]))
CLEAR = Image.new("RGBA", (6, 4), (0, 0, 0, 0))
GREY16 = Image.fromarray(np.full((4, 6), 51_200, np.uint16))  # 200 in 8 bits
KEYED = Image.new("P", (6, 4), 3)
KEYED.putpalette([0] * 9 + [250, 10, 20])

OPENED = [
    # what it is, the file, size, the colour of its first pixel
    ("PNG", saved(RED, "PNG"), (6, 4), (250, 10, 20)),
    ("JPEG", saved(RED, "JPEG", quality=100), (6, 4), (250, 10, 20)),
    ("WebP", saved(RED, "WEBP", lossless=True), (6, 4), (250, 10, 20)),
    ("BMP", saved(RED, "BMP"), (6, 4), (250, 10, 20)),
    ("TIFF", saved(RED, "TIFF"), (6, 4), (250, 10, 20)),
    ("PPM", saved(RED, "PPM"), (6, 4), (250, 10, 20)),
    ("CMYK JPEG", saved(RED.convert("CMYK"), "JPEG", quality=100), (6, 4), (250, 10, 20)),
    ("palette PNG", saved(KEYED, "PNG"), (6, 4), (250, 10, 20)),
    ("palette PNG, transparent", saved(KEYED, "PNG", transparency=3), (6, 4), (255, 255, 255)),
    ("RGB PNG with a transparent colour", saved(RED, "PNG", transparency=(250, 10, 20)), (6, 4), (255, 255, 255)),
    ("grey PNG", saved(Image.new("L", (6, 4), 200), "PNG"), (6, 4), (200, 200, 200)),
    ("grey PNG with alpha", saved(Image.new("LA", (6, 4), (0, 0)), "PNG"), (6, 4), (255, 255, 255)),
    ("black and white PNG", saved(Image.new("1", (6, 4), 1), "PNG"), (6, 4), (255, 255, 255)),
    ("half transparent, on white", saved(HALF, "PNG"), (6, 4), (252, 132, 137)),
    ("fully transparent, on white", saved(CLEAR, "PNG"), (6, 4), (255, 255, 255)),
    ("16-bit grey PNG", saved(GREY16, "PNG"), (6, 4), (200, 200, 200)),
    ("16-bit grey TIFF", saved(GREY16, "TIFF"), (6, 4), (200, 200, 200)),
    ("16-bit grey PGM", b"P5 6 4 65535\n" + struct.pack(">H", 51_300) * 24, (6, 4), (200, 200, 200)),
    ("16-bit RGB PNG", png(1, 1, 16, 2, b"\0" + struct.pack(">3H", 64_000, 2_600, 5_200)), (1, 1), (250, 10, 20)),
    ("animated GIF", saved(RED, "GIF", save_all=True, append_images=[CLEAR.convert("RGB")]), (6, 4), (250, 10, 20)),
    ("animated PNG", saved(RED, "PNG", save_all=True, append_images=[CLEAR.convert("RGB")]), (6, 4), (250, 10, 20)),
    ("two-page TIFF", saved(RED, "TIFF", save_all=True, append_images=[GREY16]), (6, 4), (250, 10, 20)),
    ("1×1", saved(Image.new("RGB", (1, 1), "white"), "PNG"), (1, 1), (255, 255, 255)),
    ("10000×3", saved(Image.new("RGB", (10_000, 3), "white"), "PNG"), (10_000, 3), (255, 255, 255)),
    ("broken EXIF", saved(RED, "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"), (6, 4), (250, 10, 20)),
]


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
@pytest.mark.parametrize(("data", "size", "colour"), [case[1:] for case in OPENED], ids=[case[0] for case in OPENED])
def test_opened_as_it_looks(data, size, colour):
    photo = open_photo(data)
    assert photo.mode == "RGB" and photo.size == size
    assert np.abs(np.subtract(photo.getpixel((0, 0)), colour)).max() <= 2  # JPEG rounds


REFUSED = [
    # what it is, the source, what the sentence says
    ("nothing", None, "nothing"),
    ("a number", 7, "a int"),
    ("no bytes", b"", "empty"),
    ("text", b"this is not a photo", "not a readable image file"),
    ("a web page", b"<html><body>", "not a readable image file"),
    (
        "PostScript, which Pillow would run",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not a readable image file",
    ),
    ("JPEG cut off", saved(NOISE, "JPEG")[:1500], "cut off"),
    ("PNG cut off", saved(NOISE, "PNG")[:1500], "cut off"),
    ("PNG without its rows", png(50, 50), "cut off"),
    ("PNG header alone", png(50, 50)[:20], "cut off"),
    ("GIF cut off", saved(RED, "GIF")[:20], "image file|cut off"),
    ("50 megapixels", png(10_000, 5_000), "10000×5000"),
    ("900 megapixels", png(30_000, 30_000), "scale it down"),
    ("4 terapixels", png(2_000_000, 2_000_000), "scale it down"),
    ("200 MB of text in a small PNG", text_bomb(), "broken|cut off"),
    ("over 20 MB", bytes(MAX_BYTES + 1), "20 MB"),
    ("PBM as text", b"P1 2 2 0 1 1 0", "decimal text"),
    ("PGM as text", b"P2 2 2 255 0 1 1 0", "decimal text"),
    ("PPM as text", b"P3\n# by hand\n1 1 255 9 9 9", "decimal text"),
    ("PPM of width 0", b"P6 0 4 255\n", "cut off or broken|no pixels|not a readable"),
    ("PPM of a negative width", b"P6 -3 4 255\n" + bytes(36), "cut off or broken|no pixels|not a readable"),
    ("PPM of 50 megapixels", b"P6 10000 5000 255\n", "10000×5000"),
    ("PNG of width 0", png(0, 5), "cut off or broken|no pixels|not a readable"),
    ("BMP of height 0", saved(RED, "BMP")[:22] + bytes(4) + saved(RED, "BMP")[26:], "cut off|no pixels|not a readable"),
    ("float TIFF", saved(Image.new("F", (3, 3), 0.5), "TIFF"), "range"),
    ("float array", np.zeros((4, 4, 3)), "uint8"),
    ("RGBA array", np.zeros((4, 4, 4), np.uint8), "uint8"),
    ("grey array", np.zeros((4, 4), np.uint8), "uint8"),
    ("empty array", np.zeros((0, 4, 3), np.uint8), "uint8"),
    ("huge array", np.broadcast_to(np.uint8(0), (8_000, 8_000, 3)), "8000×8000"),
    ("huge PIL image", Image.new("1", (8_000, 8_000)), "8000×8000"),
    ("empty PIL image", Image.new("RGB", (0, 5)), "no pixels"),
]


@pytest.mark.parametrize(("source", "sentence"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_refused_with_a_sentence(source, sentence):
    with pytest.raises(ImageError, match=sentence) as caught:
        open_photo(source)
    assert str(caught.value).endswith(".") and len(str(caught.value)) < 300


@pytest.mark.parametrize("open_file", [open_photo, open_mask, read_mask])
def test_pixels_as_text_are_refused_before_they_are_read(open_file, monkeypatch):
    """4 MB of P3 took 44 CPU seconds."""
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("opened"))
    for kind in (b"P1", b"P2", b"P3"):
        with pytest.raises(ImageError, match=f"decimal text .{kind.decode()}."):
            open_file(kind + b" 1000 1000 255\n" + b"1 " * 3_000_000)


class Endless:
    """A file that never ends, and counts what is asked of it."""

    asked = 0

    def read(self, size: int = -1) -> bytes:
        assert 0 <= size <= MAX_BYTES + 1, "read without a limit"
        self.asked += size
        return bytes(size)


@pytest.mark.parametrize("open_file", [open_photo, open_mask, read_mask])
def test_a_file_is_read_up_to_the_limit_and_no_further(open_file):
    source = Endless()
    with pytest.raises(ImageError, match="20 MB"):
        open_file(source)
    assert source.asked == MAX_BYTES + 1


def test_limits_come_before_decoding(monkeypatch):
    """A 50-megapixel file must not be decoded to find out that it has 50 megapixels."""
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    data = png(10_000, MAX_PIXELS // 10_000 + 1)
    for source in (data, BytesIO(data), Image.open(BytesIO(data))):
        with pytest.raises(ImageError, match="40 megapixels"):
            open_photo(source)


def test_a_photo_at_the_limit_is_opened():
    data = saved(Image.new("1", (10_000, MAX_PIXELS // 10_000)), "PNG")
    assert open_photo(data).size == (10_000, 4_000)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_turned_photos_stand_upright(orientation, kind):
    """A camera held sideways: the pixels lie, a tag says how; each of the eight ways ends upright."""
    upright = np.zeros((16, 24, 3), np.uint8)
    upright[:8, :8] = 255  # white top left, red top right
    upright[:8, 16:] = (255, 0, 0)
    method = Image.Transpose
    undo = [None, method.FLIP_LEFT_RIGHT, method.ROTATE_180, method.FLIP_TOP_BOTTOM]
    undo += [method.TRANSPOSE, method.ROTATE_90, method.TRANSVERSE, method.ROTATE_270]
    lying = Image.fromarray(upright)
    if undo[orientation - 1] is not None:
        lying = lying.transpose(undo[orientation - 1])
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = open_photo(saved(lying, kind, exif=exif, quality=100))
    assert photo.size == (24, 16) and 0x0112 not in photo.getexif()
    assert photo.getpixel((3, 3))[1] > 200 and photo.getpixel((21, 3))[0] > 200 > photo.getpixel((21, 3))[1]
    assert max(photo.getpixel((12, 12))) < 60
    assert open_photo(photo).size == (24, 16)  # and is not turned twice


def test_every_kind_of_source_gives_the_same_photo(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    data = path.read_bytes()
    for source in (
        path,
        str(path),
        data,
        bytearray(data),
        BytesIO(data),
        Image.open(path),
        pixels,
        pixels[:, ::-1][:, ::-1],
    ):
        assert np.array_equal(np.asarray(open_photo(source)), pixels)
    with path.open("rb") as file:
        assert np.array_equal(np.asarray(open_photo(file)), pixels)


def test_the_caller_keeps_an_image_of_its_own():
    pixels = np.zeros((5, 7, 3), np.uint8)
    image = Image.fromarray(pixels)
    for source in (pixels, image):
        photo = open_photo(source)
        photo.putpixel((0, 0), (9, 9, 9))
        assert not pixels.any() and image.getpixel((0, 0)) == (0, 0, 0)


def test_an_animation_that_was_wound_on_gives_the_current_frame():
    frames = Image.open(BytesIO(saved(RED, "TIFF", save_all=True, append_images=[Image.new("RGB", (6, 4), "blue")])))
    frames.seek(1)
    assert open_photo(frames).getpixel((0, 0)) == (0, 0, 255)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.jpg", None, 'no file ".*missing.jpg"'),
        ("text.jpg", b"hello", '"text.jpg" is not a readable image file'),
        ("empty.jpg", b"", '"empty.jpg" is empty'),
        ("nul\0l.jpg", None, "no file|cannot be read"),
        ("long" * 200 + ".jpg", None, "cannot be read|no file"),
        ("", None, "folder"),
        ("big.jpg", bytes(MAX_BYTES + 1), '"big.jpg" is larger than 20 MB'),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, name, content, sentence):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ImageError, match=sentence):
        open_photo(str(path))


def test_other_dead_ends(tmp_path):
    (tmp_path / "text.txt").write_text("hello")
    with (tmp_path / "text.txt").open() as file, pytest.raises(ImageError, match="binary"):
        open_photo(file)
    with pytest.raises(ImageError, match="not a regular file"):
        open_photo("/dev/zero")
    (tmp_path / "photo.png").write_bytes(saved(RED, "PNG"))
    closed = Image.open(tmp_path / "photo.png")
    closed.close()
    with pytest.raises(ImageError, match="cut off or broken"):
        open_photo(closed)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM"])
@pytest.mark.filterwarnings("ignore")  # Pillow warns about what it then refuses
def test_damaged_files_never_raise_anything_else(kind):
    """One byte changed or the end cut off, 200 times a format: a photo, or an ImageError."""
    rng = np.random.default_rng(0)
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = saved(NOISE.crop((0, 0, 24, 24)), kind)
    for _ in range(200):
        hurt = bytearray(data[: rng.integers(1, len(data))] if rng.random() < 0.3 else data)
        for at in rng.integers(0, min(len(hurt), 400), 3):
            hurt[at] = rng.integers(0, 256)
        try:
            assert open_photo(bytes(hurt)).mode == "RGB"
        except ImageError:
            pass


# ---------------------------------------------------------------- masks

IDS = np.random.default_rng(0).integers(0, 256, (5, 7), np.uint8)
INDEXED = Image.fromarray(IDS).convert("P")
INDEXED.putdata(IDS.ravel())


@pytest.mark.parametrize(
    ("mask", "kind", "values"),
    [
        (Image.fromarray(IDS), "PNG", IDS),
        (INDEXED, "PNG", IDS),  # palette indexes, not the palette's colours
        (Image.fromarray(IDS), "TIFF", IDS),
        (Image.fromarray(IDS > 9), "PNG", IDS > 9),
        (Image.fromarray(IDS.astype(np.uint16) * 200), "PNG", IDS * 200.0),
        (Image.fromarray(np.dstack([IDS] * 3)), "PNG", IDS),  # grey, saved as RGB
        (Image.fromarray(np.dstack([IDS, np.full_like(IDS, 255)])), "PNG", IDS),
    ],
)
def test_masks_are_read_as_stored(mask, kind, values, tmp_path):
    data = saved(mask, kind)
    (tmp_path / "mask").write_bytes(data)
    for source in (data, BytesIO(data), tmp_path / "mask"):
        mask = open_mask(source)
        assert np.array_equal(mask, values) and mask.dtype == np.int32


def test_an_orientation_in_a_mask_file_is_applied():
    """The same rule as for photos; it was ignored, and the mask lay upside down on its upright photo."""
    exif = Image.Exif()
    exif[0x0112] = 3
    for mask in (Image.fromarray(IDS), INDEXED):
        assert np.array_equal(open_mask(saved(mask, "PNG", exif=exif)), IDS[::-1, ::-1])


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (saved(RED, "PNG"), "whole numbers"),
        (saved(Image.new("LA", (3, 3), (9, 128)), "PNG"), "whole numbers"),
        (saved(Image.new("F", (3, 3), 0.5), "TIFF"), "whole numbers"),
        (saved(RED, "JPEG"), "one channel"),  # JPEG changes the numbers
        (saved(Image.fromarray(IDS), "PNG")[:60], "cut off"),
        (png(10_000, 5_000), "10000×5000"),
        (b"", "empty"),
        ("missing.png", "no file"),
        (None, "nothing"),
    ],
)
def test_masks_that_are_none(source, sentence):
    with pytest.raises(ImageError, match=sentence):
        open_mask(source)


def test_only_an_upright_rgb_image_is_given_back_itself():
    """Without a copy: for those who only read it. The caller's image is never changed."""
    image, exif = Image.new("RGB", (6, 4), "red"), Image.Exif()
    image.info["note"] = "kept"
    assert open_photo(image, copy=False) is image and image.info == {"note": "kept"}
    assert open_photo(image) is not image
    exif[0x0112] = 6
    for source, size in (
        (saved(image, "JPEG", exif=exif), (4, 6)),
        (saved(image, "PNG"), (6, 4)),
        (Image.new("RGBA", (6, 4)), (6, 4)),
        (Image.new("L", (6, 4)), (6, 4)),
        (np.zeros((4, 6, 3), np.uint8), (6, 4)),
    ):
        photo = open_photo(source, copy=False)
        assert photo is not source and (photo.mode, photo.size) == ("RGB", size)


@pytest.mark.parametrize("size", [(1, 1), (5, 64), (3, 200)])
def test_pixels_are_those_of_the_whole_photo(size):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    pixels = pixels_of(photo)
    assert np.array_equal(pixels, np.asarray(photo)) and pixels.dtype == np.uint8 and pixels.flags.owndata
