"""The grid's grammar as text for other engines: `t4s grammar`.

    t4s grammar --shape 16 16 --labels dog cat --dialect ebnf        # xgrammar, vLLM, SGLang
    t4s grammar --shape 24 24 --labels dog --dialect lark            # llguidance
    t4s grammar --shape 16 16 --labels dog cat --dialect gbnf        # llama.cpp

The exact grammar accepts what `codec.decode(text, shape)` accepts with these labels: H rows whose counts add up to W,
neighbouring runs of different labels. It grows with W times the square of the number of labels, so for many labels the
rule about neighbours is left out, and equal neighbours are merged when the text is read (`codec.repair`).

Rules: `r5x2` is what may follow when 5 cells of the row are left and the last run had label 2; `c5x2` is a count and
what follows it. Without the rule about neighbours there is one `r5` and one `c5` for all labels.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence

from t4s import codec
from t4s.errors import QueryError, T4SError
from t4s.limits import MAX_SIDE

DIALECTS = ("ebnf", "gbnf", "lark")
MAX_DISTINCT_LABELS = 8  # labels up to which neighbours are kept apart unless asked otherwise
NONE = -1  # the last label at the start of a row


def grammar_text(
    shape: tuple[int, int], labels: Sequence[str], dialect: str = "ebnf", distinct: bool | None = None
) -> str:
    """The grammar of a body (what stands between `<seg>` and `</seg>`) for a grid of `shape` (H, W).

    labels    without "others", which is always allowed
    distinct  neighbouring runs must differ in label; None: up to `MAX_DISTINCT_LABELS` labels

    Raises QueryError for an unknown dialect, a shape outside 1 to 64 and labels that cannot be.
    """
    if dialect not in DIALECTS:
        raise QueryError(f"There is no dialect {dialect!r}; choose one of {', '.join(DIALECTS)}.")
    if len(shape) != 2 or not all(1 <= side <= MAX_SIDE for side in shape):
        raise QueryError(f"A grid has 1 to {MAX_SIDE} rows and columns, not {tuple(shape)}.")
    names = ["others", *(codec.clean_label(label) for label in labels)]
    if len(set(names)) < len(names):
        raise QueryError("Two of the labels are the same; give each once.")
    if distinct is None:
        distinct = len(names) <= MAX_DISTINCT_LABELS
    rules = dict(_rules(shape, names, distinct))
    if dialect == "lark":
        return "\n".join(f"{name}: {' | '.join(choices)}" for name, choices in rules.items()) + "\n"
    rules = {"root" if name == "start" else name: choices for name, choices in rules.items()}
    return "\n".join(f"{name} ::= {' | '.join(choices)}" for name, choices in rules.items()) + "\n"


def _rules(shape: tuple[int, int], names: Sequence[str], distinct: bool) -> Iterator[tuple[str, list[str]]]:
    """(rule, alternatives), the start rule first; only rules that can be reached."""
    height, width = shape
    yield "start", [' "\\n " '.join([_row(width, NONE, distinct)] * height) + ' "\\n"']
    labels = range(len(names))
    for left in range(width, 0, -1):
        for last in labels if distinct and left < width else [NONE]:
            allowed = [label for label in labels if not distinct or label != last]
            if allowed:
                runs = [f"{_literal(names[label] + ' *')} {_count(left, label, distinct)}" for label in allowed]
                yield _row(left, last, distinct), runs
        follow = not distinct or len(names) > 1  # else no other run can follow in this row
        for label in labels if distinct else [NONE]:
            shorter = [f'"{count}| " {_row(left - count, label, distinct)}' for count in range(1, left) if follow]
            if follow or left == width:
                yield _count(left, label, distinct), [*shorter, f'"{left}"']


def _row(left: int, last: int, distinct: bool) -> str:
    return f"r{left}x{last}" if distinct and last != NONE else f"r{left}"


def _count(left: int, label: int, distinct: bool) -> str:
    return f"c{left}x{label}" if distinct else f"c{left}"


def _literal(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="t4s grammar", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), default=(16, 16), help="(16 16)")
    parser.add_argument("--labels", nargs="+", required=True, metavar="NAME", help='without "others"')
    parser.add_argument("--dialect", choices=DIALECTS, default="ebnf", help="(ebnf)")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the grammar; returns the exit code: 0, or 2 after one sentence on stderr."""
    options = arguments().parse_args(argv)
    try:
        print(grammar_text(tuple(options.shape), options.labels, options.dialect), end="")
    except T4SError as error:
        print(f"t4s grammar: {error}", file=sys.stderr)
        return 2
    return 0
