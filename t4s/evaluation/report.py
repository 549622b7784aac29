"""An evaluation's results for people to read: tables, a picture sheet, lines for the model card.

Figures are in percent. Knows the shape of what `figures.figures` returns, not how it was computed.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from PIL import Image

from t4s import __version__
from t4s.data.spec import Dataset
from t4s.data.vqa import Question
from t4s.evaluation.scoring import PhraseRecord, Record
from t4s.hub import Figure
from t4s.imaging import drawing
from t4s.imaging.export import coco_rle
from t4s.imaging.masks import annotation_mask
from t4s.records import Answer, Prediction, Sample

COLUMNS = (
    ("cIoU", "target_ciou"), ("mIoU", "target_miou"), ("N-acc", "n_accuracy"), ("T-acc", "t_accuracy"),
    ("cIoU all", "ciou"), ("gIoU", "giou"), ("P@0.5", "0.5"), ("P@0.7", "0.7"), ("P@0.9", "0.9"),
    ("box@0.5", "box_accuracy"),
)  # fmt: skip
WORD_COLUMNS = (("cIoU", "target_ciou"), ("mIoU", "target_miou"), ("T-acc", "t_accuracy"))
LIST_COLUMNS = (("mIoU", "miou"), ("mIoU a photo", "image_miou"), ("pixels", "pixel_accuracy"))
KINDS = {
    "strict": "strict",
    "repaired": "repaired",
    "grid": "grid cells",
    "others": "all others",
    "average": "mean mask",
}
PICKED = 3  # photos in each row of the sheet: best, median, worst


def summary(results: dict[str, Any]) -> str:
    """The tables in Markdown: every source with its baselines, class lists, and the cost of an answer."""
    parts = []
    if "phrases" in results:
        sources = results["sources"]
        whole = {"all": results["phrases"]} if len(sources) > 1 else {}
        rows = [row for name, part in (sources | whole).items() for row in _rows(name, part)]
        parts.append(markdown(["source", "answer", "phrases", "with target", *dict(COLUMNS)], rows))
    if "lists" in results:
        part = results["lists"]
        rows = [[KINDS[kind], part["photos"], *_values(part[kind], LIST_COLUMNS)] for kind in KINDS if kind in part]
        parts.append(markdown(["class lists", "photos", *dict(LIST_COLUMNS)], rows))
    if "vqa" in results:
        part = results["vqa"]
        heads = ["questions", "VQA accuracy", "refused", "cut short", "with a grid"]
        keys = ("questions", "vqa_accuracy", "refused", "cut", "with_grids")
        parts.append(markdown(heads, [[part[key] for key in keys]]))
    if "words" in results:
        rows = []
        for kind, part in results["words"].items():
            both = [value for side in ("asked", "names") for value in _values(part[side]["strict"], WORD_COLUMNS)]
            rows.append([kind, part["asked"]["phrases"], *both])
        heads = [*dict(WORD_COLUMNS), *(f"{head} by name" for head in dict(WORD_COLUMNS))]
        parts.append(markdown(["asked by", "phrases", *heads], rows))
    cost = results["cost"]
    if cost["answers"]:
        seconds = results["timings"]["seconds_a_question"]
        parts.append(
            f"{cost['tokens']:.1f} tokens, {cost['forwards']:.1f} passes and {seconds:.2f} s an answer, "
            f"{len(results['invalid'])} invalid among {cost['answers']} answers."
        )
    return "\n\n".join(parts)


def overview(results: dict[str, Any]) -> str:
    """One Markdown table with a row per source: strict figures beside the baselines; "" if there are no phrases."""
    if "phrases" not in results:
        return ""
    rows = []
    whole = {"all": results["phrases"]} if len(results["sources"]) > 1 else {}
    for source, part in (results["sources"] | whole).items():
        baselines = [part.get("average", {}).get(key) for _, key in COLUMNS[:2]] + [part["others"]["target_ciou"]]
        rows.append([source, part["phrases"], part["targets"], *_values(part["strict"], COLUMNS[:4]), *baselines])
    beside = [f"{KINDS['average']}: {head}" for head, _ in COLUMNS[:2]] + [f"{KINDS['others']}: cIoU"]
    return markdown(["source", "phrases", "with target", *dict(COLUMNS[:4]), *beside], rows)


def by_class(results: dict[str, Any]) -> str:
    """One Markdown table: every class of every source, strict; "" if no phrase is a class name."""
    rows = [
        [
            source,
            name,
            scores["phrases"],
            scores["targets"],
            *_values(scores["strict"], COLUMNS[:4]),
            scores.get("average", {}).get("target_ciou"),
        ]
        for source, part in results.get("sources", {}).items()
        for name, scores in part.get("classes", {}).items()
    ]
    rows += [
        ["lists", name, None, None, scores["strict"], None, None, None, None]
        for name, scores in results.get("lists", {}).get("classes", {}).items()
    ]
    heads = ["source", "class", "phrases", "with target", *dict(COLUMNS[:4]), f"{KINDS['average']}: cIoU"]
    return markdown(heads, rows) if rows else ""


def _rows(name: str, part: Mapping[str, Any]) -> list[list[Any]]:
    """One row per kind of score; strict and repaired share one where no answer was invalid."""
    titles = {kind: title for kind, title in KINDS.items() if kind in part}
    if not part["invalid"]:
        del titles["repaired"]
        titles["strict"] = "strict = repaired"
    counts = part["phrases"], part["targets"]
    return [[name, title, *counts, *_values(part[kind], COLUMNS)] for kind, title in titles.items()]


def _values(figures: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[Any]:
    flat = {**figures, **figures.get("precision_at", {})}
    return [flat.get(key) for _, key in columns]


def markdown(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An aligned Markdown table: words left, numbers right with one decimal, empty columns left out."""
    kept = [k for k in range(len(heads)) if any(row[k] is not None for row in rows)]
    words = [any(isinstance(row[k], str) for row in rows) for k in kept]
    cells = [[_cell(row[k]) for k in kept] for row in rows]
    heads = [heads[k] for k in kept]
    widths = [max(len(line[k]) for line in (heads, *cells)) for k in range(len(heads))]
    ruler = ["-" * (width - 1) + ("-" if word else ":") for word, width in zip(words, widths, strict=True)]
    lines = []
    for line in (heads, ruler, *cells):
        sized = zip(line, widths, words, strict=True)
        padded = [text.ljust(width) if word else text.rjust(width) for text, width, word in sized]
        lines.append(f"| {' | '.join(padded)} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def card_figures(results: dict[str, Any], dataset: str) -> list[Figure]:
    """What the model card shows: the strict figures, each with its number of samples."""
    rows = []
    for source, part in results.get("sources", {}).items():
        data = dataset if len(results["sources"]) == 1 else f"{dataset} ({source})"
        for name, key in COLUMNS[:4]:
            count = part["phrases"] - part["targets"] if key == "n_accuracy" else part["targets"]
            if part["strict"][key] is not None:
                rows.append(Figure(name, round(part["strict"][key], 2), data, count))
    if "lists" in results and (miou := results["lists"]["strict"]["miou"]) is not None:
        rows.append(Figure("class mIoU", round(miou, 2), dataset, results["lists"]["photos"]))
    if "vqa" in results:
        rows.append(
            Figure("VQA accuracy", round(results["vqa"]["vqa_accuracy"], 2), dataset, results["vqa"]["questions"])
        )
    return rows


def names_drawn(results: dict[str, Any]) -> dict[str, float]:
    """{class name: mean IoU in [0, 1]} over the photos that have it, of all sources: the app offers what is drawn."""
    parts_of: dict[str, list[tuple[int, float]]] = {}
    for part in results.get("sources", {}).values():
        for name, scores in part.get("classes", {}).items():
            if scores["targets"]:
                parts_of.setdefault(name, []).append((scores["targets"], scores["strict"]["target_miou"] / 100))
    return {
        name: round(sum(n * iou for n, iou in parts) / sum(n for n, _ in parts), 3)
        for name, parts in sorted(parts_of.items())
    }


def versions() -> dict[str, str]:
    """What the figures were made with."""
    packages = ("torch", "transformers", "numpy", "pillow")
    return {"t4s": __version__, "python": platform.python_version()} | {name: version(name) for name in packages}


# --- the predictions and the sheet


def saved_line(sample: Sample, prediction: Prediction | None, refused: str | None) -> dict[str, Any]:
    """One prediction as --save writes it. `mask` is COCO RLE: of the target, or of every label of a class list."""
    query = sample.query if isinstance(sample.query, str) else list(sample.query)
    line: dict[str, Any] = {"id": sample.id, "query": query}
    if prediction is None:
        return line | {"refused": refused, "mask": None}
    line |= {
        "text": prediction.text,
        "present": prediction.present,
        "score": prediction.score,
        "box": prediction.box,
        "faults": [fault.message for fault in prediction.faults],
        "mask": coco_rle(prediction.mask),
    }
    if not isinstance(sample.query, str):
        line["masks"] = {label: coco_rle(mask) for label, mask in prediction.masks.items()}
    return line


def saved_answer(question: Question, answer: Answer | None, refused: str | None) -> dict[str, Any]:
    """One reply in free text as --save writes it."""
    line = {"id": question.id, "query": question.question, "answers": list(question.answers)}
    if answer is None:
        return line | {"refused": refused, "text": None}
    return line | {"text": answer.text, "faults": [fault.message for fault in answer.faults]}


def picture_sheet(
    dataset: Dataset,
    photos: Sequence[int],
    records: Sequence[Sequence[Record]],
    saved: Sequence[Sequence[dict[str, Any]]],
    title: str,
) -> Image.Image | None:
    """The best, the median and the worst answers to phrases with a target, the true mask beside each.

    photos, records and saved run in parallel: the photo's number, its records, its saved predictions. Chosen by
    repaired IoU, never by hand; of equals, the larger miss is the worse. None if there is no such phrase.
    """
    ranked = []
    for photo, of_photo, answers in zip(photos, records, saved, strict=True):
        for record, answer in zip(of_photo, answers, strict=True):
            if isinstance(record, PhraseRecord) and record.mask.true and record.rewording is None:
                ranked.append((record.mask.iou, record.mask.union, record.id, photo, record, answer))
    if not ranked:
        return None
    ranked.sort(key=lambda item: (-item[0], *item[1:3]))
    count = min(PICKED, len(ranked))
    middle = max(0, len(ranked) // 2 - PICKED // 2)
    rows = [ranked[:count], ranked[middle : middle + count], ranked[len(ranked) - count :]]
    tiles = [[tile for iou, _, *item in row for tile in _tiles(dataset, iou, *item)] for row in rows]
    return drawing.sheet(tiles, title=f"{title}: best, median, worst; truth on the left, answer on the right")


def _tiles(
    dataset: Dataset, iou: float, name: str, photo: int, record: PhraseRecord, answer: dict[str, Any]
) -> list[tuple[str, Image.Image]]:
    sample = next(sample for sample in dataset[photo] if sample.id == name)
    h, w = sample.class_map.shape
    mask = annotation_mask(answer["mask"], h, w) if answer.get("mask") else np.zeros((h, w), bool)
    caption = f"{100 * iou:.0f} %  {record.label}"
    return [
        (caption, drawing.overlay(sample.image, {"truth": sample.class_map > 0})),
        ("invalid" if record.invalid else "", drawing.overlay(sample.image, {"answer": mask})),
    ]
