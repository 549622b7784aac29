"""Questions about photos with the answers that people gave: what a fine-tuned model must not unlearn. JSON lines:

    {"image": "a.jpg", "question": "How many dogs are there?", "answers": ["2", "two", "2"]}
    {"image": "b.jpg", "question": "What colour is the car?", "answers": ["red"], "split": "val"}

    image     path of a photo, from the file's own folder (or absolute)
    question  1 to LONGEST characters, asked as it stands, with `prompts.FREE_QUESTION` around it
    answers   at least one text; with several, an answer counts in full if three people gave it (`metrics.AnswerScore`)
    split     optional; a line without one belongs to every split, and the split "all" has every line

Other fields are left alone. The whole file is checked when it is opened, photos when they are asked for. There are no
masks in it, so `t4s/eval.py` measures on it and nothing trains on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from t4s import prompts
from t4s.data.jsonl import file_of, objects, photos_of, short
from t4s.errors import DataError, ImageError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_QUESTION

LONGEST = MAX_QUESTION - len(prompts.FREE_QUESTION)
EXAMPLE = '{"image": "a.jpg", "question": "How many dogs are there?", "answers": ["2"]}'


@dataclass(frozen=True, eq=False)
class Question:
    """One photo, one question in free words, and the answers that people gave."""

    id: str
    source: str
    image: Image.Image
    question: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class _Line:
    place: str
    number: int
    image: Path
    question: str
    answers: tuple[str, ...]
    split: str | None


class VqaDataset:
    """The photos of one split, in the order in which the file first names them; each yields its questions.

    Raises DataError at the file's first faulty line, naming file, line and field, and if no line is of the split.
    """

    def __init__(self, path: str | Path, split: str = "val"):
        self.name, self.source = f"vqa:{path}@{split}", Path(path).stem
        lines = (
            row if isinstance(row, DataError) else _line(row, place, number, Path(path).parent)
            for place, number, row in objects(Path(path), EXAMPLE)
        )
        self.photos = photos_of(path, lines, split)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Question, ...]:
        """Every question about photo `index`, in the file's order. DataError if the photo cannot be read."""
        lines = self.photos[index]
        try:
            image = open_photo(lines[0].image)
        except ImageError as error:
            raise DataError(f'{lines[0].place}, field "image": {error}') from error
        return tuple(
            Question(f"{self.source}/{line.number}", self.source, image, line.question, line.answers) for line in lines
        )


def _line(row: Any, place: str, number: int, root: Path) -> _Line:
    if not isinstance(row, dict):
        raise DataError(f"{place} is no JSON object; write one such as {EXAMPLE}.")
    image, question, answers, split = (row.get(field) for field in ("image", "question", "answers", "split"))
    if not isinstance(image, str):
        raise DataError(f'{place}, field "image": it is {short(image)}; write the path of a file.')
    if not isinstance(question, str) or not 1 <= len(question.strip()) <= LONGEST:
        raise DataError(f'{place}, field "question": it is {short(question)}; write 1 to {LONGEST} characters.')
    given = isinstance(answers, list) and answers and all(isinstance(a, str) and a.strip() for a in answers)
    if not given:
        raise DataError(
            f'{place}, field "answers": it is {short(answers)}; write a list of at least one text, such as '
            '["two", "2"].'
        )
    if split is not None and not isinstance(split, str):
        raise DataError(f'{place}, field "split": it is {short(split)}; write a name such as "train" or "val".')
    return _Line(place, number, file_of(row, "image", place, root), question.strip(), tuple(answers), split)
