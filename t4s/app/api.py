"""The five endpoints for scripts and agents: files and plain values in, one JSON object last.

Their docstrings are the descriptions that agents (MCP) and the API page show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from t4s import codec
from t4s.app import downloads, views
from t4s.app.components import MODEL_QUEUE, QUICK_QUEUE, Photo, Photos, TextOrList, as_gradio_error
from t4s.app.controller import Model
from t4s.app.service import run_batch
from t4s.decoding.generate import MODES
from t4s.errors import QueryError
from t4s.imaging import drawing, export
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_LABELS
from t4s.records import Prediction


class Endpoints:
    """The five calls. Arguments come as they were sent; the components of `add_endpoints` only fetch files."""

    def __init__(self, model: Model):
        self._model = model

    def segment(
        self, image: str, phrase: str, refiner: str = "", decoding: str = "fast", by_part: bool = False
    ) -> Iterator[tuple[Any, ...]]:
        """Segments what a phrase names in a photo: a language model writes the mask as text, row by row.

        The answer grows while it is written; the last one is complete. If the photo does not show what is asked for,
        "present" is false and the mask is black.

        Args:
            image: the photo, a file or a web address
            phrase: what to find, 1 to 200 characters, such as "the dog on the left"
            refiner: how the grid becomes pixels: "" (the app's own), "edge", "smooth", "guided", "none", …
            decoding: "fast", "constrained" or "free"
            by_part: whether each connected part in "parts" has its run lengths too

        Returns:
            The text that the model wrote; the grid over the photo; the mask, 255 inside; one JSON object with text,
            labels, rows, box, score, present, status, parts, faults, stats and the mask as COCO run lengths.
        """
        yield from self._answers(image, phrase, refiner, decoding, by_part)

    def segment_classes(
        self, image: str, names: str | list[str], refiner: str = "", decoding: str = "fast", by_part: bool = False
    ) -> Iterator[tuple[Any, ...]]:
        """Segments a whole photo into named classes; pixels of none of them are "others".

        Args:
            image: the photo, a file or a web address
            names: 1 to 64 class names, a list or comma-separated, such as "dog, grass, sky"
            refiner: how the grid becomes pixels: "" (the app's own), "edge", "smooth", "guided", "none", …
            decoding: "fast", "constrained" or "free"
            by_part: whether each connected part in "parts" has its run lengths too

        Returns:
            The text that the model wrote; the grid over the photo; the label map, a grey PNG whose values are indexes
            into "labels"; one JSON object like that of segment, with a mask for each label under "masks".
        """
        wanted = views.names(names if isinstance(names, str) else "\n".join(names))
        if len(wanted) > MAX_LABELS:
            raise QueryError(f"The list has {len(wanted)} names; at most {MAX_LABELS} can be asked at once: split it.")
        yield from self._answers(image, wanted, refiner, decoding, by_part)

    def batch(
        self, images: list[str], phrases: str | list[str], refiner: str = "", by_part: bool = False
    ) -> Iterator[tuple[Any, ...]]:
        """Segments many photos, each with every phrase. A photo that cannot be read is reported and skipped.

        Args:
            images: the photos, files or web addresses
            phrases: what to find, a list or one phrase a line
            refiner: how the grid becomes pixels: "" (the app's own), "edge", "smooth", "guided", "none", …
            by_part: whether each connected part has its run lengths, in the JSON object and in the ZIP's COCO JSON

        Returns:
            A ZIP with masks, COCO JSON and a CSV; one JSON object with "results" (one for each photo and phrase, like
            those of segment) and "failed" (file and error).
        """
        results: list[dict[str, Any]] = []
        phrases = phrases if isinstance(phrases, str) else "\n".join(phrases)
        packed = downloads.ResultsZip(downloads.scratch_file("text4seg.zip"), by_part)
        for done, total, path, answers in run_batch(self._model.write_all, images, phrases, refiner, packed):
            results += [{"file": Path(path).name} | export.as_dict(answer, by_part) for answer in answers]
            if done < total:
                yield None, {"done": done, "total": total}
        failed = [{"file": row["file"], "error": row["error"]} for row in packed.rows if row["error"]]
        yield str(packed.close()), {"results": results, "failed": failed}

    def encode_mask(
        self, mask: str, label: str = "object", height: int = 16, width: int = 16, layout: str = "rows"
    ) -> Any:
        """Writes a mask as text, without any model.

        Args:
            mask: an image file of two colours, or a PNG with a number or an exact colour for each class
            label: its label; for several classes one name for each, comma-separated, in the order of their numbers
            height: rows of the grid, 1 to 64
            width: columns of the grid, 1 to 64
            layout: "rows" (run lengths row by row), "image" (over the whole grid) or "full" (every cell)

        Returns:
            The text; one JSON object with text, labels, rows, sizes (the text's length in characters and tokens) and
            note (how the file was interpreted).
        """
        _require_file(mask)
        view, grid = views.write_text(self._model.service.tokenizer, mask, label, (int(height), int(width)), layout)
        sizes = dict(view["facts"])
        return view["text"], export.grid_dict(grid) | {"text": view["text"], "sizes": sizes, "note": view["message"]}

    def decode_text(self, text: str, height: int = 16, width: int = 16, layout: str = "rows") -> Any:
        """Reads a mask that was written as text, without any model; faults are repaired and listed.

        Args:
            text: the text, without <seg> and </seg>
            height: rows of the grid, 1 to 64
            width: columns of the grid, 1 to 64
            layout: "rows", "image" or "full"; only "rows" can be repaired

        Returns:
            A picture of the grid; one JSON object with labels, rows, valid and faults (row, column, message).
        """
        _, answer = views.read_text(text, (int(height), int(width)), layout)
        grid = codec.DescriptorGrid(np.array(answer["rows"]), tuple(answer["labels"]))
        return _as_file(drawing.grid_picture(grid), "grid.png"), answer

    def _answers(
        self, path: str, query: str | list[str], refiner: str, decoding: str, by_part: bool
    ) -> Iterator[tuple[Any, ...]]:
        _require_file(path)
        for answer in self._model.write(path, query, refiner, decoding):
            if not answer.stats["ended"]:
                yield answer.text, None, None, {"text": answer.text, "finished": False}
                continue
            grid = _as_file(drawing.grid_picture(answer.grid, open_photo(path)), "grid.png")
            mask = _as_file(label_picture(answer), "mask.png")
            yield answer.text, grid, mask, export.as_dict(answer, by_part) | {"finished": True}


def label_picture(answer: Prediction) -> Image.Image:
    """A phrase's mask as 0 and 255; of a class list, the labels' indexes."""
    picture = np.zeros(answer.mask.shape, np.uint8)
    for label, mask in answer.masks.items():
        picture[mask] = 255 if isinstance(answer.query, str) else answer.grid.labels.index(label)
    return Image.fromarray(picture)


def _as_file(picture: Image.Image, name: str) -> str:
    """The path of a new PNG: Gradio copies files whole, whereas it rewrites pictures in place, under someone's eyes."""
    file = downloads.scratch_file(name)
    picture.save(file)
    return str(file)


def _require_file(image: str | None) -> None:
    if image is None:
        raise QueryError("There is no photo: give a file, or the address of one, as image.")


# --- how they are offered -----------------------------------------------------------------------------


def add_endpoints(model: Model) -> None:
    """Adds the endpoints to the Blocks under construction; nothing of them is visible."""
    endpoints = Endpoints(model)
    with gr.Row(visible=False):
        image = Photo(type="filepath", label="image")
        phrase = gr.Textbox(label="phrase")
        names = TextOrList(label="names")
        files = Photos(label="images", file_count="multiple", type="filepath")
        phrases = TextOrList(label="phrases")
        refiner = gr.Textbox("", label="refiner")
        decoding = gr.Radio(list(MODES), value="fast", label="decoding")
        by_part = gr.Checkbox(False, label="by_part")
        text = gr.Textbox(label="text")
        grid = gr.Image(label="grid", format="png")
        mask = gr.Image(label="mask", format="png")
        result = gr.JSON(label="result")
        packed = gr.File(label="zip")
        answer = [text, grid, mask, result]
        _add(endpoints.segment, [image, phrase, refiner, decoding, by_part], answer, MODEL_QUEUE)
        _add(endpoints.segment_classes, [image, names, refiner, decoding, by_part], answer, MODEL_QUEUE)
        _add(endpoints.batch, [files, phrases, refiner, by_part], [packed, result], MODEL_QUEUE)

        mask_file = Photo(type="filepath", label="mask")
        label = gr.Textbox("object", label="label")
        size = [gr.Number(16, label=name, precision=0) for name in ("height", "width")]
        layout = gr.Radio(list(codec.LAYOUTS), value="rows", label="layout")
        _add(endpoints.encode_mask, [mask_file, label, *size, layout], [text, result], QUICK_QUEUE)
        _add(endpoints.decode_text, [text, *size, layout], [grid, result], QUICK_QUEUE)


def _add(call: Callable[..., Any], inputs: list[Any], outputs: list[Any], queue: dict[str, Any]) -> None:
    gr.Button().click(as_gradio_error(call), inputs, outputs, api_name=call.__name__, **queue)
