"""The settings of a training run, and the defaults of each kind of training.

The three kinds differ in which weights they change and in their defaults (`DEFAULTS`):

    embedded   all weights of a model of the embedded architecture: a fresh one, or --base with --full
    lora       an adapter on any other use of --base: low-rank matrices beside every linear layer of the language
               model, and the projector (the published setting: Lan et al., ICLR 2025)
    full       all weights of any other --base: --full

    config = TrainConfig(dataset=("synthetic",), out=Path("runs/tiny"))
    config.check()                              # DataError for what cannot work
    config = config.resolve("embedded", ...)    # every default of that kind filled in

Imports neither torch nor transformers, so that --help is instant.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from t4s.errors import DataError

KINDS = ("embedded", "lora", "full")
QUESTIONS_PER_STEP = 128  # the published batch, for LoRA and full training
DEFAULTS = {  # option: (embedded, lora, full); None: `resolve` computes it
    "lr": (1e-3, 2e-4, 2e-5),
    "weight_decay": (0.05, 0.0, 0.0),
    "beta2": (0.98, 0.999, 0.999),
    "batch": (16, 4, 4),
    "queries_per_image": (6, 4, 4),
    "steps": (2000, None, None),
    "average": (0.998, 0.0, 0.0),
}
LORA_LR = {"internvl": 1e-4}  # published for this family instead of 2e-4
EPOCHS = 5.0
MIN_STEPS = 50  # with fewer, the default batch shrinks, and then the default number of epochs grows
WHOLE_TOWER = "all"  # --freeze-tower without a number
# What --resume may change: the length, what is saved and reported, and how a step's photos are divided.
MAY_CHANGE = frozenset(
    "out steps epochs minutes stop_after save_steps dry_run resume report_to workers threads batch accumulate "
    "gradient_checkpointing fsdp validate validate_photos push_to_hub private base_id license".split()
)
COUNTS = (
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
)


@dataclass(frozen=True)
class TrainConfig:
    """One field per option of train.py. None: not given; `resolve` fills in what depends on the kind of training.

    `grid`: (rows, columns). `image_size`: pixels. `freeze_tower`: the number of stages to freeze, "all" or None.
    `accumulate` is no option: forward passes of one process per step. With `minutes`, `steps` stays None.
    """

    dataset: tuple[str, ...]
    out: Path
    # data
    cell_loss_data: str | None = None
    validate: str | None = None
    validate_photos: int = 32
    queries_per_image: int | None = None
    grid: tuple[int, int] | None = None
    image_size: int | None = None
    # model
    base: str | None = None
    base_revision: str | None = None
    full: bool = False
    lora_rank: int = 64
    lora_alpha: int = 128
    lora_dropout: float = 0.05
    quantize: str | None = None
    gradient_checkpointing: bool = False
    precision: str = "auto"
    tower: Path | None = None
    width: int = 256
    layers: int = 5
    freeze_tower: int | str | None = None
    # schedule
    lr: float | None = None
    vision_lr: float | None = None
    warmup: float = 0.03
    weight_decay: float | None = None
    beta2: float | None = None
    empty_row_weight: float = 0.2
    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    average: float | None = None
    batch: int | None = None
    total_batch: int | None = None
    accumulate: int = 1
    seed: int = 0
    # run
    dry_run: bool = False
    save_steps: int = 250
    stop_after: int | None = None
    resume: bool = False
    report_to: str = "none"
    workers: int | None = None
    threads: int = 0
    fsdp: bool = False
    # Hub
    push_to_hub: str | None = None
    private: bool = False
    base_id: str | None = None
    license: str | None = None

    @property
    def trains_base_in_full(self) -> bool:
        """True if --full was given, or an option that only full training has."""
        return self.full or self.freeze_tower is not None or self.vision_lr is not None

    def kind(self, cell_positions: bool) -> str:
        """One of KINDS. cell_positions: the model has the embedded architecture's positions."""
        if self.base and not self.trains_base_in_full:
            return "lora"
        return "embedded" if cell_positions else "full"

    def check(self) -> None:
        """Refuse what cannot work, before anything is loaded. DataError."""
        self._check_numbers()
        lengths = [f"--{name}" for name in ("steps", "epochs", "minutes") if getattr(self, name)]
        if len(lengths) > 1:
            raise DataError(f"{' and '.join(lengths)} both set the length of training; leave one of them out.")
        if self.minutes and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            raise DataError("--minutes is for one process, as several would end at different steps; give --steps.")
        if self.full and not self.base:
            raise DataError(
                "--full trains all weights of a --base, and none was given; leave it out, or give a --base."
            )
        if self.quantize and (not self.base or self.trains_base_in_full):
            raise DataError(
                "--quantize needs a base whose own weights are not trained; give a --base, and leave out --full, "
                "--freeze-tower and --vision-lr."
            )
        if self.tower and self.base:
            raise DataError("--tower is for a fresh model, and --base brings its own tower; leave one of the two out.")
        if self.fsdp and int(os.environ.get("WORLD_SIZE", 1)) < 2:
            raise DataError("--fsdp shards the model over several processes, but there is only one; use torchrun.")
        if self.fsdp and self.average:
            raise DataError("--average needs whole weights in every process, and --fsdp shards them; leave it out.")
        if self.fsdp and self.validate:
            raise DataError(
                "--validate needs the whole model in one process, and --fsdp shards it; measure the checkpoint with "
                "t4s/eval.py afterwards."
            )
        if self.out.exists() and not self.out.is_dir():
            raise DataError(f"--out {self.out} is a file; name a folder.")

    def _check_numbers(self) -> None:
        for name in COUNTS:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DataError(f"--{name.replace('_', '-')} is {value}; allowed are whole numbers from 1.")
        for name in ("lr", "epochs", "minutes", "empty_row_weight"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise DataError(f"--{name.replace('_', '-')} is {value}; allowed are numbers above 0.")
        for name in ("lora_dropout", "warmup", "average"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise DataError(f"--{name.replace('_', '-')} is {value}; allowed are numbers from 0 to below 1.")

    def resolve(self, kind: str, model_type: str, photos: int, shared_prefix: bool, world: int) -> TrainConfig:
        """The same settings with every default filled in. DataError if the numbers do not fit together.

        photos: of all data sets; shared_prefix: several phrases may share one photo's tokens; world: processes.
        """
        filled = {name: values[KINDS.index(kind)] for name, values in DEFAULTS.items()}
        if kind == "lora":
            filled["lr"] = LORA_LR.get(model_type, filled["lr"])
        if not shared_prefix:
            filled["queries_per_image"] = 1
        if self.fsdp:
            filled["average"] = 0.0
        filled |= {name: getattr(self, name) for name in filled if getattr(self, name) is not None}
        total = self.total_batch
        if total is None:
            total = self._default_total(kind, filled, photos, world)
            if self.batch is None:
                filled["batch"] = min(filled["batch"], total // world)
        per_pass = filled["batch"] * world
        if total % per_pass:
            raise DataError(
                f"--total-batch {total} is not a multiple of --batch {filled['batch']} times {world} processes; "
                "choose one that is."
            )
        if self.minutes is not None:
            filled["steps"] = None
        elif self.epochs is not None:
            filled["steps"] = max(1, round(self.epochs * photos / total))
        elif filled["steps"] is None:
            filled["steps"] = max(MIN_STEPS, round(EPOCHS * photos / total))
        vision_lr = filled["lr"] / 10 if self.vision_lr is None else self.vision_lr
        return replace(self, **filled, vision_lr=vision_lr, total_batch=total, accumulate=total // per_pass)

    def _default_total(self, kind: str, filled: dict[str, Any], photos: int, world: int) -> int:
        """Photos per step: the published batch, halved until training has MIN_STEPS steps or a photo per process."""
        per_pass = filled["batch"] * world
        if kind == "embedded":
            return per_pass
        wanted = QUESTIONS_PER_STEP // filled["queries_per_image"]
        total = max(per_pass, wanted // per_pass * per_pass)
        smallest = world if self.batch is None else per_pass
        epochs = self.epochs or EPOCHS
        while self.steps is None and total // 2 >= smallest and epochs * photos / total < MIN_STEPS:
            if total // 2 % smallest:
                break
            total //= 2
        return total

    def reported(self, kind: str) -> dict[str, object]:
        """{option: resolved value} that a reader needs to repeat the training: for --dry-run and the model card."""
        names = [
            "steps" if self.minutes is None else "minutes",
            "batch",
            "total_batch",
            "queries_per_image",
            "lr",
            "warmup",
            "weight_decay",
            "beta2",
            "average",
            "seed",
        ]
        if kind == "lora":
            names += ["lora_rank", "lora_alpha", "lora_dropout"]
            if self.quantize:
                names.append("quantize")
        else:
            names.append("freeze_tower")
            if kind == "embedded" or not self.freeze_tower:
                names.append("vision_lr")
        if kind == "embedded":
            names += ["empty_row_weight", "cell_loss_data"]
        values = {name.replace("_", "-"): getattr(self, name) for name in names}
        return {"kind": kind, **values, "schedule": "cosine"}
