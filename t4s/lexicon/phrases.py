"""What is left of a phrase when only what training says beside names is kept."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Sequence, Set
from typing import NamedTuple

from t4s.lexicon.taught import (
    BEHIND,
    EXCLUDING,
    LONGEST_NAME,
    all_words,
    bare,
    head_words,
    reading,
    taught_name,
    taught_words,
    tokens,
)
from t4s.lexicon.words import COLOURS, LATIN, PHRASES, homes

# {as it is typed: as training says it}, the longest first
_BEFORE: dict[str, str] = PHRASES["before"]
_AFTER: dict[str, str] = dict(sorted(PHRASES["after"].items(), key=lambda pair: -len(pair[0].split())))
_AND = re.compile(r"\s*[,;&/+]\s*(?:(?:and|or)\s+)?|\s+(?:and|or)\s+|\.\s+")
_QUANTITY = re.compile(
    r"(?:(?:the|an?|one|two|three|some|several|large|big|small|huge|whole) )*"
    rf"(?:{'|'.join(PHRASES['quantities'])})(?:e?s)? of "
    r"(?:(?:the|an?|my|your|our|his|her|their|these|those) )?(?=.)"
)
_REQUEST = re.compile(rf"(?:{'|'.join(PHRASES['requests'])}) (?=.)")
_SHADES = frozenset((*COLOURS, "gray", "golden", "silver", "light", "dark", "bright", "pure"))
_NUMBERED = frozenset("all every each any both everything one two three".split())


def respelled(phrase: str, names: Sequence[str]) -> str:
    """A phrase without a quantity or a verb before its name, each word as the names that a checkpoint was taught spell
    it: "a flock of birds" → "birds", "show cat" → "cat", "motor bike" → "motorbike", "wine-glass" → "wine glass".

    Changed is only what makes a word of these names, or one of the same meaning; without names nothing is.
    """
    if phrase in homes():
        return phrase
    pieces = re.split(f"({_AND.pattern})", phrase)  # every second one is a comma or an "and"
    return "".join(piece if at % 2 else _respelled(piece, names) for at, piece in enumerate(pieces))


def _respelled(phrase: str, names: Sequence[str]) -> str:
    """The same of a phrase that lists nothing."""
    known = all_words(tuple(names))
    words = [_spelled(word, known) for word in phrase.split()]
    for at in range(len(words) - 1):
        pair = words[at : at + 2]
        # "the bra in the corner" is no brain, and "every body" not everybody.
        apart = " ".join(pair) in homes() or not BEHIND.isdisjoint(pair) or pair[0] in _NUMBERED
        if not apart and "".join(pair) in known:
            words[at : at + 2] = ["", "".join(pair)]
    spelled = " ".join(filter(None, words))
    if spelled in known:
        return spelled
    asked = _REQUEST.sub("", spelled, count=1) if _REQUEST.match(spelled) else spelled
    several = _QUANTITY.sub("", asked, count=1) if _QUANTITY.match(asked) else asked
    return several if _knows(several, names) else spelled


def _spelled(word: str, known: Set[str]) -> str:
    """A word with hyphens as one of the `known` is written, with spaces or in one; else as it is."""
    spellings = (word, word.replace("-", " "), word.replace("-", ""))
    return next((spelling for spelling in spellings if spelling in known), word)


class Understood(NamedTuple):
    """What a checkpoint was taught of a phrase, and the words that it was not, in their order."""

    phrase: str
    ignored: tuple[str, ...] = ()


def understood(phrase: str, names: Sequence[str]) -> Understood:
    """What is left of a phrase about a thing that a checkpoint knows, by name or by `reading`, where only what training
    says beside names is kept, as it says it: articles, places, sizes, and the other names of a list (`listed`).

    "the green dog on the left" → "the dog on the left" without "green"; "a guy without a hat" → "a guy" without
    "without a hat". Any other phrase, and every phrase without names, is kept whole.
    """
    words, taught = tokens(phrase), taught_words(tuple(names))
    if bare(" ".join(words)) in taught:
        return Understood(" ".join(words))
    parts = listed(phrase, names)
    if len(parts) > 1:
        found = [understood(part, names) if _knows(part, names) else Understood("", (bare(part),)) for part in parts]
        return Understood(
            " and ".join(part.phrase for part in found if part.phrase),
            tuple(word for part in found for word in part.ignored),
        )
    if not _knows(phrase, names):
        return Understood(phrase)
    start, end = _noun_place(words, names)
    first = [word in _BEFORE and not (at and word == "the") for at, word in enumerate(words[:start])]
    pieces = [(known, _BEFORE.get(word, word)) for known, word in zip(first, words, strict=False)]
    pieces.append((True, " ".join(words[start:end])))
    rest = words[end:]
    while rest and rest[0] not in EXCLUDING:
        place = next((place for place in _AFTER if _begins(rest, place.split())), None)
        pieces.append((place is not None, _AFTER[place] if place else rest[0]))
        rest = rest[len(place.split()) if place else 1 :]
    pieces += [(False, word) for word in rest]
    runs = [
        (known, " ".join(text for _, text in run)) for known, run in itertools.groupby(pieces, operator.itemgetter(0))
    ]
    return Understood(" ".join(text for known, text in runs if known), tuple(text for known, text in runs if not known))


def _knows(phrase: str, names: Sequence[str]) -> bool:
    return bool(names) and (taught_name(phrase, names) is not None or reading(phrase, names) is not None)


def listed(phrase: str, names: Sequence[str]) -> list[str]:
    """The phrases that a phrase lists, with "and", "or", or a mark such as a comma: each is about a thing of its own,
    and one at least about a thing that a checkpoint knows. The phrase alone, if it lists none: "the black and white
    cat", "a man in a suit and tie"."""
    parts = _AND.split(phrase)
    if not any(_knows(part, names) for part in parts) or not all(head_words(part, names) for part in parts):
        return [phrase]
    if any(_are_shades(part, following) for part, following in itertools.pairwise(parts)):
        return [phrase]
    return [phrase] if len(parts) == 2 and _goes_on(*parts, names) else parts


def _are_shades(part: str, following: str) -> bool:
    """True if they are two colours of one thing: "the light orange", "white cat"."""
    return _SHADES.issuperset(tokens(bare(part))) and following.partition(" ")[0] in _SHADES


def _goes_on(part: str, following: str, names: Sequence[str]) -> bool:
    """True if a bare name belongs to what another thing is told by: "a man in a suit", "tie"."""
    is_bare = following == bare(following) and BEHIND.isdisjoint(tokens(following))
    told_by = understood(part, names).ignored[-1:] if is_bare and _knows(part, names) else ()
    return bool(told_by) and told_by[0].partition(" ")[0] in BEHIND


def _begins(words: list[str], place: list[str]) -> bool:
    """True if the words begin with a place that is the thing's own: "on the left", and not "on the left horse"."""
    following = words[len(place) :]
    return words[: len(place)] == place and not (following and following[0] in homes())


def _noun_place(words: list[str], names: Sequence[str]) -> tuple[int, int]:
    """Where the noun of a phrase begins and ends, of its words; all of them if it has none."""
    head, taught = head_words(" ".join(words), names), taught_words(tuple(names))
    for length in range(min(LONGEST_NAME, len(head)), 0, -1):
        for start in range(len(words) - length + 1):
            noun = " ".join(head[-length:])
            if words[start : start + length] == head[-length:] and (noun in taught or noun in homes()):
                return start, start + length
    return 0, len(words)


def with_article(phrase: str, names: Sequence[str] = ()) -> str:
    """A phrase that says more than a name, with an article, as training asks it: "dog on the left" → "the dog on the
    left". A name stays bare ("potted plant", "top hat"), and so does what has a number ("all dogs", "two dogs")."""
    words, taught = phrase.split(), taught_words(tuple(names))
    is_name = " ".join(head_words(phrase, names)) == phrase or phrase in homes() or phrase in taught
    takes_article = len(words) > 1 and words[0] not in _NUMBERED | EXCLUDING and LATIN.fullmatch(phrase)
    return f"the {phrase}" if takes_article and not is_name else phrase
