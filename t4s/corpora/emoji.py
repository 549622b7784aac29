"""Emoji as things to compose scenes of: pictures with exact outlines, from packages that a user fetches.

    npm install --prefix EMOJI @lobehub/fluent-emoji-3d emoji-datasource-google

    emoji:EMOJI                       10,000 scenes of emoji on made backgrounds; @val and @test are 300 others
    emoji:EMOJI,-rocket,scenes=60     no rocket, neither drawn nor named; 60 scenes
    scenes:PHOTOS,emoji=EMOJI         emoji among the things that are pasted on photos (see `scenes`)

Both packages are under the MIT licence; the first has the pictures, the second says which is called what. Of their
names those of `EMOJI` are used, under words that people would say; an animal or a thing that photos are labelled with
has the same name here.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from t4s.corpora.cutouts import CutOut, colour_word, options_of, paste
from t4s.corpora.staging import SPLITS, Scene, evaluation_samples, in_other_words, stage_rng, training_sample
from t4s.corpora.synthetic import background
from t4s.errors import DataError
from t4s.samples import Sample

PICTURES, NAMES = "node_modules/@lobehub/fluent-emoji-3d/assets", "node_modules/emoji-datasource-google/emoji.json"
FETCH = "npm install --prefix {folder} @lobehub/fluent-emoji-3d emoji-datasource-google"
# What is called by its name in emoji-datasource, and what has another one there.
ALIKE = """
airplane ambulance anchor ant apple avocado axe balloon banana banjo basketball bat beaver bed bee bell bomb book
boomerang boot briefcase broccoli broom bucket bus butterfly cactus camel camera candle car carrot chair clipboard
coat cockroach coin cookie corn crab crocodile croissant crown cucumber cupcake deer dolphin donkey door dragon dress
duck eagle eggplant elephant flamingo flashlight fountain frog gem gift goat gorilla grapes guitar hammer hamburger
hedgehog helicopter hippopotamus hourglass jeans kangaroo key keyboard kite ladder lemon leopard lizard llama lobster
lock lollipop lotus magnet mango medal microphone microscope monkey mosquito mushroom newspaper octopus onion otter
owl oyster package parachute parrot peach peacock pear penguin pie pineapple pizza plunger potato pretzel printer
purse radio rainbow razor rhinoceros rocket rooster rose sandwich satellite saxophone scissors scooter scorpion
screwdriver scroll seal shark sheep shield shorts shrimp skateboard sled sloth snail snake snowman spider sponge spoon
squid strawberry stethoscope sunflower sushi swan taco teapot telescope tent toilet tomato toothbrush tractor train
trophy truck trumpet tulip turkey turtle tv umbrella violin volcano volleyball watch watermelon whale window wrench
""".split()
EMOJI = dict(zip(ALIKE, ALIKE, strict=True)) | {
    "alarm clock": "alarm_clock", "american football": "football", "baseball": "baseball", "bicycle": "bike",
    "boat": "boat", "bread": "bread",
    "castle": "european_castle", "cell phone": "iphone", "cheese": "cheese_wedge",
    "christmas tree": "christmas_tree", "cat": "cat2", "cow": "cow2", "dinosaur": "t-rex", "dog": "dog2",
    "donut": "doughnut", "feather": "feather", "fish": "tropical_fish", "french fries": "fries",
    "glasses": "eyeglasses", "globe": "earth_africa", "high heel": "high_heel", "horse": "racehorse",
    "hot dog": "hotdog", "house": "house", "ice cream": "icecream", "laptop": "computer", "light bulb": "bulb",
    "mailbox": "mailbox", "mouse": "mouse2", "orange": "tangerine", "palette": "art", "palm tree": "palm_tree",
    "pencil": "pencil2", "pig": "pig2", "pill": "pill", "potted plant": "potted_plant",
    "pumpkin": "jack_o_lantern", "rabbit": "rabbit2", "roller skate": "roller_skate", "saw": "carpentry_saw",
    "soccer ball": "soccer", "sunglasses": "dark_sunglasses", "sword": "dagger_knife", "teddy bear": "teddy_bear",
    "tennis racket": "tennis", "test tube": "test_tube", "tiger": "tiger2", "top hat": "tophat",
    "traffic light": "vertical_traffic_light", "t-shirt": "shirt", "ufo": "flying_saucer",
    "wheelchair": "manual_wheelchair", "wine glass": "wine_glass", "yarn": "yarn",
}  # fmt: skip
# What may be in a photo although its source has no name for it: never pasted there, nor said not to be there.
_COMMON = """
balloon bed bell book boot bread briefcase bucket broom camera candle car chair clipboard coat coin cookie deer donkey
door dress duck feather fish flashlight fountain gift glasses goat guitar house jeans key keyboard ladder laptop lock
mailbox medal microphone mouse mushroom newspaper package pencil pig purse rabbit radio rooster rose saw shorts
sponge spoon sunflower tent toilet tractor t-shirt tulip turkey tv window yarn christmas_tree high_heel light_bulb
palm_tree potted_plant soccer_ball wine_glass
"""
COMMON = frozenset(word.replace("_", " ") for word in _COMMON.split())
# A name and what goes by it too: neither stands beside the other, nor is it said not to be there.
KIN = {
    "bird": ("duck", "eagle", "flamingo", "owl", "parrot", "peacock", "penguin", "rooster", "swan", "turkey"),
    "flower": ("lotus", "rose", "sunflower", "tulip"), "cat": ("leopard", "tiger"), "bear": ("teddy bear",),
    "fish": ("dolphin", "shark", "whale"), "bag": ("briefcase", "purse"), "handbag": ("purse",),
    "shoes": ("boot", "high heel", "roller skate"), "boots": ("boot",), "heels": ("high heel",), "hat": ("top hat",),
    "glasses": ("sunglasses",), "face": ("frog", "pumpkin", "teddy bear"), "clock": ("alarm clock", "watch"),
    "chair": ("wheelchair",), "building": ("castle", "house"), "tree": ("christmas tree", "palm tree"),
    "potted plant": ("cactus", "sunflower"), "skirt": ("dress",), "pants": ("jeans",), "truck": ("ambulance",),
    "car": ("ambulance",), "horse": ("donkey",), "sports ball": ("baseball", "basketball", "soccer ball", "volleyball"),
    "shirt": ("t-shirt",), "top": ("t-shirt",), "monkey": ("gorilla",), "bicycle": ("scooter",), "knife": ("sword",),
    "cup": ("trophy",), "vase": ("trophy",), "cell phone": ("radio",), "cougar": ("leopard",), "crab": ("lobster",),
    "crayfish": ("lobster", "shrimp"), "leopard": ("tiger",), "squid": ("octopus",),
    "piano": ("keyboard",), "umbrella": ("parachute",), "orange": ("peach", "mango"), "couch": ("bed",),
    "mandolin": ("banjo", "guitar", "violin"), "guitar": ("banjo", "violin"),
}  # fmt: skip
SIDE = 160  # pixels of a picture in memory
SCENE_SIDE = 256
MAX_THINGS = 6
SEVERAL = 0.6  # of the scenes have at least two things of one name
NAMED = 12  # names that may be asked for in vain of one scene
SYNONYM_SHARE = 0.1  # of training questions use other words for the names


def without_kin(names: Sequence[str]) -> list[str]:
    """The names, "" in place of each that goes by the name of one before it, or the other way round."""
    kept: list[str] = []
    for name in names:
        kept.append("" if any(akin(name, other) for other in kept) else name)
    return kept


def akin(name: str, other: str) -> bool:
    """True if one of them goes by the name of the other too."""
    return name in KIN.get(other, ()) or other in KIN.get(name, ())


class EmojiSet:
    """The emoji of a folder that FETCH filled. `names`: what can be drawn, less `without`."""

    def __init__(self, folder: str | Path, without: Sequence[str] = ()):
        root = Path(folder)
        if not (root / PICTURES).is_dir() or not (root / NAMES).is_file():
            raise DataError(f"{folder} holds no emoji; fetch them with: {FETCH.format(folder=folder)}")
        unknown = [name for name in without if name not in EMOJI]
        if unknown:
            raise DataError(f"There is no emoji {unknown[0]!r} to leave out; there are {', '.join(sorted(EMOJI))}.")
        try:
            rows = json.loads((root / NAMES).read_text(encoding="utf-8"))
            codes = {name: row["unified"].lower() for row in rows for name in row["short_names"]}
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{root / NAMES} is not what emoji-datasource-google ships ({error}); fetch it again: "
                            f"{FETCH.format(folder=folder)}") from error  # fmt: skip
        files = {name: root / PICTURES / f"{codes.get(short)}.webp" for name, short in EMOJI.items()}
        missing = [name for name, file in files.items() if not file.is_file()]
        if missing:
            raise DataError(f"{folder} lacks the emoji {', '.join(missing)}; fetch them with: "
                            f"{FETCH.format(folder=folder)}")  # fmt: skip
        self.names = tuple(sorted(name for name in files if name not in without))
        self._files = files
        self._cut: dict[str, CutOut] = {}

    def cut(self, name: str) -> CutOut:
        """The picture of an emoji, without what is transparent around it."""
        if name not in self._cut:
            self._cut[name] = _cut_out(name, self._files[name])
        return self._cut[name]


def _cut_out(name: str, file: Path) -> CutOut:
    """A picture with transparency as a thing; its colours go on beyond its outline, for an edge that is not dark."""
    try:
        picture = Image.open(file).convert("RGBA")
    except OSError as error:
        raise DataError(f"The emoji {file} cannot be read ({error}); fetch the package again.") from error
    picture = picture.crop(picture.getchannel("A").getbbox())
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(picture)
    cover = pixels[..., 3]
    inside = cover >= 128
    spread = np.asarray(picture.convert("RGBa").filter(ImageFilter.GaussianBlur(3)), np.float32)
    beyond = np.clip(255 * spread[..., :3] / np.maximum(spread[..., 3:], 1), 0, 255).astype(np.uint8)
    colours = np.where(inside[..., None], pixels[..., :3], beyond)
    return CutOut(name, colour_word(colours[inside]), colours, np.ascontiguousarray(cover))


class EmojiCorpus:
    """Scene i, `SCENE_SIDE`², is a pure function of the options, the split, the seed and i."""

    def __init__(self, folder: str | Path, split: str = "train", seed: int = 0, scenes: int | None = None,
                 without: Sequence[str] = ()):  # fmt: skip
        if split not in SPLITS:
            raise DataError(f"Composed scenes have no split {split!r}; the splits are {', '.join(SPLITS)}.")
        self.emoji = EmojiSet(folder, without)
        self.names, self.name = self.emoji.names, f"emoji:{folder}@{split}"
        self.scenes = SPLITS[split] if scenes is None else scenes
        self._key = (seed, zlib.crc32(f"emoji|{split}|{self.names}".encode()))

    @classmethod
    def from_options(cls, text: str, split: str = "train", seed: int = 0) -> EmojiCorpus:
        """`text`: the folder and options, with commas; see the module."""
        folder, options, without = options_of(text)
        if "emoji" in options:
            raise DataError(f"The corpus emoji:{text} names its folder twice; write emoji:{folder}.")
        scenes = int(options["scenes"]) if "scenes" in options else None
        return cls(folder, split, int(options.get("seed", seed)), scenes, without)

    def __len__(self) -> int:
        return self.scenes

    def _rng(self, index: int, purpose: int) -> np.random.Generator:
        return stage_rng(self._key, index, self.scenes, purpose)

    def scene(self, index: int) -> Scene:
        """Scene `index`: always the same picture."""
        rng = self._rng(index, 0)
        wanted = rng.choice(self.names, int(rng.integers(1, MAX_THINGS + 1))).tolist()
        if len(wanted) > 1 and rng.random() < SEVERAL:
            wanted[1] = wanted[0]
        wanted = [name for name in without_kin(wanted) if name]
        others = [name for name in rng.permutation(self.names).tolist() if name not in wanted][:NAMED]
        absent = [name for name in others if not any(akin(name, there) for there in wanted)]
        below = np.clip(background(SCENE_SIDE, rng), 0, 255)
        scene = paste(below, [self.emoji.cut(name) for name in wanted], absent, rng, complete=True)
        if scene is None:
            raise ValueError(f"no room for the first thing of scene {index}, which always finds room")
        return scene

    def __getitem__(self, index: int) -> tuple[Sample, ...]:
        """Every name, one phrase of each other kind that the scene allows, one class list."""
        return evaluation_samples(self.scene(index), f"{self.name}/{index}", "emoji", self._rng(index, 1))

    def draw(self, index: int, rng: np.random.Generator, count: int) -> tuple[Sample, ...]:
        """`count` random questions about scene `index`: any kind of phrase (see `phrasing`) or a class list."""
        scene, place = self.scene(index), f"{self.name}/{index}"
        spoken = (in_other_words(scene, rng) if rng.random() < SYNONYM_SHARE else scene for _ in range(count))
        return tuple(training_sample(asked, place, "emoji", rng) for asked in spoken)
