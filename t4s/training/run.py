"""One run of train.py, from its settings to a checkpoint in --out and, if asked, on the Hub.

train(config)                      # everything below in order; raises T4SError

run = TrainingRun.prepare(config)  # data sets opened, model loaded, every setting resolved
preview(run)                       # --dry-run: settings and one sample
run.make_trainer().fit()           # train; every saved state also writes the checkpoint and evaluates
run.conclude(repo_id)              # the model card
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from typing import Any

import torch
from accelerate.utils import gather_object
from peft import PeftModel
from torch import nn
from transformers import TrainingArguments

from t4s import hub
from t4s.data.spec import Mixture, open_dataset
from t4s.errors import DataError
from t4s.evaluation.validation import Result, Validation
from t4s.models.vlm import VLM
from t4s.training import lora, saving
from t4s.training.collator import Collator
from t4s.training.config import MAY_CHANGE, TrainConfig
from t4s.training.losses import CellLoss, open_labelled, token_loss
from t4s.training.model import check_tokens, initial_vlm, prepare_full, with_taught_words
from t4s.training.progress.average import WeightAverage
from t4s.training.progress.clock import MOST_STEPS, Clock
from t4s.training.progress.preview import preview
from t4s.training.resident.album import PHOTO_SCALE, Album
from t4s.training.resident.batches import CellTargets, ResidentCollator
from t4s.training.resident.step import ResidentStep
from t4s.training.trainer import (
    BETA1,
    MAX_GRADIENT_NORM,
    SaveCallback,
    SegTrainer,
    check_disk_space,
    parameter_groups,
    state_to_resume,
    step_of,
)

CARD_PHOTOS = 8  # training photos in the card's picture if there is no --validate
LOGGING_STEPS = 20  # between two reports of the loss in a long run


def train(config: TrainConfig) -> None:
    """Train as `config` says, which has been checked. T4SError."""
    if config.threads:
        torch.set_num_threads(config.threads)
    check_reporter(config.report_to)
    main_process = rank() == 0
    push = config.push_to_hub is not None and not config.dry_run
    repo_id = config.out.resolve().name
    if push and main_process:  # before training, so that a missing login or right ends the run at once
        repo_id = hub.create(config.push_to_hub or repo_id, config.private)
    saving.check_folder(config.out, config.resume or config.dry_run)
    run = TrainingRun.prepare(config)
    if config.dry_run:
        preview(run)
        return
    check_disk_space(config.out, run.trained_model)
    if not config.resume and main_process:
        saving.store_settings(config.out / "state", run.settings)
    trainer = run.make_trainer()
    trainer.fit(state_to_resume(config.out / "state") if config.resume else None)
    with trainer.explain_failures():
        with run.averaged():
            if run.written_step != trainer.state.global_step:  # resumed from the last step: nothing was left to train
                run.write(trainer.state.global_step)
            result, shown = run.final_result()
        too_long = run.too_long()
        if main_process:
            run.conclude(repo_id, result, shown, push)
    if too_long and main_process:
        print(f"{too_long} questions were too long for the model's context and left out.")
    if push and main_process:
        print(hub.push(config.out, repo_id))
    trainer.close()


def rank() -> int:
    """Number of this process under torchrun; 0 is the main process."""
    return int(os.environ.get("RANK", 0))


def check_reporter(name: str) -> None:
    """DataError if the package of --report-to is not installed."""
    if name != "none" and find_spec(name) is None:
        raise DataError(f"--report-to {name} needs a package that is not installed: pip install {name}")


def uses_bf16(precision: str) -> bool:
    """Whether to compute in bfloat16."""
    if precision == "auto":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return precision == "bf16"


def gpu() -> torch.device | None:
    """The GPU of this process, if there is one."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else None


@dataclass
class TrainingRun:
    """What is trained, on what, and what has been measured so far.

    `adapted`: the PEFT model, None in full training. `average`: of the weights, None for --average 0. `results`:
    evaluations by step. `written_step`: the step of the checkpoint in --out.
    """

    config: TrainConfig
    kind: str
    vlm: VLM
    adapted: PeftModel | None
    mixture: Mixture
    validation: Validation | None
    bf16: bool
    cell_loss: CellLoss | None = None
    average: WeightAverage | None = None
    results: dict[int, Result] = field(default_factory=dict)
    trainer: SegTrainer | None = None
    written_step: int | None = None

    @classmethod
    def prepare(cls, config: TrainConfig) -> TrainingRun:
        """Open the data sets, load the model, resolve every setting. T4SError."""
        mixture = Mixture.open(config.dataset, other_side=[config.validate] if config.validate else [])
        validation = None
        if config.validate:
            held_out = open_dataset(config.validate, "val", other_side=config.dataset)
            validation = Validation(held_out, config.validate_photos)
        bf16 = uses_bf16(config.precision)
        torch.manual_seed(config.seed)
        vlm = initial_vlm(config, mixture, bf16)
        check_tokens(vlm)
        kind = config.kind(vlm.config.positions == "cells")
        world = int(os.environ.get("WORLD_SIZE", 1))
        config = config.resolve(kind, vlm.model.config.model_type, len(mixture), not vlm.bidirectional_prefix, world)
        if config.resume:
            check_resumable(config, kind, vlm)
        adapted = None
        if kind == "lora":
            adapted = lora.attach(
                vlm, config.lora_rank, config.lora_alpha, config.lora_dropout, config.gradient_checkpointing
            )
        else:
            prepare_full(vlm, config)
        cell_loss = make_cell_loss(config, kind, vlm, bf16) if config.cell_loss_data else None
        vlm.config = with_taught_words(vlm.config, mixture, cell_loss and cell_loss.batches.names)
        return cls(config, kind, vlm, adapted, mixture, validation, bf16, cell_loss)

    @property
    def settings(self) -> dict[str, Any]:
        return settings_of(self.config, self.kind, self.vlm)

    @property
    def trained_model(self) -> nn.Module:
        """The module that Trainer gets."""
        return self.vlm.model if self.adapted is None else self.adapted

    def make_trainer(self) -> SegTrainer:
        config = self.config
        steps = config.steps or MOST_STEPS
        if config.average:
            self.average = WeightAverage(self.trained_model, config.average)
        settings = TrainingArguments(
            output_dir=str(config.out / "state"),
            max_steps=steps,
            per_device_train_batch_size=config.batch,
            gradient_accumulation_steps=config.accumulate,
            learning_rate=config.lr,
            lr_scheduler_type="cosine",
            warmup_steps=int(config.warmup * steps),
            logging_steps=max(1, min(LOGGING_STEPS, steps // 10)),
            save_steps=config.save_steps,
            save_total_limit=1,
            seed=config.seed,
            bf16=self.bf16,
            report_to=config.report_to,
            run_name=config.out.resolve().name,
            remove_unused_columns=False,
            max_grad_norm=MAX_GRADIENT_NORM,
            use_cpu=not torch.cuda.is_available(),
            activation_checkpointing=config.gradient_checkpointing,
            activation_checkpointing_kwargs={"use_reentrant": False} if config.gradient_checkpointing else None,
            dataloader_num_workers=self.workers,
            accelerator_config={"non_blocking": torch.cuda.is_available()},
            fsdp=config.fsdp or None,
            logging_nan_inf_filter=False,  # it would wait for the GPU at every step
            disable_tqdm=config.minutes is not None,  # a bar of steps says nothing where the clock decides
        )
        collator, step_loss, cell_loss = self.resident() or (
            Collator(self.vlm, self.mixture, config.queries_per_image, config.seed),
            None,
            self.cell_loss,
        )
        self.trainer = SegTrainer(
            self.trained_model,
            settings,
            collator,
            self.make_optimizer,
            token_loss(self.vlm, config.empty_row_weight),
            [SaveCallback(self.save, config.stop_after)],
            cell_loss,
            step_loss=step_loss,
            clock=Clock(60 * config.minutes) if config.minutes else None,
            warmup=config.warmup,
            average=self.average,
        )
        return self.trainer

    @property
    def workers(self) -> int:
        """Processes that draw, and open photos where these do not stay on the device."""
        if self.config.workers is not None:
            return self.config.workers
        return 0 if self.resident_device is None else max(0, (os.cpu_count() or 1) - 1)

    @property
    def resident_device(self) -> torch.device | None:
        """The GPU that photos stay on, if they fit: of the embedded architecture in full, in one process."""
        if self.kind != "embedded" or int(os.environ.get("WORLD_SIZE", 1)) > 1:
            return None
        return gpu()

    def resident(self) -> tuple[ResidentCollator, ResidentStep, CellLoss | None] | None:
        """The collator and the loss of training with all photos on the device, and the cell loss if it has photos of
        its own. None where photos are read for every step."""
        config, device = self.config, self.resident_device
        if device is None:
            return None
        side = round(PHOTO_SCALE * self.vlm.config.image_size)
        album, said = Album.open(self.mixture, side, device, self.workers)
        print(said, flush=True)
        if album is None:
            return None
        targets = CellTargets(self.cell_loss, self.mixture) if self.cell_loss is not None else None
        if targets is not None and not targets.taught:
            print("--cell-loss-data is none of the data sets: its photos are read anew for every step.", flush=True)
            targets = None
        collator = ResidentCollator(
            self.vlm, self.mixture, config.queries_per_image, config.seed, album.labels, album.first, targets
        )
        step = ResidentStep(self.vlm, album, config.empty_row_weight, self.bf16, targets, config.accumulate)
        return collator, step, None if targets is not None else self.cell_loss

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        config = self.config
        tower = model.get_encoder("image") if self.adapted is None else None
        groups = parameter_groups(model, tower, config.lr, config.vision_lr, config.weight_decay)
        return torch.optim.AdamW(groups, betas=(BETA1, config.beta2))

    # --- while it trains

    def save(self, step: int) -> None:
        """After every saved state: write the checkpoint to --out and evaluate it."""
        with self.averaged():
            self.write(step)
            if self.validation is not None:
                self.evaluate(step)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model as it is saved: with the average of its weights, if there is one."""
        if self.average is None:
            yield
        else:
            with self.average.applied():
                yield

    def write(self, step: int) -> None:
        """Write the checkpoint to --out (the main process does; all of them where the model is sharded)."""
        out = self.config.out
        if self.config.fsdp:
            self.trainer.save_model(str(out))
            if self.trainer.args.should_save:
                saving.add_missing_files(self.vlm, self.adapted, out)
        elif self.trainer.args.should_save:
            saving.write(self.vlm, self.adapted, out)
        self.written_step = step

    def evaluate(self, step: int) -> None:
        """Answer the --validate photos: figures to the screen, OUT/validation.jsonl and --report-to, pictures to
        OUT/validation/step-….png."""
        result = self.validation.run(self.vlm, self.bf16, f"{self.config.validate}, step {step}")
        self.results[step] = result
        self.trainer.log({f"eval_{name}": value for name, value in result.figures.items() if value is not None})
        if not self.trainer.args.should_save:
            return
        print(f"step {step}: {result.line}", flush=True)
        folder = self.config.out / "validation"
        folder.mkdir(exist_ok=True)
        result.sheet.save(folder / f"step-{step:06d}.png")
        line = {"step": step, "answers": result.answers, "photos": result.photos, **result.figures}
        with (self.config.out / "validation.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    # --- before and after

    def final_result(self) -> tuple[Result | None, str]:
        """(evaluation of the finished model, its photos in words) for the card. Without --validate: a few training
        photos, for the picture alone."""
        if self.config.fsdp:
            return None, ""
        step = self.trainer.state.global_step
        if self.validation is not None:
            if step not in self.results:
                self.evaluate(step)
            return self.results[step], self.config.validate
        glance = Validation(self.mixture.datasets[0], CARD_PHOTOS, glance=True)
        return glance.run(self.vlm, self.bf16), f"{self.config.dataset[0]}, which it was trained on"

    def too_long(self) -> int:
        """Questions of all processes that did not fit into the model's context since the run was started."""
        return sum(gather_object([int(self.trainer.data_collator.too_long)]))

    def conclude(self, repo_id: str, result: Result | None, shown: str, push: bool) -> None:
        """Write the model card; to `push` it, merge an adapter whose base others could not find."""
        out = self.config.out
        if push and self.adapted is not None and saving.must_be_merged(self.vlm.config):
            saving.merge(out)
        settings = self.config.reported(self.kind)
        saving.write_card(out, repo_id, self.config, settings, result, shown, self.validation is not None)
        print(f"Saved {out}")


def make_cell_loss(config: TrainConfig, kind: str, vlm: VLM, bf16: bool) -> CellLoss:
    """The loss of --cell-loss-data. DataError if the model has no tower that could learn from it."""
    if kind != "embedded":
        raise DataError(
            "--cell-loss-data teaches the embedded model's tower, and this run trains another model or leaves the "
            "tower unchanged; leave it out, or train t4s-tiny or a fresh model in full."
        )
    return CellLoss(vlm, open_labelled(config.cell_loss_data), config.seed, bf16, rank())


# --- an earlier run


def settings_of(config: TrainConfig, kind: str, vlm: VLM) -> dict[str, Any]:
    """What is stored with a run's states, to be compared by --resume: {field: value}, and the base's identity."""
    return {**asdict(config), "kind": kind, "base_files": vlm.config.base_revision}


def check_resumable(config: TrainConfig, kind: str, vlm: VLM) -> None:
    """DataError if the run in --out had other settings, or is longer than this one."""
    state = state_to_resume(config.out / "state")
    saving.check_settings(config.out / "state", settings_of(config, kind, vlm), MAY_CHANGE)
    if config.steps is not None and step_of(state) > config.steps:
        raise DataError(
            f"--steps is {config.steps}, and the run in {config.out} has reached step {step_of(state)}; give at least "
            "as many steps, or choose another --out."
        )
