"""Phrases as people type them: what cleaning and normalizing take off, and what they leave."""

from __future__ import annotations

import pytest

from t4s import lexicon
from t4s.data.semantic import ADE20K
from t4s.prompts import QUESTIONS, clean, normalize

PLACES = (
    "the {} on the left", "the {} on the right", "the {} at the top", "the {} at the bottom", "the {} in the middle",
    "the leftmost {}", "the rightmost {}", "the top {}", "the bottom {}", "the {} in the top left corner",
)  # fmt: skip
SIZES = ("the bigger {}", "the biggest {}", "the larger {}", "the largest {}", "the smaller {}", "the smallest {}")


@pytest.mark.parametrize("typed, cleaned", [
    ("  The   Dog ", "The Dog"),
    ("the dog.", "the dog"),
    ("dog?!", "dog"),
    ("dog…", "dog"),
    ("犬。", "犬"),
    ("“dog”", "dog"),
    ("‘the dog’.", "the dog"),
    ("« chien »", "chien"),
    ("the cat’s tail", "the cat's tail"),
    ("the “T” sign", 'the "T" sign'),
    ("\u200bdog\ufeff\u00a0", "dog"),
    ("cafe\u0301", "caf\u00e9"),  # NFC
    ("dogs'", "dogs'"),
    ("?", "?"),  # nothing else is there
    ("...", "..."),
    ("the dog, the cat", "the dog, the cat"),
])  # fmt: skip
def test_cleaning_takes_off_what_typing_leaves(typed: str, cleaned: str):
    assert clean(typed) == cleaned == clean(cleaned)


@pytest.mark.parametrize("typed, asked", [
    ("dog on the left", "the dog on the left"),  # what says which one has an article, as in training
    ("Where is the dog on the left?", "the dog on the left"),
    ("a dog in the middle", "the dog in the middle"),
    ("Bigger dog", "the bigger dog"),
    ("leftmost dog", "the leftmost dog"),
    ("the dog and the cat", "the dog and the cat"),
    ("all dogs on the left", "all dogs on the left"),
    ("two dogs at the bottom", "two dogs at the bottom"),
    ("left", "left"),
    ("laptop", "laptop"),
    ("all of the dogs", "all dogs"),
    ("Find all the dogs!", "all dogs"),
    ("show me everything", "everything"),
    ("The Beatles poster", "beatles poster"),
    ("the north face jacket", "north face jacket"),
    ("a4 paper", "a4 paper"),
    ("show jumping horse", "show jumping horse"),  # "show" is no request here, nor are the next ones
    ("mask", "mask"),
    ("crop top", "crop top"),
    ("see saw", "see saw"),
    ("hello kitty", "hello kitty"),
    ("picture frame", "picture frame"),
    ("the dog in the picture frame", "dog in the picture frame"),
    ("the man with the mask", "man with the mask"),
    ("everything but the dog", "everything but the dog"),
    ("a", "a"),  # nothing is taken off where nothing would be left
    ("The", "the"),
    ("all", "all"),
    ("Find", "find"),
    ("find the", "the"),
    ("where", "where"),
    ("Please!", "please"),
    ("猫", "猫"),
    ("Собака", "собака"),
    ("der Hund", "der hund"),
    ("DOG'S TAIL", "dog's tail"),
])  # fmt: skip
def test_what_is_asked(typed: str, asked: str):
    assert normalize(typed) == asked


@pytest.mark.parametrize("template", QUESTIONS)
def test_the_questions_that_other_checkpoints_are_asked_mean_their_phrase(template: str):
    for phrase in ("dog", "the dog on the left", "potted plant"):
        assert normalize(template.format(query=phrase.removeprefix("the "))) == phrase


@pytest.mark.parametrize("name", ["dog", "猫"])
def test_phrases_of_place_and_size_are_asked_as_training_asks_them(name: str):
    """With an article, whether it was typed or not, and whatever was typed around them."""
    for phrase in (*PLACES, *SIZES):
        trained = phrase.format(name)
        for typed in (trained, trained.removeprefix("the "), f"Find {trained}, please!", trained.title()):
            assert normalize(typed) == trained


def test_no_name_is_taken_for_a_request():
    """Names are asked as they are, but that "top hat" gets an article and "the boot", an instrument, loses its own."""
    words = {*lexicon.taught_words(tuple(lexicon.SYNONYMS)), *lexicon._homes(), *ADE20K}
    changed = {word for word in words if normalize(word) not in (word.lower(), f"the {word.lower()}")}
    assert changed == {"the boot", "the boots"}


def test_every_taught_name_is_asked_as_it_is(segmenter):
    assert all(normalize(name) == name for name in segmenter.vlm.config.names)
