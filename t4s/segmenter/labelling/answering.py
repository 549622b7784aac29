"""One photo, its questions, its rows: whatever goes wrong with a photo is written into its rows and stops nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from PIL import Image

from t4s.errors import CodecError, EndpointError, ImageError, QueryError, T4SError
from t4s.imaging.loading import open_photo
from t4s.records import Prediction
from t4s.segmenter.labelling.shards import FAILED, UNANSWERED, Asked, Row, answered, question_row, unanswered
from t4s.segmenter.labelling.sources import Photo
from t4s.segmenter.queries import check_query


class Answers(Protocol):
    """A `Segmenter`, or what stands in for one."""

    def encode(self, image: Image.Image) -> object: ...

    def __call__(self, image: object, query: str, refine: str | None, decoding: str) -> Prediction: ...

    def classes(
        self, image: object, names: tuple[str, ...], refine: str | None, decoding: str, classes_per_query: int | None
    ) -> Prediction: ...


@dataclass(frozen=True)
class Questions:
    """What is asked of every photo, how, and of whom.

    asked  phrases, or one class list; a photo with a question of its own is asked that one
    """

    asked: tuple[Asked, ...]
    refine: str | None
    decoding: str
    classes_per_query: int | None
    checkpoint: str
    revision: str

    def about(self, photo: Photo) -> tuple[Asked, ...]:
        return (photo.query,) if photo.query is not None else self.asked


def label_photo(segmenter: Answers, index: int, photo: Photo, questions: Questions) -> list[Row]:
    """The rows about one photo. Raises EndpointError where every photo would fare the same."""
    asked = questions.about(photo)
    rows = [question_row(index, photo.name, each, questions.checkpoint, questions.revision) for each in asked]
    if not rows:
        empty = question_row(index, photo.name, "", questions.checkpoint, questions.revision)
        return [unanswered(empty, photo.fault or f"{photo.name} has no query, and none was given with --query.")]
    if photo.image is None or photo.fault:
        return [unanswered(row, photo.fault) for row in rows]
    try:
        encoded = segmenter.encode(open_photo(photo.image))
    except (ImageError, EndpointError) as error:
        return [_failed(row, error) for row in rows]
    return [_answer(segmenter, encoded, each, row, questions) for each, row in zip(asked, rows, strict=True)]


def _answer(segmenter: Answers, encoded: object, asked: Asked, row: Row, questions: Questions) -> Row:
    how = {"refine": questions.refine, "decoding": questions.decoding}
    try:
        check_query(asked)
        if isinstance(asked, str):
            return answered(row, segmenter(encoded, asked, **how))
        return answered(row, segmenter.classes(encoded, asked, classes_per_query=questions.classes_per_query, **how))
    except (ImageError, QueryError, CodecError, EndpointError) as error:  # a CheckpointError concerns all photos
        return _failed(row, error)


def _failed(row: Row, error: T4SError) -> Row:
    if not isinstance(error, EndpointError):
        return unanswered(row, str(error))
    if error.concerns == "server":
        raise error
    return unanswered(row, str(error), UNANSWERED if error.concerns == "moment" else FAILED)
