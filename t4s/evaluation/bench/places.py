"""Whether "the dog on the left" is the dog on the left: one of several instances of a name, told by place or size.

    python -m t4s.bench places --dataset scenes:PHOTOS,scenes=900@val --dataset places:PHOTOS@val
    python -m t4s.bench places --dataset places:PHOTOS@val --source voc --checkpoint runs/tiny

Of each picture one phrase of each kind and name is asked. An answer is right if its IoU with the instance that is meant
is larger than with any other instance of that name; an answer that denies the instance is wrong. "Chance" is the share that
naming one of them blindly would get right. A dataset of composed scenes, or `places`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from t4s.data.scenes.phrasing import PLACE_KINDS, place_kind
from t4s.data.scenes.staging import Scene, one_of_each
from t4s.data.spec import open_dataset
from t4s.errors import DataError

Answer = Callable[[Scene, Sequence[str]], Iterable[np.ndarray]]  # the masks (h, w) bool of these phrases


@dataclass(frozen=True)
class Asked:
    """One phrase and how it was answered. `verdict`: "right", "another" (instance) or "denied"."""

    source: str
    picture: int
    kind: str
    phrase: str
    verdict: str
    candidates: int
    iou: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dataset",
        action="append",
        required=True,
        metavar="NAME:PATH[@SPLIT]",
        help="scenes, synthetic or places; @val unless told; repeatable",
    )
    parser.add_argument(
        "--limit", type=int, default=300, metavar="N", help="pictures with such phrases, of each dataset (300)"
    )
    parser.add_argument("--source", metavar="NAME", help="photos of this source alone, such as voc")
    parser.add_argument("--checkpoint", metavar="SRC", help="a folder or a Hub id (default: the embedded model)")
    parser.add_argument("--refine", metavar="NAME", help="refiner (default: the checkpoint's own)")
    parser.add_argument("--list", action="store_true", help="print every phrase and its answer as they come")


def run(options: argparse.Namespace) -> None:
    """Print one Markdown table a dataset."""
    from t4s import Segmenter

    segmenter = Segmenter.from_pretrained(options.checkpoint)

    def answer(scene: Scene, phrases: Sequence[str]) -> Iterator[np.ndarray]:
        encoded = segmenter.encode(scene.image)
        return (segmenter(encoded, phrase, refine=options.refine).mask for phrase in phrases)

    for spec in options.dataset:
        asked = []
        for one in ask(spec, answer, options.limit, options.source):
            asked.append(one)
            if options.list:
                print(f"{one.source} {one.picture}: {one.phrase!r}: {one.verdict}, IoU {one.iou:.2f}", flush=True)
        if not asked:
            source = f" of source {options.source}" if options.source else ""
            raise DataError(
                f"The dataset {spec} has no picture{source} with several instances that a phrase can tell "
                "apart; name another one."
            )
        print(table(spec, asked), end="\n\n", flush=True)


def ask(spec: str, answer: Answer, limit: int, source: str | None = None) -> Iterator[Asked]:
    """Every phrase of the first `limit` pictures that have one. Every fifty pictures a line goes to stderr."""
    dataset = open_dataset(spec, "val")
    if not hasattr(dataset, "scene"):
        raise DataError(
            f"The dataset {spec} does not know one instance from another; name scenes:PHOTOS or places:PHOTOS."
        )
    done = 0
    for index in range(len(dataset)):
        scene = dataset.scene(index)
        phrases = one_of_each(scene, np.random.default_rng(index))
        if not phrases or source not in (None, scene.source):
            continue
        for (text, (meant,)), mask in zip(phrases, answer(scene, [text for text, _ in phrases]), strict=True):
            yield judged(scene, index, text, meant, mask)
        done += 1
        if done % 50 == 0:
            print(f"{done} pictures", file=sys.stderr)
        if done >= limit:
            return


def judged(scene: Scene, picture: int, phrase: str, meant: int, mask: np.ndarray) -> Asked:
    """`meant`: the thing's place in the scene; `mask` (h, w) bool: the answer."""
    name = scene.instances[meant].name
    rivals = [i for i, instance in enumerate(scene.instances) if instance.name == name and i != meant]
    ious = {i: _iou(mask, scene.masks[i]) for i in (meant, *rivals)}
    right = ious[meant] > max(ious[i] for i in rivals)
    verdict = "right" if right else "another" if mask.any() else "denied"
    return Asked(scene.source, picture, place_kind(phrase), phrase, verdict, len(ious), ious[meant])


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / max((one | other).sum(), 1))


def table(title: str, asked: Sequence[Asked]) -> str:
    """Right, denied, chance and mean IoU in percent, per kind of phrase, per source and over all."""
    groups = {kind: [one for one in asked if one.kind == kind] for kind in PLACE_KINDS}
    sources = sorted({one.source for one in asked})
    if len(sources) > 1:
        groups |= {f"all of {name}": [one for one in asked if one.source == name] for name in sources}
    groups["all"] = list(asked)
    lines = [
        f"### {title}",
        "",
        "| phrases | right % | n | pictures | denied % | chance % | mIoU |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for label, some in groups.items():
        if some:
            right, denied = (np.mean([one.verdict == verdict for one in some]) for verdict in ("right", "denied"))
            chance, iou = np.mean([1 / one.candidates for one in some]), np.mean([one.iou for one in some])
            pictures = len({one.picture for one in some})
            lines.append(
                f"| {label} | {100 * right:.1f} | {len(some)} | {pictures} | {100 * denied:.1f} | "
                f"{100 * chance:.1f} | {100 * iou:.1f} |"
            )
    return "\n".join(lines)
