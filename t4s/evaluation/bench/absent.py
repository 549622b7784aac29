"""Above which probability of the empty answer a thing is best called absent: T-acc and N-acc by that bound.

    python -m t4s.bench absent --dataset folder:PHOTOS@val --min-cover 0.01
    python -m t4s.bench absent --dataset folder:PHOTOS@val --source voc --checkpoint runs/mine

Every class name of a dataset is asked, those that are in the photo and those that are not, and the empty answer weighed
(`absence`). A line a bound: how many of the things that are there are drawn (T-acc) and how many of the others are
called absent (N-acc), in percent; first decoding without a bound, which does not weigh it. The bound that suits goes
into the checkpoint's `t4s.json` as `no_target_threshold`; choose it on other photos than those that the result is told of.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from t4s.data.spec import open_dataset
from t4s.errors import DataError
from t4s.evaluation.baselines import covers

BOUNDS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5)
ANY = 0.5  # a bound, so that the empty answer is weighed; which one is all the same here


class Asked(NamedTuple):
    """One name: of which source the photo is, whether the name is there, whether greedy decoding draws it, and the
    empty answer's probability."""

    source: str
    there: bool
    drawn: bool
    absent: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", required=True, metavar="NAME:PATH[@SPLIT]", help="@val unless told")
    parser.add_argument("--source", metavar="NAME", help="photos of this source alone, such as voc")
    parser.add_argument(
        "--min-cover",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="leave out names that cover less of their photo (0)",
    )
    parser.add_argument("--stride", type=int, default=1, metavar="N", help="every Nth photo (1)")
    parser.add_argument("--checkpoint", metavar="SRC", help="a folder or a Hub id (default: the embedded model)")


def run(options: argparse.Namespace) -> None:
    """Print one Markdown table, of all sources together and of each that has absent names."""
    if options.stride < 1 or not 0 <= options.min_cover < 1:
        raise DataError(
            f"--stride is {options.stride} and --min-cover {options.min_cover:g}; a stride is a whole "
            "number from 1, a cover a share of the photo from 0 to below 1."
        )
    asked = list(ask(options.dataset, options.checkpoint, options.source, options.min_cover, options.stride))
    if not {one.there for one in asked} == {True, False}:
        raise DataError(
            f"Of {options.dataset} {len(asked)} names were asked, and they are all there or all absent: "
            "name a dataset, or a --source, with both."
        )
    print(table(asked))


def ask(spec: str, checkpoint: str | None, source: str | None, min_cover: float, stride: int) -> Iterator[Asked]:
    """Every class name of the dataset's photos. Every hundred photos a line goes to stderr."""
    from t4s import Segmenter
    from t4s.models.vlm import VLM

    dataset, segmenter = open_dataset(spec, "val"), Segmenter.from_pretrained(checkpoint)
    model, processor, config = (getattr(segmenter.vlm, name) for name in ("model", "processor", "config"))
    greedy, weighed = (
        Segmenter(VLM(model, processor, replace(config, no_target_threshold=bound))) for bound in (None, ANY)
    )
    for done, index in enumerate(range(0, len(dataset), stride), 1):
        samples = [one for one in dataset[index] if isinstance(one.query, str) and source in (None, one.source)]
        samples = [one for one in samples if covers(one, min_cover)]
        photo = greedy.encode(samples[0].image) if samples else None
        for one in samples:
            chance = weighed(photo, one.query, refine="none").stats["absent"]
            yield Asked(one.source, not one.absent, greedy(photo, one.query, refine="none").present, chance)
        if done % 100 == 0:
            print(f"{done} photos", file=sys.stderr)


def table(asked: Sequence[Asked]) -> str:
    """Bounds down, sources across: "T-acc / N-acc", in percent."""
    sources = sorted({one.source for one in asked if not one.there})
    groups = {"all": list(asked)} if len({one.source for one in asked}) > 1 else {}
    groups |= {name: [one for one in asked if one.source == name] for name in sources}
    counts = [
        f"{name} ({sum(one.there for one in some)} there, {sum(not one.there for one in some)} not)"
        for name, some in groups.items()
    ]
    lines = ["| absent above | " + " | ".join(counts) + " |", "|---|" + "---|" * len(groups)]
    for bound in (None, *BOUNDS):
        figures = []
        for some in groups.values():
            there = np.array([one.there for one in some])
            drawn = np.array([one.drawn if bound is None else one.absent < bound for one in some])
            t, n = drawn[there].mean() if there.any() else np.nan, (~drawn[~there]).mean()
            figures.append(f"{100 * t:.1f} / {100 * n:.1f}")
        lines.append(f"| {bound or 'greedy'} | " + " | ".join(figures) + " |")
    return "\n".join(lines)
