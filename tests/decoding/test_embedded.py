"""The loops on the embedded checkpoint and real photos: fast writes what constrained writes, in few passes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from t4s import codec
from t4s.decoding.constraint import Constraint, vocabulary
from t4s.decoding.generate import Step, constrained, decode, fast, last_step
from t4s.errors import QueryError
from t4s.imaging.loading import open_photo

PHRASES = ["dog", "cat", "person", "horse", "car", "grass", "sky", "road", "tree", "building", "sheep", "cow", "man",
           "the person on the left", "a black cat", "animals", "the biggest dog", "sofa", "clothes", "shoes",
           "face", "bicycle", "the small one in the middle", "the puppy", "water"]  # fmt: skip
TIE = 1e-3  # between two logits in float32


def write(segmenter, encoded, phrase: str, mode: str) -> Step:
    model = segmenter.vlm
    constraint = Constraint(vocabulary(model.tokenizer), model.config.grid, ("others", phrase))
    return last_step(decode(mode, model.begin(encoded, phrase), constraint))


def compare(segmenter, photos, phrases) -> tuple[int, int, int, int]:
    """Pairs asked, pairs that differ, passes of constrained and of fast. A difference must begin at a tie."""
    pairs = different = slow_passes = fast_passes = 0
    for photo in photos:
        encoded = segmenter.encode(photo)
        for phrase in phrases:
            slow, quick = (write(segmenter, encoded, phrase, mode) for mode in ("constrained", "fast"))
            codec.decode(slow.text, segmenter.vlm.config.grid)
            codec.decode(quick.text, segmenter.vlm.config.grid)
            pairs, slow_passes, fast_passes = pairs + 1, slow_passes + slow.forwards, fast_passes + quick.forwards
            if quick.ids != slow.ids:
                different += 1
                at = next(i for i, (a, b) in enumerate(zip(slow.ids, quick.ids, strict=False)) if a != b)
                best, second = np.sort(slow._hypothesis.picks[at].logits)[::-1][:2]
                assert best - second < TIE, f"{photo.name}, {phrase!r}: {best} against {second} at token {at}"
            else:
                np.testing.assert_allclose(quick.confidence(), slow.confidence(), atol=1e-3)
    return pairs, different, slow_passes, fast_passes


def test_fast_writes_what_constrained_writes_in_few_passes(segmenter, examples):
    photos = sorted(examples.glob("*.jpg"))[:3]
    pairs, different, slow, quick = compare(segmenter, photos, PHRASES[:4])
    assert pairs == 12 and different == 0
    assert slow > 6 * quick


@pytest.mark.long
def test_fast_writes_what_constrained_writes_on_200_pairs(segmenter, examples):
    """DESIGN's equality (c): float32; a first difference only at a tie, and at most one pair in 200."""
    pairs, different, slow, quick = compare(segmenter, sorted(examples.glob("*.jpg")), PHRASES)
    assert pairs >= 200 and different <= pairs // 200
    assert slow > 6 * quick


@pytest.mark.parametrize("dtype", ["bfloat16", pytest.param("float16", marks=pytest.mark.long)])
def test_in_half_precision_every_token_is_allowed_and_nearly_the_best(segmenter, examples, dtype):
    """DESIGN's equality (d): fast's tokens, fed one a pass, are within the type's tolerance of the allowed maximum."""
    from t4s import Segmenter

    model = Segmenter.from_pretrained(device="cpu", dtype=dtype).vlm
    constraint = Constraint(vocabulary(model.tokenizer), model.config.grid, ("others", "cat"))
    tolerance = 16 * torch.finfo(getattr(torch, dtype)).eps  # of the logits' own size, after all the layers' roundings
    for name in ("two_cats.jpg", "riders.jpg"):
        encoded = model.encode(open_photo(examples / name))
        step = last_step(fast(model.begin(encoded, "cat"), constraint, draft_rows=4))
        codec.decode(step.text, model.config.grid)
        replay, state = model.begin(encoded, "cat"), constraint.start
        logits = replay.last
        for token in step.ids:
            allowed = logits[constraint.choice(state).ids]
            best = allowed.max()
            assert logits[token] >= best - tolerance * max(1.0, float(allowed.abs().max()))
            state = constraint.advance(state, token)
            logits = replay.feed([token])[-1]
        assert constraint.is_final(state)


def test_a_stop_request_leaves_a_valid_beginning(segmenter, examples):
    model = segmenter.vlm
    encoded = segmenter.encode(sorted(examples.glob("*.jpg"))[0])
    asked = iter([False, True])
    constraint = Constraint(vocabulary(model.tokenizer), model.config.grid, ("others", "dog"))
    step = last_step(fast(model.begin(encoded, "dog"), constraint, draft_rows=4, stop=lambda: next(asked)))
    assert step.ended == "stopped" and step.forwards == 1
    whole = last_step(constrained(model.begin(encoded, "dog"), constraint))
    assert whole.text.startswith(step.text) and len(step.text) < len(whole.text)


def test_bad_input_costs_no_pass(segmenter, examples, monkeypatch):
    """An unspellable query is refused before the photo is looked at."""
    monkeypatch.setattr(segmenter.vlm, "encode", lambda *_: pytest.fail("the photo was encoded"))
    monkeypatch.setattr(segmenter.vlm, "begin", lambda *_: pytest.fail("the question was run"))
    photo = sorted(examples.glob("*.jpg"))[0]
    with pytest.raises(QueryError, match="no decoding 'slow'"):
        segmenter(photo, "dog", decoding="slow")
    with pytest.raises(QueryError, match="empty"):
        segmenter.classes(photo, [])
