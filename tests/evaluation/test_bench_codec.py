"""`bench codec`: its plain loops give what the codec gives, and its table tells how many times faster the codec is."""

from __future__ import annotations

import numpy as np
import pytest

from t4s import bench
from t4s import codec as format_
from t4s.evaluation.bench import codec


@pytest.mark.parametrize("side", codec.SIDES)
def test_the_plain_loops_agree_with_the_codec(side):
    grid = codec.drawn_grid(side)
    text = format_.encode(grid)
    assert codec.plain_encode([[grid.labels[i] for i in row] for row in grid.ids.tolist()]) == text
    ids, labels = codec.plain_decode(text)
    back = format_.decode(text)
    assert np.array_equal(ids, back.ids) and tuple(labels) == back.labels
    assert len(np.unique(ids)) == 4  # all three are drawn


def test_the_table_compares_the_codec_with_plain_loops(capsys):
    """How fast it is depends on what else the machine does: the table is for that, and no test."""
    assert bench.main(["codec", "--repeats", "15"]) == 0
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[:2] for row in rows[:2]] == [["encode", "16×16"], ["decode", "16×16"]] and len(rows) == 7
    for _, _, plain, ours, times in rows[:6]:
        assert float(times) == pytest.approx(float(plain) / float(ours), rel=0.05)


def test_impossible_repeats_are_refused(capsys):
    assert bench.main(["codec", "--repeats", "0"]) == 2
    assert "--repeats is 0" in capsys.readouterr().err
