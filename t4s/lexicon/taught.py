"""What a checkpoint knows of a phrase, by the names that it was taught."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import NamedTuple

from t4s.lexicon.words import (
    COLOURS,
    HYPERNYMS,
    KINDS,
    MIN_KIND,
    PHRASES,
    SYNONYMS,
    ancestors,
    family_sizes,
    homes,
    is_singular,
    plural,
    words_for,
)

_ARTICLE = re.compile(r"^(?:the|an?|all|every) ")
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
BEHIND, EXCLUDING, _SIDES = (frozenset(PHRASES[kind]) for kind in ("behind", "excluding", "sides"))
_MODIFIERS = frozenset((*PHRASES["modifiers"], *COLOURS))
LONGEST_NAME = 4  # words of a name
SPELLED_ALIKE = 0.75  # difflib's ratio from which a word may be a misspelling of another
MOST_NEAREST = 3  # words that `nearest` gives at most
MAX_FAMILY = 60  # words below a common hypernym, for two words to be of one kind


def bare(phrase: str) -> str:
    """A phrase without the word before its name: "the dog" → "dog"."""
    return _ARTICLE.sub("", phrase)


@functools.lru_cache(maxsize=8)
def taught_words(names: tuple[str, ...]) -> dict[str, str]:
    """{word: the name that it stands for}, for what a checkpoint was taught by training on these names: names, plurals,
    synonyms, and the hypernyms of several of them. Names come before plurals, and plurals of names before synonyms:
    "tables" stands for "table", though "table" is a synonym of "dining table"."""
    words: dict[str, str] = {}
    for name in names:
        words.setdefault(plural(name.lower()), name)
    for name in names:
        for word in (*words_for(name), *map(plural, SYNONYMS.get(name, ()))):
            words.setdefault(word, name)
    for kind, members in HYPERNYMS.items():
        if len(set(members) & set(names)) >= MIN_KIND:
            words |= {kind: kind, plural(kind): kind}
    return words | {name.lower(): name for name in names}


def head_words(phrase: str, names: Sequence[str] = ()) -> list[str]:
    """The words of a phrase's head noun and of what says which kind it is, in lower case.

    "The two black swans on the water" → ["swans"]; "a horse rider wearing a hat" → ["horse", "rider"]. None where the
    noun is not what is meant: "all but the dog", "no dogs", "behind the dog", "the top of the dog".

    names: those that a checkpoint was taught. What they are called stays whole ("front bumper" is no bumper), and a
    name that is an adjective too is the noun where no other follows ("the big orange").
    """
    known = all_words(tuple(names))
    head: list[str] = []
    adjective = ""
    for before, word in itertools.pairwise(("", *_units(tokens(phrase), known))):
        describes = word.endswith(("ing", "ed")) and word not in homes() and word not in _MODIFIERS
        joins = word in ("and", "or", "of")
        ends = word in BEHIND or word in EXCLUDING
        if (head and (ends or describes)) or (adjective and ends and not joins):
            break
        leads_on = joins and not (word == "of" and before in _SIDES)  # "black or white", "one of the"
        if word in EXCLUDING or (word in BEHIND and word not in _MODIFIERS and not leads_on):
            return []
        adjective = word if word in _MODIFIERS and word in known else ""
        if word not in _MODIFIERS and not leads_on:
            head += word.split()
    return head or adjective.split()


@functools.lru_cache(maxsize=8)
def all_words(names: tuple[str, ...]) -> frozenset[str]:
    """All that things of these names are called: what was taught, and the lexicon's other words of the same meaning."""
    taught = taught_words(names)
    meant = set(taught.values())
    return frozenset(taught).union(word for word, home in homes().items() if home in meant)


def _units(words: list[str], known: Set[str]) -> Iterator[str]:
    """The words; those that are a known one together as one text, or one of the lexicon's that ends with an adjective
    ("street light")."""
    at = 0
    while at < len(words):
        for length in range(min(LONGEST_NAME, len(words) - at), 0, -1):
            text = " ".join(words[at : at + length])
            if length == 1 or text in known or (text in homes() and words[at + length - 1] in _MODIFIERS):
                break
        yield text
        at += length


def tokens(phrase: str) -> list[str]:
    return _TOKEN.findall(phrase.lower().replace("’", "'"))


def taught_name(phrase: str, names: Sequence[str]) -> str | None:
    """The name that the phrase's head noun stands for, of those a checkpoint was taught; None if it was taught none."""
    words = taught_words(tuple(names))
    whole = bare(" ".join(phrase.lower().split()))
    if whole in words:
        return words[whole]
    head, spoken = head_words(phrase, names), f" {' '.join(tokens(phrase))} "
    for length in range(min(LONGEST_NAME, len(head)), 0, -1):
        ending = " ".join(head[-length:])
        if length > 1 and f" {ending} " not in spoken:  # "a hot black dog" is no hot dog
            continue
        if ending in words:
            return words[ending]
        if length > 1 and ending in homes():  # "zebra crossing" is no zebra
            return None
    return None


def is_taught(phrase: str, names: Sequence[str]) -> bool:
    """True if a checkpoint that was taught these names knows what the phrase is about. Without names: always."""
    return not names or taught_name(phrase, names) is not None


class Reading(NamedTuple):
    """How a phrase is put into words that a checkpoint was taught.

    phrase  the phrase with the name in place of its word
    same    True if word and name mean the same ("guy" → person), False if it is a kind of that ("foal" → horse)
    """

    phrase: str
    same: bool


def reading(phrase: str, names: Sequence[str]) -> Reading | None:
    """The phrase with a taught name in place of its head noun, a word that was not taught; None if none stands for it.

    What says more about the noun goes with it: "a rusty van on the left" → "a car on the left".
    """
    if is_taught(phrase, names):
        return None
    head = head_words(phrase, names)
    endings = [" ".join(head[-length:]) for length in range(min(LONGEST_NAME, len(head)), 0, -1)]
    word = next((ending for ending in endings if ending in homes()), "")
    name = _stand_in(word, set(taught_words(tuple(names)).values()))
    if name is None:
        return None
    home = homes()[word]
    place = re.compile(rf"(?<!\w){re.escape(' '.join(head))}(?!\w)", re.IGNORECASE)
    put, count = place.subn(name if is_singular(word) else plural(name), phrase.replace("’", "'"), count=1)
    return Reading(put, name == home) if count else None


def _stand_in(word: str, names: Set[str]) -> str | None:
    """The one of the names that means the same as the word, or else its nearest hypernym, if that is no mere kind of
    names (`KINDS`). None if there is none, or if names of several meanings are as near."""
    home = homes().get(word)
    if home in names:
        return home
    above = [name for name in ancestors(word) if name in names and name not in KINDS]
    return above[0] if above and set(above[1:]) <= set(ancestors(above[0])) else None


def nearest(word: str, taught: Iterable[str]) -> tuple[str, ...]:
    """Up to three taught names that may have been meant by a word or phrase, the likeliest first.

    By meaning where the lexicon has the word ("seagull" → bird), else by spelling ("hrose" → horse).
    """
    names = tuple(taught)
    words = taught_words(names)
    phrase = (" ".join(head_words(word, names)) or word.lower().strip()).removesuffix("'s")
    known = next((part for part in (phrase, phrase.rpartition(" ")[2]) if part in homes()), None)
    found = _by_meaning(known, tuple(dict.fromkeys(words.values()))) if known else _by_spelling(phrase, words)
    return tuple(dict.fromkeys(found))[:MOST_NEAREST]


def _by_spelling(word: str, words: dict[str, str]) -> list[str]:
    """The names of words spelled alike; of equally alike ones, those of the same letters first, then names."""
    alike = difflib.get_close_matches(word, list(words), 2 * MOST_NEAREST, SPELLED_ALIKE)
    letters = sorted(word)
    swapped = [other for other in words if sorted(other) == letters and other[:1] == word[:1]]  # "dgo" → "dog"

    def unlike(match: str) -> tuple[float, bool, bool]:
        ratio = difflib.SequenceMatcher(None, match, word).ratio()
        return -round(ratio, 3), sorted(match) != sorted(word), words[match] != match

    return [words[match] for match in sorted(dict.fromkeys([*swapped, *alike]), key=unlike)]


def _by_meaning(word: str, names: Sequence[str]) -> list[str]:
    """The name of the same meaning; else the nearest hypernym; else names below the word; else names of one kind."""
    home = homes()[word]
    if home in names:
        return [home]
    above = ancestors(word)
    for name in above:
        if name in names and name not in KINDS:
            return [name]
    if below := [name for name in names if home in ancestors(name)]:
        return below
    for kind in above:
        beside = [name for name in names if kind in ancestors(name)]
        if beside and family_sizes()[kind] <= MAX_FAMILY:
            return beside
    return [name for name in above if name in names]
