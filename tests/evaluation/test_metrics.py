"""The measures against a second computation: plain Python over sets of pixels, exact fractions, no numpy sums."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t4s.errors import DataError
from t4s.evaluation.metrics import (
    AnswerScore,
    ClassScore,
    Overlap,
    PhraseScore,
    box_iou,
    confusion,
    normal_answer,
    overlap,
)

H, W = 3, 4


def pixels(mask: np.ndarray) -> set[tuple[int, int]]:
    return {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if mask[y, x]}


def by_hand(cases: list[tuple[np.ndarray, np.ndarray, np.ndarray, bool]]) -> dict:
    """Every phrase measure from sets of pixels, in exact fractions. A case: prediction, truth, scored, failed."""
    inter, union, ious, target_union, target_ious, hits, denied, found = 0, 0, [], 0, [], [0] * 5, [], []
    for prediction, truth, scored, failed in cases:
        p, t = pixels(prediction) & pixels(scored), pixels(truth) & pixels(scored)
        p = set() if failed else p
        iou = Fraction(len(p & t), len(p | t)) if p | t else Fraction(1)
        iou = Fraction(0) if failed else iou
        inter, union = inter + len(p & t), union + len(p | t)
        ious.append(iou)
        if t:
            target_union += len(p | t)
            target_ious.append(iou)
            found.append(bool(p))
            hits = [hit + (iou >= Fraction(k, 10)) for hit, k in zip(hits, range(5, 10), strict=True)]
        else:
            denied.append(not p and not failed)

    def mean(values: list) -> float | None:
        return float(sum(map(Fraction, values)) / len(values)) if values else None

    return {
        "ciou": inter / union if union else None,
        "giou": mean(ious),
        "target_ciou": inter / target_union if target_union else None,
        "target_miou": mean(target_ious),
        "precision_at": {f"0.{k}": hits[k - 5] / len(found) if found else None for k in range(5, 10)},
        "box_accuracy": None,
        "n_accuracy": mean(denied),
        "t_accuracy": mean(found),
    }


def assert_same(got: dict, expected: dict) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, dict):
            assert_same(got[name], value)
        else:
            assert got[name] == (None if value is None else pytest.approx(value, abs=1e-15)), name


def score(cases: list) -> PhraseScore:
    total = PhraseScore()
    for prediction, truth, scored, failed in cases:
        total.add(overlap(prediction, truth, scored), failed=failed)
    return total


_bits = st.integers(0, 2 ** (H * W) - 1)
_special = st.sampled_from([0, 2 ** (H * W) - 1, 1, 0b000011110000])  # empty, full, one pixel, one row


@st.composite
def masks(draw) -> np.ndarray:
    bits = draw(_special | _bits)
    return np.array([bits >> k & 1 for k in range(H * W)], bool).reshape(H, W)


cases = st.lists(st.tuples(masks(), masks(), masks(), st.booleans()), max_size=8)


@settings(max_examples=150, deadline=None)
@given(cases)
def test_phrase_measures_agree_with_a_computation_over_sets_of_pixels(drawn):
    assert_same(score(drawn).figures(), by_hand(drawn))


@pytest.mark.parametrize(
    "prediction,truth,scored",
    list(itertools.product(*[[np.zeros((H, W), bool), np.ones((H, W), bool), np.eye(H, W, dtype=bool)]] * 3)),
)
def test_adversarial_masks_alone(prediction, truth, scored):
    """All empty, all full, no target, nothing but void: each on its own, where a sum could hide it."""
    for failed in (False, True):
        drawn = [(prediction, truth, scored, failed)]
        assert_same(score(drawn).figures(), by_hand(drawn))


def test_the_true_masks_give_exactly_one_everywhere():
    rng = np.random.default_rng(0)
    drawn = [(m, m, np.ones_like(m), False) for m in rng.random((50, H, W)) < 0.4]
    drawn.append((np.zeros((H, W), bool),) * 2 + (np.ones((H, W), bool), False))
    figures = score(drawn).figures()
    figures.pop("box_accuracy")
    assert set(figures.pop("precision_at").values()) == {1.0}
    assert set(figures.values()) == {1.0}


@settings(max_examples=60, deadline=None)
@given(cases, st.permutations(range(8)), st.integers(1, 4))
def test_merged_accumulators_are_equal_to_the_last_digit_in_any_order(drawn, order, processes):
    """Mean IoU summed as floats differs in its last digit with the order of the sum: two processes then
    print another figure than one."""
    whole = score(drawn)
    shuffled = [drawn[i] for i in order if i < len(drawn)]
    parts = [score(shuffled[rank::processes]) for rank in range(processes)]
    merged = PhraseScore()
    for part in reversed(parts):
        merged.merge(part)
    assert merged == whole
    assert merged.figures() == whole.figures()


def test_a_threshold_met_exactly_counts_as_met():
    """IoU 7/10 as a float is below 0.7000…1 or above it by luck; whole numbers are not."""
    total = PhraseScore()
    total.add(Overlap(predicted=7, true=10, both=7))
    assert total.figures()["precision_at"] == {"0.5": 1, "0.6": 1, "0.7": 1, "0.8": 0, "0.9": 0}


def test_an_invalid_answer_to_an_absent_phrase_is_not_a_denial():
    """An empty mask out of broken text must not pass as "it is not there"."""
    total = PhraseScore()
    total.add(Overlap(0, 0, 0), failed=True)
    figures = total.figures()
    assert (figures["giou"], figures["n_accuracy"], figures["ciou"]) == (0, 0, None)


def test_two_empty_masks_agree():
    assert Overlap(0, 0, 0).iou == 1
    assert Overlap(4, 0, 0).iou == Overlap(0, 4, 0).iou == 0
    assert Overlap(4, 4, 2).iou == 1 / 3


def test_nothing_scored_is_none_and_not_a_perfect_zero():
    figures = PhraseScore().figures()
    figures.pop("precision_at")
    assert set(figures.values()) == {None}
    assert ClassScore(("others", "a")).figures() == {"miou": None, "image_miou": None, "pixel_accuracy": None}
    assert AnswerScore().figures() == {"vqa_accuracy": None}


def test_masks_that_are_not_bool_or_differ_in_size_are_refused():
    """0/255 masks and masks at the model's size are the two classic ways to a wrong IoU."""
    good = np.zeros((4, 4), bool)
    with pytest.raises(DataError, match="prediction is uint8"):
        overlap(np.zeros((4, 4), np.uint8), good)
    with pytest.raises(DataError, match=r"\(2, 2\).*photo's size"):
        overlap(np.zeros((2, 2), bool), good)
    with pytest.raises(DataError, match="scored"):
        overlap(good, good, np.zeros((4, 5), bool))


@pytest.mark.parametrize(
    "first,second,expected",
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),
        ((0, 0, 2, 2), (5, 5, 6, 6), 0.0),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
        ((0, 0, 4, 1), (0, 0, 2, 1), 0.5),
        ((0.5, 0, 1.5, 1), (0, 0, 1, 1), 1 / 3),
    ],
)
def test_box_iou(first, second, expected):
    assert box_iou(first, second) == pytest.approx(expected)
    assert box_iou(second, first) == pytest.approx(expected)


def test_box_accuracy_counts_only_phrases_with_an_official_box():
    total = PhraseScore()
    for box_right, failed in ((True, False), (False, False), (None, False), (True, True)):
        total.add(Overlap(1, 1, 1), box_right, failed)
    assert total.figures()["box_accuracy"] == pytest.approx(1 / 3)


maps = st.lists(st.integers(-1, 3), min_size=6, max_size=6).map(lambda v: np.array(v, np.int16).reshape(2, 3))


def classes_by_hand(drawn: list) -> dict:
    """miou from sets of (photo, pixel) per class; pixels whose truth is void are dropped first."""

    def ious(pairs: list) -> list[Fraction]:
        result = []
        for label in (1, 2, 3):
            true = {(n, p) for n, (_, t, _) in pairs for p in np.ndindex(t.shape) if t[p] == label}
            said = {
                (n, p)
                for n, (q, t, failed) in pairs
                for p in np.ndindex(t.shape)
                if t[p] >= 0 and q[p] == label and not failed
            }
            if true | said:
                result.append(Fraction(len(true & said), len(true | said)))
        return result

    numbered = list(enumerate(drawn))
    pooled = ious(numbered)
    per_photo = []
    for n, case in numbered:
        own = ious([(n, case)])
        per_photo.append(Fraction(0) if case[2] else sum(own) / len(own) if own else Fraction(1))
    right = [t[p] == (0 if failed else q[p]) for q, t, failed in drawn for p in np.ndindex(t.shape) if t[p] >= 0]
    return {
        "miou": float(sum(pooled) / len(pooled)) if pooled else None,
        "image_miou": float(sum(per_photo) / len(per_photo)) if per_photo else None,
        "pixel_accuracy": sum(right) / len(right) if right else None,
    }


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(maps.map(lambda m: np.maximum(m, 0)), maps, st.booleans()), max_size=5), st.integers(1, 3))
def test_class_measures_agree_and_merge(drawn, processes):
    """Others stays out of the mean; void pixels are out whatever was predicted there, whole void photos too."""
    labels = ("others", "a", "b", "c")
    parts = [ClassScore(labels) for _ in range(processes)]
    whole = ClassScore(labels)
    for index, (prediction, truth, failed) in enumerate(drawn):
        counts = confusion(prediction, truth, 4)
        parts[index % processes].add(counts, failed)
        whole.add(counts, failed)
    merged = ClassScore(labels)
    for part in reversed(parts):
        merged.merge(part)
    assert merged.figures() == whole.figures()
    assert_same(merged.figures(), classes_by_hand(drawn))


def test_background_is_never_averaged_into_miou():
    """Class 0 is easy and large: with it in the mean, saying nothing at all scores 49 % here."""
    truth = np.zeros((10, 10), np.int16)
    truth[0, 0] = 1
    total = ClassScore(("others", "cat"))
    total.add(confusion(np.zeros_like(truth), truth, 2))
    assert total.figures()["miou"] == 0
    assert total.classes() == {"cat": 0.0}


def test_a_label_outside_the_table_is_refused():
    with pytest.raises(DataError, match="0 to 2"):
        confusion(np.array([[3]]), np.array([[0]]), 3)
    with pytest.raises(DataError, match="truth holds label"):
        confusion(np.array([[0]]), np.array([[7]]), 3)
    with pytest.raises(DataError, match="photo's size"):
        confusion(np.zeros((2, 2), int), np.zeros((3, 2), int), 3)
    with pytest.raises(DataError, match="different labels"):
        ClassScore(("others", "a")).merge(ClassScore(("others", "b")))


@pytest.mark.parametrize(
    "given,normal",
    [
        ("A dog.", "dog"),
        ("two  Cats!", "2 cats"),
        ("don't", "dont"),
        ("1,000", "1000"),
        ("red/white", "red white"),
        ("red / white", "red white"),
        ("3.5", "3.5"),
        ("none", "0"),
        ("The U.S.", "us"),
    ],
)
def test_answers_are_compared_as_vqa_does(given, normal):
    assert normal_answer(given) == normal


@pytest.mark.parametrize("agreeing", range(11))
def test_vqa_accuracy_is_the_mean_over_leaving_one_out(agreeing):
    references = ["Yes."] * agreeing + [f"word{k}" for k in range(10 - agreeing)]
    expected = np.mean([min(1, sum(r == "Yes." for r in references[:k] + references[k + 1 :]) / 3) for k in range(10)])
    total = AnswerScore()
    total.add("yes", references)
    assert total.figures()["vqa_accuracy"] == pytest.approx(expected)


def test_vqa_single_reference_and_merge():
    one, two = AnswerScore(), AnswerScore()
    one.add("a cat", ["cat"])
    two.add("dog", ["cat"])
    one.merge(two)
    assert one.figures()["vqa_accuracy"] == 0.5
    two.add("", ["the"], failed=True)  # "the" is nothing to VQA, and a refused question would be right
    assert two.questions == 2 and two.figures()["vqa_accuracy"] == 0
    with pytest.raises(DataError, match="no reference answer"):
        one.add("x", [])
