"""What a training run is told: the command line of train.py, and the defaults of each kind of training.

Three kinds differ in what they change and in their defaults (`DEFAULTS`):

    embedded   a model of the embedded architecture, in full: a fresh one, or --base with --full
    lora       an adapter on any --base: low-rank matrices beside every linear layer of its language model, and its
               projector; the published setting (Lan et al., ICLR 2025)
    full       all weights of any other --base: --full

Imports neither torch nor transformers: --help must not wait for them.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from t4s.errors import DataError

KINDS = ("embedded", "lora", "full")
PUBLISHED_BATCH = 128  # questions a step
DEFAULTS = {  # name: of the three kinds; None: worked out by `resolve`
    "lr": (1e-3, 2e-4, 2e-5),
    "weight_decay": (0.05, 0.0, 0.0),
    "beta2": (0.98, 0.999, 0.999),
    "batch": (16, 4, 4),
    "queries_per_image": (6, 4, 4),
    "steps": (2000, None, None),
}
EPOCHS = 5.0
FULL_ROW = 0.2  # see learning.token_loss
LR_OF = {"internvl": 1e-4}  # published for this family in place of 2e-4
LORA_RANK, LORA_ALPHA, LORA_DROPOUT = 64, 128, 0.05
SPEC = "NAME[:PATH][@SPLIT][*WEIGHT]"


def _of_kinds(name: str, word: str = "") -> str:
    """ "(embedded 0.001, LoRA 0.0002, full 2e-05)"."""
    values = zip(("embedded", "LoRA", "full"), DEFAULTS[name], strict=True)
    return "(" + ", ".join(f"{kind} {word if value is None else format(value, 'g')}" for kind, value in values) + ")"


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "train.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    _data(parser.add_argument_group("what is learnt"))
    _model(parser.add_argument_group("what learns it"))
    _schedule(parser.add_argument_group("how: where three defaults are given, they are those of the kinds above"))
    _run(parser.add_argument_group("the run"))
    _hub(parser.add_argument_group("the Hub"))
    return parser


def _data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--dataset",
        action="append",
        required=True,
        metavar=SPEC,
        help="what to train on; repeatable, see t4s/datasets/__init__.py (`t4s check` looks one over)",
    )
    add(
        "--cell-loss-data",
        metavar="folder:PATH[@SPLIT]",
        help="the embedded model: its tower goes on learning what is in each cell of these photos, under the language "
        "model's own words for it",
    )
    add(
        "--validate",
        metavar="NAME[:PATH][@SPLIT]",
        help="photos to answer at every --save-steps: a picture sheet too (SPLIT: val unless named)",
    )
    add("--validate-photos", type=int, default=32, metavar="N", help="how many of them, evenly spaced (32)")
    add(
        "--queries-per-image",
        type=int,
        metavar="N",
        help=f"phrases of a photo that share its tokens in one sample {_of_kinds('queries_per_image')}",
    )
    add("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="(16 16, or what the base was taught)")
    add(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="side of the square that photos are squashed to (what the base takes; fresh: 16 a row of the grid)",
    )


def _model(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--base",
        metavar="MODEL",
        help="a Hub id, a folder, or t4s-tiny, the embedded checkpoint; none: a fresh "
        "model of the embedded architecture",
    )
    add("--base-revision", metavar="REV", help="of a Hub id: a branch, tag or commit (main; the commit is recorded)")
    add("--full", action="store_true", help="train all weights of --base; else an adapter (LoRA)")
    add("--lora-rank", type=int, default=LORA_RANK, help=f"({LORA_RANK})")
    add("--lora-alpha", type=int, default=LORA_ALPHA, help=f"({LORA_ALPHA})")
    add("--lora-dropout", type=float, default=LORA_DROPOUT, help=f"({LORA_DROPOUT})")
    add("--quantize", choices=("4bit",), help="keep the base in 4 bits (bitsandbytes, CUDA only; with LoRA)")
    add("--gradient-checkpointing", action="store_true", help="less memory, about a third slower")
    add(
        "--precision",
        choices=("auto", "bf16", "fp32"),
        default="auto",
        help="auto: bf16 on a GPU that has it, else fp32",
    )
    add("--tower", type=Path, metavar="FOLDER", help="fresh model: a tower trained by t4s train-tower")
    add("--width", type=int, default=256, help="fresh model: of the language model (256)")
    add("--layers", type=int, default=5, help="fresh model: of the language model (5)")
    add(
        "--freeze-tower",
        nargs="?",
        type=int,
        default=False,
        const=True,
        metavar="STAGES",
        help="train in full, but for the vision tower; of the embedded one, for its body, or for so many of its "
        "stages: the neck learns",
    )


def _schedule(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--lr",
        type=float,
        help=f"highest learning rate, of a cosine schedule {_of_kinds('lr')}; InternVL with LoRA {LR_OF['internvl']:g}",
    )
    add("--vision-lr", type=float, metavar="LR", help="train in full, the vision tower at this rate (a tenth of --lr)")
    add("--warmup", type=float, default=0.03, metavar="SHARE", help="share of the steps (0.03)")
    add("--weight-decay", type=float, help=_of_kinds("weight_decay"))
    add("--beta2", type=float, help=f"of AdamW {_of_kinds('beta2')}")
    add(
        "--empty-row-weight",
        type=float,
        default=FULL_ROW,
        metavar="WEIGHT",
        help="the embedded model: weight of a full-width run in the loss; the more, the more is called absent "
        f"({FULL_ROW})",
    )
    add("--epochs", type=float, help=f"times that as many photos are drawn as the datasets have ({EPOCHS:g})")
    add("--steps", type=int, help=f"in place of --epochs {_of_kinds('steps', '--epochs')}")
    add("--batch", type=int, help=f"photos that a process takes at once {_of_kinds('batch')}")
    add(
        "--total-batch",
        type=int,
        metavar="N",
        help="photos a step, of all processes together; gradients are accumulated (embedded: --batch times the "
        f"processes; LoRA and full: what makes {PUBLISHED_BATCH} questions)",
    )
    add("--seed", type=int, default=0)


def _run(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--out", type=Path, required=True, help="folder for the checkpoint; states to go on from lie in OUT/state")
    add("--dry-run", action="store_true", help="print what would be done and one sample, and stop")
    add("--save-steps", type=int, default=250, metavar="N", help="a state, a checkpoint, an evaluation (250)")
    add("--stop-after", type=int, metavar="N", help="end after this many steps; --resume goes on from there")
    add("--resume", action="store_true", help="go on from the last state in --out")
    add("--report-to", choices=("none", "trackio", "tensorboard"), default="none", help="where to write curves (none)")
    add("--workers", type=int, default=0, metavar="N", help="processes that load photos (0: the training process)")
    add("--threads", type=int, default=0, metavar="N", help="CPU threads (0: as torch chooses)")
    add("--fsdp", action="store_true", help="under torchrun: shard the model over the GPUs (not tested)")


def _hub(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--push-to-hub",
        nargs="?",
        const="",
        metavar="ID",
        help="publish the checkpoint as ID, or under the name of --out; the repository is made first",
    )
    add("--private", action="store_true", help="if the repository is new: only you can see it")
    add(
        "--base-id",
        metavar="ID",
        help="the Hub id under which others find a local base; without it, a local or "
        "embedded base is pushed merged with what was learnt",
    )
    add("--license", metavar="ID", help="a Hub licence id, such as cc-by-4.0, for the model card")


def check(options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded. DataError."""
    for name in (
        "steps",
        "batch",
        "total_batch",
        "queries_per_image",
        "validate_photos",
        "save_steps",
        "stop_after",
        "lora_rank",
        "lora_alpha",
        "image_size",
    ):
        if (value := getattr(options, name)) is not None and value < 1:
            raise DataError(f"--{name.replace('_', '-')} is {value}; it is a whole number from 1.")
    for name in ("lr", "epochs", "empty_row_weight"):
        if (value := getattr(options, name)) is not None and not value > 0:
            raise DataError(f"--{name} is {value}; it is a number above 0.")
    if not 0 <= options.lora_dropout < 1 or not 0 <= options.warmup < 1:
        raise DataError("--lora-dropout and --warmup are shares from 0 to below 1.")
    if options.steps and options.epochs:
        raise DataError("--steps and --epochs both say how long to train; leave one of them out.")
    if options.full and not options.base:
        raise DataError("--full says how to train a --base, and there is none; leave it out, or name a --base.")
    if options.quantize and (not options.base or in_full(options)):
        raise DataError(
            "--quantize keeps a base that is not trained itself; give a --base, and leave out --full, "
            "--freeze-tower and --vision-lr."
        )
    if options.tower and options.base:
        raise DataError("--tower is for a fresh model, and --base has a tower of its own; leave one of the two out.")
    if options.fsdp and int(os.environ.get("WORLD_SIZE", 1)) < 2:
        raise DataError("--fsdp shards the model over several processes, and this is one; start it with torchrun.")
    if options.fsdp and options.validate:
        raise DataError(
            "--validate answers photos with the whole model, and --fsdp has it in pieces; measure the "
            "checkpoint with t4s/eval.py afterwards."
        )
    if options.out.exists() and not options.out.is_dir():
        raise DataError(f"{options.out} is a file; name a folder.")


def in_full(options: argparse.Namespace) -> bool:
    """Whether --base is trained in full: asked for, or meant by an option that only full training has."""
    return options.full or options.freeze_tower is not False or options.vision_lr is not None


def kind(options: argparse.Namespace, cells: bool) -> str:
    """One of KINDS. `cells`: the model has the embedded one's positions."""
    if options.base and not in_full(options):
        return "lora"
    return "embedded" if cells else "full"


def resolve(options: argparse.Namespace, kind: str, model_type: str, photos: int, shared: bool, world: int) -> None:
    """Fill in what was not given. DataError if the numbers do not fit together.

    photos: of the datasets; shared: several phrases may share a photo's tokens; world: the number of processes.
    Adds `accumulate`, the passes of a process in one step.
    """
    for name, values in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, values[KINDS.index(kind)])
            if name == "lr" and kind == "lora":
                options.lr = LR_OF.get(model_type, options.lr)
            if name == "queries_per_image" and not shared:
                options.queries_per_image = 1
    if options.vision_lr is None:
        options.vision_lr = options.lr / 10
    if options.total_batch is None:
        one = options.batch * world
        wanted = PUBLISHED_BATCH // options.queries_per_image if kind != "embedded" else one
        options.total_batch = max(one, wanted // one * one)
    if options.total_batch % (options.batch * world):
        raise DataError(
            f"--total-batch {options.total_batch} is no multiple of --batch {options.batch} times {world} "
            "processes; choose one that is."
        )
    options.accumulate = options.total_batch // (options.batch * world)
    if options.steps is None or options.epochs is not None:
        options.steps = max(1, round((options.epochs or EPOCHS) * photos / options.total_batch))


def settings(options: argparse.Namespace, kind: str) -> dict[str, object]:
    """What a reader needs to train it again, resolved: for --dry-run and the model card."""
    names = ["steps", "batch", "total_batch", "queries_per_image", "lr", "warmup", "weight_decay", "beta2", "seed"]
    if kind == "lora":
        names += ["lora_rank", "lora_alpha", "lora_dropout", *(["quantize"] if options.quantize else [])]
    else:
        names += ["freeze_tower", *(["vision_lr"] if kind == "embedded" or not options.freeze_tower else [])]
    if kind == "embedded":
        names += ["empty_row_weight", "cell_loss_data"]
    return {"kind": kind, **{name.replace("_", "-"): getattr(options, name) for name in names}, "schedule": "cosine"}
