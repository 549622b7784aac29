"""What a checkpoint is asked for what people type: forms of a phrase, words it was not taught, lists; and training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from t4s.errors import DataError
from t4s.models.checkpoint import CheckpointConfig
from t4s.records import Sample
from t4s.segmenter.queries import check_query, clean_query, untaught_words
from t4s.training.collator import as_asked

NAMES = (
    "dog", "cat", "person", "horse", "bird", "hot dog", "potted plant", "t-shirt", "motorcycle", "traffic light",
)  # fmt: skip
FORMS = (
    "{0}", "{1}", "{2}", "The {0}", "THE {2}", "a {0}", "  {0} ", "{0}.", "{1}!", "“{0}”", "'{0}'", "my {0}",
    "segment the {0}", "Segment {0}.", "Please segment the {0}.", "segment out the {0}, please", "Where is the {0}?",
    "where's my {0}", "Find the {0}", "find {0}", "Show me the {0}", "show me where the {0} is", "Can you find {0}?",
    "Could you please highlight the {0} in this photo?", "I want the {0}", "I'd like to see the {0}.",
    "Is there a {0} in the picture?", "the mask of the {0}", "Hi, select the {0} for me", "outline the\n{0}",
    "Where can I find the {0}?", "Point out the {0}", "draw a mask around the {0}", "Which one is the {0}?",
    "Do you see a {0}?", "I'm looking for a {0}", "please, help me find my {0}", "{0}, please", "show {0}",
    "select {0}", "It's a {0}.", "this is the {0}", "a photo of a {0}", "picture of the {0}", "a a {0}", "the the {0}",
    "#{0}", "- {0}", "({0})", "[{1}]", "¿{0}?", "the '{0}'", "the {0}'", "{0}\\", "{0}_", "{0} 🐾",
    "🐾 {1}\ufe0f", "{0}\u200d", "\u202e{0}",
)  # fmt: skip
PLACES = (
    "the {} on the left", "the {} on the right", "the {} at the top", "the {} at the bottom", "the {} in the middle",
    "the leftmost {}", "the rightmost {}", "the top {}", "the bottom {}", "the {} in the top left corner",
    "the bigger {}", "the biggest {}", "the larger {}", "the largest {}", "the smaller {}", "the smallest {}",
    "the {} next to the chair", "the {} that is sitting", "the huge {}", "the red {}", "the {} and the chair",
)  # fmt: skip
EMBEDDED = CheckpointConfig(positions="cells", bidirectional_prefix=True, normalize_queries=True, names=NAMES)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_asks_for_the_bare_name(form: str):
    """So each gives what the name gives. The answer keeps the phrase as it was typed."""
    for name in NAMES:
        typed = form.format(name, name.capitalize(), name.upper())
        query = check_query(typed, EMBEDDED)
        assert query.typed == typed and query.asked == name and query.labels == ("others", name)


@pytest.mark.parametrize("typed, asked", [
    ("hot-dog", "hot dog"),
    ("hot_dog", "hot dog"),
    ("potted\u2010plant", "potted plant"),  # a hyphen, one that does not break, and a dash
    ("t\u2011shirt", "t-shirt"),
    ("the traffic\u2013light on the left", "the traffic light on the left"),
    ("motor cycle", "motorcycle"),
    ("\uff44\uff4f\uff47", "dog"),  # full-width letters
])  # fmt: skip
def test_names_are_asked_as_the_checkpoint_spells_them(typed: str, asked: str):
    assert check_query(typed, EMBEDDED).asked == asked


@pytest.mark.parametrize("form", PLACES)
def test_phrases_that_say_more_are_asked_with_an_article_as_in_training(form: str):
    """Whether it was typed or not, and whatever was typed around them."""
    for name in ("dog", "cat", "person", "potted plant"):
        phrase = form.format(name)
        for typed in (phrase, phrase.removeprefix("the "), f"Find {phrase}, please!", phrase.title()):
            assert check_query(typed, EMBEDDED).asked == phrase


def test_every_taught_name_is_asked_as_it_is(segmenter):
    config = segmenter.vlm.config
    assert all(check_query(name, config).asked == name for name in config.names)


@pytest.mark.parametrize("typed", ["Dog", "Where is the dog, please?", "“The DOG.”"])
def test_forms_on_a_photo(segmenter, examples, typed: str):
    """The embedded checkpoint, end to end: the same text and masks, under the label "cat"; the query as typed."""
    typed = typed.replace("dog", "cat").replace("Dog", "Cat").replace("DOG", "CAT")
    encoded = segmenter.encode(examples / "two_cats.jpg")
    bare, asked = (segmenter(encoded, phrase, refine="none") for phrase in ("cat", typed))
    assert bare.present and asked.text == bare.text and np.array_equal(asked.mask, bare.mask)
    assert asked.query == typed and asked.asked == "cat" and set(asked.masks) == {"cat"}
    assert asked.status == bare.status and "read_as" not in asked.stats
    again = segmenter.refine(asked, encoded, "smooth")
    assert again.query == typed and again.asked == "cat"


def test_other_checkpoints_are_asked_what_was_typed_cleaned():
    assert check_query("  Where is the “Dog”? ").asked == 'Where is the "Dog"'
    assert check_query("Dog.", CheckpointConfig()).asked == "Dog"
    assert check_query("dog|<b>").asked == "dog b"


@pytest.mark.parametrize("typed, asked", [
    ("guy", "person"),
    ("The guy on the left", "the person on the left"),
    ("guys", "people"),
    ("Tabby", "cat"),
    ("foal", "horse"),
    ("where is the seagull?", "bird"),
    ("dogs", "dogs"),  # taught, as training asks for plurals too
    ("hrose", "hrose"),
    ("unicorn", "unicorn"),
    ("green dog", "the green dog"),
    ("everything but the dog", "everything but the dog"),
    ("zebra crossing", "zebra crossing"),
    ("猫", "猫"),
    ("🐶", "🐶"),
    ("🏳️‍🌈", "🏳‍🌈"),
    ("dog™", "dog"),
    ("𝐃𝐎𝐆", "dog"),
    ("dog (black", "dog (black"),
    ("traffic sign (front)", "traffic sign (front)"),
    ("guy, dog, gentleman", "the person and dog"),
    ("the dog and the foal", "the dog and the horse"),
    ("guy, gentleman", "person"),
])  # fmt: skip
def test_a_word_that_was_not_taught_is_asked_by_the_name_that_stands_for_it(typed: str, asked: str):
    assert check_query(typed, EMBEDDED).asked == asked
    assert check_query(typed, replace(EMBEDDED, names=())).asked == clean_query(typed, EMBEDDED)


@pytest.mark.parametrize("typed, asked, untaught", [
    ("dog", "dog", ()),
    ("the Dog on the left", "the dog on the left", ()),
    ("green dog", "dog", ("green",)),
    ("Two sleeping dogs on the left", "the dogs on the left", ("two sleeping",)),
    ("Where is the dog without a collar?", "dog", ("without a collar",)),
    ("the tall guy", "person", ("tall",)),
    ("guy on left", "the person on the left", ()),
    ("the upper dog", "the top dog", ()),
    ("a fat tabby", "cat", ("fat",)),
    ("the red dog and the cat", "the dog and the cat", ("red",)),
    ("not the cat", "not the cat", ()),
    ("everything but the dog", "everything but the dog", ()),
    ("the pink unicorn", "the pink unicorn", ()),
    ("a unicorn and a dog", "dog", ("unicorn",)),
    ("left-most dog", "the leftmost dog", ()),
    ("a crowd of people", "people", ()),
    ("a couple of the dogs", "dogs", ()),
    ("a picture of a dog", "dog", ()),
])  # fmt: skip
def test_words_that_were_not_taught_are_left_out_where_the_checkpoint_says_so(typed: str, asked: str, untaught):
    strict = replace(EMBEDDED, drop_untaught_words=True)
    assert check_query(typed, strict).asked == asked
    assert untaught_words(clean_query(typed, strict), strict) == untaught
    assert untaught_words(clean_query(typed, EMBEDDED), EMBEDDED) == ()


def test_a_list_asks_as_it_is_for_what_would_be_the_same_name():
    strict = replace(EMBEDDED, drop_untaught_words=True)
    assert check_query(["green dog", "cat"], strict).asked == ("dog", "cat")
    assert check_query(["green dog", "red dog"], strict).asked == ("the green dog", "the red dog")


def test_class_lists_are_cleaned_name_by_name():
    query = check_query(["The Dog", "Tabby", "a guy"], EMBEDDED)
    assert query.typed == ("The Dog", "Tabby", "a guy") and query.asked == ("dog", "cat", "person")
    assert query.labels == ("others", "dog", "cat", "person")
    assert [part.typed for part in query.parts([2, 1])] == [("The Dog", "Tabby"), ("a guy",)]


def test_names_of_a_list_that_stand_for_the_same_are_asked_as_they_are():
    assert check_query(["guy", "person", "foal"], EMBEDDED).asked == ("guy", "person", "horse")


def test_a_list_of_the_embedded_checkpoint_is_labelled_as_it_was_asked(segmenter, examples):
    prediction = segmenter.classes(examples / "two_cats.jpg", ["The Cat", "Dog"], refine="none")
    assert prediction.query == ("The Cat", "Dog") and prediction.asked == ("cat", "dog")
    assert set(prediction.masks) <= {"cat", "dog"} and prediction.status == "found"


@pytest.mark.parametrize("form", FORMS)
def test_training_asks_what_answering_asks(form: str):
    photo = Image.new("RGB", (4, 4))
    for name in NAMES:
        typed = form.format(name, name.capitalize(), name.upper())
        sample = Sample("a", "zoo", photo, typed, ("others", typed), np.zeros((4, 4), np.int16))
        trained = as_asked(sample, EMBEDDED)
        assert trained.query == check_query(typed, EMBEDDED).asked and trained.labels == ("others", name)


def test_training_refuses_names_that_are_the_same_to_the_model():
    names = ("dog", "Dog")
    sample = Sample("a", "zoo", Image.new("RGB", (4, 4)), names, ("others", *names), np.zeros((4, 4), np.int16))
    assert as_asked(sample, CheckpointConfig()).query == names
    with pytest.raises(DataError, match="dog, Dog are the same to this model"):
        as_asked(sample, EMBEDDED)
