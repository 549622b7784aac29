"""What is asked and how: question and answer templates, and the many ways to name a thing. Seeded, no model.

Template 0 of each list is the one that evaluation and the front door use.
"""

from __future__ import annotations

import re

import numpy as np

QUESTIONS = (
    "Please segment only the {query} in the image.",
    "Can you segment the {query} in the image?",
    "Where is the {query} in this image? Please give a segmentation mask.",
    "Segment the {query}.",
)
CLASS_QUESTIONS = (
    "Please segment these classes in the image: {query}.",
    "Can you segment the image into these classes: {query}?",
)
ANSWERS = (
    "Sure, here is the segmentation mask: <seg>{body}</seg>",
    "It is <seg>{body}</seg>.",
)
FREE_QUESTION = "{query}\nAnswer the question using a single word or phrase."  # of VQA corpora, as LLaVA-1.5 asks them

PLURALS = {"person": "people", "sheep": "sheep", "cattle": "cattle", "calf": "calves", "ox": "oxen",
           "clothes": "clothes", "furniture": "furniture", "man": "men", "woman": "women", "foot": "feet",
           "knife": "knives", "scissors": "scissors", "skis": "skis", "grass": "grass", "water": "water",
           "hair": "hair", "skin": "skin", "mouse": "mice"}  # fmt: skip
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
    form = rng.integers(5)
    article = "an" if name[0] in "aeiou" else "a"
    return (f"the {name}", f"{article} {name}", plural(name), f"the {plural(name)}", f"all {plural(name)}")[form]


def question(template: str, query: str | tuple[str, ...]) -> str:
    """The template with the phrase, or the class names joined by ", "."""
    return template.replace("{query}", query if isinstance(query, str) else ", ".join(query))


def split_answer(template: str) -> tuple[str, str]:
    """An answer template → the text before the body (it ends with `<seg>`) and the text after it."""
    before, found, after = template.partition("{body}")
    if not found or not before.endswith("<seg>") or not after.startswith("</seg>"):
        raise ValueError(f"The answer template must hold <seg>{{body}}</seg>; it is {template!r}.")
    return before, after
