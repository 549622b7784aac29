"""What can I ask? The chips are measured by `python tests/chips.py`, and are right for the examples."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from t4s import Segmenter, codec
from t4s.app import examples
from t4s.app.suggestions import Suggestions, best_names, suggest

EXAMPLES = Path(__file__).resolve().parents[2] / "assets" / "examples"


@pytest.fixture(scope="module")
def found() -> dict[str, Suggestions]:
    """What is suggested for each example."""
    segmenter = Segmenter.from_pretrained(device="cpu")
    return {name: suggest(segmenter.vlm, segmenter.encode(EXAMPLES / name), 8) for name, _ in examples.EXAMPLES}


def test_the_first_five_names_have_what_the_example_shows(found: dict[str, Suggestions]):
    right = [phrase in found[name].names[:5] for name, phrase in examples.EXAMPLES]
    assert sum(right) >= 7, found  # a person beside an elephant is hard to see


def test_no_name_is_said_in_other_words(found: dict[str, Suggestions]):
    """The photo of two cats once offered "cat", "cougar face", "cougar" and "wild cat"."""
    assert not {"cougar face", "cougar", "wild cat"} & set(found["two_cats.jpg"].names)
    for each in found.values():
        assert 1 <= len(each.names) <= 8 and {*range(1, len(each.names))} <= {*each.cells} <= {*range(-1, 8)}


def test_cells_resemble_what_is_there(found: dict[str, Suggestions], true_masks):
    for photo, name in (("two_cats.jpg", "cat"), ("elephant.jpg", "elephant"), ("car_and_man.jpg", "car")):
        seen = found[photo]
        cells = codec.grid_from_mask(true_masks[photo][name], name, (16, 16)).ids.ravel() > 0
        named = np.array([index >= 0 and seen.names[index] == name for index in seen.cells])
        assert named[cells].mean() > 0.5 > 0.3 > named[~cells].mean(), (photo, named[cells].mean())


def test_a_checkpoint_without_names_or_features_suggests_nothing():
    untaught = SimpleNamespace(config=SimpleNamespace(names=()))
    assert suggest(untaught, SimpleNamespace(features={"image": None}), 8) == Suggestions()
    taught = SimpleNamespace(config=SimpleNamespace(names=("cat",)))
    assert suggest(taught, SimpleNamespace(features={}), 8) == Suggestions()


def test_a_measured_checkpoint_offers_what_it_draws_best():
    assert best_names({"names": {"cat": 0.5, "dog": 0.9, "car": 0.7}}, 2) == ("dog", "car")
    assert best_names({}, 2) == ()
