"""Copy-paste scenes: things cut out of the photos of a folder corpus and pasted on others of its photos.

    scenes:PHOTOS                     10,000 scenes from the photos of @train; @val has 300, from other photos

What can be cut out is found in the masks: a named region in one piece that touches neither the photo's edge nor
another named region, so that it is a whole thing and not a piece of one (`free_standing`). It is pasted at another
place and size, at times mirrored, up to four in a scene and often several of one name; the nearer hide up to a third of
those behind. Only names that the photo below is known not to show are pasted or asked for in vain: its source's table
has them and its own mask lacks them. A pixel belongs to the nearest thing that covers at least half of it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from t4s.corpora.folder import WEAK_SHARE, FolderCorpus
from t4s.corpora.phrasing import Thing
from t4s.corpora.staging import SPLITS, Scene, behind, evaluation_samples, in_other_words, training_sample
from t4s.errors import DataError
from t4s.samples import Sample

MAX_THINGS = 4
SHARES = (0.015, 0.2)  # of the scene that a pasted thing covers
MAX_GROWTH = 1.5  # times its size in its own photo
CUT_SHARES = (0.02, 0.6)  # of its own photo that a thing to cut out covers
GAP = 4  # pixels around it without another named region
SEVERAL = 0.6  # of the scenes have at least two things of one name
SYNONYM_SHARE = 0.15  # of training questions use other words for the names
PROBES = 12  # photos of a name that are looked at to see whether it can be cut out at all
MIN_NAMES = 2  # that can be pasted on a photo, or it is not used: else the same name comes again and again
TRIES = 30
COLOUR_SHARE, SECOND_SHARE = 0.6, 0.2  # a colour word needs so much of a thing, and every other word at most so much


@dataclass(frozen=True, eq=False)
class CutOut:
    """`pixels` (h, w, 3) uint8 and `mask` (h, w) bool: the thing's box in its photo; `colour` as a word, or None."""

    name: str
    colour: str | None
    pixels: np.ndarray
    mask: np.ndarray


class SceneCorpus:
    """Scene i is a pure function of the folder, the split, the seed and i."""

    def __init__(self, path: str | Path, split: str = "train", seed: int = 0, scenes: int | None = None):
        if split not in SPLITS:
            raise DataError(f"Composed scenes have no split {split!r}; the splits are {', '.join(SPLITS)}.")
        self.photos = FolderCorpus(path, split)
        self.scenes, self.name = SPLITS[split] if scenes is None else scenes, f"scenes:{path}@{split}"
        self._key = (seed, zlib.crc32(f"scenes|{split}".encode()))
        self.names = self.photos.names
        self._showing: dict[str, list[int]] = {}  # the photos of each name
        for index, photo in enumerate(self.photos.photos):
            for name in dict.fromkeys(photo.classes.values()):
                self._showing.setdefault(name, []).append(index)
        self._found: dict[tuple[int, str], bool] = {}

    def __len__(self) -> int:
        return self.scenes

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every pasted name, one phrase of each other kind that the scene allows, one class list."""
        return evaluation_samples(self.scene(index), f"{self.name}/{index}", "scenes", self._rng(index, 1))

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions about scene `index`, now and then in other words for the names."""
        scene, samples = self.scene(index), []
        for _ in range(count):
            asked = in_other_words(scene, rng) if rng.random() < SYNONYM_SHARE else scene
            samples.append(training_sample(asked, f"{self.name}/{index}", "scenes", rng))
        return tuple(samples)

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        if not 0 <= index < self.scenes:
            raise IndexError(f"scene {index} of {self.scenes}")
        return np.random.default_rng([*self._key, index, purpose])

    def scene(self, index: int) -> Scene:
        """Scene `index`: always the same. DataError if the folder holds nothing that can be cut out."""
        rng = self._rng(index, 0)
        for _ in range(TRIES):
            below = int(rng.integers(len(self.photos)))
            photo = self.photos.photos[below]
            if photo.weak and rng.random() > WEAK_SHARE:
                continue
            unseen = self.photos.absent(photo, set())
            names = [name for name in unseen if self.can_cut(name)]
            if len(names) < MIN_NAMES:
                continue
            counts = np.sqrt([len(self._showing[name]) for name in names])
            wanted = [str(n) for n in rng.choice(names, int(rng.integers(1, MAX_THINGS + 1)), p=counts / counts.sum())]
            if len(wanted) > 1 and rng.random() < SEVERAL:
                wanted[1] = wanted[0]
            pieces = [piece for name in wanted if (piece := self._cut(name, rng))]
            scene = paste(self.photos.open(below)[0], pieces, unseen, rng)
            if scene is not None:
                return scene
        raise DataError(f"{self.name}: in {TRIES} tries no photo took a thing cut out of another; it needs photos with "
                        "things that stand free of each other, of names that other photos lack.")  # fmt: skip

    def can_cut(self, name: str) -> bool:
        """True if a thing of this name stands free in one of a few photos: never so for sky or road."""
        photos = self._showing.get(name, [])
        step = max(len(photos) // PROBES, 1)
        return any(self._is_free(index, name) for index in photos[::step])

    def _is_free(self, index: int, name: str) -> bool:
        if (index, name) not in self._found:
            ids = np.asarray(self.photos.open(index)[1])
            wanted = [value for value, label in self.photos.photos[index].classes.items() if label == name]
            others = set(self.photos.photos[index].classes) - set(wanted)
            self._found[index, name] = free_standing(np.isin(ids, wanted), np.isin(ids, list(others)))
        return self._found[index, name]

    def _cut(self, name: str, rng: np.random.Generator) -> CutOut | None:
        """A random thing of this name, or None if none of a few photos has a free one."""
        for _ in range(TRIES):
            index = int(rng.choice(self._showing[name]))
            if self._is_free(index, name):
                image, ids = self.photos.open(index)
                wanted = [value for value, label in self.photos.photos[index].classes.items() if label == name]
                mask = np.isin(np.asarray(ids), wanted)
                ys, xs = np.nonzero(mask)
                box = (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1))
                pixels = np.asarray(image)
                return CutOut(name, colour_word(pixels[mask]), pixels[box], mask[box])
        return None


def free_standing(mask: np.ndarray, others: np.ndarray) -> bool:
    """True for a region (h, w) bool in one piece, of fair size, away from the photo's edge and from `others`."""
    edge = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if not CUT_SHARES[0] < mask.mean() < CUT_SHARES[1] or edge.any():
        return False
    ys, xs = np.nonzero(mask)
    around = others[max(ys.min() - GAP, 0) : ys.max() + GAP + 1, max(xs.min() - GAP, 0) : xs.max() + GAP + 1]
    if around.any() and (_grown(mask, GAP) & others).any():
        return False
    coarse = mask[::4, ::4]
    if not coarse.any():
        return False
    ys, xs = np.nonzero(coarse)
    piece, before = np.zeros_like(coarse), 0
    piece[ys[len(ys) // 2], xs[len(ys) // 2]] = True
    while piece.sum() > before:
        before = piece.sum()
        piece = _grown(piece, 1) & coarse
    return bool(before > 0.9 * coarse.sum())


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


def colour_word(pixels: np.ndarray) -> str | None:
    """The colour (n, 3) uint8 that nearly all of a thing has, or None: most things have no one colour."""
    red, green, blue = pixels.reshape(-1, 3).T.astype(np.float32) / 255
    value, least = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    span = value - least
    saturation = span / np.maximum(value, 1e-6)
    wide = np.maximum(span, 1e-6)
    hue = np.select([value == red, value == green], [(green - blue) / wide % 6, (blue - red) / wide + 2],
                    (red - green) / wide + 4) * 60  # fmt: skip
    dark, plain = value < 0.22, saturation < 0.18
    words = {
        "black": dark, "white": ~dark & plain & (value > 0.75), "grey": ~dark & plain & (value < 0.65),
        "brown": ~dark & ~plain & (hue > 10) & (hue < 45) & (value < 0.65) & (saturation > 0.3),
        "red": ~dark & (saturation > 0.6) & ((hue < 10) | (hue > 345)),
        "orange": (saturation > 0.65) & (hue > 15) & (hue < 40) & (value > 0.75),
        "yellow": (saturation > 0.5) & (hue > 45) & (hue < 65) & (value > 0.6),
        "green": ~dark & (saturation > 0.3) & (hue > 80) & (hue < 165),
        "blue": ~dark & (saturation > 0.4) & (hue > 195) & (hue < 255),
    }  # fmt: skip
    shares = sorted(((float(where.mean()), word) for word, where in words.items()), reverse=True)
    return shares[0][1] if shares[0][0] > COLOUR_SHARE and shares[1][0] < SECOND_SHARE else None


def paste(below: Image.Image, pieces: Sequence[CutOut], unseen: Sequence[str],
          rng: np.random.Generator) -> Scene | None:  # fmt: skip
    """The pieces on the photo `below`, or None if not one of them found room. `unseen`: names it does not show."""
    picture = np.array(below, np.float32)
    height, width = picture.shape[:2]
    kept: list[CutOut] = []
    wholes: list[np.ndarray] = []
    seen: list[np.ndarray] = []
    for piece in pieces:
        for _ in range(10):
            share = np.exp(rng.uniform(*np.log(SHARES)))
            scale = min(float(np.sqrt(share * height * width / piece.mask.sum())), MAX_GROWTH)
            rows, columns = (max(round(side * scale), 2) for side in piece.mask.shape)
            if rows >= height or columns >= width:
                continue
            pixels, cover = _resized(piece, (columns, rows), rng.random() < 0.5)
            top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
            at = (slice(top, top + rows), slice(left, left + columns))
            mask = np.zeros((height, width), bool)
            mask[at] = cover >= 0.5
            rest = behind(seen, wholes, mask)
            if rest is not None and mask.sum() > SHARES[0] / 2 * mask.size:
                light = np.float32(rng.uniform(0.85, 1.15))
                picture[at] += cover[..., None] * (pixels * light - picture[at])
                kept, seen, wholes = [*kept, piece], [*rest, mask], [*wholes, mask]
                break
    if not kept:
        return None
    names, colours = [piece.name for piece in kept], [piece.colour for piece in kept]
    things = tuple(map(Thing.of, names, colours, seen, wholes))
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    return Scene(image, things, np.stack(seen), tuple(name for name in unseen if name not in names), complete=False)


def _resized(piece: CutOut, size: tuple[int, int], mirrored: bool) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (h, w, 3) and cover (h, w) in [0, 1], float32, with an outline soft by half a pixel."""
    pixels = Image.fromarray(piece.pixels).resize(size, Image.Resampling.BILINEAR)
    cover = Image.fromarray(piece.mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    cover = cover.filter(ImageFilter.GaussianBlur(0.5))
    arrays = np.asarray(pixels, np.float32), np.asarray(cover, np.float32) / 255
    return tuple(array[:, ::-1] for array in arrays) if mirrored else arrays
