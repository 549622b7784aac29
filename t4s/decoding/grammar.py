"""The grammar of a grid's text as an automaton: what may still be written, character by character.

For a grid of H rows and W cells and a set of labels, the automaton accepts exactly the bodies that
`codec.decode(text, (H, W))` accepts with labels of that set (layout "rows"; `codec` has the format):

    others *5| dog *6| others *5\\n others *16\\n … \\n          (the closing `</seg>` is not part of it)

A body is a chain of *units*, ` label *N`, each closed by `|` (more cells in this row) or by a line
break (row complete). The first unit of a body is written without its leading space. A state is

    row      rows completed, 0 … H
    left     cells of the current row not yet covered by a closed run, 1 … W
    last     the label of the row's last closed run (it may not follow itself), -1 at a row's start
    spelled  what is written of the current unit, for example " do" or " dog *1"

States are plain tuples, nothing is ever mutated, and no state is a dead end. Knows nothing of tokens or models.
"""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import NamedTuple

from t4s.codec import OTHERS, clean_label
from t4s.errors import CodecError, QueryError
from t4s.limits import MAX_SIDE

MARK = " *"  # between a label and its count; labels hold no "*", so label + MARK is a prefix-free code


class State(NamedTuple):
    """A place in the text; see the module's docstring."""

    row: int
    left: int
    last: int
    spelled: str


class Grammar:
    """The automaton for one grid shape and one set of labels. Immutable."""

    def __init__(self, shape: tuple[int, int], labels: Iterable[str]):
        """`shape` is (H, W), each 1 … 64; `labels[0]` is "others". Raises `QueryError`."""
        self._build(check_shape(shape), check_labels(labels))

    def _build(self, shape: tuple[int, int], labels: tuple[str, ...]) -> None:
        self.shape, self.labels = shape, labels
        self._units = [f" {label}{MARK}" for label in labels]
        followers: dict[str, dict[str, set[int]]] = {}
        for index, unit in enumerate(self._units):
            for end in range(len(unit)):
                followers.setdefault(unit[:end], {}).setdefault(unit[end], set()).add(index)
        # spelled → ((next character, the one label it leads to, or -1 if there are several), …)
        self._followers = {
            spelled: tuple((char, min(found) if len(found) == 1 else -1) for char, found in sorted(nexts.items()))
            for spelled, nexts in followers.items()
        }
        self._labels_of = {unit: index for index, unit in enumerate(self._units)}

    def utf8(self) -> Grammar:
        """The same automaton over bytes, one character U+0000 … U+00FF a byte of the UTF-8 text."""
        twin = object.__new__(Grammar)
        twin._build(self.shape, tuple(label.encode().decode("latin-1") for label in self.labels))
        return twin

    @property
    def start(self) -> State:
        """Nothing is written yet; the first unit goes without its space."""
        return State(0, self.shape[1], -1, " ")

    def is_final(self, state: State) -> bool:
        """True when the body is whole: H rows, line break included."""
        return state.row == self.shape[0]

    def current(self, state: State) -> int:
        """The label of the unit being written, once `label *` stands; -1 before that."""
        mark = state.spelled.find("*")
        return -1 if mark < 0 else self._labels_of[state.spelled[: mark + 1]]

    def labels_beginning(self, state: State) -> list[int]:
        """The labels that the unit being written may still become, before `label *` stands."""
        return [
            index for index, unit in enumerate(self._units) if unit.startswith(state.spelled) and index != state.last
        ]

    def allowed(self, state: State) -> tuple[str, ...]:
        """The characters that may follow, sorted; empty only in the final state."""
        row, left, last, spelled = state
        if row == self.shape[0]:
            return ()
        label, star, digits = spelled.partition("*")
        if not star:
            return tuple(char for char, only in self._followers[spelled] if only != last or last < 0)
        base = int(digits or 0) * 10
        following = [str(digit) for digit in range(0 if digits else 1, 10) if base + digit <= left]
        if not digits:
            return tuple(following)
        return ("\n", *following) if int(digits) == left else (*following, "|")

    def step(self, state: State, char: str) -> State | None:
        """The state after `char`, or None if it may not follow."""
        row, left, last, spelled = state
        if row == self.shape[0]:
            return None
        label, star, digits = spelled.partition("*")
        if not star:
            for follower, only in self._followers[spelled]:
                if follower == char:
                    return None if only == last and last >= 0 else State(row, left, last, spelled + char)
            return None
        if char in "0123456789":
            fits = (digits or char != "0") and int(digits + char) <= left
            return State(row, left, last, spelled + char) if fits else None
        if not digits:
            return None
        count = int(digits)
        if char == "|" and count < left:
            return State(row, left - count, self._labels_of[label + star], "")
        if char == "\n" and count == left:
            return State(row + 1, self.shape[1], -1, "")
        return None

    def advance(self, state: State, text: str) -> State:
        """The state after `text`. Raises `CodecError` with row and column at the first character refused."""
        for at, char in enumerate(text):
            following = self.step(state, char)
            if following is None:
                raise CodecError(
                    f"{char!r} cannot follow {text[:at][-20:]!r} after {state.spelled!r}; "
                    f"allowed here: {', '.join(map(repr, self.allowed(state))) or 'nothing, the grid is complete'}",
                    state.row,
                    self.shape[1] - state.left,
                )
            state = following
        return state

    def forced(self, state: State) -> str:
        """The longest text that must come next, whatever the model; empty where there is a choice."""
        text = []
        while len(choices := self.allowed(state)) == 1:
            text.append(choices[0])
            state = self.step(state, choices[0])  # type: ignore[assignment]  # it is allowed, so never None
        return "".join(text)


def check_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """`shape` as (H, W), or a `QueryError` if a side is outside 1 … 64."""
    if len(shape) != 2 or not all(isinstance(side, Integral) and 1 <= side <= MAX_SIDE for side in shape):
        raise QueryError(f"The grid is {tuple(shape)}: give (rows, columns) with 1 to {MAX_SIDE} cells per side.")
    return int(shape[0]), int(shape[1])


def check_labels(labels: Iterable[str]) -> tuple[str, ...]:
    """`labels` cleaned, "others" first. Raises `QueryError` for none, for doubles and for what cannot be a label."""
    first, *rest = labels if (labels := tuple(labels)) else ("",)
    if first != OTHERS:
        raise QueryError(f"The labels are {labels!r}: the first one must be {OTHERS!r}, the background.")
    if not rest:
        raise QueryError("There are no labels: give at least one name to look for besides the background.")
    cleaned = tuple(clean_label(label) for label in rest)
    doubles = sorted({label for label in cleaned if cleaned.count(label) > 1})
    if doubles:
        raise QueryError(f"The labels {', '.join(map(repr, doubles))} are given twice: name each label once.")
    return (OTHERS, *cleaned)
