"""Words: what a phrase is about, whether a checkpoint was taught it, and what may have been meant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from t4s import lexicon
from t4s.data.scenes.phrasing import PLACE_KINDS, Instance, draw_phrase, place_kind, placed_phrases

FILE = Path(lexicon.__file__).with_name("lexicon.json")
NAMES = tuple(
    "dog, cat, horse, cow, person, bird, car, boat, couch, tv, hot dog, elephant, sheep, horse rider, building, "
    "orange, strawberry, guitar, flower, window, t-shirt, chair".split(", ")
)


def test_the_file_is_sorted_and_whole():
    """One entry a line, in order; hypernyms are entries, and no word leads back to itself."""
    text = FILE.read_text(encoding="utf-8")
    entries = json.loads(text)["words"]
    assert list(entries) == sorted(entries) and len(text) < 400_000
    for word, entry in entries.items():
        assert set(entry) <= {"plural", "synonyms", "variants", "hypernyms", "kin"}
        assert word == " ".join(word.split()) and word not in lexicon.ancestors(word)
        assert set(entry.get("hypernyms", ())) <= set(entries), word


def test_every_taught_name_has_an_entry(segmenter):
    entries = json.loads(FILE.read_text(encoding="utf-8"))["words"]
    assert set(segmenter.vlm.config.names) <= set(entries)


@pytest.mark.parametrize("name, plural", [
    ("dog", "dogs"), ("person", "people"), ("bus", "buses"), ("sheep", "sheep"), ("couch", "couches"),
    ("wine glass", "wine glasses"), ("butterfly", "butterflies"), ("scarf", "scarves"),
    ("potted plant", "potted plants"),
])  # fmt: skip
def test_plurals(name, plural):
    assert lexicon.plural(name) == plural


def test_training_phrases_are_about_their_name():
    rng = np.random.default_rng(0)
    for name in NAMES:
        assert {lexicon.taught_name(lexicon.vary(name, rng), NAMES) for _ in range(30)} == {name}


@pytest.mark.parametrize("phrase, name", [
    ("Dog", "dog"),
    ("The dog", "dog"),
    ("segment the dog", "dog"),
    ("the dog on the left", "dog"),
    ("the two black dogs on the couch", "dog"),
    ("green dog", "dog"),
    ("dog sleeping", "dog"),
    ("a person wearing a t-shirt", "person"),
    ("the woman in the car", "person"),
    ("a horse rider", "horse rider"),
    ("hot dog", "hot dog"),
    ("kitten's", None),
    ("all animals", "animal"),
    ("sofa", "couch"),
    ("television", "tv"),
    ("unicorn", None),
    ("asdfgh", None),
    ("zebra crossing", None),
    ("dog house", None),
    ("the cat's tail", None),
    ("everything", None),
    ("everything but the dog", None),  # what is excluded is not what is meant
    ("all but the dog", None),
    ("not the dog", None),
    ("no dogs", None),
    ("without the dog", None),
    ("the animal other than the dog", "animal"),
    ("behind the dog", None),  # nor is what a place is told by
    ("in front of the car", None),
    ("the top of the car", None),
    ("one of the dogs", "dog"),
    ("brown and white cow", "cow"),
    ("the smallest of the dogs", "dog"),
    ("the dog bigger than the cat", "dog"),
    ("the dog not on the left", "dog"),
    ("the one on the left", None),
    ("the", None),
    ("猫", None),
    ("...", None),
    ("the orange on the left", "orange"),  # a name, though a colour too
    ("a big orange", "orange"),
    ("the orange car", "car"),
    ("the front bumper on the left", "front bumper"),  # a name that begins with a place
    ("a red traffic light", "traffic light"),
    ("the light of the car", None),
    ("a hot black dog", "dog"),  # no hot dog, though both its words are there
    ("zebra at a crossing", None),
])  # fmt: skip
def test_what_a_phrase_is_about(phrase, name):
    assert lexicon.taught_name(phrase, (*NAMES, "front bumper", "traffic light")) == name


def test_a_checkpoint_without_names_has_no_unknown_words():
    assert lexicon.is_taught("asdfgh", ()) and not lexicon.is_taught("asdfgh", NAMES)


def test_names_with_capitals_are_known_by_the_words_that_are_asked():
    assert lexicon.words_for("Dog")[:3] == ("dog", "dogs", "puppy")
    assert {lexicon.taught_name(word, ("Dog", "Tree")) for word in ("dog", "the dogs", "Puppy")} == {"Dog"}
    assert lexicon.nearest("trea", ("Dog", "Tree")) == ("Tree",)


@pytest.mark.parametrize("word, first", [
    ("hrose", "horse"),  # spelling
    ("elefant", "elephant"),
    ("dgo", "dog"),
    ("horse's", "horse"),
    ("strawbery", "strawberry"),
    ("seagull", "bird"),  # a kind of it
    ("foal", "horse"),
    ("tabby", "cat"),
    ("heifer", "cow"),
    ("minivan", "car"),
    ("the policeman on the left", "person"),
    ("rose", "flower"),
    ("guy", "person"),  # another word for it
    ("telly", "tv"),
    ("pet", "animal"),
    ("fruit", "orange"),  # the names below it
    ("armchair", "chair"),
])  # fmt: skip
def test_the_nearest_word(word, first):
    assert lexicon.nearest(word, NAMES)[0] == first


@pytest.mark.parametrize("phrase, asked", [
    ("dog on the left", "the dog on the left"),
    ("bigger dog", "the bigger dog"),
    ("dog that is sitting", "the dog that is sitting"),
    ("dog and the cat", "the dog and the cat"),
    ("dog", "dog"),
    ("potted plant", "potted plant"),
    ("beatles poster", "beatles poster"),
    ("top hat", "top hat"),
    ("top dog", "the top dog"),
    ("left luggage", "left luggage"),  # one of the names here
    ("all dogs", "all dogs"),
    ("two dogs on the left", "two dogs on the left"),
    ("everything but the dog", "everything but the dog"),
    ("not the dog", "not the dog"),
    ("dog without a hat", "the dog without a hat"),
    ("left", "left"),
    ("猫 on the left", "猫 on the left"),
])  # fmt: skip
def test_what_says_more_than_a_name_has_an_article(phrase, asked):
    assert lexicon.with_article(phrase, (*NAMES, "left luggage")) == asked


@pytest.mark.parametrize("typed, spelled", [
    ("hot-dog", "hot dog"),
    ("the horse-rider on the left", "the horse rider on the left"),
    ("t-shirt", "t-shirt"),
    ("t shirt", "t shirt"),
    ("straw berry", "strawberry"),
    ("the bo at sea", "the bo at sea"),  # no boat
    ("every body", "every body"),
    ("two pairs of dogs", "dogs"),
    ("a slice of the hot-dog", "hot dog"),
    ("a dog and a pair of cats", "a dog and cats"),
    ("show group of people", "people"),
    ("hot-dog, horse-rider", "hot dog, horse rider"),
    ("dog house", "dog house"),
    ("a flock of birds", "birds"),
    ("pair of dogs on the left", "dogs on the left"),
    ("couple of unicorns", "couple of unicorns"),
    ("a crowd of guys", "guys"),
    ("show dog", "dog"),
    ("show jumping", "show jumping"),
    ("dog", "dog"),
    ("", ""),
])  # fmt: skip
def test_words_are_spelled_as_the_names_are(typed, spelled):
    assert lexicon.respelled(typed, NAMES) == spelled
    assert lexicon.respelled(typed, ()) == typed


def test_no_word_is_respelled_as_one_of_another_meaning(segmenter):
    names, homes = segmenter.vlm.config.names, lexicon.homes()
    assert all(homes[lexicon.respelled(word, names)] == home for word, home in homes.items())


def test_a_word_is_another_one_for_a_name_before_it_is_an_entry_of_its_own():
    """Entries that say nothing ("child") hid the names whose synonyms they are."""
    for name in ("person", "cow"):
        for word in lexicon.SYNONYMS[name]:
            assert lexicon.taught_name(word, (name,)) == name and lexicon.homes()[word] == name, word


def test_a_plural_is_of_the_name_before_it_is_of_a_synonym():
    words = lexicon.taught_words(("dining table", "table"))
    assert words["table"] == words["tables"] == "table" and words["dining tables"] == "dining table"


@pytest.mark.parametrize("phrase, put, same", [
    ("guy", "person", True),
    ("Everyone", "person", True),
    ("the guys on the left", "the people on the left", True),
    ("pet", "animal", True),
    ("foal", "horse", False),
    ("a rusty van", "a car", False),
    ("seagull", "bird", False),
    ("moped", None, None),  # no motorcycle among the names
    ("rabbit", None, None),  # an animal, but that is a kind of names and no name
    ("dog", None, None),  # taught
    ("puppies", None, None),
    ("hrose", None, None),
    ("unicorn", None, None),
    ("everything but the guy", None, None),
    ("the", None, None),
    ("", None, None),
])  # fmt: skip
def test_the_name_that_stands_for_a_word(phrase, put, same):
    assert lexicon.reading(phrase, NAMES) == (None if put is None else (put, same))
    assert lexicon.reading(phrase, ()) is None


@pytest.mark.parametrize("phrase, kept, ignored", [
    ("the dog", "the dog", ()),
    ("all dogs on the left", "all dogs on the left", ()),
    ("the smallest dog in the top left corner", "the smallest dog in the top left corner", ()),
    ("the leftmost dog and the cat at the top", "the leftmost dog and the cat at the top", ()),
    ("the horse on the right side", "the horse on the right side", ()),
    ("the horse that is on the right", "the horse on the right", ()),
    ("the horse to the left of the chair", "the horse on the left", ("of the chair",)),
    ("dog left", "dog on the left", ()),
    ("the dog on far left", "the dog on the left", ()),
    ("the upper dog", "the top dog", ()),
    ("the cat in the center", "the cat in the middle", ()),
    ("the cat in the lower right", "the cat in the bottom right corner", ()),
    ("green dog", "dog", ("green",)),
    ("the orange", "the orange", ()),  # a name, and no colour
    ("the orange cat", "the cat", ("orange",)),
    ("two black dogs on the left", "dogs on the left", ("two black",)),
    ("the sleeping dog", "the dog", ("sleeping",)),
    ("brown and white cow", "cow", ("brown and white",)),
    ("the black or white dog on the left", "the dog on the left", ("black or white",)),
    ("the toy car", "the car", ("toy",)),
    ("dog without a collar on the left", "dog", ("without a collar on the left",)),
    ("the dog not on the left", "the dog", ("not on the left",)),
    ("the person wearing a hat on the right", "the person on the right", ("wearing a hat",)),
    ("the bird on the left side of the chair", "the bird on the left side", ("of the chair",)),
    ("the dog next to the cat", "the dog", ("next to the cat",)),
    ("the person on the left horse in a coat", "the person", ("on the left horse in a coat",)),
    ("the person on the left wearing a coat", "the person on the left", ("wearing a coat",)),
    ("the dog and the unicorn", "the dog", ("unicorn",)),
    ("the unicorn and the old dog", "the dog", ("unicorn", "old")),
    ("dog/cat", "dog and cat", ()),
    ("dog + cat", "dog and cat", ()),
    ("dog. cat", "dog and cat", ()),
    ("dogs or cats", "dogs and cats", ()),
    ("the orange and the strawberry", "the orange and the strawberry", ()),
    ("the orange and white cat", "the cat", ("orange and white",)),
    ("a light orange and white cat", "a cat", ("light orange and white",)),
    ("the orange striped cat", "the cat", ("orange striped",)),
    ("old red car", "car", ("old red",)),
    ("a person in a t-shirt and scarf", "a person", ("in a t-shirt and scarf",)),
    ("dog on the couch and the cat on the chair", "dog and the cat", ("on the couch", "on the chair")),
    ("a person with a hat, dog, cat", "a person and dog and cat", ("with a hat",)),
    ('"dog" and "cat"', "dog and cat", ()),
    ("the dog on the left and the cat", "the dog on the left and the cat", ()),
    ("the leftmost horse at right", "the leftmost horse on the right", ()),
    ("the horse furthest left", "the horse on the left", ()),
    ("the old dog and the cat", "the dog and the cat", ("old",)),
    ("the dog, cat", "the dog and cat", ()),
    ("old dog, horse and the cat", "dog and horse and the cat", ("old",)),
    ("the small, brown dog", "the dog", ("small brown",)),
    ("the smallest of the dogs", "the smallest dogs", ("of the",)),
    ("the tall guy with a hat", "the guy", ("tall", "with a hat")),  # known as a person
    ("everyone but me", "everyone", ("but me",)),
    ("the pink unicorn", "the pink unicorn", ()),  # about nothing that it knows
    ("everything but the dog", "everything but the dog", ()),
    ("not the dog", "not the dog", ()),
    ("猫 on the left", "猫 on the left", ()),
    ("", "", ()),
])  # fmt: skip
def test_what_is_understood_of_a_phrase(phrase, kept, ignored):
    assert lexicon.understood(phrase, NAMES) == (kept, ignored)
    assert lexicon.understood(phrase, ()) == (phrase, ())


def test_all_that_training_says_beside_names_is_understood():
    """Places and sizes of one of several, pairs, and names alone; colours are the exception."""
    boxes = [(2, 2, 12, 10), (20, 38, 24, 42), (38, 20, 44, 26), (23, 22, 27, 26), (28, 30, 46, 46), (4, 16, 8, 20)]
    instances = []
    for number, (top, left, bottom, right) in enumerate(boxes):
        mask = np.zeros((48, 48), bool)
        mask[top:bottom, left:right] = True
        instances.append(Instance.of(("dog", "dog", "dog", "dog", "cat", "cat")[number], None, mask))
    rng = np.random.default_rng(0)
    asked = {draw_phrase(instances, ("horse", "car"), rng, complete=False)[0] for _ in range(600)}
    placed = {text for text, _ in placed_phrases(instances)}
    assert len(asked) > 40 and {place_kind(text) for text in placed} == set(PLACE_KINDS)
    for phrase in asked | placed:
        assert lexicon.understood(phrase, NAMES).ignored == (), phrase


@pytest.mark.parametrize("word", ["asdfgh", "xq", "", "...", "猫", "hammer", "cloud computing"])
def test_where_nothing_is_near(word):
    assert lexicon.nearest(word, NAMES) == ()


def test_at_most_three_are_named():
    many = ("crab", "lobster", "octopus", "crayfish", "nautilus")
    assert len(lexicon.nearest("squid", many)) <= lexicon.MOST_NEAREST


@pytest.mark.parametrize("word, name", [
    ("mango", "tree"),
    ("almond", "tree"),
    ("ash", "tree"),
    ("corn", "grass"),
    ("popcorn", "grass"),
    ("chess", "grass"),
    ("field", "grass"),
    ("bumper", "cup"),
    ("magnifying glass", "cup"),
    ("number plate", "bowl"),
    ("plate", "bowl"),
    ("hog", "sheep"),
    ("nose", "face"),
    ("blanket", "bed"),
    ("upper", "bed"),
    ("stocking", "shoes"),
    ("balloon", "airplane"),
    ("comma", "butterfly"),
    ("column", "pole"),
    ("font", "sink"),
    ("silly", "person"),
    ("hangover", "person"),
    ("baseball coach", "bus"),
    ("mum", "flower"),
    ("truck bed", "floor"),
    ("launch", "boat"),
    ("snowflake", "bird"),
    ("three year old", "horse"),
    ("turtle", "sweater"),
    ("tree trunk", "trunk"),
])  # fmt: skip
def test_a_word_is_not_read_in_a_rare_sense(segmenter, word, name):
    names = segmenter.vlm.config.names
    read = lexicon.reading(word, names)
    assert name not in (lexicon.taught_name(word, names), read and read.phrase, *lexicon.ancestors(word))


@pytest.mark.parametrize("word, read", [
    ("glove", "gloves"),
    ("sneaker", "sneakers"),
    ("stocking", "stockings"),
    ("headphone", "headphones"),
    ("infant", "person"),
    ("teenager", "person"),
    ("grandmothers", "people"),
    ("firefighter", "person"),
    ("baseball coach", "person"),
    ("the child on the left", "the person on the left"),
    ("children", "people"),
    ("persons", "people"),
    ("street light", "lamp"),
    ("german shepherd", "dog"),
    ("trench coat", "coat"),
    ("fire engine", "truck"),
    ("speedboat", "boat"),
    ("church", "building"),
    ("earbuds", "headphones"),
    ("workbench", "table"),
    ("swimming trunks", "shorts"),
])  # fmt: skip
def test_everyday_words_lead_to_their_name(segmenter, word, read):
    assert lexicon.reading(word, segmenter.vlm.config.names).phrase == read


@pytest.mark.parametrize("word", ["napkin", "dryer", "leaf", "arrow", "chimney", "license plate", "cable", "beach"])
def test_what_has_little_in_common_is_not_suggested(segmenter, word):
    assert lexicon.nearest(word, segmenter.vlm.config.names) == ()
