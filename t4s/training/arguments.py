"""The command line of train.py: options in, `TrainConfig` out.

Options that were renamed keep working under their old names, which --help does not show.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from t4s.training.config import DEFAULTS, EPOCHS, LORA_LR, QUESTIONS_PER_STEP, WHOLE_TOWER, TrainConfig

SPEC = "NAME[:PATH][@SPLIT][*WEIGHT]"
OPTIONAL = {field.name for field in fields(TrainConfig)} - {"dataset", "out", "accumulate"}


def parse(argv: Sequence[str] | None, description: str | None = None) -> TrainConfig:
    """The command line as a TrainConfig, not yet checked. SystemExit for --help and for what argparse refuses."""
    given = vars(build_parser(description).parse_args(argv))
    given["dataset"] = tuple(given["dataset"])
    if given["grid"] is not None:
        given["grid"] = tuple(given["grid"])
    return TrainConfig(**given)


def build_parser(description: str | None = None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "train.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _add_data(parser.add_argument_group("data"))
    _add_model(parser.add_argument_group("model"))
    _add_schedule(parser.add_argument_group("schedule: three defaults in a row are those of the three kinds above"))
    _add_run(parser.add_argument_group("run"))
    _add_hub(parser.add_argument_group("Hub"))
    parser.set_defaults(**{field.name: field.default for field in fields(TrainConfig) if field.name in OPTIONAL})
    return parser


def _per_kind(name: str, computed: str = "") -> str:
    """ "(embedded 0.001, LoRA 0.0002, full 2e-05)"; `computed` stands for a default that `resolve` computes."""
    parts = []
    for kind, value in zip(("embedded", "LoRA", "full"), DEFAULTS[name], strict=True):
        parts.append(f"{kind} {computed if value is None else format(value, 'g')}")
    return f"({', '.join(parts)})"


def _old_name(group: Any, old: str, **settings: Any) -> None:
    """An earlier name of an option: accepted, and not shown by --help."""
    group.add_argument(old, help=argparse.SUPPRESS, default=argparse.SUPPRESS, **settings)


def _add_data(group: argparse._ArgumentGroup) -> None:
    dataset = group.add_mutually_exclusive_group(required=True)
    dataset.add_argument(
        "--dataset",
        action="append",
        metavar=SPEC,
        help="what to train on; repeatable, see t4s/data/__init__.py (`t4s check` examines a data set)",
    )
    _old_name(dataset, "--corpus", dest="dataset", action="append")
    group.add_argument(
        "--cell-loss-data",
        metavar="folder:PATH[@SPLIT]",
        help="embedded model: keep teaching the vision tower which class each cell of these photos shows, with the "
        "language model's own word embeddings as class vectors",
    )
    _old_name(group, "--cells", dest="cell_loss_data")
    group.add_argument(
        "--validate",
        metavar="NAME[:PATH][@SPLIT]",
        help="photos to evaluate on at every --save-steps, with a sheet of pictures (SPLIT defaults to val)",
    )
    group.add_argument(
        "--validate-photos", type=int, metavar="N", help="how many of them, evenly spaced (default: %(default)s)"
    )
    group.add_argument(
        "--queries-per-image",
        type=int,
        metavar="N",
        help=f"phrases that share one photo's tokens in a sample {_per_kind('queries_per_image')}",
    )
    group.add_argument(
        "--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="(default: the base's own, else 16 16)"
    )
    group.add_argument(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of the square that photos are resized to (default: the base's own; fresh: 16 per row of the grid)",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--base",
        metavar="MODEL",
        help="a Hub id, a folder, or t4s-tiny, the embedded checkpoint (default: a fresh model of the embedded "
        "architecture)",
    )
    add(
        "--base-revision",
        metavar="REV",
        help="branch, tag or commit of a Hub id (default: main; the commit is recorded)",
    )
    add("--full", action="store_true", help="train all weights of --base instead of an adapter (LoRA)")
    add("--lora-rank", type=int, help="(default: %(default)s)")
    add("--lora-alpha", type=int, help="(default: %(default)s)")
    add("--lora-dropout", type=float, help="(default: %(default)s)")
    add("--quantize", choices=("4bit",), help="load the base in 4 bits (bitsandbytes, CUDA only; with LoRA)")
    add("--gradient-checkpointing", action="store_true", help="less memory, about a third slower")
    add("--precision", choices=("auto", "bf16", "fp32"), help="auto (default): bf16 on a GPU that has it, else fp32")
    add("--tower", type=Path, metavar="FOLDER", help="fresh model: a vision tower trained by t4s train-tower")
    add("--width", type=int, help="fresh model: width of the language model (default: %(default)s)")
    add("--layers", type=int, help="fresh model: layers of the language model (default: %(default)s)")
    add(
        "--freeze-tower",
        nargs="?",
        type=_stages,
        const=WHOLE_TOWER,
        metavar="STAGES",
        help="full training with the vision tower frozen; of the embedded one, its body, or only its first STAGES "
        "stages (the neck is always trained)",
    )


def _stages(text: str) -> int | str:
    return text if text == WHOLE_TOWER else int(text)


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--lr",
        type=float,
        help=f"peak learning rate of a cosine schedule {_per_kind('lr')}; InternVL with LoRA {LORA_LR['internvl']:g}",
    )
    add(
        "--vision-lr",
        type=float,
        metavar="LR",
        help="full training with this learning rate for the vision tower (default: a tenth of --lr)",
    )
    _old_name(group, "--tower-lr", dest="vision_lr", type=float)
    add("--warmup", type=float, metavar="SHARE", help="share of the steps (default: %(default)s)")
    add("--weight-decay", type=float, help=_per_kind("weight_decay"))
    add("--beta2", type=float, help=f"of AdamW {_per_kind('beta2')}")
    add(
        "--empty-row-weight",
        type=float,
        metavar="WEIGHT",
        help="embedded model: weight of rows that are all background in the loss; the higher, the more targets are "
        "called absent (default: %(default)s)",
    )
    _old_name(group, "--full-row", dest="empty_row_weight", type=float)
    add("--epochs", type=float, help=f"training epochs (default: {EPOCHS:g})")
    add("--steps", type=int, help=f"optimizer steps, instead of --epochs {_per_kind('steps', '--epochs')}")
    add(
        "--minutes",
        type=float,
        metavar="N",
        help="train for so long, instead of --steps: warm-up and cosine follow the clock",
    )
    add(
        "--average",
        type=float,
        metavar="DECAY",
        help=f"save a running average of the weights, 0 for the last ones {_per_kind('average')}",
    )
    add("--batch", type=int, help=f"photos per forward pass and process {_per_kind('batch')}")
    add(
        "--total-batch",
        type=int,
        metavar="N",
        help="photos per step over all processes; gradients are accumulated (embedded: --batch times the processes; "
        f"LoRA and full: as many as give {QUESTIONS_PER_STEP} questions)",
    )
    add("--seed", type=int, help="(default: %(default)s)")


def _add_run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--out", type=Path, required=True, help="folder for the checkpoint; states to resume from are in OUT/state")
    add("--dry-run", action="store_true", help="print the resolved settings and one sample, and stop")
    add(
        "--save-steps",
        type=int,
        metavar="N",
        help="steps between two saves; each writes a state and the checkpoint, and evaluates (default: %(default)s)",
    )
    add("--stop-after", type=int, metavar="N", help="stop after this step; --resume continues from there")
    add("--resume", action="store_true", help="continue from the last state in --out")
    add("--report-to", choices=("none", "trackio", "tensorboard"), help="where to log curves (default: none)")
    add(
        "--workers",
        type=int,
        metavar="N",
        help="processes that load photos (default: 0, the training process does; "
        "on a GPU, where photos stay there, one for every CPU core but one)",
    )
    add("--threads", type=int, metavar="N", help="CPU threads (default: 0, torch decides)")
    add("--fsdp", action="store_true", help="under torchrun: shard the model over the GPUs (not tested)")


def _add_hub(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--push-to-hub",
        nargs="?",
        const="",
        metavar="ID",
        help="publish the checkpoint as ID (default: the name of --out); the repository is created before training",
    )
    add("--private", action="store_true", help="create the repository private")
    add(
        "--base-id",
        metavar="ID",
        help="the Hub id under which others find a local base; without it, an adapter on a local or embedded base is "
        "merged before it is pushed",
    )
    add("--license", metavar="ID", help="a Hub licence id for the model card, such as cc-by-4.0")
