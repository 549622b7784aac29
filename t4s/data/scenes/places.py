"""Photos with several separate instances of a class, asked for one by one: "the dog on the left", "the bigger sheep".

    places:PHOTOS                     the photos of a folder dataset (see `folder`) that hold such instances; also @val

Masks say which class a pixel has and not which animal it belongs to, so what counts as one instance is found here: a
piece of a class's mask of some size. A photo is used only if its pieces are surely instances: each is large enough,
together they are nearly all of the class, and no other instance lies between them that may cut one in two (a horse under
its rider). Pieces whose outlines touch are taken of animals alone, where the mask marks the outline between them.
What a wide mask shows is taken for a herd in one piece. Some herds and some halves still get through.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from t4s.data.folder import OUTLINE, FolderDataset, Photo
from t4s.data.scenes.cutouts import colour_word
from t4s.data.scenes.phrasing import Instance, Phrase, misplaced_phrases, placed_phrases
from t4s.data.scenes.regions import PEOPLE, between, components, distance, is_herd
from t4s.data.scenes.staging import Scene, in_other_words, one_of_each, phrase_sample, placed_phrase, training_sample
from t4s.errors import DataError
from t4s.imaging.loading import open_mask
from t4s.records import IGNORED, Sample

ANIMALS = frozenset(("dog", "cat", "horse", "cow", "sheep", "bird", "elephant", "giraffe", "zebra", "bear"))
COUNTABLE = ANIMALS | PEOPLE | {
    "car", "bus", "truck", "boat", "airplane", "bicycle", "motorcycle", "chair", "bottle", "cup", "face", "tv",
    "laptop", "umbrella", "vase", "wine glass", "potted plant", "teddy bear",
}  # fmt: skip
GROUND = frozenset(("grass", "sky", "road", "water", "sidewalk", "building", "mountain", "tree", "fence"))
LEAST = 0.015  # of the photo that each instance covers
CRUMB, CRUMBS = 0.004, 0.05  # of the photo that a smaller piece may cover; of the class that all of them may
NEAR = 8  # pixels: a smaller piece so near a larger one belongs to it (a leg behind a wire)
MAX_PIECES = 7  # more are one instance behind a fence
GAP, GAP_BEHIND = 4, 12  # pixels of ground or background between two instances; with some other instance between them
VOID_SIDE, VOID_SHARE = 11, 0.003  # unlabelled areas of that side in pixels may hide an instance; of the photo
PLACED, MISPLACED = 0.62, 0.08  # of training questions: a place or size, one of what is not there
SYNONYM_SHARE = 0.1  # of training questions use other words for the names


class PlacesDataset:
    """The photos of one split that hold several separate instances of a class; they are found when it is opened."""

    def __init__(self, path: str | Path, split: str = "train"):
        self.folder, self.name = FolderDataset(path, split), f"places:{path}@{split}"
        self.names = self.folder.names
        self._found = [(i, names) for i, photo in enumerate(self.folder.photos) if (names := self._apart(photo))]

    def __len__(self) -> int:
        return len(self._found)

    def _apart(self, photo: Photo) -> tuple[str, ...]:
        """The names of which a photo has several separate instances that a phrase can tell apart."""
        names = sorted(set(photo.classes.values()) & COUNTABLE)
        if photo.weak or not names:
            return ()
        ids = open_mask(photo.mask)
        kept = []
        for name in names:
            coarse = np.isin(ids[::2, ::2], [value for value, label in photo.classes.items() if label == name])
            if coarse.mean() < 2 * LEAST or (np.bincount(components(coarse).ravel())[1:] >= 16).sum() < 2:
                continue
            masks = things_of(photo, ids, name)
            if masks is not None and placed_phrases([Instance.of(name, None, mask) for mask in masks]):
                kept.append(name)
        return tuple(kept)

    def scene(self, index: int) -> Scene:
        """The separate instances of photo `index`, their masks at the photo's size. IndexError past the end."""
        return self._scene(index)[0]

    def _scene(self, index: int) -> tuple[Scene, Photo, np.ndarray]:
        if not 0 <= index < len(self._found):
            raise IndexError(f"photo {index} of {len(self._found)}")
        number, names = self._found[index]
        photo = self.folder.photos[number]
        image, ids = self.folder.open(number)
        pixels = np.asarray(image)
        instances, masks = [], []
        for name in names:
            apart = things_of(photo, ids, name)
            if apart is None:
                raise DataError(f"{photo.mask} has changed since it was looked at; open the dataset again.")
            instances += [Instance.of(name, colour_word(pixels[mask]), mask) for mask in apart]
            masks += list(apart)
        absent = tuple(self.folder.absent(photo, set()))
        scene = Scene(image, tuple(instances), np.stack(masks), absent, complete=False, source=photo.source)
        return scene, photo, ids

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Each name, one phrase of each kind of place and size for each name, two names that are not there."""
        scene, photo, ids = self._scene(index)
        rng = np.random.default_rng([*photo.id.encode()])
        phrases: list[Phrase] = [
            (name, tuple(i for i, instance in enumerate(scene.instances) if instance.name == name))
            for name in dict.fromkeys(instance.name for instance in scene.instances)
        ]
        phrases += one_of_each(scene, rng)
        for name in rng.permutation(scene.absent)[:2].tolist():
            phrases.append((name, ()))
        return tuple(
            _scored(phrase_sample(scene, photo.id, photo.source, *phrase), ids, photo.ignore) for phrase in phrases
        )

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions: mostly places and sizes, and if there are several, of different instances."""
        scene, photo, ids = self._scene(index)
        asked: list[Sample] = []
        meant: set[tuple[int, ...]] = set()
        for _ in range(count):
            spoken = in_other_words(scene, rng) if rng.random() < SYNONYM_SHARE else scene
            kind, phrase = rng.random(), None
            if kind < PLACED:
                phrase = placed_phrase(spoken, meant, rng)
            elif kind < PLACED + MISPLACED and (phrases := misplaced_phrases(spoken.instances, spoken.absent)):
                phrase = phrases[int(rng.integers(len(phrases)))]
            if phrase:
                asked.append(phrase_sample(spoken, photo.id, photo.source, *phrase))
            else:
                asked.append(training_sample(spoken, photo.id, photo.source, rng))
        return tuple(_scored(sample, ids, self.folder.void(photo)) for sample in asked)


def _scored(sample: Sample, ids: np.ndarray, ignored: tuple[int, ...]) -> Sample:
    """The sample with these ids of the photo's mask left out, but for what belongs to the answer."""
    out = np.isin(ids, ignored) & (sample.class_map == 0)
    return replace(sample, class_map=np.where(out, np.int16(IGNORED), sample.class_map))


def things_of(photo: Photo, ids: np.ndarray, name: str) -> np.ndarray | None:
    """(n, h, w) bool, n ≥ 2: the separate instances of a class, or None if what is there may be counted otherwise."""
    mask = np.isin(ids, [value for value, label in photo.classes.items() if label == name])
    void = ids == OUTLINE if OUTLINE in photo.ignore else np.zeros(ids.shape, bool)
    if _widest_area(void) > VOID_SHARE:
        return None
    masks = pieces(mask)
    if masks is None or any(is_herd(piece, name) for piece in masks):
        return None
    rest = [v for v, label in photo.classes.items() if label not in GROUND and v not in photo.ignore and label != name]
    foreign = np.isin(ids, rest)
    for first, second in combinations(masks, 2):
        if name in PEOPLE and (_edges(first) & _edges(second)).any():
            return None  # two arms or legs of one
        line = between(first, second)
        beside = tuple(slice(max(at.min() - NEAR, 0), at.max() + NEAR + 1) if len(at) else slice(0) for at in line)
        free = (~foreign & ~void)[line].sum()
        cut = foreign[line].any() or (free < GAP and foreign[beside].any())
        if free < (GAP_BEHIND if cut else 0 if name in ANIMALS else GAP):
            return None
    return masks


def pieces(mask: np.ndarray) -> np.ndarray | None:
    """(h, w) bool → (n, h, w) bool, n ≥ 2: its large pieces, or None if it has fewer or too much besides.

    Small pieces beside a large one go to it; few and tiny ones elsewhere are left out.
    """
    labels = components(mask)
    areas = np.bincount(labels.ravel())[1:]
    large = np.flatnonzero(areas >= LEAST * mask.size) + 1
    counted = int((areas > CRUMB / 8 * mask.size).sum())
    if len(large) < 2 or counted > MAX_PIECES:
        return None
    masks = np.stack([labels == number for number in large])
    lost = 0
    for number in np.flatnonzero(areas < LEAST * mask.size) + 1:
        piece = labels == number
        if areas[number - 1] <= CRUMB / 8 * mask.size:
            lost += areas[number - 1]
            continue
        far = [distance(piece, one) for one in masks]
        nearest = int(np.argmin(far))
        if far[nearest] <= NEAR:
            masks[nearest] |= piece
        elif areas[number - 1] > CRUMB * mask.size:
            return None
        else:
            lost += areas[number - 1]
    return masks if lost <= CRUMBS * areas.sum() else None


def _edges(mask: np.ndarray) -> np.ndarray:
    """(3,) bool: whether it touches the photo's upper, left and right edge."""
    return np.array([mask[0].any(), mask[:, 0].any(), mask[:, -1].any()])


def _widest_area(void: np.ndarray) -> float:
    """The share of all squares of `VOID_SIDE` pixels that are void all over: 0 for outlines."""
    if void.mean() < VOID_SHARE or min(void.shape) <= VOID_SIDE:
        return 0.0
    sums = np.pad(void.astype(np.int32).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    k = VOID_SIDE
    return float((sums[k:, k:] - sums[:-k, k:] - sums[k:, :-k] + sums[:-k, :-k] == k * k).mean())
