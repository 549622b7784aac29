"""Phrases as people type them: what cleaning and normalizing take off, and what they leave."""

from __future__ import annotations

import pytest

from t4s import lexicon
from t4s.data.semantic import ADE20K
from t4s.prompts import QUESTIONS, clean, normalize


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
    ("the dog on the left", "dog on the left"),
    ("Where is the dog on the left?", "dog on the left"),
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
    for phrase in ("dog", "dog on the left", "potted plant"):
        assert normalize(template.format(query=phrase)) == phrase


def test_no_name_is_taken_for_a_request():
    """Only "the boot", which the lexicon has as an instrument, loses its article."""
    words = {*lexicon.taught_words(tuple(lexicon.SYNONYMS)), *lexicon.homes(), *ADE20K}
    assert {word for word in words if normalize(word) != word.lower()} == {"the boot", "the boots"}
