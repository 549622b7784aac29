"""From a scene to its samples: shared by all data sets of scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from t4s import lexicon
from t4s.data.augment.draws import Draw
from t4s.data.augment.labels import reduced
from t4s.data.augment.views import whole
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

SPLITS = {"train": 10_000, "val": 300, "test": 300}  # split: its number of composed scenes by default
HIDDEN = 1 / 3  # share of an instance that nearer ones may hide
LIST_SHARE = 0.12  # of training questions are class lists
SIZE_SHARE = 0.6  # of the phrases that tell one of several apart are about size, where possible: the hardest to learn


@dataclass(frozen=True, eq=False)
class Scene:
    """A picture whose instances are known.

    image      RGB; None where only questions are drawn
    instances  in the order of `masks`
    masks      (n, h, w) bool: mask k is what is visible of instance k; masks do not overlap
    absent     names that may be queried although the picture shows nothing of them
    complete   the picture shows nothing else, so that "everything" has a meaning
    rivals     names that are easily confused, of which one may be absent
    source     which data set the photo is from
    """

    image: Image.Image | None
    instances: tuple[Instance, ...]
    masks: np.ndarray
    absent: tuple[str, ...]
    complete: bool
    rivals: tuple[str, ...] = ()
    source: str = "composed"


@dataclass(frozen=True, eq=False)
class SceneLabels:
    """What questions about a scene need to know of it, reduced. numbers (h, w) uint8: instances from 1, 0 for none."""

    without_masks: Scene
    numbers: np.ndarray

    @classmethod
    def of(cls, scene: Scene) -> SceneLabels:
        numbers = np.zeros(scene.masks.shape[1:], np.uint8)
        for number, mask in enumerate(scene.masks, 1):
            numbers[mask] = number
        return cls(replace(scene, image=None, masks=np.empty((0, 0, 0), bool)), reduced(numbers))

    @property
    def scene(self) -> Scene:
        """The scene with its masks, without its picture."""
        numbers = np.arange(1, len(self.without_masks.instances) + 1, dtype=np.uint8)
        return replace(self.without_masks, masks=self.numbers == numbers[:, None, None])

    def draw(self, index: int, samples: Sequence[Sample]) -> Draw:
        """These samples of scene `index`, whose picture is shown as it is."""
        return Draw(whole(index, self.numbers.shape[::-1]), tuple(samples))


def scene_rng(key: Sequence[int], index: int, scenes: int, purpose: int) -> np.random.Generator:
    """The generator for scene `index` of `scenes`, a separate one for each purpose. IndexError past the end."""
    if not 0 <= index < scenes:
        raise IndexError(f"scene {index} of {scenes}")
    return np.random.default_rng([*key, index, purpose])


def occlude(visible: Sequence[np.ndarray], wholes: Sequence[np.ndarray], mask: np.ndarray) -> list[np.ndarray] | None:
    """What stays visible of the instances when `mask` (h, w) is put in front; None if too much of one is hidden."""
    remaining = [old & ~mask for old in visible]
    enough = all(left.sum() >= (1 - HIDDEN) * whole.sum() for left, whole in zip(remaining, wholes, strict=True))
    return remaining if enough else None


# --- samples


def evaluation_samples(scene: Scene, prefix: str, source: str, rng: np.random.Generator) -> tuple[Sample, ...]:
    """Every name, one phrase of each other kind that the scene allows, absent rivals, one class list.

    Sample ids begin with `prefix`.
    """
    phrases = evaluation_phrases(scene.instances, scene.absent, rng)
    phrases += [(name, ()) for name in scene.rivals if name in scene.absent and (name, ()) not in phrases]
    samples = [phrase_sample(scene, prefix, source, *phrase) for phrase in phrases]
    names = draw_class_list(scene.instances, scene.absent, rng)
    return (*samples, _list_sample(scene, prefix, source, names))


def training_sample(scene: Scene, prefix: str, source: str, rng: np.random.Generator) -> Sample:
    """One random question: any kind of phrase, or a class list."""
    if rng.random() < LIST_SHARE:
        return _list_sample(scene, prefix, source, draw_class_list(scene.instances, scene.absent, rng))
    return phrase_sample(scene, prefix, source, *draw_phrase(scene.instances, scene.absent, rng, scene.complete))


def name_sample(scene: Scene, prefix: str, source: str, name: str) -> Sample:
    """The question for all instances of a name, which may be absent."""
    meant = [i for i, instance in enumerate(scene.instances) if instance.name == name]
    return phrase_sample(scene, prefix, source, name, meant)


def phrase_sample(scene: Scene, prefix: str, source: str, phrase: str, meant: Sequence[int]) -> Sample:
    """The question `phrase`, its answer the instances `meant` (none: absent); its id is prefix/phrase."""
    class_map = scene.masks[list(meant)].any(0).astype(np.int16)
    return Sample(f"{prefix}/{phrase}", source, scene.image, phrase, ("others", phrase), class_map)


def _list_sample(scene: Scene, prefix: str, source: str, names: tuple[str, ...]) -> Sample:
    class_map = np.zeros(scene.masks.shape[1:], np.int16)
    for instance, mask in zip(scene.instances, scene.masks, strict=True):
        if instance.name in names:
            class_map[mask] = names.index(instance.name) + 1
    number = f"{prefix}/classes {', '.join(names)}"
    return Sample(number, source, scene.image, names, ("others", *names), class_map)


# --- phrases


def one_of_each(scene: Scene, rng: np.random.Generator) -> list[Phrase]:
    """One phrase of each kind of place and size for each name, as used in evaluation."""
    groups: dict[tuple[str, str], list[Phrase]] = {}
    for text, meant in placed_phrases(scene.instances):
        groups.setdefault((scene.instances[meant[0]].name, place_kind(text)), []).append((text, meant))
    order = sorted(groups, key=lambda key: (key[0], PLACE_KINDS.index(key[1])))
    return [groups[key][int(rng.integers(len(groups[key])))] for key in order]


def placed_phrase(scene: Scene, meant: set[tuple[int, ...]], rng: np.random.Generator) -> Phrase | None:
    """One phrase of place or size, for an instance that is not in `meant` if possible, and add that instance there.

    None if no phrase tells one of several apart. The instance is drawn first, then its phrase: there are twice as many
    phrases for the bigger of two as for the smaller.
    """
    phrases = placed_phrases(scene.instances)
    phrases = [phrase for phrase in phrases if phrase[1] not in meant] or phrases
    if not phrases:
        return None
    of_size = rng.random() < SIZE_SHARE
    phrases = [phrase for phrase in phrases if (place_kind(phrase[0]) == "size") == of_size] or phrases
    choices = list(dict.fromkeys(instances for _, instances in phrases))
    chosen = choices[int(rng.integers(len(choices)))]
    meant.add(chosen)
    texts = [text for text, instances in phrases if instances == chosen]
    return texts[int(rng.integers(len(texts)))], chosen


def with_synonyms(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene with a synonym for each name that has one: "puppy" in place of "dog"."""
    chosen: dict[str, str] = {}
    for instance in scene.instances:
        words = lexicon.SYNONYMS.get(instance.name)
        if words and instance.name not in chosen:
            word = str(rng.choice(words))
            if word not in scene.absent and word not in chosen.values():
                chosen[instance.name] = word
    instances = tuple(replace(instance, name=chosen.get(instance.name, instance.name)) for instance in scene.instances)
    return replace(scene, instances=instances, rivals=tuple(chosen.get(name, name) for name in scene.rivals))
