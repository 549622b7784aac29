"""Class lists that are asked in parts: what each cell gets, and that parts and whole agree where they can."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from t4s import Segmenter, codec
from t4s.data.semantic import ADE20K
from t4s.errors import QueryError
from t4s.evaluation.scoring import score
from t4s.models.vlm import VLM
from t4s.records import IGNORED, Sample
from t4s.segmenter import class_lists

NAMES = ("cat", "dog", "owl", "cow", "pig")


@pytest.fixture(scope="module")
def small(fresh_vlm) -> Segmenter:
    """A random model with a 4×4 grid."""
    return Segmenter(fresh_vlm)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)


def answer(names: tuple[str, ...], sure: dict[str, np.ndarray], background: np.ndarray):
    """A model to which a name is as sure as it is, whatever else is asked: (grid, confidence) for these names."""
    stack = np.stack([background, *(sure[name] for name in names)])
    return codec.DescriptorGrid(stack.argmax(0), ("others", *names)), stack.max(0)


def test_parts_and_whole_agree_for_a_model_that_judges_each_name_alone():
    """However the list is cut, and every name lands where it is the surest."""
    rng = np.random.default_rng(1)
    for _ in range(50):
        sure = {name: rng.random((6, 7)) for name in NAMES}
        background = rng.random((6, 7))
        whole, confidence = answer(NAMES, sure, background)
        for count in range(1, len(NAMES) + 1):
            parts = class_lists.parts(NAMES, lambda part, most=count: len(part) <= most)
            grid, merged = class_lists.merge(*zip(*(answer(part, sure, background) for part in parts), strict=True))
            assert grid == whole
            assert np.allclose(merged, confidence)
        for (row, column), at in np.ndenumerate(whole.ids):
            surest = max(NAMES, key=lambda name: sure[name][row, column])
            expected = surest if sure[surest][row, column] > background[row, column] else "others"
            assert whole.labels[at] == expected


def test_a_name_beats_a_surer_nothing_and_equals_go_to_the_first():
    """ "others" in one part means none of its names; another part's name is no contradiction."""
    cat = codec.DescriptorGrid(np.array([[1, 0, 1]]), ("others", "cat"))
    dog = codec.DescriptorGrid(np.array([[0, 0, 1]]), ("others", "dog"))
    grid, confidence = class_lists.merge([cat, dog], [np.array([[0.3, 0.8, 0.5]]), np.array([[0.9, 0.6, 0.5]])])
    assert codec.encode(grid) == "cat *1| others *1| cat *1\n"
    assert np.allclose(confidence, [[0.3, 0.6, 0.5]]) and confidence.dtype == np.float32


@pytest.mark.parametrize("most, sizes", [
    (5, [5]), (4, [2, 3]), (3, [2, 3]), (2, [2, 1, 2]), (1, [1] * 5), (0, [1] * 5),
])  # fmt: skip
def test_parts_are_few_and_of_nearly_equal_size(most, sizes):
    parts = class_lists.parts(NAMES, lambda part: len(part) <= most)
    assert [len(part) for part in parts] == sizes and sum(parts, ()) == NAMES


def test_a_list_in_parts_is_the_merged_answers_to_them(small, photo, monkeypatch):
    """The photo is looked at once; text, masks, score and costs are those of the whole."""
    looked = []
    encode = VLM.encode
    monkeypatch.setattr(VLM, "encode", lambda self, image: looked.append(1) or encode(self, image))
    prediction = small.classes(photo, NAMES, classes_per_query=2)
    assert len(looked) == 1
    encoded = small.encode(photo)
    parts = [small.classes(encoded, part) for part in (NAMES[:2], NAMES[2:3], NAMES[3:])]
    for row in range(4):
        for column in range(4):
            said = [(p.grid.labels[p.grid.ids[row, column]], p.confidence[row, column]) for p in parts]
            named = [(sure, -at, label) for at, (label, sure) in enumerate(said) if label != "others"]
            label, sure = (max(named)[2], max(named)[0]) if named else ("others", min(sure for _, sure in said))
            assert prediction.grid.labels[prediction.grid.ids[row, column]] == label
            assert prediction.confidence[row, column] == pytest.approx(sure)
    assert prediction.query == NAMES and codec.decode(prediction.text, (4, 4)) == prediction.grid
    assert prediction.stats["parts"] == 3 and prediction.stats["invalid_parts"] == 0
    assert prediction.stats["tokens"] == sum(p.stats["tokens"] for p in parts)
    assert prediction.mask.shape == (30, 40) and set(prediction.masks) <= set(NAMES)
    assert prediction.present == prediction.mask.any() and prediction.stats["ended"] == "complete"


def test_a_list_that_fits_is_one_question(small, photo):
    whole, one = small.classes(photo, NAMES), small.classes(photo, NAMES, classes_per_query=len(NAMES))
    assert "parts" not in whole.stats and whole.text == one.text
    assert np.array_equal(whole.confidence, one.confidence)


def test_a_checkpoint_says_how_many_names_it_answers_best_at_once(small, photo):
    """And whoever asks may say otherwise."""
    config = replace(small.vlm.config, classes_per_query=2)
    asked = Segmenter(VLM(small.vlm.model, small.vlm.processor, config))
    parts = asked.classes(photo, NAMES)
    assert parts.stats["parts"] == 3 and parts.text == small.classes(photo, NAMES, classes_per_query=2).text
    assert list(asked.stream(photo, NAMES))[-1].text == parts.text
    assert "parts" not in asked.classes(photo, NAMES, classes_per_query=len(NAMES)).stats


def test_a_list_too_long_for_the_context_is_asked_in_parts(small, photo, monkeypatch):
    """Every part's question fits, for either kind of positions; names that fit alone at best are asked alone."""
    config = SimpleNamespace(max_position_embeddings=0)
    monkeypatch.setattr(type(small.vlm.model.config), "get_text_config", lambda self: config)
    names = ADE20K[:30]
    for positions in ("cells", "sequence"):
        segmenter = Segmenter(VLM(small.vlm.model, small.vlm.processor,
                                       replace(small.vlm.config, positions=positions)))  # fmt: skip
        encoded, counts = segmenter.encode(photo), []
        for context in (10_000, 200, 150, 1):
            config.max_position_embeddings = context
            _, parts, _ = segmenter._parts(encoded, names, None, "fast")
            assert sum((part.typed for part in parts), ()) == sum((part.asked for part in parts), ()) == names
            if context >= 150:
                for part in parts:
                    prompt = segmenter.vlm.suffix(segmenter.vlm.question(part.asked))
                    start = 5 * 16 if positions == "cells" else encoded.next_position
                    assert start + len(prompt) <= context
            counts.append(len(parts))
        assert counts[0] == 1 < counts[1] <= counts[2] < counts[3] == 30


def test_the_stream_of_a_list_in_parts_ends_with_the_same(small, photo, monkeypatch):
    monkeypatch.setattr(Segmenter, "_fits", lambda self, encoded, part, mode: len(part) <= 2)
    partials = list(small.stream(photo, NAMES))
    whole = small.classes(photo, NAMES)
    assert whole.stats["parts"] == 3 and partials[-1].text == whole.text
    assert np.array_equal(partials[-1].mask, whole.mask) and partials[-1].stats["ended"] == "complete"
    assert all(not partial.stats["ended"] and partial.faults == () for partial in partials[:-1])
    assert len(partials) > 3
    calls = iter([False] * 2 + [True] * 99)
    last = list(small.stream(photo, NAMES, stop=lambda: next(calls)))[-1]
    assert last.stats["ended"] == "stopped" and last.stats["parts"] < 3


def test_a_part_whose_text_is_invalid_makes_the_whole_invalid(small, photo):
    """The merged grid always reads well; the strict score must see what was written."""
    prediction = small.classes(photo, NAMES, classes_per_query=2, decoding="free")
    wrong = prediction.stats["invalid_parts"]
    assert wrong > 0 and all("of the list: " in fault.message for fault in prediction.faults)
    truth = np.full(photo.shape[:2], IGNORED, np.int16)
    sample = Sample("a", "zoo", Image.fromarray(photo), NAMES, ("others", *NAMES), truth)
    assert score(sample, prediction).invalid == f"{wrong} of 3 parts of the list are not valid"


def test_bad_lists_are_refused_as_a_whole(small, photo):
    """A name twice is refused wherever its two places are."""
    with pytest.raises(QueryError, match="'cat' more than once"):
        small.classes(photo, [*NAMES, "cat"], classes_per_query=2)
    with pytest.raises(QueryError, match="classes_per_query is 0"):
        small.classes(photo, NAMES, classes_per_query=0)


def test_the_embedded_checkpoint_takes_150_names(segmenter, examples):
    encoded = segmenter.encode(examples / "two_cats.jpg")
    prediction = segmenter.classes(encoded, ADE20K, refine="none", classes_per_query=len(ADE20K))
    assert "parts" not in prediction.stats and codec.decode(prediction.text, (16, 16)) == prediction.grid
    some = segmenter.classes(encoded, ("cat", *ADE20K[:23]), refine="none", classes_per_query=8)
    assert some.stats["parts"] == 3 and some.grid == codec.decode(some.text, (16, 16))
