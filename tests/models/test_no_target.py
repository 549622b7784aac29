"""The empty answer weighed first: absent by its whole probability, drawn where it most probably begins."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from t4s import Segmenter, bench, codec
from t4s.decoding.confidence import Pick
from t4s.decoding.constraint import Constraint, vocabulary
from t4s.decoding.generate import constrained, fast, free, last_step
from t4s.evaluation.bench.absent import Query, table
from t4s.models.tiny import name_head, no_target
from t4s.models.tiny.cell_scores import cell_similarity
from t4s.models.tiny.scorer import TinyScorer
from t4s.models.vlm import VLM
from tests.support.stand_in_decoder import LABELS, TOKENIZER, WORDS, StandInDecoder, scene

SHAPE = (6, 16)
NOTHING = codec.DescriptorGrid(np.zeros(SHAPE, int), LABELS)


def constraint() -> Constraint:
    return Constraint(WORDS, SHAPE, LABELS)


def scorer(above: float) -> TinyScorer:
    return TinyScorer(constraint(), rule=no_target.Rule(above))


def chances(model: StandInDecoder) -> list[float]:
    """P(row is empty | the rows above are), worked out token by token in the tokenizer's own spelling."""
    rules, logits, rows, row = constraint(), model.last, [1.0], 0
    state = rules.start
    for token in WORDS.spell(codec.encode(NOTHING)):
        allowed = rules.choice(state).ids
        weights = np.exp(logits.numpy() - logits.numpy()[allowed].max())
        rows[-1] *= weights[token] / weights[allowed].sum()
        state = rules.advance(state, token)
        if state.row > row and state.row < SHAPE[0]:
            rows, row = [*rows, 1.0], state.row
        logits = model.feed([token])[-1]
    return rows


def answer(loop, model: StandInDecoder, above: float, **options) -> codec.DescriptorGrid:
    step = last_step(loop(model, constraint(), scorer=scorer(above), **options))
    assert step.ended == "complete"
    return codec.decode(step.text, SHAPE)


@pytest.mark.parametrize("seed", range(6))
def test_it_is_absent_exactly_where_the_empty_answer_is_probable_enough(seed):
    def model():
        return StandInDecoder(codec.encode(NOTHING), 6.5, seed)

    chance = float(np.prod(chances(model())))
    assert 0.01 < chance < 0.99
    for loop, options in ((constrained, {}), (fast, {"draft_rows": 4})):
        assert not answer(loop, model(), 0.999 * chance, **options).ids.any()
        assert answer(loop, model(), min(1.001 * chance, 0.9999), **options).ids.any()


@pytest.mark.parametrize("seed", range(6))
def test_what_greedy_decoding_leaves_empty_begins_in_the_likeliest_row(seed):
    def model():
        return StandInDecoder(codec.encode(NOTHING), 6.5, seed)

    empty = chances(model())
    assert last_step(fast(model(), constraint(), draft_rows=4)).text == codec.encode(NOTHING), "greedy is empty"
    first = [np.prod(empty[:row]) * (1 - empty[row]) for row in range(SHAPE[0])]
    drawn = answer(fast, model(), 0.9999, draft_rows=4).ids.any(1)
    assert drawn.argmax() == np.argmax(first)
    assert no_target.first_drawn(np.array(empty)) == np.argmax(first)


@pytest.mark.parametrize("pull", [0.0, 4.0, 6.5, 9.0])
@pytest.mark.parametrize("above", [1e-9, 0.1, 0.6])
def test_fast_writes_what_constrained_writes(pull, above):
    for seed in range(8):
        truth = codec.encode(scene(seed, SHAPE) if seed % 2 else NOTHING)
        steps = list(fast(StandInDecoder(truth, pull, seed), constraint(), draft_rows=4, scorer=scorer(above)))
        slow = list(constrained(StandInDecoder(truth, pull, seed), constraint(), scorer=scorer(above)))
        assert steps[-1].ids == slow[-1].ids
        assert np.allclose(steps[-1].confidence(), slow[-1].confidence())
        assert steps[-1].forwards <= slow[-1].forwards


def test_what_greedy_decoding_draws_stays_as_it_is():
    for seed in range(10):
        truth = codec.encode(scene(seed, SHAPE))
        plain = last_step(constrained(StandInDecoder(truth, 5.0, seed), constraint()))
        if codec.decode(plain.text, SHAPE).ids.any():
            assert (
                last_step(constrained(StandInDecoder(truth, 5.0, seed), constraint(), scorer=scorer(0.9999))).ids
                == plain.ids
            )


def test_an_absent_thing_takes_one_pass():
    model = StandInDecoder(codec.encode(NOTHING), 30.0)
    steps = list(fast(model, constraint(), draft_rows=4, scorer=scorer(0.5)))
    assert [step.forwards for step in steps] == [1] and steps[0].text == codec.encode(NOTHING)
    assert (steps[0].confidence() > 0.99).all()


def test_a_row_that_must_show_something_forbids_all_that_could_only_be_empty():
    rules = constraint()
    row = " others *16\n"
    state, written = rules.start, rules.pad
    for token in WORDS.spell(codec.encode(NOTHING)):
        for text, allowed in zip((choice := rules.choice(state)).texts,
                                 no_target.can_draw(rules, choice, written, 2), strict=True):  # fmt: skip
            third = (written + text).split("\n")[2:3] if written.count("\n") < 3 else []
            assert allowed == (not third or not third[0].startswith(" others *16")), (written, text)
        state, written = rules.advance(state, token), written + WORDS.latin1([token])
    assert written == row * SHAPE[0]


def test_a_grid_one_cell_wide_can_be_drawn_too():
    shape = (3, 1)
    rules = Constraint(WORDS, shape, ("others", "dog"))
    model = StandInDecoder(" others *1\n" * 3, 5.0, 1)
    step = last_step(fast(model, rules, draft_rows=2, scorer=TinyScorer(rules, rule=no_target.Rule(0.9999))))
    assert codec.decode(step.text, shape).ids.any()


def test_free_text_is_as_it_comes():
    assert "scorer" not in free.__kwdefaults__


def with_threshold(segmenter: Segmenter, above: float | None) -> Segmenter:
    """The same model, with `no_target_threshold` in its t4s.json."""
    vlm = segmenter.vlm
    config = replace(vlm.config, no_target_threshold=above, names=())
    return Segmenter(VLM(vlm.model, vlm.processor, config))


@pytest.mark.parametrize("phrase", ["cat", "bus", "sheep"])
def test_a_checkpoint_says_when_a_thing_is_absent(segmenter, examples, phrase):
    photo = segmenter.encode(examples / "two_cats.jpg")
    greedy, lax, strict = (
        with_threshold(segmenter, above)(photo, phrase, refine="none") for above in (None, 0.9999999, 1e-300)
    )
    chance = lax.stats["absent"]
    assert "absent" not in greedy.stats and strict.stats["absent"] == chance
    assert lax.present == (chance < 0.9999999) and not strict.present
    for above in (0.99 * chance, min(1.01 * chance, 0.999)):
        slow, fast = (with_threshold(segmenter, above)(photo, phrase, "none", mode) for mode in ("constrained", "fast"))
        assert slow.text == fast.text and slow.present == fast.present == (chance < above)
    free = with_threshold(segmenter, None)(photo, phrase, refine="none", decoding="free")
    assert with_threshold(segmenter, 0.9999999)(photo, phrase, refine="none", decoding="free").text == free.text


def test_similarity_is_that_of_the_surest_cells_to_the_name(fresh_vlm):
    """Cells made so that four of them, and no more, lie along the vector of "potted plant"."""
    config = replace(fresh_vlm.config, names=("potted plant", "dog"), bidirectional_prefix=True)
    vlm = VLM(fresh_vlm.model, fresh_vlm.processor, config)
    photo = vlm.encode(Image.new("RGB", (64, 64)))
    embeddings = vlm.model.get_input_embeddings().weight
    plant, dog = (embeddings[vlm.text_ids(f" {name}")].mean(0) for name in config.names)
    across = dog - (dog @ plant) / (plant @ plant) * plant
    cells = across.repeat(16, 1)
    cells[[3, 5, 6, 12]] = 7 * plant
    photo.features["image"].pooler_output = [cells]
    assert cell_similarity(vlm, photo, "potted plant") == pytest.approx(1, abs=1e-5)
    for same in ("the potted plant", "a potted plant", ("dog", "potted plant"), ("potted plant",),
                 "the potted plant on the left", "the dog and the smaller potted plant"):  # fmt: skip
        assert cell_similarity(vlm, photo, same) == pytest.approx(1, abs=1e-5), same
    cells[12] = across
    assert cell_similarity(vlm, photo, "potted plant") == pytest.approx(0.75, abs=1e-5)
    for other in ("cat", ("dog", "cat"), "the dog and the cat", "not the potted plant", "everything"):
        assert cell_similarity(vlm, photo, other) == 0, other
    assert cell_similarity(VLM(vlm.model, vlm.processor, replace(config, names=())), photo, "dog") == 0


def test_the_likelier_the_cells_the_less_the_empty_answer_is_believed():
    rows = np.array([0.9, 0.5])
    unlike, unknown, alike = (no_target.Rule(0.1, cosine).probability(rows) for cosine in (-0.1, 0.0, 0.5))
    assert unknown == pytest.approx(0.45) and unlike == pytest.approx(0.45 ** np.exp(-1.2))
    assert no_target.LIKENESS == name_head.SCALE
    assert alike < 1e-100 < unknown < unlike < 1


def test_the_embedded_model_knows_what_its_cells_were_taught(segmenter, examples):
    photo = segmenter.encode(examples / "two_cats.jpg")
    like = {name: cell_similarity(segmenter.vlm, photo, name) for name in ("cat", "the cat", "kitten", "bus", "sheep")}
    assert like["cat"] == like["the cat"] > 0.3 and like["kitten"] > 0.2 and max(like["bus"], like["sheep"]) < 0.2
    assert cell_similarity(segmenter.vlm, photo, "the cat on the left") == like["cat"]
    assert cell_similarity(segmenter.vlm, photo, "the cat and the bus") == pytest.approx(like["cat"])
    assert {"cat", "bus"} <= set(segmenter.vlm.config.names) and 0 < segmenter.vlm.config.no_target_threshold < 1


def test_the_chances_of_rows_are_those_of_the_tokens_that_end_in_them():
    rules = Constraint(vocabulary(TOKENIZER), (4, 4), ("others", "dog"))
    state, picks = rules.start, []
    for token in WORDS.spell(codec.encode(codec.DescriptorGrid(np.zeros((4, 4), int), ("others", "dog")))):
        choice = rules.choice(state)
        picks.append(Pick(choice, np.zeros(len(choice.ids)), choice.index[token]))
        state = rules.advance(state, token)
    assert rules.is_final(state)
    assert sorted(set(no_target.rows_of(rules, picks))) == [0, 1, 2, 3]
    assert np.allclose(no_target.empty_rows(rules, picks).prod(), np.prod([1 / len(pick.choice.ids) for pick in picks]))


def test_bounds_are_told_by_source():
    asked = [Query("voc", True, True, 0.001), Query("voc", True, False, 0.03), Query("voc", False, False, 0.9),
             Query("ccp", False, True, 0.045), Query("camvid", True, True, 0.2)]  # fmt: skip
    lines = dict(line.split("| ", 1)[1].split(" | ", 1) for line in table(asked).splitlines()[2:])
    assert lines["greedy"].startswith("66.7 / 50.0")
    assert lines["0.02"] == "33.3 / 100.0 | nan / 100.0 | 50.0 / 100.0 |"
    assert lines["0.05"] == "66.7 / 50.0 | nan / 0.0 | 100.0 / 100.0 |"


@pytest.mark.parametrize("more", [["--stride", "0"], ["--min-cover", "1"], ["--source", "nowhere"]])
def test_what_cannot_be_queried_is_one_sentence(more, capsys):
    assert bench.main(["absent", "--dataset", "synthetic:scenes=2@val", *more]) == 2
    assert re.search("stride is|were queried", capsys.readouterr().err)


def test_the_embedded_model_is_weighed_on_a_corpus(capsys):
    bench.main(["absent", "--dataset", "synthetic:scenes=6@val", "--stride", "2"])
    lines = capsys.readouterr().out.splitlines()
    there, absent = zip(*(map(float, line.split("|")[2].split("/")) for line in lines[3:]), strict=True)
    assert list(there) == sorted(there) and list(absent) == sorted(absent, reverse=True)
