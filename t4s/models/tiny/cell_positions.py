"""Cell-aligned positions: the next cell to be written is always at the same rotary distance from its image token.

A small language model trained from scratch does not learn to count line breaks and add up counts. So the embedded
model's position ids say where it is: image token k, in row order, has position k; every answer token has a constant
plus the number of cells written so far; the question and anything else of the prompt lie out of the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def cells_written(pieces: Iterable[str], cells: int) -> list[int]:
    """For each piece of an answer, the cells that the text up to and including it has written, at most `cells`.

    A count is the number behind a `*`; digits read so far count as it, so a number may span pieces.
    """
    written, closed, count, counting = [], 0, 0, False
    for piece in pieces:
        for character in piece:
            if character == "*":
                closed, count, counting = closed + count, 0, True
            elif counting and character.isascii() and character.isdigit():
                count = min(count * 10 + int(character), cells)
            elif counting and not (character == " " and count == 0):
                closed, count, counting = closed + count, 0, False
        written.append(min(closed + count, cells))
    return written


def prefix_positions(ids: Sequence[int], image_token: int, cells: int) -> list[int]:
    """Image token k has position k; anything else before the question lies behind all answers."""
    image, other, positions = 0, 4 * cells, []
    for token in ids:
        if token == image_token:
            positions.append(image)
            image += 1
        else:
            positions.append(other)
            other += 1
    return positions


def question_positions(length: int, cells: int) -> list[int]:
    """The question lies behind everything else."""
    return list(range(5 * cells, 5 * cells + length))


def answer_positions(pieces: Iterable[str], cells: int) -> list[int]:
    """`pieces`: the text of every token of the answer so far."""
    return [cells + written for written in cells_written(pieces, cells)]
