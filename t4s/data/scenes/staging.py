"""From a composed scene to its samples: what every dataset of composed scenes shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from t4s import lexicon
from t4s.data.scenes.phrasing import (
    PLACE_KINDS,
    Instance,
    Phrase,
    draw_class_list,
    draw_phrase,
    evaluation_phrases,
    place_kind,
    placed_phrases,
)
from t4s.records import Sample

SPLITS = {"train": 10_000, "val": 300, "test": 300}  # and how many scenes each has unless told
HIDDEN = 1 / 3  # of an instance that nearer ones may hide
LIST_SHARE = 0.12  # of training questions are class lists
SIZE_SHARE = 0.6  # of the phrases that tell one of several, where they may be of size: it is the hardest to learn


@dataclass(frozen=True, eq=False)
class Scene:
    """`image` RGB; `instances` and `masks` (n, h, w) bool agree: mask k is what is visible of instance k; none overlap.

    `absent`: the names that may be asked for although nothing of them is there. `complete`: the picture shows nothing
    besides, so that "everything" has a meaning. `rivals`: names that are easily taken for each other, of which one may
    not be there. `source`: whose photo it is.
    """

    image: Image.Image
    instances: tuple[Instance, ...]
    masks: np.ndarray
    absent: tuple[str, ...]
    complete: bool
    rivals: tuple[str, ...] = ()
    source: str = "composed"


def stage_rng(key: Sequence[int], index: int, scenes: int, purpose: int) -> np.random.Generator:
    """What scene `index` of `scenes` is drawn from, a generator of its own for every purpose. IndexError."""
    if not 0 <= index < scenes:
        raise IndexError(f"scene {index} of {scenes}")
    return np.random.default_rng([*key, index, purpose])


def behind(seen: Sequence[np.ndarray], wholes: Sequence[np.ndarray], mask: np.ndarray) -> list[np.ndarray] | None:
    """What stays visible of the earlier instances when one with `mask` comes before them; None if it hides too much."""
    rest = [old & ~mask for old in seen]
    enough = all(left.sum() >= (1 - HIDDEN) * whole.sum() for left, whole in zip(rest, wholes, strict=True))
    return rest if enough else None


def evaluation_samples(scene: Scene, place: str, source: str, rng: np.random.Generator) -> tuple[Sample, ...]:
    """Every name, one phrase of each other kind that the scene allows, rivals that are not there, one class list; ids
    begin with `place`."""
    phrases = evaluation_phrases(scene.instances, scene.absent, rng)
    phrases += [(name, ()) for name in scene.rivals if name in scene.absent and (name, ()) not in phrases]
    asked = [phrase_sample(scene, place, source, *phrase) for phrase in phrases]
    return (*asked, _list_sample(scene, place, source, draw_class_list(scene.instances, scene.absent, rng)))


def training_sample(scene: Scene, place: str, source: str, rng: np.random.Generator) -> Sample:
    """One random question: any kind of phrase, or a class list."""
    if rng.random() < LIST_SHARE:
        return _list_sample(scene, place, source, draw_class_list(scene.instances, scene.absent, rng))
    return phrase_sample(scene, place, source, *draw_phrase(scene.instances, scene.absent, rng, scene.complete))


def name_sample(scene: Scene, place: str, source: str, name: str) -> Sample:
    """The question for all instances of a name, which may not be there."""
    return phrase_sample(
        scene, place, source, name, [i for i, instance in enumerate(scene.instances) if instance.name == name]
    )


def phrase_sample(scene: Scene, place: str, source: str, phrase: str, meant: Sequence[int]) -> Sample:
    """The question `phrase`, its answer the instances `meant` (none: not there); its id is place/phrase."""
    classes = scene.masks[list(meant)].any(0).astype(np.int16)
    return Sample(f"{place}/{phrase}", source, scene.image, phrase, ("others", phrase), classes)


def one_of_each(scene: Scene, rng: np.random.Generator) -> list[Phrase]:
    """One phrase of each kind of place and size and each name: what is measured of a picture."""
    groups: dict[tuple[str, str], list[Phrase]] = {}
    for text, meant in placed_phrases(scene.instances):
        groups.setdefault((scene.instances[meant[0]].name, place_kind(text)), []).append((text, meant))
    order = sorted(groups, key=lambda key: (key[0], PLACE_KINDS.index(key[1])))
    return [groups[key][int(rng.integers(len(groups[key])))] for key in order]


def placed_phrase(scene: Scene, meant: set[tuple[int, ...]], rng: np.random.Generator) -> Phrase | None:
    """One phrase of place or size, of an instance that is not in `meant` if there is one, which is put there. None if no
    phrase tells one of several. Things are drawn alike: phrases for the bigger of two are twice those for the smaller.
    """
    phrases = placed_phrases(scene.instances)
    phrases = [phrase for phrase in phrases if phrase[1] not in meant] or phrases
    if not phrases:
        return None
    of_size = rng.random() < SIZE_SHARE
    phrases = [phrase for phrase in phrases if (place_kind(phrase[0]) == "size") == of_size] or phrases
    groups = list(dict.fromkeys(instances for _, instances in phrases))
    chosen = groups[int(rng.integers(len(groups)))]
    meant.add(chosen)
    texts = [text for text, instances in phrases if instances == chosen]
    return texts[int(rng.integers(len(texts)))], chosen


def in_other_words(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene with another word for each name that has one: a dog is asked for as "puppy"."""
    spoken = {}
    for instance in scene.instances:
        words = lexicon.SYNONYMS.get(instance.name)
        if words and instance.name not in spoken:
            word = str(rng.choice(words))
            if word not in scene.absent and word not in spoken.values():
                spoken[instance.name] = word
    instances = tuple(replace(instance, name=spoken.get(instance.name, instance.name)) for instance in scene.instances)
    return replace(scene, instances=instances, rivals=tuple(spoken.get(name, name) for name in scene.rivals))


def _list_sample(scene: Scene, place: str, source: str, names: tuple[str, ...]) -> Sample:
    classes = np.zeros(scene.masks.shape[1:], np.int16)
    for instance, mask in zip(scene.instances, scene.masks, strict=True):
        if instance.name in names:
            classes[mask] = names.index(instance.name) + 1
    return Sample(f"{place}/classes {', '.join(names)}", source, scene.image, names, ("others", *names), classes)
