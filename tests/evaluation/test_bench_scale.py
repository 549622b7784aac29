"""bench scale: rates of whole runs of t4s label, and the arithmetic of a million photos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t4s.bench
from t4s.errors import DataError
from t4s.evaluation.bench import scale
from t4s.evaluation.bench.scale import Measured, million, steady_rate, table


def test_the_start_does_not_count():
    assert steady_rate([100.0, 101.0, 102.0, 103.0], 1) == pytest.approx(1)
    assert steady_rate([90.0, 100.0, 101.0, 101.5, 102.0], 2) == pytest.approx(1.5)
    with pytest.raises(DataError, match="name a source with more"):
        steady_rate([1.0, 2.0], 32)


def test_a_million_photos():
    """100 photos a second: 2.8 hours on one; with 80 % of twice the rate on two, 0.4 hours on eight."""
    rows = [Measured("processes", 1, 100.0, 5, 2 * 10**8), Measured("processes", 2, 160.0, 5, None)]
    assert "| processes | 0.80 | 2.8 | 0.4 | 0.1 |" in million(rows)
    slow = [Measured("Ray actors", 1, 1.0, 5, None)]
    assert "| Ray actors | 1.00 (assumed) | 277.8 | 34.7 | 4.3 |" in million(slow)
    assert "| processes | 1 | 100.00 | 5 | 200 |" in table(rows) and "not measured" in table(rows)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="memory is read from /proc")
def test_memory_is_that_of_a_process_and_those_below_it():
    assert 10**6 < scale.memory([os.getpid()]) < 10**11


def test_what_cannot_be_measured_is_refused(capsys):
    assert t4s.bench.main(["scale", "PHOTOS", "--query", "dog", "--limit", "2"]) == 2
    assert t4s.bench.main(["scale", "PHOTOS", "--query", "dog", "--processes", "0"]) == 2
    assert t4s.bench.main(["scale", "PHOTOS", "--query", "dog", "--limit", "7"]) == 2
    assert capsys.readouterr().err.count("give at least one number of workers") == 3


@pytest.mark.long
def test_a_real_run(fresh_vlm, tmp_path: Path, capsys):
    checkpoint, photos = tmp_path / "checkpoint", tmp_path / "photos"
    fresh_vlm.model.save_pretrained(checkpoint)
    fresh_vlm.processor.save_pretrained(checkpoint)
    fresh_vlm.config.write(checkpoint)
    photos.mkdir()
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (24, 24, 3), np.uint8)
        Image.fromarray(pixels).save(photos / f"{number:02d}.png")
    given = ["scale", str(photos), "--query", "dog", "--limit", "12", "--checkpoint", str(checkpoint)]
    assert t4s.bench.main(given) == 0
    said = capsys.readouterr().out
    assert "| processes | 1 |" in said and "| processes | 2 |" in said
    assert t4s.bench.main([*given[:1], "nowhere", *given[2:]]) == 2
    assert "no such file" in capsys.readouterr().err
