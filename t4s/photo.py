"""Any photo that someone may hand over, as 8-bit RGB, upright, within the limits. Knows Pillow, and no model.

What is decided here:

- limits (`limits.MAX_BYTES`, `limits.MAX_PIXELS`) are checked before anything is decoded;
- EXIF orientation is applied, and the result carries none;
- an animation, a multi-page file or a phone's burst gives its first frame (a PIL image: its current one);
- what is transparent is laid on white;
- 16-bit grey keeps its upper 8 bits; CMYK, palette, grey and black-and-white become RGB;
- floating-point images are refused: their range is not known.
"""

from __future__ import annotations

import struct
import zlib
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

from t4s.errors import ImageError
from t4s.limits import MAX_BYTES, MAX_PIXELS

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM")  # no format that runs programs, as EPS
_READABLE = "JPEG, PNG, WebP, AVIF, GIF, BMP, TIFF or PPM"

# What Pillow raises on a file that is cut off or broken, depending on the format and the place.
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error, RuntimeError)  # the last by AVIF

Source = str | PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray


def open_photo(source: Source) -> Image.Image:
    """The photo as a new PIL image, mode RGB, upright.

    `source` is a path, a PIL image, the bytes of an image file, an open binary file, or a uint8 array
    (h, w, 3) in RGB. Raises ImageError for anything else, and for what cannot be read or is too large.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        return _to_rgb(source, "The image")
    if isinstance(source, (str, PathLike)):
        return _from_bytes(_read_path(source), f'"{Path(source).name}"')
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _from_bytes(bytes(source), "The image")
    if hasattr(source, "read"):
        data = source.read(MAX_BYTES + 1)
        if not isinstance(data, bytes):
            raise ImageError("The image comes from a file opened as text; open it in binary mode ('rb').")
        return _from_bytes(data, "The image")
    raise ImageError(
        f"A photo is a path, a PIL image, the bytes of an image file or a uint8 array (h, w, 3), not {_kind(source)}."
    )


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
            raise ImageError(f'"{source}" is no ordinary file; save the photo as one ({_READABLE}).')
        with path.open("rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(f'"{source}" cannot be read ({error}); check the path and its permissions.') from error


def _from_bytes(data: bytes, name: str) -> Image.Image:
    if not data:
        raise ImageError(f"{name} is empty; give an image file ({_READABLE}).")
    if len(data) > MAX_BYTES:
        raise ImageError(f"{name} is larger than {MAX_BYTES // 10**6} MB; save it smaller or with more compression.")
    Image.init()
    try:
        image = Image.open(BytesIO(data), formats=[kind for kind in FORMATS if kind in Image.OPEN])
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{name} has far more than {_megapixels()}, the most allowed; scale it down.") from error
    except Image.UnidentifiedImageError as error:
        raise ImageError(f"{name} is no image file that can be read; save it as {_READABLE}.") from error
    except _BROKEN as error:
        raise ImageError(f"{name} is a broken image file ({error}); save it again as {_READABLE}.") from error
    with image:
        return _to_rgb(image, name)


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


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, name)
    try:
        image.load()
        photo = _on_white(ImageOps.exif_transpose(image), name)
    except ImageError:
        raise
    except _BROKEN as error:
        raise ImageError(f"{name} is cut off or broken ({error}); save it again as {_READABLE}.") from error
    photo.info = {}  # no orientation that someone could apply a second time
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
