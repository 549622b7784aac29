"""Any photo or mask file that someone may supply, within the limits.

The rules for photos:

- limits (`limits.MAX_BYTES`, `limits.MAX_PIXELS`) are checked before anything is decoded;
- EXIF orientation is applied, and the result has none;
- an animation, a multi-page file or a burst gives its first frame (a PIL image: its current one);
- transparent areas are put on white;
- 16-bit grey keeps its upper 8 bits; CMYK, palette, grey and black-and-white become RGB;
- floating-point images are refused: their range is unknown; so are PBM, PGM and PPM files with their pixels as
  text, which take 11 CPU seconds per megabyte.

`open_mask` is for the masks of data sets, which hold exact numbers: it reads lossless formats only. (`masks.read_mask`
interprets any mask file.) A mask belongs to the upright photo; an EXIF orientation in the mask file itself is applied.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import ExifTags, Image, ImageOps

from t4s.errors import ImageError
from t4s.limits import MAX_BYTES, MAX_PIXELS

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM")  # none that runs programs, as EPS does
STRIP = 64  # rows copied at once
MASK_FORMATS = ("PNG", "GIF", "BMP", "TIFF", "PPM")
_PLAIN_PNM = (b"P1", b"P2", b"P3")
_READABLE = "JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PPM"

# What Pillow raises for a file that is cut off or broken, depending on the format.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, RuntimeError)  # AVIF: RuntimeError

Source = str | PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray


def open_photo(source: Source, copy: bool = True) -> Image.Image:
    """The photo as a new PIL image, mode RGB, upright.

    `source` is a path, a PIL image, the bytes of an image file, an open binary file, or a uint8 array
    (h, w, 3) in RGB. Without `copy` a PIL image that is upright and RGB already is given back itself, for those who
    only read its pixels. Raises ImageError for anything else, and for what cannot be read or exceeds a limit.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, "The image", copy)
    data, name = _bytes_of(source)
    with _open(data, name, FORMATS, _READABLE) as image:
        return _to_rgb(image, name, copy)


def pixels_of(photo: Image.Image) -> np.ndarray:
    """The pixels of a photo of `open_photo` as a new array (h, w, 3) uint8.

    In strips that fit into a processor's cache: a third of the time that numpy takes for a whole large photo.
    """
    width, height = photo.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP):
        bottom = min(top + STRIP, height)
        pixels[top:bottom] = np.asarray(photo.crop((0, top, width, bottom)))
    return pixels


@contextmanager
def open_image(source: str | PathLike[str] | bytes | BinaryIO) -> Iterator[tuple[Image.Image, str]]:
    """An image file as it is stored, decoded, and a name for messages; whatever is wrong with it is an ImageError."""
    data, name = _bytes_of(source)
    with _open(data, name, FORMATS, _READABLE) as image:
        _check_size(image.size, name)
        with _broken_as_error(name, _READABLE):
            image.load()
            yield image, name


def open_mask(source: str | PathLike[str] | bytes | BinaryIO) -> np.ndarray:
    """A mask file as (h, w) int32, its values as stored: grey levels or palette indexes; 0 and 1 for 1 bit.

    `source` is a path, the bytes of an image file or an open binary file. An RGB or RGBA file is taken if
    its colours are all grey and nothing is transparent. Raises ImageError.
    """
    data, name = _bytes_of(source)
    with _open(data, name, MASK_FORMATS, "a PNG with one channel") as image:
        _check_size(image.size, name)
        with _broken_as_error(name, "a PNG with one channel"):
            values = np.asarray(ImageOps.exif_transpose(image))
            alpha = image.mode in ("LA", "RGBA")
    grey = values if values.ndim == 2 else values[..., : values.shape[2] - alpha]
    plain = values.ndim == 2 or (grey == grey[..., :1]).all() and not (alpha and (values[..., -1] != 255).any())
    if values.dtype.kind == "f" or not plain:
        raise ImageError(f"{name} has colours, transparency or fractions; save the mask as a PNG of whole numbers.")
    return (grey if grey.ndim == 2 else grey[..., 0]).astype(np.int32)


def _bytes_of(source: object) -> tuple[bytes, str]:
    """The bytes of an image file, at most one more than the limit, and a name for messages."""
    if isinstance(source, (str, PathLike)):
        return _read_path(source), f'"{Path(source).name}"'
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source), "The image"
    if not hasattr(source, "read"):
        allowed = "a path, a PIL image, the bytes of an image file or a uint8 array (h, w, 3)"
        raise ImageError(f"A photo is {allowed}, not {_kind(source)}.")
    data = source.read(MAX_BYTES + 1)
    if not isinstance(data, bytes):
        raise ImageError("The image file was opened as text; open it in binary mode ('rb').")
    return data, "The image"


def _kind(source: object) -> str:
    return "nothing (None)" if source is None else f"a {type(source).__name__}"


def _read_path(source: str | PathLike[str]) -> bytes:
    path = Path(source)
    try:
        if path.is_dir():
            raise ImageError(f'"{source}" is a folder; name one image file in it.')
        if not path.exists():
            raise ImageError(f'There is no file "{source}"; check the path (addresses on the web are not fetched).')
        if not path.is_file():
            raise ImageError(f'"{source}" is not a regular file; save the photo as one ({_READABLE}).')
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f'"{source}" cannot be read ({error}); check the path and its permissions.') from error


def _open(data: bytes, name: str, formats: tuple[str, ...], readable: str) -> Image.Image:
    """The image with its header read and nothing decoded."""
    if not data:
        raise ImageError(f"{name} is empty; give an image file ({readable}).")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} is larger than {MAX_BYTES // 10**6} MB; save it smaller or with more compression.")
    if data[:2] in _PLAIN_PNM:
        raise ImageError(
            f"{name} is a PBM, PGM or PPM file with its pixels as decimal text ({data[:2].decode()}), which is slow to "
            "read; save it as PNG or in a binary format (P4, P5, P6)."
        )
    Image.init()
    with _broken_as_error(name, readable):
        return Image.open(BytesIO(data), formats=[kind for kind in formats if kind in Image.OPEN])


@contextmanager
def _broken_as_error(name: str, readable: str) -> Iterator[None]:
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has far more than the {_megapixels()} that are allowed; scale it down.") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is not a readable image file; save it as {readable}.") from error
    except ImageError:
        raise
    except _BROKEN as error:
        raise ImageError(f"{name} is cut off or broken ({error}); save it again as {readable}.") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        given = f"{array.shape} of {array.dtype}"
        raise ImageError(f"A photo as an array is (h, w, 3) of uint8 (RGB, 0 to 255), not {given}; convert it first.")
    _check_size((array.shape[1], array.shape[0]), "The image")
    return Image.fromarray(np.ascontiguousarray(array))


def _megapixels() -> str:
    return f"{MAX_PIXELS // 10**6} megapixels"


def _check_size(size: tuple[int, int], name: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width}×{height}); give an image of at least 1×1.")
    if width * height > MAX_PIXELS:
        raise ImageError(f"{name} has {width}×{height} pixels; at most {_megapixels()} are allowed, so scale it down.")


def _to_rgb(image: Image.Image, name: str, copy: bool) -> Image.Image:
    _check_size(image.size, name)
    with _broken_as_error(name, _READABLE):
        image.load()
        turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        if not (copy or turned) and image.mode == "RGB" and not image.has_transparency_data:
            return image
        photo = _on_white(ImageOps.exif_transpose(image) if turned else image, name)
    photo.info = {}  # no orientation that could be applied a second time
    return photo


def _on_white(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _sixteen_bit(image, name).convert("RGB")
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _sixteen_bit(image: Image.Image, name: str) -> Image.Image:
    """A 16-bit grey image as 8-bit grey; Pillow's own conversion would clip everything above 255."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ImageError(f"{name} has {values.dtype} pixels of unknown range; save it with 8 or 16 bits a channel.")
    return Image.fromarray((values >> 8).astype(np.uint8))
