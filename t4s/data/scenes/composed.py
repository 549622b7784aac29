"""Copy-paste scenes: instances cut out of photos of a folder dataset and pasted on other photos of it.

    scenes:PHOTOS                     10,000 scenes from the photos of @train; @val has 300, from other photos
    scenes:PHOTOS,-dog,scenes=60      no dog is pasted or named; 60 scenes; seed=N for different ones

What can be cut out is found in the masks: a region of a class that touches neither the photo's edge nor another region
(`free_region`), so that it is a whole instance, and no herd. It is pasted at another place and size, sometimes
mirrored, up to four in a scene and often several of one class; nearer ones hide up to a third of those behind. Only
names that the background photo is known not to show are pasted, or queried though absent: its source's table has them
and its own mask lacks them.

Some scenes are hard on purpose: two animals that are easily confused, of one size, and a third that is absent.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from t4s.data.augment.draws import Draw, draw_samples
from t4s.data.folder import WEAK_SHARE, FolderDataset, Photo
from t4s.data.scenes.cutouts import CutOut, colour_word, parse_options, paste
from t4s.data.scenes.regions import areas, bounding_slices, components, is_herd
from t4s.data.scenes.staging import (
    SPLITS,
    Scene,
    SceneLabels,
    evaluation_samples,
    name_sample,
    phrase_sample,
    placed_phrase,
    scene_rng,
    training_sample,
    with_synonyms,
)
from t4s.errors import DataError
from t4s.imaging.loading import open_mask, open_photo
from t4s.lexicon import akin, without_kin
from t4s.records import Sample

MAX_INSTANCES = 4
CUT_SHARES = (0.02, 0.6)  # share of its own photo that an instance must cover to be cut out
GAP = 4  # pixels around it without another labelled region
EDGE = 4  # pixels at the photo's edge where outlines are not labelled
MAIN_SHARE = 0.95  # share of an instance that must be one connected region
SEVERAL = 0.6  # share of scenes with at least two instances of one class
SYNONYM_SHARE = 0.15  # of training questions use synonyms
PLACED = 0.7  # of training questions tell one of several apart by place or size, where the scene allows it
PROBES = 40  # photos of a class that are searched for a free instance
MIN_NAMES = 2  # names that can be pasted on a photo; with fewer, the same name would come again and again
TRIES = 30
KEPT = 512  # cut-outs kept in memory
HARD = 0.2  # share of scenes with rivals
RIVALS = (
    ("dog", "cat"),
    ("horse", "cow"),
    ("sheep", "dog"),
    ("sheep", "cow"),
    ("cat", "sheep"),
    ("horse", "dog"),
    ("person", "dog"),
    ("person", "horse"),
    ("person", "cat"),
)
ANIMALS = ("dog", "cat", "horse", "cow", "sheep")
RIVAL_SHARES = (0.05, 0.16)  # share of the scene that each rival covers
RIVAL_QUESTIONS = 0.6  # share of the training questions of such a scene that ask for a rival


class SceneDataset:
    """Scene i is a pure function of the folder, the options, the split, the seed and i."""

    def __init__(
        self,
        path: str | Path,
        split: str = "train",
        seed: int = 0,
        scenes: int | None = None,
        without: Sequence[str] = (),
    ):
        if split not in SPLITS:
            raise DataError(f"Composed scenes have no split {split!r}; the splits are {', '.join(SPLITS)}.")
        self.photos = FolderDataset(path, split)
        self.without = frozenset(without)
        known = set(self.photos.names)
        if self.without - known:
            raise DataError(
                f"Composed scenes cannot leave out {', '.join(sorted(self.without - known))}: nothing in "
                f"{path} has that name."
            )
        self.scenes = SPLITS[split] if scenes is None else scenes
        self.name = f"scenes:{path}@{split}"
        self.names = sorted(known - self.without)
        self._key = (seed, zlib.crc32(f"scenes|{split}".encode()))
        self._photos_of: dict[str, list[int]] = {}  # photo numbers by name
        for index, photo in enumerate(self.photos.photos):
            for name in dict.fromkeys(photo.classes.values()):
                self._photos_of.setdefault(name, []).append(index)
        self._free: dict[tuple[int, str], bool] = {}
        self._cut_outs: dict[tuple[int, str], CutOut] = {}

    @classmethod
    def from_options(cls, text: str, split: str = "train", seed: int = 0) -> SceneDataset:
        """`text`: the folder and comma-separated options; see the module."""
        path, options, without = parse_options(text)
        scenes = int(options["scenes"]) if "scenes" in options else None
        return cls(path, split, int(options.get("seed", seed)), scenes, without)

    def __len__(self) -> int:
        return self.scenes

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every pasted name, one phrase of each other kind that the scene allows, one class list."""
        return evaluation_samples(self.scene(index), f"{self.name}/{index}", "scenes", self._rng(index, 1))

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions about scene `index`; see `ask`."""
        return draw_samples(self, index, rng, count)

    def decode(self, index: int, complete: bool = False) -> tuple[Image.Image, SceneLabels]:
        """The picture of scene `index`, and what is where in it; see `PhotoDataset`."""
        scene = self.scene(index)
        return scene.image, SceneLabels.of(scene)

    def ask(self, index: int, rng: np.random.Generator, count: int, labels: Callable[[int], SceneLabels]) -> Draw:
        """`count` random questions about scene `index`, some with synonyms.

        Questions of place and size are about different instances as long as there are any.
        """
        known = labels(index)
        scene = known.scene
        prefix = f"{self.name}/{index}"
        samples = []
        meant: set[tuple[int, ...]] = set()
        for number in range(count):
            worded = with_synonyms(scene, rng) if rng.random() < SYNONYM_SHARE else scene
            if worded.rivals and rng.random() < RIVAL_QUESTIONS:
                samples.append(name_sample(worded, prefix, "scenes", worded.rivals[number % len(worded.rivals)]))
            elif rng.random() < PLACED and (placed := placed_phrase(worded, meant, rng)):
                samples.append(phrase_sample(worded, prefix, "scenes", *placed))
            else:
                samples.append(training_sample(worded, prefix, "scenes", rng))
        return known.draw(index, samples)

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return scene_rng(self._key, index, self.scenes, purpose)

    # --- scenes

    def scene(self, index: int) -> Scene:
        """Scene `index`, always the same. DataError if nothing in the folder can be cut out."""
        rng = self._rng(index, 0)
        for _ in range(TRIES):
            photo = self.photos.photos[int(rng.integers(len(self.photos)))]
            if photo.weak and rng.random() > WEAK_SHARE:
                continue
            unseen = [name for name in self.photos.absent(photo, set()) if name not in self.without]
            names = [name for name in unseen if self.can_cut(name)]
            if len(names) < MIN_NAMES:
                continue
            if rng.random() < HARD and (scene := self._hard_scene(photo, names, unseen, rng)):
                return scene
            if scene := self._usual_scene(photo, names, unseen, rng):
                return scene
        raise DataError(
            f"{self.name}: in {TRIES} tries no photo took an instance cut out of another; it needs photos with "
            "objects that stand free of each other, of names that other photos lack."
        )

    def _usual_scene(self, photo: Photo, names: list[str], unseen: list[str], rng: np.random.Generator) -> Scene | None:
        """Up to MAX_INSTANCES instances of these names on the photo."""
        weights = np.sqrt([len(self._photos_of[name]) for name in names])
        wanted = rng.choice(names, int(rng.integers(1, MAX_INSTANCES + 1)), p=weights / weights.sum()).tolist()
        if len(wanted) > 1 and rng.random() < SEVERAL:
            wanted[1] = wanted[0]
        cut_outs = [cut for name in without_kin(wanted) if name and (cut := self._cut(name, rng))]
        scene = paste(open_photo(photo.image), cut_outs, unseen, rng)
        return None if scene is None else _without_kin_absent(scene)

    def _hard_scene(self, photo: Photo, names: list[str], unseen: list[str], rng: np.random.Generator) -> Scene | None:
        """Two rivals of about one size, or None where the photo or its source does not allow that."""
        pairs = [pair for pair in RIVALS if set(pair) <= set(names)]
        if not pairs:
            return None
        pair = pairs[int(rng.integers(len(pairs)))]
        thirds = [name for name in ANIMALS if name in unseen and name not in pair]
        cut_outs = [cut for name in rng.permutation(pair).tolist() if (cut := self._cut(name, rng))]
        size = float(np.exp(rng.uniform(*np.log(RIVAL_SHARES))))
        scene = paste(open_photo(photo.image), cut_outs, unseen, rng, (0.85 * size, 1.15 * size))
        if scene is None or len(scene.instances) < 2:
            return None
        third = [str(rng.choice(thirds))] if thirds else []
        return replace(scene, rivals=(*pair, *third))

    # --- cut-outs

    def can_cut(self, name: str) -> bool:
        """True if one of a few photos has a free instance of this name: never so for sky or road."""
        photos = self._photos_of.get(name, [])
        step = max(len(photos) // PROBES, 1)
        return any(self._is_free(index, name) for index in photos[::step])

    def _masks(self, photo: Photo, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The mask (h, w) bool of a name, and that of all other names together."""
        ids = open_mask(photo.mask)
        wanted = [value for value, label in photo.classes.items() if label == name]
        return np.isin(ids, wanted), np.isin(ids, list(set(photo.classes) - set(wanted)))

    def _is_free(self, index: int, name: str) -> bool:
        if (index, name) not in self._free:
            region = free_region(*self._masks(self.photos.photos[index], name))
            self._free[index, name] = region is not None and not is_herd(region, name)
        return self._free[index, name]

    def _cut(self, name: str, rng: np.random.Generator) -> CutOut | None:
        """A random instance of this name, or None if none of a few photos has a free one."""
        for _ in range(TRIES):
            index = int(rng.choice(self._photos_of[name]))
            if self._is_free(index, name):
                if (index, name) not in self._cut_outs:
                    if len(self._cut_outs) >= KEPT:
                        del self._cut_outs[next(iter(self._cut_outs))]
                    self._cut_outs[index, name] = self._cut_out(index, name)
                return self._cut_outs[index, name]
        return None

    def _cut_out(self, index: int, name: str) -> CutOut:
        photo = self.photos.photos[index]
        mask = free_region(*self._masks(photo, name))
        pixels = np.asarray(open_photo(photo.image))
        if mask is None or pixels.shape[:2] != mask.shape:
            raise DataError(f"{photo.mask} has changed since the dataset was opened; open it again.")
        box = bounding_slices(mask)
        cover = mask[box].astype(np.uint8) * 255
        return CutOut(name, colour_word(pixels[mask]), np.ascontiguousarray(pixels[box]), cover)


def _without_kin_absent(scene: Scene) -> Scene:
    """Drop absent names that fit an instance in the scene: "bird" is not absent where there is a parrot."""
    absent = [name for name in scene.absent if not any(akin(name, instance.name) for instance in scene.instances)]
    return replace(scene, absent=tuple(absent))


def free_region(mask: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    """The largest region (h, w) bool of a class's mask that is free: see `is_free`. None if there is none."""
    if mask.mean() <= CUT_SHARES[0]:
        return None
    labels = components(mask)
    sizes = areas(labels)
    for number in np.argsort(-sizes, kind="stable"):
        if sizes[number] <= CUT_SHARES[0] * mask.size:
            return None
        region = labels == number + 1
        if is_free(region, others | (mask & ~region)):
            return region
    return None


def is_free(mask: np.ndarray, others: np.ndarray) -> bool:
    """True for a mask (h, w) bool that is one region of fair size, away from the photo's edge and from `others`."""
    rim = mask.copy()
    rim[EDGE:-EDGE, EDGE:-EDGE] = False
    if not CUT_SHARES[0] < mask.mean() < CUT_SHARES[1] or rim.any():
        return False
    rows, columns = bounding_slices(mask)
    box = (slice(rows.start - EDGE, rows.stop + EDGE), slice(columns.start - EDGE, columns.stop + EDGE))
    mask = mask[box]
    others = others[box]
    if others.any() and (ndimage.binary_dilation(mask, iterations=GAP) & others).any():
        return False
    return bool(areas(components(mask)).max() > MAIN_SHARE * mask.sum())
