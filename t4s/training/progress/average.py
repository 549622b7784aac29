"""The running average of the weights: what is evaluated and saved, while training goes on with the weights themselves.

An exponential average (Polyak and Juditsky, 1992) is as good as a lower learning rate, and is there at any time. While
few steps have been made it looks back over about a ninth of them: with `decay` d, step n counts min(d, (1 + n) / (10 +
n)) of the average before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

AVERAGE_FILE = "average.safetensors"
FIRST_STEPS = 10


class WeightAverage(TrainerCallback):
    """The average of all trained weights of `model`, updated after every step of the optimizer."""

    def __init__(self, model: nn.Module, decay: float):
        self.decay, self.steps = decay, 0
        self.weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self.average: dict[str, Tensor] = {}  # from the first step on

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if not self.average:
            self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Take in the current weights. Nothing here waits for a GPU."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (FIRST_STEPS + self.steps))
        average_into = get_ema_multi_avg_fn(decay)
        average_into(list(self.average.values()), [self.weights[name].detach() for name in self.average], self.steps)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model with the averaged weights inside, and as it was afterwards."""
        live = {name: self.weights[name].detach().clone() for name in self.average}
        self._set(self.average)
        try:
            yield
        finally:
            self._set(live)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.weights[name].copy_(value)

    def save(self, state: Path) -> None:
        tensors = {name: value.cpu().contiguous() for name, value in self.average.items()}
        save_file(tensors, state / AVERAGE_FILE, {"steps": str(self.steps)})

    def load(self, state: Path) -> None:
        """Go on from a state; one without an average, of an earlier t4s, begins with its weights."""
        file = state / AVERAGE_FILE
        if not file.is_file():
            return
        with safe_open(file, "pt") as stored:
            self.steps = int(stored.metadata()["steps"])
            self.average = {
                name: stored.get_tensor(name).to(weight.device, weight.dtype) for name, weight in self.weights.items()
            }
