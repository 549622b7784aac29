"""The loops over every family's real cache, with random weights: valid, the same, and never mixed up."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from t4s import codec
from t4s.decoding.generate import Step, check, decode, last_step
from t4s.models import loading
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.vlm import VLM
from tests.support.families import IMAGE_SIZE, build, here

LABELS = ("others", "dog")
GRID = (4, 5)
TIE = 1e-3  # float32: between one pass for many tokens and many passes, logits differ in the last digits


@pytest.fixture(scope="module", params=here())
def model(request, tmp_path_factory) -> VLM:
    folder = build(request.param, tmp_path_factory.mktemp(request.param))
    CheckpointConfig(grid=GRID, image_size=IMAGE_SIZE[request.param], refiner="none").write(folder)
    return loading.load(folder, device="cpu", dtype="float32")


def photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8))


def begin(model: VLM, encoded, mode: str, query: str = "dog"):
    return decode(
        mode, model.begin(encoded, query), check(mode, model.tokenizer, GRID, ("others", query)), draft_rows=3
    )


def gap(model: VLM, encoded, ids: list[int], query: str = "dog") -> float:
    """How far apart the two best allowed logits are behind some ids."""
    step = last_step(
        decode(
            "constrained", model.begin(encoded, query), check("constrained", model.tokenizer, GRID, ("others", query))
        )
    )
    first, second = np.sort(step._hypothesis.picks[len(ids)].logits)[::-1][:2]
    return float(first - second)


def test_fast_writes_what_constrained_writes_and_it_is_valid(model):
    for seed, query in enumerate(["dog", "the cat on the left", "1"]):
        encoded = model.encode(photo(seed))
        slow, quick = (last_step(begin(model, encoded, mode, query)) for mode in ("constrained", "fast"))
        for step in (slow, quick):
            assert step.ended == "complete"
            assert set(codec.decode(step.text, GRID).labels) <= {"others", query}
        same = next((at for at, (a, b) in enumerate(zip(slow.ids, quick.ids, strict=False)) if a != b), None)
        if same is not None:
            assert gap(model, encoded, slow.ids[:same], query) < TIE
        else:
            assert quick.ids == slow.ids and quick.forwards <= slow.forwards
            np.testing.assert_allclose(quick.confidence(), slow.confidence(), atol=1e-3)


def test_two_interleaved_photos_give_what_each_gives_alone(model):
    """Nothing of an answer may live on the model: Qwen-VL keeps rope state there."""
    encoded = [model.encode(photo(seed)) for seed in (1, 2)]
    alone = [last_step(begin(model, one, "fast")) for one in encoded]
    loops = [begin(model, one, "fast") for one in [model.encode(photo(seed)) for seed in (1, 2)]]
    last: list[Step | None] = [None, None]
    while not all(step and step.ended for step in last):
        for at, loop in enumerate(loops):
            last[at] = next(loop, last[at])
    for one, other in zip(alone, last, strict=True):
        assert other is not None and other.ids == one.ids
        np.testing.assert_array_equal(other.confidence(), one.confidence())


def test_a_photo_is_encoded_once_for_many_phrases(model):
    """The second phrase finds the photo as the first one found it."""
    fresh = last_step(begin(model, model.encode(photo(3)), "fast", "cat"))
    encoded = model.encode(photo(3))
    last_step(begin(model, encoded, "fast", "dog"))
    reused = last_step(begin(model, encoded, "fast", "cat"))
    assert reused.ids == fresh.ids
    np.testing.assert_array_equal(reused.confidence(), fresh.confidence())


def test_the_photo_matters(model):
    """A cache that lost the photo would pass every test above."""
    first, other = (model.begin(model.encode(photo(seed)), "dog").last for seed in (4, 5))
    assert not torch.allclose(first, other, atol=1e-3)
