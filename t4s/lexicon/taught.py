"""What a checkpoint knows of a phrase, by the names that it was taught."""

from __future__ import annotations

import difflib
import functools
import itertools
import re
from collections.abc import Iterable, Sequence, Set
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
_BEHIND, EXCLUDING, _SIDES = (frozenset(PHRASES[kind]) for kind in ("behind", "excluding", "sides"))
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
    synonyms, and the hypernyms of several of them."""
    words: dict[str, str] = {}
    for name in names:
        for word in (*words_for(name), *map(plural, SYNONYMS.get(name, ()))):
            words.setdefault(word, name)
    for kind, members in HYPERNYMS.items():
        if len(set(members) & set(names)) >= MIN_KIND:
            words |= {kind: kind, plural(kind): kind}
    return words | {name.lower(): name for name in names}


def head_words(phrase: str) -> list[str]:
    """The words of a phrase's head noun and of what says which kind it is, in lower case.

    "The two black swans on the water" → ["swans"]; "a horse rider wearing a hat" → ["horse", "rider"]. None where the
    noun is not what is meant: "all but the dog", "no dogs", "behind the dog", "the top of the dog".
    """
    head: list[str] = []
    for before, word in itertools.pairwise(("", *tokens(phrase))):
        describes = word.endswith(("ing", "ed")) and word not in homes()
        if head and (word in _BEHIND or word in EXCLUDING or describes):
            break
        leads_on = word in ("and", "or") or (word == "of" and before not in _SIDES)  # "black or white", "one of the"
        if word in EXCLUDING or (word in _BEHIND and word not in _MODIFIERS and not leads_on):
            return []
        if word not in _MODIFIERS and not leads_on:
            head.append(word)
    return head


def tokens(phrase: str) -> list[str]:
    return _TOKEN.findall(phrase.lower().replace("’", "'"))


def taught_name(phrase: str, names: Sequence[str]) -> str | None:
    """The name that the phrase's head noun stands for, of those a checkpoint was taught; None if it was taught none."""
    words = taught_words(tuple(names))
    whole = bare(" ".join(phrase.lower().split()))
    if whole in words:
        return words[whole]
    head = head_words(phrase)
    for length in range(min(LONGEST_NAME, len(head)), 0, -1):
        ending = " ".join(head[-length:])
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
    head = head_words(phrase)
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
    words = taught_words(tuple(taught))
    phrase = " ".join(head_words(word)) or word.lower().strip()
    known = next((part for part in (phrase, phrase.rpartition(" ")[2]) if part in homes()), None)
    found = _by_meaning(known, tuple(dict.fromkeys(words.values()))) if known else _by_spelling(phrase, words)
    return tuple(dict.fromkeys(found))[:MOST_NEAREST]


def _by_spelling(word: str, words: dict[str, str]) -> list[str]:
    """The names of words spelled alike; of equally alike ones, those of the same letters first, then names."""
    alike = difflib.get_close_matches(word, list(words), 2 * MOST_NEAREST, SPELLED_ALIKE)

    def unlike(match: str) -> tuple[float, bool, bool]:
        ratio = difflib.SequenceMatcher(None, match, word).ratio()
        return -round(ratio, 3), sorted(match) != sorted(word), words[match] != match

    return [words[match] for match in sorted(alike, key=unlike)]


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
