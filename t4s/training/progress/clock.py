"""A schedule by the clock: `--minutes` of training, however many steps they make.

The clock starts with the first step and goes on while states are saved and evaluated, so that a run ends when it was
said to. What was used is kept with every state: a resumed run has the rest.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

CLOCK_FILE = "clock.json"
MOST_STEPS = 10_000_000  # what Trainer is told where the clock decides


class Clock:
    """`seconds` of training. now: the current time in seconds, from any fixed moment."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic):
        self.seconds, self._now = seconds, now
        self._earlier = 0.0  # used by the runs that this one continues
        self._started: float | None = None

    def start(self) -> None:
        self._started = self._now()

    @property
    def used(self) -> float:
        """Seconds of training so far, those of earlier runs included."""
        return self._earlier + (0.0 if self._started is None else self._now() - self._started)

    @property
    def share(self) -> float:
        """Of the whole training: from 0 to 1."""
        return min(1.0, self.used / self.seconds)

    def save(self, state: Path) -> None:
        (state / CLOCK_FILE).write_text(json.dumps({"seconds_used": self.used}), encoding="utf-8")

    def load(self, state: Path) -> None:
        """Go on from a state; one without a clock, of a run by steps, has used nothing."""
        file = state / CLOCK_FILE
        self._earlier = json.loads(file.read_text(encoding="utf-8"))["seconds_used"] if file.is_file() else 0.0


def cosine(share: float, warmup: float) -> float:
    """The learning rate, relative to its peak: it rises for a share of `warmup`, then falls as a cosine to 0 at 1."""
    if share < warmup:
        return share / warmup
    return 0.5 * (1 + math.cos(math.pi * (share - warmup) / (1 - warmup)))


class ClockCallback(TrainerCallback):
    """Starts the clock with training, and ends training with a last state when its time is over."""

    def __init__(self, clock: Clock):
        self.clock = clock

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.clock.start()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.clock.share >= 1:
            control.should_log = True
            control.should_save = True
            control.should_training_stop = True
