"""Records to figures: any number of records into one nested dict of percentages, per source and per class.

    results = figures(records)                  # what results.json holds

Beside the strict and repaired scores stand the grid's own score (cells, no refiner) and two baselines that need no
model: "others" everywhere, and the class's mean mask.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from t4s.evaluation.metrics import AnswerScore, ClassScore, Overlap, PhraseScore
from t4s.evaluation.scoring import COSTS, AnswerRecord, ListRecord, PhraseRecord, Record

MAX_CLASSES = 200  # different phrases of a source that still get a row each: class names, not sentences


@dataclass
class _PhraseScores:
    """The scores that stand side by side."""

    strict: PhraseScore = field(default_factory=PhraseScore)
    repaired: PhraseScore = field(default_factory=PhraseScore)
    grid: PhraseScore = field(default_factory=PhraseScore)
    others: PhraseScore = field(default_factory=PhraseScore)
    average: PhraseScore = field(default_factory=PhraseScore)

    def add(self, record: PhraseRecord) -> None:
        self.strict.add(record.mask, record.box_right, failed=record.invalid is not None)
        self.repaired.add(record.mask, record.box_right)
        self.others.add(Overlap(0, record.mask.true, 0), None if record.box_right is None else False)
        if record.grid is not None:
            self.grid.add(record.grid)
        if record.mean_mask is not None:
            self.average.add(record.mean_mask)

    def figures(self) -> dict[str, Any]:
        kinds = {name: part for name, part in vars(self).items() if part.phrases}
        counts = {"phrases": self.strict.phrases, "targets": self.strict.targets, "invalid": self.strict.failures}
        return counts | {name: percent(part.figures()) for name, part in kinds.items()}


class RunningScore:
    """The score so far, for a progress bar."""

    def __init__(self) -> None:
        self._phrases = PhraseScore()
        self._answers = AnswerScore()
        self._right = 0
        self._pixels = 0

    def add(self, record: Record) -> None:
        if isinstance(record, PhraseRecord):
            self._phrases.add(record.mask, failed=record.invalid is not None)
        elif isinstance(record, AnswerRecord):
            _add_answer(self._answers, record)
        else:
            self._right += sum(pixels for true, predicted, pixels in record.confusion if true == predicted)
            self._pixels += sum(pixels for _, _, pixels in record.confusion)

    def __str__(self) -> str:
        parts = []
        if (ciou := self._phrases.figures()["target_ciou"]) is not None:
            parts.append(f"cIoU {100 * ciou:.1f}")
        if self._pixels:
            parts.append(f"pixels {100 * self._right / self._pixels:.1f}")
        if (accuracy := self._answers.figures()["vqa_accuracy"]) is not None:
            parts.append(f"VQA {100 * accuracy:.1f}")
        return ", ".join(parts)


def percent(fractions: dict[str, Any]) -> dict[str, Any]:
    """Fractions, nested or None, → percent."""
    result: dict[str, Any] = {}
    for name, value in fractions.items():
        if isinstance(value, dict):
            result[name] = percent(value)
        else:
            result[name] = None if value is None else 100 * value
    return result


def figures(records: Iterable[Record]) -> dict[str, Any]:
    """Records → {"phrases": …, "lists": …, "sources": {source: …}, "words": …, "vqa": …, "cost": …, "invalid": […]}.

    In percent; what was not queried is missing. A source has "classes" if it has at most MAX_CLASSES different phrases.
    "words" compares rewordings with the very names they stand for, and nothing else counts them. The order of the
    records does not matter, except for that of "invalid".
    """
    phrases, rewordings, lists, answers = [], [], [], []
    for record in records:
        if isinstance(record, ListRecord):
            lists.append(record)
        elif isinstance(record, AnswerRecord):
            answers.append(record)
        else:
            (phrases if record.rewording is None else rewordings).append(record)
    result: dict[str, Any] = {}
    if phrases:
        result["phrases"] = _phrase_figures(phrases)
        sources = _grouped(phrases, lambda record: record.source)
        result["sources"] = {name: _source_figures(part) for name, part in sources}
    if lists:
        result["lists"] = _list_figures(lists)
    if rewordings:
        result["words"] = _rewording_figures(phrases, rewordings)
    if answers:
        result["vqa"] = _answer_figures(answers)
    result["cost"] = _cost([*phrases, *lists, *answers])
    ordered = (*phrases, *lists, *rewordings, *answers)
    result["invalid"] = [{"id": record.id, "why": record.invalid} for record in ordered if record.invalid is not None]
    return result


def _grouped(
    records: Iterable[PhraseRecord], key: Callable[[PhraseRecord], str]
) -> list[tuple[str, list[PhraseRecord]]]:
    groups: dict[str, list[PhraseRecord]] = {}
    for record in records:
        groups.setdefault(key(record), []).append(record)
    return sorted(groups.items())


def _phrase_figures(records: Iterable[PhraseRecord]) -> dict[str, Any]:
    scores = _PhraseScores()
    for record in records:
        scores.add(record)
    return scores.figures()


def _rewording_figures(phrases: Sequence[PhraseRecord], rewordings: Sequence[PhraseRecord]) -> dict[str, Any]:
    """{kind: {"asked": the rewordings' figures, "names": those of the phrases they stand for}}."""
    originals = {record.id: record for record in phrases}
    result = {}
    for kind, part in _grouped(rewordings, lambda record: record.rewording.kind):
        names = [originals[record.rewording.original] for record in part]
        result[kind] = {"asked": _phrase_figures(part), "names": _phrase_figures(names)}
    return result


def _source_figures(records: Sequence[PhraseRecord]) -> dict[str, Any]:
    classes = _grouped(records, lambda record: record.label)
    result = _phrase_figures(records)
    if len(classes) <= MAX_CLASSES:
        result["classes"] = {name: _phrase_figures(part) for name, part in classes}
    return result


def _list_figures(records: Sequence[ListRecord]) -> dict[str, Any]:
    """Class lists, over the union of all labels that were queried."""
    labels = ("others", *dict.fromkeys(name for record in records for name in record.labels[1:]))
    index = {name: k for k, name in enumerate(labels)}
    strict, repaired, others = ClassScore(labels), ClassScore(labels), ClassScore(labels)
    for record in records:
        counts = np.zeros((len(labels), len(labels)), np.int64)
        columns = [index[name] for name in record.labels]
        for true, predicted, pixels in record.confusion:
            counts[columns[true], columns[predicted]] += pixels
        strict.add(counts, failed=record.invalid is not None)
        repaired.add(counts)
        nothing = np.zeros_like(counts)
        nothing[:, 0] = counts.sum(1)
        others.add(nothing)
    repaired_classes = repaired.classes()
    return {
        "photos": strict.photos,
        "invalid": strict.failures,
        "strict": percent(strict.figures()),
        "repaired": percent(repaired.figures()),
        "others": percent(others.figures()),
        "classes": {
            name: percent({"strict": iou, "repaired": repaired_classes[name]}) for name, iou in strict.classes().items()
        },
    }


def _add_answer(score: AnswerScore, record: AnswerRecord) -> None:
    score.add(record.reply or "", record.references, failed=record.reply is None)


def _answer_figures(records: Sequence[AnswerRecord]) -> dict[str, Any]:
    """VQA accuracy in percent, and how many answers were refused, truncated, or held a grid."""
    score = AnswerScore()
    for record in records:
        _add_answer(score, record)
    return {
        "questions": score.questions,
        **percent(score.figures()),
        "refused": sum(record.reply is None for record in records),
        "cut": sum(record.truncated for record in records),
        "with_grids": sum(record.grids > 0 for record in records),
    }


def _cost(records: Sequence[Record]) -> dict[str, float | int | None]:
    """Means over the answers that a model gave; forwards are the passes after the prefill."""
    stats = [record.stats for record in records if "tokens" in record.stats]
    means = {name: sum(each[name] for each in stats) / len(stats) if stats else None for name in COSTS}
    return {"answers": len(stats), **means}


def timings(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """{"prefill_seconds": {"mean": …, "median": …}, …} over the answers: they differ from run to run."""
    values: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.stats.items():
            if name.endswith("_seconds"):
                values.setdefault(name, []).append(value)
    return {name: {"mean": float(np.mean(v)), "median": float(np.median(v))} for name, v in sorted(values.items())}
