"""Masks in the formats of other tools: PNG, COCO JSON, GeoJSON, LabelMe, SVG, plain JSON.

Masks are (h, w) bool, or {label: mask} if a format has labels; all coordinates are pixels of the photo,
x to the right, y down, from the upper left corner. Bytes and plain Python are returned; nothing is written
to disk. Outlines are simplified; `simplify` says how far.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

from t4s.codec import DescriptorGrid, encode
from t4s.imaging.masks import coco_rle
from t4s.imaging.simplify import outlines
from t4s.records import Part, Prediction, box_of

Masks = Mapping[str, np.ndarray]

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


def mask_png(mask: np.ndarray, bits: int = 8) -> bytes:
    """A grey PNG: 0 outside and 255 inside at 8 bits; black outside and white inside at 1 bit."""
    if bits not in (1, 8):
        raise ValueError(f"A mask has 1 or 8 bits a pixel, not {bits}.")
    image = Image.fromarray(np.asarray(mask, bool).astype(np.uint8) * 255)
    return _png(image.convert("1") if bits == 1 else image, optimize=True)


def cutout_png(photo: Image.Image | np.ndarray, mask: np.ndarray) -> bytes:
    """The pixels of the photo inside the mask, at the size of the photo: RGBA PNG, transparent (and black) outside."""
    pixels = np.asarray(photo if isinstance(photo, np.ndarray) else photo.convert("RGB"))
    inside = np.asarray(mask, bool)[..., None]
    cut = Image.fromarray(np.concatenate([pixels * inside, inside * np.uint8(255)], axis=2).astype(np.uint8))
    return _png(cut, compress_level=3)  # of 12 megapixels in a twelfth of the time of `optimize`, a quarter larger


def _png(image: Image.Image, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


class CocoSet:
    """A COCO data set that grows photo by photo and keeps only run lengths in memory.

    `pycocotools.coco.COCO` opens it. One annotation for each label that is present, or for each connected part if
    parts are given; a category for every label, even an absent one; ids count from 1.
    """

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}

    def add(self, name: str, size: tuple[int, int], masks: Masks, parts: Sequence[Part] | None = None) -> None:
        """The photo in the file `name`, of `size` (h, w). `parts`: annotated, with their scores, instead of `masks`."""
        number, (height, width) = len(self._images) + 1, size
        self._images.append({"id": number, "file_name": name, "height": int(height), "width": int(width)})
        for label, mask in masks.items():
            category = self._categories.setdefault(label, len(self._categories) + 1)
            if parts is None:
                self._annotate(number, category, mask)
            for part in parts or ():
                if part.label == label:
                    self._annotate(number, category, part_mask(part, size), round(part.score, 4))

    def _annotate(self, image: int, category: int, mask: np.ndarray, score: float | None = None) -> None:
        if (box := box_of(mask)) is None:
            return
        x0, y0, x1, y1 = box
        annotation = {"id": len(self._annotations) + 1, "image_id": image, "category_id": category, "iscrowd": 0}
        area = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(mask.sum()), "segmentation": coco_rle(mask)}
        self._annotations.append(annotation | area | ({} if score is None else {"score": score}))

    def as_dict(self) -> dict[str, Any]:
        """The data set so far, for JSON."""
        named = [{"id": number, "name": label} for label, number in self._categories.items()]
        info = {"description": "Masks drawn by Text4Seg", "version": "1.0"}  # pycocotools' loadRes needs it
        return {"info": info, "images": self._images, "annotations": self._annotations, "categories": named}


def part_mask(part: Part, size: tuple[int, int]) -> np.ndarray:
    """A part as a mask (h, w) bool of the photo's `size` (h, w)."""
    mask = np.zeros(size, bool)
    x0, y0, x1, y1 = part.box
    mask[y0:y1, x0:x1] = part.inside
    return mask


def coco_json(photos: Iterable[tuple[str, tuple[int, int], Masks]]) -> dict[str, Any]:
    """The COCO data set of (file name, (h, w), {label: mask})."""
    data = CocoSet()
    for photo in photos:
        data.add(*photo)
    return data.as_dict()


def geojson(masks: Masks) -> dict[str, Any]:
    """A FeatureCollection (RFC 7946), one Feature for each label that is present, with the property "label".

    Coordinates are pixels, as image tools such as QuPath expect, not longitudes. Rings are closed; outlines
    run counter-clockwise over (x, y) and holes clockwise, as the standard requires.
    """
    features = []
    for label, mask in masks.items():
        parts = [[[list(p) for p in [*ring, ring[0]]] for ring in polygon] for polygon in outlines(mask)]
        if parts:
            shape = {"type": "Polygon", "coordinates": parts[0]}
            if len(parts) > 1:
                shape = {"type": "MultiPolygon", "coordinates": parts}
            properties = {"label": label, "area": int(mask.sum())}
            features.append({"type": "Feature", "properties": properties, "geometry": shape})
    return {"type": "FeatureCollection", "features": features}


def labelme(masks: Masks, image_path: str, size: tuple[int, int]) -> dict[str, Any]:
    """A LabelMe file for the photo `image_path` of `size` (h, w): one polygon for each connected part.

    Parts of one label share a `group_id`. LabelMe's polygons have no holes, so each hole is joined to the outline by a
    narrow slit. Save the file beside the photo, with the same name and the ending `.json`.
    """
    shapes = [
        {
            "label": label,
            "points": [[float(x), float(y)] for x, y in outline],
            "group_id": group,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for group, (label, mask) in enumerate(masks.items())
        for (outline,) in outlines(mask, holes=False)
    ]
    head = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image_path, "imageData": None}
    return head | {"imageHeight": int(size[0]), "imageWidth": int(size[1])}


def svg(masks: Masks, size: tuple[int, int], colours: Mapping[str, tuple[int, int, int]] | None = None) -> str:
    """An SVG of `size` (h, w): one path for each label that is present, with the label as title and `data-label`.

    `colours` {label: (r, g, b)}; a label without one is black. Labels are escaped.
    """
    height, width = (int(n) for n in size)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    for label, mask in masks.items():
        rings = [ring for polygon in outlines(mask) for ring in polygon]
        if rings:
            path = "".join("M" + "L".join(f"{x:.8g} {y:.8g}" for x, y in ring) + "Z" for ring in rings)
            fill = "#{:02x}{:02x}{:02x}".format(*(colours or {}).get(label, (0, 0, 0)))
            name = _NO_XML.sub("\ufffd", label)
            lines.append(
                f'<path data-label={quoteattr(name)} fill="{fill}" fill-opacity="0.5" fill-rule="evenodd" '
                f'd="{path}"><title>{escape(name)}</title></path>'
            )
    return "\n".join([*lines, "</svg>\n"])


def grid_dict(grid: DescriptorGrid, confidence: np.ndarray | None = None) -> dict[str, Any]:
    """A grid for JSON: shape [H, W], labels, rows (H lists of W indexes into labels), text, confidence."""
    plain: dict[str, Any] = {"shape": list(grid.shape), "labels": list(grid.labels), "rows": grid.ids.tolist()}
    plain["text"] = encode(grid)
    if confidence is not None:
        plain["confidence"] = [[round(float(value), 4) for value in row] for row in confidence]
    return plain


def as_dict(prediction: Prediction, by_part: bool = False) -> dict[str, Any]:
    """A complete prediction for JSON: plain Python only.

    `query` is what was typed, `asked` what the model was asked for it, in the words of the labels; `text` is what it
    wrote; `labels` and `rows` are those of the grid (`grid_dict`); `box` is [x0, y0, x1, y1] or None; `parts` are
    {label, score, box, area}, the largest first, and `by_part` their run lengths, "coco_rle"; `faults` are
    {row, column, message}; `coco_rle` is the union mask, `masks` is {label: run lengths}.
    """
    grid = grid_dict(prediction.grid, prediction.confidence)
    query, asked = prediction.query, prediction.asked
    return {
        "query": query if isinstance(query, str) else list(query),
        "asked": asked if isinstance(asked, str) else list(asked),
        **grid,
        "text": prediction.text,
        "present": bool(prediction.present),
        "status": prediction.status,
        "score": float(prediction.score),
        "box": None if prediction.box is None else [int(value) for value in prediction.box],
        "parts": [_part_dict(part, prediction.mask.shape if by_part else None) for part in prediction.parts],
        "faults": [asdict(fault) for fault in prediction.faults],
        "stats": {
            name: value.item() if isinstance(value, np.generic) else value for name, value in prediction.stats.items()
        },
        "coco_rle": coco_rle(prediction.mask),
        "masks": {label: coco_rle(mask) for label, mask in prediction.masks.items()},
    }


def _part_dict(part: Part, size: tuple[int, int] | None) -> dict[str, Any]:
    """A part for JSON; with its run lengths if the photo's `size` (h, w) is given."""
    plain: dict[str, Any] = {"label": part.label, "score": part.score, "box": list(part.box), "area": part.area}
    return plain if size is None else plain | {"coco_rle": coco_rle(part_mask(part, size))}
