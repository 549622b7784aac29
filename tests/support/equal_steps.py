"""Ten plain steps in float64, for `test_train.py`: python tests/equal_steps.py OUT PHOTOS_A_PROCESS QUESTIONS.

Started alone or under torchrun; the main process writes the weights. QUESTIONS "equal" gives every photo the same
text, "unequal" photos whose answers are long and short in turn.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import TrainingArguments

from t4s.models import create
from t4s.records import Sample
from t4s.training import collator
from t4s.training.trainer import SegTrainer, token_loss

STEPS = 10


def sample(number: int, unequal: bool) -> tuple[Sample, ...]:
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


def main(out: str, photos: str, questions: str) -> None:
    torch.set_num_threads(1)
    vlm = create.fresh(["dog", "cat", "cow"], (4, 4), width=32, layers=1, seed=0)
    vlm.model.double()

    def batches(numbers):
        rows = [collator.row(vlm, (one,)) for number in numbers for one in sample(number, questions == "unequal")]
        made = collator.batch(rows, vlm.tokenizer.pad_token_id)
        made["pixel_values"] = made["pixel_values"].double()
        return made

    settings = TrainingArguments(
        output_dir=out, max_steps=STEPS, per_device_train_batch_size=int(photos), lr_scheduler_type="constant",
        use_cpu=True, report_to="none", save_strategy="no", seed=0, remove_unused_columns=False, max_grad_norm=0.5,
        disable_tqdm=True, logging_strategy="no",
    )  # fmt: skip
    learner = SegTrainer(vlm, vlm.model, settings, batches, lambda m: torch.optim.SGD(m.parameters(), lr=0.05),
                      token_loss(vlm, 0.2))  # fmt: skip
    learner.learn()
    if settings.process_index == 0:
        Path(out).mkdir(parents=True, exist_ok=True)
        weights = {name: value.contiguous() for name, value in vlm.model.named_parameters()}
        save_file(weights, Path(out) / "weights.safetensors")
    print(f"{settings.world_size} processes")
    learner.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
