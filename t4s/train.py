"""Teach an image-text-to-text model to write masks as text, and publish what it has learnt.

    python t4s/train.py --base ID --dataset jsonl:data.jsonl --out runs/mine --push-to-hub # LoRA on a pretrained model
    python t4s/train.py --base t4s-tiny --dataset jsonl:data.jsonl --out runs/mine         # on the embedded checkpoint
    python t4s/train.py --dataset synthetic --out runs/tiny                                # a fresh embedded model
    torchrun --nproc_per_node 4 t4s/train.py …                                            # or: accelerate launch

--dry-run prints what would be done. There are three kinds of training, each with its own defaults: a model of the
embedded architecture in full (without --base, or with --base and --full), an adapter (--base alone), and any other
model in full (--base and --full).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import argparse

    from t4s.data.spec import Mixture
    from t4s.evaluation.validation import Result, Validation
    from t4s.models.vlm import VLM
    from t4s.training.losses import CellLoss

PROBED = 32  # draws that --dry-run looks at for samples that are too long
SHOWN = 8  # training photos on the card's picture where there is no --validate
LOGGED = 20  # steps between two lines about the loss, in a long run


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code: 0, or 2 after one sentence on stderr."""
    from t4s.errors import T4SError
    from t4s.training import arguments

    options = arguments.arguments(__doc__).parse_args(argv)
    try:
        arguments.check(options)
        train(options)
    except T4SError as error:
        print(f"t4s train: {error}", file=sys.stderr)
        return 2
    return 0


def train(options: argparse.Namespace) -> None:
    """From the options to a checkpoint in --out, and on the Hub if asked. Raises T4SError."""
    import torch

    from t4s import hub
    from t4s.training import trainer

    if options.threads:
        torch.set_num_threads(options.threads)
    check_reporter(options.report_to)
    main_process = int(os.environ.get("RANK", 0)) == 0
    push = options.push_to_hub is not None and not options.dry_run
    repo_id = repository(options) if push and main_process else options.out.resolve().name
    session = prepare(options)
    if options.dry_run:
        return preview(session)
    options.out.mkdir(parents=True, exist_ok=True)
    trainer.check_room(options.out, session.trained)
    learner = learner_of(session)
    state = trainer.to_resume(options.out / "state") if options.resume else None
    learner.learn(state)
    with learner.explain_failures():
        if session.written != learner.state.global_step:  # resumed where nothing was left to train
            session.write(learner.state.global_step)
        result, seen = session.last_result()
        too_long = session.too_long()
        if main_process:
            conclude(session, repo_id, result, seen, push)
    if too_long and main_process:
        print(f"{too_long} questions were too long for the model's context and left out.")
    if push and main_process:
        print(hub.push(options.out, repo_id))
    learner.close()


def check_reporter(name: str) -> None:
    from t4s.errors import DataError

    if name != "none" and find_spec(name) is None:
        raise DataError(f"--report-to {name} needs a package that is not installed: pip install {name}")


def repository(options: argparse.Namespace) -> str:
    """The repository to push to, made before anything is trained. CheckpointError if it cannot be."""
    from t4s import hub

    return hub.create(options.push_to_hub or options.out.resolve().name, options.private)


# --- what is trained


@dataclass
class TrainingRun:
    """One run: what learns, from what, and how it is looked at. `adapted` is the PEFT model, None in full training."""

    options: argparse.Namespace
    kind: str
    vlm: VLM
    adapted: Any
    mixture: Mixture
    validation: Validation | None
    bf16: bool
    lesson: CellLoss | None = None
    results: dict[int, Result] = field(default_factory=dict)
    learner: Any = None
    written: int | None = None  # the step of the checkpoint in --out

    @property
    def trained(self):
        """The model whose weights change."""
        return self.vlm.model if self.adapted is None else self.adapted

    def saved(self, step: int) -> None:
        """After every state: the checkpoint in --out, and the evaluation."""
        self.write(step)
        if self.validation is not None:
            self.evaluate(step)

    def write(self, step: int) -> None:
        from t4s.training import saving

        if self.options.fsdp:
            self.learner.save_model(str(self.options.out))  # all processes together
            if self.learner.args.should_save:
                saving.complete(self.vlm, self.adapted, self.options.out)
        elif self.learner.args.should_save:
            saving.write(self.vlm, self.adapted, self.options.out)
        self.written = step

    def evaluate(self, step: int) -> None:
        """Figures on the screen, in OUT/validation.jsonl and where --report-to says; OUT/validation/step-….png."""
        result = self.validation.run(self.vlm, self.bf16, f"{self.options.validate}, step {step}")
        self.results[step] = result
        self.learner.log({f"eval_{name}": value for name, value in result.figures.items() if value is not None})
        if self.learner.args.should_save:
            print(f"step {step}: {result.line}", flush=True)
            folder = self.options.out / "validation"
            folder.mkdir(exist_ok=True)
            result.sheet.save(folder / f"step-{step:06d}.png")
            with (self.options.out / "validation.jsonl").open("a", encoding="utf-8") as file:
                line = {"step": step, "answers": result.answers, "photos": result.photos, **result.figures}
                file.write(json.dumps(line) + "\n")

    def last_result(self) -> tuple[Result | None, str]:
        """The evaluation of the finished model for the card, and of what; else a glance at photos it was trained on."""
        from t4s.evaluation.validation import Validation

        if self.options.fsdp:
            return None, ""
        step = self.learner.state.global_step
        if self.validation is not None:
            if step not in self.results:
                self.evaluate(step)
            return self.results[step], self.options.validate
        shown = Validation(self.mixture.datasets[0], SHOWN, glance=True)
        return shown.run(self.vlm, self.bf16), f"{self.options.dataset[0]}, which it was trained on"

    def too_long(self) -> int:
        """The questions of all processes that did not fit into the model's context since the run was started."""
        from accelerate.utils import gather_object

        return sum(gather_object([int(self.learner.data_collator.too_long)]))


def prepare(options: argparse.Namespace) -> TrainingRun:
    """Data sets and model, opened; every option resolved."""
    import torch

    from t4s.data.spec import Mixture, open_dataset
    from t4s.evaluation.validation import Validation
    from t4s.training import arguments, lora, trainer

    mixture = Mixture.open(options.dataset)
    validation = None
    if options.validate:
        validation = Validation(open_dataset(options.validate, "val"), options.validate_photos)
    bf16 = mixed(options)
    torch.manual_seed(options.seed)
    vlm = starting_point(options, mixture, bf16)
    config, model = vlm.config, vlm.model
    kind = arguments.kind(options, config.positions == "cells")
    world = int(os.environ.get("WORLD_SIZE", 1))
    arguments.resolve(options, kind, model.config.model_type, len(mixture), not vlm.bidirectional_prefix, world)
    adapted = None
    if kind == "lora":
        adapted = lora.attach(
            vlm, options.lora_rank, options.lora_alpha, options.lora_dropout, options.gradient_checkpointing
        )
    else:
        if options.resume and not options.fsdp:
            restore(vlm, trainer.to_resume(options.out / "state"))
        vlm.model.float().requires_grad_(True)
        if options.freeze_tower is not False:
            freeze(vlm, options.freeze_tower)
    lesson = lesson_of(options, kind, vlm, bf16) if options.cell_loss_data else None
    if lesson is not None:
        vlm.config = replace(config, names=tuple(sorted({*config.names, *lesson.batches.table})))
    return TrainingRun(options, kind, vlm, adapted, mixture, validation, bf16, lesson)


def lesson_of(options: argparse.Namespace, kind: str, vlm: VLM, bf16: bool) -> CellLoss:
    """What --cells asks for. DataError if the model has no tower that could learn it."""
    from t4s.errors import DataError
    from t4s.training import losses

    if kind != "embedded":
        raise DataError(
            "--cell-loss-data teaches the embedded model's tower, and this training has another model or leaves the "
            "tower as it is; leave it out, or train t4s-tiny or a fresh model in full."
        )
    dataset, rank = losses.labelled(options.cell_loss_data), int(os.environ.get("RANK", 0))
    return losses.CellLoss(vlm, dataset, options.seed, bf16, rank)


def freeze(vlm: VLM, stages: int | bool) -> None:
    """Leave the vision tower as it is; of the embedded one, the body, or its first `stages`, where that is no bool."""
    from t4s.errors import DataError

    tower = vlm.model.get_encoder("image")
    if stages is True:
        tower.freeze() if vlm.config.positions == "cells" else tower.requires_grad_(False)
    elif vlm.config.positions != "cells":
        raise DataError(
            f"--freeze-tower {stages} counts stages of the embedded model's tower, and this base has "
            "another; leave the number out to freeze all of it."
        )
    elif not 1 <= stages <= len(tower.stages):
        raise DataError(
            f"--freeze-tower is {stages}; the body has stages 1 to {len(tower.stages)}, and without a "
            "number all of them are meant."
        )
    else:
        tower.freeze(stages)


def mixed(options: argparse.Namespace) -> bool:
    """Whether to compute in bfloat16."""
    import torch

    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return options.precision == "bf16" or (options.precision == "auto" and on_gpu)


def starting_point(options: argparse.Namespace, mixture: Mixture, bf16: bool) -> VLM:
    import torch

    from t4s.models import create
    from t4s.training import arguments

    grid = tuple(options.grid) if options.grid else None
    if not options.base:
        names = {name for dataset in mixture.datasets for name in getattr(dataset, "names", ())}
        return create.fresh(
            names, grid or (16, 16), options.width, options.layers, options.seed, options.tower, options.image_size
        )
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if bf16 and device != "cpu" and not arguments.in_full(options) else torch.float32
    return create.base(
        options.base, options.base_revision, grid, options.image_size, dtype, device, options.quantize, options.base_id
    )


def restore(vlm: VLM, state: Path) -> None:
    """Put a state's weights into the model. Trainer alone would not: models whose saved names differ from
    their own (LLaVA's do) are resumed with their starting weights and a warning."""
    from transformers import AutoModelForImageTextToText

    vlm.model = AutoModelForImageTextToText.from_pretrained(state)


def learner_of(session: TrainingRun):
    """The Trainer, with the session watching it."""
    import torch
    from transformers import TrainingArguments

    from t4s.training import trainer
    from t4s.training.collator import Collator

    options, model = session.options, session.trained
    settings = TrainingArguments(
        output_dir=str(options.out / "state"),
        max_steps=options.steps,
        per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulate,
        learning_rate=options.lr,
        lr_scheduler_type="cosine",
        warmup_steps=int(options.warmup * options.steps),
        logging_steps=max(1, min(LOGGED, options.steps // 10)),
        save_steps=options.save_steps,
        save_total_limit=1,
        seed=options.seed,
        bf16=session.bf16,
        report_to=options.report_to,
        run_name=options.out.resolve().name,
        remove_unused_columns=False,
        max_grad_norm=trainer.GRADIENT_NORM,
        use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=options.gradient_checkpointing,
        dataloader_num_workers=options.workers,
        activation_checkpointing_kwargs={"use_reentrant": False} if options.gradient_checkpointing else None,
        fsdp=options.fsdp or None,
    )

    def optimizer(model) -> torch.optim.Optimizer:
        tower = None if session.adapted is not None else model.get_encoder("image")
        groups = trainer.parameter_groups(model, tower, options.lr, options.vision_lr, options.weight_decay)
        return torch.optim.AdamW(groups, betas=(trainer.BETA1, options.beta2))

    batches = Collator(session.vlm, session.mixture, options.queries_per_image, options.seed)
    watch = trainer.SaveCallback(session.saved, options.stop_after)
    loss = trainer.token_loss(session.vlm, options.empty_row_weight)
    session.learner = trainer.SegTrainer(
        session.vlm, model, settings, batches, optimizer, loss, [watch], session.lesson
    )
    return session.learner


# --- before and after


def preview(session: TrainingRun) -> None:
    """--dry-run: the resolved settings, what is trained, and one sample as the model reads it."""
    from t4s.imaging.drawing import grid_picture
    from t4s.training import arguments
    from t4s.training.collator import IGNORE, Collator

    options, config, vlm = session.options, session.vlm.config, session.vlm
    weights = list(session.trained.parameters())
    count, learnt = (sum(w.numel() for w in some) for some in (weights, [w for w in weights if w.requires_grad]))
    facts = {
        "datasets": ", ".join(options.dataset),
        "photos": len(session.mixture),
        "base": options.base or "fresh",
        "grid": f"{config.grid[0]}×{config.grid[1]}",
        "image-size": config.image_size,
        "positions": config.positions,
        "precision": "bf16" if session.bf16 else "fp32",
        "trained": f"{learnt:,} of {count:,} parameters",
        **arguments.settings(options, session.kind),
    }
    for name, value in facts.items():
        print(f"{name:18} {value}")
    batches = Collator(vlm, session.mixture, options.queries_per_image, options.seed)
    row, sample = batches.rows(0)[0], batches.samples(0)[0]
    taught = sum(label != IGNORE for label in row.labels)
    long, every = batches.refused(range(PROBED))
    print(
        f"{'sample':18} {len(row.ids)} tokens, {taught} of them learnt; {long} of {every} questions drawn are too "
        "long\n"
    )
    print(spelled(vlm, row.ids))
    options.out.mkdir(parents=True, exist_ok=True)
    grid_picture(sample.grid(config.grid), sample.image).save(options.out / "sample.png")
    print(f"\n{options.out / 'sample.png'}: its photo and the first answer")


def spelled(vlm: VLM, ids: Sequence[int]) -> str:
    """Token ids as text, the photo's run of tokens as one word."""
    runs = [(token, len(list(same))) for token, same in groupby(ids)]
    parts = [
        f"{vlm.piece(token)}{f'×{length}' if token == vlm.image_token else ''}"
        * (1 if token == vlm.image_token else length)
        for token, length in runs
    ]
    return "".join(parts)


def conclude(session: TrainingRun, repo_id: str, result: Result | None, seen: str, push: bool) -> None:
    """The card with its picture, and, to `push` it, a checkpoint that others can load."""
    from t4s.training import arguments, saving

    options = session.options
    if push and session.adapted is not None and saving.must_be_merged(session.vlm.config):
        saving.merge(options.out)
    settings = arguments.settings(options, session.kind)
    saving.describe(
        options.out, repo_id, options.dataset, settings, result, seen, session.validation is not None, options.license
    )
    print(f"Saved {options.out}")


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
