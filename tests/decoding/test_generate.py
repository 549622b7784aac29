"""The three loops over stand-ins: fast writes what constrained writes, always valid, always stoppable."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from t4s import codec
from t4s.decoding import generate
from t4s.decoding.constraint import Constraint, Vocabulary
from t4s.decoding.generate import MODES, check, constrained, decode, fast, free, last_step, token_limit
from t4s.decoding.hypothesis import MAX_DRAFT
from t4s.errors import QueryError
from tests.support.stand_in_decoder import LABELS, SIZE, TOKENIZER, WORDS, StandInDecoder, scene
from tests.support.vocabularies import PARAMS, open_vocabulary


class TinyLlama:
    """A random language model in float64 over a real key-value cache."""

    def __init__(self, model: LlamaForCausalLM, prompt: list[int]):
        self.model, self.cache, self.prompt, self.forwards = model, DynamicCache(), len(prompt), 0
        self.last = self._pass(prompt)[-1]

    @torch.inference_mode()
    def _pass(self, ids) -> torch.Tensor:
        return self.model(torch.tensor([list(ids)]), cache=self.cache).logits[0]

    def feed(self, ids) -> torch.Tensor:
        self.forwards += 1
        return self._pass(ids)

    def crop(self, n: int) -> None:
        self.cache.crop(self.prompt + n - self.cache.get_seq_length())  # positive lengths are refused


class SpellsAtRandom:
    """A `CausalDecoder` that writes a true text, in tokens that a number decides: any that go on with it."""

    def __init__(self, words: Vocabulary, truth: str):
        self.words, self.truth = words, truth.encode().decode("latin-1")
        self.ids: list[int] = []
        self.forwards = self.longest = 0
        self.last = self._rows([])[-1]

    def _rows(self, more) -> torch.Tensor:
        logits = torch.zeros(len(more) + 1, max(self.words.ids) + 1)
        for at in range(len(logits)):
            ids = [*self.ids, *more[:at]]
            text = self.words.latin1(ids)
            if (self.words.lead + self.truth).startswith(text):
                rest = (self.words.lead + self.truth)[len(text) :]
                lo, hi = 0, len(self.words.texts)
                for size in range(1, 30):
                    lo, hi = self.words.find(rest[:size], lo, hi)
                    for place in range(lo, hi):
                        if self.words.texts[place] != rest[:size]:
                            break
                        logits[at, self.words.ids[place]] = 1 + zlib.crc32(repr((ids, place)).encode()) / 2**32
        return logits

    def feed(self, ids) -> torch.Tensor:
        rows = self._rows(ids)[1:]
        self.ids += ids
        self.forwards += 1
        self.longest = max(self.longest, len(ids))
        return rows

    def crop(self, n: int) -> None:
        del self.ids[n:]


def next_of_label(constraint: Constraint, state) -> str | None:
    """The text of the only token that may come next, where the rest of one label does; else None."""
    labels = [label for at, label in enumerate(constraint.grammar.labels)
              if at != state.last and f" {label} *".startswith(state.spelled)]  # fmt: skip
    if len(labels) != 1 or len(state.spelled) > len(labels[0]):
        return None
    pieces = [WORDS.latin1([token]) for token in WORDS.spell(f" {labels[0]}".encode("latin-1").decode())]
    end = next(end for end in itertools.accumulate(map(len, pieces)) if end > len(state.spelled))
    rest = f" {labels[0]}"[len(state.spelled) : end]
    return max((text for text in WORDS.texts if rest.startswith(text)), key=len)


def reference(model, constraint: Constraint) -> list[int]:
    """Constrained greedy, spelled out: every token of the vocabulary is tried, byte by byte."""
    state, ids, logits = constraint.start, [], model.last
    while True:
        best, only = None, next_of_label(constraint, state)
        for text, token in zip(WORDS.texts, WORDS.ids, strict=True):
            at = state if only in (None, text) else None
            for char in text:
                at = at and constraint.grammar.step(at, char)
            if at and (best is None or logits[token] > logits[best[0]]):
                best = token, at
        ids.append(best[0])
        state = best[1]
        if constraint.is_final(state):
            return ids
        logits = model.feed([best[0]])[-1]


@pytest.mark.parametrize(("seed", "pull"), [(0, 0.0), (1, 3.0), (2, 4.0), (3, 9.0)])
def test_constrained_is_greedy_among_all_that_is_allowed(seed, pull):
    grid = scene(seed, (3, 5))
    constraint = Constraint(WORDS, grid.shape, grid.labels)
    expected = reference(StandInDecoder(codec.encode(grid), pull, seed), constraint)
    step = last_step(constrained(StandInDecoder(codec.encode(grid), pull, seed), constraint))
    assert list(step.ids) == expected and step.forwards == len(expected) - 1


@pytest.mark.parametrize("pull", [0.0, 3.0, 4.0, 5.0, 20.0])
@pytest.mark.parametrize("rows", [1, 2, 4, 99])
def test_fast_writes_what_constrained_writes(pull, rows):
    """DESIGN's equality (a): a pure function of the prefix, from noise to certainty. Always identical."""
    agreed = 0
    for seed in range(8):
        grid = scene(seed, (1 + seed % 5, 1 + seed * 3 % 11))
        text, constraint = codec.encode(grid), Constraint(WORDS, grid.shape, grid.labels)
        slow = last_step(constrained(StandInDecoder(text, pull, seed), constraint))
        quick = last_step(fast(StandInDecoder(text, pull, seed), constraint, draft_rows=rows))
        assert quick.ids == slow.ids and quick.text == slow.text
        assert quick.forwards <= slow.forwards == len(slow.ids) - 1
        assert codec.decode(quick.text, grid.shape)
        assert np.array_equal(quick.confidence(), slow.confidence())  # no pass of its own, and the same numbers
        agreed += quick.text == text
    assert agreed == 8 or pull < 20


def test_fast_equals_constrained_on_random_models():
    """DESIGN's equality (b): tiny random models in float64, over a real cache. Identical."""
    for seed in range(4):
        torch.manual_seed(seed)
        config = LlamaConfig(vocab_size=SIZE, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                             num_attention_heads=4, max_position_embeddings=4096, initializer_range=0.3)  # fmt: skip
        model = LlamaForCausalLM(config).double().eval()
        constraint = Constraint(WORDS, (5, 7), LABELS)
        prompt = WORDS.spell("the dog\n<seg>")
        slow = last_step(constrained(TinyLlama(model, prompt), constraint))
        quick = last_step(fast(TinyLlama(model, prompt), constraint, draft_rows=3))
        assert quick.ids == slow.ids
        assert codec.decode(quick.text, (5, 7))
        np.testing.assert_allclose(quick.confidence(), slow.confidence(), atol=1e-6)


def test_fast_takes_few_passes_and_short_drafts():
    """A square in the middle of a 16×16 grid: two passes at its upper edge, one at its lower, and so on."""
    ids = np.zeros((16, 16), int)
    ids[4:12, 5:10] = 1
    grid = codec.DescriptorGrid(ids, ("others", "dog"))
    text, constraint = codec.encode(grid), Constraint(WORDS, (16, 16), grid.labels)
    passes, fed = {}, {}
    for rows in (0, 1, 2, 4, 16):
        model = StandInDecoder(text, 50)
        step = last_step(fast(model, constraint, draft_rows=rows))
        assert step.text == text and step.forwards == model.forwards
        passes[rows], fed[rows] = model.forwards, model.fed
    assert passes[0] == len(WORDS.spell(text)) - 1 == fed[0]
    assert passes[1] <= 18 and passes[2] <= 12 and passes[4] <= 7 and passes[16] <= 4
    assert fed[4] <= 3 * fed[0]


@pytest.mark.parametrize("name", PARAMS)
def test_long_labels_take_no_more_passes_than_short_ones(name):
    """However the model would like to spell them: 1, 20, 100 and 200 characters, in rows that differ.

    Where a run begins, its label is not known yet and the first token is the model's choice: a pass more for a run.
    """
    words = open_vocabulary(name)
    ids = np.zeros((4, 8), int)
    for row, (start, end) in enumerate([(2, 5), (1, 5), (3, 8), (0, 2)]):
        ids[row, start:end] = 1
    passes = []
    for length in (1, 20, 100, 200):
        label = ("the zebra wvutqx of " * 20)[:length].rstrip()
        grid = codec.DescriptorGrid(ids, ("others", label))
        constraint = Constraint(words, ids.shape, grid.labels)
        model = SpellsAtRandom(words, codec.encode(grid))
        step = last_step(fast(model, constraint, draft_rows=4))
        assert step.text == codec.encode(grid)
        passes.append(step.forwards)
        assert model.longest <= MAX_DRAFT + 1
    runs = 4
    assert max(passes) <= passes[0] + runs < 40


def test_forced_text_costs_no_pass_of_its_own():
    """Cells in a single column: after the label, count, line break, space and the rest of the word are forced."""
    grid = codec.DescriptorGrid([[0], [1], [0], [1]], ("others", "dog"))
    constraint = Constraint(WORDS, grid.shape, grid.labels)
    model = StandInDecoder(codec.encode(grid), 50)
    step = last_step(fast(model, constraint, draft_rows=1))
    assert step.text == codec.encode(grid) and step.forwards <= 4


def test_every_pass_is_a_step():
    grid = scene(3, (6, 8))
    for mode in MODES:
        model = StandInDecoder(codec.encode(grid), 20)
        steps = list(decode(mode, model, Constraint(WORDS, grid.shape, grid.labels)))
        assert [step.ended for step in steps] == [""] * (len(steps) - 1) + ["complete"]
        for before, after in itertools.pairwise(steps):
            assert after.ids[: len(before.ids)] == before.ids and after.text.startswith(before.text)
        assert [step.forwards for step in steps] == list(range(len(steps)))
        assert steps[-1].text == codec.encode(grid) and WORDS.text(steps[-1].ids) == steps[-1].text


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_request_ends_it_between_passes(mode):
    grid = scene(4, (8, 8))
    model = StandInDecoder(codec.encode(grid), 20)
    asked = iter([False, False, True])
    steps = list(decode(mode, model, Constraint(WORDS, grid.shape, grid.labels), stop=lambda: next(asked)))
    assert [step.ended for step in steps] == ["", "", "stopped"] and model.forwards == 2
    confidence = steps[-1].confidence()  # what is written so far has its values, the rest 0
    assert confidence.shape == grid.shape and not confidence[-1].any()


def test_free_keeps_the_closing_out_of_the_body():
    grid = scene(5, (4, 4))
    step = last_step(decode("free", StandInDecoder(codec.encode(grid), 50), Constraint(WORDS, grid.shape, grid.labels)))
    assert (step.text, step.ended, list(step.ids)) == (codec.encode(grid), "complete", WORDS.spell(step.text))
    assert step.confidence().min() > 0.9


def test_free_may_write_nonsense_and_says_how_it_ended():
    labels = ("others", "dog")
    constraint = Constraint(WORDS, (2, 4), labels)
    noise = last_step(free(StandInDecoder("", 0, seed=7), constraint))
    assert noise.ended == "truncated" and len(noise.ids) == token_limit(constraint)
    assert codec.repair(noise.text, (2, 4))[1] and not noise.confidence().any()
    broken = last_step(free(StandInDecoder("others *4\n dog *9\n", 50), constraint))  # a row too long
    assert broken.ended == "complete" and codec.repair(broken.text, (2, 4))[1]
    assert (broken.confidence()[0] > 0.9).all() and not broken.confidence()[1].any()
    eos = WORDS.spell(" dog")[0]
    early = last_step(free(StandInDecoder("others *4\n dog *4\n", 50), constraint, eos=[eos]))
    assert (early.ended, early.text) == ("truncated", "others *4\n")


def test_the_limit_never_cuts_a_valid_answer():
    """The longest answer there is: every cell differs from its neighbours."""
    labels = ("others", "dog", "the quick brown fox")
    ids = np.indices((6, 7)).sum(0) % 2 * 2
    text = codec.encode(codec.DescriptorGrid(ids, labels))
    step = last_step(decode("free", StandInDecoder(text, 50), Constraint(WORDS, (6, 7), labels)))
    assert (step.text, step.ended) == (text, "complete")


@pytest.mark.parametrize(
    ("mode", "shape", "labels", "message"),
    [
        ("slow", (4, 4), ("others", "dog"), "no decoding 'slow': choose one of fast, constrained, free"),
        ("fast", (0, 4), ("others", "dog"), "1 to 64 cells per side"),
        ("constrained", (4, 65), ("others", "dog"), "1 to 64 cells per side"),
        ("free", (4, 4), ("others",), "no labels"),
        ("fast", (4, 4), ("others", "dog", "dog "), "given twice"),
    ],
)
def test_bad_input_is_refused_before_any_pass(mode, shape, labels, message):
    with pytest.raises(QueryError, match=message):
        check(mode, TOKENIZER, shape, labels)


def test_a_gpu_drafts_further_ahead(monkeypatch):
    asked = []
    monkeypatch.setattr(generate, "fast", lambda *_, draft_rows, **__: asked.append(draft_rows))
    model = StandInDecoder("")
    for device in ("cpu", "meta"):
        model.last = model.last.to(device)
        decode("fast", model, Constraint(WORDS, (4, 4), ("others", "dog")))
    decode("fast", model, Constraint(WORDS, (4, 4), ("others", "dog")), draft_rows=2)
    assert asked == [generate.DRAFT_ROWS["cpu"], generate.DRAFT_ROWS_ELSEWHERE, 2]
