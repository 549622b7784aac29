"""Speed of the codec beside plain loops over lists, in microseconds.

    python -m t4s.bench codec

Drawn masks, not noise: three ellipses, at 16, 32 and 64 cells a side. The plain loops are how text masks are usually
written and read: cell by cell, and nothing is checked. `encode` and `decode` give the same text and the same ids, and
`decode` checks everything that the format specifies. Times are CPU times of this thread, the best of many repeats, so
that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import time
import timeit
from collections.abc import Callable
from functools import partial

import numpy as np

from t4s import codec
from t4s.errors import DataError

SIDES = (16, 32, 64)
PHOTO = (480, 640)  # (h, w) of the mask that becomes a grid
# Label, then centre and radii as shares of the sides.
ELLIPSES = (("dog", 0.6, 0.5, 0.28, 0.3), ("cat", 0.2, 0.2, 0.15, 0.18), ("red car", 0.3, 0.8, 0.12, 0.14))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=50, metavar="N", help="the best of N is shown (default: 50)")


def run(repeats: int) -> None:
    """Print a Markdown table. DataError."""
    if repeats < 1:
        raise DataError(f"--repeats is {repeats}; it is a whole number from 1.")
    print(table(repeats))


def table(repeats: int) -> str:
    """One row per direction and size: the plain loop, this codec, how many times faster it is."""
    lines = ["| | cells | plain loop, µs | codec, µs | times faster |", "|---|---|---|---|---|"]
    for side in SIDES:
        grid = drawn_grid(side)
        text = codec.encode(grid)
        rows = [[grid.labels[i] for i in row] for row in grid.ids.tolist()]
        pairs = {
            "encode": (partial(plain_encode, rows), partial(codec.encode, grid)),
            "decode": (partial(plain_decode, text), partial(codec.decode, text, grid.shape)),
        }
        for name, (plain, ours) in pairs.items():
            loop, fast = microseconds(plain, repeats), microseconds(ours, repeats)
            lines.append(f"| {name} | {side}×{side} | {loop:.1f} | {fast:.1f} | {loop / fast:.2f} |")
    mask = drawn_map(PHOTO) == 1
    fast = microseconds(partial(codec.grid_from_mask, mask, "dog"), repeats)
    lines.append(f"| mask of {PHOTO[1]}×{PHOTO[0]} pixels to grid | 16×16 | | {fast:.0f} | |")
    return "\n".join(lines)


def microseconds(call: Callable[[], object], repeats: int) -> float:
    """CPU time of one call, the best of `repeats` runs of about 2 ms."""
    number = 1
    while (spent := timeit.timeit(call, timer=time.thread_time, number=number)) < 0.002 and number < 1 << 20:
        number = max(2 * number, int(number * 0.002 / max(spent, 1e-6)))
    return 1e6 * min(timeit.repeat(call, timer=time.thread_time, number=number, repeat=repeats)) / number


def drawn_map(size: tuple[int, int]) -> np.ndarray:
    """(h, w) uint8: `ELLIPSES` numbered from 1, later ones in front."""
    y, x = ((np.arange(side) + 0.5) / side for side in size)
    classes = np.zeros(size, np.uint8)
    for number, (_, row, column, high, wide) in enumerate(ELLIPSES, 1):
        classes[((y[:, None] - row) / high) ** 2 + ((x - column) / wide) ** 2 < 1] = number
    return classes


def drawn_grid(side: int) -> codec.DescriptorGrid:
    """`ELLIPSES` as a grid of `side` × `side` cells."""
    return codec.DescriptorGrid(drawn_map((side, side)), (codec.OTHERS, *(label for label, *_ in ELLIPSES)))


def plain_encode(rows: list[list[str]]) -> str:
    """The `rows` layout from a label for each cell."""
    lines = []
    for row in rows:
        runs = []
        previous = row[0]
        count = 1
        for label in row[1:]:
            if label == previous:
                count += 1
            else:
                runs.append(f"{previous} *{count}")
                previous = label
                count = 1
        runs.append(f"{previous} *{count}")
        lines.append("| ".join(runs))
    return "\n ".join(lines) + "\n"


def plain_decode(text: str) -> tuple[np.ndarray, list[str]]:
    """(H, W) ids and their labels from a valid text in the `rows` layout; nothing is checked."""
    cells: list[str] = []
    lines = text.strip("\n").split("\n ")
    for line in lines:
        for run in line.split("| "):
            label, count = run.split(" *")
            cells.extend([label] * int(count))
    labels = [codec.OTHERS, *(label for label in dict.fromkeys(cells) if label != codec.OTHERS)]
    index = {label: number for number, label in enumerate(labels)}
    return np.array([index[label] for label in cells]).reshape(len(lines), -1), labels
