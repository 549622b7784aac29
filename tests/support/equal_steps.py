"""Four plain steps in float64, in this process or in two: two must learn what one with both batches does.

    weights = steps(photos=2, unequal=True)                 # {name: tensor}, one process
    weights = steps_in_two_processes(photos=1, unequal=True)    # of the main one of two
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import tempfile
from pathlib import Path

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from t4s.models import create
from t4s.records import Sample
from t4s.training import collator
from t4s.training.losses import token_loss
from t4s.training.trainer import SegTrainer

STEPS = 4
PATIENCE = 240  # seconds


def samples(number: int, unequal: bool) -> tuple[Sample, ...]:
    """Photo `number`; every second one, if unequal, has three questions and grids full of runs."""
    rng = np.random.default_rng(number)
    image = Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8))
    busy = unequal and number % 2 == 1
    truth = np.zeros((64, 64), np.int16)
    if busy:
        truth[:] = np.kron(rng.integers(0, 2, (4, 4)), np.ones((16, 16), int))
    else:
        truth[16:48, 16 * (number % 3) : 16 * (number % 3) + 16] = 1
    names = ("dog", "cat", "cow") if busy else ("dog",)
    return tuple(Sample(name, "test", image, name, ("others", name), truth) for name in names)


def steps(photos: int, unequal: bool) -> dict[str, torch.Tensor]:
    """STEPS steps of SegTrainer with `photos` a process → the weights."""
    vlm = create.fresh(["dog", "cat", "cow"], (4, 4), width=32, layers=1, seed=0)
    vlm.model.double()

    def batches(numbers):
        rows = [collator.build_row(vlm, (sample,)) for number in numbers for sample in samples(number, unequal)]
        made = collator.collate(rows, vlm.tokenizer.pad_token_id)
        made["pixel_values"] = made["pixel_values"].double()
        return made

    with tempfile.TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder, max_steps=STEPS, per_device_train_batch_size=photos, lr_scheduler_type="constant",
            use_cpu=True, report_to="none", save_strategy="no", seed=0, remove_unused_columns=False, max_grad_norm=0.5,
            disable_tqdm=True, logging_strategy="no",
        )  # fmt: skip
        trainer = SegTrainer(
            vlm.model, settings, batches, lambda m: torch.optim.SGD(m.parameters(), lr=0.05), token_loss(vlm, 0.2)
        )
        trainer.fit()
        trainer.close()
    return {name: weight.detach().contiguous() for name, weight in vlm.model.named_parameters()}


def steps_in_two_processes(photos: int, unequal: bool) -> dict[str, torch.Tensor]:
    """The same in two forked processes, `photos` each: nothing has to be imported again."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "weights.safetensors"
        workers = [context.Process(target=_worker, args=(rank, port, photos, unequal, weights)) for rank in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(PATIENCE)
            worker.kill()
            assert worker.exitcode == 0, f"a process ended with {worker.exitcode}"
        return load_file(weights)


def _worker(rank: int, port: int, photos: int, unequal: bool, weights: Path) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2",
                      MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))  # fmt: skip
    AcceleratorState._reset_state(True)
    PartialState._reset_state()
    GradientState._reset_state()
    torch.set_num_threads(1)
    learned = steps(photos, unequal)
    if rank == 0:
        save_file(learned, weights)
