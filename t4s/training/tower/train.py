"""Teach the embedded model's vision tower what is in each cell, before a language model reads it.

    t4s train-tower --dataset folder:PHOTOS@train --out runs/tower
    t4s train-tower --dataset folder:PHOTOS@train --out runs/tower --resume    # continue where it was stopped

An ImageNet body and a fresh neck learn which share of each cell every named class covers (`classifier`). `train.py
--tower` takes the tower, the projector, and the class vectors as the first embeddings of the classes' words: a cell
that shows a dog then looks to the language model like the word "dog" from its first step on, which it would otherwise
take long to discover.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from t4s.errors import T4SError, use_utf8

WARMUP_SHARE = 0.05  # of the steps
MAY_CHANGE = ("out", "steps", "save_steps", "stop_after", "threads", "workers", "resume")  # with --resume


@dataclass(frozen=True)
class TowerConfig:
    """One field per option. `freeze`: stages of the body that are not trained; `width`: channels per cell."""

    dataset: str
    out: Path
    steps: int = 900
    batch: int = 16
    lr: float = 1e-3
    image_size: int = 256
    body: str = "lite0"
    width: int = 256
    language_width: int = 256
    freeze: int = 0
    bf16: bool = False
    seed: int = 0
    save_steps: int = 100
    stop_after: int | None = None
    threads: int = 0
    workers: int = 0
    resume: bool = False


def parse(argv: Sequence[str] | None = None) -> TowerConfig:
    """The command line as a TowerConfig. SystemExit for --help and for what argparse refuses."""
    parser = argparse.ArgumentParser(
        "train-tower", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    dataset = parser.add_mutually_exclusive_group(required=True)
    dataset.add_argument("--dataset", metavar="folder:PATH[@SPLIT]", help="photos with labelled pixels")
    dataset.add_argument("--corpus", dest="dataset", help=argparse.SUPPRESS, default=argparse.SUPPRESS)
    add("--out", type=Path, required=True, help="folder for the tower; states to resume from are in OUT/state")
    add("--steps", type=int, help="(default: %(default)s)")
    add("--batch", type=int, help="photos per step (default: %(default)s)")
    add("--lr", type=float, help="of neck and head; the body gets a third of it (default: %(default)s)")
    add("--image-size", type=int, metavar="PIXELS", help="(default: %(default)s)")
    add("--body", choices=("lite0", "lite2"), help="EfficientNet-Lite body (default: %(default)s)")
    add("--width", type=int, help="channels per cell (default: %(default)s)")
    add("--language-width", type=int, help="of the language model that will read it (default: %(default)s)")
    add(
        "--freeze",
        type=int,
        metavar="N",
        help="leave the first N of the body's 7 stages unchanged (default: %(default)s; 3 is twice as fast)",
    )
    add("--bf16", action="store_true", help="compute in bfloat16, which is faster where the processor has it")
    add("--seed", type=int, help="(default: %(default)s)")
    add("--save-steps", type=int, metavar="N", help="steps between two saves (default: %(default)s)")
    add("--save-every", dest="save_steps", type=int, help=argparse.SUPPRESS, default=argparse.SUPPRESS)
    add("--stop-after", type=int, metavar="N", help="stop after this step; --resume continues from there")
    add("--threads", type=int, metavar="N", help="CPU threads (default: 0, torch decides)")
    add("--workers", type=int, metavar="N", help="processes that load photos (default: 0, the training process does)")
    add("--resume", action="store_true", help="continue from the last state in --out")
    parser.set_defaults(**{field.name: field.default for field in fields(TowerConfig)[2:]})
    return TowerConfig(**vars(parser.parse_args(argv)))


def train(config: TowerConfig) -> None:
    """Train the tower and write it to `config.out`. T4SError."""
    import torch
    from transformers import TrainingArguments

    from t4s.models.tiny.vision_tower import LiteTowerConfig
    from t4s.training import saving
    from t4s.training.losses import CellBatches, open_labelled
    from t4s.training.tower.classifier import CellClassifier
    from t4s.training.trainer import SaveCallback, SegTrainer, state_to_resume

    if config.threads:
        torch.set_num_threads(config.threads)
    saving.check_folder(config.out, config.resume)
    if config.resume:
        saving.check_settings(config.out / "state", asdict(config), MAY_CHANGE)
    else:
        saving.store_settings(config.out / "state", asdict(config))
    dataset = open_labelled(config.dataset)
    batches = CellBatches(dataset, config.batch, config.image_size, LiteTowerConfig().grid, config.seed)
    torch.manual_seed(config.seed)
    model = CellClassifier(
        dataset.names, config.image_size, config.width, config.language_width, config.body, config.freeze
    )
    settings = TrainingArguments(
        output_dir=str(config.out / "state"),
        max_steps=config.steps,
        per_device_train_batch_size=1,  # a draw is a whole batch
        learning_rate=config.lr,
        lr_scheduler_type="cosine",
        warmup_steps=int(WARMUP_SHARE * config.steps),
        logging_steps=max(1, min(20, config.steps // 10)),
        save_steps=config.save_steps,
        save_total_limit=1,
        seed=config.seed,
        bf16=config.bf16,
        report_to="none",
        remove_unused_columns=False,
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=config.workers,
    )

    def collate(numbers: Sequence[int]) -> dict[str, torch.Tensor]:
        (step,) = numbers
        return dict(zip(("pixels", "targets", "weights"), batches(step), strict=True))

    def save(step: int) -> None:
        model.save(config.out)

    trainer = SegTrainer(
        model,
        settings,
        collate,
        lambda model: model.make_optimizer(config.lr),
        callbacks=[SaveCallback(save, config.stop_after)],
        photos_per_draw=config.batch,
    )
    trainer.fit(state_to_resume(config.out / "state") if config.resume else None)
    print(f"{config.out}: step {trainer.state.global_step}")


def main(argv: Sequence[str] | None = None) -> int:
    """Train a tower; returns the exit code: 0, or 2 after one sentence on stderr."""
    use_utf8()
    config = parse(argv)
    try:
        train(config)
    except T4SError as error:
        print(f"t4s train-tower: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
