"""Question and answer templates. Template 0 of each list is the one that evaluation and the front door use."""

from __future__ import annotations

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


def question(template: str, query: str | tuple[str, ...], separator: str = CLASS_SEPARATOR) -> str:
    """The template with the phrase, or with the class names joined by `separator`."""
    return template.replace("{query}", query if isinstance(query, str) else separator.join(query))


def split_answer(template: str, query: str | tuple[str, ...] = "") -> tuple[str, str]:
    """An answer template → the text before the body (it ends with `<seg>`) and the text after it, `query` filled in."""
    before, found, after = template.partition("{body}")
    if not found or not before.endswith("<seg>") or not after.startswith("</seg>"):
        raise ValueError(f"The answer template must hold <seg>{{body}}</seg>; it is {template!r}.")
    return question(before, query), question(after, query)
