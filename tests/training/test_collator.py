"""Several questions in one row are worth the same as one question a row."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from t4s import codec
from t4s.data.spec import Mixture
from t4s.errors import DataError
from t4s.models.checkpoint import CheckpointConfig
from t4s.models.vlm import VLM
from t4s.prompts import ANSWERS, QUESTIONS
from t4s.records import Sample
from t4s.training.collator import Collator, Row, answer_tokens, build_row, collate, corrupt_rows, draw_wording
from t4s.training.losses import IGNORE, IMAGE_TOKEN_WEIGHT, image_token_losses, token_loss


def sample(query, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8))
    names = (query,) if isinstance(query, str) else query
    classes = rng.integers(0, len(names) + 1, (40, 50)).astype(np.int16)
    return Sample(f"s/{seed}", "s", image, query, ("others", *names), classes)


def logits_of_answer(model, made, number: int) -> torch.Tensor:
    with torch.no_grad():
        logits = model(**collate([made], 0)).logits[0, : len(made.ids)]
    return logits[[segment == number for segment in made.segments]]


def test_questions_of_a_row_do_not_see_each_other(fresh_vlm):
    samples = [sample("dog"), sample(("cat", "dog")), sample("the potted plant")]
    together = build_row(fresh_vlm, samples)
    for number, one in enumerate(samples, 1):
        alone = logits_of_answer(fresh_vlm.model, build_row(fresh_vlm, [one]), 1)
        torch.testing.assert_close(
            logits_of_answer(fresh_vlm.model, together, number), alone, atol=1e-4, rtol=1e-4
        )


def test_padding_changes_nothing(fresh_vlm):
    rows = [build_row(fresh_vlm, [sample("dog")]), build_row(fresh_vlm, [sample(("cat", "dog"), 1), sample("cat", 1)])]
    with torch.no_grad():
        both = fresh_vlm.model(**collate(rows, 0)).logits[0, : len(rows[0].ids)]
        alone = fresh_vlm.model(**collate(rows[:1], 0)).logits[0, : len(rows[0].ids)]
    torch.testing.assert_close(both, alone, atol=1e-4, rtol=1e-4)


def seeing(vlm: VLM, bidirectional_prefix: bool = True) -> VLM:
    """The same model, whose photo sees the question, or does not."""
    return VLM(vlm.model, vlm.processor, replace(vlm.config, bidirectional_prefix=bidirectional_prefix))


@pytest.mark.parametrize("bidirectional_prefix", [False, True])
def test_what_inference_sees_is_what_training_saw(fresh_vlm, bidirectional_prefix: bool):
    """The logits of a row's answer are those of the cached passes that decoding makes."""
    vlm, one = seeing(fresh_vlm, bidirectional_prefix), sample("dog")
    made, (before, _, after) = build_row(vlm, [one]), vlm.answer_ids()
    body = slice(len(vlm.preprocess(one.image)[1]) + len(vlm.suffix("dog")) + len(before), -len(after))
    with torch.no_grad():
        trained = vlm.model(**collate([made], 0)).logits[0, : len(made.ids)][body]
    writing = vlm.begin(vlm.encode(one.image), "dog")
    torch.testing.assert_close(writing.feed(made.ids[body]), trained, atol=1e-4, rtol=1e-4)


def test_the_photo_sees_the_question_and_not_the_answer(fresh_vlm):
    def cells(vlm: VLM, query: str, seed: int = 0) -> torch.Tensor:
        made = build_row(vlm, [sample(query, seed)])
        photo = torch.tensor([token == vlm.image_token for token in made.ids])
        with torch.no_grad():
            return vlm.model(**collate([made], 0)).logits[0, : len(made.ids)][photo]

    both = seeing(fresh_vlm)
    assert torch.equal(cells(fresh_vlm, "dog"), cells(fresh_vlm, "cat"))
    assert not torch.allclose(cells(both, "dog"), cells(both, "cat"), atol=1e-4)
    one, made = sample("dog"), replace(sample("dog"), class_map=np.zeros((64, 64), np.int16))
    assert one.grid((4, 4)).ids.any() and not made.grid((4, 4)).ids.any()
    first, second = (collate([build_row(both, [any_one])], 0) for any_one in (one, made))
    prompt = len(both.preprocess(one.image)[1]) + len(both.suffix("dog"))
    with torch.no_grad():
        before, after = (both.model(**inputs).logits[0, :prompt] for inputs in (first, second))
    torch.testing.assert_close(before, after, atol=1e-5, rtol=1e-5)


def test_where_the_photo_sees_the_question_each_has_a_row(fresh_vlm):
    both, mixture = seeing(fresh_vlm), Mixture.open(["synthetic"])
    collator, shared = (Collator(vlm, mixture, 3, seed=0) for vlm in (both, fresh_vlm))
    asked = len(shared.samples(0))
    assert (len(shared.rows(0)), len(collator.rows(0))) == (1, asked) and asked > 1
    assert len(collator([0, 1])["input_ids"]) == asked + len(shared.samples(1))
    with pytest.raises(ValueError, match="give every one its own row"):
        build_row(both, collator.samples(0))


def test_only_answers_are_learnt(fresh_vlm):
    made = build_row(fresh_vlm, [sample("dog")])
    learnt = [label for label in made.labels if label != IGNORE]
    assert fresh_vlm.tokenizer.decode(learnt).startswith("<seg>")
    assert learnt[-1] == fresh_vlm.tokenizer.eos_token_id
    assert made.labels[: -len(learnt)] == [IGNORE] * (len(made.labels) - len(learnt))


def test_too_long_a_sample_is_refused_not_cut(fresh_vlm, monkeypatch):
    monkeypatch.setattr(fresh_vlm.model.config.text_config, "max_position_embeddings", 40)
    with pytest.raises(DataError, match="context is 40: use a smaller --grid"):
        build_row(fresh_vlm, [sample("dog")])
    collator = Collator(fresh_vlm, Mixture.open(["synthetic"]), 2, seed=3)
    long, every = collator.count_too_long(range(4))
    assert long == every > 4
    with pytest.raises(DataError, match="All of 20 samples drawn are too long .* take .* tokens"):
        collator([0])
    assert int(collator.too_long) >= 20


def test_a_question_that_is_too_long_leaves_the_others_whole(fresh_vlm, monkeypatch):
    """Its place among the questions must not stay empty, and nothing of it may be left."""
    short, long = sample("dog"), sample("the cat that " * 12 + "sits")
    end = max(fresh_vlm.suffix_positions(len(fresh_vlm.suffix("dog")), 0))
    monkeypatch.setattr(fresh_vlm.model.config.text_config, "max_position_embeddings", end + 2)
    both, alone = build_row(fresh_vlm, [long, short]), build_row(fresh_vlm, [short])
    assert both.ids == alone.ids and both.segments == alone.segments and both.labels == alone.labels
    assert (both.left_out, alone.left_out) == (1, 0)


def test_what_was_too_long_is_counted_wherever_it_was_laid_out(fresh_vlm, monkeypatch):
    """In processes that load photos too: their counts were lost with them."""
    end = max(fresh_vlm.suffix_positions(len(fresh_vlm.suffix("dog")), 0))
    monkeypatch.setattr(fresh_vlm.model.config.text_config, "max_position_embeddings", end + 2)

    class Pairs:
        name = "pairs"

        def __len__(self) -> int:
            return 1

        def draw(self, index, rng, count):
            return sample("dog"), sample("the cat that " * 12 + "sits")

    collator = Collator(fresh_vlm, Mixture((Pairs(),), (1.0,)), 2, seed=0, augmented=False)
    loader = torch.utils.data.DataLoader(range(6), batch_size=3, collate_fn=collator, num_workers=2)
    assert [len(made["input_ids"]) for made in loader] == [3, 3]
    assert int(collator.too_long) == 6


def test_a_shared_photo_is_worth_as_much_as_one_a_question(fresh_vlm):
    """The same loss and the same gradients: what is shared is work, not meaning."""
    model, loss = fresh_vlm.model, token_loss(fresh_vlm)
    asked = [sample("dog"), sample(("cat", "dog")), sample("the potted plant")]
    weights = [model.get_parameter(name) for name in ("model.multi_modal_projector.linear_1.weight", "lm_head.weight")]

    def learnt(rows: list[Row]) -> tuple[torch.Tensor, ...]:
        inputs = collate(rows, 0)
        labels = inputs.pop("labels")
        return (value := loss(model(**inputs), labels)).detach(), *torch.autograd.grad(value, weights)

    for weight in weights:
        weight.requires_grad_(True)
    try:
        together, apart = learnt([build_row(fresh_vlm, asked)]), learnt([build_row(fresh_vlm, [one]) for one in asked])
    finally:
        model.requires_grad_(False)
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_only_full_rows_are_weighed(fresh_vlm):
    """Each weight changes what an empty grid costs in proportion, and a grid without a full row not at all."""
    model = fresh_vlm.model

    def cost(classes: np.ndarray, weight: float) -> float:
        made = Sample("1", "t", Image.new("RGB", (64, 64)), "dog", ("others", "dog"), classes)
        inputs = collate([build_row(fresh_vlm, [made])], 0)
        labels = inputs.pop("labels")
        with torch.no_grad():
            return token_loss(fresh_vlm, weight)(model(**inputs), labels).item()

    empty, half = np.zeros((64, 64), np.int16), np.zeros((64, 64), np.int16)
    half[:, 32:] = 1
    assert cost(empty, 0.5) == pytest.approx((cost(empty, 0.0) + cost(empty, 1.0)) / 2)
    assert cost(empty, 0.0) < cost(empty, 1.0) and cost(half, 0.0) == cost(half, 1.0)


@pytest.fixture
def bidirectional_prefix(fresh_vlm, monkeypatch):
    """The embedded architecture as it is made now: the photo sees the question."""
    monkeypatch.setattr(fresh_vlm, "bidirectional_prefix", True)
    return fresh_vlm


def test_the_photos_cells_are_taught_what_is_meant_there(bidirectional_prefix):
    """Each has its label's first word, where the photo sees the question; elsewhere it cannot know."""
    classes = np.zeros((64, 64), np.int16)
    classes[:16, :32], classes[48:, 48:] = 1, 2
    made = Sample("1", "t", Image.new("RGB", (64, 64)), ("dog", "cat"), ("others", "dog", "cat"), classes)
    laid_out = build_row(bidirectional_prefix, [made])
    others, dog, cat = (bidirectional_prefix.text_ids(label)[0] for label in made.labels)
    assert len({others, dog, cat}) == 3 and laid_out.ids[:17].count(bidirectional_prefix.image_token) == 16
    assert laid_out.labels[:16] == [dog] * 2 + [others] * 13 + [cat]
    assert collate([laid_out], 0)["output_hidden_states"] is True
    bidirectional_prefix.bidirectional_prefix = False
    alone = build_row(bidirectional_prefix, [made])
    assert set(alone.labels[:16]) == {IGNORE} and "output_hidden_states" not in collate([alone], 0)


def test_the_cells_losses_are_added_to_the_answers(bidirectional_prefix):
    """Over all labels together: a cell weighs IMAGE_TOKEN_WEIGHT, and reads the last layer's input."""
    inputs = collate([build_row(bidirectional_prefix, [sample("dog")])], 0)
    labels = inputs.pop("labels")
    with torch.no_grad():
        outputs = bidirectional_prefix.model(**inputs)
        whole = token_loss(bidirectional_prefix)(outputs, labels).item()
        cells = image_token_losses(bidirectional_prefix, outputs.hidden_states, labels[:, :16])
        learnt = labels[:, 17:] != IGNORE
        answer = torch.nn.functional.cross_entropy(outputs.logits[:, 16:-1][learnt], labels[:, 17:][learnt],
                                                   reduction="none")  # fmt: skip
    assert cells.shape == (16,)
    expected = (IMAGE_TOKEN_WEIGHT * cells.sum() + answer.sum()) / (16 + len(answer))
    assert whole == pytest.approx(expected.item(), rel=1e-5)
    first = bidirectional_prefix.model.get_decoder().norm(outputs.hidden_states[-2][0, 0])
    alone = torch.nn.functional.cross_entropy(bidirectional_prefix.model.get_output_embeddings()(first), labels[0, 0])
    assert cells[0].item() == pytest.approx(alone.item(), rel=1e-5)


def test_the_same_question_is_asked_once_in_a_row(fresh_vlm):
    """A photo with a single line in a jsonl file was asked the same thing four times over."""

    class Single:
        name = "single"

        def __len__(self) -> int:
            return 1

        def draw(self, index, rng, count):
            return (sample("dog"),) * count

    assert len(Collator(fresh_vlm, Mixture((Single(),), (1.0,)), 4, seed=0).samples(0)) == 1


def test_templates_vary_in_training_where_the_checkpoint_has_the_first_of_them():
    """The front door uses the first ones; the embedded model has its own, and keeps it."""
    general, rng = CheckpointConfig(), np.random.default_rng(0)
    drawn = [draw_wording(general, "dog", rng) for _ in range(60)]
    assert {asked for asked, _ in drawn} == {template.replace("{query}", "dog") for template in QUESTIONS}
    assert {template for _, template in drawn} == set(ANSWERS)
    assert draw_wording(general, "dog", None) == (QUESTIONS[0].replace("{query}", "dog"), ANSWERS[0])
    assert "cat, dog" in draw_wording(general, ("cat", "dog"), rng)[0]
    own = replace(general, question="{query}", answer="<seg>{body}</seg>")
    assert {draw_wording(own, "dog", rng) for _ in range(9)} == {("dog", "<seg>{body}</seg>")}


def test_wrong_rows_are_read_by_the_embedded_kind_alone(fresh_vlm, monkeypatch):
    """With plain positions a model counts what it has read; wrong rows would teach it nothing but noise."""
    seen = []
    made = SimpleNamespace(left_out=0)
    monkeypatch.setattr("t4s.training.collator.build_row", lambda vlm, samples, rng, words: seen.append(rng) or made)
    for positions in ("cells", "sequence"):
        vlm = VLM(fresh_vlm.model, fresh_vlm.processor,
                            replace(fresh_vlm.config, positions=positions))  # fmt: skip
        Collator(vlm, Mixture.open(["synthetic"]), 1, seed=0).rows(0)
    assert seen[0] is not None and seen[1] is None


def test_a_draw_is_a_pure_function_of_its_number(fresh_vlm):
    mixture = Mixture.open(["synthetic"])
    one, two = (Collator(fresh_vlm, mixture, 2, seed=3)([5, 6]) for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = Collator(fresh_vlm, mixture, 2, seed=4)([5, 6])
    assert one["input_ids"].shape != other["input_ids"].shape or not torch.equal(one["input_ids"], other["input_ids"])


def test_some_answers_see_only_the_nearby_rows_of_the_photo(bidirectional_prefix, monkeypatch):
    """The row that a token continues, the one above and the one below; questions and their answers as ever."""
    monkeypatch.setattr("t4s.training.collator.NEARBY_SHARE", 1.0)
    made = build_row(bidirectional_prefix, [sample("dog")], np.random.default_rng(0))
    whole = replace(made, nearby_columns=0)
    (columns, cells), prompt = (4, 16), made.segments.index(1)
    assert (made.nearby_columns, build_row(bidirectional_prefix, [sample("dog")]).nearby_columns) == (columns, 0)
    near, every = (collate([one], 0)["attention_mask"][0, 0] for one in (made, whole))
    size = len(made.ids)
    assert torch.equal(near[:prompt], every[:prompt]) and torch.equal(near[:, cells:], every[:, cells:])
    for token in range(prompt, size):
        written = int(made.positions[token]) - cells
        seen = [cell for cell in range(cells) if near[token, cell]]
        assert seen == [cell for cell in range(cells) if written - columns <= cell < written + 2 * columns]
    assert every[prompt:size, :cells].all() and not near[prompt:size, :cells].all()
    two = collate([made, whole], 0)["attention_mask"]
    assert torch.equal(two[0, 0], near) and torch.equal(two[1, 0], every)


def test_spoilt_rows_are_read_but_not_learnt(fresh_vlm):
    """Without them the model copies the row above, and an object whose first row it missed is never written."""
    whole = sample("dog")
    true, seen = whole.grid(fresh_vlm.config.grid), set()
    for seed in range(40):
        wrong_grid, wrong = corrupt_rows(true, np.random.default_rng(seed))
        assert np.array_equal(wrong_grid.ids[~wrong], true.ids[~wrong])
        seen.add(int(wrong.sum()))
        read, learnt = answer_tokens(fresh_vlm, whole, np.random.default_rng(seed))
        assert len(read) == len(learnt)
        text = fresh_vlm.tokenizer.decode([token for token in read[:-1]])
        rows = codec.decode(text.removeprefix("<seg>").removesuffix("</seg>"), fresh_vlm.config.grid)
        line = 0
        for token, label in zip(read[1:-2], learnt[1:-2], strict=True):
            differs = not np.array_equal(rows.ids[line] > 0, true.ids[line] > 0)
            assert label in (token, IGNORE) and not (differs and label != IGNORE)
            line += fresh_vlm.piece(token).count("\n")
    assert len(seen) > 2
