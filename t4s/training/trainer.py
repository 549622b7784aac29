"""The training itself: the loss, what is trained at which rate, and transformers' Trainer with sentences for failures.

The loss is a mean over the tokens of a step, of all its passes and processes together, never a mean of means: two
processes with batches of unequal text learn what one process with both would.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from torch import nn
from transformers import ProgressCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from t4s.errors import DataError, T4SError
from t4s.models.vlm import VLM

BETA1, GRADIENT_NORM = 0.9, 1.0
STATE_FILE = "trainer_state.json"  # Trainer writes it last: a state without it is half a state
TORCH_SAVE = ("PytorchStreamWriter", "inline_container")  # how torch.save says that a file could not be written
LETTING_GO = 1.0  # seconds
CELL_WEIGHT = 0.5  # of a cell's label in the loss; a token of the answer weighs 1
ADAM_BYTES = 12  # of a trained weight in a saved state: itself and two moments, in float32


# --- what is learnt


def token_loss(vlm: VLM, full_row: float = 1.0) -> Callable[..., torch.Tensor]:
    """Cross-entropy, summed over the labels that are not ignored and divided by those of the whole step.

    `full_row` is for the embedded model alone: the weight of ending a row with a full-width run. Where a model is
    unsure, the place of an object's edge is spread over many counts and its absence is a single one, so at weight 1 a
    greedy choice calls absent what is probably there.
    """
    cells = vlm.config.positions == "cells"
    full = vlm.text_ids(f"others *{vlm.config.grid[1]}\n")[-1] if cells else None

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
        count = (labels != -100).sum() if num_items_in_batch is None else num_items_in_batch
        total = 0.0
        if outputs.hidden_states is not None and cells:
            area = math.prod(vlm.config.grid)
            total = CELL_WEIGHT * cell_losses(vlm, outputs.hidden_states, labels[:, :area]).sum()
            labels = F.pad(labels[:, area:], (area, 0), value=-100)
        losses, targets = cross_entropy(outputs.logits[:, :-1], labels[:, 1:])
        if full is not None:
            losses = torch.where(targets == full, losses * full_row, losses)
        return (total + losses.sum()) / count

    return loss


def cell_losses(vlm: VLM, hidden_states: Sequence[torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the photo's cells, which come first: what each would say if the answer's run began there.

    So the photo itself is taught to see which cells are meant: the answer's own tokens say it once a run, and mostly
    spell counts. hidden_states: (B, T, width) of every layer; labels: (B, rows·columns).
    """
    return cross_entropy(vlm.cell_logits(hidden_states, labels.shape[1]), labels)[0]


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the labels that are not ignored: (their losses, themselves), both (n,); in float32 at least."""
    learnt = labels != -100
    logits, targets = logits[learnt], labels[learnt]
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets, reduction="none"), targets


def parameter_groups(model: nn.Module, tower: nn.Module | None, lr: float, vision_lr: float, decay: float) -> list[dict]:
    """What is trained: the tower at its own rate; norms, biases and embeddings of one dimension are not decayed."""
    inside = {id(weight) for weight in tower.parameters()} if tower is not None else set()
    groups = []
    for rate, members in ((vision_lr, True), (lr, False)):
        for decayed in (True, False):
            chosen = [
                weight
                for weight in model.parameters()
                if weight.requires_grad and (id(weight) in inside) == members and (weight.ndim >= 2) == decayed
            ]
            if chosen:
                groups.append({"params": chosen, "lr": rate, "weight_decay": decay if decayed else 0.0})
    return groups


# --- the loop


class SegTrainer(Trainer):
    """Trainer for a vlm whose data set is a range of draw numbers. What stops it leaves a state to go on from.

    `lesson`: a step's number → a loss that is added to that of its answers.
    """

    def __init__(
        self,
        vlm: VLM,
        model: nn.Module,
        settings: TrainingArguments,
        batches: Callable,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        loss: Callable[..., torch.Tensor],
        callbacks: Iterable = (),
        lesson: Callable[[int], torch.Tensor] | None = None,
    ):
        self._optimizer_of, self._lesson = optimizer, lesson
        draws = settings.max_steps * settings.train_batch_size * settings.gradient_accumulation_steps
        super().__init__(
            model,
            settings,
            train_dataset=range(draws * settings.world_size),
            data_collator=batches,
            compute_loss_func=loss,
            callbacks=list(callbacks),
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Trainer asks when the weights are where they will be trained: sharding replaces them."""
        if self.optimizer is None:
            self.optimizer = self._optimizer_of(self.model if model is None else model)
        return self.optimizer

    def compute_loss(self, model: nn.Module, inputs: dict, *arguments: Any, **options: Any) -> Any:
        loss = super().compute_loss(model, inputs, *arguments, **options)
        if self._lesson is not None:
            loss = loss + self._lesson(self.state.global_step) / self.args.gradient_accumulation_steps
        return loss

    def learn(self, state: Path | None = None) -> None:
        """Train to the end, from `state` if given. Raises what `keeping` makes of that which stopped it."""
        with self.explain_failures():
            self.train(resume_from_checkpoint=str(state) if state else None)

    def close(self) -> None:
        """End what the processes talked through: left open, one may abort at its end.

        A thread of gloo's may still be letting go of the last gather, for which it needs the interpreter's lock, and
        whoever drops the model next waits for that thread with the lock in hand, for ever. It gets a moment first.
        """
        self.accelerator.end_training()
        if self.args.world_size > 1:
            time.sleep(LETTING_GO)

    @contextmanager
    def explain_failures(self) -> Iterator[None]:
        """What stops the run inside becomes a T4SError: what it was, what to do, what is kept."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            device = self.args.device
            raise T4SError(
                f"Out of memory on {device}: lower --batch (with --total-batch the step stays as it is) or "
                "--queries-per-image, or use --gradient-checkpointing or --quantize 4bit. " + self._kept()
            ) from error
        except T4SError as error:
            raise type(error)(f"{_last_line(error)} {self._kept()}") from error
        except KeyboardInterrupt as error:
            raise T4SError(f"Interrupted. {self._kept()}") from error
        except (OSError, SafetensorError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not any(word in str(error) for word in TORCH_SAVE):
                raise
            detail = " ".join(str(error).split())[:160]
            raise T4SError(
                f"A file could not be read or written ({detail}); make room on the disk. " + self._kept(save=False)
            ) from error

    def _kept(self, save: bool = True) -> str:
        """A sentence on the state to go on from; `save`: steps since the last one are saved first."""
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                callback.training_bar.close()  # else what is said next stands on its line
        folder = Path(self.args.output_dir)
        here = folder / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        if not self.args.should_save:
            return "The main process says what is kept."
        if save and self.state.global_step and not is_whole(here):
            try:
                self._save_checkpoint(self.model, None)
            except (OSError, SafetensorError, RuntimeError):
                save = False
        if not is_whole(here):
            shutil.rmtree(here, ignore_errors=True)
        last = last_state(folder)
        if last is None:
            return "No step was finished."
        step = last.name.rpartition("-")[2]
        return f"The state of step {step} is kept; the same command with --resume goes on from there."


def _last_line(error: BaseException) -> str:
    """What was said: errors of processes that load photos come with their whole traceback before it."""
    line = str(error).strip().splitlines()[-1]
    return line.partition("Error: ")[2] if line.startswith("t4s.") else line


# --- states


def is_whole(state: Path) -> bool:
    """Whether a state was written to its end."""
    try:
        return isinstance(json.loads((state / STATE_FILE).read_text(encoding="utf-8")), dict)
    except (OSError, json.JSONDecodeError, UnicodeDecodeError):
        return False


def last_state(folder: Path) -> Path | None:
    """The newest whole state in `folder`, or None."""
    states = [state for state in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if is_whole(state)]
    return max(states, key=lambda state: int(state.name.rpartition("-")[2]), default=None)


def to_resume(folder: Path) -> Path:
    """The state that --resume goes on from; DataError if there is none."""
    last = last_state(folder)
    if last is None:
        raise DataError(f"{folder} holds no state to resume: leave --resume out.")
    return last


def check_room(folder: Path, model: nn.Module) -> None:
    """DataError if the disk has no room for two states of the model: the new one is written before the old one goes."""
    needed = 2 * ADAM_BYTES * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise DataError(
            f"{folder} has {free / 1e9:.1f} GB left and training writes states of {needed / 1e9:.1f} GB; "
            "make room or choose another --out."
        )


class SaveCallback(TrainerCallback):
    """Ends training after `stop_after` steps; calls `on_save` with the step after every state."""

    def __init__(self, on_save: Callable[[int], None], stop_after: int | None = None):
        self.save, self.stop_after = on_save, stop_after

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.stop_after:
            control.should_save = control.should_training_stop = True

    def on_save(self, args, state, control, **_):
        self.save(state.global_step)
