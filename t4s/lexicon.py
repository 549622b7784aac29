"""Words: plurals, synonyms and hypernyms of the names of things, and what a checkpoint knows of a phrase.

    plural("person")                               # "people"
    vary("dog", rng)                               # "the puppies": a training phrase; seeded, no model
    is_taught("the dog on the left", names)        # True: its head noun is one of the names a checkpoint was taught
    nearest("hrose", names)                        # ("horse",): by spelling, and by meaning where the word is known
    reading("the guy on the left", names)          # "the person on the left": a taught name for a word that is none
    understood("the green dog on the left", names)   # "the dog on the left", without ("green",)

The words are in `lexicon.json`, which says where they come from. An entry has, where they differ from none:
`plural` (if irregular), `synonyms` (training asks for them too), `variants` (further words of the same meaning),
`hypernyms` (nearest first) and `kin` (other names of what this name also means). Beside the words there is what else
training says in a phrase: `before` a name ("leftmost"), `after` it ("on the left"), and the words that turn what
follows into its opposite (`excluding`).
"""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import operator
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_FILE: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
_ENTRIES: dict[str, dict[str, Any]] = _FILE["words"]


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
_LATIN = re.compile(r"[a-z][a-z '’-]*")
# English words of class names (ADE20K's, COCO-Stuff's, the shapes) that `lexicon.json` has no entry for.
_FURTHER_ENGLISH = frozenset(
    "ashcan bannister bedclothes branch canopy cardboard case circle clouds crescent dirt fog grandstand gravel heart"
    " hexagon hovel land light metal minibike moss mud plastic plaything playingfield sconce signboard square stage"
    " stairway step stone straw triangle waterdrops windowpane wood".split()
)
_ARTICLE = re.compile(r"^(?:the|an?|all|every) ")
NAME_SHARE, SYNONYM_SHARE = 0.5, 0.22  # of training phrases: the bare name, another word for it

# --- what a checkpoint was taught
_TOKEN = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_PHRASES: dict[str, Any] = _FILE["phrases"]
_BEHIND, _EXCLUDING, _SIDES = (frozenset(_PHRASES[kind]) for kind in ("behind", "excluding", "sides"))
# {as it is typed: as training says it}, the longest first
_BEFORE: dict[str, str] = _PHRASES["before"]
_AFTER: dict[str, str] = dict(sorted(_PHRASES["after"].items(), key=lambda pair: -len(pair[0].split())))
_MODIFIERS = frozenset((*_PHRASES["modifiers"], *COLOURS))
_NUMBERED = frozenset("all every each any both everything one two three".split())
LONGEST_NAME = 4  # words of a name
SPELLED_ALIKE = 0.75  # difflib's ratio from which a word may be a misspelling of another
MOST_NEAREST = 3  # words that `nearest` gives at most
MAX_FAMILY = 60  # words below a common hypernym, for two words to be of one kind


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


def bare(phrase: str) -> str:
    """A phrase without the word before its name: "the dog" → "dog"."""
    return _ARTICLE.sub("", phrase)


def is_english(name: str) -> bool:
    """True if English grammar may be applied to a name: Latin letters, and its last word is one of the lexicon's.

    "猫" and "Hund" are asked as they are; "a 猫" and "all Hunds" are no phrases.
    """
    folded = name.casefold()
    words = (folded, folded.rpartition(" ")[2])
    return bool(_LATIN.fullmatch(folded)) and any(word in _homes() or word in _FURTHER_ENGLISH for word in words)


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
def _homes() -> dict[str, str]:
    """{word: its entry}, for entries, plurals, synonyms and variants; where two claim a word, the entry itself wins."""
    homes: dict[str, str] = {}
    for word, entry in _ENTRIES.items():
        for other in (*entry.get("synonyms", ()), *entry.get("variants", ())):
            for form in (other, plural(other)):
                homes.setdefault(form, word)
    for word in _ENTRIES:
        homes.setdefault(plural(word), word)
    return homes | {word: word for word in _ENTRIES}


def ancestors(word: str) -> tuple[str, ...]:
    """Its hypernyms, nearest first: "foal" → horse, animal. Empty for a word that the lexicon does not have."""
    return _above(_homes().get(word, word))


@functools.cache
def _above(entry: str) -> tuple[str, ...]:
    direct = _ENTRIES.get(entry, {}).get("hypernyms", ())
    further = [name for up in direct for name in _above(up)]
    return tuple(dict.fromkeys([*direct, *further]))


@functools.cache
def _family_sizes() -> Counter[str]:
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


# --- what a checkpoint was taught


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
    for before, word in itertools.pairwise(("", *_tokens(phrase))):
        describes = word.endswith(("ing", "ed")) and word not in _homes()
        if head and (word in _BEHIND or word in _EXCLUDING or describes):
            break
        leads_on = word in ("and", "or") or (word == "of" and before not in _SIDES)  # "black or white", "one of the"
        if word in _EXCLUDING or (word in _BEHIND and word not in _MODIFIERS and not leads_on):
            return []
        if word not in _MODIFIERS and not leads_on:
            head.append(word)
    return head


def _tokens(phrase: str) -> list[str]:
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
        if length > 1 and ending in _homes():  # "zebra crossing" is no zebra
            return None
    return None


def is_taught(phrase: str, names: Sequence[str]) -> bool:
    """True if a checkpoint that was taught these names knows what the phrase is about. Without names: always."""
    return not names or taught_name(phrase, names) is not None


class Understood(NamedTuple):
    """What a checkpoint was taught of a phrase, and the words that it was not, in their order."""

    phrase: str
    ignored: tuple[str, ...] = ()


def understood(phrase: str, names: Sequence[str]) -> Understood:
    """What is left of a phrase about a thing that a checkpoint knows, by name or by `reading`, where only what training
    says beside names is kept, as it says it: articles, places, sizes, and a second name after "and".

    "the green dog on the left" → "the dog on the left" without "green"; "a guy without a hat" → "a guy" without
    "without a hat". Any other phrase, and every phrase without names, is kept whole.
    """
    words, taught = _tokens(phrase), taught_words(tuple(names))

    def knows(part: str) -> bool:
        return taught_name(part, names) is not None or reading(part, names) is not None

    if not names or not knows(phrase) or bare(" ".join(words)) in taught:
        return Understood(phrase)
    parts = phrase.split(" and ")
    if len(parts) > 1 and all(map(knows, parts)):
        found = [understood(part, names) for part in parts]
        return Understood(
            " and ".join(part.phrase for part in found), tuple(word for part in found for word in part.ignored)
        )
    start, end = _noun_place(words, taught)
    first = [word in _BEFORE and not (at and word == "the") for at, word in enumerate(words[:start])]
    pieces = [(known, _BEFORE.get(word, word)) for known, word in zip(first, words, strict=False)]
    pieces.append((True, " ".join(words[start:end])))
    rest = words[end:]
    while rest and rest[0] not in _EXCLUDING:
        place = next((place for place in _AFTER if rest[: len(place.split())] == place.split()), None)
        pieces.append((place is not None, _AFTER[place] if place else rest[0]))
        rest = rest[len(place.split()) if place else 1 :]
    pieces += [(False, word) for word in rest]
    runs = [
        (known, " ".join(text for _, text in run)) for known, run in itertools.groupby(pieces, operator.itemgetter(0))
    ]
    return Understood(" ".join(text for known, text in runs if known), tuple(text for known, text in runs if not known))


def _noun_place(words: list[str], taught: Mapping[str, str]) -> tuple[int, int]:
    """Where the noun of a phrase begins and ends, of its words; all of them if it has none."""
    head = head_words(" ".join(words))
    for length in range(min(LONGEST_NAME, len(head)), 0, -1):
        for start in range(len(words) - length + 1):
            noun = " ".join(head[-length:])
            if words[start : start + length] == head[-length:] and (noun in taught or noun in _homes()):
                return start, start + length
    return 0, len(words)


def with_article(phrase: str, names: Sequence[str] = ()) -> str:
    """A phrase that says more than a name, with an article, as training asks it: "dog on the left" → "the dog on the
    left". A name stays bare ("potted plant", "top hat"), and so does what has a number ("all dogs", "two dogs")."""
    words, taught = phrase.split(), taught_words(tuple(names))
    is_name = " ".join(head_words(phrase)) == phrase or phrase in _homes() or phrase in taught
    takes_article = len(words) > 1 and words[0] not in _NUMBERED | _EXCLUDING and _LATIN.fullmatch(phrase)
    return f"the {phrase}" if takes_article and not is_name else phrase


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
    word = next((ending for ending in endings if ending in _homes()), "")
    name = _stand_in(word, set(taught_words(tuple(names)).values()))
    if name is None:
        return None
    home = _homes()[word]
    singular = word in (home, *_ENTRIES[home].get("synonyms", ()), *_ENTRIES[home].get("variants", ()))
    place = re.compile(rf"(?<!\w){re.escape(' '.join(head))}(?!\w)", re.IGNORECASE)
    put, count = place.subn(name if singular else plural(name), phrase.replace("’", "'"), count=1)
    return Reading(put, name == home) if count else None


def _stand_in(word: str, names: Set[str]) -> str | None:
    """The one of the names that means the same as the word, or else its nearest hypernym, if that is no mere kind of
    names (`KINDS`). None if there is none, or if names of several meanings are as near."""
    home = _homes().get(word)
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
    known = next((part for part in (phrase, phrase.rpartition(" ")[2]) if part in _homes()), None)
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
    home = _homes()[word]
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
        if beside and _family_sizes()[kind] <= MAX_FAMILY:
            return beside
    return [name for name in above if name in names]
