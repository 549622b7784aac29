"""`bench decoding --peers`: the same checkpoint through generate, other grammar engines and our loops."""

from __future__ import annotations

import pytest

from t4s.errors import CheckpointError
from t4s.evaluation.bench import peers
from t4s.evaluation.bench.decoding import masks


def test_everybody_writes_the_same_text_and_ours_in_the_fewest_passes(segmenter):
    pytest.importorskip("xgrammar")
    pytest.importorskip("llguidance")
    own = segmenter.vlm.model.prepare_inputs_for_generation
    rows = {row["loop"]: row for row in peers.compare(segmenter, list(masks("synthetic@val", 0.01, 1))[:1])}
    assert segmenter.vlm.model.prepare_inputs_for_generation == own
    assert len(rows) == 7
    for way in ("generate, xgrammar", "generate, llguidance", peers.REFERENCE, "**ours, fast**"):
        assert (rows[way]["valid"], rows[way]["same text"]) == ("100%", "1 of 1"), way
    one_a_pass = rows[peers.REFERENCE]["passes"]
    assert (
        one_a_pass <= rows["generate, xgrammar"]["passes"] == rows["generate, llguidance"]["passes"] <= one_a_pass + 2
    )
    assert rows["generate, prompt lookup"]["passes"] < one_a_pass
    assert 3 * rows["**ours, fast**"]["passes"] < one_a_pass
    assert rows["**ours, fast**, as shipped"]["passes"] < rows["**ours, fast**"]["passes"]


def test_a_missing_package_is_named(segmenter, monkeypatch):
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "llguidance" else object())
    with pytest.raises(CheckpointError, match="pip install llguidance"):
        peers.compare(segmenter, [])


@pytest.mark.parametrize(
    ("text", "valid"), [("others *1| dog *1\n", True), ("others *2\n", True), ("cat *2\n", False), ("dog *1\n", False)]
)
def test_valid_is_what_needs_no_repair(text, valid):
    assert peers.is_valid(text, "dog", (1, 2)) == valid
