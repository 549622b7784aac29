"""Composed scenes and the dataset specs: what is drawn is what is said, and what is said is unambiguous."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest

from t4s import lexicon
from t4s.data.scenes.phrasing import Instance, draw_phrase, evaluation_phrases
from t4s.data.scenes.synthetic import COLOURS, SHAPES, SyntheticDataset, compose, draw_shape, outlines
from t4s.data.spec import NAMES, DatasetSpec, Mixture, open_dataset
from t4s.errors import DataError
from t4s.lexicon import plural


@pytest.fixture(scope="module")
def scenes():
    dataset = SyntheticDataset(seed=3, image_size=128)
    return [dataset.scene(i) for i in range(150)]


# --- scenes


def test_a_scene_depends_on_seed_split_options_and_index_alone():
    """Drawing scene 5 after others, or from another object, once gave another picture: a shared generator."""
    first, again = SyntheticDataset(seed=1, image_size=64), SyntheticDataset(seed=1, image_size=64)
    for i in (0, 3):
        again.scene(i)
    same = again.scene(5)
    assert first.scene(5).image.tobytes() == same.image.tobytes()
    assert first.scene(5).instances == same.instances
    others = [first.scene(6), SyntheticDataset(seed=2, image_size=64).scene(5),
              SyntheticDataset(seed=1, image_size=64, split="val").scene(5),
              SyntheticDataset(seed=1, image_size=64, unwanted=["star"]).scene(5)]  # fmt: skip
    assert len({scene.image.tobytes() for scene in [same, *others]}) == 5


def test_masks_are_disjoint_visible_and_show_the_colour_that_is_said(scenes):
    """The mean colour under each mask is nearer to its own colour word than to any other's."""
    palette = {"red": (217, 22, 22), "orange": (245, 123, 18), "yellow": (245, 225, 30), "green": (34, 158, 70),
               "blue": (25, 70, 210), "purple": (95, 40, 155), "pink": (248, 150, 200), "brown": (95, 60, 29),
               "black": (14, 14, 14), "white": (248, 248, 248), "grey": (133, 133, 133)}  # fmt: skip
    assert set(palette) == set(COLOURS) == set(lexicon.COLOURS)
    wrong, total = 0, 0
    for scene in scenes:
        assert scene.masks.shape == (len(scene.instances), 128, 128) and scene.masks.sum(0).max() == 1
        for instance, mask in zip(scene.instances, scene.masks, strict=True):
            assert mask.any() and instance.area == mask.mean() and instance.area >= instance.whole * 2 / 3
            mean = np.asarray(scene.image)[mask].mean(0)
            nearest = min(palette, key=lambda colour: np.linalg.norm(mean - palette[colour]))
            wrong, total = wrong + (nearest != instance.colour), total + 1
    assert total > 300 and wrong / total < 0.03, f"{wrong} of {total} shapes look like another colour"


def test_what_is_nearer_hides_what_is_behind(scenes):
    hidden = [instance for scene in scenes for instance in scene.instances if instance.area < 0.95 * instance.whole]
    assert len(hidden) > 20


@pytest.mark.parametrize("name, area", [
    ("circle", np.pi),
    ("ring", np.pi * (1 - 0.55**2)),
    ("square", 4 * 0.85**2),
    ("triangle", 0.95 * 1.8),
    ("hexagon", 1.5 * 3**0.5),
    ("arrow", 0.9 * 0.75 + 1.1 * 0.56),  # its head and its shaft
    ("cross", 2 * (2 * 0.66) - 0.66**2),  # two bars less the square where they cross
])  # fmt: skip
def test_a_mask_has_the_area_that_geometry_says(name, area):
    """Half-covered pixels count, so the area is right to a pixel's width of the outline."""
    cover, (rows, columns) = draw_shape(name, 64.3, 60.7, 40, np.random.default_rng(0), 128)
    assert (cover >= 0.5).sum() == pytest.approx(area * 40**2, rel=0.02)
    ys, xs = np.nonzero(cover >= 0.5)
    if name not in ("triangle", "arrow"):  # its centre of mass is not the centre of its circle
        assert (xs.mean() + 0.5 + columns.start, ys.mean() + 0.5 + rows.start) == pytest.approx((64.3, 60.7), abs=0.3)


def test_a_crescent_is_a_disc_less_another():
    grid = np.mgrid[-2:2:800j, -2:2:800j]
    (_, disc), (_, bite) = outlines("crescent")
    middle = bite.mean(0)
    inside = (np.hypot(*grid) < 1) & (np.hypot(grid[1] - middle[0], grid[0] - middle[1]) > 0.85)
    cover = draw_shape("crescent", 64.3, 60.7, 40, np.random.default_rng(0), 128)[0]
    assert (cover >= 0.5).sum() == pytest.approx(inside.mean() * 16 * 40**2, rel=0.02) and len(disc) == len(bite)


def test_each_name_belongs_to_its_mask():
    """A shape that found no room was left out of the masks but not of the names, and all later names moved by one."""

    def fullness(mask):
        """Area over squared reach: the same for any size and turn of a shape."""
        ys, xs = np.nonzero(mask)
        return len(xs) / ((xs - xs.mean()) ** 2 + (ys - ys.mean()) ** 2).max()

    lone = {name: fullness(draw_shape(name, 100, 100, 80, np.random.default_rng(0), 200)[0] >= 0.5) for name in SHAPES}
    names, checked = SHAPES * 6, 0
    for seed in range(5):
        scene = compose(names, SHAPES, 200, np.random.default_rng(seed))
        assert len(scene.instances) < len(names)
        for instance, mask in zip(scene.instances, scene.masks, strict=True):
            rows, columns = np.nonzero(mask)
            inside = rows.min() > 0 and columns.min() > 0 and rows.max() < 199 and columns.max() < 199
            if instance.area == instance.whole > 0.01 and inside:
                assert fullness(mask) == pytest.approx(lone[instance.name], rel=0.2), instance
                checked += 1
    assert checked > 12


def test_every_shape_has_an_outline_and_stays_inside_radius_one():
    for name in SHAPES:
        assert all(np.linalg.norm(points, axis=1).max() < 1.3 for fill, points in outlines(name) if fill)
    with pytest.raises(ValueError, match="octagon"):
        outlines("octagon")


# --- phrases, judged by other code than the code that made them


def judge(phrase: str, instances: tuple[Instance, ...]) -> set[int]:
    """What a reader would take the phrase for, worked out from the words."""
    if phrase.startswith("everything"):
        colour = phrase.removeprefix("everything").strip()
        return {i for i, instance in enumerate(instances) if colour in ("", instance.colour)}
    if " and " in phrase:
        return set().union(*(judge(part, instances) for part in phrase.split(" and ")))
    words = re.sub(r"^(the|an?|all|every) ", "", phrase)
    size = re.match(r"(bigger|biggest|larger|largest|smaller|smallest) ", words)
    words = words[size.end() :] if size else words
    place = re.search(r" (?:on|at|in) the (left|right|top|bottom|middle|\w+ \w+ corner)$", words)
    words = words[: place.start()] if place else words
    front = re.match(r"(leftmost|rightmost|top|bottom) ", words)
    words = words[front.end() :] if front else words
    where = (place or front)[1].replace("most", "") if place or front else None

    *colour, noun = words.split()
    group = {i for i, instance in enumerate(instances) if noun in (instance.name, plural(instance.name))}
    group = {i for i in group if not colour or instances[i].colour == colour[0]}
    if not group:
        return set()
    if size:
        pick = max if size[1][0] in "bl" else min
        return {pick(group, key=lambda i: instances[i].whole)}
    reach = {"left": lambda t: t.x, "right": lambda t: -t.x, "top": lambda t: t.y, "bottom": lambda t: -t.y,
             "middle": lambda t: np.hypot(t.x - 0.5, t.y - 0.5)}  # fmt: skip
    for word in where.replace(" corner", "").split() if where else ():
        group = {min(group, key=lambda i: reach[word](instances[i]))} if "corner" not in where else group
    if where and "corner" in where:
        words = where.split()[:2]
        group = {min(group, key=lambda i: sum(reach[word](instances[i]) for word in words))}
    return group


def test_phrases_mean_what_a_reader_takes_them_for(scenes):
    rng = np.random.default_rng(0)
    for scene in scenes:
        drawn = [draw_phrase(scene.instances, SHAPES, rng) for _ in range(15)]
        for text, meant in evaluation_phrases(scene.instances, SHAPES, rng) + drawn:
            assert judge(text, scene.instances) == set(meant), (text, scene.instances)


def test_a_single_thing_is_never_called_the_of_several(scenes):
    """ "the star" among two stars says nothing about which one."""
    rng = np.random.default_rng(1)
    for scene in scenes:
        names = [instance.name for instance in scene.instances]
        for text, _ in (draw_phrase(scene.instances, SHAPES, rng) for _ in range(15)):
            if text.removeprefix("the ") in SHAPES and text.startswith("the "):
                assert names.count(text.removeprefix("the ")) <= 1


def test_places_and_sizes_need_a_clear_margin():
    near = [Instance("star", "red", x, 0.5, 0.02, 0.02) for x in (0.30, 0.40)]
    far = [Instance("star", "red", x, 0.5, area, area) for x, area in ((0.2, 0.02), (0.8, 0.04))]
    hidden = [Instance("star", "red", 0.2, 0.2, 0.02, 0.05), Instance("star", "red", 0.8, 0.2, 0.05, 0.05)]

    def said(instances):
        phrases = (draw_phrase(instances, SHAPES, np.random.default_rng(i)) for i in range(300))
        return {text for text, meant in phrases if meant}

    assert not any("left" in text or "bigg" in text for text in said(near))
    assert {"the star on the left", "the rightmost star", "the bigger star", "the smaller star"} <= said(far)
    assert not any("bigg" in text or "small" in text for text in said(hidden)), "only a part of it looks small"


def test_all_kinds_are_said_and_enough_is_absent(scenes):
    rng = np.random.default_rng(2)
    dataset = SyntheticDataset(scenes=150, seed=3, image_size=64)
    samples = [sample for i in range(150) for sample in dataset.draw(i, rng, 6)]
    absent = [sample for sample in samples if sample.absent]
    assert 0.15 <= len(absent) / len(samples) <= 0.3
    words = {word for sample in absent for word in str(sample.query).split()}
    assert words & set(COLOURS), "the hard ones: a colour and a shape that are there, but not together"
    phrases = " ; ".join(str(sample.query) for sample in samples)
    for part in ("on the left", "middle", "corner", "bigg", "small", " and ", "everything", "all ", "red", "('"):
        assert part in phrases, part


def test_absent_phrases_are_absent():
    instances = [Instance("star", "red", 0.2, 0.2, 0.1, 0.1), Instance("circle", "blue", 0.8, 0.8, 0.1, 0.1)]
    phrases = [draw_phrase(instances, SHAPES, np.random.default_rng(i)) for i in range(400)]
    said = {text for text, meant in phrases if not meant}
    assert {"blue star", "the red circle"} <= said
    assert not {"red star", "blue circle", "star", "the circle"} & said


def test_names_that_are_not_english_are_used_as_they_are():
    """ "the 猫 on the left", "red 猫s" and "every Hund" are no phrases; "the dog on the right" beside them is one."""
    places = (("猫", "red", 0.2), ("猫", "blue", 0.8), ("dog", "black", 0.3), ("dog", "white", 0.9))
    instances = [Instance(name, colour, x, 0.5, 0.02 + x / 9, 0.02 + x / 9) for name, colour, x in places]
    phrases = [draw_phrase(instances, ("Hund", "cat"), np.random.default_rng(i)) for i in range(600)]
    phrases += evaluation_phrases(instances, ("Hund", "cat"), np.random.default_rng(0))
    texts = {text for text, _ in phrases}
    assert {text for text in texts if "猫" in text} == {"猫"} and {text for text in texts if "Hund" in text} == {"Hund"}
    assert {"the dog on the right", "black dog", "cats"} <= texts


# --- the dataset


def test_samples_carry_labels_masks_and_one_shared_image():
    dataset = SyntheticDataset(scenes=20, seed=0, image_size=96, split="val")
    for i in range(20):
        samples, scene = dataset[i], dataset.scene(i)
        assert len({id(sample.image) for sample in samples}) == 1 and samples[0].image.size == (96, 96)
        for sample in samples:
            names = sample.query if isinstance(sample.query, tuple) else (sample.query,)
            assert sample.labels == ("others", *names) and len(set(sample.labels)) == len(sample.labels)
            assert sample.class_map.dtype == np.int16 and sample.class_map.max() < len(sample.labels)
        by_name = {sample.query: sample for sample in samples}
        for instance in scene.instances:
            same = np.any([m for t, m in zip(scene.instances, scene.masks, strict=True) if t.name == instance.name], 0)
            assert np.array_equal(by_name[instance.name].class_map > 0, same)
        listed = next(sample for sample in samples if isinstance(sample.query, tuple))
        for label, name in enumerate(listed.query, 1):
            there = [m for t, m in zip(scene.instances, scene.masks, strict=True) if t.name == name]
            assert np.array_equal(listed.class_map == label, np.any([*there, np.zeros((96, 96), bool)], 0))
    assert [s.id for s in dataset[4]] == [s.id for s in SyntheticDataset(20, 0, 96, "val")[4]]
    with pytest.raises(IndexError):
        dataset[20]


def test_a_shape_can_be_wanted_or_kept_out():
    """The walk-through teaches a shape that training never saw: neither drawn, nor named as absent, nor listed."""
    for options, kept_out in (("-heart", ("heart",)), ("-arrow,-crescent", ("arrow", "crescent"))):
        without = open_dataset(f"synthetic:{options},scenes=60,size=64")
        rng = np.random.default_rng(0)
        asked = " ; ".join(str(s.query) for i in range(60) for s in (*without.draw(i, rng, 6), *without[i]))
        assert not any(shape in asked or shape in without.names for shape in kept_out)
        assert all(shape in asked for shape in SHAPES if shape not in kept_out)
    wanted = open_dataset("synthetic:heart,crescent,scenes=40,size=64@val")
    assert len(wanted) == 40
    names = [{instance.name for instance in wanted.scene(i).instances} for i in range(40)]
    assert all({"heart", "crescent"} & there for there in names) and any(len(there) > 2 for there in names)


@pytest.mark.parametrize("options, said", [
    ("octagon", "no shape 'octagon'; the shapes are circle"),
    ("-", "no shape ''"),
    ("scenes=-3", "scenes=N"),
    ("scenes=0", "scenes=0; it is at least 1"),
    ("size=8", "size=8; it is at least 32"),
    ("colour=red", "no option 'colour=red'"),
    ("heart,-heart", "cannot hold heart without heart"),
    (",".join(f"-{shape}" for shape in SHAPES[1:]), "keep at least two"),
])  # fmt: skip
def test_wrong_options_are_named(options, said):
    with pytest.raises(DataError, match=re.escape(said)):
        open_dataset(f"synthetic:{options}")


def test_a_wrong_split_is_named():
    with pytest.raises(DataError, match="no split 'dev'; the splits are train, val, test"):
        open_dataset("synthetic@dev")


# --- specs and mixtures


@pytest.mark.parametrize("text, expected", [
    ("synthetic", DatasetSpec("synthetic")),
    ("folder:a/b", DatasetSpec("folder", "a/b")),
    ("folder:/a@b/c@val*0.5", DatasetSpec("folder", "/a@b/c", "val", 0.5)),
    (r"folder:C:\photos@val", DatasetSpec("folder", r"C:\photos", "val")),
    ("refcoco+:x*2", DatasetSpec("refcoco+", "x", None, 2.0)),
    ("hub:me/cells@test", DatasetSpec("hub", "me/cells", "test")),
    ("folder:a*b/c", DatasetSpec("folder", "a*b/c")),
    ("synthetic@val*1e-1", DatasetSpec("synthetic", "", "val", 0.1)),
])  # fmt: skip
def test_specs(text, expected):
    assert DatasetSpec.parse(text) == expected


@pytest.mark.parametrize("text, said", [
    ("", "one of synthetic"),
    ("imagenet:x", "the name 'imagenet'"),
    ("Synthetic", "the name 'Synthetic'"),
    ("folder", "write folder:PATH"),
    ("folder:", "write folder:PATH"),
    ("folder:a@", "no split after it"),
    ("synthetic*", "the weight ''"),
    ("synthetic*two", "the weight 'two'"),
    ("synthetic*0", "a number above 0"),
    ("synthetic*-1", "a number above 0"),
    ("synthetic*nan", "a number above 0"),
    ("synthetic*inf", "a number above 0"),
    ("synthetic@a@b", "cannot be read"),
])  # fmt: skip
def test_wrong_specs_say_what_is_allowed(text, said):
    with pytest.raises(DataError, match=re.escape(said)):
        DatasetSpec.parse(text)


def test_a_mixture_draws_by_weight_not_by_size():
    mixture = Mixture.open(["synthetic:scenes=1,size=32*3", "synthetic:scenes=50,seed=9,size=48"])
    assert len(mixture) == 51
    sizes = [mixture.draw(np.random.default_rng([0, i]), 1)[0].image.width for i in range(200)]
    assert 120 < sizes.count(32) < 180
    again = [mixture.draw(np.random.default_rng([0, i]), 1)[0].image.width for i in range(200)]
    assert sizes == again
    with pytest.raises(DataError, match="at least one dataset"):
        Mixture((), ())


def test_every_name_leads_somewhere(tmp_path):
    """Each dataset that needs a path says in a DataError that this one has nothing for it; none is a dead name."""
    for name in NAMES:
        if name not in ("synthetic", "hub"):
            with pytest.raises(DataError):
                open_dataset(f"{name}:{tmp_path / 'nothing'}")


def test_scenes_differ_enough():
    pictures = [np.asarray(SyntheticDataset(seed=0, image_size=32).scene(i).image, float) for i in range(12)]
    assert all(np.abs(a - b).mean() > 8 for a, b in combinations(pictures, 2))
