"""Augmentation changes photo, masks and phrases together."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from t4s.data.augment import augment, recolour, swap_sides
from t4s.records import IGNORED, Sample


def sample(query: str, width: int = 40, height: int = 30) -> Sample:
    """A red block on the left half of a black photo, and its mask; one ignored pixel."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[5:25, 4:16, 0] = 255
    classes = (pixels[..., 0] > 0).astype(np.int16)
    classes[0, 0] = IGNORED
    return Sample("x/1", "x", Image.fromarray(pixels), query, ("others", query), classes)


@pytest.mark.parametrize("phrase, mirrored", [
    ("the dog on the left", "the dog on the right"), ("rightmost cat", "leftmost cat"), 
    ("leftover food", "leftover food"),
    ("left or right", "right or left"), ("dog", "dog"),
])  # fmt: skip
def test_swap_sides(phrase: str, mirrored: str):
    assert swap_sides(phrase) == mirrored


def test_mask_and_photo_stay_together():
    """Wherever the class map has the block, the augmented photo is red."""
    for seed in range(30):
        (out,) = augment((sample("block"),), np.random.default_rng(seed), 64)
        h, w = out.class_map.shape
        photo = np.asarray(out.image.resize((w, h)), int)
        inside = np.zeros((h, w), bool)
        ys, xs = np.nonzero(out.class_map == 1)
        if len(ys) < 60:
            continue
        inside[ys.min() + 3 : ys.max() - 2, xs.min() + 3 : xs.max() - 2] = True
        assert photo[inside].max(-1).mean() > 60 > photo[out.class_map == 0].max(-1).mean()


def test_a_mirrored_photo_swaps_sides_in_phrase_and_label():
    seen = set()
    for seed in range(20):
        (out,) = augment((sample("block on the left"),), np.random.default_rng(seed), 64)
        left = out.class_map[:, :20].sum() > out.class_map[:, 20:].sum()
        assert out.query == ("block on the left" if left else "block on the right")
        assert out.labels == ("others", out.query)
        seen.add(out.query)
    assert len(seen) == 2


def test_phrases_with_a_place_are_not_cropped_nor_those_with_a_colour_recoloured():
    """A crop could leave one dog of two, and grey has no red."""
    for seed in range(20):
        (out,) = augment((sample("the biggest red block"),), np.random.default_rng(seed), 64)
        assert out.class_map.shape == (30, 40)
        pixels = np.asarray(out.image, int)
        assert pixels[..., 0].max() > 2 * pixels[..., 1].max()


def test_same_seed_same_picture():
    one, two = (augment((sample("block"),), np.random.default_rng(5), 64)[0] for _ in range(2))
    assert np.array_equal(np.asarray(one.image), np.asarray(two.image)) and np.array_equal(one.class_map, two.class_map)


@pytest.mark.parametrize("share, lost", [("COARSE", "detail"), ("BLUR", "detail"), ("GREY", "hue"), ("COLOUR", "")])
def test_light_colour_and_sharpness_change_one_by_one(monkeypatch, share: str, lost: str):
    """Of a photo of coloured noise: coarse and blurred it has less detail, grey no hue; its size stays."""
    for name in ("COARSE", "BLUR", "GREY", "COLOUR"):
        monkeypatch.setattr(f"t4s.data.augment.{name}", float(name == share))
    before = np.random.default_rng(0).integers(60, 200, (48, 64, 3)).astype(np.uint8)
    after = np.asarray(recolour(Image.fromarray(before), np.random.default_rng(1)), int)
    assert after.shape == before.shape and not np.array_equal(after, before)
    detail, hue = (lambda x: abs(np.diff(x.astype(int), axis=1)).mean()), (lambda x: np.ptp(x, axis=-1).mean())
    assert (detail(after) < 0.8 * detail(before)) or lost != "detail"
    assert (hue(after) == 0) == (lost == "hue")
