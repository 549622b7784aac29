"""Phrases for instances whose masks are known: by class, colour, size and position, for several, and for absent ones.

Knows nothing about pixels or files, only each instance's name, colour word, area and centre. A phrase is (text, indexes
of the instances it means); no index means that it is absent. Phrases are unambiguous: a place or size singles out one
instance by a clear margin (`APART`, `BIGGER`), and "the star" is used only if there is a single star. Names that are
not English (`lexicon.is_english`) are used as they are, without articles, colours and places.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from t4s.lexicon import is_english, plural

APART = 0.16  # how far a place must be from the next candidate, as a share of the picture's width or height
BIGGER = 1.6  # how many times the area of the next one the biggest must have
LEFT = 0.45  # "on the left" ends here; right, top and bottom likewise
MIDDLE = 0.17  # the farthest that "in the middle" may be from the middle
ABSENT = 0.22  # share of the drawn phrases that are absent

PLACE_KINDS = ("left", "right", "top", "bottom", "middle", "corner", "size")
_PLACE_WORD = re.compile(r"\b(?:left(?:most)?|right(?:most)?|top|bottom|middle|(?:bigg|larg|small)(?:er|est))\b")

Phrase = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Instance:
    """One instance in a picture. All numbers are in [0, 1], relative to the picture.

    colour  None where no single word fits
    x, y    the centre of its visible pixels
    area    its visible area
    whole   its area including what other instances hide
    """

    name: str
    colour: str | None
    x: float
    y: float
    area: float
    whole: float

    @classmethod
    def of(cls, name: str, colour: str | None, visible: np.ndarray, whole: np.ndarray | None = None) -> Instance:
        """From the visible mask (h, w) bool, which must not be empty, and the unoccluded mask."""
        ys, xs = np.nonzero(visible)
        height, width = visible.shape
        area = len(xs) / visible.size
        x = float(xs.mean() + 0.5) / width
        y = float(ys.mean() + 0.5) / height
        return cls(name, colour, x, y, area, area if whole is None else float(whole.mean()))


def draw_phrase(
    instances: Sequence[Instance], vocabulary: Sequence[str], rng: np.random.Generator, complete: bool = True
) -> Phrase:
    """One random phrase.

    vocabulary  names that may be used for absent phrases
    complete    the picture shows nothing else, so that "everything" has a meaning
    """
    if rng.random() < ABSENT:
        first = (_absent_colour, _absent_name, _absent_place)[int(rng.choice(3, p=(0.5, 0.35, 0.15)))]
        kinds: list[Kind] = [first, _absent_name, _absent_colour]
    else:
        kinds = [PRESENT[i] for i in rng.choice(len(PRESENT), len(PRESENT), replace=False, p=PRESENT_WEIGHTS)]
        kinds = [kind for kind in kinds if complete or kind is not _everything]
    for kind in [*kinds, _names]:
        phrases = kind(instances, vocabulary)
        if phrases:
            return phrases[int(rng.integers(len(phrases)))]
    raise ValueError("a picture without instances has no phrase; give it at least one")


def evaluation_phrases(
    instances: Sequence[Instance], vocabulary: Sequence[str], rng: np.random.Generator
) -> list[Phrase]:
    """Every name in the picture, then one phrase of each kind that it allows, two of them absent."""
    phrases: list[Phrase] = [
        (name, _named(instances, name)) for name in dict.fromkeys(instance.name for instance in instances)
    ]
    for kind in (_colours, _places, _sizes, _pairs, _absent_colour, _absent_name):
        choices = [phrase for phrase in kind(instances, vocabulary) if phrase not in phrases]
        if choices:
            phrases.append(choices[int(rng.integers(len(choices)))])
    return phrases


def placed_phrases(instances: Sequence[Instance]) -> list[Phrase]:
    """Every phrase that singles out one of several instances by place or size."""
    return [*_places(instances, ()), *_sizes(instances, ())]


def misplaced_phrases(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """Phrases of place and size for absent names: "the cat on the left" among dogs."""
    return _absent_place(instances, vocabulary)


def place_kind(text: str) -> str:
    """The kind, one of PLACE_KINDS, of a phrase of place or size: "the leftmost dog" → "left"."""
    if "corner" in text:
        return "corner"
    found = _PLACE_WORD.search(text)
    if found is None:
        raise ValueError(f"{text!r} names no place and no size")
    word = found[0].removesuffix("most")
    return word if word in PLACE_KINDS else "size"


def draw_class_list(
    instances: Sequence[Instance], vocabulary: Sequence[str], rng: np.random.Generator
) -> tuple[str, ...]:
    """One to all of the names in the picture and at most one more of the absent ones, shuffled."""
    present = list(dict.fromkeys(instance.name for instance in instances))
    absent = [name for name in vocabulary if name not in present]
    names = rng.permutation(present)[: int(rng.integers(1, len(present) + 1))].tolist()
    names += rng.permutation(absent)[: int(rng.integers(0, len(names) + 2))].tolist()
    return tuple(rng.permutation(names).tolist())


# --- kinds of phrases: (instances, vocabulary) → every true phrase of that kind

Kind = Callable[[Sequence[Instance], Sequence[str]], list[Phrase]]


def _named(instances: Sequence[Instance], name: str) -> tuple[int, ...]:
    return tuple(i for i, instance in enumerate(instances) if instance.name == name)


def _groups(instances: Sequence[Instance]) -> list[tuple[str, tuple[int, ...]]]:
    """What an English noun phrase can select: "star", and "red star" where every star's colour has a word."""
    groups: dict[str, tuple[int, ...]] = {}
    for instance in instances:
        if not is_english(instance.name):
            continue
        groups[instance.name] = same = _named(instances, instance.name)
        if all(instances[i].colour for i in same):  # otherwise another one may be red too
            groups[f"{instance.colour} {instance.name}"] = tuple(
                i for i in same if instances[i].colour == instance.colour
            )
    return list(groups.items())


def _noun(name: str, meant: tuple[int, ...]) -> list[Phrase]:
    """All phrases for `name` with these instances: "the" and the article or plural as the number requires.

    A name that is not English has no phrase but itself.
    """
    if not is_english(name):
        return [(name, meant)]
    if len(meant) > 1:
        many = plural(name)
        return [(name, meant), (many, meant), (f"the {many}", meant), (f"all {many}", meant), (f"every {name}", meant)]
    phrases: list[Phrase] = [(name, meant), (f"the {name}", meant)]
    if not (name.endswith("s") and plural(name) == name):  # never "a scissors"
        phrases.append((f"{_a(name)} {name}", meant))
    return phrases


def _a(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _names(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    return [
        phrase
        for name in dict.fromkeys(instance.name for instance in instances)
        for phrase in _noun(name, _named(instances, name))
    ]


def _colours(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    return [
        phrase
        for name, meant in _groups(instances)
        if name not in {instance.name for instance in instances}
        for phrase in _noun(name, meant)
    ]


def _everything(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """All instances, and all instances of a colour if every instance has a colour word."""
    phrases: list[Phrase] = [("everything", tuple(range(len(instances))))]
    if all(instance.colour for instance in instances):
        for colour in dict.fromkeys(instance.colour for instance in instances):
            meant = tuple(i for i, instance in enumerate(instances) if instance.colour == colour)
            phrases.append((f"everything {colour}", meant))
    return phrases


def _places(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """One of several by its place: left, right, top, bottom, a corner, the middle."""
    phrases: list[Phrase] = []
    for name, group in _groups(instances):
        if len(group) < 2:
            continue
        xs = [instances[i].x for i in group]
        ys = [instances[i].y for i in group]
        sides = {
            "left": _first(xs),
            "right": _first([1 - x for x in xs]),
            "top": _first(ys),
            "bottom": _first([1 - y for y in ys]),
        }
        for side, at in sides.items():
            if at is not None:
                if side in ("left", "right"):
                    texts = (f"the {name} on the {side}", f"the {side}most {name}")
                else:
                    texts = (f"the {name} at the {side}", f"the {side} {name}")
                phrases += [(text, (group[at],)) for text in texts]
        for up in ("top", "bottom"):
            for side in ("left", "right"):
                if sides[up] is not None and sides[up] == sides[side]:
                    phrases.append((f"the {name} in the {up} {side} corner", (group[sides[up]],)))
        off = [max(abs(x - 0.5), abs(y - 0.5)) for x, y in zip(xs, ys, strict=True)]
        nearest = int(np.argmin(off))
        if off[nearest] < MIDDLE and all(o > MIDDLE + APART for i, o in enumerate(off) if i != nearest):
            phrases.append((f"the {name} in the middle", (group[nearest],)))
    return phrases


def _first(values: list[float]) -> int | None:
    """The index of the smallest value, if it is below LEFT and every other is larger by APART."""
    first, second = np.argsort(values)[:2]
    clear = values[first] < LEFT and values[second] - values[first] > APART
    return int(first) if clear else None


def _sizes(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """The biggest or smallest of several, both by visible and by whole area."""

    def clear(big: int, small: int) -> bool:
        return (
            instances[big].area > BIGGER * instances[small].area
            and instances[big].whole > BIGGER * instances[small].whole
        )

    phrases: list[Phrase] = []
    for name, group in _groups(instances):
        if len(group) < 2:
            continue
        smallest, *_, biggest = sorted(group, key=lambda i: instances[i].area)
        most = "er" if len(group) == 2 else "est"
        if all(clear(biggest, i) for i in group if i != biggest):
            phrases += [(f"the bigg{most} {name}", (biggest,)), (f"the larg{most} {name}", (biggest,))]
        if all(clear(i, smallest) for i in group if i != smallest):
            phrases.append((f"the small{most} {name}", (smallest,)))
    return phrases


def _pairs(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """Two names at once: "the circle and the stars"."""
    names = list(dict.fromkeys(instance.name for instance in instances))

    def the(name: str, meant: tuple[int, ...]) -> str:
        return f"the {name if len(meant) == 1 else plural(name)}"

    groups = _groups(instances)
    return [
        (f"{the(name, meant)} and {the(other, meant_too)}", tuple(sorted(meant + meant_too)))
        for name, meant in groups
        for other, meant_too in groups
        if not set(meant) & set(meant_too) and (name in names) == (other in names)
    ]


def _absent_name(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    present = {instance.name for instance in instances}
    return [
        (text, ())
        for name in vocabulary
        if name not in present
        for text in ((name, f"the {name}", f"{_a(name)} {name}", plural(name)) if is_english(name) else (name,))
    ]


def _absent_colour(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """Hard ones: a name and a colour that are both in the picture, but not together."""
    if not all(instance.colour for instance in instances):
        return []
    present = {(instance.colour, instance.name) for instance in instances}
    return [
        (text, ())
        for colour in dict.fromkeys(instance.colour for instance in instances)
        for name in dict.fromkeys(instance.name for instance in instances if is_english(instance.name))
        if (colour, name) not in present
        for text in (f"{colour} {name}", f"the {colour} {name}")
    ]


def _absent_place(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    present = {instance.name for instance in instances}
    return [
        (text, ())
        for name in vocabulary
        if name not in present and is_english(name)
        for text in (
            f"the {name} on the left",
            f"the {name} on the right",
            f"the {name} in the middle",
            f"the bigger {name}",
            f"the smaller {name}",
        )
    ]


PRESENT: tuple[Kind, ...] = (_names, _colours, _places, _sizes, _pairs, _everything)
PRESENT_WEIGHTS = (0.25, 0.18, 0.30, 0.17, 0.08, 0.02)
