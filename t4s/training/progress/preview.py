"""--dry-run: the resolved settings, what is trained, one sample as the model reads it, and how long a step takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from t4s.imaging.drawing import grid_picture
from t4s.models.vlm import VLM
from t4s.training.collator import IGNORE, Collator
from t4s.training.losses import token_loss

if TYPE_CHECKING:
    from t4s.training.run import TrainingRun

PREVIEW_DRAWS = 32  # draws that are checked for samples that are too long


def preview(run: TrainingRun) -> None:
    """Print everything, and leave a picture of the sample in --out."""
    config = run.config
    for name, value in _facts(run).items():
        print(f"{name:18} {value}")
    collator = Collator(run.vlm, run.mixture, config.queries_per_image, config.seed)
    row, sample = collator.rows(0)[0], collator.samples(0)[0]
    learned = sum(label != IGNORE for label in row.labels)
    too_long, drawn = collator.count_too_long(range(PREVIEW_DRAWS))
    print(
        f"{'sample':18} {len(row.ids)} tokens, {learned} of them learned; "
        f"{too_long} of {drawn} questions drawn are too long"
    )
    print(f"{'time':18} {_length(run, step_seconds(run, collator))}\n")
    print(spell_tokens(run.vlm, row.ids))
    picture = config.out / "sample.png"
    grid_picture(sample.grid(run.vlm.config.grid), sample.image).save(picture)
    print(f"\n{picture}: its photo and the first answer")


def _length(run: TrainingRun, seconds: float) -> str:
    """How long a run of such steps takes, or how many of them fit into --minutes."""
    config = run.config
    step = f"{seconds:.2g} s a step here"
    if config.steps is not None:
        return f"{step}, about {_duration(seconds * config.steps)} for all {config.steps} steps"
    steps = max(1, round(60 * config.minutes / seconds))
    photos = steps * config.total_batch
    return (
        f"{step}, about {steps} steps in --minutes {config.minutes:g}, {photos} photos "
        f"({photos / len(run.mixture):.3g} epochs); the clock starts with the first step and counts saving and "
        "evaluating too, not loading"
    )


def step_seconds(run: TrainingRun, collator: Collator) -> float:
    """Seconds of a step on this machine, estimated from its second forward and backward pass; no weight changes.

    With workers, which draw while the device computes, the slower of the two counts.
    """
    model = run.trained_model.train()
    loss_of = token_loss(run.vlm, run.config.empty_row_weight)
    device = run.vlm.device
    for _ in range(2):  # the first one also warms up
        started = time.monotonic()
        batch = collator(range(run.config.batch))
        drawn = time.monotonic()
        inputs = {name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in batch.items()}
        labels = inputs.pop("labels")
        del inputs["phrases"]
        with torch.autocast(device.type, torch.bfloat16, enabled=run.bf16):
            loss = loss_of(model(**inputs), labels)
            if run.cell_loss is not None:
                loss = loss + run.cell_loss(0)
        loss.backward()
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        drawing, computing = drawn - started, time.monotonic() - drawn
    seconds = max(drawing / run.workers, computing) if run.workers else drawing + computing
    return seconds * run.config.accumulate


def _facts(run: TrainingRun) -> dict[str, object]:
    config, vlm = run.config, run.vlm
    rows, columns = vlm.config.grid
    weights = list(run.trained_model.parameters())
    trained = sum(weight.numel() for weight in weights if weight.requires_grad)
    facts = {
        "datasets": ", ".join(config.dataset),
        "photos": len(run.mixture),
        "base": config.base or "fresh",
        "grid": f"{rows}×{columns}",
        "image-size": vlm.config.image_size,
        "positions": vlm.config.positions,
        "precision": "bf16" if run.bf16 else "fp32",
        "trained": f"{trained:,} of {sum(weight.numel() for weight in weights):,} parameters",
        **config.reported(run.kind),
    }
    if config.steps is not None:
        facts["epochs"] = f"{config.steps * config.total_batch / len(run.mixture):.3g}"
    return facts


def spell_tokens(vlm: VLM, ids: Sequence[int]) -> str:
    """Token ids as text; a run of image tokens as "<image>×N"."""
    parts = []
    for token, run in groupby(ids):
        length = len(list(run))
        parts.append(f"{vlm.piece(token)}×{length}" if token == vlm.image_token else vlm.piece(token) * length)
    return "".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"
