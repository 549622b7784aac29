"""Quality and speed of the refiners: coarse grids of photos with true masks, refined and compared with the truth.

    python -m t4s.bench refine                                            # synthetic scenes, true grids
    python -m t4s.bench refine --dataset folder:PHOTOS@val --groups voc+msrc+horses camvid+ccp
    python -m t4s.bench refine --dataset folder:PHOTOS@val --checkpoint embedded      # the model's own grids
    python -m t4s.bench refine --sheet refiners.jpg                       # no table: a picture of the example photos

With true grids the scores are oracles: all that is lost is lost by the grid and the refiner. Per mask: IoU on the known
pixels (its mean, mIoU, and all pixels together, cIoU) and the F-score of the boundary (Perazzi et al., DAVIS, CVPR
2016: pixels of one boundary that lie within 0.8 % of the diagonal of the other).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from t4s.codec import DescriptorGrid, grid_from_mask
from t4s.data.spec import open_dataset
from t4s.evaluation.metrics import Overlap, overlap
from t4s.evaluation.scoring import covers
from t4s.records import IGNORED, Sample
from t4s.refine.refiner import refine

BUILT_IN = ("none", "smooth", "guided", "edge")
TOLERANCE = 0.008  # of the photo's diagonal
TIMED = ((480, 640), (3000, 4000))  # photos (h, w) that the milliseconds are measured on
REPEATS = 3  # of which the fastest counts
Case = tuple[DescriptorGrid, np.ndarray | None]  # a grid and its confidence


@dataclass
class Score:
    """The masks that one refiner drew from one kind of grid."""

    counts: list[Overlap] = field(default_factory=list)
    boundaries: list[float] = field(default_factory=list)

    def figures(self) -> tuple[float, float, float]:
        """mIoU, cIoU and boundary F-score, in percent."""
        both = sum(counts.both for counts in self.counts)
        union = sum(counts.union for counts in self.counts)
        mean = sum(counts.iou for counts in self.counts) / len(self.counts)
        return 100 * mean, 100 * both / max(union, 1), 100 * float(np.mean(self.boundaries))


Scores = dict[tuple[str, str, str], Score]  # by source, kind of grid and refiner


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset", default="synthetic@val", help="NAME[:PATH][@SPLIT] (default: synthetic@val)")
    add("--refiners", nargs="+", default=list(BUILT_IN), help="also crf, sam and sam:SOURCE")
    add("--grid-sizes", nargs="+", type=int, default=[16, 24, 32], help="cells per side of the true grids")
    add("--checkpoint", help="take the grids from this model ('embedded', a folder or a Hub id)")
    add("--groups", nargs="+", default=[], help="sources per table, such as voc+msrc, and no others")
    add("--smallest", type=float, default=0.01, help="leave out masks below this share of known pixels (default: 0.01)")
    add("--limit", type=int, help="at most this many photos, evenly spaced over the dataset")
    add("--sheet", type=Path, help="draw the example photos, refined, into this file instead")
    add("--no-times", dest="times", action="store_false", help="leave out the milliseconds")
    parser.add_argument("--cells", dest="grid_sizes", nargs="+", type=int, help=argparse.SUPPRESS,
                        default=argparse.SUPPRESS)  # fmt: skip


def run(
    dataset: str,
    refiners: Sequence[str],
    grid_sizes: Sequence[int],
    checkpoint: str | None,
    groups: Sequence[str],
    smallest: float,
    limit: int | None,
    sheet: Path | None,
    times: bool,
) -> None:
    """Print one Markdown table per group of sources, or draw the sheet."""
    if sheet:
        example_sheet(refiners).save(sheet, quality=82)
        return
    scores: Scores = defaultdict(Score)
    wanted = {source for group in groups for source in group.split("+")}
    sources = set()
    for sample in samples(dataset, smallest, limit):
        if wanted and sample.source not in wanted:
            continue
        sources.add(sample.source)
        for kind, case in cases(sample, grid_sizes, checkpoint):
            for name in refiners:
                add(scores[sample.source, kind, name], sample, refine(name, np.asarray(sample.image), *case))
    kinds = list(dict.fromkeys(kind for _, kind, _ in scores))
    milliseconds = {name: timed(name) for name in refiners} if times else {}
    for group in groups or ["+".join(sorted(sources))]:
        print(table(group, scores, kinds, refiners, milliseconds), end="\n\n")


def samples(spec: str, smallest: float, limit: int | None) -> Iterator[Sample]:
    """The evaluation samples that are present and not tiny. Every hundred photos a line goes to stderr."""
    dataset = open_dataset(spec, "val")
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for done, index in enumerate(np.arange(count) * len(dataset) // count, 1):
        if done % 100 == 0:
            print(f"{done} of {count} photos", file=sys.stderr)
        yield from (sample for sample in dataset[index] if not sample.absent and covers(sample, smallest))


def cases(sample: Sample, sides: Sequence[int], checkpoint: str | None) -> Iterator[tuple[str, Case]]:
    """(name of the kind, (grid, confidence)): true grids of every size, or the model's grid."""
    if checkpoint is None:
        yield from ((f"{side}×{side}", (sample.grid((side, side)), None)) for side in sides)
        return
    pixels = np.asarray(sample.image)
    segmenter = _segmenter(checkpoint)
    photo = _encoded(checkpoint, pixels.tobytes(), pixels.shape)
    ask = segmenter if isinstance(sample.query, str) else segmenter.classes
    answer = ask(photo, sample.query, refine="none")
    yield "the model's grids", (answer.grid, answer.confidence)


@cache
def _segmenter(checkpoint: str):
    from t4s import Segmenter

    return Segmenter.from_pretrained(None if checkpoint == "embedded" else checkpoint)


@lru_cache(maxsize=1)  # a photo's queries come one after the other
def _encoded(checkpoint: str, pixels: bytes, shape: tuple[int, int, int]):
    return _segmenter(checkpoint).encode(np.frombuffer(pixels, np.uint8).reshape(shape))


def add(score: Score, sample: Sample, masks: Mapping[str, np.ndarray]) -> None:
    known = sample.class_map != IGNORED
    for index, label in enumerate(sample.labels):
        truth = sample.class_map == index
        if index == 0 or not truth.any():
            continue
        mask = masks.get(label, np.zeros_like(truth))
        score.counts.append(overlap(mask, truth, known))
        score.boundaries.append(boundary_f(mask & known, truth))


def example_sheet(names: Sequence[str], side: int = 16) -> Image.Image:
    """The example photos: true grid, each refiner's mask with its IoU, and the truth. One row per photo."""
    from t4s.imaging import drawing

    rows = []
    for file, label, truth in example_masks():
        photo = Image.open(file).convert("RGB")
        grid = grid_from_mask(truth, label, (side, side))
        row = [(label, photo), (f"grid, {side} cells a side", drawing.grid_picture(grid, photo))]
        for name in names:
            mask = refine(name, np.asarray(photo), grid)[label]
            row.append((f"{name}: IoU {100 * overlap(mask, truth).iou:.1f}", drawing.overlay(photo, {label: mask})))
        rows.append([*row, ("truth", drawing.overlay(photo, {label: truth}))])
    return drawing.sheet(rows, tile=(120, 160), font_size=11)


def example_masks() -> Iterator[tuple[Path, str, np.ndarray]]:
    """(photo's file, category, (h, w) bool) of the example photos: the category that covers most, all instances."""
    from t4s.assets import asset
    from t4s.imaging.masks import annotation_mask

    folder = asset("examples")
    content = json.loads((folder / "instances.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in content["categories"]}
    for photo in content["images"]:
        masks: dict[str, np.ndarray] = {}
        for annotation in content["annotations"]:
            if annotation["image_id"] == photo["id"]:
                mask = annotation_mask(annotation["segmentation"], photo["height"], photo["width"])
                name = names[annotation["category_id"]]
                masks[name] = masks.get(name, False) | mask
        label = max(masks, key=lambda name: masks[name].sum())
        yield folder / photo["file_name"], label, masks[label]


def boundary_f(mask: np.ndarray, truth: np.ndarray) -> float:
    """F-score of the boundaries of two masks (h, w) bool, in [0, 1]; 1 if neither has one."""
    first, second = _boundary(mask), _boundary(truth)
    if not (first.any() or second.any()):
        return 1.0
    size = 2 * max(1, round(TOLERANCE * float(np.hypot(*truth.shape)))) + 1
    precision = (first & ndimage.maximum_filter(second, size)).sum() / max(first.sum(), 1)
    recall = (second & ndimage.maximum_filter(first, size)).sum() / max(second.sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _boundary(mask: np.ndarray) -> np.ndarray:
    """The pixels that differ from the one on their right or below."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, 1:] != mask[:, :-1]
    edge[:-1] |= mask[1:] != mask[:-1]
    return edge


def timed(name: str) -> list[float]:
    """Milliseconds of `refine` for one label on photos of the `TIMED` sizes, the best of `REPEATS`."""
    from t4s.data.scenes.synthetic import SyntheticDataset

    sample = SyntheticDataset(scenes=1)[0][0]
    grid = sample.grid((16, 16))
    milliseconds = []
    for height, width in TIMED:
        photo = np.asarray(sample.image.resize((width, height)))
        best = float("inf")
        for _ in range(REPEATS):
            start = time.perf_counter()
            refine(name, photo, grid)
            best = min(best, time.perf_counter() - start)
        milliseconds.append(1000 * best)
    return milliseconds


def table(
    group: str, scores: Scores, kinds: Sequence[str], names: Sequence[str], times: Mapping[str, Sequence[float]]
) -> str:
    """A Markdown table: one row per refiner; mIoU, cIoU and boundary F-score for each kind of grid."""
    merged = {(kind, name): Score() for kind in kinds for name in names}
    for (source, kind, name), score in scores.items():
        if source in group.split("+"):
            merged[kind, name].counts += score.counts
            merged[kind, name].boundaries += score.boundaries
    masks = max((len(score.counts) for score in merged.values()), default=0)
    if not masks:
        return f"{group}: no masks."
    heads = [f"{kind}: mIoU / cIoU / boundary F" for kind in kinds]
    heads += [f"{width}×{height}, ms" for height, width in TIMED] if times else []
    lines = [f"{group}: {masks} masks", "", "| refiner | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        cells = [" / ".join(f"{figure:.1f}" for figure in merged[kind, name].figures()) for kind in kinds]
        lines.append(f"| `{name}` | " + " | ".join([*cells, *(f"{ms:.0f}" for ms in times.get(name, []))]) + " |")
    return "\n".join(lines)
