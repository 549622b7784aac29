"""Whatever reads a user's text takes time in proportion to its length: no regular expression that backtracks.

59,000 pasted spaces kept the app busy for a minute. Nothing is measured in seconds here: from 10 kB to 100 kB, and from
100 kB to 1 MB, CPU time may grow by some factor above ten; a quadratic one grows by a hundred.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import numpy as np
import pytest

from t4s import CodecError, QueryError, codec, lexicon
from t4s.app.views import runs
from t4s.codec.labels import is_clean
from t4s.imaging.export import svg
from t4s.segmenter import chat

GROWTH = 40  # times, for ten times the text
QUICK = 0.002  # seconds of CPU time, below which a ratio would be noise

ONE_PIXEL = np.ones((1, 1), bool)
UNITS = [
    " ",
    "a",
    "9",
    "*",
    "|",
    "\n",
    "\t",
    "-",
    "a ",
    "* ",
    "*9",
    "| ",
    "\n ",
    " *",
    "dog *1| ",
    "a-",
    "é",
    "<seg>",
    "1,",
    "\u2028",
]


def _decode(text: str) -> None:
    for layout in codec.LAYOUTS:
        try:
            codec.decode(text, (16, 16), layout)
        except CodecError:
            pass


def _clean_label(text: str) -> None:
    try:
        codec.clean_label(text)
    except QueryError:
        pass


def _runs(text: str) -> None:
    for layout in codec.LAYOUTS:
        runs(text, ("others", "dog"), (16, 16), layout)


READERS: dict[str, Callable[[str], object]] = {
    "decode": _decode,
    "repair": lambda text: codec.repair(text, (16, 16)),
    "clean_label": _clean_label,
    "is_clean": is_clean,
    "runs": _runs,
    "places in a free answer": chat.places,
    "class name": lexicon.clean_name,
    "SVG label": lambda text: svg({text: ONE_PIXEL}, (1, 1)),
}


def seconds(read: Callable[[str], object], text: str) -> float:
    """CPU time without the garbage collector, whose work grows with everything in memory; the better of two."""
    found = []
    gc.disable()
    try:
        for _ in range(2):
            start = time.thread_time()
            read(text)
            found.append(time.thread_time() - start)
    finally:
        gc.enable()
    return min(found)


def check_growth(name: str, sizes: tuple[int, ...]) -> None:
    for tail in ("", "x"):
        for unit in UNITS:
            before = QUICK
            for size in sizes:
                text = tail + unit * (size // len(unit)) + tail
                spent = seconds(READERS[name], text)
                assert size == sizes[0] or spent < GROWTH * before, f"{name}, {size:,} characters of {unit!r}"
                before = max(spent, QUICK)


@pytest.mark.parametrize("name", READERS)
def test_reading_is_linear(name: str):
    check_growth(name, (10_000, 100_000))


@pytest.mark.long
@pytest.mark.parametrize("name", READERS)
def test_reading_a_megabyte_is_linear(name: str):
    check_growth(name, (100_000, 1_000_000))
