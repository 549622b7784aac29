"""How it works, in five pictures made from one answer: photo, grid, text, drafts, mask. Knows no gradio."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os.path import commonprefix

from PIL import Image, ImageDraw, ImageFont

from t4s.decoding.drafting import draft_text
from t4s.imaging import drawing
from t4s.records import Prediction

SIDE = 512  # pixels of the pictures' longest side
DRAFT_ROWS = 4  # rows that are drafted at once, as on a CPU
OWN, ACCEPTED = (252, 205, 170), (196, 232, 216)
_WORD = re.compile(r" ?[^ |\n]+|[|\n]")  # about what a tokenizer makes one token


def pictures(photo: Image.Image, answer: Prediction) -> list[tuple[Image.Image, str]]:
    """(picture, caption), in the order in which it happens. `answer` is to one phrase on `photo`."""
    small = photo.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    rows, columns = answer.grid.shape
    parts = drafts(answer.text, answer.grid.shape, answer.grid.labels)
    passes, real = sum(own for _, own in parts), answer.stats.get("forwards", 0)
    better = f" What the cells resemble drafts better still: {real} passes." if 0 < real < passes else ""
    return [
        (small, f"1. The photo, and a question: where is the {answer.query}?"),
        (drawing.grid_picture(answer.grid, small), f"2. It is cut into {rows}×{columns} cells; each gets a label."),
        (text_picture(parts, small.size, plain=True), "3. The model writes the labels, row by row, as counted runs."),
        (
            text_picture(parts, small.size),
            f"4. Rows repeat, so the next ones are drafted (green) and checked at once: "
            f"{passes} passes, with the model's own words in orange.{better}",
        ),
        (drawing.overlay(photo, answer.masks).resize(small.size), "5. A refiner turns the cells into pixels."),
    ]


def drafts(text: str, shape: tuple[int, int], labels: Sequence[str]) -> list[tuple[str, bool]]:
    """`text` cut into what the model wrote itself (True) and what was drafted and accepted (False).

    A replay at the level of words; the true loop (`decoding.fast`) works on tokens. Joined again it is `text`.
    """
    parts: list[tuple[str, bool]] = []
    at = 0
    while at < len(text):
        if parts:
            kept = len(commonprefix([draft_text(" " + text[:at], shape, labels, DRAFT_ROWS), text[at:]]))
            if kept:
                parts.append((text[at : at + kept], False))
                at += kept
        if word := _WORD.match(text, at):
            parts.append((word[0], True))
            at = word.end()
    return parts


def text_picture(parts: Sequence[tuple[str, bool]], size: tuple[int, int], plain: bool = False) -> Image.Image:
    """The text on a sheet of `size` (w, h) pixels; its parts are marked by who wrote them, unless `plain`."""
    lines: list[list[tuple[str, bool]]] = [[]]
    for text, own in parts:
        first, *rest = text.split("\n")
        lines[-1].append((first, own))
        lines += [[(piece, own)] for piece in rest]
    lines = [line for line in lines if any(piece for piece, _ in line)]
    sheet = Image.new("RGB", size, drawing.PAPER)
    draw = ImageDraw.Draw(sheet)
    step = size[1] / (len(lines) + 1)
    longest = max((sum(len(piece) for piece, _ in line) for line in lines), default=1)
    font = ImageFont.load_default(max(6, min(step * 0.72, 1.85 * size[0] / longest)))
    for row, line in enumerate(lines):
        x, y = 12.0, step * (row + 0.5)
        for piece, own in line:
            width = draw.textlength(piece, font)
            if not plain:
                draw.rectangle((x, y + 1, x + width, y + step - 2), fill=OWN if own else ACCEPTED)
            draw.text((x, y + step / 2), piece, drawing.INK, font, anchor="lm")
            x += width
    return sheet
