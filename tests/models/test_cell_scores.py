"""What the photo's cells say, weighed with the text: against plain enumeration; the two loops side by side."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from t4s import Segmenter, codec
from t4s.decoding.constraint import Constraint, vocabulary
from t4s.decoding.generate import constrained, decode, fast, last_step
from t4s.models.tiny import no_target
from t4s.models.tiny.cell_scores import CellFusion, iou_margins
from t4s.models.tiny.scorer import TinyScorer, scorer_for
from t4s.models.vlm import VLM
from tests.support.stand_in_decoder import LABELS, WORDS, StandInDecoder, scene

SHAPE = (6, 12)  # counts of one digit begin those of two


def cell_logits(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 3, (*shape, len(LABELS)))


def rows_of_text(shape: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Every row that there is, as the text spells it (latin-1): the labels of its cells."""
    rows = {}
    for ids in itertools.product(range(len(LABELS)), repeat=shape[1]):
        line = " " + codec.encode(codec.DescriptorGrid(np.array([ids]), LABELS))
        rows[line.encode().decode("latin-1")] = ids
    return rows


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_most_that_the_cells_can_still_say_for_the_row(seed):
    shape = (2, 4)
    rules, logits, rows = Constraint(WORDS, shape, LABELS), cell_logits(seed, shape), rows_of_text(shape)
    loss = logits - logits.max(-1, keepdims=True)
    fusion = CellFusion(rules.grammar, logits, 1.0)
    state, written = rules.start, rules.pad
    for token in WORDS.spell(codec.encode(scene(seed, shape))):
        choice, line = rules.choice(state), written.rpartition("\n")[2]
        done = line[: line.rfind("|") + 1]  # the runs that are closed are not counted again
        closed = [ids for text, ids in rows.items() if text.startswith(done)][0][: shape[1] - state.left]
        before = sum(loss[state.row, at, label] for at, label in enumerate(closed))
        for text, gain in zip(choice.texts, fusion.scores(state, choice), strict=True):
            if "\n" in text[:-1]:
                continue  # reaches into the next row
            best = max(sum(loss[state.row, at, label] for at, label in enumerate(ids))
                       for whole, ids in rows.items() if whole.startswith(line + text))  # fmt: skip
            assert gain == pytest.approx(best - before), line + text
        state, written = rules.advance(state, token), written + WORDS.latin1([token])


def test_a_token_may_close_one_row_and_begin_the_next():
    shape = (2, 3)
    rules, logits = Constraint(WORDS, shape, LABELS), cell_logits(1, shape)
    fusion = CellFusion(rules.grammar, logits, 1.0)
    loss = logits - logits.max(-1, keepdims=True)
    row = loss[0, :, 0].sum()
    for text, second in (("", 0.0), (" dog *", at_best(loss[1], 1)), (" dog *3\n", loss[1, :, 1].sum())):
        after = rules.grammar.advance(rules.start, "others *3\n" + text)
        assert fusion._score(rules.start, "others *3\n" + text, after) == pytest.approx(row + second)


def at_best(loss: np.ndarray, label: int) -> float:
    """Of a row of three that begins with `label`."""
    return max(sum(loss[at, one] for at, one in enumerate(ids))
               for ids in itertools.product(range(len(LABELS)), repeat=3) if ids[0] == label)  # fmt: skip


@pytest.mark.parametrize("pull", [0.0, 4.0, 9.0])
@pytest.mark.parametrize("rule", [None, no_target.Rule(0.1)])
def test_fast_writes_what_constrained_writes(pull, rule):
    rules = Constraint(WORDS, SHAPE, LABELS)
    for seed in range(8):
        truth, fusion = codec.encode(scene(seed, SHAPE)), CellFusion(rules.grammar, cell_logits(seed), 1.0)
        one, two = (TinyScorer(rules, fusion, rule) for _ in range(2))
        quick = last_step(fast(StandInDecoder(truth, pull, seed), rules, draft_rows=4, scorer=one))
        slow = last_step(constrained(StandInDecoder(truth, pull, seed), rules, scorer=two))
        assert quick.ids == slow.ids and quick.forwards <= slow.forwards
        assert np.allclose(quick.confidence(), slow.confidence())
        codec.decode(quick.text, SHAPE)


@pytest.mark.parametrize("rule", [None, no_target.Rule(0.1)])
def test_cells_that_are_right_take_one_pass(rule):
    """Of a grid or of nothing, with or without the empty answer beside it. Cells that are surely wrong cost little."""
    rules = Constraint(WORDS, SHAPE, LABELS)
    for seed in range(8):
        grid = scene(seed, SHAPE)
        for cells, most in ((grid, 1), (scene(seed + 1, SHAPE), 2 * SHAPE[0])):
            fusion = CellFusion(rules.grammar, 5 * np.eye(len(LABELS))[cells.ids], 1e-6)
            model = StandInDecoder(codec.encode(grid), 50)
            step = last_step(fast(model, rules, draft_rows=4, scorer=TinyScorer(rules, fusion, rule)))
            assert step.text == codec.encode(grid) and step.forwards <= most


def test_cells_that_are_sure_enough_write_the_grid_and_unsure_ones_change_nothing():
    grid, rules = scene(5, SHAPE), Constraint(WORDS, SHAPE, LABELS)
    truth, true_cells = codec.encode(scene(2, SHAPE)), np.eye(len(LABELS))[grid.ids]
    for mode in ("constrained", "fast"):

        def written(factor: float, weight: float | None, mode: str = mode) -> str:
            scorer = TinyScorer(rules, CellFusion(rules.grammar, factor * true_cells, weight)) if weight else None
            return last_step(decode(mode, StandInDecoder(truth, 6.0, 3), rules, scorer=scorer)).text

        assert written(1000, 1.0) == codec.encode(grid) == written(1, 1000.0)
        assert written(0, 1.0) == written(1, 1e-9) == written(1, None) != codec.encode(grid)


# --- the cells of most expected IoU


def expected_iou(p: np.ndarray, drawn: np.ndarray) -> float:
    """Of the drawn cells with the true ones, which are so many in each as its probability says."""
    return p[drawn].sum() / (drawn.sum() + p[~drawn].sum())


@pytest.mark.parametrize("seed", range(20))
def test_no_other_cells_have_more_expected_iou(seed):
    rng = np.random.default_rng(seed)
    logits = np.stack([np.zeros((2, 5)), rng.normal(-1, rng.uniform(0.2, 5), (2, 5))], -1)
    p = 1 / (1 + np.exp(-logits[..., 1].ravel()))
    best = max(expected_iou(p, np.array(drawn)) for drawn in itertools.product([False, True], repeat=10) if any(drawn))
    drawn = (logits + iou_margins(logits)).argmax(-1).ravel() == 1
    assert expected_iou(p, drawn) == pytest.approx(best)


def test_sure_cells_stay_and_unsure_ones_are_taken_in():
    target = np.full((4, 4), -20.0)
    target[1:3, 1:3] = 20.0
    logits = np.stack([np.zeros((4, 4)), target], -1)
    assert np.allclose(iou_margins(logits), 0)
    target[0] = target[1, 1] = -0.2  # five cells of 45 %
    unsure = np.stack([np.zeros((4, 4)), target], -1)
    assert unsure.argmax(-1).sum() == 3 and (unsure + iou_margins(unsure)).argmax(-1).sum() == 8
    faint = np.stack([np.zeros((4, 4)), np.full((4, 4), -800.0)], -1)
    assert np.isfinite(iou_margins(faint)).all() and iou_margins(faint)[0] == 0


# --- the embedded checkpoint


def weighing(segmenter: Segmenter, weight: float | None) -> Segmenter:
    config = replace(segmenter.vlm.config, cell_fusion_weight=weight)
    return Segmenter(VLM(segmenter.vlm.model, segmenter.vlm.processor, config))


def test_the_embedded_checkpoint_lets_its_cells_count(segmenter, examples):
    photo = segmenter.encode(examples / "two_cats.jpg")
    with_cells, without = (weighing(segmenter, weight)(photo, "the cat", refine="none") for weight in (0.75, None))
    assert (segmenter(photo, "the cat", refine="none").grid.ids == with_cells.grid.ids).all()
    assert (with_cells.grid.ids != without.grid.ids).any()
    one_a_pass = weighing(segmenter, 0.75)(photo, "the cat", refine="none", decoding="constrained")
    assert one_a_pass.text == with_cells.text and one_a_pass.stats["forwards"] > with_cells.stats["forwards"]


def test_cells_alone_find_the_cats(segmenter, examples):
    """With a weight at which the text counts for nothing the grid is what each cell says."""
    photo = segmenter.encode(examples / "two_cats.jpg")
    vlm = weighing(segmenter, 99.0).vlm
    decoder = vlm.begin(photo, "cat")
    logits = decoder.cell_logits(vlm.first_token_ids(["others", "cat"])).numpy().reshape(16, 16, 2)
    grid = weighing(segmenter, 99.0)(photo, "cat", refine="none").grid
    sure = np.abs(logits[..., 0] - logits[..., 1]) > 0.5
    assert (grid.ids == logits.argmax(-1))[sure].mean() > 0.98 and 0.1 < grid.ids.mean() < 0.9


def test_unsure_cells_are_drawn_of_one_target_that_is_known_to_be_there(segmenter, examples):
    photo = segmenter.encode(examples / "two_cats.jpg")
    for names, threshold, raised in ((("cat",), 0.1, True), (("cat",), None, False), (("cat", "dog"), 0.1, False)):
        config = replace(segmenter.vlm.config, no_target_threshold=threshold)
        vlm = VLM(segmenter.vlm.model, segmenter.vlm.processor, config)
        decoder = vlm.begin(photo, names[0])
        rules = Constraint(vocabulary(vlm.tokenizer), config.grid, ("others", *names))
        said = decoder.cell_logits(vlm.first_token_ids(rules.labels)).numpy().reshape(16, 16, -1)
        counted = scorer_for(vlm, photo, decoder, names, rules).label_scores
        assert np.allclose(counted[..., 0], said[..., 0]) and (counted[..., 1] > said[..., 1] + 0.01).all() == raised


def test_what_cells_say_is_not_asked_for_where_it_does_not_count(segmenter, examples):
    photo = segmenter.encode(examples / "two_cats.jpg")
    assert weighing(segmenter, None).vlm.begin(photo, "cat").cell_logits([1]) is None
