"""What scripts and agents call: files and plain values in and out, one JSON object last. Knows no gradio.

The docstrings are the tools' descriptions for agents (MCP) and the parameters' in the API's page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t4s import codec
from t4s.app import downloads, views
from t4s.app.service import batch
from t4s.errors import QueryError
from t4s.imaging import drawing, export
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_LABELS
from t4s.records import Prediction


class Endpoints:
    """The five endpoints around a `desk.InferenceService`, or what stands for one: write, write_all, refiner, tokenizer."""

    def __init__(self, desk: Any):
        self._desk = desk

    def segment(self, image: str, phrase: str, refiner: str = "", decoding: str = "fast") -> Iterator[tuple[Any, ...]]:
        """Segments what a phrase means in a photo: a language model writes the mask as text, row by row.

        The answer grows while it is written; the last one has everything. A thing that is not in the photo is an
        answer too: "present" is false and the mask is black.

        Args:
            image: the photo, a file or a web address
            phrase: what to find, 1 to 200 characters, such as "the dog on the left"
            refiner: how the grid becomes pixels: "" (the app's own), "edge", "smooth", "guided", "none" or "sam:ID"
            decoding: "fast", "constrained" or "free"

        Returns:
            The text that the model wrote; the grid over the photo; the mask, 255 where the thing is; one JSON object
            with text, labels, rows, box, score, present, faults, stats and the mask as COCO run lengths.
        """
        yield from self._answers(image, phrase, refiner, decoding)

    def segment_classes(
        self, image: str, names: str, refiner: str = "", decoding: str = "fast"
    ) -> Iterator[tuple[Any, ...]]:
        """Segments a whole photo into named classes; what is none of them is "others".

        Args:
            image: the photo, a file or a web address
            names: 1 to 64 class names, parted by commas, such as "dog, grass, sky"
            refiner: how the grid becomes pixels: "" (the app's own), "edge", "smooth", "guided", "none" or "sam:ID"
            decoding: "fast", "constrained" or "free"

        Returns:
            The text that the model wrote; the grid over the photo; the label map, a grey PNG whose values are indexes
            into "labels"; one JSON object as that of segment, with a mask for each label under "masks".
        """
        wanted = views.names(names)
        if len(wanted) > MAX_LABELS:
            raise QueryError(f"The list has {len(wanted)} names; at most {MAX_LABELS} can be asked at once.")
        yield from self._answers(image, wanted, refiner, decoding)

    def batch(self, images: list[str], phrases: str, refiner: str = "") -> Iterator[tuple[Any, ...]]:
        """Segments many photos, each with every phrase. A photo that cannot be read is reported; the rest goes on.

        Args:
            images: the photos, files or web addresses
            phrases: what to find, one phrase a line
            refiner: how the grid becomes pixels: "" (the app's own), "edge", "smooth", "guided", "none" or "sam:ID"

        Returns:
            A ZIP with masks, COCO JSON and a CSV; one JSON object with "results" (one a photo and phrase, as segment's)
            and "failed" (file and error).
        """
        results: list[dict[str, Any]] = []
        box = downloads.ResultsZip(downloads.place("text4seg.zip"))
        asked = images, phrases, refiner or self._desk.refiner
        for done, total, path, answers in batch(self._desk.write_all, *asked, box):
            results += [{"file": Path(path).name} | export.as_dict(each) for each in answers]
            if done < total:
                yield None, {"done": done, "total": total}
        failed = [{"file": row["file"], "error": row["error"]} for row in box.rows if row["error"]]
        yield str(box.close()), {"results": results, "failed": failed}

    def encode_mask(
        self, mask: str, label: str = "object", height: int = 16, width: int = 16, layout: str = "rows"
    ) -> Any:
        """Writes a mask as text, without any model.

        Args:
            mask: a PNG: not black where the thing is, or indexed with one colour a class
            label: its label; for an indexed PNG one name for each colour, parted by commas
            height: rows of the grid, 1 to 64
            width: columns of the grid, 1 to 64
            layout: "rows" (run lengths row by row), "image" (over the whole grid) or "full" (every cell)

        Returns:
            The text; one JSON object with text, labels, rows, and the text's length in characters and tokens.
        """
        _need(mask)
        view, grid = views.write_text(self._desk.tokenizer, mask, label, (int(height), int(width)), layout)
        return view["text"], export.grid_dict(grid) | {"text": view["text"], "sizes": dict(view["facts"])}

    def decode_text(self, text: str, height: int = 16, width: int = 16, layout: str = "rows") -> Any:
        """Reads a mask that was written as text, without any model; what is faulty is mended and listed.

        Args:
            text: the text, without <seg> and </seg>
            height: rows of the grid, 1 to 64
            width: columns of the grid, 1 to 64
            layout: "rows", "image" or "full"; only "rows" can be mended

        Returns:
            A picture of the grid; one JSON object with labels, rows, valid and faults (row, column, message).
        """
        _, answer = views.read_text(text, (int(height), int(width)), layout)
        grid = codec.DescriptorGrid(np.array(answer["rows"]), tuple(answer["labels"]))
        return drawing.grid_picture(grid), answer

    def _answers(self, path: str, query: str | list[str], refiner: str, decoding: str) -> Iterator[tuple[Any, ...]]:
        _need(path)
        for answer in self._desk.write(path, query, refiner or self._desk.refiner, decoding):
            if not answer.stats["ended"]:
                yield answer.text, None, None, {"text": answer.text, "finished": False}
                continue
            grid = drawing.grid_picture(answer.grid, open_photo(path))
            yield answer.text, grid, label_picture(answer), export.as_dict(answer) | {"finished": True}


def label_picture(answer: Prediction) -> Image.Image:
    """A phrase's mask as 0 and 255; of a class list, the labels' indexes."""
    picture = np.zeros(answer.mask.shape, np.uint8)
    for label, mask in answer.masks.items():
        picture[mask] = 255 if isinstance(answer.query, str) else answer.grid.labels.index(label)
    return Image.fromarray(picture)


def _need(image: str | None) -> None:
    if image is None:
        raise QueryError("There is no photo: give a file, or the address of one, as image.")
