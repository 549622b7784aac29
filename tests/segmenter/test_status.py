"""The status of an answer: the decision, and the sentences about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from t4s.models.checkpoint import CheckpointConfig
from t4s.segmenter.status import explain, status_of, with_status

PLAIN = CheckpointConfig()
TAUGHT = CheckpointConfig(
    positions="cells", bidirectional_prefix=True, names=("dog", "horse", "bird"), unsure_below=0.6
)


@pytest.mark.parametrize("names, present, score, status", [
    (("dog",), True, 0.9, "found"),
    (("dog on the left",), True, 0.6, "found"),
    (("dog",), True, 0.59, "unsure"),
    (("dog",), False, 0.99, "absent"),
    (("mutt",), True, 0.9, "found"),  # another word for a dog
    (("poodle",), True, 0.9, "unknown word"),  # a dog, but it was never told which
    (("unicorn",), True, 0.99, "unknown word"),
    (("unicorn",), False, 0.99, "unknown word"),
    (("dog", "unicorn"), True, 0.9, "found"),
    (("griffin", "unicorn"), True, 0.9, "unknown word"),
])  # fmt: skip
def test_the_decision(names, present, score, status):
    assert status_of(names, present, score, TAUGHT) == status


@pytest.mark.parametrize("typed, status, ignored", [
    ("cat", "found", []),
    ("the cat on the left", "found", []),
    ("green cat", "unsure", ["green"]),
    ("two cats", "unsure", ["two"]),
    ("cat without a collar", "unsure", ["without a collar"]),
    ("the sleeping cat on the left", "unsure", ["sleeping"]),
    ("the cat and the old couch", "unsure", ["old"]),
    ("not the cat", "unknown word", []),
    ("no cats", "unknown word", []),
    ("everything but the cat", "unknown word", []),
    ("all except the cat", "unknown word", []),
    ("behind the cat", "unknown word", []),
    ("everything", "unknown word", []),
    ("green elephant", "absent", ["green"]),
    ("unicorn and cat", "unsure", ["unicorn"]),
    ("foal, cat", "found", []),
    ("a cat in a hat and coat", "unsure", ["in a hat and coat"]),
])  # fmt: skip
def test_a_phrase_that_is_understood_in_part_is_not_called_found(segmenter, examples, typed, status, ignored):
    """The embedded checkpoint on two cats. What it was not taught is named, and is not asked."""
    prediction = segmenter(segmenter.encode(examples / "two_cats.jpg"), typed, refine="none")
    assert prediction.status == status and prediction.stats.get("ignored", []) == ignored
    assert all(repr(words) in explain(prediction) for words in ignored)
    assert not any(words in prediction.asked for words in ignored)
    assert segmenter.refine(prediction, examples / "two_cats.jpg", "none").status == status


def test_a_list_is_unsure_where_a_name_is_drawn_that_was_understood_in_part(segmenter, examples):
    encoded = segmenter.encode(examples / "two_cats.jpg")
    drawn = segmenter.classes(encoded, ["green cat", "dog"], refine="none")
    assert drawn.status == "unsure" and drawn.stats["ignored"] == ["green"] and "read_as" not in drawn.stats
    half = segmenter.classes(encoded, ["cat", "unicorn", "hrose"], refine="none")
    assert half.status == "found" and half.stats["unknown"] == ["unicorn", "hrose"]
    assert explain(half) == "The checkpoint was not taught 'unicorn' or 'hrose'."
    absent = segmenter.classes(encoded, ["cat", "green elephant"], refine="none")
    assert absent.status == "found" and absent.stats["ignored"] == ["green"]


def test_what_a_phrase_or_a_list_takes_together_is_said(segmenter, examples):
    """A cat alone was called found as "cat and dog", and halves of it as two names."""
    encoded = segmenter.encode(examples / "two_cats.jpg")
    both = segmenter(encoded, "cat, dog", refine="none")
    assert both.stats["either"] == ["cat", "dog"] and "ask for each alone" in explain(both)
    assert "either" not in segmenter(encoded, "cat", refine="none").stats
    alike = segmenter.classes(encoded, ["cat", "kitten", "dog"], refine="none")
    assert alike.stats["alike"] == [["cat", "kitten"]]
    assert explain(alike) == "'cat' and 'kitten' mean the same to this checkpoint."
    read = segmenter.classes(encoded, ["person", "guy"], refine="none")
    assert read.stats["alike"] == [["person", "guy"]]
    unknown = segmenter.classes(encoded, ["hrose", "qwerty"], refine="none")
    assert explain(unknown).startswith("'hrose' and 'qwerty' are no words this checkpoint was taught; nearest: horse")


def test_a_list_is_not_found_by_what_an_unknown_word_drew(segmenter, examples):
    """Only "unicorn" is drawn, which the checkpoint does not know."""
    listed = segmenter.classes(examples / "two_cats.jpg", ["cat", "unicorn"], refine="none")
    drawn = replace(listed, grid=replace(listed.grid, labels=("others", "unicorn")))
    assert with_status(listed, segmenter.vlm.config).status == "found"
    assert with_status(drawn, segmenter.vlm.config).status == "absent"


def test_a_photo_that_hardly_shows_the_name_makes_unsure():
    strict = replace(TAUGHT, unsure_similarity_below=0.15)
    assert status_of(("dog",), True, 0.9, strict, 0.14) == "unsure"
    assert status_of(("dog",), True, 0.9, strict, 0.15) == status_of(("dog",), True, 0.9, strict) == "found"
    assert status_of(("dog",), False, 0.9, strict, 0.14) == "absent"
    assert status_of(("dog",), True, 0.9, TAUGHT, 0.14) == "found"


def test_a_checkpoint_without_names_and_bound_says_found_or_absent():
    assert status_of(("unicorn",), True, 0.01, PLAIN) == "found"
    assert status_of(("unicorn",), False, 0.01, PLAIN) == "absent"


def test_the_embedded_checkpoint_knows_what_it_was_taught(segmenter, examples):
    encoded = segmenter.encode(examples / "two_cats.jpg")
    found = segmenter(encoded, "cat", refine="none")
    unknown = segmenter(encoded, "hrose", refine="none")
    assert found.status == "found" and explain(found) == "" and found.stats["similarity"] > 0.2
    assert unknown.status == "unknown word" and unknown.stats["nearest"][0] == "horse"
    assert explain(unknown).startswith("'hrose' is not a word this checkpoint was taught; nearest: horse")
    read = segmenter(encoded, "seagull", refine="none")
    assert explain(read) == (
        "'seagull' is not a word this checkpoint was taught; nearest: bird. It looked for 'bird' instead."
    )
    assert segmenter.refine(unknown, encoded, "none").status == "unknown word"
    assert [step.status for step in segmenter.stream(encoded, "hrose", refine="none")][-1] == "unknown word"
    assert segmenter.classes(encoded, ["cat", "dog"], refine="none").status == "found"


def test_the_sentence_for_an_unsure_answer(segmenter, examples):
    prediction = segmenter(examples / "two_cats.jpg", "cat", refine="none")
    strict = replace(segmenter.vlm.config, unsure_below=0.999)
    unsure = with_status(prediction, strict)
    assert unsure.status == "unsure" and explain(unsure).startswith("The checkpoint is not sure of this answer")


NONSENSE = (
    "asdfgh", "qwerty", "xqzwv", "unicorn", "dragon", "hobbit", "quark", "justice", "tomorrow", "internet", "gravity",
    "hammer", "rocket launcher", "submarine", "violin", "cactus", "trumpet", "volcano", "mermaid", "robot", "spaceship",
    "lawnmower", "chainsaw", "anvil", "microscope", "seagull", "hrose", "catt", "wizard", "pterodactyl", "blorp",
    "the glimmering snark", "left of nowhere", "window cleaner's ladder", "猫", "🐶", "12345", "a", "zebra crossing",
)  # fmt: skip


def test_nonsense_and_unknown_words_are_not_called_found(segmenter, examples):
    """At most 5 % on two photos."""
    found = []
    for photo in ("two_cats.jpg", "gull.jpg"):
        encoded = segmenter.encode(examples / photo)
        found += [segmenter(encoded, word, refine="none").status == "found" for word in NONSENSE]
    assert sum(found) <= 0.05 * len(found)
