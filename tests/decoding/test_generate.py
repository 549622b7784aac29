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
from t4s.decoding.constraint import Constraint, vocabulary
from t4s.decoding.generate import MODES, constrained, decode, fast, free, token_limit
from t4s.errors import QueryError
from t4s.models.tiny import architecture

TOKENIZER = architecture.tokenizer(["dog", "cat", "horse", "person", "potted plant"])
WORDS = vocabulary(TOKENIZER)
LABELS = ("others", "dog", "the black dog", "xyé")
SIZE = len(TOKENIZER)


class StandIn:
    """A model whose logits are a pure function of the prefix: noise, and a pull towards a true text.

    Every prefix has its own noise, so two paths agree only where they fed the same tokens in the same order.
    """

    def __init__(self, truth: str, pull: float = 0.0, seed: int = 0):
        self.truth, self.pull, self.seed = [*WORDS.spell(truth), *WORDS.spell("</seg>")], pull, seed
        self.cache: list[int] = []
        self.forwards = self.fed = 0
        self.last = self._logits()

    def _logits(self) -> torch.Tensor:
        rng = np.random.default_rng(zlib.crc32(repr((self.seed, self.cache)).encode()))
        row = rng.normal(size=SIZE)
        if len(self.cache) < len(self.truth):
            row[self.truth[len(self.cache)]] += self.pull
        return torch.from_numpy(row)

    def feed(self, ids) -> torch.Tensor:
        assert len(ids), "an empty pass"
        rows = []
        for token in ids:
            self.cache.append(int(token))
            rows.append(self._logits())
        self.forwards += 1
        self.fed += len(ids)
        return torch.stack(rows)

    def crop(self, n: int) -> None:
        assert n <= len(self.cache)
        del self.cache[n:]


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


def scene(seed: int, shape=(8, 8), labels=LABELS) -> codec.DescriptorGrid:
    """A few rectangles on others."""
    rng = np.random.default_rng(seed)
    ids = np.zeros(shape, int)
    for _ in range(rng.integers(0, 4)):
        (top, bottom), (left, right) = (sorted(rng.integers(0, side + 1, 2)) for side in shape)
        ids[top:bottom, left:right] = rng.integers(1, len(labels))
    return codec.DescriptorGrid(ids, labels)


def end(steps):
    *_, last = steps
    return last


def reference(model, constraint: Constraint) -> list[int]:
    """Constrained greedy, spelled out: every token of the vocabulary is tried, byte by byte."""
    state, ids, logits = constraint.start, [], model.last
    while True:
        best = None
        for text, token in zip(WORDS.texts, WORDS.ids, strict=True):
            at = state
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
    expected = reference(StandIn(codec.encode(grid), pull, seed), constraint)
    step = end(constrained(StandIn(codec.encode(grid), pull, seed), constraint))
    assert list(step.ids) == expected and step.forwards == len(expected) - 1


@pytest.mark.parametrize("pull", [0.0, 3.0, 4.0, 5.0, 20.0])
@pytest.mark.parametrize("rows", [1, 2, 4, 99])
def test_fast_writes_what_constrained_writes(pull, rows):
    """DESIGN's equality (a): a pure function of the prefix, from noise to certainty. Always identical."""
    agreed = 0
    for seed in range(8):
        grid = scene(seed, (1 + seed % 5, 1 + seed * 3 % 11))
        text, constraint = codec.encode(grid), Constraint(WORDS, grid.shape, grid.labels)
        slow = end(constrained(StandIn(text, pull, seed), constraint))
        quick = end(fast(StandIn(text, pull, seed), constraint, draft_rows=rows))
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
        slow = end(constrained(TinyLlama(model, prompt), constraint))
        quick = end(fast(TinyLlama(model, prompt), constraint, draft_rows=3))
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
        model = StandIn(text, 50)
        step = end(fast(model, constraint, draft_rows=rows))
        assert step.text == text and step.forwards == model.forwards
        passes[rows], fed[rows] = model.forwards, model.fed
    assert passes[0] == len(WORDS.spell(text)) - 1 == fed[0]
    assert passes[1] <= 18 and passes[2] <= 12 and passes[4] <= 7 and passes[16] <= 4
    assert fed[4] <= 3 * fed[0]


def test_forced_text_costs_no_pass_of_its_own():
    """Cells in a single column: after the label, count, line break, space and the rest of the word are forced."""
    grid = codec.DescriptorGrid([[0], [1], [0], [1]], ("others", "dog"))
    constraint = Constraint(WORDS, grid.shape, grid.labels)
    model = StandIn(codec.encode(grid), 50)
    step = end(fast(model, constraint, draft_rows=1))
    assert step.text == codec.encode(grid) and step.forwards <= 4


def test_every_pass_is_a_step():
    grid = scene(3, (6, 8))
    for mode in MODES:
        model = StandIn(codec.encode(grid), 20)
        steps = list(decode(mode, model, TOKENIZER, grid.shape, grid.labels))
        assert [step.ended for step in steps] == [""] * (len(steps) - 1) + ["complete"]
        for before, after in itertools.pairwise(steps):
            assert after.ids[: len(before.ids)] == before.ids and after.text.startswith(before.text)
        assert [step.forwards for step in steps] == list(range(len(steps)))
        assert steps[-1].text == codec.encode(grid) and WORDS.text(steps[-1].ids) == steps[-1].text


@pytest.mark.parametrize("mode", MODES)
def test_a_stop_request_ends_it_between_passes(mode):
    grid = scene(4, (8, 8))
    model = StandIn(codec.encode(grid), 20)
    asked = iter([False, False, True])
    steps = list(decode(mode, model, TOKENIZER, grid.shape, grid.labels, stop=lambda: next(asked)))
    assert [step.ended for step in steps] == ["", "", "stopped"] and model.forwards == 2
    confidence = steps[-1].confidence()  # what is written so far has its values, the rest 0
    assert confidence.shape == grid.shape and not confidence[-1].any()


def test_free_keeps_the_closing_out_of_the_body():
    grid = scene(5, (4, 4))
    step = end(decode("free", StandIn(codec.encode(grid), 50), TOKENIZER, grid.shape, grid.labels))
    assert (step.text, step.ended, list(step.ids)) == (codec.encode(grid), "complete", WORDS.spell(step.text))
    assert step.confidence().min() > 0.9


def test_free_may_write_nonsense_and_says_how_it_ended():
    labels = ("others", "dog")
    constraint = Constraint(WORDS, (2, 4), labels)
    noise = end(free(StandIn("", 0, seed=7), constraint))
    assert noise.ended == "truncated" and len(noise.ids) == token_limit(constraint)
    assert codec.repair(noise.text, (2, 4))[1] and not noise.confidence().any()
    broken = end(free(StandIn("others *4\n dog *9\n", 50), constraint))  # a row too long
    assert broken.ended == "complete" and codec.repair(broken.text, (2, 4))[1]
    assert (broken.confidence()[0] > 0.9).all() and not broken.confidence()[1].any()
    eos = WORDS.spell(" dog")[0]
    early = end(free(StandIn("others *4\n dog *4\n", 50), constraint, eos=[eos]))
    assert (early.ended, early.text) == ("truncated", "others *4\n")


@pytest.mark.parametrize("layout", codec.LAYOUTS)
def test_the_limit_never_cuts_a_valid_answer(layout):
    """The longest answer there is: every cell differs from its neighbours."""
    labels = ("others", "dog", "the quick brown fox")
    ids = np.indices((6, 7)).sum(0) % 2 * 2
    text = codec.encode(codec.DescriptorGrid(ids, labels), layout)
    step = end(decode("free", StandIn(text, 50), TOKENIZER, (6, 7), labels, layout=layout))
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
def test_bad_input_costs_no_pass(mode, shape, labels, message):
    model = StandIn("")
    with pytest.raises(QueryError, match=message):
        decode(mode, model, TOKENIZER, shape, labels)
    assert model.forwards == 0


def test_only_free_writes_other_layouts():
    with pytest.raises(QueryError, match="use decoding='free'"):
        decode("fast", StandIn(""), TOKENIZER, (4, 4), ("others", "dog"), layout="full")


def test_a_gpu_drafts_further_ahead(monkeypatch):
    asked = []
    monkeypatch.setattr(generate, "fast", lambda *_, draft_rows, **__: asked.append(draft_rows))
    model = StandIn("")
    for device in ("cpu", "meta"):
        model.last = model.last.to(device)
        decode("fast", model, TOKENIZER, (4, 4), ("others", "dog"))
    decode("fast", model, TOKENIZER, (4, 4), ("others", "dog"), draft_rows=2)
    assert asked == [generate.DRAFT_ROWS["cpu"], generate.DRAFT_ROWS_ELSEWHERE, 2]
