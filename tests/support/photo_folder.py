"""A folder of small labelled photos made here, that every kind of data set of photos can be opened on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("dog", "cat", "bird")
SIZES = ((96, 80), (120, 90), (80, 110))  # width, height
COLOURS = {"dog": (190, 120, 60), "cat": (60, 70, 90), "bird": (200, 50, 60), "sky": (90, 160, 240)}


def write(folder: Path, photos: int = 18) -> Path:
    """Photos of one disc each or two, called dog, cat or bird, on a soft background, half of them with a sky.

    `index.jsonl` makes them a `folder` data set, also for `scenes` and `places`, all of split "train"; `lines.jsonl` a
    `jsonl` one, which asks for each photo's animal and for one that is absent; `instances.json` a `coco` one.
    """
    rng, rows, lines = np.random.default_rng(0), [], []
    for number in range(photos):
        name, (width, height) = NAMES[number % 3], SIZES[number // 3 % 3]
        soft = Image.fromarray(rng.integers(60, 200, (9, 9, 3), np.uint8)).resize((width, height), 3)
        pixels, ids = np.array(soft), np.zeros((height, width), np.uint8)
        classes = {"1": name}
        if number % 2:
            ids[: height // 8], pixels[: height // 8], classes["2"] = 2, COLOURS["sky"], "sky"
        for x in (0.25, 0.75) if number >= 2 * photos // 3 else (0.5,):
            animal = _disc(x * width, rng.uniform(0.5, 0.6) * height, rng.uniform(0.12, 0.17) * width, (height, width))
            ids[animal], pixels[animal] = 1, COLOURS[name]
        Image.fromarray(pixels).save(folder / f"{number}.png")
        Image.fromarray(ids).save(folder / f"{number}-mask.png")
        Image.fromarray((ids == 1).astype(np.uint8) * 255).save(folder / f"{number}-line.png")
        rows.append({"image": f"{number}.png", "mask": f"{number}-mask.png", "source": "zoo", "split": "train",
                     "classes": classes, "ignore": [255]})  # fmt: skip
        lines.append({"image": f"{number}.png", "query": f"the {name} on the left", "mask": f"{number}-line.png"})
        lines.append({"image": f"{number}.png", "query": NAMES[(number + 1) % 3], "absent": True})
    (folder / "instances.json").write_text(json.dumps(_coco(rows)), encoding="utf-8")
    for name, found in (("index", rows), ("lines", lines)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, found)) + "\n", encoding="utf-8")
    return folder


def _coco(rows: list[dict]) -> dict:
    """A box where each animal may be, as an outline: its shape is of no interest here."""
    images, annotations = [], []
    for number, row in enumerate(rows):
        width, height = SIZES[number // 3 % 3]
        x, y = width // 3, height // 3
        outline = [x, y, 2 * x, y, 2 * x, 2 * y, x, 2 * y]
        images.append({"id": number, "file_name": row["image"], "width": width, "height": height})
        annotations.append({"id": number, "image_id": number, "category_id": number % 3, "segmentation": [outline]})
    categories = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    return {"images": images, "annotations": annotations, "categories": categories}


def _disc(x: float, y: float, radius: float, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = np.indices(shape)
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2
