"""transformers' Trainer for data that is drawn by number, with clear messages for what stops a run.

Every training of this package uses it: `train.py`, the vision tower and the refiner. The loss of a step is a mean over
all tokens of all its forward passes and processes, never a mean of means: two processes with unequal batches learn
exactly what one process with both would.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from t4s.errors import DataError, T4SError
from t4s.training.progress.average import WeightAverage
from t4s.training.progress.clock import Clock, ClockCallback, cosine
from t4s.training.progress.speed import Speed

BETA1 = 0.9
MAX_GRADIENT_NORM = 1.0
STATE_FILE = "trainer_state.json"  # Trainer writes it last: a state without it is incomplete
TORCH_SAVE_ERRORS = ("PytorchStreamWriter", "inline_container")  # torch.save could not write a file
GATHER_RELEASE_SECONDS = 1.0
ADAM_BYTES = 12  # of a trained weight in a saved state: itself and two moments, in float32


def parameter_groups(
    model: nn.Module, tower: nn.Module | None, lr: float, vision_lr: float, weight_decay: float
) -> list[dict[str, Any]]:
    """AdamW's parameter groups: the tower has its own learning rate; vectors and scalars are not decayed."""
    of_tower = {id(weight) for weight in tower.parameters()} if tower is not None else set()
    groups = []
    for rate, in_tower in ((vision_lr, True), (lr, False)):
        for decayed in (True, False):
            chosen = [
                weight
                for weight in model.parameters()
                if weight.requires_grad and (id(weight) in of_tower) == in_tower and (weight.ndim >= 2) == decayed
            ]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": weight_decay if decayed else 0.0})
    return groups


class SegTrainer(Trainer):
    """Trainer whose data set is a range of draw numbers, taken in order. A failure leaves a state to resume from.

    collate: draw numbers of one forward pass → the model's inputs.
    make_optimizer: model → optimizer; called when the weights are where they will be trained (sharding moves them).
    loss: see `losses.token_loss`; None: the model returns its own.
    step_loss: batch, number of labels in the step → the loss; instead of the model's forward pass and `loss`.
    extra_loss: step → a loss added to that of the batch.
    photos_per_draw: what the logged speed counts. A batch may say how many "phrases" it holds.
    clock: the learning rate follows it, and training ends with it; `warmup` is the share of it in which the rate rises.
    average: kept with every state, as the clock is.
    """

    def __init__(
        self,
        model: nn.Module,
        settings: TrainingArguments,
        collate: Callable,
        make_optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        loss: Callable[..., torch.Tensor] | None = None,
        callbacks: Iterable[TrainerCallback] = (),
        extra_loss: Callable[[int], torch.Tensor] | None = None,
        photos_per_draw: int = 1,
        clock: Clock | None = None,
        warmup: float = 0.0,
        average: WeightAverage | None = None,
        step_loss: Callable[[dict[str, Any], Any], torch.Tensor] | None = None,
    ):
        self._make_optimizer, self._extra_loss = make_optimizer, extra_loss
        self._photos_per_draw, self._clock, self._warmup = photos_per_draw, clock, warmup
        self._kept = [part for part in (clock, average) if part is not None]
        self._speed, self._step_loss = Speed(), step_loss
        callbacks = [*callbacks, *([average] if average else []), *([ClockCallback(clock)] if clock else [])]
        settings.train_sampling_strategy = "sequential"
        draws = settings.max_steps * settings.train_batch_size * settings.gradient_accumulation_steps
        super().__init__(
            model,
            settings,
            train_dataset=range(draws * settings.world_size),
            data_collator=collate,
            compute_loss_func=loss,  # also where `step_loss` takes its place: labels are counted for it
            callbacks=callbacks,
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            self.optimizer = self._make_optimizer(self.model if model is None else model)
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        if self._clock is not None and self.lr_scheduler is None:
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer if optimizer is None else optimizer, lambda _: cosine(self._clock.share, self._warmup)
            )
        return super().create_scheduler(num_training_steps, optimizer)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        self._speed.add(self.args.train_batch_size * self._photos_per_draw, inputs.pop("phrases", None))
        if self._step_loss is None:
            loss = super().compute_loss(model, inputs, *arguments, **options)
        else:
            loss = self._step_loss(inputs, options["num_items_in_batch"])
        if self._extra_loss is not None:
            loss = loss + self._extra_loss(self.state.global_step) / self.args.gradient_accumulation_steps
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """With the photos and phrases a second of this process since the last time."""
        super().log({**logs, **self._speed.take()} if "loss" in logs else logs, start_time)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        for part in self._kept if self.args.should_save else ():
            part.save(Path(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        for part in self._kept if checkpoint is not None else ():
            part.load(Path(checkpoint))

    def fit(self, state: Path | None = None) -> None:
        """Train to the end, from `state` if given. Raises what `explain_failures` makes of a failure."""
        with self.explain_failures():
            self.train(resume_from_checkpoint=str(state) if state else None)

    def close(self) -> None:
        """Destroy the process group; otherwise a worker may abort at exit.

        A gloo thread may still be releasing the buffers of the last gather, for which it needs the interpreter lock,
        while the main thread holds the lock and waits for that thread. A pause lets it finish first.
        """
        self.accelerator.end_training()
        if self.args.world_size > 1:
            time.sleep(GATHER_RELEASE_SECONDS)

    @contextmanager
    def explain_failures(self) -> Iterator[None]:
        """Turn what stops the run inside into a T4SError: what happened, what to do, which state is kept."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise T4SError(
                f"Out of memory on {self.args.device}: lower --batch (with the same --total-batch, the step stays the "
                "same) or --queries-per-image, or use --gradient-checkpointing or --quantize 4bit. "
                + self._kept_state()
            ) from error
        except T4SError as error:
            raise type(error)(f"{last_line(error)} {self._kept_state()}") from error
        except KeyboardInterrupt as error:
            raise T4SError(f"Interrupted. {self._kept_state()}") from error
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(text in str(error) for text in TORCH_SAVE_ERRORS):
                raise
            detail = " ".join(str(error).split())[:160]
            raise T4SError(
                f"A file could not be read or written ({detail}); free some disk space. "
                + self._kept_state(save_first=False)
            ) from error

    def _kept_state(self, save_first: bool = True) -> str:
        """A sentence naming the state to resume from. save_first: try to save the steps since the last state."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                callback.training_bar.close()  # otherwise the message would continue its line
        if not self.args.should_save:
            return "The main process reports the state that is kept."
        folder = Path(self.args.output_dir)
        current = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if save_first and self.state.global_step and not is_complete(current):
            try:
                self._save_checkpoint(self.model, None)
            except (OSError, SafetensorError, RuntimeError):
                pass  # no room: the last complete state is named below
        if not is_complete(current):
            shutil.rmtree(current, ignore_errors=True)
        last = last_state(folder)
        if last is None:
            return "No step was finished."
        return f"The state of step {step_of(last)} is kept; the same command with --resume continues from there."


def last_line(error: BaseException) -> str:
    """The message alone: errors of data-loading processes arrive with their whole traceback before it."""
    line = str(error).strip().splitlines()[-1]
    return line.partition("Error: ")[2] if line.startswith("t4s.") else line


class SaveCallback(TrainerCallback):
    """Calls `save(step)` after every saved state, and ends training after step `stop_after`."""

    def __init__(self, save: Callable[[int], None], stop_after: int | None = None):
        self.save, self.stop_after = save, stop_after

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step == self.stop_after:
            control.should_save = True
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.save(state.global_step)


# --- states


def is_complete(state: Path) -> bool:
    """True if a state was written to its end."""
    try:
        return isinstance(json.loads((state / STATE_FILE).read_text(encoding="utf-8")), dict)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return False


def step_of(state: Path) -> int:
    return int(state.name.rpartition("-")[2])


def last_state(folder: Path) -> Path | None:
    """The newest complete state in `folder`, or None."""
    states = [state for state in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if is_complete(state)]
    return max(states, key=step_of, default=None)


def state_to_resume(folder: Path) -> Path:
    """The newest complete state in `folder`. DataError if there is none."""
    last = last_state(folder)
    if last is None:
        raise DataError(f"{folder} holds no state to resume from: leave --resume out.")
    return last


def check_disk_space(folder: Path, model: nn.Module) -> None:
    """DataError if the disk has no room for two states: a new one is written before the old one is deleted."""
    needed = 2 * ADAM_BYTES * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB left and training writes states of {needed / 1e9:.1f} GB; "
            "make room or choose another --out."
        )
