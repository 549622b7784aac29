"""Question and answer templates, and phrases as people type them.

    clean(" “Dog.” ")                         # "Dog": what every checkpoint is asked
    normalize("Where's the Dog, please?")     # "dog": what a checkpoint with `normalize_queries` is asked

Template 0 of each list is the one that evaluation and the front door use.
"""

from __future__ import annotations

import re
import unicodedata

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
FREE_QUESTION = "{query}\nAnswer the question using a single word or phrase."  # of VQA datasets, as LLaVA-1.5 asks them
CLASS_SEPARATOR = ", "

# --- phrases as people type them

_PLAIN = str.maketrans(dict.fromkeys("‘’‚‛`´", "'") | dict.fromkeys("“”„‟«»", '"') | dict.fromkeys("‐‑‒–—―−", "-"))
# Soft hyphens, marks of width 0, variants of pictographs.
_INVISIBLE = str.maketrans(dict.fromkeys("\u00ad\u200b\u200e\u200f\u2060\ufeff\ufe0e\ufe0f"))
_QUOTES = "'\""
_CLOSING = ".,;:!?…。、，；：！？．"
_DETERMINER = r"(?:the|an?|all|every|each|any|some|both|this|that|these|those|my|your|our|his|her|their)"
# What a request begins with, before the name of the thing. A verb that is also the beginning of a name ("show jumping",
# "mask", "picture frame") counts only before a determiner, or with a word such as "me" behind it.
_OPENINGS = tuple(
    re.compile(rf"(?:{opening})[,:]? (?=.)")
    for opening in (
        r"(?:hey|hi|hello)(?: there)?(?=,)",
        r"please|pls|kindly",
        r"(?:can|could|would|will) you|(?:can|could|may) (?:i|we)|let(?: me|'?s| us)|help me(?: to)?|try to",
        r"i(?:'?d| would) like(?: you)?(?: to)?|i (?:want|need)(?: you)?(?: to)?|i(?:'m| am) looking for",
        r"(?:segment|find|highlight|locate|detect|identify|extract|isolate)(?: (?:out|me|us|for me))?",
        r"(?:show|give|get) (?:me|us)",
        r"(?:look|search) for|(?:look|point) at|point (?:to|out)|focus on|(?:cut|pick|mask) out",
        r"(?:show|give|get|see|select|choose|mark|mask|outline|draw|trace|circle|crop|label|return|have|only|just)"
        rf"(?= {_DETERMINER} .)",
        r"where(?: is|'?s| are|'re| (?:can|do) (?:i|we|you) (?:find|see))",
        rf"(?:is|are) there|(?:do|can) you see|(?:there(?: is|'?s| are)|i see)(?= {_DETERMINER} .)",
        rf"(?:it'?s|it is|this is|that'?s|(?:an? )?(?:photo|picture|image) of)(?= {_DETERMINER} .)",
        r"(?:which|what) pixels (?:are|show|belong to)|which one is",
        r"(?:(?:the|an?) )?(?:(?:segmentation|binary) )?(?:mask|outline|segmentation|pixels) (?:of|for|on|around|over)"
        rf"(?= {_DETERMINER} .)",
    )
)
_WHERE_IT_IS = re.compile(r"(?:(?:show|tell) (?:me|us) )?where (.+) (?:is|are)")
_SECOND_SENTENCE = re.compile(r"[.?!] (?:please )?(?:give|show|draw|return|output|answer)(?: .*)?$")
_ENDINGS = re.compile(
    r",? (?:please|pls|thanks|thank you|for me"
    r"|(?:in|on|of|from) (?:the|this|that|my) (?:image|photo|photograph|picture|pic))$"
)
_ALL_OF = re.compile(r"^all (?:of )?(?:the|my|your|our|his|her|their|these|those) (?=.)")
_ARTICLES = re.compile(r"^(?:(?:the|an?|this|that|these|those|my|your|our|his|her|their|some|any) (?=.))+")


def clean(phrase: str) -> str:
    """A phrase without what typing leaves in it: Unicode NFC, plain quotes and hyphens, single spaces, none at the
    ends, no closing punctuation, no quotes around all of it. A phrase of nothing else is kept."""
    text = unicodedata.normalize("NFC", phrase).translate(_PLAIN).translate(_INVISIBLE)
    text = " ".join(text.split())
    while shorter := _one_shorter(text):
        text = shorter
    return text


def _one_shorter(text: str) -> str:
    """`text` without its closing punctuation, or without the quotes around it; "" if it has neither."""
    shorter = text.rstrip(_CLOSING + " ")
    if shorter != text:
        return shorter
    quoted = len(text) > 2 and text[0] == text[-1] and text[0] in _QUOTES and text.count(text[0]) == 2
    return text[1:-1].strip() if quoted else ""


def normalize(phrase: str) -> str:
    """A phrase as `clean` leaves it, in lower case, of plain letters and spaces, without the words of a request around
    it and without its article.

    "Please segment the Dog in this photo!" → "dog"; "Where is my dog?" → "dog"; "all of the dogs" → "all dogs";
    "#ｄｏｇ" → "dog". Words are taken off only before others: "find", "the" and "everything" stay.
    """
    text = clean(_plain(phrase))
    while (shorter := clean(_without_request(text))) != text:
        text = shorter
    return _bare(_ARTICLES.sub("", _bare(_ALL_OF.sub("all ", text, count=1))))


def _plain(phrase: str) -> str:
    """In lower case and Unicode NFKC, without pictographs and invisible characters, "_" being a space; as it is, if
    nothing is left."""
    text = phrase.translate(_PLAIN).translate(_INVISIBLE)
    kept = "".join(char for char in text if unicodedata.category(char) not in ("Cf", "Cs", "So", "Sk"))
    plain = unicodedata.normalize("NFKC", kept).lower().replace("_", " ")
    return plain if plain.strip() else phrase


def _bare(text: str) -> str:
    """Without marks, brackets, symbols and invisible characters at both ends; as it is, if it is nothing else, or if a
    bracket would lose its partner."""
    marks = "".join(char for char in set(text) if unicodedata.category(char)[0] in "PSZC")
    shorter = text.strip(marks)
    whole = all(shorter.count(opening) == shorter.count(closing) for opening, closing in ("()", "[]", "{}"))
    return shorter if shorter and whole else text


def _without_request(text: str) -> str:
    """`text` without one opening or ending of a request."""
    if match := _WHERE_IT_IS.fullmatch(text):
        return match[1]
    for opening in _OPENINGS:
        if match := opening.match(text):
            return text[match.end() :]
    text = _SECOND_SENTENCE.sub("", text)
    return _ENDINGS.sub("", text)


# --- templates


def question(template: str, query: str | tuple[str, ...], separator: str = CLASS_SEPARATOR) -> str:
    """The template with the phrase, or with the class names joined by `separator`."""
    return template.replace("{query}", query if isinstance(query, str) else separator.join(query))


def split_answer(template: str, query: str | tuple[str, ...] = "") -> tuple[str, str]:
    """An answer template → the text before the body (it ends with `<seg>`) and the text after it, `query` filled in."""
    before, found, after = template.partition("{body}")
    if not found or not before.endswith("<seg>") or not after.startswith("</seg>"):
        raise ValueError(f"The answer template must hold <seg>{{body}}</seg>; it is {template!r}.")
    return question(before, query), question(after, query)
