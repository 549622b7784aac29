"""What can I ask? The chips are measured by `python tests/chips.py`, and are right for the examples."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from t4s import Segmenter
from t4s.app import examples
from t4s.app.suggestions import best_names, names_in_photo

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"


def test_the_first_five_names_have_what_the_example_shows():
    segmenter = Segmenter.from_pretrained(device="cpu")
    first = {}
    for name, _ in examples.EXAMPLES:
        first[name] = names_in_photo(segmenter.vlm, segmenter.encode(EXAMPLES / name))[:5]
    right = [phrase in first[name] for name, phrase in examples.EXAMPLES]
    assert sum(right) >= 7, first  # a person beside an elephant is hard to see


def test_a_checkpoint_without_names_or_features_suggests_nothing():
    untaught = SimpleNamespace(config=SimpleNamespace(names=()))
    assert names_in_photo(untaught, SimpleNamespace(features={"image": None})) == []
    taught = SimpleNamespace(config=SimpleNamespace(names=("cat",)))
    assert names_in_photo(taught, SimpleNamespace(features={})) == []


def test_a_measured_checkpoint_offers_what_it_draws_best():
    assert best_names({"names": {"cat": 0.5, "dog": 0.9, "car": 0.7}}, 2) == ["dog", "car"]
    assert best_names({}, 2) == []
