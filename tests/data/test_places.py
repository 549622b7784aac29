"""Photos with several instances of a class: what counts as one instance, and what is said of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from t4s.data.scenes.phrasing import PLACE_KINDS, Instance, place_kind, placed_phrases
from t4s.data.scenes.places import PlacesDataset, large_regions, separate_instances
from t4s.data.scenes.regions import between, components, distance
from t4s.data.scenes.staging import one_of_each, placed_phrase
from t4s.data.spec import open_dataset
from t4s.errors import DataError
from t4s.records import IGNORED

SIZE = (160, 120)  # width, height
NAMES = {1: "dog", 2: "person", 3: "couch", 4: "grass", 5: "horse"}


def box(x: int, y: int, width: int, height: int) -> np.ndarray:
    mask = np.zeros(SIZE[::-1], bool)
    mask[y : y + height, x : x + width] = True
    return mask


def ids_of(*parts: tuple[int, np.ndarray]) -> np.ndarray:
    ids = np.zeros(SIZE[::-1], np.uint8)
    for value, mask in parts:
        ids[mask] = value
    return ids


LEFT, RIGHT = box(10, 40, 30, 30), box(100, 40, 45, 45)
PICTURES = {
    "two dogs": ids_of((1, LEFT), (1, RIGHT)),
    "two dogs on grass": ids_of((4, box(0, 0, 160, 120)), (1, LEFT), (1, RIGHT)),
    "outline between": ids_of((1, box(20, 30, 100, 50)), (255, box(69, 30, 3, 50))),
    "with a crumb": ids_of((1, LEFT), (1, RIGHT), (1, box(70, 10, 5, 5))),
    "three horses": ids_of((5, box(5, 50, 30, 30)), (5, box(65, 45, 30, 30)), (5, box(125, 50, 30, 30))),
    "person between dogs": ids_of((1, LEFT), (1, RIGHT), (2, box(65, 40, 10, 60))),
}
REFUSED = {
    "one dog": ids_of((1, LEFT)),
    "a rider's leg": ids_of((5, box(40, 40, 70, 40)), (2, box(70, 20, 10, 80))),
    "a rider's foot": ids_of(
        (5, box(40, 40, 33, 40)), (255, box(73, 40, 4, 40)), (5, box(77, 40, 33, 40)), (2, box(72, 20, 6, 26))
    ),
    "a third, small one": ids_of((1, LEFT), (1, RIGHT), (1, box(70, 5, 14, 14))),
    "an unlabelled area": ids_of((1, LEFT), (1, RIGHT), (255, box(60, 80, 30, 30))),
    "a herd": ids_of((5, LEFT), (5, box(60, 60, 90, 30))),
    "behind a fence": ids_of((1, box(10, 30, 140, 60)), *((255, box(x, 30, 3, 60)) for x in range(20, 150, 15))),
    "two arms": ids_of((2, box(30, 0, 20, 50)), (2, box(90, 0, 20, 50))),
    "couches": ids_of((3, LEFT), (3, RIGHT)),
    "close together, alike": ids_of((1, box(40, 40, 20, 30)), (1, box(64, 40, 20, 30))),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root, lines = tmp_path_factory.mktemp("places"), []
    for number, (what, ids) in enumerate((PICTURES | REFUSED).items()):
        pixels = np.full((*ids.shape, 3), 200, np.uint8)
        pixels[ids == 1], pixels[ids == 5] = (12, 12, 12), (120, 75, 40)
        Image.fromarray(pixels).save(root / f"{number}.png")
        Image.fromarray(ids).save(root / f"{number}-mask.png")
        there = {str(value): name for value, name in NAMES.items() if (ids == value).any()}
        lines.append({"image": f"{number}.png", "mask": f"{number}-mask.png", "source": "zoo", "classes": there,
                      "split": "train" if what in PICTURES else "val", "ignore": [255]})  # fmt: skip
    lines.append({**lines[0], "source": "auto", "weak": True})
    (root / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


# --- pieces of masks


def test_components_are_those_of_a_flood_fill():
    rng = np.random.default_rng(0)
    masks = [rng.random((17, 23)) < share for share in (0.2, 0.5, 0.6, 0.75)]
    for mask in [*masks, np.zeros((5, 5), bool), np.ones((3, 7), bool)]:
        labels, expected = components(mask), np.zeros(mask.shape, int)
        for start in map(tuple, np.argwhere(mask)):
            if not expected[start]:
                stack, number = [start], expected.max() + 1
                while stack:
                    y, x = stack.pop()
                    if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not expected[y, x]:
                        expected[y, x] = number
                        stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
        assert np.array_equal(labels > 0, mask) and labels.max() == expected.max()
        assert len(set(zip(labels[mask].tolist(), expected[mask].tolist(), strict=True))) == expected.max()


def test_the_line_between_two_masks_is_the_shortest():
    rows, columns = between(box(10, 20, 10, 10), box(30, 20, 10, 10))
    assert columns.tolist() == list(range(20, 30)) and len(set(rows.tolist())) == 1
    assert distance(box(10, 20, 10, 10), box(30, 20, 10, 10)) == 11


def test_a_small_piece_goes_to_the_large_one_beside_it():
    """A leg behind a wire is no third dog."""
    mask = LEFT | RIGHT | box(20, 74, 6, 20)
    assert [int(piece.sum()) for piece in large_regions(mask)] == [900 + 120, 45 * 45]


# --- which photos


def test_photos_of_separate_things_are_found_and_no_others(photos):
    dataset = open_dataset(f"places:{photos}")
    assert isinstance(dataset, PlacesDataset) and len(dataset) == len(PICTURES)
    assert [len(dataset.scene(i).instances) for i in range(len(dataset))] == [2, 2, 2, 2, 3, 2]
    with pytest.raises(DataError, match="no photo in the split 'val'"):
        open_dataset(f"places:{photos}@val")
    with pytest.raises(IndexError):
        dataset[len(PICTURES)]


@pytest.mark.parametrize("what", [what for what in REFUSED if "alike" not in what and what != "couches"])
def test_what_may_be_counted_otherwise_is_left_out(photos, what):
    dataset = PlacesDataset(photos)
    number = list(REFUSED).index(what)
    photo = PlacesDataset(photos, "all").folder.photos[len(PICTURES) + number]
    name = next(name for name in photo.classes.values() if name != "person" or what == "two arms")
    assert separate_instances(photo, REFUSED[what].astype(int), name) is None
    first = dataset.folder.photos[0]
    assert separate_instances(first, PICTURES["two dogs"].astype(int), "dog") is not None


# --- what is said


def test_left_is_left_and_bigger_is_bigger(photos):
    dataset = PlacesDataset(photos)
    by_name = {sample.query: sample for sample in dataset[0]}
    assert {sample.query for sample in dataset[0] if sample.absent} <= {"person", "couch", "grass", "horse"}
    assert np.array_equal(by_name["dog"].class_map > 0, LEFT | RIGHT)
    rng = np.random.default_rng(0)
    drawn = {sample.query: sample.class_map > 0 for _ in range(200) for sample in dataset.draw(0, rng, 6)}
    assert np.array_equal(drawn["the dog on the left"], LEFT) and np.array_equal(drawn["the rightmost dog"], RIGHT)
    assert np.array_equal(drawn["the bigger dog"], RIGHT) and np.array_equal(drawn["the smaller dog"], LEFT)
    assert any(query.startswith("the puppy") for query in drawn if isinstance(query, str))
    assert "black dogs" in drawn and not drawn["the horse on the left"].any()


def test_evaluation_asks_each_kind_once_and_the_same_every_time(photos):
    dataset, again = PlacesDataset(photos), PlacesDataset(photos)
    for i in range(len(dataset)):
        samples = dataset[i]
        assert [s.id for s in samples] == [s.id for s in again[i]]
        kinds = [place_kind(text) for text, _ in one_of_each(dataset.scene(i), np.random.default_rng(0))]
        assert kinds and len(set(kinds)) == len(kinds) and set(kinds) <= set(PLACE_KINDS)
    three = [place_kind(text) for text, _ in one_of_each(dataset.scene(4), np.random.default_rng(0))]
    assert three == ["left", "right", "middle"]


def test_questions_of_one_photo_contradict_each_other(photos):
    """A model that does not read the phrase cannot answer both "left" and "right"."""
    dataset, rng, contrary, placed = PlacesDataset(photos), np.random.default_rng(1), 0, 0
    for _ in range(160):
        samples = [sample for sample in dataset.draw(0, rng, 6) if isinstance(sample.query, str)]
        answers = [m.tobytes() for s in samples if (m := s.class_map > 0).any() and not np.array_equal(m, LEFT | RIGHT)]
        placed += len(answers)
        contrary += len(set(answers)) == 2
    assert contrary >= 140 and 0.5 < placed / 960 < 0.75


def test_size_is_asked_for_more_often_than_every_place_together(photos):
    """Of the phrases for two dogs side by side most name a place."""
    dataset, rng = PlacesDataset(photos), np.random.default_rng(2)
    scene, level = dataset.scene(0), dataset.scene(4)
    kinds = [place_kind(placed_phrase(scene, set(), rng)[0]) for _ in range(400)]
    assert 0.53 < np.mean([kind == "size" for kind in kinds]) < 0.67
    assert "size" not in {place_kind(text) for text, _ in placed_phrases(level.instances)}
    assert {place_kind(placed_phrase(level, set(), rng)[0]) for _ in range(60)} == {"left", "right", "middle"}


def test_the_smaller_of_two_is_asked_for_as_often_as_the_bigger(photos):
    """There are two phrases for the bigger of them and one for the other."""
    scene, rng = PlacesDataset(photos).scene(0), np.random.default_rng(3)
    asked = [placed_phrase(scene, set(), rng)[0] for _ in range(400)]
    sizes = [text for text in asked if place_kind(text) == "size"]
    assert 0.4 < np.mean(["small" in text for text in sizes]) < 0.6


def test_ignored_pixels_are_not_scored_and_no_part_of_a_thing(photos):
    sample = PlacesDataset(photos)[2][0]
    assert (sample.class_map[box(69, 30, 3, 50)] == IGNORED).all()
    assert (sample.class_map == IGNORED).sum() == 150


def test_every_phrase_has_a_kind():
    instances = [Instance("dog", None, x, y, area, area) for x, y, area in ((0.2, 0.2, 0.02), (0.8, 0.8, 0.2))]
    assert {place_kind(text) for text, _ in placed_phrases(instances)} == set(PLACE_KINDS) - {"middle"}
    with pytest.raises(ValueError, match="no place"):
        place_kind("the dog")
