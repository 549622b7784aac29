"""The threshold of the no-target decision: T-acc and N-acc for each probability of the empty answer.

    python -m t4s.bench absent --dataset folder:PHOTOS@val --min-cover 0.01
    python -m t4s.bench absent --dataset folder:PHOTOS@val --source voc --checkpoint runs/mine

Every class name of a dataset is queried, those that are in the photo and those that are not, and P(all background) is
computed (`models/tiny/no_target.py`). Each row is a threshold: the share of present objects that are drawn (T-acc) and
of absent ones that are reported absent (N-acc), in percent. The first row is greedy decoding without a threshold. Set
the best one as `no_target_threshold` in the checkpoint's `t4s.json`; choose it on other photos than those on which the
result is reported.
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
from t4s.evaluation.scoring import covers

THRESHOLDS = (0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.3, 0.5)
ANY_THRESHOLD = 0.5  # some threshold, so that the probability is computed; its value does not matter here


class Query(NamedTuple):
    """One name: the photo's source, whether the object is present, whether greedy decoding draws it, P(background)."""

    source: str
    present: bool
    drawn: bool
    absent_probability: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset", required=True, metavar="NAME:PATH[@SPLIT]", help="photos to query (default split: val)")
    add("--source", metavar="NAME", help="only photos of this source, such as voc")
    add("--min-cover", type=float, default=0.0, metavar="SHARE", help="leave out objects below this share (default: 0)")
    add("--stride", type=int, default=1, metavar="N", help="every Nth photo (default: 1)")
    add("--checkpoint", metavar="SRC", help="a folder or a Hub id (default: the embedded model)")


def run(dataset: str, source: str | None, min_cover: float, stride: int, checkpoint: str | None) -> None:
    """Print one Markdown table, of all sources together and of each that has absent names. DataError."""
    if stride < 1 or not 0 <= min_cover < 1:
        raise DataError(
            f"--stride is {stride} and --min-cover {min_cover:g}; a stride is a whole number from 1, a cover a share "
            "of the photo from 0 to below 1."
        )
    queries = list(ask(dataset, checkpoint, source, min_cover, stride))
    if {query.present for query in queries} != {True, False}:
        raise DataError(
            f"{len(queries)} names of {dataset} were queried, and they are all present or all absent: "
            "name a dataset, or a --source, with both."
        )
    print(table(queries))


def ask(spec: str, checkpoint: str | None, source: str | None, min_cover: float, stride: int) -> Iterator[Query]:
    """Every class name of the dataset's photos. Every hundred photos a line goes to stderr."""
    from t4s import Segmenter
    from t4s.models.vlm import VLM

    dataset = open_dataset(spec, "val")
    vlm = Segmenter.from_pretrained(checkpoint).vlm

    def with_threshold(threshold: float | None) -> Segmenter:
        return Segmenter(VLM(vlm.model, vlm.processor, replace(vlm.config, no_target_threshold=threshold)))

    greedy, weighing = with_threshold(None), with_threshold(ANY_THRESHOLD)
    for done, index in enumerate(range(0, len(dataset), stride), 1):
        samples = [
            sample
            for sample in dataset[index]
            if isinstance(sample.query, str) and source in (None, sample.source) and covers(sample, min_cover)
        ]
        photo = greedy.encode(samples[0].image) if samples else None
        for sample in samples:
            probability = weighing(photo, sample.query, refine="none").stats["absent"]
            drawn = greedy(photo, sample.query, refine="none").present
            yield Query(sample.source, not sample.absent, drawn, probability)
        if done % 100 == 0:
            print(f"{done} photos", file=sys.stderr)


def table(queries: Sequence[Query]) -> str:
    """Thresholds down, sources across: "T-acc / N-acc", in percent."""
    sources = sorted({query.source for query in queries if not query.present})
    groups = {"all": list(queries)} if len({query.source for query in queries}) > 1 else {}
    groups |= {name: [query for query in queries if query.source == name] for name in sources}
    heads = []
    for name, group in groups.items():
        present = sum(query.present for query in group)
        heads.append(f"{name} ({present} present, {len(group) - present} absent)")
    lines = ["| absent above | " + " | ".join(heads) + " |", "|---|" + "---|" * len(groups)]
    for threshold in (None, *THRESHOLDS):
        cells = [_accuracies(group, threshold) for group in groups.values()]
        lines.append(f"| {threshold or 'greedy'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _accuracies(queries: Sequence[Query], threshold: float | None) -> str:
    present = np.array([query.present for query in queries])
    if threshold is None:
        drawn = np.array([query.drawn for query in queries])
    else:
        drawn = np.array([query.absent_probability < threshold for query in queries])
    t_accuracy = drawn[present].mean() if present.any() else np.nan
    n_accuracy = (~drawn[~present]).mean()
    return f"{100 * t_accuracy:.1f} / {100 * n_accuracy:.1f}"
