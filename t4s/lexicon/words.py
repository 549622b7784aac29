"""Names of things: plurals, other words for them, and what is a kind of what."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_FILE: dict[str, Any] = json.loads(Path(__file__).with_name("lexicon.json").read_text("utf-8"))
_ENTRIES: dict[str, dict[str, Any]] = _FILE["words"]
PHRASES: dict[str, Any] = _FILE["phrases"]  # what training says beside names, and what turns a phrase around


def _table(field: str) -> dict[str, Any]:
    return {word: entry[field] for word, entry in _ENTRIES.items() if field in entry}


PLURALS: dict[str, str] = _table("plural")
SYNONYMS: dict[str, tuple[str, ...]] = {word: tuple(words) for word, words in _table("synonyms").items()}
# A name and what goes by it too: neither is put beside the other, nor said to be absent where the other is.
KIN: dict[str, tuple[str, ...]] = {word: tuple(words) for word, words in _table("kin").items()}
KINDS = ("animal", "vehicle", "furniture", "clothes")  # the hypernyms that training asks for
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "grey", "white")
# The words that phrases are made of, besides names: the embedded tokenizer spells each as one token.
WORDS = (
    "the", "a", "an", "all", "every", "and", "or", "of", "on", "in", "at", "to", "is", "that", "with", "one", "two",
    "left", "right", "top", "bottom", "middle", "centre", "upper", "lower", "first", "second", "side", "front", "back",
    "big", "bigger", "biggest", "large", "larger", "largest", "small", "smaller", "smallest", "photo", "image",
    "picture", "please", "segment", "find", "show", "me", "where", "others", "everything", "thing", "things", "animal",
    "animals", "vehicle", "vehicles", "clothes", "furniture", "man", "men", "woman", "women", "boy", "girl", "child",
    "people", "circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond", "shape", "shapes", *COLOURS,
)  # fmt: skip
LATIN = re.compile(r"[a-z][a-z '’-]*")
# English words of class names (ADE20K's, COCO-Stuff's, the shapes) that `lexicon.json` has no entry for.
_FURTHER_ENGLISH = frozenset(
    "ashcan bannister bedclothes branch canopy cardboard case circle clouds crescent dirt fog grandstand gravel heart"
    " hexagon hovel land light metal minibike moss mud plastic plaything playingfield sconce signboard square stage"
    " stairway step stone straw triangle waterdrops windowpane wood".split()
)
NAME_SHARE, SYNONYM_SHARE = 0.5, 0.22  # of training phrases: the bare name, another word for it


def clean_name(text: str) -> str:
    """A class name as people write it: one line, no underscores, trimmed."""
    return " ".join(str(text).replace("_", " ").split())


def plural(name: str) -> str:
    """The English plural of a class name: "dog" → "dogs", "person" → "people", "bus" → "buses"."""
    head, _, last = name.rpartition(" ")
    if last in PLURALS:
        last = PLURALS[last]
    elif last.endswith(("ch", "sh", "x", "ss")) or last in ("bus",):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif not last.endswith("s"):
        last += "s"
    return f"{head} {last}".strip()


def words_for(name: str) -> tuple[str, ...]:
    """The name in lower case, as it is asked, its plural and its synonyms."""
    name = name.lower()
    return name, plural(name), *SYNONYMS.get(name, ())


def is_english(name: str) -> bool:
    """True if English grammar may be applied to a name: Latin letters, and its last word is one of the lexicon's.

    "猫" and "Hund" are asked as they are; "a 猫" and "all Hunds" are no phrases.
    """
    folded = name.casefold()
    words = (folded, folded.rpartition(" ")[2])
    return bool(LATIN.fullmatch(folded)) and any(word in homes() or word in _FURTHER_ENGLISH for word in words)


def vary(name: str, rng: np.random.Generator) -> str:
    """A phrase that means every `name` in the photo: mostly the name, else a synonym, an article or the plural.

    A name that is not English is always asked as it is.
    """
    kind = rng.random()
    if kind < NAME_SHARE or not is_english(name):
        return name
    if kind < NAME_SHARE + SYNONYM_SHARE and name in SYNONYMS:
        name = str(rng.choice(SYNONYMS[name]))
        if rng.random() < 0.5:
            return name
    form = rng.integers(5)
    article = "an" if name[0] in "aeiou" else "a"
    return (f"the {name}", f"{article} {name}", plural(name), f"the {plural(name)}", f"all {plural(name)}")[form]


def without_kin(names: Sequence[str]) -> list[str]:
    """The names, "" in place of each that goes by the name of one before it, or the other way round."""
    kept: list[str] = []
    for name in names:
        kept.append("" if any(akin(name, other) for other in kept) else name)
    return kept


def akin(name: str, other: str) -> bool:
    """True if one of them goes by the name of the other too."""
    return name in KIN.get(other, ()) or other in KIN.get(name, ())


# --- meaning


@functools.cache
def homes() -> dict[str, str]:
    """{word: its entry}, for entries, plurals, synonyms and variants. Where two claim a word, the entry itself wins,
    unless it says nothing or is a kind of the other one: "child" means "person", which has it as a variant."""
    homes: dict[str, str] = {}
    for word, entry in _ENTRIES.items():
        for other in (*entry.get("synonyms", ()), *entry.get("variants", ())):
            for form in (other, plural(other)):
                homes.setdefault(form, word)
    for word, entry in _ENTRIES.items():
        if "hypernyms" in entry and homes.get(word) not in entry["hypernyms"]:
            homes[word] = word
        homes.setdefault(word, word)
    for word in _ENTRIES:
        homes.setdefault(plural(word), homes[word])
    return homes


def is_singular(word: str) -> bool:
    """True if a word of the lexicon is an entry or another word for one as it stands, and not only in the plural."""
    home = homes()[word]
    if word.endswith("s") and homes().get(word[:-1]) == home:  # "persons"
        return False
    return word in (home, *_ENTRIES[home].get("synonyms", ()), *_ENTRIES[home].get("variants", ()))


def ancestors(word: str) -> tuple[str, ...]:
    """Its hypernyms, nearest first: "foal" → horse, animal. Empty for a word that the lexicon does not have."""
    return _above(homes().get(word, word))


@functools.cache
def _above(entry: str) -> tuple[str, ...]:
    direct = _ENTRIES.get(entry, {}).get("hypernyms", ())
    further = [name for up in direct for name in _above(up)]
    return tuple(dict.fromkeys([*direct, *further]))


@functools.cache
def family_sizes() -> Counter[str]:
    """How many words are below each hypernym."""
    return Counter(name for word in _ENTRIES for name in _above(word))


@functools.cache
def _kinds() -> dict[str, tuple[str, ...]]:
    members: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for word in _ENTRIES:
        for kind in members.keys() & set(_above(word)):
            members[kind].append(word)
    return {kind: tuple(words) for kind, words in members.items()}


HYPERNYMS: dict[str, tuple[str, ...]] = _kinds()  # a hypernym means everything that has one of these names
MIN_KIND = 3  # names that a source must label before its photos are asked for a hypernym
