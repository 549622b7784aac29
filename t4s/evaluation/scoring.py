"""From answers to figures: one record of whole numbers per answer, and any number of records into one table.

    record = score(sample, prediction)          # plain JSON, pixel counts; needs no photo afterwards
    results = figures(records)                  # percent, strict and repaired, per source and per class

Every answer is scored at the photo's own size, twice. *Repaired* takes the mask that came out, as published
tables do. *Strict* gives 0 to an answer whose text is not valid: a text that does not decode, a label that was
not asked for, a phrase that was refused. Beside them stand the grid's own score (cells, no refiner) and two
baselines that need no model: all `others`, and the class's average grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from t4s import codec, lexicon
from t4s.data.vqa import Question
from t4s.errors import CodecError
from t4s.evaluation.metrics import AnswerScore, ClassScore, Overlap, PhraseScore, box_iou, confusion, overlap
from t4s.records import Answer, Prediction, Sample

COSTS = ("tokens", "forwards")  # of `Prediction.stats`: the same in every run
MAX_CLASSES = 200  # phrases that one source may have and still get a row each: class names, not sentences
Record = dict[str, Any]


def score(
    sample: Sample,
    prediction: Prediction | None,
    refused: str | None = None,
    layout: str = "rows",
    average: np.ndarray | None = None,
) -> Record:
    """One answer → its record.

    prediction  None if the question was `refused` (why): it counts as invalid and, repaired, as others everywhere
    layout      how the checkpoint writes its grids
    average     (H, W) bool: the class's average grid, for the baseline; phrases only

    Raises DataError if the prediction is not of the photo's size.
    """
    record: Record = {"id": sample.id, "source": sample.source, "invalid": refused}
    if prediction is not None:
        record["invalid"] = invalidity(prediction, sample, layout)
        record["stats"] = _kept(prediction.stats)
    if isinstance(sample.query, tuple):
        answer = np.zeros(sample.class_map.shape, np.int16) if prediction is None else label_map(prediction, sample)
        counts = confusion(answer, sample.class_map, len(sample.labels))
        rows, columns = np.nonzero(counts)
        record["labels"] = list(sample.labels)
        record["confusion"] = [[int(r), int(c), int(counts[r, c])] for r, c in zip(rows, columns, strict=True)]
        return record
    truth, scored = sample.class_map > 0, sample.class_map >= 0
    empty = np.zeros(truth.shape, bool)
    record["label"] = sample.labels[1]
    record["mask"] = _counts(overlap(empty if prediction is None else prediction.mask, truth, scored))
    if prediction is not None:
        cells = sample.grid(prediction.grid.shape).ids > 0
        record["grid"] = _counts(overlap(prediction.grid.ids > 0, cells))
    if sample.box is not None:
        box = None if prediction is None else prediction.box
        record["box"] = box is not None and box_iou(box, sample.box) >= 0.5
    if average is not None:
        record["average"] = _counts(overlap(_paint(average, truth.shape), truth, scored))
    return record


def score_answer(question: Question, answer: Answer | None, refused: str | None = None) -> Record:
    """One answer in free words → its record; None if the question was `refused` (why), which counts as wrong."""
    record: Record = {
        "id": question.id,
        "source": question.source,
        "invalid": refused,
        "answers": list(question.answers),
        "said": None,
    }
    if answer is not None:
        record |= {
            "said": answer.text,
            "grids": len(answer.spans),
            "cut": answer.stats["ended"] == "truncated",
            "stats": _kept(answer.stats),
        }
    return record


def _kept(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in stats.items() if name in COSTS or name.endswith("_seconds")}


def _paint(cells: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    grid = codec.DescriptorGrid(cells.astype(np.int16), ("others", "target"))
    return codec.mask_from_grid(grid, "target", size)


def _counts(counts: Overlap) -> list[int]:
    return [counts.predicted, counts.true, counts.both]


def invalidity(prediction: Prediction, sample: Sample, layout: str) -> str | None:
    """Why the answer's text is not valid, or None. A refiner's own faults do not make a text invalid."""
    asked = {codec.clean_label(name) for name in sample.labels[1:]}
    foreign = [label for label in prediction.grid.labels[1:] if label not in asked]
    if foreign:
        return f"it names {foreign[0]!r}, which was not asked for"
    if wrong := prediction.stats.get("invalid_parts"):
        return f"{wrong} of {prediction.stats['parts']} parts of the list are not valid"
    if not prediction.faults or "parts" in prediction.stats:
        return None
    try:
        codec.decode(prediction.text, prediction.grid.shape, layout)
    except CodecError as error:
        return str(error)
    return None


def label_map(prediction: Prediction, sample: Sample) -> np.ndarray:
    """The answer's masks as (h, w) int16 indexes into the sample's labels; foreign labels are others."""
    index = {codec.clean_label(name): k for k, name in enumerate(sample.labels) if k}
    answer = np.zeros(prediction.mask.shape, np.int16)
    for label, mask in prediction.masks.items():
        answer[mask] = index.get(label, 0)
    return answer


def other_words(sample: Sample) -> list[tuple[str, Sample]]:
    """The same question in other words: ("plural" or "synonym", sample), for a name that is there and has some."""
    if not isinstance(sample.query, str) or sample.absent:
        return []
    name = sample.query
    words = [("plural", lexicon.plural(name))] if lexicon.plural(name) != name else []
    words += [("synonym", word) for word in lexicon.SYNONYMS.get(name, ())]
    return [
        (kind, replace(sample, id=f"{sample.id} as {word}", query=word, labels=("others", codec.clean_label(word))))
        for kind, word in words
    ]


def as_list(samples: Iterable[Sample], names: Sequence[str]) -> Sample | None:
    """One photo's phrases as a single class list of these names, or None if it has none of them.

    A pixel of two names counts for the later one. Only names that are there are known, so the others count as absent.
    """
    index = {name: k for k, name in enumerate(names, 1)}
    there = [sample for sample in samples if sample.query in index and not sample.absent]
    if not there:
        return None
    classes = np.where(there[0].class_map < 0, there[0].class_map, np.int16(0))
    for sample in sorted(there, key=lambda sample: index[sample.query]):
        classes[sample.class_map > 0] = index[sample.query]
    photo = there[0].id.removesuffix(f"/{there[0].query}")
    labels = ("others", *(codec.clean_label(name) for name in names))
    return replace(there[0], id=f"{photo}/{', '.join(names)}", query=tuple(names), labels=labels, class_map=classes)


# --- records → figures


@dataclass
class _Phrases:
    """The four or five scores that stand side by side."""

    strict: PhraseScore = field(default_factory=PhraseScore)
    repaired: PhraseScore = field(default_factory=PhraseScore)
    grid: PhraseScore = field(default_factory=PhraseScore)
    others: PhraseScore = field(default_factory=PhraseScore)
    average: PhraseScore = field(default_factory=PhraseScore)

    def add(self, record: Record) -> None:
        counts, invalid = Overlap(*record["mask"]), record["invalid"] is not None
        box = record.get("box")
        self.strict.add(counts, box, failed=invalid)
        self.repaired.add(counts, box)
        self.others.add(Overlap(0, counts.true, 0), None if box is None else False)
        if "grid" in record:
            self.grid.add(Overlap(*record["grid"]))
        if "average" in record:
            self.average.add(Overlap(*record["average"]))

    def figures(self) -> dict[str, Any]:
        kinds = {name: part for name, part in vars(self).items() if part.phrases}
        counts = {"phrases": self.strict.phrases, "targets": self.strict.targets, "invalid": self.strict.failures}
        return counts | {name: percent(part.figures()) for name, part in kinds.items()}


class Running:
    """The score so far, for a progress bar."""

    def __init__(self) -> None:
        self.phrases, self.answers, self.right, self.pixels = PhraseScore(), AnswerScore(), 0, 0

    def add(self, record: Record) -> None:
        if "mask" in record:
            self.phrases.add(Overlap(*record["mask"]), failed=record["invalid"] is not None)
        elif "said" in record:
            _add_answer(self.answers, record)
        else:
            self.right += sum(pixels for true, said, pixels in record["confusion"] if true == said)
            self.pixels += sum(pixels for _, _, pixels in record["confusion"])

    def text(self) -> str:
        ciou = self.phrases.figures()["target_ciou"]
        parts = [] if ciou is None else [f"cIoU {100 * ciou:.1f}"]
        parts += [f"pixels {100 * self.right / self.pixels:.1f}"] if self.pixels else []
        accuracy = self.answers.figures()["vqa_accuracy"]
        parts += [] if accuracy is None else [f"VQA {100 * accuracy:.1f}"]
        return ", ".join(parts)


def percent(figures: dict[str, Any]) -> dict[str, Any]:
    """Fractions, nested or None, → percent."""
    return {
        name: percent(value) if isinstance(value, dict) else None if value is None else 100 * value
        for name, value in figures.items()
    }


def figures(records: Iterable[Record]) -> dict[str, Any]:
    """Records → {"phrases": …, "lists": …, "sources": {source: …}, "words": …, "vqa": …, "cost": …, "invalid": […]}.

    In percent; what was not asked is missing. A source's "classes" is there if it has at most MAX_CLASSES different
    phrases. "words" holds the answers to `other_words` beside those to the very names they stand for, and nothing else
    counts them. The order of the records does not matter, but for that of "invalid".
    """
    phrases, lists, worded, answers = [], [], [], []
    for record in records:
        kind = worded if "words" in record else phrases if "mask" in record else answers if "said" in record else lists
        kind.append(record)
    result: dict[str, Any] = {}
    if phrases:
        result["phrases"] = _phrase_figures(phrases)
        result["sources"] = {name: _source(part) for name, part in _grouped(phrases, "source")}
    if lists:
        result["lists"] = _list_figures(lists)
    if worded:
        names = {record["id"]: record for record in phrases}
        result["words"] = {
            kind: {"asked": _phrase_figures(part), "names": _phrase_figures([names[r["words"][1]] for r in part])}
            for kind, part in _grouped([r | {"kind": r["words"][0]} for r in worded], "kind")
        }
    if answers:
        result["vqa"] = _answer_figures(answers)
    result["cost"] = _cost([*phrases, *lists, *answers])
    every = (*phrases, *lists, *worded, *answers)
    result["invalid"] = [{"id": r["id"], "why": r["invalid"]} for r in every if r["invalid"] is not None]
    return result


def _grouped(records: list[Record], key: str) -> list[tuple[str, list[Record]]]:
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record[key], []).append(record)
    return sorted(groups.items())


def _phrase_figures(records: list[Record]) -> dict[str, Any]:
    scores = _Phrases()
    for record in records:
        scores.add(record)
    return scores.figures()


def _source(records: list[Record]) -> dict[str, Any]:
    classes = _grouped(records, "label")
    own = _phrase_figures(records)
    if len(classes) <= MAX_CLASSES:
        own["classes"] = {name: _phrase_figures(part) for name, part in classes}
    return own


def _list_figures(records: list[Record]) -> dict[str, Any]:
    """Class lists, over the union of the tables that were asked."""
    labels = ("others", *dict.fromkeys(name for record in records for name in record["labels"][1:]))
    index = {name: k for k, name in enumerate(labels)}
    kinds = {name: ClassScore(labels) for name in ("strict", "repaired", "others")}
    for record in records:
        counts = np.zeros((len(labels), len(labels)), np.int64)
        own = [index[name] for name in record["labels"]]
        for true, said, pixels in record["confusion"]:
            counts[own[true], own[said]] += pixels
        kinds["strict"].add(counts, failed=record["invalid"] is not None)
        kinds["repaired"].add(counts)
        nothing = np.zeros_like(counts)
        nothing[:, 0] = counts.sum(1)
        kinds["others"].add(nothing)
    return {
        "photos": kinds["strict"].photos,
        "invalid": kinds["strict"].failures,
        **{name: percent(kind.figures()) for name, kind in kinds.items()},
        "classes": {
            name: percent({"strict": strict, "repaired": kinds["repaired"].classes()[name]})
            for name, strict in kinds["strict"].classes().items()
        },
    }


def _add_answer(score: AnswerScore, record: Record) -> None:
    score.add(record["said"] or "", record["answers"], failed=record["said"] is None)


def _answer_figures(records: list[Record]) -> dict[str, Any]:
    """VQA accuracy in percent, and how many answers were refused, cut at the limit, or held a grid."""
    score = AnswerScore()
    for record in records:
        _add_answer(score, record)
    counts = {
        "refused": sum(r["said"] is None for r in records),
        "cut": sum(r.get("cut", False) for r in records),
        "with_grids": sum(r.get("grids", 0) > 0 for r in records),
    }
    return {"questions": score.questions, **percent(score.figures()), **counts}


def _cost(records: list[Record]) -> dict[str, float | int | None]:
    """Means over the answers that a model gave; passes are those after the prefill."""
    stats = [r["stats"] for r in records if "tokens" in r.get("stats", {})]
    return {"answers": len(stats)} | {
        name: sum(s[name] for s in stats) / len(stats) if stats else None for name in COSTS
    }


def timings(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """{"prefill_seconds": {"mean": …, "median": …}, …} over the answers; what no two runs have in common."""
    found: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.get("stats", {}).items():
            if name.endswith("_seconds"):
                found.setdefault(name, []).append(value)
    return {name: {"mean": float(np.mean(v)), "median": float(np.median(v))} for name, v in sorted(found.items())}
