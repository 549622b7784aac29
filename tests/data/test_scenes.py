"""Copy-paste scenes, on a folder of photos made here: what is pasted, where it comes from, and what may be asked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from t4s.data.scenes.composed import SceneDataset, free_region, is_free
from t4s.data.scenes.cutouts import CutOut, colour_word, paste
from t4s.data.scenes.phrasing import Instance, draw_phrase, place_kind, placed_phrases
from t4s.data.spec import open_dataset
from t4s.errors import DataError

SIZE = (96, 80)  # width, height
COLOURS = {"dog": (130, 80, 40), "cat": (20, 20, 20), "bird": (200, 20, 20), "sky": (90, 160, 240)}


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[: SIZE[1], : SIZE[0]]
    return (columns - x) ** 2 + (rows - y) ** 2 <= radius**2


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """24 photos of one animal each, half of them with a sky, in two splits; one more source that labels only stones."""
    root = tmp_path_factory.mktemp("photos")
    rng, lines = np.random.default_rng(0), []
    for number in range(24):
        name = ("dog", "cat", "bird")[number % 3]
        pixels = rng.integers(100, 156, (SIZE[1], SIZE[0], 3), np.uint8)
        ids = np.zeros((SIZE[1], SIZE[0]), np.uint8)
        classes = {"1": name}
        if number % 2:
            ids[:12], pixels[:12], classes["2"] = 2, COLOURS["sky"], "sky"
        animal = disc(rng.uniform(30, 66), rng.uniform(40, 55), rng.uniform(10, 15))
        ids[animal], pixels[animal] = 1, COLOURS[name]
        Image.fromarray(pixels).save(root / f"{number}.png")
        Image.fromarray(ids).save(root / f"{number}-mask.png")
        lines.append({"image": f"{number}.png", "mask": f"{number}-mask.png", "source": "zoo", "classes": classes,
                      "split": "val" if number >= 18 else "train", "ignore": [255]})  # fmt: skip
    (root / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


def test_a_scene_is_the_same_every_time_and_every_split_has_its_own(photos):
    first, again = SceneDataset(photos, seed=4), SceneDataset(photos, seed=4)
    again.scene(0)
    assert first.scene(7).image.tobytes() == again.scene(7).image.tobytes()
    assert first.scene(7).instances == again.scene(7).instances
    others = [SceneDataset(photos, seed=5).scene(7), first.scene(8), SceneDataset(photos, "val", seed=4).scene(7)]
    assert len({scene.image.tobytes() for scene in [first.scene(7), *others]}) == 4
    assert len(open_dataset(f"scenes:{photos}")) == 10_000 and len(open_dataset(f"scenes:{photos}@val")) == 300


def test_masks_show_the_pasted_things(photos):
    """Each thing's pixels have its animal's colour, whatever hides it and however it was resized."""
    dataset = SceneDataset(photos)
    for i in range(25):
        scene = dataset.scene(i)
        assert scene.masks.sum(0).max() <= 1 and len(scene.instances) == len(scene.masks)
        for instance, mask in zip(scene.instances, scene.masks, strict=True):
            assert mask.any() and instance.area >= instance.whole * 2 / 3 and instance.name != "sky"
            mean = np.asarray(scene.image)[mask].mean(0)
            nearest = min(COLOURS, key=lambda name: np.abs(mean - COLOURS[name]).sum())
            assert nearest == instance.name


def test_only_names_that_the_photo_below_lacks_are_pasted_or_asked_in_vain(photos):
    """A second dog beside the photo's own one made "the dog on the left" mean something that is in no mask."""
    dataset = SceneDataset(photos)
    for i in range(25):
        scene, names = dataset.scene(i), {instance.name for instance in dataset.scene(i).instances}
        left = {name for name in COLOURS if name not in names and name not in scene.absent}
        assert not names & set(scene.absent)
        outside = np.asarray(scene.image)[~scene.masks.any(0)].astype(int)
        for name in [*names, *scene.absent]:
            if name != "sky":
                near = (np.abs(outside - COLOURS[name]).sum(1) < 12).mean()
                assert near < 0.02, f"{name} is in the photo below"
        assert left <= {"dog", "cat", "bird", "sky"} and left


def test_sky_is_never_cut_out(photos):
    dataset = SceneDataset(photos)
    assert not dataset.can_cut("sky") and dataset.can_cut("dog") and not dataset.can_cut("zebra")


@pytest.mark.parametrize("mask, others, expected", [
    (disc(48, 40, 14), disc(48, 40, 0) & False, True),
    (disc(48, 40, 4), disc(0, 0, 0) & False, False),  # too small
    (disc(10, 40, 14), disc(0, 0, 0) & False, False),  # cut off by the photo's edge
    (disc(48, 40, 14), disc(66, 40, 3), False),  # something else beside it
    (disc(48, 40, 14), disc(86, 40, 3), True),  # something else far away
    (disc(26, 40, 12) | disc(70, 40, 12), disc(0, 0, 0) & False, False),  # two pieces
])  # fmt: skip
def test_what_stands_free(mask, others, expected):
    assert is_free(mask, others) is expected


def test_of_several_the_largest_that_stands_free_is_cut_out():
    """One that another hides, or that the edge cuts off, is no whole instance; its neighbour may be one."""
    cut_off, whole, small = disc(4, 40, 16), disc(60, 40, 12), disc(82, 16, 8)
    assert np.array_equal(free_region(cut_off | whole | small, whole & False), whole)
    assert np.array_equal(free_region(whole | small, disc(66, 52, 5) & ~whole), small)
    assert free_region(cut_off, whole) is None and free_region(whole & False, whole) is None
    beside = disc(60, 40, 12) | disc(86, 40, 12)
    assert free_region(beside, beside & False) is None, "they all but touch"


def test_colours_are_said_only_of_things_of_one_colour():
    rng = np.random.default_rng(0)
    for word, rgb in {"black": (15, 15, 18), "white": (240, 240, 238), "grey": (120, 122, 119), "brown": (110, 70, 40),
                      "red": (200, 25, 30), "orange": (240, 140, 30), "yellow": (235, 220, 50), "green": (40, 140, 60),
                      "blue": (40, 70, 190)}.items():  # fmt: skip
        pixels = np.clip(rng.normal(rgb, 4, (500, 3)), 0, 255).astype(np.uint8)
        assert colour_word(pixels) == word
    mixed = np.concatenate([np.full((100, 3), 10), np.full((60, 3), 245)]).astype(np.uint8)
    assert colour_word(mixed) is None, "a black and white cat"
    instances = [Instance("cat", "black", 0.2, 0.2, 0.1, 0.1), Instance("cat", None, 0.8, 0.8, 0.1, 0.1)]
    said = {draw_phrase(instances, ("dog",), np.random.default_rng(i), complete=False)[0] for i in range(200)}
    assert not any("black" in text or "everything" in text for text in said), "the other cat may be black too"


def test_a_thing_that_finds_no_room_is_left_out():
    below = Image.new("RGB", (60, 60))
    whole = CutOut("wall", None, np.zeros((50, 50, 3), np.uint8), np.full((50, 50), 255, np.uint8))
    thin = CutOut("pole", None, np.zeros((400, 2, 3), np.uint8), np.full((400, 2), 255, np.uint8))
    assert paste(below, [thin], ("cat",), np.random.default_rng(0)) is None
    scene = paste(below, [thin, whole], ("cat", "pole"), np.random.default_rng(0))
    assert [instance.name for instance in scene.instances] == ["wall"] and scene.absent == ("cat", "pole")


def test_one_of_several_is_asked_for_often_and_then_the_other_one(photos):
    """Two questions about one picture that differ in a word and have different answers: so the word is heard."""
    dataset, rng = SceneDataset(photos), np.random.default_rng(0)
    several = [i for i in range(60) if placed_phrases(dataset.scene(i).instances) and not dataset.scene(i).rivals]
    pairs = [dataset.draw(i, rng, 2) for i in several for _ in range(4)]
    placed = [[is_placed(sample.query) for sample in pair] for pair in pairs]
    assert len(pairs) > 40 and np.mean(placed) > 0.55
    twice = [pair for pair, both in zip(pairs, placed, strict=True) if all(both)]
    differ = [not np.array_equal(one.class_map, other.class_map) for one, other in twice]
    assert len(twice) > 15 and np.mean(differ) > 0.75


def is_placed(query: str | tuple[str, ...]) -> bool:
    try:
        return bool(place_kind(query))
    except (TypeError, ValueError):  # a class list; no place
        return False


def test_synonyms_are_heard_in_training_alone(photos):
    dataset, rng = SceneDataset(photos), np.random.default_rng(0)
    trained = " ; ".join(str(sample.query) for i in range(60) for sample in dataset.draw(i, rng, 4))
    assert any(word in trained for word in ("puppy", "doggy", "hound", "kitty", "kitten", "feline"))
    scored = " ; ".join(str(sample.query) for i in range(20) for sample in dataset[i])
    assert not any(word in scored for word in ("puppy", "doggy", "hound", "kitty", "kitten", "feline"))
    assert "everything" not in trained, "the photo below shows instances too"


def test_rivals_are_of_one_size_and_asked_for_with_one_that_is_not_there(photos, monkeypatch):
    """A cat where there is a dog was what the model denied worst."""
    monkeypatch.setattr("t4s.data.scenes.composed.RIVALS", (("dog", "cat"), ("cat", "bird"), ("dog", "bird")))
    monkeypatch.setattr("t4s.data.scenes.composed.ANIMALS", ("dog", "cat", "bird"))
    dataset, rng, hard = SceneDataset(photos), np.random.default_rng(0), 0
    for i in range(60):
        scene = dataset.scene(i)
        if scene.rivals:
            hard += 1
            first, second = scene.instances
            assert {first.name, second.name} == set(scene.rivals[:2]) and 2 / 3 < first.whole / second.whole < 3 / 2
            assert set(scene.rivals[2:]) <= set(scene.absent)
            asked = {sample.query: sample.absent for sample in dataset.draw(i, rng, 40)}
            assert all(asked[name] == (name in scene.absent) for name in scene.rivals)
            assert {sample.query for sample in dataset[i]} >= set(scene.rivals)
    assert 5 <= hard <= 25


def test_options_leave_names_out_and_count_scenes(photos):
    dataset, rng = open_dataset(f"scenes:{photos},-dog,scenes=30"), np.random.default_rng(0)
    assert len(dataset) == 30 and "dog" not in dataset.names
    asked = " ; ".join(str(sample.query) for i in range(30) for sample in (*dataset[i], *dataset.draw(i, rng, 3)))
    assert not any(word in asked for word in ("dog", "puppy", "hound")) and "cat" in asked
    other = open_dataset(f"scenes:{photos},seed=3")
    assert other.scene(0).image.tobytes() == SceneDataset(photos, seed=3).scene(0).image.tobytes()
    for options, said in (("-unicorn", "cannot leave out unicorn"), ("scenes=0", "scenes=N"), ("seed=x", "seed=N")):
        with pytest.raises(DataError, match=said):
            open_dataset(f"scenes:{photos},{options}")


def test_a_folder_with_nothing_to_cut_out_says_so(photos, tmp_path):
    lines = [json.loads(line) for line in (photos / "index.jsonl").read_text().splitlines()]
    for line in lines:
        line["image"], line["mask"] = str(photos / line["image"]), str(photos / line["mask"])
    skies = [{**line, "classes": {"2": "sky"}} for line in lines[1::2]]
    (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, skies)))
    with pytest.raises(DataError, match="stand free of each other"):
        SceneDataset(tmp_path)[0]
    with pytest.raises(DataError, match="no split 'dev'"):
        open_dataset(f"scenes:{photos}@dev")
