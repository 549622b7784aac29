"""Pictures for the browser: previews, thumbnails, data URLs, figures; and the progress and table of a batch."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s.app.views.parts import PARTS_SIDE, sampled
from t4s.imaging import drawing
from t4s.imaging.loading import open_photo
from t4s.records import Prediction

PREVIEW_SIDE = PARTS_SIDE  # pixels of the longest side of what the browser gets
STATUS_WORDS = {"found": "found", "unsure": "not sure", "absent": "not there", "unknown word": "unknown word"}
TABLE = ("file", "phrase", "found", "score", "pixels", "faults", "error")  # columns of a batch's table


def preview(photo: Image.Image) -> str:
    """The photo as a data URL of a JPEG, at most PREVIEW_SIDE pixels a side."""
    small = photo.convert("RGB")
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return data_url(small, "JPEG", quality=86)


def thumbnail(photo: Image.Image, answer: Prediction, side: int = 384) -> Image.Image:
    """The photo with its masks, at most `side` pixels wide or high."""
    small = photo.convert("RGB")
    small.thumbnail((side, side))
    height, width = answer.mask.shape
    rows, columns = sampled(height, small.height), sampled(width, small.width)
    masks = {label: mask[rows][:, columns] for label, mask in answer.masks.items()}
    return drawing.overlay(small, masks, colours=drawing.label_colours(answer.grid))


def index_picture(
    masks: Mapping[str, np.ndarray],
    labels: Sequence[str],
    size: tuple[int, int],
    parts: np.ndarray | None = None,
) -> str:
    """{label: (h, w) bool} as a data URL of a PNG: red is the index into `labels`, green the number in `parts`.

    It has at most PREVIEW_SIDE pixels a side. `size` (h, w): the photo's, in case there is no mask.
    """
    shape = next(iter(masks.values())).shape if masks else size
    scale = min(1.0, PREVIEW_SIDE / max(shape))
    rows, columns = (sampled(side, max(1, round(side * scale))) for side in shape)
    picture = np.zeros((len(rows), len(columns), 3), np.uint8)
    for label, mask in masks.items():
        picture[mask[rows][:, columns], 0] = labels.index(label)
    if parts is not None:
        picture[..., 1] = parts
    return data_url(Image.fromarray(picture), "PNG")


def data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    """The picture in the format `kind` ("PNG", "JPEG"), in a data URL."""
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def figures(pictures: Sequence[tuple[Image.Image, str]]) -> str:
    """Pictures with their captions as HTML; captions are escaped."""
    parts = (
        f'<figure><img src="{data_url(picture.convert("RGB"), "JPEG", quality=88)}" alt="">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for picture, caption in pictures
    )
    return f'<div class="t4s-story">{"".join(parts)}</div>'


# --- a batch ------------------------------------------------------------------------------------------


def captioned(path: str, answers: Sequence[Prediction]) -> list[tuple[Image.Image, str]]:
    """(thumbnail, caption) of every answer to the photo at `path`, for a gallery."""
    return [(thumbnail(open_photo(path), answer), f"{Path(path).name}: {_caption(answer)}") for answer in answers]


def query_text(answer: Prediction) -> str:
    """What was asked, as it was typed."""
    return answer.query if isinstance(answer.query, str) else ", ".join(answer.query)


def small_picture(preview_url: str, answer: Prediction) -> str:
    """A thumbnail of the answer as a data URL, made from the photo's preview (a data URL too)."""
    photo = Image.open(io.BytesIO(base64.b64decode(preview_url.partition(",")[2])))
    return data_url(thumbnail(photo, answer, 96), "JPEG", quality=80)


def _caption(answer: Prediction) -> str:
    return f"{answer.query}" if answer.status == "found" else f"{answer.query} ({STATUS_WORDS[answer.status]})"


def progress(done: int, total: int, stopped: bool = False) -> str:
    """A bar as HTML, for a batch."""
    if stopped:
        return f'<p class="t4s-progress">Stopped after {done} of {total} photos; the ZIP has the results so far.</p>'
    bar = f'<progress value="{done}" max="{total}"></progress>'
    return f'<label class="t4s-progress">{bar}{done} of {total} photos</label>'


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """The rows of `downloads.ResultsZip` for people, in the columns TABLE."""
    return [
        [
            row["file"],
            row["phrase"],
            STATUS_WORDS.get(row["status"], ""),
            row["score"] and f"{row['score']:.2f}",
            row["area"],
            row["faults"],
            row["error"],
        ]
        for row in rows
    ]
