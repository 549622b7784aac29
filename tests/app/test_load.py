"""Many clients at once: everyone gets their own answer, and memory stays level."""

from __future__ import annotations

import ctypes
import gc
import itertools
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

import app
from t4s import Segmenter
from t4s.app import examples
from t4s.records import Prediction
from tests.support import stand_in

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "assets" / "examples"
CATS, RIDERS = EXAMPLES / "two_cats.jpg", EXAMPLES / "riders.jpg"


Expected = dict[tuple[Path, str], Prediction]


def _ask_for(seconds: float, clients: int, address: str, expected: Expected) -> list[str]:
    """Clients that each ask their own way through `expected`; → what was mixed up or failed."""
    wrong: list[str] = []
    until = time.monotonic() + seconds

    def one(number: int) -> None:
        try:
            own, questions = Client(address, verbose=False), list(expected)
            for turn in itertools.count(number):
                photo, phrase = questions[turn % len(questions)]
                text, _, mask, result = own.predict(handle_file(photo), phrase, api_name="/segment")
                right = expected[photo, phrase]
                if (result["query"], text) != (phrase, right.text) or (
                    (np.asarray(Image.open(mask)) > 0) != right.mask
                ).any():
                    wrong.append(f"{photo.name}, {phrase}: {result['query']}, {text!r}")
                if time.monotonic() > until:
                    return
        except AppError as error:
            wrong.append(str(error))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(seconds + 240)
        if thread.is_alive():
            wrong.append("a client hangs")
    return wrong


def _expected(segmenter: stand_in.StandIn | Segmenter) -> Expected:
    """Every example with two phrases, in an order that takes neighbours from different photos."""
    questions = [(EXAMPLES / name, own) for name, own in examples.EXAMPLES]
    questions += [(EXAMPLES / name, "dog" if own == "person" else "person") for name, own in examples.EXAMPLES]
    return {(photo, phrase): segmenter(photo, phrase) for photo, phrase in questions}


def test_clients_at_once_get_their_own_answers(address: str, segmenter: stand_in.StandIn):
    expected = _expected(segmenter)
    assert len({answer.text for answer in expected.values()}) > 10  # a mixed-up one would show
    assert _ask_for(0, 4, address, expected) == []


def _resident() -> int:
    """kB of memory that the process holds."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text())[1])


@pytest.mark.long
def test_sixteen_clients_of_a_stand_in_for_a_minute(address: str, segmenter: stand_in.StandIn):
    """The app's own memory, whatever the allocator keeps: no model beside it."""
    expected = _expected(segmenter)
    assert _ask_for(5, 16, address, expected) == []
    before = _resident()
    assert _ask_for(60, 16, address, expected) == []
    assert _resident() - before < 200_000  # kB; the encoded photos and Gradio's files are bounded


@pytest.mark.long
def test_sixteen_clients_for_a_minute():
    """With the embedded checkpoint: no error, every answer the one that the model gives when nobody else asks."""

    def resident() -> int:
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the allocator keeps for later is no leak
        return _resident()

    segmenter = Segmenter.from_pretrained(device="cpu")
    expected = _expected(segmenter)
    blocks = app.build(segmenter).queue(max_size=64)
    _, url, _ = blocks.launch(prevent_thread_lock=True, quiet=True, **app.LAUNCH)
    try:
        assert _ask_for(20, 16, url, expected) == []  # what is kept of photos and answers fills up
        before = resident()
        assert _ask_for(60, 16, url, expected) == []
        assert resident() - before < 100_000  # kB; the encoded photos and Gradio's files are bounded
    finally:
        blocks.close()
