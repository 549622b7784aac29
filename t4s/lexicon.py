"""Words: plurals, synonyms and hypernyms of class names, and the many ways to name a thing. Seeded, no model."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

PLURALS = {
    "person": "people",
    "sheep": "sheep",
    "cattle": "cattle",
    "calf": "calves",
    "ox": "oxen",
    "clothes": "clothes",
    "furniture": "furniture",
    "man": "men",
    "woman": "women",
    "foot": "feet",
    "knife": "knives",
    "scissors": "scissors",
    "skis": "skis",
    "grass": "grass",
    "water": "water",
    "hair": "hair",
    "skin": "skin",
    "mouse": "mice",
}
SYNONYMS = {
    "dog": ("puppy", "doggy", "hound", "pup"), "cat": ("kitty", "kitten", "feline", "pussycat"),
    "person": ("human", "somebody", "man", "woman", "someone"), "horse": ("pony", "stallion", "mare"),
    "cow": ("cattle", "bull", "calf", "ox"), "sheep": ("lamb", "ewe"), "car": ("automobile",), "tv": ("television",),
    "couch": ("sofa",), "potted plant": ("plant",), "motorcycle": ("motorbike",), "bicycle": ("bike",),
    "airplane": ("plane", "aircraft"), "pedestrian": ("walker",), "bicyclist": ("cyclist",), "road": ("street",),
    "sidewalk": ("pavement",), "building": ("house",), "pants": ("trousers",), "purse": ("handbag",),
    "cell phone": ("phone", "mobile phone"), "refrigerator": ("fridge",), "boat": ("ship",), "dining table": ("table",),
    "rooster": ("chicken",), "shoes": ("footwear",), "sunglasses": ("shades",), "sweater": ("pullover",),
}  # fmt: skip
# A hypernym means everything in the photo that has one of these names.
HYPERNYMS = {
    "animal": ("dog", "cat", "horse", "cow", "sheep", "bird", "elephant", "bear", "zebra", "giraffe"),
    "vehicle": ("car", "bus", "truck", "train", "bicycle", "motorcycle", "airplane", "boat"),
    "furniture": ("chair", "couch", "dining table", "bed", "bench"),
    "clothes": ("pants", "dress", "coat", "blouse", "shirt", "skirt", "jeans", "sweater", "blazer", "t-shirt", "suit",
                "stockings", "jacket", "shorts", "vest", "socks", "top", "cardigan", "hoodie", "jumper", "leggings",
                "tights", "romper", "bodysuit", "bra", "cape", "sweatshirt", "tie"),
}  # fmt: skip
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "grey", "white")
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
# The words that phrases are made of, besides names: the embedded tokenizer spells each as one token.
WORDS = (
    "the", "a", "an", "all", "every", "and", "or", "of", "on", "in", "at", "to", "is", "that", "with", "one", "two",
    "left", "right", "top", "bottom", "middle", "centre", "upper", "lower", "first", "second", "side", "front", "back",
    "big", "bigger", "biggest", "large", "larger", "largest", "small", "smaller", "smallest", "photo", "image",
    "picture", "please", "segment", "find", "show", "me", "where", "others", "everything", "thing", "things", "animal",
    "animals", "vehicle", "vehicles", "clothes", "furniture", "man", "men", "woman", "women", "boy", "girl", "child",
    "people", "circle", "square", "triangle", "star", "cross", "ring", "heart", "diamond", "shape", "shapes", *COLOURS,
)  # fmt: skip
_BEFORE = re.compile(r"^(?:the|an?|all|every) ")
NAME_SHARE, SYNONYM_SHARE = 0.5, 0.22  # of training phrases: the bare name, another word for it


def clean_name(text: str) -> str:
    """A class name as people write it: one line, no underscores, trimmed."""
    return " ".join(str(text).replace("_", " ").split())


def plural(name: str) -> str:
    """The English plural of a class name: "dog" → "dogs", "person" → "people", "bus" → "buses"."""
    head, _, last = name.rpartition(" ")
    if last in PLURALS:
        last = PLURALS[last]
    elif last.endswith(("ch", "sh", "x", "ss")) or last in ("bus",):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = last[:-1] + "ies"
    elif not last.endswith("s"):
        last += "s"
    return f"{head} {last}".strip()


def words_for(name: str) -> tuple[str, ...]:
    """The name, its plural and its synonyms."""
    return name, plural(name), *SYNONYMS.get(name, ())


def bare(phrase: str) -> str:
    """A phrase without the word before its name: "the dog" → "dog"."""
    return _BEFORE.sub("", phrase)


def vary(name: str, rng: np.random.Generator) -> str:
    """A phrase that means every `name` in the photo: mostly the name, else a synonym, an article or the plural."""
    kind = rng.random()
    if kind < NAME_SHARE:
        return name
    if kind < NAME_SHARE + SYNONYM_SHARE and name in SYNONYMS:
        name = str(rng.choice(SYNONYMS[name]))
        if rng.random() < 0.5:
            return name
    config = rng.integers(5)
    article = "an" if name[0] in "aeiou" else "a"
    return (f"the {name}", f"{article} {name}", plural(name), f"the {plural(name)}", f"all {plural(name)}")[config]


def without_kin(names: Sequence[str]) -> list[str]:
    """The names, "" in place of each that goes by the name of one before it, or the other way round."""
    kept: list[str] = []
    for name in names:
        kept.append("" if any(akin(name, other) for other in kept) else name)
    return kept


def akin(name: str, other: str) -> bool:
    """True if one of them goes by the name of the other too."""
    return name in KIN.get(other, ()) or other in KIN.get(name, ())
