"""Copy-paste scenes: instances cut out of the photos of a folder dataset and pasted on others of its photos.

    scenes:PHOTOS                     10,000 scenes from the photos of @train; @val has 300, from other photos
    scenes:PHOTOS,-dog,scenes=60      no dog is pasted or named; 60 scenes; seed=N for other ones

What can be cut out is found in the masks: a piece of a named region that touches neither the photo's edge nor another
piece or named region, so that it is a whole instance (`free_piece`), and not a herd. It is pasted at another place and
size, at times mirrored, up to four in a scene and often several of one name; the nearer hide up to a third of those
behind. Only names that the photo below is known not to show are pasted or asked for in vain: its source's table has
them and its own mask lacks them.

Some scenes are hard on purpose: two animals that are taken for each other, of one size, and a third that is not there.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from t4s.data.folder import WEAK_SHARE, FolderDataset, Photo
from t4s.data.scenes.cutouts import CutOut, colour_word, options_of, paste
from t4s.data.scenes.regions import components, is_herd
from t4s.data.scenes.staging import (
    SPLITS,
    Scene,
    evaluation_samples,
    in_other_words,
    name_sample,
    phrase_sample,
    placed_phrase,
    stage_rng,
    training_sample,
)
from t4s.errors import DataError
from t4s.imaging.loading import open_mask, open_photo
from t4s.lexicon import akin, without_kin
from t4s.records import Sample

MAX_THINGS = 4
CUT_SHARES = (0.02, 0.6)  # of its own photo that an instance to cut out covers
GAP = EDGE = 4  # pixels around it without another named region; at the photo's edge, where outlines are not labelled
IN_ONE = 0.95  # of it in one piece
SEVERAL = 0.6  # of the scenes have at least two instances of one name
SYNONYM_SHARE = 0.15  # of training questions use other words for the names
PLACED = 0.7  # of the training questions about a scene that allows it tell one of several by place or size
PROBES = 40  # photos of a name that are looked at to see whether it can be cut out at all
MIN_NAMES = 2  # that can be pasted on a photo, or it is not used: else the same name comes again and again
TRIES = 30
KEPT = 512  # cut-outs kept in memory
HARD = 0.2  # of the scenes hold rivals
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
RIVAL_SHARES = (0.05, 0.16)  # of the scene that each of them covers
RIVAL_QUESTIONS = 0.6  # of such a scene's training questions are about them


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
        self.photos, self.without = FolderDataset(path, split), frozenset(without)
        known = set(self.photos.names)
        if self.without - known:
            raise DataError(
                f"Composed scenes cannot leave out {', '.join(sorted(self.without - known))}: nothing in "
                f"{path} has that name."
            )
        self.scenes, self.name = SPLITS[split] if scenes is None else scenes, f"scenes:{path}@{split}"
        self._key = (seed, zlib.crc32(f"scenes|{split}".encode()))
        self.names = sorted(known - self.without)
        self._showing: dict[str, list[int]] = {}  # the photos of each name
        for index, photo in enumerate(self.photos.photos):
            for name in dict.fromkeys(photo.classes.values()):
                self._showing.setdefault(name, []).append(index)
        self._found: dict[tuple[int, str], bool] = {}
        self._pieces: dict[tuple[int, str], CutOut] = {}

    @classmethod
    def from_options(cls, text: str, split: str = "train", seed: int = 0) -> SceneDataset:
        """`text`: the folder and options, with commas; see the module."""
        path, options, without = options_of(text)
        scenes = int(options["scenes"]) if "scenes" in options else None
        return cls(path, split, int(options.get("seed", seed)), scenes, without)

    def __len__(self) -> int:
        return self.scenes

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every pasted name, one phrase of each other kind that the scene allows, one class list."""
        return evaluation_samples(self.scene(index), f"{self.name}/{index}", "scenes", self._rng(index, 1))

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions about scene `index`, now and then in other words for the names; those of place and
        size are, as long as there are several, of different instances."""
        scene, place, samples = self.scene(index), f"{self.name}/{index}", []
        meant: set[tuple[int, ...]] = set()
        for number in range(count):
            asked = in_other_words(scene, rng) if rng.random() < SYNONYM_SHARE else scene
            if asked.rivals and rng.random() < RIVAL_QUESTIONS:
                samples.append(name_sample(asked, place, "scenes", asked.rivals[number % len(asked.rivals)]))
            elif rng.random() < PLACED and (placed := placed_phrase(asked, meant, rng)):
                samples.append(phrase_sample(asked, place, "scenes", *placed))
            else:
                samples.append(training_sample(asked, place, "scenes", rng))
        return tuple(samples)

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return stage_rng(self._key, index, self.scenes, purpose)

    def scene(self, index: int) -> Scene:
        """Scene `index`: always the same. DataError if the folder holds nothing that can be cut out."""
        rng = self._rng(index, 0)
        for _ in range(TRIES):
            photo = self.photos.photos[int(rng.integers(len(self.photos)))]
            if photo.weak and rng.random() > WEAK_SHARE:
                continue
            unseen = [name for name in self.photos.absent(photo, set()) if name not in self.without]
            names = [name for name in unseen if self.can_cut(name)]
            if len(names) < MIN_NAMES:
                continue
            if rng.random() < HARD and (scene := self._hard(photo, names, unseen, rng)):
                return scene
            if scene := self._composed(photo, names, unseen, rng):
                return scene
        raise DataError(
            f"{self.name}: in {TRIES} tries no photo took an instance cut out of another; it needs photos with "
            "things that stand free of each other, of names that other photos lack."
        )

    def _composed(self, photo: Photo, names: list[str], unseen: list[str], rng: np.random.Generator) -> Scene | None:
        """Up to `MAX_THINGS` instances of these names on the photo."""
        counts = np.sqrt([len(self._showing[name]) for name in names])
        wanted: list[CutOut] = []
        names_wanted = rng.choice(names, int(rng.integers(1, MAX_THINGS + 1)), p=counts / counts.sum()).tolist()
        if len(names_wanted) > 1 and rng.random() < SEVERAL:
            names_wanted[1] = names_wanted[0]
        for name in without_kin(names_wanted):
            if name and (piece := self._cut(name, rng)):
                wanted.append(piece)
        return _asked(paste(open_photo(photo.image), wanted, unseen, rng))

    def _hard(self, photo: Photo, names: list[str], unseen: list[str], rng: np.random.Generator) -> Scene | None:
        """Two rivals of about one size, or None where the photo or its source does not allow that."""
        pairs = [pair for pair in RIVALS if set(pair) <= set(names)]
        if not pairs:
            return None
        pair = pairs[int(rng.integers(len(pairs)))]
        thirds = [name for name in ANIMALS if name in unseen and name not in pair]
        wanted = [piece for name in rng.permutation(pair).tolist() if (piece := self._cut(name, rng))]
        size = float(np.exp(rng.uniform(*np.log(RIVAL_SHARES))))
        scene = paste(open_photo(photo.image), wanted, unseen, rng, (0.85 * size, 1.15 * size))
        if scene is None or len(scene.instances) < 2:
            return None
        third = [str(rng.choice(thirds))] if thirds else []
        return replace(scene, rivals=(*pair, *third))

    def can_cut(self, name: str) -> bool:
        """True if an instance of this name stands free in one of a few photos: never so for sky or road."""
        photos = self._showing.get(name, [])
        step = max(len(photos) // PROBES, 1)
        return any(self._is_free(index, name) for index in photos[::step])

    def _mask(self, photo: Photo, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The regions (h, w) bool of a name and of all other names."""
        ids = open_mask(photo.mask)
        wanted = [value for value, label in photo.classes.items() if label == name]
        return np.isin(ids, wanted), np.isin(ids, list(set(photo.classes) - set(wanted)))

    def _is_free(self, index: int, name: str) -> bool:
        if (index, name) not in self._found:
            piece = free_piece(*self._mask(self.photos.photos[index], name))
            self._found[index, name] = piece is not None and not is_herd(piece, name)
        return self._found[index, name]

    def _cut(self, name: str, rng: np.random.Generator) -> CutOut | None:
        """A random instance of this name, or None if none of a few photos has a free one."""
        for _ in range(TRIES):
            index = int(rng.choice(self._showing[name]))
            if self._is_free(index, name):
                if (index, name) not in self._pieces:
                    if len(self._pieces) >= KEPT:
                        del self._pieces[next(iter(self._pieces))]
                    self._pieces[index, name] = self._cut_out(index, name)
                return self._pieces[index, name]
        return None

    def _cut_out(self, index: int, name: str) -> CutOut:
        photo = self.photos.photos[index]
        mask, pixels = free_piece(*self._mask(photo, name)), np.asarray(open_photo(photo.image))
        if mask is None or pixels.shape[:2] != mask.shape:
            raise DataError(f"{photo.mask} has changed since it was looked at; open the dataset again.")
        ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = (slice(ys[0], ys[-1] + 1), slice(xs[0], xs[-1] + 1))
        cover = mask[box].astype(np.uint8) * 255
        return CutOut(name, colour_word(pixels[mask]), np.ascontiguousarray(pixels[box]), cover)


def _asked(scene: Scene | None) -> Scene | None:
    """The scene, less the absent names that an instance in it may be called: no "bird" where there is a parrot."""
    if scene is None:
        return None
    absent = (name for name in scene.absent if not any(akin(name, instance.name) for instance in scene.instances))
    return replace(scene, absent=tuple(absent))


def free_piece(mask: np.ndarray, others: np.ndarray) -> np.ndarray | None:
    """The largest piece (h, w) bool of a class's mask that stands free of the photo's edge, `others` and the rest."""
    if mask.mean() <= CUT_SHARES[0]:
        return None
    labels = components(mask)
    areas = np.bincount(labels.ravel())[1:]
    for number in np.argsort(-areas, kind="stable"):
        if areas[number] <= CUT_SHARES[0] * mask.size:
            return None
        piece = labels == number + 1
        if free_standing(piece, others | (mask & ~piece)):
            return piece
    return None


def free_standing(mask: np.ndarray, others: np.ndarray) -> bool:
    """True for a region (h, w) bool in one piece, of fair size, away from the photo's edge and from `others`."""
    rim = mask.copy()
    rim[EDGE:-EDGE, EDGE:-EDGE] = False
    if not CUT_SHARES[0] < mask.mean() < CUT_SHARES[1] or rim.any():
        return False
    ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = (slice(ys[0] - EDGE, ys[-1] + 1 + EDGE), slice(xs[0] - EDGE, xs[-1] + 1 + EDGE))
    mask, others = mask[box], others[box]
    if others.any() and (_grown(mask, GAP) & others).any():
        return False
    return bool(np.bincount(components(mask).ravel())[1:].max() > IN_ONE * mask.sum())


def _grown(mask: np.ndarray, steps: int) -> np.ndarray:
    """The mask and all pixels at most `steps` to the side, above or below, one after the other."""
    for _ in range(steps):
        wider = mask.copy()
        wider[1:] |= mask[:-1]
        wider[:-1] |= mask[1:]
        wider[:, 1:] |= mask[:, :-1]
        wider[:, :-1] |= mask[:, 1:]
        mask = wider
    return mask
