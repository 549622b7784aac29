"""Words: names of things, and what a checkpoint knows of a phrase.

    plural("person")                               # "people"
    vary("dog", rng)                               # "the puppies": a training phrase; seeded, no model
    is_taught("the dog on the left", names)        # True: its head noun is one of the names a checkpoint was taught
    nearest("hrose", names)                        # ("horse",): by spelling, and by meaning where the word is known
    reading("the guy on the left", names)          # "the person on the left": a taught name for a word that is none
    respelled("a pair of wine-glasses", names)     # "wine glasses": as the names are spelled
    listed("the cat and a dog", names)             # ["the cat", "a dog"]
    understood("the green dog on the left", names)   # "the dog on the left", without ("green",)

words         names: plurals, other words for them, and what is a kind of what
taught        what a checkpoint knows of a phrase, by the names that it was taught
phrases       what is left of a phrase when only what training says beside names is kept, as the names are spelled
lexicon.json  the data of all three; it says where its words come from

An entry of `words` in `lexicon.json` has, where they differ from none: `plural` (if irregular), `synonyms` (training
asks for them too), `variants` (further words of the same meaning), `hypernyms` (nearest first) and `kin` (other names
of what this name also means). Its `phrases` are what else phrases are made of: what training says `before` a name
("leftmost") and `after` it ("on the left"), words that can only follow a noun (`behind`) or precede it (`modifiers`;
before "of", `sides` are nouns themselves), that turn what follows into its opposite (`excluding`), that say how many
there are ("a pair of": `quantities`), and verbs that ask for a mask (`requests`).
"""

from t4s.lexicon.phrases import Understood, listed, respelled, understood, with_article
from t4s.lexicon.taught import (
    MOST_NEAREST,
    Reading,
    bare,
    head_words,
    is_taught,
    nearest,
    reading,
    taught_name,
    taught_words,
)
from t4s.lexicon.words import (
    COLOURS,
    HYPERNYMS,
    MIN_KIND,
    SYNONYMS,
    WORDS,
    akin,
    ancestors,
    clean_name,
    homes,
    is_english,
    plural,
    vary,
    without_kin,
    words_for,
)

__all__ = [
    "COLOURS",
    "HYPERNYMS",
    "MIN_KIND",
    "MOST_NEAREST",
    "SYNONYMS",
    "WORDS",
    "Reading",
    "Understood",
    "akin",
    "ancestors",
    "bare",
    "clean_name",
    "head_words",
    "homes",
    "is_english",
    "is_taught",
    "listed",
    "nearest",
    "plural",
    "reading",
    "respelled",
    "taught_name",
    "taught_words",
    "understood",
    "vary",
    "with_article",
    "without_kin",
    "words_for",
]
