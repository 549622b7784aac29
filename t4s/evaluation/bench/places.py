"""Whether "the dog on the left" is the dog on the left: phrases that pick one of several instances by place or size.

    python -m t4s.bench places --dataset scenes:PHOTOS,scenes=900@val --dataset places:PHOTOS@val
    python -m t4s.bench places --dataset places:PHOTOS@val --source voc --checkpoint runs/tiny

Of each picture one phrase of each kind and name is queried. An answer is right if its IoU with the instance that is
meant is larger than with any other instance of that name; an answer that denies the instance is wrong. "Chance" is the
share that picking one of them blindly would get right. Takes a dataset of composed scenes, or `places`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from t4s.data.scenes.phrasing import PLACE_KINDS, place_kind
from t4s.data.scenes.staging import Scene, one_of_each
from t4s.data.spec import open_dataset
from t4s.errors import DataError
from t4s.evaluation.metrics import overlap

Answer = Callable[[Scene, Sequence[str]], Iterable[np.ndarray]]  # the masks (h, w) bool of these phrases
Verdict = Literal["right", "another", "denied"]  # another: another instance of that name


@dataclass(frozen=True)
class Judgement:
    """One phrase and how it was answered."""

    source: str
    picture: int
    kind: str
    phrase: str
    verdict: Verdict
    candidates: int
    iou: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset", action="append", required=True, metavar="NAME:PATH[@SPLIT]",
        help="scenes, synthetic or places (default split: val); repeatable")  # fmt: skip
    add("--limit", type=int, default=300, metavar="N", help="pictures with such phrases, per dataset (default: 300)")
    add("--source", metavar="NAME", help="only photos of this source, such as voc")
    add("--checkpoint", metavar="SRC", help="a folder or a Hub id (default: the embedded model)")
    add("--refine", metavar="NAME", help="refiner (default: the checkpoint's own)")
    add("--list", dest="show", action="store_true", help="print every phrase and its answer as they come")


def run(
    dataset: Sequence[str], limit: int, source: str | None, checkpoint: str | None, refine: str | None, show: bool
) -> None:
    """Print one Markdown table per dataset. DataError if one has no such phrases."""
    from t4s import Segmenter

    segmenter = Segmenter.from_pretrained(checkpoint)

    def answer(scene: Scene, phrases: Sequence[str]) -> Iterator[np.ndarray]:
        encoded = segmenter.encode(scene.image)
        return (segmenter(encoded, phrase, refine=refine).mask for phrase in phrases)

    for spec in dataset:
        judgements = []
        for judgement in ask(spec, answer, limit, source):
            judgements.append(judgement)
            if show:
                about = f"{judgement.source} {judgement.picture}: {judgement.phrase!r}"
                print(f"{about}: {judgement.verdict}, IoU {judgement.iou:.2f}", flush=True)
        if not judgements:
            of_source = f" of source {source}" if source else ""
            raise DataError(
                f"The dataset {spec} has no picture{of_source} with several instances that a phrase can tell "
                "apart; name another one."
            )
        print(table(spec, judgements), end="\n\n", flush=True)


def ask(spec: str, answer: Answer, limit: int, source: str | None = None) -> Iterator[Judgement]:
    """Every phrase of the first `limit` pictures that have one. Every fifty pictures a line goes to stderr."""
    dataset = open_dataset(spec, "val")
    if not hasattr(dataset, "scene"):
        raise DataError(f"The dataset {spec} has no instances; name scenes:PHOTOS or places:PHOTOS.")
    done = 0
    for index in range(len(dataset)):
        scene = dataset.scene(index)
        phrases = one_of_each(scene, np.random.default_rng(index))
        if not phrases or source not in (None, scene.source):
            continue
        for (text, (meant,)), mask in zip(phrases, answer(scene, [text for text, _ in phrases]), strict=True):
            yield judge(scene, index, text, meant, mask)
        done += 1
        if done % 50 == 0:
            print(f"{done} pictures", file=sys.stderr)
        if done >= limit:
            return


def judge(scene: Scene, picture: int, phrase: str, meant: int, mask: np.ndarray) -> Judgement:
    """`meant`: the index of the instance that the phrase picks; `mask` (h, w) bool: the answer."""
    name = scene.instances[meant].name
    rivals = [i for i, instance in enumerate(scene.instances) if instance.name == name and i != meant]
    ious = {i: _iou(mask, scene.masks[i]) for i in (meant, *rivals)}
    verdict: Verdict = "denied"
    if ious[meant] > max(ious[i] for i in rivals):
        verdict = "right"
    elif mask.any():
        verdict = "another"
    return Judgement(scene.source, picture, place_kind(phrase), phrase, verdict, len(ious), ious[meant])


def _iou(mask: np.ndarray, truth: np.ndarray) -> float:
    counts = overlap(mask, truth)
    return counts.both / max(counts.union, 1)


def table(title: str, judgements: Sequence[Judgement]) -> str:
    """Right, denied, chance and mean IoU in percent, per kind of phrase, per source and over all."""
    groups = {kind: [judgement for judgement in judgements if judgement.kind == kind] for kind in PLACE_KINDS}
    sources = sorted({judgement.source for judgement in judgements})
    if len(sources) > 1:
        groups |= {
            f"all of {name}": [judgement for judgement in judgements if judgement.source == name] for name in sources
        }
    groups["all"] = [*judgements]
    lines = [
        f"### {title}",
        "",
        "| phrases | right % | n | pictures | denied % | chance % | mIoU |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for label, group in groups.items():
        if group:
            right = np.mean([judgement.verdict == "right" for judgement in group])
            denied = np.mean([judgement.verdict == "denied" for judgement in group])
            chance = np.mean([1 / judgement.candidates for judgement in group])
            iou = np.mean([judgement.iou for judgement in group])
            pictures = len({judgement.picture for judgement in group})
            lines.append(
                f"| {label} | {100 * right:.1f} | {len(group)} | {pictures} | {100 * denied:.1f} | "
                f"{100 * chance:.1f} | {100 * iou:.1f} |"
            )
    return "\n".join(lines)
