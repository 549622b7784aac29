"""Several questions in one row are worth the same as one question a row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from t4s import codec
from t4s.collate import IGNORE, Collator, answer, batch, row, spoil
from t4s.corpora import Mixture
from t4s.errors import DataError
from t4s.samples import Sample


def sample(query, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    names = (query,) if isinstance(query, str) else query
    classes = rng.integers(0, len(names) + 1, (40, 50)).astype(np.int16)
    return Sample(f"s/{seed}", "s", image, query, ("others", *names), classes)


def logits_of_answer(model, made, number: int) -> torch.Tensor:
    with torch.no_grad():
        logits = model(**batch([made], 0)).logits[0, : len(made.ids)]
    return logits[[segment == number for segment in made.segments]]


def test_questions_of_a_row_do_not_see_each_other(fresh_backbone):
    samples = [sample("dog"), sample(("cat", "dog")), sample("the potted plant")]
    together = row(fresh_backbone, samples)
    for number, one in enumerate(samples, 1):
        alone = logits_of_answer(fresh_backbone.model, row(fresh_backbone, [one]), 1)
        torch.testing.assert_close(
            logits_of_answer(fresh_backbone.model, together, number), alone, atol=1e-4, rtol=1e-4
        )


def test_padding_changes_nothing(fresh_backbone):
    rows = [row(fresh_backbone, [sample("dog")]), row(fresh_backbone, [sample(("cat", "dog"), 1), sample("cat", 1)])]
    with torch.no_grad():
        both = fresh_backbone.model(**batch(rows, 0)).logits[0, : len(rows[0].ids)]
        alone = fresh_backbone.model(**batch(rows[:1], 0)).logits[0, : len(rows[0].ids)]
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=1e-4)


def test_what_inference_sees_is_what_training_saw(fresh_backbone):
    """The logits of a row's answer are those of the cached passes that decoding makes."""
    one = sample("dog")
    made = row(fresh_backbone, [one])
    trained = logits_of_answer(fresh_backbone.model, made, 1)
    suffix, before = fresh_backbone.suffix("dog"), fresh_backbone.answer_ids()[0]
    body = made.ids[len(made.ids) - len(trained) + len(suffix) + len(before) : -2]
    written = fresh_backbone.begin(fresh_backbone.encode(one.image), "dog").feed(body)
    torch.testing.assert_close(written, trained[len(suffix) + len(before) : -2], atol=1e-4, rtol=1e-4)


def test_only_answers_are_learnt(fresh_backbone):
    made = row(fresh_backbone, [sample("dog")])
    learnt = [label for label in made.labels if label != IGNORE]
    assert fresh_backbone.tokenizer.decode(learnt).startswith("<seg>")
    assert learnt[-1] == fresh_backbone.tokenizer.eos_token_id
    assert made.labels[: -len(learnt)] == [IGNORE] * (len(made.labels) - len(learnt))


def test_too_long_a_sample_is_refused_not_cut(fresh_backbone, monkeypatch):
    monkeypatch.setattr(fresh_backbone.model.config.text_config, "max_position_embeddings", 40)
    with pytest.raises(DataError, match="context is 40: use a smaller --grid"):
        row(fresh_backbone, [sample("dog")])


def test_a_draw_is_a_pure_function_of_its_number(fresh_backbone):
    mixture = Mixture.open(["synthetic"])
    one, two = (Collator(fresh_backbone, mixture, 2, seed=3)([5, 6]) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = Collator(fresh_backbone, mixture, 2, seed=4)([5, 6])
    assert one["input_ids"].shape != other["input_ids"].shape or not torch.equal(one["input_ids"], other["input_ids"])


def test_spoilt_rows_are_read_but_not_learnt(fresh_backbone):
    """Without them the model copies the row above, and an object whose first row it missed is never written."""
    whole = sample("dog")
    true, seen = whole.grid(fresh_backbone.format.grid), set()
    for seed in range(40):
        wrong_grid, wrong = spoil(true, np.random.default_rng(seed))
        assert np.array_equal(wrong_grid.ids[~wrong], true.ids[~wrong])
        seen.add(int(wrong.sum()))
        read, learnt = answer(fresh_backbone, whole, np.random.default_rng(seed))
        assert len(read) == len(learnt)
        text = fresh_backbone.tokenizer.decode([token for token in read[:-1]])
        rows = codec.decode(text.removeprefix("<seg>").removesuffix("</seg>"), fresh_backbone.format.grid)
        line = 0
        for token, label in zip(read[1:-2], learnt[1:-2], strict=True):
            differs = not np.array_equal(rows.ids[line] > 0, true.ids[line] > 0)
            assert label in (token, IGNORE) and not (differs and label != IGNORE)
            line += fresh_backbone.piece(token).count("\n")
    assert len(seen) > 2
