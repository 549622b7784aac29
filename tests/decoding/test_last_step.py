"""A loop is run to its end and its steps are not collected on the way."""

from __future__ import annotations

import weakref

from t4s.decoding.generate import Step, last_step


def test_a_finished_loop_kept_one_step_at_a_time():
    """Every step holds all tokens so far: kept together they grow with the square of the answer's length."""
    alive: weakref.WeakSet[Step] = weakref.WeakSet()
    most = 0

    def steps():
        nonlocal most
        for count in range(1, 200):
            step = Step(tuple(range(count)), "", count)
            alive.add(step)
            most = max(most, len(alive))
            yield step

    assert last_step(steps()).forwards == 199
    assert most <= 3
