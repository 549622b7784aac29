"""The exported grammar against the engines that will read it: what they accept is what the codec accepts."""

from __future__ import annotations

import numpy as np
import pytest

from t4s import codec
from t4s.decoding import dialects
from t4s.errors import CodecError, QueryError

HOSTILE = ('a "quoted" name', "back\\slash", "naïve 猫", "x] ::= y", "{brace}", "#1 (one)", "café/au-lait")
CASES = [
    ((1, 1), ("dog",)),
    ((1, 12), ("dog",)),
    ((3, 5), ("dog", "cat")),
    ((4, 10), HOSTILE),
    ((16, 16), ("dog", "cat")),
    ((2, 64), ("dog",)),
]


def texts(shape: tuple[int, int], labels: tuple[str, ...], count: int) -> list[str]:
    """Valid bodies, and mutants of them: a count, a label, a separator or a row changed."""
    rng = np.random.default_rng([*shape, len(labels)])
    names = ("others", *labels)
    found = []
    for number in range(count):
        ids = rng.integers(0, len(names), shape)
        if number % 3:
            ids = np.sort(ids, 1)  # longer runs
        text = codec.encode(codec.DescriptorGrid(ids, names))
        found.append(text)
        at = int(rng.integers(len(text)))
        found += [
            text[:at] + text[at + 1 :],
            text[:at] + rng.choice(list("0123456789|* \nx")) + text[at:],
            text.replace("*1", "*2", 1),
            text.replace("| ", "|", 1),
            text + text,
            text.replace("others", "other", 1),
        ]
    return found


def valid(text: str, shape: tuple[int, int], labels: tuple[str, ...]) -> bool:
    try:
        return set(codec.decode(text, shape).labels) <= {"others", *labels}
    except CodecError:
        return False


@pytest.mark.parametrize(("shape", "labels"), CASES)
def test_xgrammar_accepts_what_the_codec_accepts(shape, labels):
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string

    grammar = xgrammar.Grammar.from_ebnf(dialects.grammar_text(shape, labels, "ebnf"))
    for text in texts(shape, labels, 4):
        assert _is_grammar_accept_string(grammar, text) == valid(text, shape, labels), text


@pytest.mark.parametrize(("shape", "labels"), CASES)
def test_llguidance_accepts_what_the_codec_accepts(shape, labels):
    llguidance = pytest.importorskip("llguidance")

    tokenizer = llguidance.LLTokenizer("byte")
    grammar = llguidance.LLMatcher.grammar_from_lark(dialects.grammar_text(shape, labels, "lark"))
    for text in texts(shape, labels, 4):
        matcher = llguidance.LLMatcher(tokenizer, grammar)
        assert not matcher.get_error()
        ids = list(text.encode())
        whole = matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()
        assert whole == valid(text, shape, labels), text


def test_many_labels_leave_the_rule_about_neighbours_out():
    """Then equal neighbours pass, and reading merges them."""
    xgrammar = pytest.importorskip("xgrammar")
    from xgrammar.testing import _is_grammar_accept_string

    labels = tuple(f"class {number}" for number in range(150))
    text = dialects.grammar_text((2, 4), labels)
    assert len(text) < 20_000
    grammar = xgrammar.Grammar.from_ebnf(text)
    assert _is_grammar_accept_string(grammar, "class 7 *1| class 7 *3\n others *4\n")
    assert not _is_grammar_accept_string(grammar, "class 7 *1| class 7 *4\n others *4\n")
    grid, faults = codec.repair("class 7 *1| class 7 *3\n others *4\n", (2, 4))
    assert grid.ids.tolist() == [[1] * 4, [0] * 4] and faults


def test_nothing_but_background():
    assert '"others *" c3x0' in dialects.grammar_text((1, 3), ())
    assert '"1| "' not in dialects.grammar_text((1, 3), ())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--shape", "0", "16", "--labels", "dog"], "1 to 64 rows and columns"),
        (["--labels", "dog", "dog"], "Two of the labels are the same"),
        (["--labels", "others"], "reserved"),
    ],
)
def test_the_command_refuses_in_a_sentence(arguments, sentence, capsys):
    assert dialects.main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_the_command_prints_every_dialect(capsys):
    for dialect, start in (("ebnf", "root ::= r16 "), ("gbnf", "root ::= r16 "), ("lark", "start: r16 ")):
        assert dialects.main(["--labels", "dog", "--dialect", dialect]) == 0
        assert capsys.readouterr().out.startswith(start)
    with pytest.raises(QueryError, match="There is no dialect 'bnf'"):
        dialects.grammar_text((2, 2), ("dog",), "bnf")
