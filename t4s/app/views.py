"""What the page shows, as plain data: a prediction, a pasted text or a photo → what `assets/app/view.js` draws.

Knows no browser and no gradio. Strings go to the browser as they are, and the script sets them as text
and never as HTML: model text is untrusted.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from t4s import codec
from t4s.codec import OTHERS, DescriptorGrid, Fault
from t4s.errors import CodecError, QueryError
from t4s.imaging import drawing, export
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_LABELS, MAX_TEXT
from t4s.records import Prediction

PREVIEW_SIDE = 768  # pixels of the longest side of what the browser gets
SHOWN_CHARACTERS, SHOWN_FAULTS = 60_000, 40  # of a pasted text; beyond that a browser gets slow
TABLE = ("file", "phrase", "found", "score", "pixels", "faults", "error")  # columns of a batch's table
_RUN = re.compile(r"\s*(?P<label>[^|*\n]*?) ?\*(?P<count>[0-9]{1,4})", re.ASCII)
_PIECES = re.compile(r"\n|\||[^\n|]+")


def preview(photo: Image.Image) -> str:
    """The photo as a data URL of a JPEG, at most PREVIEW_SIDE pixels a side."""
    small = photo.convert("RGB")
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return _data_url(small, "JPEG", quality=86)


def thumbnail(photo: Image.Image, answer: Prediction, side: int = 384) -> Image.Image:
    """The photo with its masks, at most `side` pixels wide or high."""
    small = photo.convert("RGB")
    small.thumbnail((side, side))
    rows, columns = _samples(photo.height, small.height), _samples(photo.width, small.width)
    colours = drawing.label_colours(answer.grid.labels)
    return drawing.overlay(
        small, {label: mask[rows][:, columns] for label, mask in answer.masks.items()}, colours=colours
    )


def captioned(path: str, answers: Sequence[Prediction]) -> list[tuple[Image.Image, str]]:
    """(thumbnail, caption) of every answer to the photo at `path`, for a gallery."""
    return [(thumbnail(open_photo(path), each), f"{Path(path).name}: {each.query}") for each in answers]


def progress(done: int, total: int) -> str:
    """A bar as HTML, for a batch."""
    bar = f'<progress value="{done}" max="{total}"></progress>'
    return f'<label class="t4s-progress">{bar}{done} of {total} photos</label>'


def table(rows: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
    """A batch's rows (`parcel.ResultsZip`) as people read them, in the columns TABLE."""
    found = {True: "yes", False: "no", None: ""}
    return [
        [
            row["file"],
            row["phrase"],
            found[row["present"]],
            row["score"] and f"{row['score']:.2f}",
            row["area"],
            row["faults"],
            row["error"],
        ]
        for row in rows
    ]


def _samples(pixels: int, wanted: int) -> np.ndarray:
    """(wanted,) the pixels, of so many, that the centres of fewer fall on."""
    return ((np.arange(wanted) + 0.5) * pixels / wanted).astype(int)


def runs(text: str, labels: Sequence[str], shape: tuple[int, int], layout: str = "rows") -> list[dict[str, Any]]:
    """`text` cut into runs and what stands between them; joined again they are `text`, to the letter.

    Each is {"text", "label", "at", "count"}: `label` an index into `labels`, `at` the first of its `count` cells
    in reading order. Separators have the label None; so has what is no run of a known label, and it has a
    "fault" that says so. Takes any text: what is beyond the grid is kept and covers no cell.
    """
    index = {label: i for i, label in enumerate(labels)}
    height, width = shape
    cells, row, column = height * width, 0, 0
    found: list[dict[str, Any]] = []
    for piece in _PIECES.findall(text):
        if piece in ("\n", "|"):
            found.append({"text": piece, "label": None})
            if piece == "\n" and layout != "image":
                row, column = row + 1, 0
            continue
        if not piece.strip():
            found.append({"text": piece, "label": None})
            continue
        label, count = _read(piece, layout)
        if label not in index or not count:
            found.append({"text": piece, "label": None, "fault": "This is no run of a label and its count."})
            continue
        at = row * width + column
        room = cells - at if layout == "image" else width - column if row < height else 0
        found.append({"text": piece, "label": index[label], "at": at, "count": max(0, min(count, room))})
        column += count
    return found


def _read(piece: str, layout: str) -> tuple[str, int]:
    """(label, count) of a run; a count of 0 where there is none."""
    if layout == "full":
        return piece.strip(), 1
    run = _RUN.fullmatch(piece)
    return (run["label"], int(run["count"])) if run else (piece, 0)


def written(text: str, shape: tuple[int, int]) -> int:
    """How many cells of the grid, in reading order, the complete rows of a growing text have."""
    return min(text.count("\n"), shape[0]) * shape[1]


def photo_view(url: str, size: tuple[int, int], shape: tuple[int, int]) -> dict[str, Any]:
    """A photo of `size` (h, w) that nothing was asked about yet, and the empty grid of `shape` over it."""
    grid = DescriptorGrid(np.zeros(shape, int), (OTHERS,))
    return _view(grid, "", size, url) | {"written": 0}


def waiting_view(view: dict[str, Any]) -> dict[str, Any]:
    """A photo's view while the model looks at it."""
    return view | {"running": True, "kind": "running", "message": "Looking at the photo …", "hint": ""}


def sample_view(text: str) -> dict[str, Any]:
    """What stands in the panels before there is a photo: a drawing that shows what an answer looks like."""
    return read_text(text, (16, 16), "rows")[0] | {
        "sample": True,
        "kind": "sample",
        "message": "Choose a photo and say what to find.",
        "hint": "A drawing; point at its cells.",
        "count": "This is how a mask is written.",
    }


def growing_view(prediction: Prediction, url: str, layout: str) -> dict[str, Any]:
    """A prediction that is still being written: no refined mask yet."""
    grid, text = prediction.grid, prediction.text
    done = written(text, grid.shape)
    row = min(done // grid.shape[1] + 1, grid.shape[0])
    view = _view(grid, text, prediction.mask.shape, url, layout, prediction.confidence)
    if view["runs"]:
        view["runs"][-1].pop("fault", None)  # half a run is no fault while it is being written
    return view | {
        "running": True,
        "written": done,
        "kind": "running",
        "message": f"DecoderState row {row} of {grid.shape[0]} …",
    }


def finished_view(prediction: Prediction, url: str, layout: str, refiner: str) -> dict[str, Any]:
    """A whole answer: text, grid, mask, and what it took."""
    kind, message = verdict(prediction)
    size, stopped = prediction.mask.shape, kind == "stopped"
    faults = () if stopped else prediction.faults  # rows that nobody waited for are no fault
    view = _view(prediction.grid, prediction.text, size, url, layout, prediction.confidence, prediction.masks)
    return _marked(view, faults) | {
        "written": written(prediction.text, prediction.grid.shape) if stopped else view["written"],
        "kind": kind,
        "message": message,
        "facts": facts(prediction, refiner),
        "count": f"{len(prediction.text)} characters, {prediction.stats.get('tokens', 0)} tokens",
        "faults": _fault_lines(faults),
    }


def text_view(
    grid: DescriptorGrid,
    text: str,
    layout: str,
    faults: Sequence[Fault],
    note: str,
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """A pasted or encoded text and its grid, without a photo. `size` (h, w) gives the picture's proportions."""
    size = size or (grid.shape[0] * 24, grid.shape[1] * 24)
    cells = {label: codec.mask_from_grid(grid, label, grid.shape) for label in grid.labels[1:]}
    view = _view(grid, text, size, None, layout, None, cells)
    return _marked(view, faults) | {
        "kind": "fault" if faults else "done",
        "message": note,
        "faults": _fault_lines(faults),
        "count": f"{len(text):,} characters",
    }


def read_text(text: str, shape: tuple[int, int], layout: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """A pasted text → (view, plain JSON). What is wrong with it is a result and no error; only `rows` is mended.

    Raises QueryError for a text beyond MAX_TEXT, CodecError for a shape or layout that there is not.
    """
    if len(text) > MAX_TEXT:
        raise QueryError(f"The text has {len(text):,} characters; at most {MAX_TEXT:,} are read, so paste less.")
    mended = "mended as listed below"
    if layout == "rows":
        grid, faults = codec.repair(text, shape)
    else:
        empty, mended = DescriptorGrid(np.zeros(shape, int), (OTHERS,)), f"and the {layout} layout is not mended"
        try:
            grid, faults = codec.decode(text, shape, layout), ()
        except CodecError as problem:
            if problem.row is None:
                raise  # the shape or the layout, not the text
            grid, faults = empty, (Fault(problem.row, problem.column or 0, problem.reason),)
    note = f"{len(faults)} {'fault' if len(faults) == 1 else 'faults'}, {mended}." if faults else "Valid."
    answer = export.grid_dict(grid) | {"valid": not faults, "faults": [asdict(fault) for fault in faults]}
    return text_view(grid, text, layout, faults, note), answer


def write_text(
    tokenizer: Any, path: str, labels: str, shape: tuple[int, int], layout: str
) -> tuple[dict[str, Any], DescriptorGrid]:
    """A mask file → (view, grid). `labels`: one name a class of the file, parted by commas, in order of their values.

    The view's facts compare the layouts in characters and in the tokens of `tokenizer`.
    """
    classes, values = read_mask(path)
    given = names(labels)
    named = {value: given[i] if i < len(given) else f"class {i + 1}" for i, value in enumerate(values)}
    grid = codec.grid_from_classes(classes, {0: OTHERS} | named, shape)
    sizes = []
    for each in codec.LAYOUTS:
        body = codec.encode(grid, each)
        sizes.append(
            (each, f"{len(body):,} characters, {len(tokenizer.encode(body, add_special_tokens=False)):,} tokens")
        )
    note = f"{shape[0]}×{shape[1]} cells as text, in the {layout} layout."
    return text_view(grid, codec.encode(grid, layout), layout, (), note, classes.shape) | {"facts": sizes}, grid


def names(text: str) -> list[str]:
    """A class list as people write it: commas or lines between names; doubles and blanks are left out."""
    return list(dict.fromkeys(name.strip() for name in text.replace("\n", ",").split(",") if name.strip()))


def verdict(prediction: Prediction) -> tuple[str, str]:
    """(kind, sentence): what the model said, in words. Absence is an answer and no error."""
    sure = f"{round(100 * prediction.score)} % sure"
    if prediction.stats.get("ended") == "stopped":
        rows = written(prediction.text, prediction.grid.shape) // prediction.grid.shape[1]
        return "stopped", f"Stopped after {rows} of {prediction.grid.shape[0]} rows."
    if prediction.stats.get("ended") == "truncated":
        return "fault", "The text broke off; what could be kept is shown."
    one = isinstance(prediction.query, str)
    if not prediction.present:
        what = f"“{prediction.query}”" if one else f"None of the {len(prediction.query)} names"
        return "absent", f"{what} {'' if not one else 'is '}not in this photo ({sure})." if one else (
            f"{what} is in this photo ({sure})."
        )
    if one:
        return "found", f"Found “{prediction.query}”: {share(prediction.mask)} of the photo, {sure}."
    found = [label for label, mask in prediction.masks.items() if mask.any()]
    return "found", f"Found {len(found)} of {len(prediction.query)} names, {sure}."


def share(mask: np.ndarray) -> str:
    """The part of the photo that a mask covers, for people: "12 %", "0.4 %"."""
    percent = 100 * float(mask.mean())
    return f"{percent:.0f} %" if percent >= 9.95 else f"{percent:.1f} %"


def facts(prediction: Prediction, refiner: str) -> list[tuple[str, str]]:
    """The line under the panels: (name, value) pairs. Plain decoding would need one pass a token."""
    stats = prediction.stats
    tokens, forwards = int(stats.get("tokens", 0)), int(stats.get("forwards", 0))
    line = [("tokens", str(tokens)), ("passes", str(forwards)), ("passes saved", str(max(0, tokens - forwards)))]
    look = stats.get("encode_seconds", 0.0) + stats.get("prefill_seconds", 0.0)
    for name, seconds in (
        ("look", look),
        ("write", stats.get("decode_seconds")),
        (f"refine ({refiner})", stats.get("refine_seconds")),
    ):
        if seconds is not None:
            line.append((name, f"{seconds:.2f} s"))
    return [*line, ("score", f"{prediction.score:.2f}")]


def _view(
    grid: DescriptorGrid,
    text: str,
    size: tuple[int, int],
    url: str | None,
    layout: str = "rows",
    confidence: np.ndarray | None = None,
    masks: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Any]:
    """Every key that the script reads; `size` (h, w) of the photo."""
    height, width = size
    present = [int(i) for i in np.unique(grid.ids) if i]
    areas = masks or {label: grid.label_mask(label) for label in grid.labels[1:]}
    return {
        "photo": url,
        "size": [width, height],
        "shape": list(grid.shape),
        "labels": list(grid.labels),
        "colours": [list(colour) for colour in drawing.palette(len(grid.labels))],
        "ids": grid.ids.ravel().tolist(),
        "confidence": None if confidence is None else np.asarray(confidence, float).round(3).ravel().tolist(),
        "layout": layout,
        "text": text,
        "runs": runs(text[:SHOWN_CHARACTERS], grid.labels, grid.shape, layout),
        "written": grid.ids.size,
        "running": False,
        "mask": None if masks is None else _index_picture(masks, grid.labels, size),
        "legend": [{"label": i, "area": share(areas[grid.labels[i]])} for i in present if areas[grid.labels[i]].any()]
        if present
        else [],
        "kind": "",
        "message": "",
        "hint": "Point at cells, runs, pixels; click one.",
        "marks": [],
        "facts": [],
        "count": "",
        "faults": [],
    }


def _index_picture(masks: Mapping[str, np.ndarray], labels: Sequence[str], size: tuple[int, int]) -> str:
    """A data URL of a grey PNG whose value is the label's index, at most PREVIEW_SIDE pixels a side."""
    shape = next(iter(masks.values())).shape if masks else size
    scale = min(1.0, PREVIEW_SIDE / max(shape))
    rows, columns = (_samples(side, max(1, round(side * scale))) for side in shape)
    picture = np.zeros((len(rows), len(columns)), np.uint8)
    for label, mask in masks.items():
        picture[mask[rows][:, columns]] = labels.index(label)
    return _data_url(Image.fromarray(picture), "PNG")


def read_mask(path: str) -> tuple[np.ndarray, list[int]]:
    """An image file as a class map: ((h, w) integers with 0 for the background, its other values, ascending).

    An indexed or grey image has its values as classes; a colour image has one class a colour. Black is left out, and so
    is what is transparent. A file with more values than MAX_LABELS is no drawing of classes: it becomes one class, what
    is not transparent (a cut-out), or else what is lighter than half. In an indexed file of several classes 255 is the
    edge that VOC does not count, and goes to the background. Raises ImageError.
    """
    photo = open_photo(path)  # the limits, and a sentence for what cannot be read
    clear = np.zeros(photo.size[::-1], bool)
    with Image.open(path) as file:
        indexed = file.mode == "P"
        if indexed or file.mode in ("1", "L") or file.mode.startswith("I"):
            classes = np.asarray(file).astype(np.int32)
        else:
            red, green, blue = np.moveaxis(np.asarray(photo).astype(np.int32), -1, 0)
            classes = red << 16 | green << 8 | blue
            if file.has_transparency_data:
                clear = np.asarray(ImageOps.exif_transpose(file).convert("RGBA"))[..., 3] < 128
                classes[clear] = 0
    values = [int(value) for value in np.unique(classes) if value]
    if indexed and len(values) > 1 and 255 in values:
        values.remove(255)
        classes = np.where(classes == 255, 0, classes)
    if len(values) > MAX_LABELS:
        inside = ~clear if clear.any() else np.asarray(photo.convert("L")) >= 128
        return inside.astype(np.int32), [1]
    return classes, values


def _data_url(picture: Image.Image, kind: str, **options: Any) -> str:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"


def _marked(view: dict[str, Any], faults: Sequence[Fault]) -> dict[str, Any]:
    """The view with every fault at its cell and at the run that covers the cell, or ends the row before it."""
    width = view["shape"][1]
    covering = [run for run in view["runs"] if run.get("count")]
    for fault in faults[:SHOWN_FAULTS]:
        cell = fault.row * width + fault.column
        before = [run for run in covering if run["at"] <= cell and run["at"] // width == fault.row]
        if before:
            before[-1]["fault"] = fault.message
        view["marks"].append(cell)
    return view


def figures(pictures: Sequence[tuple[Image.Image, str]]) -> str:
    """Pictures with their captions as HTML; captions are escaped."""
    parts = (
        f'<figure><img src="{_data_url(picture.convert("RGB"), "JPEG", quality=88)}" alt="">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        for picture, caption in pictures
    )
    return f'<div class="t4s-story">{"".join(parts)}</div>'


def _fault_lines(faults: Sequence[Fault]) -> list[str]:
    lines = [f"Row {each.row + 1}, column {each.column + 1}: {each.message}" for each in faults[:SHOWN_FAULTS]]
    return [*lines, f"… and {len(faults) - SHOWN_FAULTS} more."] if len(faults) > SHOWN_FAULTS else lines
