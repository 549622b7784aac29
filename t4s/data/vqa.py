"""Questions about photos with the answers that people gave, to measure what fine-tuning must not unlearn. JSON lines:

    {"image": "a.jpg", "question": "How many dogs are there?", "answers": ["2", "two", "2"]}
    {"image": "b.jpg", "question": "What colour is the car?", "answers": ["red"], "split": "val"}

    image     path of a photo, relative to the file's folder (or absolute)
    question  1 to LONGEST characters, asked as it stands, inside `prompts.FREE_QUESTION`
    answers   at least one text; of several, an answer counts fully if three people gave it (`metrics.AnswerScore`)
    split     as in `jsonl`

Other fields are ignored. All lines are checked when the file is opened, photos when they are used. There are no masks,
so `t4s/eval.py` measures on these data sets and nothing trains on them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from t4s import prompts
from t4s.data.jsonl import find_file, split_of
from t4s.data.reading.names import short
from t4s.data.reading.paths import FileFinder
from t4s.data.reading.splits import photos_of
from t4s.data.reading.text import read_json_lines
from t4s.errors import DataError, ImageError
from t4s.imaging.loading import open_photo
from t4s.limits import MAX_QUESTION

LONGEST = MAX_QUESTION - len(prompts.FREE_QUESTION)
EXAMPLE = '{"image": "a.jpg", "question": "How many dogs are there?", "answers": ["2"]}'


@dataclass(frozen=True, eq=False)
class Question:
    """One photo, one question in free text, and the answers that people gave."""

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

    Raises DataError at the first faulty line, naming file, line and field, and if no line belongs to the split.
    """

    def __init__(self, path: str | Path, split: str = "val"):
        self.name = f"vqa:{path}@{split}"
        self.source = Path(path).stem
        self.photos, self.notes = photos_of(Path(path), list(_read(Path(path))), split, hold_out=False)

    def __len__(self) -> int:
        return len(self.photos)

    def __getitem__(self, index: int) -> tuple[Question, ...]:
        """Every question about photo `index`, in the order of the file. DataError if the photo cannot be read."""
        lines = self.photos[index]
        try:
            image = open_photo(lines[0].image)
        except ImageError as error:
            raise DataError(f'{lines[0].place}, field "image": {error}') from error
        return tuple(
            Question(f"{self.source}/{line.number}", self.source, image, line.question, line.answers) for line in lines
        )


def _read(path: Path) -> Iterator[_Line]:
    if not path.is_file():
        raise DataError(f"There is no file {path}; a vqa dataset is a text file with one JSON object a line.")
    finder = FileFinder([path.parent])
    for place, number, row in read_json_lines(path, EXAMPLE):
        if isinstance(row, DataError):
            raise row
        yield _parse_line(row, place, number, finder)


def _parse_line(row: Any, place: str, number: int, finder: FileFinder) -> _Line:
    if not isinstance(row, dict):
        raise DataError(f"{place} is not a JSON object; write one such as {EXAMPLE}.")
    image = row.get("image")
    question = row.get("question")
    answers = row.get("answers")
    if not isinstance(image, str):
        raise DataError(f'{place}, field "image": it is {short(image)}; write the path of a file.')
    if not isinstance(question, str) or not 1 <= len(question.strip()) <= LONGEST:
        raise DataError(f'{place}, field "question": it is {short(question)}; write 1 to {LONGEST} characters.')
    if not isinstance(answers, list) or not answers or not all(isinstance(a, str) and a.strip() for a in answers):
        raise DataError(
            f'{place}, field "answers": it is {short(answers)}; write a list of at least one text, such as '
            '["two", "2"].'
        )
    photo = find_file(row, "image", place, finder)
    return _Line(place, number, photo, question.strip(), tuple(answers), split_of(row, place))
