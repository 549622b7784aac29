"""The field's measures, each with its formula and source. numpy only.

Every accumulator holds whole numbers only: pixel counts, and ratios in fixed point. Whole numbers add up the same in
any order, so accumulators of several processes, merged, give the same figures to the last digit as a single one. All
figures are fractions in [0, 1], or None where there was nothing to measure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from t4s.errors import DataError

PRECISION_AT = (5, 6, 7, 8, 9)  # tenths of IoU
_ONE = 1 << 62  # a ratio of 1 in fixed point: an error below 3e-19 per ratio, far below a float's


def _ratio(numerator: int, denominator: int) -> int:
    return numerator * _ONE // denominator


def _share(numerator: int, denominator: int) -> float | None:
    return numerator / denominator if denominator else None


@dataclass(frozen=True)
class Overlap:
    """Pixel counts of a predicted and a true mask: all that any mask measure needs."""

    predicted: int
    true: int
    both: int

    @property
    def union(self) -> int:
        return self.predicted + self.true - self.both

    @property
    def iou(self) -> float:
        """Intersection over union; 1 where both masks are empty (gRefCOCO, Liu et al., CVPR 2023)."""
        return self.both / self.union if self.union else 1.0


def overlap(prediction: np.ndarray, truth: np.ndarray, scored: np.ndarray | None = None) -> Overlap:
    """Count two masks (h, w) bool, on the pixels of `scored` (h, w) bool alone if given.

    Raises DataError if the shapes differ or a mask is not bool (a mask of 0 and 255 would be miscounted silently).
    """
    for name, mask in (("prediction", prediction), ("truth", truth), ("scored", scored)):
        if mask is not None and (mask.dtype != bool or mask.shape != truth.shape):
            raise DataError(
                f"The {name} is {mask.dtype} of shape {mask.shape}; the scores take bool masks of one shape, "
                f"here {truth.shape}. Resize the prediction to the photo's size and compare with > 0."
            )
    if scored is not None:
        prediction, truth = prediction & scored, truth & scored
    return Overlap(
        int(np.count_nonzero(prediction)), int(np.count_nonzero(truth)), int(np.count_nonzero(prediction & truth))
    )


def box_iou(first: Sequence[float], second: Sequence[float]) -> float:
    """IoU of two boxes (x0, y0, x1, y1), x1 and y1 exclusive, in any unit; 0 if either has no area."""
    areas = [max(box[2] - box[0], 0) * max(box[3] - box[1], 0) for box in (first, second)]
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0) * max(height, 0)
    return both / (sum(areas) - both) if all(areas) else 0.0


@dataclass
class PhraseScore:
    """Referring segmentation: one predicted and one true mask per phrase.

    With I and U the pixels of intersection and union of one phrase's masks, and a *target*
    phrase one whose true mask is not empty:

    ciou          sum of I / sum of U over all phrases ("overall IoU"; RefCOCO, gRefCOCO: a mask
                  drawn for an absent target adds to U alone)
    giou          mean of I / U over all phrases, 1 where both masks are empty (GRES)
    target_ciou   ciou over target phrases alone
    target_miou   mean of I / U over target phrases alone (RefCOCO's mIoU)
    precision_at  {"0.5": …, "0.9": …}: share of target phrases with I / U ≥ the threshold
    box_accuracy  REC Acc@0.5: share of boxes with IoU ≥ 0.5 with the data set's official box
    n_accuracy    of the phrases without a target, the share answered with an empty mask
                  (TP / (TP + FN) in GRES)
    t_accuracy    of the target phrases, the share answered with a mask that is not empty
                  (TN / (TN + FP) in GRES)

    What is *absent* is decided by the dataset: a class name is absent from a photo only if its
    own source's class table has the name and the photo's mask lacks it.
    """

    phrases: int = 0
    targets: int = 0
    failures: int = 0
    both: int = 0
    union: int = 0
    target_union: int = 0
    iou: int = 0  # fixed point
    target_iou: int = 0  # fixed point
    hits: list[int] = field(default_factory=lambda: [0] * len(PRECISION_AT))
    boxes: int = 0
    boxes_right: int = 0
    rejected: int = 0
    found: int = 0

    def add(self, counts: Overlap, box_right: bool | None = None, failed: bool = False) -> None:
        """Score one phrase.

        box_right  whether the predicted box has IoU ≥ 0.5 with the official one; None if there is none
        failed     the answer is invalid and scores 0: it is neither a mask nor an empty mask, so it adds
                   its true mask to U, nothing to I, and is wrong in every other measure
        """
        self.phrases += 1
        self.failures += failed
        if failed:
            counts = Overlap(0, counts.true, 0)
        iou = _ratio(counts.both, counts.union) if counts.union else _ONE
        if failed:
            iou = 0
        self.both += counts.both
        self.union += counts.union
        self.iou += iou
        if counts.true:
            self.targets += 1
            self.target_union += counts.union
            self.target_iou += iou
            self.found += counts.predicted > 0
            for index, tenths in enumerate(PRECISION_AT):
                self.hits[index] += 10 * counts.both >= tenths * counts.union
        else:
            self.rejected += not failed and counts.predicted == 0
        if box_right is not None:
            self.boxes += 1
            self.boxes_right += box_right and not failed

    def merge(self, other: PhraseScore) -> None:
        """Add another accumulator; the order never matters."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            merged = [a + b for a, b in zip(mine, value, strict=True)] if name == "hits" else mine + value
            setattr(self, name, merged)

    def figures(self) -> dict[str, float | dict[str, float | None] | None]:
        """Every measure of the class docstring, in [0, 1] or None."""
        return {
            "ciou": _share(self.both, self.union),
            "giou": _share(self.iou, self.phrases * _ONE),
            "target_ciou": _share(self.both, self.target_union),
            "target_miou": _share(self.target_iou, self.targets * _ONE),
            "precision_at": {
                f"0.{tenths}": _share(hit, self.targets) for tenths, hit in zip(PRECISION_AT, self.hits, strict=True)
            },
            "box_accuracy": _share(self.boxes_right, self.boxes),
            "n_accuracy": _share(self.rejected, self.phrases - self.targets),
            "t_accuracy": _share(self.found, self.targets),
        }


def confusion(prediction: np.ndarray, truth: np.ndarray, labels: int) -> np.ndarray:
    """Pixel counts (labels, labels) int64, row = true label, column = predicted label.

    prediction (h, w) and truth (h, w) hold label indexes, 0 = others; truth < 0 is void and
    not counted, whatever was predicted there. Raises DataError for an index outside the table.
    """
    if prediction.shape != truth.shape:
        raise DataError(f"The prediction is {prediction.shape}, the truth {truth.shape}: both take the photo's size.")
    scored = truth >= 0
    predicted, true = prediction[scored].astype(np.int64), truth[scored].astype(np.int64)
    for name, ids in (("prediction", predicted), ("truth", true)):
        if ids.size and (ids.min() < 0 or ids.max() >= labels):
            raise DataError(f"The {name} holds label {ids.min()} to {ids.max()}; the table has 0 to {labels - 1}.")
    return np.bincount(true * labels + predicted, minlength=labels * labels).reshape(labels, labels)


@dataclass
class ClassScore:
    """Semantic segmentation over a table of labels, label 0 = others, void pixels left out.

    With I and U per class from the pixels of all photos together (Everingham et al., VOC):

    miou            mean of I / U over the classes, others left out; a class that is neither true
                    nor predicted anywhere has no IoU and is left out too
    image_miou      the same mean within each photo (1 where photo and answer have no class),
                    then averaged over photos
    pixel_accuracy  share of scored pixels with the right label, others among them
    """

    labels: tuple[str, ...]
    matrix: np.ndarray = field(default=None)  # type: ignore[assignment]
    photos: int = 0
    failures: int = 0
    image_iou: int = 0  # fixed point

    def __post_init__(self) -> None:
        if self.matrix is None:
            self.matrix = np.zeros((len(self.labels), len(self.labels)), np.int64)

    def add(self, counts: np.ndarray, failed: bool = False) -> None:
        """Score one photo's `confusion`; a failed (invalid) answer counts as others everywhere,
        and its photo as 0."""
        if failed:
            wrong = np.zeros_like(counts)
            wrong[:, 0] = counts.sum(1)
            counts = wrong
        self.photos += 1
        self.failures += failed
        self.matrix += counts
        both, union = _both_and_union(counts)
        ratios = [_ratio(int(b), int(u)) for b, u in zip(both, union, strict=True) if u]
        if not failed:
            self.image_iou += sum(ratios) // len(ratios) if ratios else _ONE

    def merge(self, other: ClassScore) -> None:
        """Add another accumulator of the same labels; the order never matters."""
        if other.labels != self.labels:
            raise DataError("Two class scores with different labels cannot be merged; score each table separately.")
        self.matrix = self.matrix + other.matrix
        self.photos += other.photos
        self.failures += other.failures
        self.image_iou += other.image_iou

    def classes(self) -> dict[str, float | None]:
        """{label: I / U}, others left out; None for a class that is neither true nor predicted."""
        both, union = _both_and_union(self.matrix)
        return {name: _share(int(b), int(u)) for name, b, u in zip(self.labels[1:], both, union, strict=True)}

    def figures(self) -> dict[str, float | None]:
        """Every measure of the class docstring, in [0, 1] or None."""
        both, union = _both_and_union(self.matrix)
        ratios = [_ratio(int(b), int(u)) for b, u in zip(both, union, strict=True) if u]
        return {
            "miou": _share(sum(ratios), len(ratios) * _ONE),
            "image_miou": _share(self.image_iou, self.photos * _ONE),
            "pixel_accuracy": _share(int(np.trace(self.matrix)), int(self.matrix.sum())),
        }


def _both_and_union(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = np.diagonal(matrix)[1:]
    return both, matrix.sum(0)[1:] + matrix.sum(1)[1:] - both


_NUMBERS = {w: str(n) for n, w in enumerate("zero one two three four five six seven eight nine ten".split())}
_NUMBERS["none"] = "0"
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def normal_answer(text: str) -> str:
    """An answer as VQA compares it: lower case, no punctuation, articles or apostrophes, digits for number words.

    A punctuation mark that touches a space is removed, and so is any mark where a comma groups digits; other marks
    become a space (Antol et al., ICCV 2015). Apostrophes are dropped on both sides, so that "dont" and "don't" are one
    word, as in the official table of contractions.
    """
    text = " ".join(text.split())
    grouped = re.search(r"\d,\d", text) is not None
    cleaned = text
    for mark in _PUNCTUATION:
        touches = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if touches or grouped else " ")
    cleaned = re.sub(r"\.(?!\d)", "", cleaned).replace("'", "").replace("’", "").lower()
    words = (_NUMBERS.get(word, word) for word in cleaned.split())
    return " ".join(word for word in words if word not in ("a", "an", "the"))


@dataclass
class AnswerScore:
    """VQA accuracy: an answer is right in full if three people gave it (Antol et al., ICCV 2015).

    For n ≥ 2 human answers: the mean, over leaving each of them out in turn, of
    min(1, equal answers among the rest / 3). For a single reference answer: 1 if equal, else 0.
    """

    questions: int = 0
    right: int = 0  # fixed point

    def add(self, answer: str, references: Sequence[str], failed: bool = False) -> None:
        """Score one answer against its human answers; one that `failed` is wrong. DataError if there are none."""
        if not references:
            raise DataError("A question has no reference answer; every line of a VQA dataset needs at least one.")
        if failed:
            self.questions += 1
            return
        given = normal_answer(answer)
        equal = [normal_answer(reference) == given for reference in references]
        self.questions += 1
        if len(equal) == 1:
            self.right += _ONE * equal[0]
            return
        thirds = sum(min(3, sum(equal) - mine) for mine in equal)
        self.right += _ratio(thirds, 3 * len(equal))

    def merge(self, other: AnswerScore) -> None:
        """Add another accumulator; the order never matters."""
        self.questions += other.questions
        self.right += other.right

    def figures(self) -> dict[str, float | None]:
        """{"vqa_accuracy": …} in [0, 1] or None."""
        return {"vqa_accuracy": _share(self.right, self.questions * _ONE)}
