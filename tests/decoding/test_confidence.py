"""Confidence against full enumeration: stand-ins small enough to try every text that they could write."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch

from t4s.decoding import confidence
from t4s.decoding.constraint import Constraint, vocabulary
from t4s.decoding.generate import constrained
from t4s.models.tiny import architecture

WORDS = vocabulary(architecture.tokenizer(["dog", "cat"]))
SIZE = max(WORDS.ids) + 1
PARTS = (" *", "|", "\n", *"0123456789")
NAMES = ("others", " others", "dog", " dog", " cat", "cat")


class Random:
    """Random logits, a pure function of the prefix, over some of the vocabulary; `shape` sharpens or flattens them."""

    def __init__(self, tokens: list[int], seed: int, spread: float = 1.5):
        self.tokens, self.seed, self.spread = tokens, seed, spread
        self.prefix: list[int] = []
        self.forwards, self.last = 0, self.logits(())

    def logits(self, prefix) -> torch.Tensor:
        rng = np.random.default_rng(zlib.crc32(repr((self.seed, tuple(prefix))).encode()))
        row = torch.full((SIZE,), -np.inf, dtype=torch.float64)
        row[self.tokens] = torch.from_numpy(rng.normal(size=len(self.tokens)) * self.spread)
        return row

    def feed(self, ids) -> torch.Tensor:
        rows = []
        for token in ids:
            self.prefix.append(int(token))
            rows.append(self.logits(self.prefix))
        return torch.stack(rows)

    def crop(self, n: int) -> None:
        del self.prefix[n:]


def ids_of(*texts: str) -> list[int]:
    found = {text: token for text, token in zip(WORDS.texts, WORDS.ids, strict=True)}
    return [found[text] for text in texts]


def counts_in_one_token(width: int) -> list[int]:
    return ids_of(*NAMES, *(f" *{count}{closing}" for count in range(1, width + 1) for closing in "|\n"))


COUNTS_IN_PARTS = ids_of(*NAMES, *PARTS)
EVERYTHING_IN_PARTS = ids_of(
    *PARTS, " *1", " *1|", " others", "others", " ", "th", "ers", "og", "dog", " dog", *"dog*thers"
)


def units(model: Random, constraint: Constraint, prefix: list[int], state, unit: str = "") -> dict[str, float]:
    """{the next unit as text: its probability} behind a prefix, by trying every way to write it."""
    choice = constraint.choice(state)
    logits = model.logits(prefix).numpy()[choice.ids]
    weights = np.exp(logits - logits.max())
    found: dict[str, float] = {}
    for p, token, text in zip(weights / weights.sum(), choice.ids.tolist(), choice.texts, strict=True):
        if p == 0:
            continue
        written = unit + text
        if written[-1] in "|\n":
            found[written] = found.get(written, 0.0) + p
            continue
        following = constraint.advance(state, token)
        for more, q in units(model, constraint, [*prefix, token], following, written).items():
            found[more] = found.get(more, 0.0) + p * q
    return found


def exact(model: Random, constraint: Constraint, ids) -> np.ndarray:
    """(H, W): the formula of `t4s.decoding.confidence`, its terms from full enumeration."""
    cells = np.zeros(constraint.grammar.shape)
    state, at, row, column, by = constraint.start, 0, 0, 0, None
    while at < len(ids):
        distribution: dict[tuple[str, int], float] = {}
        for unit, p in units(model, constraint, list(ids[:at]), state).items():
            label, count = unit[:-1].strip().split(" *")
            distribution[label, int(count)] = distribution.get((label, int(count)), 0.0) + p
        unit = ""
        while not unit or unit[-1] not in "|\n":
            unit += WORDS.latin1([ids[at]])
            state = constraint.advance(state, ids[at])
            at += 1
        label, count = unit[:-1].strip().split(" *")
        own = {n: p for (name, n), p in distribution.items() if name == label}
        for x in range(column, column + int(count)):
            reach = sum(p for n, p in own.items() if column + n > x)
            cells[row, x] = reach * (1 if by is None else by(x))
        total, start = sum(own.values()), column
        by = lambda x, own=own, start=start, total=total: (  # noqa: E731
            sum(p for n, p in own.items() if start + n <= x) / total
        )
        row, column, by = (row + 1, 0, None) if unit[-1] == "\n" else (row, column + int(count), by)
    return cells


def write(model: Random, constraint: Constraint):
    *_, last = constrained(model, constraint)
    return last


@pytest.mark.parametrize("seed", range(8))
def test_exact_where_a_run_is_two_tokens(seed):
    """The embedded checkpoint's spelling: a label is a token, a count with what follows it is a token."""
    constraint = Constraint(WORDS, (2, 6), ("others", "dog", "cat"))
    step = write(Random(counts_in_one_token(6), seed), constraint)
    lower, upper = confidence.bounds(constraint, step._hypothesis.picks)
    expected = exact(Random(counts_in_one_token(6), seed), constraint, step.ids)
    np.testing.assert_allclose(lower, expected, atol=1e-12)
    np.testing.assert_allclose(upper, expected, atol=1e-12)
    assert step.confidence().dtype == np.float32 and step.confidence().shape == (2, 6)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("shape", "tokens"),
    [((1, 4), COUNTS_IN_PARTS), ((2, 13), COUNTS_IN_PARTS), ((1, 4), EVERYTHING_IN_PARTS)],
    ids=["1x4, counts in parts", "2x13, counts of two digits", "1x4, labels in parts too"],
)
def test_between_its_bounds_where_tokens_leave_branches_unentered(shape, tokens, seed):
    constraint = Constraint(WORDS, shape, ("others", "dog"))
    step = write(Random(tokens, seed), constraint)
    lower, upper = confidence.bounds(constraint, step._hypothesis.picks)
    expected = exact(Random(tokens, seed), constraint, step.ids)
    assert (lower <= expected + 1e-12).all() and (expected <= upper + 1e-12).all()
    np.testing.assert_allclose(step.confidence(), (lower + upper) / 2, atol=1e-6)
    assert (lower > 0).all() and (upper < 1 + 1e-12).all()
    assert np.abs(step.confidence() - expected).max() < 0.35


def test_counts_of_one_digit_leave_nothing_open():
    """On 1×4 a digit is the count, whatever follows: tokens of their own for count and line break stay exact."""
    constraint = Constraint(WORDS, (1, 4), ("others", "dog"))
    for seed in range(8):
        step = write(Random(COUNTS_IN_PARTS, seed), constraint)
        lower, upper = confidence.bounds(constraint, step._hypothesis.picks)
        np.testing.assert_allclose(lower, upper, atol=1e-12)
        np.testing.assert_allclose(lower, exact(Random(COUNTS_IN_PARTS, seed), constraint, step.ids), atol=1e-12)


class OneBoundary(Random):
    """`others`, then `dog` to the row's end; only where the boundary is, is open: P(n cells of others) is given."""

    def __init__(self, p):
        self.p = p
        super().__init__([], 0)

    def logits(self, prefix) -> torch.Tensor:
        row = torch.full((SIZE,), -np.inf, dtype=torch.float64)
        text = WORDS.latin1(prefix)
        if not text:
            row[ids_of("others")] = 0
        elif text == "others":
            row[ids_of(" *1|", " *2|", " *3|", " *4\n")] = torch.tensor(self.p, dtype=torch.float64).log()
        else:
            row[ids_of(" dog", *(f" *{count}\n" for count in range(1, 5)))] = 0
        return row


def test_a_doubtful_boundary_shows_on_both_sides():
    """With one boundary a row the confidence is the true probability of the cell's label, over all texts."""
    constraint = Constraint(WORDS, (1, 4), ("others", "dog"))
    step = write(OneBoundary([0.2, 0.5, 0.2, 0.1]), constraint)
    assert step.text == "others *2| dog *2\n"
    np.testing.assert_allclose(step.confidence(), [[1.0, 0.8, 0.7, 0.9]], atol=1e-6)
    sure = write(OneBoundary([0, 1, 0, 0]), constraint)
    np.testing.assert_allclose(sure.confidence(), 1)
    absent = write(OneBoundary([0.1, 0.1, 0.2, 0.6]), constraint)
    np.testing.assert_allclose(absent.confidence(), [[1.0, 0.9, 0.8, 0.6]], atol=1e-6)


def test_only_closed_runs_have_a_confidence():
    constraint = Constraint(WORDS, (1, 4), ("others", "dog"))
    picks = write(OneBoundary([0.2, 0.5, 0.2, 0.1]), constraint)._hypothesis.picks
    assert (confidence.of(constraint, picks[:1]) == 0).all()
    np.testing.assert_allclose(confidence.of(constraint, picks[:2]), [[1.0, 0.8, 0, 0]], atol=1e-6)
    assert (confidence.of(constraint, []) == 0).all()


def test_the_confidence_of_a_growing_answer_is_that_of_each_step_alone():
    """Runs that are closed are not computed again, in whatever order the steps are asked."""
    constraint = Constraint(WORDS, (3, 13), ("others", "dog"))
    steps = list(constrained(Random(COUNTS_IN_PARTS, 1), constraint))
    for step in (*steps, *steps[::-3]):
        alone = confidence.of(constraint, step._hypothesis.picks[: len(step.ids)])
        np.testing.assert_array_equal(step.confidence(), alone)
    assert steps[-1].confidence().all()
