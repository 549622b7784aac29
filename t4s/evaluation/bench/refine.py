"""How good the refiners are: coarse grids of photos with true masks, refined and compared with the truth.

    python -m t4s.bench refine                                            # synthetic scenes, true grids
    python -m t4s.bench refine --dataset folder:PHOTOS@val --groups voc+msrc+horses camvid+ccp
    python -m t4s.bench refine --dataset folder:PHOTOS@val --checkpoint embedded      # the model's own grids
    python -m t4s.bench refine --sheet refiners.jpg                       # and no table: a picture of the examples

With true grids the scores are oracles: what is lost is lost by the grid and the refiner alone. Per mask: IoU on the
known pixels (its mean, mIoU, and all pixels together, cIoU) and the F-score of the boundary (Perazzi et al., DAVIS,
CVPR 2016: pixels of one boundary that lie within 0.8 % of the diagonal of the other).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from t4s.codec import DescriptorGrid
from t4s.data.spec import open_dataset
from t4s.evaluation.baselines import covers
from t4s.evaluation.metrics import Overlap, overlap
from t4s.records import IGNORED, Sample
from t4s.refine.refiner import refine

BUILT_IN = ("none", "smooth", "guided", "edge")
TOLERANCE = 0.008  # of the photo's diagonal
TIMED = ((480, 640), (3000, 4000))  # photos (h, w) that the milliseconds are measured on
Case = tuple[DescriptorGrid, np.ndarray | None]  # a grid and its confidence


@dataclass
class Score:
    """The masks that one refiner drew from one kind of grid."""

    counts: list[Overlap] = field(default_factory=list)
    edges: list[float] = field(default_factory=list)

    def figures(self) -> tuple[float, float, float]:
        """mIoU, cIoU and boundary F-score, in percent."""
        both = sum(one.both for one in self.counts)
        union = sum(one.union for one in self.counts)
        mean = sum(one.iou for one in self.counts) / len(self.counts)
        return 100 * mean, 100 * both / max(union, 1), 100 * float(np.mean(self.edges))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="synthetic@val", help="NAME[:PATH][@SPLIT]")
    parser.add_argument("--refiners", nargs="+", default=list(BUILT_IN), help="also crf, sam and sam:SOURCE")
    parser.add_argument(
        "--cell-loss-data", nargs="+", type=int, default=[16, 24, 32], help="cells a side of the true grids"
    )
    parser.add_argument("--checkpoint", help="take the grids from this model ('embedded', a folder or a Hub id)")
    parser.add_argument("--groups", nargs="+", default=[], help="sources per table, such as voc+msrc, and no others")
    parser.add_argument("--smallest", type=float, default=0.01, help="leave out masks below this share of known pixels")
    parser.add_argument("--limit", type=int, help="at most this many photos, evenly spaced over the dataset")
    parser.add_argument("--sheet", type=Path, help="draw the example photos, refined, into this file instead")
    parser.add_argument("--no-times", action="store_true", help="leave out the milliseconds")


def run(options: argparse.Namespace) -> None:
    """Print one Markdown table a group of sources, or draw the sheet."""
    if options.sheet:
        example_sheet(options.refiners).save(options.sheet, quality=82)
        return
    scores: dict[tuple[str, str, str], Score] = defaultdict(Score)
    sources, wanted = set(), {source for group in options.groups for source in group.split("+")}
    for sample in samples(options.dataset, options.smallest, options.limit):
        if wanted and sample.source not in wanted:
            continue
        sources.add(sample.source)
        for kind, case in cases(sample, options.cell_loss_data, options.checkpoint):
            for name in options.refiners:
                add(scores[sample.source, kind, name], sample, refine(name, np.asarray(sample.image), *case))
    kinds = list(dict.fromkeys(kind for _, kind, _ in scores))
    times = {} if options.no_times else {name: timed(name) for name in options.refiners}
    for group in options.groups or ["+".join(sorted(sources))]:
        print(table(group, scores, kinds, options.refiners, times), end="\n\n")


def samples(spec: str, smallest: float, limit: int | None) -> Iterator[Sample]:
    """The evaluation samples that are there and not tiny. Every hundred photos a line goes to stderr."""
    dataset = open_dataset(spec, "val")
    count = len(dataset) if limit is None else min(limit, len(dataset))
    for done, index in enumerate(np.arange(count) * len(dataset) // count):
        if done % 100 == 99:
            print(f"{done + 1} of {count} photos", file=sys.stderr)
        yield from (sample for sample in dataset[index] if not sample.absent and covers(sample, smallest))


def cases(sample: Sample, sides: list[int], checkpoint: str | None) -> Iterator[tuple[str, Case]]:
    """(name of the kind, (grid, confidence)): true grids of every size, or the model's one."""
    if checkpoint is None:
        yield from ((f"{side}×{side}", (sample.grid((side, side)), None)) for side in sides)
        return
    pixels = np.asarray(sample.image)
    model, photo = _segmenter(checkpoint), _encoded(checkpoint, pixels.tobytes(), pixels.shape)
    ask = model if isinstance(sample.query, str) else model.classes
    answer = ask(photo, sample.query, refine="none")
    yield "the model's grids", (answer.grid, answer.confidence)


@cache
def _segmenter(checkpoint: str):
    from t4s import Segmenter

    return Segmenter.from_pretrained(None if checkpoint == "embedded" else checkpoint)


@lru_cache(maxsize=1)  # a photo's questions come one after the other
def _encoded(checkpoint: str, pixels: bytes, shape: tuple[int, int, int]):
    return _segmenter(checkpoint).encode(np.frombuffer(pixels, np.uint8).reshape(shape))


def add(score: Score, sample: Sample, masks: dict[str, np.ndarray]) -> None:
    known = sample.class_map != IGNORED
    for index, label in enumerate(sample.labels):
        truth = sample.class_map == index
        if index == 0 or not truth.any():
            continue
        drawn = masks.get(label, np.zeros_like(truth))
        score.counts.append(overlap(drawn, truth, known))
        score.edges.append(boundary_f(drawn & known, truth))


def example_sheet(names: list[str], side: int = 16) -> Image.Image:
    """The example photos: true grid, each refiner's mask with its IoU, and the truth. One row a photo."""
    from t4s.codec import grid_from_mask
    from t4s.imaging import drawing

    rows = []
    for file, label, truth in example_masks():
        photo = Image.open(file).convert("RGB")
        grid, row = grid_from_mask(truth, label, (side, side)), [(label, photo)]
        row.append((f"grid, {side} cells a side", drawing.grid_picture(grid, photo)))
        for name in names:
            mask = refine(name, np.asarray(photo), grid)[label]
            row.append((f"{name}: IoU {100 * overlap(mask, truth).iou:.1f}", drawing.overlay(photo, {label: mask})))
        rows.append([*row, ("truth", drawing.overlay(photo, {label: truth}))])
    return drawing.sheet(rows, tile=(120, 160), font_size=11)


def example_masks() -> Iterator[tuple[Path, str, np.ndarray]]:
    """(photo's file, category, (h, w) bool) of the example photos: all things of the category that covers most."""
    from t4s.assets import asset
    from t4s.imaging.masks import annotation_mask

    folder = asset("examples")
    known = json.loads((folder / "instances.json").read_text(encoding="utf-8"))
    names = {category["id"]: category["name"] for category in known["categories"]}
    for photo in known["images"]:
        masks: dict[str, np.ndarray] = {}
        for one in (one for one in known["annotations"] if one["image_id"] == photo["id"]):
            mask = annotation_mask(one["segmentation"], photo["height"], photo["width"])
            name = names[one["category_id"]]
            masks[name] = masks.get(name, False) | mask
        label = max(masks, key=lambda name: masks[name].sum())
        yield folder / photo["file_name"], label, masks[label]


def boundary_f(drawn: np.ndarray, truth: np.ndarray) -> float:
    """F-score of the boundaries of two masks (h, w) bool, in [0, 1]; 1 if neither has one."""
    first, second = _boundary(drawn), _boundary(truth)
    if not (first.any() or second.any()):
        return 1.0
    reach = max(1, round(TOLERANCE * float(np.hypot(*truth.shape))))
    precision = (first & _wider(second, reach)).sum() / max(first.sum(), 1)
    recall = (second & _wider(first, reach)).sum() / max(second.sum(), 1)
    return float(2 * precision * recall / max(precision + recall, 1e-9))


def _boundary(mask: np.ndarray) -> np.ndarray:
    """The pixels that differ from the one on their right or below."""
    edge = np.zeros_like(mask)
    edge[:, :-1] |= mask[:, 1:] != mask[:, :-1]
    edge[:-1] |= mask[1:] != mask[:-1]
    return edge


def _wider(edge: np.ndarray, reach: int) -> np.ndarray:
    """The pixels within `reach` rows and columns of one in `edge`."""
    return np.asarray(Image.fromarray(edge.astype(np.uint8)).filter(ImageFilter.MaxFilter(2 * reach + 1))) > 0


def timed(name: str, repeats: int = 3) -> list[float]:
    """Milliseconds of `refine` for one label on photos of the `TIMED` sizes, the best of `repeats`."""
    from t4s.data.scenes.synthetic import SyntheticDataset

    sample = SyntheticDataset(scenes=1)[0][0]
    grid, found = sample.grid((16, 16)), []
    for height, width in TIMED:
        photo, best = np.asarray(sample.image.resize((width, height))), float("inf")
        for _ in range(repeats):
            start = time.perf_counter()
            refine(name, photo, grid)
            best = min(best, time.perf_counter() - start)
        found.append(1000 * best)
    return found


def table(
    group: str,
    scores: dict[tuple[str, str, str], Score],
    kinds: list[str],
    names: list[str],
    times: dict[str, list[float]],
) -> str:
    """A Markdown table: one row a refiner; mIoU, cIoU and boundary F-score for each kind of grid."""
    merged = {(kind, name): Score() for kind in kinds for name in names}
    for (source, kind, name), score in scores.items():
        if source in group.split("+"):
            merged[kind, name].counts += score.counts
            merged[kind, name].edges += score.edges
    masks = max((len(score.counts) for score in merged.values()), default=0)
    if not masks:
        return f"{group}: no masks."
    heads = [f"{kind}: mIoU / cIoU / boundary F" for kind in kinds]
    heads += [f"{height}×{width}, ms" for width, height in TIMED] if times else []
    lines = [f"{group}: {masks} masks", "", "| refiner | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for name in names:
        cells = [" / ".join(f"{figure:.1f}" for figure in merged[kind, name].figures()) for kind in kinds]
        lines.append(f"| `{name}` | " + " | ".join([*cells, *(f"{ms:.0f}" for ms in times.get(name, []))]) + " |")
    return "\n".join(lines)
