"""Photos that show several separate instances of a class, queried one at a time: "the dog on the left".

    places:PHOTOS                     the photos of a folder dataset (see `folder`) that hold such instances; also @val

Masks say which class a pixel has, not which instance, so instances are found here: large regions of a class's mask. A
photo is used only if its regions are surely separate instances: each is large enough, together they are nearly all of
the class, and no other object lies between them that may cut one instance in two (a horse under its rider). Regions
whose outlines touch are accepted for animals only, where the mask marks the outline between them. A wide region is
taken for a herd. Some herds and some halves still get through.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from t4s.data.augment.draws import Draw, LabelledPixels, draw_samples
from t4s.data.augment.labels import reduced
from t4s.data.folder import OUTLINE, FolderDataset, Photo
from t4s.data.scenes.cutouts import colour_word
from t4s.data.scenes.phrasing import Instance, Phrase, misplaced_phrases, placed_phrases
from t4s.data.scenes.regions import PEOPLE, areas, between, components, distance, is_herd
from t4s.data.scenes.staging import (
    Scene,
    SceneLabels,
    one_of_each,
    phrase_sample,
    placed_phrase,
    training_sample,
    with_synonyms,
)
from t4s.errors import DataError
from t4s.imaging.loading import open_mask
from t4s.records import IGNORED, Sample

ANIMALS = frozenset(("dog", "cat", "horse", "cow", "sheep", "bird", "elephant", "giraffe", "zebra", "bear"))
COUNTABLE = ANIMALS | PEOPLE | {
    "car", "bus", "truck", "boat", "airplane", "bicycle", "motorcycle", "chair", "bottle", "cup", "face", "tv",
    "laptop", "umbrella", "vase", "wine glass", "potted plant", "teddy bear",
}  # fmt: skip
GROUND = frozenset(("grass", "sky", "road", "water", "sidewalk", "building", "mountain", "tree", "fence"))
LEAST = 0.015  # share of the photo that each instance covers at least
CRUMB = 0.004  # share of the photo that a smaller region may cover
CRUMBS = 0.05  # share of the class that all smaller regions together may cover
SPECK = CRUMB / 8  # share of the photo below which a region is not even counted
NEAR = 8  # pixels: a smaller region this close to a large one belongs to it (a leg behind a wire)
MAX_REGIONS = 7  # more are one instance behind a fence
GAP = 4  # pixels of ground or background between two instances,
GAP_BEHIND = 12  # where another object is between them
VOID_SIDE = 11  # unlabelled areas of this many pixels a side may hide an instance,
VOID_SHARE = 0.003  # if this share of the photo's squares of that side is unlabelled
PLACED = 0.62  # of training questions: a place or size
MISPLACED = 0.08  # of training questions: a place or size of an absent name
SYNONYM_SHARE = 0.1  # of training questions use synonyms


class PlacesDataset:
    """The photos of one split that hold several separate instances of a class. They are found on opening."""

    def __init__(self, path: str | Path, split: str = "train"):
        self.folder = FolderDataset(path, split)
        self.name = f"places:{path}@{split}"
        self.names = self.folder.names
        self._found: list[tuple[int, tuple[str, ...]]] = []  # photo number, names with several instances
        for number, photo in enumerate(self.folder.photos):
            if names := self._names_with_several(photo):
                self._found.append((number, names))

    def __len__(self) -> int:
        return len(self._found)

    def _names_with_several(self, photo: Photo) -> tuple[str, ...]:
        """The names of which a photo has several separate instances that a phrase can tell apart."""
        names = sorted(set(photo.classes.values()) & COUNTABLE)
        if photo.weak or not names:
            return ()
        ids = open_mask(photo.mask)
        kept = []
        for name in names:
            coarse = np.isin(ids[::2, ::2], [value for value, label in photo.classes.items() if label == name])
            if coarse.mean() < 2 * LEAST or (areas(components(coarse)) >= 16).sum() < 2:
                continue
            masks = separate_instances(photo, ids, name)
            if masks is not None and placed_phrases([Instance.of(name, None, mask) for mask in masks]):
                kept.append(name)
        return tuple(kept)

    def scene(self, index: int) -> Scene:
        """The separate instances of photo `index`, with masks at the photo's size. IndexError past the end."""
        return self._scene(index)[0]

    def _scene(self, index: int) -> tuple[Scene, Photo, np.ndarray]:
        if not 0 <= index < len(self._found):
            raise IndexError(f"photo {index} of {len(self._found)}")
        number, names = self._found[index]
        photo = self.folder.photos[number]
        image, ids = self.folder.open(number)
        pixels = np.asarray(image)
        instances: list[Instance] = []
        masks: list[np.ndarray] = []
        for name in names:
            found = separate_instances(photo, ids, name)
            if found is None:
                raise DataError(f"{photo.mask} has changed since the dataset was opened; open it again.")
            instances += [Instance.of(name, colour_word(pixels[mask]), mask) for mask in found]
            masks += list(found)
        absent = tuple(self.folder.absent(photo, set()))
        scene = Scene(image, tuple(instances), np.stack(masks), absent, complete=False, source=photo.source)
        return scene, photo, ids

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Each name, one phrase of each kind of place and size for each name, two absent names."""
        scene, photo, ids = self._scene(index)
        rng = np.random.default_rng([*photo.id.encode()])
        phrases: list[Phrase] = []
        for name in dict.fromkeys(instance.name for instance in scene.instances):
            phrases.append((name, tuple(i for i, instance in enumerate(scene.instances) if instance.name == name)))
        phrases += one_of_each(scene, rng)
        phrases += [(name, ()) for name in rng.permutation(scene.absent)[:2].tolist()]
        samples = (phrase_sample(scene, photo.id, photo.source, *phrase) for phrase in phrases)
        return tuple(_with_ignored(sample, ids, photo.ignore) for sample in samples)

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions about photo `index`; see `ask`."""
        return draw_samples(self, index, rng, count)

    def decode(self, index: int, complete: bool = False) -> tuple[Image.Image, tuple[SceneLabels, np.ndarray]]:
        """Photo `index`, its instances and the ids (h, w) of its mask; see `PhotoDataset`."""
        scene, _, ids = self._scene(index)
        return scene.image, (SceneLabels.of(scene), reduced(ids))

    def ask(
        self, index: int, rng: np.random.Generator, count: int, labels: Callable[[int], tuple[SceneLabels, np.ndarray]]
    ) -> Draw:
        """`count` random questions: mostly places and sizes, of different instances where possible."""
        known, ids = labels(index)
        scene = known.scene
        photo = self.folder.photos[self._found[index][0]]
        void = self.folder.void(photo)
        samples: list[Sample] = []
        meant: set[tuple[int, ...]] = set()
        for _ in range(count):
            worded = with_synonyms(scene, rng) if rng.random() < SYNONYM_SHARE else scene
            kind = rng.random()
            phrase = None
            if kind < PLACED:
                phrase = placed_phrase(worded, meant, rng)
            elif kind < PLACED + MISPLACED and (phrases := misplaced_phrases(worded.instances, worded.absent)):
                phrase = phrases[int(rng.integers(len(phrases)))]
            if phrase:
                samples.append(phrase_sample(worded, photo.id, photo.source, *phrase))
            else:
                samples.append(training_sample(worded, photo.id, photo.source, rng))
        drawn = known.draw(index, [_with_ignored(sample, ids, void) for sample in samples])
        return replace(drawn, pixels=LabelledPixels(ids, photo.classes, void, photo.source))


def _with_ignored(sample: Sample, ids: np.ndarray, ignored: tuple[int, ...]) -> Sample:
    """The sample with the pixels of these mask ids ignored, except where they belong to the answer."""
    out = np.isin(ids, ignored) & (sample.class_map == 0)
    return replace(sample, class_map=np.where(out, np.int16(IGNORED), sample.class_map))


def separate_instances(photo: Photo, ids: np.ndarray, name: str) -> np.ndarray | None:
    """The instances (n, h, w) bool of a class, n ≥ 2, or None if the regions may not be one instance each."""
    mask = np.isin(ids, [value for value, label in photo.classes.items() if label == name])
    void = ids == OUTLINE if OUTLINE in photo.ignore else np.zeros(ids.shape, bool)
    if _void_squares(void) > VOID_SHARE:
        return None
    masks = large_regions(mask)
    if masks is None or any(is_herd(region, name) for region in masks):
        return None
    others = [
        v for v, label in photo.classes.items() if label not in GROUND and v not in photo.ignore and label != name
    ]
    foreign = np.isin(ids, others)
    for first, second in combinations(masks, 2):
        if name in PEOPLE and (_touched_edges(first) & _touched_edges(second)).any():
            return None  # two arms or legs of one person
        line = between(first, second)
        beside = tuple(slice(max(at.min() - NEAR, 0), at.max() + NEAR + 1) if len(at) else slice(0) for at in line)
        free = (~foreign & ~void)[line].sum()
        occluder = foreign[line].any() or (free < GAP and foreign[beside].any())
        needed = 0 if name in ANIMALS else GAP
        if free < (GAP_BEHIND if occluder else needed):
            return None
    return masks


def large_regions(mask: np.ndarray) -> np.ndarray | None:
    """(h, w) bool → (n, h, w) bool, n ≥ 2: its large regions, or None if there are fewer or too much is left over.

    Small regions near a large one are added to it; a few tiny ones elsewhere are left out.
    """
    labels = components(mask)
    sizes = areas(labels)
    large = np.flatnonzero(sizes >= LEAST * mask.size) + 1
    counted = int((sizes > SPECK * mask.size).sum())
    if len(large) < 2 or counted > MAX_REGIONS:
        return None
    masks = np.stack([labels == number for number in large])
    lost = 0
    for number in np.flatnonzero(sizes < LEAST * mask.size) + 1:
        size = sizes[number - 1]
        if size <= SPECK * mask.size:
            lost += size
            continue
        region = labels == number
        distances = [distance(region, large_region) for large_region in masks]
        nearest = int(np.argmin(distances))
        if distances[nearest] <= NEAR:
            masks[nearest] |= region
        elif size > CRUMB * mask.size:
            return None
        else:
            lost += size
    return masks if lost <= CRUMBS * sizes.sum() else None


def _touched_edges(mask: np.ndarray) -> np.ndarray:
    """(3,) bool: whether a mask (h, w) touches the photo's top, left and right edge."""
    return np.array([mask[0].any(), mask[:, 0].any(), mask[:, -1].any()])


def _void_squares(void: np.ndarray) -> float:
    """The share of all squares of VOID_SIDE pixels that are void everywhere: 0 for mere outlines."""
    if void.mean() < VOID_SHARE or min(void.shape) <= VOID_SIDE:
        return 0.0
    centres = ndimage.minimum_filter(void, VOID_SIDE, mode="constant", cval=0)
    squares = (void.shape[0] - VOID_SIDE + 1) * (void.shape[1] - VOID_SIDE + 1)
    return float(centres.sum() / squares)
