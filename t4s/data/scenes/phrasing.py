"""Phrases for instances whose masks are known: of class, colour, size and position, for several, for what is not there.

Knows nothing about pixels' colours or files: only each thing's names, colour word, area and centre. A phrase is
(text, indexes of the instances it means); no index means that it is not there. Unambiguous by construction: a place or
size singles out one instance by a clear margin (`APART`, `BIGGER`), and "the star" is said only of a single star.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from t4s.lexicon import plural

APART = 0.16  # of the picture's width or height: how far a place must be from the next candidate
BIGGER = 1.6  # times the area: how much bigger the biggest must be
LEFT, RIGHT = 0.45, 0.55  # "on the left" ends here, "on the right" begins there; so for top and bottom
MIDDLE = 0.17  # farthest that "in the middle" may be from the middle
ABSENT = 0.22  # of the phrases drawn mean nothing in the picture

PLACE_KINDS = ("left", "right", "top", "bottom", "middle", "corner", "size")
_PLACE_WORD = re.compile(r"\b(?:left(?:most)?|right(?:most)?|top|bottom|middle|(?:bigg|larg|small)(?:er|est))\b")

Phrase = tuple[str, tuple[int, ...]]


@dataclass(frozen=True)
class Instance:
    """One instance in a picture; `colour` is None where no word fits. In [0, 1], as shares of the picture: `x` and `y`,
    the centre of its visible pixels, `area`, which is visible, and `whole`, the area with what lies behind others."""

    name: str
    colour: str | None
    x: float
    y: float
    area: float
    whole: float

    @classmethod
    def of(cls, name: str, colour: str | None, visible: np.ndarray, whole: np.ndarray | None = None) -> Instance:
        """From the visible mask (h, w) bool, which must not be empty, and the mask without what hides it."""
        (ys, xs), (height, width) = np.nonzero(visible), visible.shape
        area = len(xs) / visible.size
        x, y = float(xs.mean() + 0.5) / width, float(ys.mean() + 0.5) / height
        return cls(name, colour, x, y, area, area if whole is None else float(whole.mean()))


def draw_phrase(
    instances: Sequence[Instance], vocabulary: Sequence[str], rng: np.random.Generator, complete: bool = True
) -> Phrase:
    """One random phrase. `vocabulary`: names that may be said of what is not there; `complete`: the picture shows
    nothing else, so that "everything" has a meaning."""
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
    """Every name that is there, then one phrase of each kind that the picture allows, two of them absent."""
    phrases: list[Phrase] = [
        (name, _named(instances, name)) for name in dict.fromkeys(instance.name for instance in instances)
    ]
    for kind in (_colours, _places, _sizes, _pairs, _absent_colour, _absent_name):
        choices = [phrase for phrase in kind(instances, vocabulary) if phrase not in phrases]
        if choices:
            phrases.append(choices[int(rng.integers(len(choices)))])
    return phrases


def placed_phrases(instances: Sequence[Instance]) -> list[Phrase]:
    """Every phrase that singles out one of several instances by its place or its size."""
    return [*_places(instances, ()), *_sizes(instances, ())]


def misplaced_phrases(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """The like for what is not there at all: "the cat on the left" among dogs."""
    return _absent_place(instances, vocabulary)


def place_kind(text: str) -> str:
    """Which of `PLACE_KINDS` a placed phrase is of: "the leftmost dog" → "left"."""
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
    """One to all of the names that are there and up to as many that are not, shuffled."""
    there = list(dict.fromkeys(instance.name for instance in instances))
    others = [name for name in vocabulary if name not in there]
    some = rng.permutation(there)[: int(rng.integers(1, len(there) + 1))].tolist()
    some += rng.permutation(others)[: int(rng.integers(0, len(some) + 2))].tolist()
    return tuple(rng.permutation(some).tolist())


# --- kinds of phrases: (instances, vocabulary) → every phrase of that kind that is true of the picture

Kind = Callable[[Sequence[Instance], Sequence[str]], list[Phrase]]


def _named(instances: Sequence[Instance], name: str) -> tuple[int, ...]:
    return tuple(i for i, instance in enumerate(instances) if instance.name == name)


def _groups(instances: Sequence[Instance]) -> list[tuple[str, tuple[int, ...]]]:
    """What a noun phrase can select: "star", and "red star" where every star's colour has a word."""
    groups: dict[str, tuple[int, ...]] = {}
    for instance in instances:
        groups[instance.name] = same = _named(instances, instance.name)
        if all(instances[i].colour for i in same):  # else one more may be red
            groups[f"{instance.colour} {instance.name}"] = tuple(
                i for i in same if instances[i].colour == instance.colour
            )
    return list(groups.items())


def _noun(name: str, meant: tuple[int, ...]) -> list[Phrase]:
    """All ways to say `name`, all of them: the class's name always, "the" where the number is right."""
    if len(meant) > 1:
        many = plural(name)
        return [(name, meant), (many, meant), (f"the {many}", meant), (f"all {many}", meant), (f"every {name}", meant)]
    phrases: list[Phrase] = [(name, meant), (f"the {name}", meant)]
    if not (name.endswith("s") and plural(name) == name):  # "a scissors"
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
    """All instances, and all instances of a colour, said only where every thing's colour has a word."""
    phrases: list[Phrase] = [("everything", tuple(range(len(instances))))]
    if all(instance.colour for instance in instances):
        for colour in dict.fromkeys(instance.colour for instance in instances):
            phrases.append((f"everything {colour}", tuple(i for i, t in enumerate(instances) if t.colour == colour)))
    return phrases


def _places(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """One of several by where it is: left, right, top, bottom, a corner, the middle."""
    phrases: list[Phrase] = []
    for name, group in _groups(instances):
        if len(group) < 2:
            continue
        xs, ys = ([getattr(instances[i], axis) for i in group] for axis in "xy")
        sides = {
            "left": _first(xs),
            "right": _first([1 - x for x in xs]),
            "top": _first(ys),
            "bottom": _first([1 - y for y in ys]),
        }
        for side, at in sides.items():
            if at is not None:
                on = "on the" if side in ("left", "right") else "at the"
                most = f"the {side}most {name}" if on == "on the" else f"the {side} {name}"
                phrases += [(f"the {name} {on} {side}", (group[at],)), (most, (group[at],))]
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
    """Where the smallest value is, if it lies on that side and every other is farther by `APART`."""
    order = np.argsort(values)
    best, second = values[order[0]], values[order[1]]
    return int(order[0]) if best < LEFT and second - best > APART else None


def _sizes(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """The biggest or smallest of several, of what is visible and of the whole instances alike."""

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

    groups = [(the(name, meant), name, meant) for name, meant in _groups(instances)]
    return [
        (f"{said} and {said_too}", tuple(sorted(meant + meant_too)))
        for said, name, meant in groups
        for said_too, name_too, meant_too in groups
        if not set(meant) & set(meant_too) and (name in names) == (name_too in names)
    ]


def _absent_name(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    there = {instance.name for instance in instances}
    return [
        (text, ())
        for name in vocabulary
        if name not in there
        for text in (name, f"the {name}", f"{_a(name)} {name}", plural(name))
    ]


def _absent_colour(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    """The hard ones: a name that is there in a colour that is there, but not together."""
    if not all(instance.colour for instance in instances):
        return []
    there = {(instance.colour, instance.name) for instance in instances}
    return [
        (text, ())
        for colour in dict.fromkeys(instance.colour for instance in instances)
        for name in dict.fromkeys(instance.name for instance in instances)
        if (colour, name) not in there
        for text in (f"{colour} {name}", f"the {colour} {name}")
    ]


def _absent_place(instances: Sequence[Instance], vocabulary: Sequence[str]) -> list[Phrase]:
    there = {instance.name for instance in instances}
    return [
        (text, ())
        for name in vocabulary
        if name not in there
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
