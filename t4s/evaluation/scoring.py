"""One answer to one record: whole numbers only, needing neither photo nor model afterwards.

    record = score(sample, prediction)          # PhraseRecord, or ListRecord for a class list
    record.to_json()                            # as the run log keeps it; record_from_json reads it back

Every answer is scored at the photo's own size, twice. *Repaired* takes the mask as it came out, as published tables do.
*Strict* gives 0 to an answer whose text is not valid: a text that does not decode, a label that was not queried, a
refused phrase. `figures` turns records into tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from t4s import codec, lexicon
from t4s.data.vqa import Question
from t4s.errors import CodecError
from t4s.evaluation.metrics import Overlap, box_iou, confusion, overlap
from t4s.records import Answer, Prediction, Sample

COSTS = ("tokens", "forwards")  # of `Prediction.stats`: the same in every run


@dataclass(frozen=True)
class Rewording:
    """A phrase that stands for another one: its `kind` ("plural" or "synonym") and the original sample's id."""

    kind: str
    original: str


@dataclass(frozen=True)
class PhraseRecord:
    """The score of one phrase. `invalid`: why the answer is invalid, or None. `grid` counts cells, the rest pixels."""

    id: str
    source: str
    label: str
    mask: Overlap
    grid: Overlap | None = None  # None if the query was refused
    box_right: bool | None = None  # None if the data set has no official box
    mean_mask: Overlap | None = None  # the class's mean mask, where that baseline is scored
    rewording: Rewording | None = None
    invalid: str | None = None
    stats: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return _without_none(
            {
                "id": self.id,
                "source": self.source,
                "label": self.label,
                "mask": _counts(self.mask),
                "grid": _counts(self.grid),
                "box": self.box_right,
                "average": _counts(self.mean_mask),
                "words": None if self.rewording is None else [self.rewording.kind, self.rewording.original],
                "stats": self.stats,
            }
        ) | {"invalid": self.invalid}


@dataclass(frozen=True)
class ListRecord:
    """The score of one class list. `confusion`: (true label, predicted label, pixels), indexes into `labels`."""

    id: str
    source: str
    labels: tuple[str, ...]
    confusion: tuple[tuple[int, int, int], ...]
    invalid: str | None = None
    stats: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "source": self.source,
            "labels": list(self.labels),
            "confusion": [list(entry) for entry in self.confusion],
            "stats": self.stats,
            "invalid": self.invalid,
        }


@dataclass(frozen=True)
class AnswerRecord:
    """One reply to a VQA question beside the answers that people gave; no reply if the question was refused."""

    id: str
    source: str
    references: tuple[str, ...]
    reply: str | None
    grids: int = 0
    truncated: bool = False
    invalid: str | None = None
    stats: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "source": self.source,
            "answers": list(self.references),
            "said": self.reply,
            "grids": self.grids,
            "cut": self.truncated,
            "stats": self.stats,
            "invalid": self.invalid,
        }


Record = PhraseRecord | ListRecord | AnswerRecord


def record_from_json(row: dict[str, Any]) -> Record:
    """The inverse of `to_json`."""
    shared = {"id": row["id"], "source": row["source"], "invalid": row["invalid"], "stats": row.get("stats", {})}
    if "confusion" in row:
        entries = tuple((true, predicted, pixels) for true, predicted, pixels in row["confusion"])
        return ListRecord(labels=tuple(row["labels"]), confusion=entries, **shared)
    if "said" in row:
        references = tuple(row["answers"])
        return AnswerRecord(
            references=references, reply=row["said"], grids=row["grids"], truncated=row["cut"], **shared
        )
    return PhraseRecord(
        label=row["label"],
        mask=Overlap(*row["mask"]),
        grid=Overlap(*row["grid"]) if "grid" in row else None,
        box_right=row.get("box"),
        mean_mask=Overlap(*row["average"]) if "average" in row else None,
        rewording=Rewording(*row["words"]) if "words" in row else None,
        **shared,
    )


def _counts(counts: Overlap | None) -> list[int] | None:
    return None if counts is None else [counts.predicted, counts.true, counts.both]


def _without_none(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if value is not None}


# --- answers to records


def score(
    sample: Sample,
    prediction: Prediction | None,
    refused: str | None = None,
    mean_mask: np.ndarray | None = None,
    rewording: Rewording | None = None,
) -> PhraseRecord | ListRecord:
    """One answer → its record.

    prediction  None if the query was `refused` (why): it counts as invalid and, repaired, as others everywhere
    mean_mask   (H, W) bool: the cells of the class's mean mask, for the baseline; phrases only

    Raises DataError if the prediction is not of the photo's size.
    """
    invalid, stats = refused, {}
    if prediction is not None:
        invalid, stats = invalidity(prediction), _kept(prediction.stats)
    if isinstance(sample.query, tuple):
        answer = np.zeros(sample.class_map.shape, np.int16) if prediction is None else label_map(prediction, sample)
        counts = confusion(answer, sample.class_map, len(sample.labels))
        entries = tuple((int(row), int(column), int(counts[row, column])) for row, column in np.argwhere(counts))
        return ListRecord(sample.id, sample.source, sample.labels, entries, invalid, stats)
    truth, scored = sample.class_map > 0, sample.class_map >= 0
    mask, grid, box = np.zeros(truth.shape, bool), None, None
    if prediction is not None:
        mask, box = prediction.mask, prediction.box
        grid = overlap(prediction.grid.ids > 0, sample.grid(prediction.grid.shape).ids > 0)
    box_right = None
    if sample.box is not None:
        box_right = box is not None and box_iou(box, sample.box) >= 0.5
    return PhraseRecord(
        sample.id,
        sample.source,
        sample.labels[1],
        mask=overlap(mask, truth, scored),
        grid=grid,
        box_right=box_right,
        mean_mask=None if mean_mask is None else overlap(_paint(mean_mask, truth.shape), truth, scored),
        rewording=rewording,
        invalid=invalid,
        stats=stats,
    )


def score_answer(question: Question, answer: Answer | None, refused: str | None = None) -> AnswerRecord:
    """One reply → its record; None if the question was `refused` (why), which counts as wrong."""
    record = AnswerRecord(question.id, question.source, question.answers, reply=None, invalid=refused)
    if answer is None:
        return record
    truncated = answer.stats["ended"] == "truncated"
    return replace(record, reply=answer.text, grids=len(answer.spans), truncated=truncated, stats=_kept(answer.stats))


def _kept(stats: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in stats.items() if name in COSTS or name.endswith("_seconds")}


def _paint(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    grid = codec.DescriptorGrid(cells.astype(np.int16), ("others", "target"))
    return codec.mask_from_grid(grid, "target", size)


def _asked(prediction: Prediction) -> tuple[str, ...]:
    """The labels that the answer may have, in the order of the sample's."""
    names = (prediction.asked,) if isinstance(prediction.asked, str) else prediction.asked
    return tuple(codec.clean_label(name) for name in names)


def invalidity(prediction: Prediction) -> str | None:
    """Why the answer's text is not valid, or None. A refiner's own faults do not make a text invalid."""
    queried = _asked(prediction)
    foreign = [label for label in prediction.grid.labels[1:] if label not in queried]
    if foreign:
        return f"it contains {foreign[0]!r}, which was not queried"
    if wrong := prediction.stats.get("invalid_parts"):
        return f"{wrong} of {prediction.stats['parts']} parts of the list are not valid"
    if not prediction.faults or "parts" in prediction.stats:
        return None
    try:
        codec.decode(prediction.text, prediction.grid.shape)
    except CodecError as error:
        return str(error)
    return None


def label_map(prediction: Prediction, sample: Sample) -> np.ndarray:
    """The predicted masks as (h, w) int16 indexes into the sample's labels; foreign labels are others."""
    index = {name: k for k, name in enumerate(_asked(prediction), 1)}
    answer = np.zeros(prediction.mask.shape, np.int16)
    for label, mask in prediction.masks.items():
        answer[mask] = index.get(label, 0)
    return answer


# --- samples


def covers(sample: Sample, least: float) -> bool:
    """True if the target is absent, or covers at least this share of the scored pixels; lists are always queried."""
    if isinstance(sample.query, tuple) or sample.absent:
        return True
    return int((sample.class_map > 0).sum()) >= least * int((sample.class_map >= 0).sum())


def reworded(sample: Sample) -> list[tuple[Rewording, Sample]]:
    """The same query by its plural and its synonyms, for a class that is in the photo."""
    if not isinstance(sample.query, str) or sample.absent:
        return []
    name, plural = sample.query, lexicon.plural(sample.query)
    words = [("plural", plural)] if plural != name and lexicon.is_english(name) else []
    words += [("synonym", word) for word in lexicon.SYNONYMS.get(name, ())]
    return [
        (
            Rewording(kind, sample.id),
            replace(sample, id=f"{sample.id} as {word}", query=word, labels=("others", codec.clean_label(word))),
        )
        for kind, word in words
    ]


def as_class_list(samples: Iterable[Sample], names: Sequence[str]) -> Sample | None:
    """One photo's phrases as a single class list of these names, or None if it has none of them.

    A pixel of two names counts for the later one. Names that the photo has no phrase for count as absent.
    """
    index = {name: k for k, name in enumerate(names, 1)}
    present = [sample for sample in samples if sample.query in index and not sample.absent]
    if not present:
        return None
    first = present[0]
    classes = np.where(first.class_map < 0, first.class_map, np.int16(0))
    for sample in sorted(present, key=lambda sample: index[sample.query]):
        classes[sample.class_map > 0] = index[sample.query]
    photo = first.id.removesuffix(f"/{first.query}")
    labels = ("others", *(codec.clean_label(name) for name in names))
    return replace(first, id=f"{photo}/{', '.join(names)}", query=tuple(names), labels=labels, class_map=classes)
