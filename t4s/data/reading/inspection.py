"""What `t4s check` finds in one photo and its questions."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path

from PIL import Image

from t4s.records import Sample

_ORIENTATION = 0x0112  # the EXIF tag
_STORED = {
    2: "mirrored",
    3: "rotated by 180°",
    4: "upside down and mirrored",
    5: "rotated by 90° and mirrored",
    6: "rotated by 90°",
    7: "rotated by 90° and mirrored",
    8: "rotated by 90°",
}


@dataclass
class Inspection:
    """The evaluation samples of one photo; what is wrong with it or them; what is worth knowing."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def orientation_notes(photo: Path | bytes, name: str) -> list[str]:
    """What to know of a photo that its EXIF tag rotates or mirrors. `photo` is known to be readable."""
    with Image.open(BytesIO(photo) if isinstance(photo, bytes) else photo) as image:
        stored = _STORED.get(image.getexif().get(_ORIENTATION, 1))
    if stored is None:
        return []
    return [
        f"{name} is stored {stored} (EXIF orientation). It is used upright, so its masks must be drawn upright too."
    ]


def rotation_hint(shape: tuple[int, int], height: int, width: int) -> str:
    """What to add to the message about a mask of another size (h, w) than its photo: " …", or ""."""
    if shape == (width, height):
        return " It may have been drawn on the photo before its EXIF rotation was applied: rotate the mask too."
    return ""
