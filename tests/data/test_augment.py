"""Augmentation changes photo, masks and phrases together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t4s.data.augment.changes import augment, draw_light, swap_sides
from t4s.data.augment.draws import Draw, draw
from t4s.data.augment.labels import PackedMasks, reduced
from t4s.data.augment.mosaics import Tile, mosaic
from t4s.data.augment.render import relight, render
from t4s.data.augment.views import crop, whole
from t4s.data.spec import open_dataset
from t4s.records import IGNORED, Sample
from tests.support import photo_folder


def sample(query: str, width: int = 40, height: int = 30) -> Sample:
    """A red block on the left half of a black photo, and its mask; one ignored pixel."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[5:25, 4:16, 0] = 255
    classes = (pixels[..., 0] > 0).astype(np.int16)
    classes[0, 0] = IGNORED
    return Sample("x/1", "x", Image.fromarray(pixels), query, ("others", query), classes)


def changed(query: str, seed: int) -> Sample:
    """The block, asked for by `query`, as `augment` changes it: drawn without its picture, then rendered."""
    before = sample(query)
    drawn = Draw(whole(0, before.image.size), (replace(before, image=None),))
    drawn = augment(drawn, np.random.default_rng(seed), 64)
    return drawn.on(render(drawn.view, lambda _: before.image))[0]


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
        out = changed("block", seed)
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
        out = changed("block on the left", seed)
        left = out.class_map[:, :20].sum() > out.class_map[:, 20:].sum()
        assert out.query == ("block on the left" if left else "block on the right")
        assert out.labels == ("others", out.query)
        seen.add(out.query)
    assert len(seen) == 2


def test_phrases_with_a_place_are_not_cropped_nor_those_with_a_colour_recoloured():
    """A crop could leave one dog of two, and grey has no red."""
    for seed in range(20):
        out = changed("the biggest red block", seed)
        assert out.class_map.shape == (30, 40)
        pixels = np.asarray(out.image, int)
        assert pixels[..., 0].max() > 2 * pixels[..., 1].max()


def test_same_seed_same_picture():
    one, two = (changed("block", 5) for _ in range(2))
    assert np.array_equal(np.asarray(one.image), np.asarray(two.image)) and np.array_equal(one.class_map, two.class_map)


@pytest.mark.parametrize("share, lost", [("COARSE", "detail"), ("BLUR", "detail"), ("GREY", "hue"), ("COLOUR", "")])
def test_light_colour_and_sharpness_change_one_by_one(monkeypatch, share: str, lost: str):
    """Of a photo of coloured noise: coarse and blurred it has less detail, grey no hue; its size stays."""
    for name in ("COARSE", "BLUR", "GREY", "COLOUR"):
        monkeypatch.setattr(f"t4s.data.augment.changes.{name}", float(name == share))
    before = np.random.default_rng(0).integers(60, 200, (48, 64, 3)).astype(np.uint8)
    after = np.asarray(relight(Image.fromarray(before), draw_light(np.random.default_rng(1))), int)
    assert after.shape == before.shape and not np.array_equal(after, before)
    detail, hue = (lambda x: abs(np.diff(x.astype(int), axis=1)).mean()), (lambda x: np.ptp(x, axis=-1).mean())
    assert (detail(after) < 0.8 * detail(before)) or lost != "detail"
    assert (hue(after) == 0) == (lost == "hue")


# --- numbers first, pixels last


def photos_of_noise(count: int) -> list[Image.Image]:
    """Soft noise, each of another size and colour."""
    rng = np.random.default_rng(3)
    small = [rng.integers(0, 256, (5 + n, 8 - n, 3), np.uint8) for n in range(count)]
    return [Image.fromarray(pixels).resize((90 + 20 * n, 120), 3) for n, pixels in enumerate(small)]


def test_a_part_of_a_view_shows_what_is_in_that_part_of_its_picture():
    """Also of a mosaic, whose parts a crop cuts or leaves out; it is made from the photos at once, not from the
    mosaic's pixels, so that nothing is resampled twice."""
    photos = photos_of_noise(4)
    tiles = [Tile(n, np.zeros(photo.size[::-1], int), {}) for n, photo in enumerate(photos)]
    rng, left_out = np.random.default_rng(0), 0
    for layout in ((1, 2), (2, 1), (2, 2)) * 4:
        view, _ = mosaic(tiles[: layout[0] * layout[1]], layout, rng)
        side = view.size[0]
        w, h = (int(length) for length in rng.integers(side // 4, side, 2))
        x, y = int(rng.integers(side - w)), int(rng.integers(side - h))
        part = crop(view, (x, y, w, h), 64)
        left_out += len(part.parts) < len(view.parts)
        assert sum((p.place[2] - p.place[0]) * (p.place[3] - p.place[1]) for p in part.parts) == 64 * 64
        twice = render(view, photos.__getitem__).resize((64, 64), Image.Resampling.BILINEAR, box=(x, y, x + w, y + h))
        difference = abs(np.asarray(render(part, photos.__getitem__), int) - np.asarray(twice, int)).mean(-1)
        assert difference.mean() < 3 and np.quantile(difference, 0.9) < 8  # more along the edges of tiles
    assert left_out


def test_the_whole_of_a_photo_is_the_photo():
    (photo,) = photos_of_noise(1)
    view = whole(0, photo.size)
    assert np.array_equal(np.asarray(render(view, lambda _: photo)), np.asarray(photo))
    box = (7, 11, 60, 50)
    cropped = photo.resize((32, 32), Image.Resampling.BILINEAR, box=(7, 11, 67, 61))
    assert np.array_equal(np.asarray(render(crop(view, box, 32), lambda _: photo)), np.asarray(cropped))


def test_label_maps_keep_their_labels_and_shape_when_they_are_reduced():
    labels = np.arange(1200 * 300).reshape(300, 1200)
    small = reduced(labels)
    assert small.shape == (128, 512) and set(small.flat) <= set(labels.flat)
    assert abs(small - labels[:: 300 // 128, :: 1200 // 512][:128, :512]).max() < 300 * 1200 / 4
    assert reduced(labels[:, :512]) is not None and np.array_equal(reduced(labels[:, :512]), labels[:, :512])


def test_no_target_is_lost_where_masks_are_reduced():
    """A speck of a photo of twelve megapixels is still there, in its place, and other masks keep their shape."""
    speck, block = np.zeros((3000, 4000), bool), np.zeros((3000, 4000), bool)
    speck[1501, 2998], block[750:1500, :2000] = True, True
    masks = PackedMasks(3000, 4000)
    masks.add("speck", speck)
    masks.add("block", block)
    assert masks.shape == (384, 512) == masks.size[::-1]
    assert np.argwhere(masks["speck"]).tolist() == [[192, 383]]
    assert masks["block"][96:192, :256].all() and masks["block"].sum() == 96 * 256
    assert "other" not in masks and not masks.get("other").any()


@pytest.mark.parametrize(
    "spec",
    ["synthetic:size=64", "folder:{}", "jsonl:{}/lines.jsonl", "coco:{}/instances.json", "scenes:{}", "places:{}"],
)
@pytest.mark.parametrize("side", [512, 48])  # the second makes every label map smaller than its photo
def test_what_is_drawn_needs_no_pixel(spec: str, side: int, tmp_path: Path, monkeypatch):
    """A worker that has the labels alone draws the same numbers, phrases and class maps as one with the photos."""
    monkeypatch.setattr("t4s.data.augment.labels.LABEL_SIDE", side)
    dataset = open_dataset(spec.format(photo_folder.write(tmp_path)))
    kept = {n: dataset.decode(n, complete=True) for n in range(min(len(dataset), 18))}
    for seed in range(6):
        index = seed % len(kept)
        drawn, photo = draw(dataset, index, np.random.default_rng(seed), 2)
        alone = dataset.ask(index, np.random.default_rng(seed), 2, lambda n: kept[n][1])
        assert alone.view == drawn.view and len(alone.samples) == 2
        for one, two in zip(alone.samples, drawn.samples, strict=True):
            assert (one.query, one.labels, one.image) == (two.query, two.labels, None)
            assert np.array_equal(one.class_map, two.class_map)
        pictures = [np.asarray(render(drawn.view, source)) for source in (photo, lambda n: kept[n][0])]
        whole_samples = dataset.draw(index, np.random.default_rng(seed), 2)
        assert np.array_equal(*pictures) and np.array_equal(pictures[0], np.asarray(whole_samples[0].image))
        assert pictures[0].shape[:2] == drawn.samples[0].class_map.shape
