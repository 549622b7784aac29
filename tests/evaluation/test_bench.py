"""`bench decoding` as it is called, and the figures in it that can be known beforehand."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from t4s import bench, codec
from t4s.decoding.constraint import Constraint, vocabulary
from t4s.decoding.generate import check, decode, last_step
from t4s.errors import CheckpointError
from t4s.evaluation.bench import decoding
from t4s.evaluation.bench.decoding import TrueText, auroc, masks, replay, table
from t4s.evaluation.bench.tokenizers import open_tokenizer
from t4s.records import Sample


@pytest.fixture(scope="module")
def mistral():
    pytest.importorskip("sentencepiece")
    pytest.importorskip("mistral_common")
    return open_tokenizer("mistral")


def sample(rows: slice, columns: slice, size=64) -> Sample:
    class_map = np.zeros((size, size), np.int16)
    class_map[rows, columns] = 1
    return Sample("a", "test", None, "dog", ("others", "dog"), class_map)


def test_replay_counts_every_loop(mistral, monkeypatch):
    monkeypatch.setattr(decoding, "mask_milliseconds", lambda words: 0.0)
    samples = [sample(slice(16, 48), slice(8, 40)), sample(slice(0, 0), slice(0, 0))]
    rows = {(row["text"], row["loop"]): row for row in replay("mistral", samples, [16], [4])}
    words = vocabulary(mistral)
    for layout, text in (("full", "full text"), ("image", "I-RLE"), ("rows", "R-RLE")):
        mean = np.mean([len(words.spell(codec.encode(one.grid((16, 16)), layout))) for one in samples])
        assert rows[text, "free"]["tokens"] == mean
    constrained, fast = rows["R-RLE", "constrained"], rows["R-RLE", "fast, 4 rows"]
    assert constrained["tokens"] == fast["tokens"] == rows["R-RLE", "free"]["tokens"]
    assert constrained["passes"] == constrained["tokens"] - 1 == constrained["fed"]
    assert fast["passes"] < constrained["passes"] / 8
    assert rows["full text", "free"]["tokens"] > 500 and "| R-RLE | fast, 4 rows |" in table(list(rows.values()))


def test_free_passes_are_what_the_loop_takes(mistral):
    """The table computes them, for full texts would take minutes: tokens of body and closing, but the last one.

    A Llama-like vocabulary spells the closing, on its own, with a space before it, which is not the body's.
    """
    assert vocabulary(mistral).latin1(vocabulary(mistral).spell("</seg>")) == " </seg>"
    words = vocabulary(mistral)
    grid = sample(slice(8, 40), slice(16, 32)).grid((8, 8))
    text = codec.encode(grid)
    model = TrueText(max(words.ids) + 1).begin([*words.spell(text), *words.spell("</seg>")])
    last = last_step(decode("free", model, check("free", mistral, (8, 8), grid.labels)))
    assert (last.text, last.ended) == (text, "complete")
    assert last.forwards == len(words.spell(text)) + len(words.spell("</seg>")) - 1


def test_a_true_text_is_whatever_was_begun_last(mistral):
    """One buffer serves all texts: what one leaves in it must not show up in the next."""
    words = vocabulary(mistral)
    model = TrueText(max(words.ids) + 1)
    for at in range(4):
        grid = sample(slice(8 * at, 8 * at + 16), slice(0, 32)).grid((8, 8))
        model.begin(words.spell(codec.encode(grid)))
        last = last_step(decode("fast", model, check("fast", mistral, (8, 8), grid.labels)))
        assert last.text == codec.encode(grid)


def test_passes_of_real_masks_stay_low(mistral):
    """A regression test of the drafter: synthetic scenes, 16×16 and 32×32."""
    words, model = vocabulary(mistral), TrueText(32000)
    grids = [one.grid((side, side)) for side in (16, 32) for one in masks("synthetic@val", 0.005, 5)]
    passes = {16: [], 32: []}
    for grid in grids:
        model.begin(words.spell(codec.encode(grid)))
        last = last_step(decode("fast", model, check("fast", mistral, grid.shape, grid.labels)))
        passes[grid.shape[0]].append(last.forwards)
    assert np.mean(passes[16]) < 16 and np.mean(passes[32]) < 32
    assert Constraint(words, (16, 16), grids[0].labels)


def test_passes_are_parted_into_the_model_and_what_is_around_it():
    """On the embedded checkpoint. A clock counts the calls of a module that are made while it watches."""
    figures = decoding.query("embedded", list(masks("synthetic@val", 0.1, 2)), 2, device="cpu")
    assert figures["device"] == "cpu" and figures["pairs"] == 2
    for loop in figures["loops"]:
        assert loop["model, ms a pass"] > 0 and loop["around it, ms a pass"] > 0, loop
    module = torch.nn.Linear(2, 2)
    clock = decoding.Clock(module)
    for _ in range(3):
        module(torch.zeros(1, 2))
    assert len(clock.seconds) == 3 and min(clock.seconds) > 0


def test_auroc():
    right = np.array([True, True, False, False])
    assert auroc(np.array([0.9, 0.8, 0.2, 0.1]), right) == 1
    assert auroc(np.array([0.9, 0.1, 0.8, 0.2]), right) == 0.5
    assert auroc(np.array([0.5, 0.5, 0.5, 0.1]), right) == 0.75
    assert np.isnan(auroc(np.array([0.5, 0.5]), np.array([True, True])))


def test_a_missing_tokenizer_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(CheckpointError, match="pip install mistral-common sentencepiece"):
        open_tokenizer("mistral")


def test_the_command_line(tmp_path, mistral):
    """With --cells, the earlier name of --grid-sizes."""
    out = tmp_path / "figures.json"
    command = [sys.executable, "-m", "t4s.bench", "decoding", "--dataset", "synthetic@val", "--limit", "2",
               "--tokenizers", "mistral", "--cells", "8", "--draft-rows", "1", "4", "--json", str(out)]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "| mistral | 8×8 | R-RLE | fast, 4 rows |" in run.stdout and "tree built" in run.stderr
    report = json.loads(out.read_text())
    assert {row["loop"] for row in report["replay"]} == {"free", "constrained", "fast, 1 rows", "fast, 4 rows"}


def test_help_is_instant_and_names_both_questions(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--help"])
    assert {"decoding", "refine"} <= set(capsys.readouterr().out.split())
    code = "import sys; from t4s import bench; print('torch' in sys.modules, 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.startswith("False")
