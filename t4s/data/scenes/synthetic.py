"""Composed scenes of coloured shapes with exact masks, for tests and for a first training run without photos.

    synthetic                        10,000 training scenes; @val and @test have 300 different ones each
    synthetic:heart                  only scenes with a heart (given several shapes: with at least one of them)
    synthetic:-heart                 hearts are neither drawn nor named, so a model never sees one in training
    synthetic:-arrow,-crescent       the same for several shapes
    synthetic:heart,scenes=60,seed=7,size=320       60 scenes from another seed, 320×320 pixels

Scene i is a pure function of (seed, split, options, i): a background (colour gradient, soft noise, stripes or checks)
and one to six shapes on it; nearer shapes hide up to a third of those behind. A pixel belongs to the nearest shape that
covers at least half of it.
"""

from __future__ import annotations

import colorsys
import zlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from t4s.data.augment.draws import Draw, draw_samples
from t4s.data.scenes.phrasing import Instance
from t4s.data.scenes.staging import SPLITS, Scene, SceneLabels, evaluation_samples, occlude, scene_rng, training_sample
from t4s.errors import DataError
from t4s.records import Sample

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent", "arrow", "hexagon")
# Ranges of hue in degrees, saturation and value in [0, 1], far enough apart that no colour word is in doubt.
COLOURS = {
    "red": ((354, 364), (0.80, 1.0), (0.75, 0.95)), "orange": ((24, 33), (0.85, 1.0), (0.92, 1.0)),
    "yellow": ((52, 60), (0.75, 1.0), (0.92, 1.0)), "green": ((105, 140), (0.60, 1.0), (0.45, 0.80)),
    "blue": ((212, 236), (0.75, 1.0), (0.65, 1.0)), "purple": ((270, 285), (0.60, 0.9), (0.45, 0.75)),
    "pink": ((325, 340), (0.30, 0.5), (0.95, 1.0)), "brown": ((20, 30), (0.60, 0.8), (0.30, 0.45)),
    "black": ((0, 360), (0.00, 0.2), (0.00, 0.12)), "white": ((0, 360), (0.00, 0.04), (0.95, 1.0)),
    "grey": ((0, 360), (0.00, 0.05), (0.45, 0.60)),
}  # fmt: skip
MAX_SHAPES = 6
RADII = (0.06, 0.26)  # half the width of a shape, as a share of the side
CONTRAST = 60  # least distance in RGB between a shape's colour and the background around it
SHEEN = 12  # in RGB: how much brighter the lit side of a shape is
FINER = 4  # shapes are drawn at this many times the resolution, then averaged


class SyntheticDataset:
    """`scenes` scenes of `image_size`² pixels.

    wanted    each scene has at least one of these shapes
    unwanted  no scene has or names any of these shapes
    """

    def __init__(
        self,
        scenes: int | None = None,
        seed: int = 0,
        image_size: int = 256,
        split: str = "train",
        wanted: Sequence[str] = (),
        unwanted: Sequence[str] = (),
    ):
        if split not in SPLITS:
            raise DataError(f"Composed scenes have no split {split!r}; the splits are {', '.join(SPLITS)}.")
        for shape in (*wanted, *unwanted):
            if shape not in SHAPES:
                raise DataError(f"Composed scenes have no shape {shape!r}; the shapes are {', '.join(SHAPES)}.")
        self.names = tuple(shape for shape in SHAPES if shape not in unwanted)
        if set(wanted) & set(unwanted) or len(self.names) < 2:
            raise DataError(
                f"Composed scenes cannot hold {', '.join(wanted) or 'anything'} without "
                f"{', '.join(unwanted)}; ask for and leave out different shapes, and keep at least two."
            )
        for key, value, least in (("scenes", scenes, 1), ("seed", seed, 0), ("size", image_size, 32)):
            if value is not None and value < least:
                raise DataError(f"Composed scenes have {key}={value}; it is at least {least}.")
        self.scenes = SPLITS[split] if scenes is None else scenes
        self.image_size = image_size
        self.wanted = tuple(wanted)
        options = ",".join([*wanted, *(f"-{shape}" for shape in unwanted)])
        self.name = f"synthetic:{options}@{split}" if options else f"synthetic@{split}"
        self._key = (seed, zlib.crc32(f"{split}|{self.wanted}|{self.names}|{image_size}".encode()))

    @classmethod
    def from_options(cls, options: str, split: str = "train", seed: int = 0) -> SyntheticDataset:
        """`options`, comma-separated in any order: shapes, shapes after a minus sign, `scenes=`, `seed=`, `size=`."""
        numbers: dict[str, int | None] = {"scenes": None, "seed": seed, "size": 256}
        shapes = []
        for word in filter(None, (part.strip() for part in options.split(","))):
            key, is_number, value = word.partition("=")
            if not is_number:
                shapes.append(word)
            elif key not in numbers or not value.isdecimal():
                raise DataError(
                    f"Composed scenes have no option {word!r}; write scenes=N, seed=N, size=N, a shape, or "
                    "a shape after a minus sign to leave it out."
                )
            else:
                numbers[key] = int(value)
        wanted = [shape for shape in shapes if not shape.startswith("-")]
        unwanted = [shape[1:] for shape in shapes if shape.startswith("-")]
        return cls(numbers["scenes"], numbers["seed"], numbers["size"], split, wanted, unwanted)

    def __len__(self) -> int:
        return self.scenes

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return scene_rng(self._key, index, self.scenes, purpose)

    def scene(self, index: int) -> Scene:
        """Scene `index`: always the same picture."""
        rng = self._rng(index, 0)
        names = [str(name) for name in rng.choice(self.names, int(rng.integers(1, MAX_SHAPES + 1)))]
        if len(names) > 1 and rng.random() < 0.6:  # several of a shape, for phrases that tell them apart
            names[1] = names[0]
        if self.wanted and not set(self.wanted) & set(names):
            names[int(rng.integers(len(names)))] = str(rng.choice(self.wanted))
        first = next((k for k, name in enumerate(names) if name in self.wanted), 0)
        names.insert(0, names.pop(first))  # the first to be placed always finds room
        return compose(names, self.names, self.image_size, rng)

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every shape in the scene by its name, one phrase of each other kind that it allows, one class list."""
        return evaluation_samples(self.scene(index), f"{self.name}/{index}", "synthetic", self._rng(index, 1))

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions about scene `index`: any kind of phrase (see `phrasing`) or a class list."""
        return draw_samples(self, index, rng, count)

    def decode(self, index: int, complete: bool = False) -> tuple[Image.Image, SceneLabels]:
        """The picture of scene `index`, and what is where in it; see `PhotoDataset`."""
        scene = self.scene(index)
        return scene.image, SceneLabels.of(scene)

    def ask(self, index: int, rng: np.random.Generator, count: int, labels: Callable[[int], SceneLabels]) -> Draw:
        """See `draw`."""
        known = labels(index)
        scene = known.scene
        prefix = f"{self.name}/{index}"
        return known.draw(index, [training_sample(scene, prefix, "synthetic", rng) for _ in range(count)])


def compose(names: Sequence[str], vocabulary: Sequence[str], side: int, rng: np.random.Generator) -> Scene:
    """Shapes of these names on a background. A shape that does not fit after some tries is left out, never the first.

    Most shapes share three colours, so that neither the colour nor the shape alone identifies one.
    """
    picture = background(side, rng)
    shared = rng.choice(list(COLOURS), 3, replace=False)
    kept: list[str] = []
    colours: list[str] = []
    wholes: list[np.ndarray] = []
    visible: list[np.ndarray] = []
    for name in names:
        for _ in range(20):
            colour = str(rng.choice(shared if rng.random() < 0.8 else list(COLOURS)))
            rgb = shade(colour, rng)
            radius = np.exp(rng.uniform(*np.log(RADII)))
            x, y = rng.uniform(1.1 * radius, 1 - 1.1 * radius, 2)
            cover, at = draw_shape(name, x * side, y * side, radius * side, rng, side)
            mask = np.zeros((side, side), bool)
            mask[at] = cover >= 0.5
            remaining = occlude(visible, wholes, mask)
            merges = any(c == colour and (w & mask).any() for c, w in zip(colours, wholes, strict=True))
            if remaining is not None and not merges and np.abs(picture[at][mask[at]].mean(0) - rgb).max() > CONTRAST:
                break
        else:
            if colours:
                continue
        kept.append(name)
        colours.append(colour)
        wholes.append(mask)
        visible = [*(remaining or ()), mask]
        light = np.linspace(-SHEEN, SHEEN, len(cover), dtype=np.float32)[:: rng.choice((-1, 1)), None, None]
        picture[at] += cover[..., None] * (rgb + light - picture[at])
    picture += np.float32(rng.uniform(0, 6)) * rng.standard_normal(picture.shape, np.float32)
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    instances = tuple(map(Instance.of, kept, colours, visible, wholes))
    absent = tuple(name for name in vocabulary if name not in kept)
    return Scene(image, instances, np.stack(visible), absent, complete=True)


def shade(colour: str, rng: np.random.Generator) -> np.ndarray:
    """A random RGB (3,) float32 in [0, 255] that is clearly `colour`."""
    hue, saturation, value = (rng.uniform(*span) for span in COLOURS[colour])
    return 255 * np.array(colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value), np.float32)


def background(side: int, rng: np.random.Generator) -> np.ndarray:
    """(side, side, 3) float32 around [0, 255]: a gradient, soft noise, sometimes stripes or checks."""
    y, x = (np.mgrid[:side, :side] / side).astype(np.float32)
    turn = np.float32(rng.uniform(0, 2 * np.pi))
    along = x * np.cos(turn) + y * np.sin(turn)
    across = y * np.cos(turn) - x * np.sin(turn)
    first, second = rng.uniform(20, 235, (2, 3)).astype(np.float32)
    picture = first + (np.clip(along, -1, 1)[..., None] + 1) / 2 * (second - first)
    cells = int(rng.integers(2, 24))
    soft = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize((side, side), Image.BICUBIC)
    picture += np.float32(rng.uniform(0, 0.35)) * (np.asarray(soft, np.float32) - 128)
    pattern = rng.random()
    count = np.float32(2 * np.pi * rng.uniform(3, 12))
    if pattern < 0.4:  # stripes, half of them crossed into checks
        bands = np.sin(count * along)
        bands = np.sign(bands * np.sin(count * across)) if pattern < 0.2 else bands
        picture += np.float32(rng.uniform(8, 24)) * bands[..., None]
    return picture


def draw_shape(
    name: str, x: float, y: float, radius: float, rng: np.random.Generator, side: int
) -> tuple[np.ndarray, tuple[slice, slice]]:
    """Draw a shape around (x, y) with this radius, in pixels of a picture of side `side`.

    Returns how much of each pixel is covered, in [0, 1], and the window (rows, columns) of the picture that it is for.
    Shapes are turned at random; a square, a triangle, a cross and a heart stay nearly upright.
    """
    limit = {"square": 15, "heart": 20, "triangle": 20, "cross": 15}.get(name, 180)
    turn = np.radians(rng.uniform(-limit, limit))
    spin = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    left = max(int(x - 1.5 * radius), 0)
    top = max(int(y - 1.5 * radius), 0)
    right = min(int(x + 1.5 * radius) + 2, side)
    bottom = min(int(y + 1.5 * radius) + 2, side)
    canvas = Image.new("L", (FINER * (right - left), FINER * (bottom - top)))
    pen = ImageDraw.Draw(canvas)
    for fill, outline in outlines(name):
        points = (outline @ spin * radius + (x - left, y - top)) * FINER
        pen.polygon([tuple(point) for point in points.tolist()], fill=fill)
    cover = np.asarray(canvas.reduce(FINER), np.float32) / 255
    return cover, (slice(top, bottom), slice(left, right))


@cache
def outlines(name: str) -> tuple[tuple[int, np.ndarray], ...]:
    """Pairs of a fill value (255 to draw, 0 to cut out) and a polygon (n, 2) around (0, 0), radius 1, y downwards."""
    around = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    disc = np.stack([np.cos(around), np.sin(around)], 1)
    match name:
        case "circle":
            shape = [(255, disc)]
        case "ring":
            shape = [(255, disc), (0, 0.55 * disc)]
        case "crescent":
            shape = [(255, disc), (0, 0.85 * disc + (0.5, -0.15))]
        case "square":
            shape = [(255, 0.85 * np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)], float))]
        case "triangle":
            shape = [(255, np.array([(0, -1), (0.95, 0.8), (-0.95, 0.8)]))]
        case "hexagon":
            shape = [(255, disc[::12])]
        case "star":
            tips = np.arange(10) * np.pi / 5
            shape = [(255, np.stack([np.sin(tips), -np.cos(tips)], 1) * np.where(np.arange(10) % 2, 0.42, 1)[:, None])]
        case "cross":
            arm = [(-0.33, -1), (0.33, -1), (0.33, -0.33)]
            quarter = np.array([[0, 1], [-1, 0]])  # clockwise on the screen
            shape = [(255, np.concatenate([np.array(arm) @ np.linalg.matrix_power(quarter, k) for k in range(4)]))]
        case "arrow":
            half = [(0, -1), (0.75, -0.1), (0.28, -0.1), (0.28, 1)]
            shape = [(255, np.array([*half, *((-x, y) for x, y in half[::-1])]))]
        case "heart":
            wide = 16 * np.sin(around) ** 3
            high = 13 * np.cos(around) - 5 * np.cos(2 * around) - 2 * np.cos(3 * around) - np.cos(4 * around)
            shape = [(255, np.stack([wide, -high - 2.5], 1) / 16)]
        case _:
            raise ValueError(f"no outline for {name!r}; the shapes are {', '.join(SHAPES)}")
    return tuple(shape)
