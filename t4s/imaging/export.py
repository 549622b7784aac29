"""Masks as files that other tools open: PNG, COCO JSON, GeoJSON, LabelMe, SVG, plain JSON. numpy and Pillow.

Masks are (h, w) bool, or {label: mask} where a format knows labels; all coordinates are pixels of the
photo, x to the right, y down, from the upper left corner. Bytes and plain Python come out; nothing is
written to disk. Outlines are exact: they follow the pixels' edges, and filling them gives the mask again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from io import BytesIO
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
from PIL import Image

from t4s.codec import DescriptorGrid, encode
from t4s.imaging.polygons import keyhole, polygons
from t4s.records import Prediction

Masks = Mapping[str, np.ndarray]

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production 2


def mask_png(mask: np.ndarray, bits: int = 8) -> bytes:
    """A grey PNG: 0 outside and 255 inside at 8 bits; black outside and white inside at 1 bit."""
    if bits not in (1, 8):
        raise ValueError(f"A mask is written with 1 or 8 bits a pixel, not {bits}.")
    image = Image.fromarray(np.asarray(mask, bool).astype(np.uint8) * 255)
    return _png(image.convert("1") if bits == 1 else image)


def cutout_png(photo: Image.Image | np.ndarray, mask: np.ndarray) -> bytes:
    """The photo's pixels inside the mask, at the photo's size: RGBA PNG, transparent (and black) outside."""
    pixels = np.asarray(photo if isinstance(photo, np.ndarray) else photo.convert("RGB"))
    inside = np.asarray(mask, bool)[..., None]
    return _png(Image.fromarray(np.concatenate([pixels * inside, inside * np.uint8(255)], axis=2).astype(np.uint8)))


def _png(image: Image.Image) -> bytes:
    file = BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def box(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(x0, y0, x1, y1) in pixels, x1 and y1 exclusive; None for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1) if len(rows) else None


def coco_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's packed run lengths: {"size": [h, w], "counts": str}, as `pycocotools.mask.decode` takes them.

    Runs go down the columns and begin outside. Each is written in groups of 5 bits, lowest first, as
    characters from "0" on; 32 marks that more follow; from the fourth run on the difference to the run
    two before is written (cocoapi, `maskApi.c`, `rleToString`).
    """
    flat = np.asarray(mask, bool).T.ravel()
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0] if not flat.size or not flat[0] else [0, 0], edges, [flat.size]]))
    runs[3:] -= runs[1:-2].copy()
    text = bytearray()
    for value in runs.tolist():
        more = True
        while more:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            text.append(group + 32 * more + 48)
    return {"size": [int(n) for n in np.shape(mask)], "counts": text.decode()}


class CocoSet:
    """A COCO data set that grows photo by photo, and keeps run lengths alone: one annotation a label that is there.

    It opens in `pycocotools.coco.COCO`. Ids count from 1; a category for every label, also an absent one.
    """

    def __init__(self) -> None:
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories: dict[str, int] = {}

    def add(self, name: str, size: tuple[int, int], masks: Masks) -> None:
        """The photo in the file `name`, of `size` (h, w)."""
        number, (height, width) = len(self._images) + 1, size
        self._images.append({"id": number, "file_name": name, "height": int(height), "width": int(width)})
        for label, mask in masks.items():
            category = self._categories.setdefault(label, len(self._categories) + 1)
            if (around := box(mask)) is None:
                continue
            x0, y0, x1, y1 = around
            annotation = {"id": len(self._annotations) + 1, "image_id": number, "category_id": category, "iscrowd": 0}
            area = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": int(mask.sum()), "segmentation": coco_rle(mask)}
            self._annotations.append(annotation | area)

    def as_dict(self) -> dict[str, Any]:
        named = [{"id": number, "name": label} for label, number in self._categories.items()]
        return {"images": self._images, "annotations": self._annotations, "categories": named}


def coco_json(photos: Iterable[tuple[str, tuple[int, int], Masks]]) -> dict[str, Any]:
    """The COCO data set of (file name, (h, w), {label: mask})."""
    data = CocoSet()
    for photo in photos:
        data.add(*photo)
    return data.as_dict()


def geojson(masks: Masks) -> dict[str, Any]:
    """A FeatureCollection (RFC 7946), one Feature a label that is there, with the property "label".

    Coordinates are pixels, as image tools such as QuPath read them, and no longitudes. Rings are closed;
    outlines run counter-clockwise over (x, y) and holes clockwise, as the standard asks.
    """
    features = []
    for label, mask in masks.items():
        parts = [[[list(p) for p in [*ring, ring[0]]] for ring in polygon] for polygon in polygons(mask)]
        if parts:
            shape = {"type": "Polygon", "coordinates": parts[0]}
            if len(parts) > 1:
                shape = {"type": "MultiPolygon", "coordinates": parts}
            properties = {"label": label, "area": int(mask.sum())}
            features.append({"type": "Feature", "properties": properties, "geometry": shape})
    return {"type": "FeatureCollection", "features": features}


def labelme(masks: Masks, image_path: str, size: tuple[int, int]) -> dict[str, Any]:
    """A LabelMe file for the photo `image_path` of `size` (h, w): one polygon a connected part.

    Parts of one label share a `group_id`. LabelMe's polygons have no holes, so each hole hangs on a cut of
    no width. Save it beside the photo, named as the photo with `.json`.
    """
    shapes = [
        {
            "label": label,
            "points": [[float(x), float(y)] for x, y in keyhole(polygon)],
            "group_id": group,
            "description": "",
            "shape_type": "polygon",
            "flags": {},
        }
        for group, (label, mask) in enumerate(masks.items())
        for polygon in polygons(mask)
    ]
    head = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": image_path, "imageData": None}
    return head | {"imageHeight": int(size[0]), "imageWidth": int(size[1])}


def svg(masks: Masks, size: tuple[int, int], colours: Mapping[str, tuple[int, int, int]] | None = None) -> str:
    """An SVG of `size` (h, w): one path a label that is there, its label as title and `data-label`.

    `colours` {label: (r, g, b)}; a label without one is black. Labels are escaped.
    """
    height, width = (int(n) for n in size)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    for label, mask in masks.items():
        rings = [ring for polygon in polygons(mask) for ring in polygon]
        if rings:
            path = "".join("M" + "L".join(f"{x} {y}" for x, y in ring) + "Z" for ring in rings)
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


def as_dict(prediction: Prediction) -> dict[str, Any]:
    """A whole prediction for JSON: plain Python only.

    `text` is the model's own; `labels` and `rows` are the grid's (`grid_dict`); `box` is [x0, y0, x1, y1]
    or None; `faults` are {row, column, message}; `coco_rle` is the mask, `masks` {label: run lengths}.
    """
    grid = grid_dict(prediction.grid, prediction.confidence)
    query = prediction.query
    return {
        "query": query if isinstance(query, str) else list(query),
        **grid,
        "text": prediction.text,
        "present": bool(prediction.present),
        "score": float(prediction.score),
        "box": None if prediction.box is None else [int(value) for value in prediction.box],
        "faults": [asdict(fault) for fault in prediction.faults],
        "stats": {
            name: value.item() if isinstance(value, np.generic) else value for name, value in prediction.stats.items()
        },
        "coco_rle": coco_rle(prediction.mask),
        "masks": {label: coco_rle(mask) for label, mask in prediction.masks.items()},
    }
