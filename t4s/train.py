"""Teach an image-text-to-text model to write masks as text, and publish what it has learnt.

    python t4s/train.py --base ID --corpus jsonl:data.jsonl --out runs/mine --push-to-hub # LoRA on a pretrained model
    python t4s/train.py --base t4s-tiny --corpus jsonl:data.jsonl --out runs/mine         # on the embedded checkpoint
    python t4s/train.py --corpus synthetic --out runs/tiny                                # a fresh embedded model
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

    from t4s.backbone import Backbone
    from t4s.cell_lesson import CellLesson
    from t4s.corpora import Mixture
    from t4s.validation import Result, Validation

PROBED = 32  # draws that --dry-run looks at for samples that are too long
SHOWN = 8  # training photos on the card's picture where there is no --validate
LOGGED = 20  # steps between two lines about the loss, in a long run


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code: 0, or 2 after one sentence on stderr."""
    from t4s import recipe
    from t4s.errors import T4SError

    options = recipe.arguments(__doc__).parse_args(argv)
    try:
        recipe.check(options)
        train(options)
    except T4SError as error:
        print(f"t4s train: {error}", file=sys.stderr)
        return 2
    return 0


def train(options: argparse.Namespace) -> None:
    """From the options to a checkpoint in --out, and on the Hub if asked. Raises T4SError."""
    import torch

    from t4s import hub, learning

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
    learning.check_room(options.out, session.trained)
    learner = learner_of(session)
    state = learning.to_resume(options.out / "state") if options.resume else None
    learner.learn(state)
    with learner.keeping():
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
class Session:
    """One run: what learns, from what, and how it is looked at. `adapted` is the PEFT model, None in full training."""

    options: argparse.Namespace
    kind: str
    backbone: Backbone
    adapted: Any
    mixture: Mixture
    validation: Validation | None
    bf16: bool
    lesson: CellLesson | None = None
    results: dict[int, Result] = field(default_factory=dict)
    learner: Any = None
    written: int | None = None  # the step of the checkpoint in --out

    @property
    def trained(self):
        """The model whose weights change."""
        return self.backbone.model if self.adapted is None else self.adapted

    def saved(self, step: int) -> None:
        """After every state: the checkpoint in --out, and the evaluation."""
        self.write(step)
        if self.validation is not None:
            self.evaluate(step)

    def write(self, step: int) -> None:
        from t4s import publishing

        if self.options.fsdp:
            self.learner.save_model(str(self.options.out))  # all processes together
            if self.learner.args.should_save:
                publishing.complete(self.backbone, self.adapted, self.options.out)
        elif self.learner.args.should_save:
            publishing.write(self.backbone, self.adapted, self.options.out)
        self.written = step

    def evaluate(self, step: int) -> None:
        """Figures on the screen, in OUT/validation.jsonl and where --report-to says; OUT/validation/step-….png."""
        result = self.validation.run(self.backbone, self.bf16, f"{self.options.validate}, step {step}")
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
        from t4s.validation import Validation

        if self.options.fsdp:
            return None, ""
        step = self.learner.state.global_step
        if self.validation is not None:
            if step not in self.results:
                self.evaluate(step)
            return self.results[step], self.options.validate
        shown = Validation(self.mixture.corpora[0], SHOWN, glance=True)
        return shown.run(self.backbone, self.bf16), f"{self.options.corpus[0]}, which it was trained on"

    def too_long(self) -> int:
        """The questions of all processes that did not fit into the model's context since the run was started."""
        from accelerate.utils import gather_object

        return sum(gather_object([int(self.learner.data_collator.too_long)]))


def prepare(options: argparse.Namespace) -> Session:
    """Corpora and model, opened; every option resolved."""
    import torch

    from t4s import learning, lora, recipe
    from t4s.corpora import Mixture, open_corpus
    from t4s.validation import Validation

    mixture = Mixture.open(options.corpus)
    validation = None
    if options.validate:
        validation = Validation(open_corpus(options.validate, "val"), options.validate_photos)
    bf16 = mixed(options)
    torch.manual_seed(options.seed)
    backbone = starting_point(options, mixture, bf16)
    form, model = backbone.format, backbone.model
    kind = recipe.kind(options, form.positions == "cells")
    world = int(os.environ.get("WORLD_SIZE", 1))
    recipe.resolve(options, kind, model.config.model_type, len(mixture), not backbone.both_ways, world)
    adapted = None
    if kind == "lora":
        adapted = lora.attach(backbone, options.lora_rank, options.lora_alpha, options.lora_dropout,
                              options.gradient_checkpointing)  # fmt: skip
    else:
        if options.resume and not options.fsdp:
            restore(backbone, learning.to_resume(options.out / "state"))
        backbone.model.float().requires_grad_(True)
        if options.freeze_tower is not False:
            freeze(backbone, options.freeze_tower)
    lesson = lesson_of(options, kind, backbone, bf16) if options.cells else None
    if lesson is not None:
        backbone.format = replace(form, names=tuple(sorted({*form.names, *lesson.batches.table})))
    return Session(options, kind, backbone, adapted, mixture, validation, bf16, lesson)


def lesson_of(options: argparse.Namespace, kind: str, backbone: Backbone, bf16: bool) -> CellLesson:
    """What --cells asks for. DataError if the model has no tower that could learn it."""
    from t4s import cell_lesson
    from t4s.errors import DataError

    if kind != "embedded":
        raise DataError("--cells teaches the embedded model's tower, and this training has another model or leaves the "
                        "tower as it is; leave it out, or train t4s-tiny or a fresh model in full.")  # fmt: skip
    corpus, rank = cell_lesson.labelled(options.cells), int(os.environ.get("RANK", 0))
    return cell_lesson.CellLesson(backbone, corpus, options.seed, bf16, rank)


def freeze(backbone: Backbone, stages: int | bool) -> None:
    """Leave the vision tower as it is; of the embedded one, the body, or its first `stages`, where that is no bool."""
    from t4s.errors import DataError

    tower = backbone.model.get_encoder("image")
    if stages is True:
        tower.freeze() if backbone.format.positions == "cells" else tower.requires_grad_(False)
    elif backbone.format.positions != "cells":
        raise DataError(f"--freeze-tower {stages} counts stages of the embedded model's tower, and this base has "
                        "another; leave the number out to freeze all of it.")  # fmt: skip
    elif not 1 <= stages <= len(tower.stages):
        raise DataError(f"--freeze-tower is {stages}; the body has stages 1 to {len(tower.stages)}, and without a "
                        "number all of them are meant.")  # fmt: skip
    else:
        tower.freeze(stages)


def mixed(options: argparse.Namespace) -> bool:
    """Whether to compute in bfloat16."""
    import torch

    on_gpu = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
    return options.precision == "bf16" or (options.precision == "auto" and on_gpu)


def starting_point(options: argparse.Namespace, mixture: Mixture, bf16: bool) -> Backbone:
    import torch

    from t4s import recipe, starting

    grid = tuple(options.grid) if options.grid else None
    if not options.base:
        names = {name for corpus in mixture.corpora for name in getattr(corpus, "names", ())}
        return starting.fresh(names, grid or (16, 16), options.width, options.layers, options.seed, options.tower,
                              options.image_size)  # fmt: skip
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if bf16 and device != "cpu" and not recipe.in_full(options) else torch.float32
    return starting.base(options.base, options.base_revision, grid, options.image_size, dtype, device,
                         options.quantize, options.base_id)  # fmt: skip


def restore(backbone: Backbone, state: Path) -> None:
    """Put a state's weights into the model. Trainer alone would not: models whose saved names differ from
    their own (LLaVA's do) are resumed with their starting weights and a warning."""
    from transformers import AutoModelForImageTextToText

    backbone.model = AutoModelForImageTextToText.from_pretrained(state)


def learner_of(session: Session):
    """The Trainer, with the session watching it."""
    import torch
    from transformers import TrainingArguments

    from t4s import learning
    from t4s.collate import Collator

    options, model = session.options, session.trained
    settings = TrainingArguments(
        output_dir=str(options.out / "state"), max_steps=options.steps, per_device_train_batch_size=options.batch,
        gradient_accumulation_steps=options.accumulate, learning_rate=options.lr, lr_scheduler_type="cosine",
        warmup_steps=int(options.warmup * options.steps), logging_steps=max(1, min(LOGGED, options.steps // 10)),
        save_steps=options.save_steps, save_total_limit=1, seed=options.seed, bf16=session.bf16,
        report_to=options.report_to, run_name=options.out.resolve().name, remove_unused_columns=False,
        max_grad_norm=learning.GRADIENT_NORM, use_cpu=not torch.cuda.is_available(),
        activation_checkpointing=options.gradient_checkpointing, dataloader_num_workers=options.workers,
        activation_checkpointing_kwargs={"use_reentrant": False} if options.gradient_checkpointing else None,
        fsdp=options.fsdp or None,
    )  # fmt: skip

    def optimizer(model) -> torch.optim.Optimizer:
        tower = None if session.adapted is not None else model.get_encoder("image")
        groups = learning.parameter_groups(model, tower, options.lr, options.tower_lr, options.weight_decay)
        return torch.optim.AdamW(groups, betas=(learning.BETA1, options.beta2))

    batches = Collator(session.backbone, session.mixture, options.queries_per_image, options.seed)
    watch = learning.Watch(session.saved, options.stop_after)
    loss = learning.token_loss(session.backbone, options.full_row)
    session.learner = learning.Learner(session.backbone, model, settings, batches, optimizer, loss, [watch],
                                       session.lesson)  # fmt: skip
    return session.learner


# --- before and after


def preview(session: Session) -> None:
    """--dry-run: the resolved settings, what is trained, and one sample as the model reads it."""
    from t4s import recipe
    from t4s.collate import IGNORE, Collator
    from t4s.render import grid_picture

    options, form, backbone = session.options, session.backbone.format, session.backbone
    weights = list(session.trained.parameters())
    count, learnt = (sum(w.numel() for w in some) for some in (weights, [w for w in weights if w.requires_grad]))
    facts = {
        "corpora": ", ".join(options.corpus), "photos": len(session.mixture), "base": options.base or "fresh",
        "grid": f"{form.grid[0]}×{form.grid[1]}", "image-size": form.image_size, "positions": form.positions,
        "precision": "bf16" if session.bf16 else "fp32", "trained": f"{learnt:,} of {count:,} parameters",
        **recipe.settings(options, session.kind),
    }  # fmt: skip
    for name, value in facts.items():
        print(f"{name:18} {value}")
    batches = Collator(backbone, session.mixture, options.queries_per_image, options.seed)
    row, sample = batches.rows(0)[0], batches.samples(0)[0]
    taught = sum(label != IGNORE for label in row.labels)
    long, every = batches.refused(range(PROBED))
    print(f"{'sample':18} {len(row.ids)} tokens, {taught} of them learnt; {long} of {every} questions drawn are too "
          "long\n")  # fmt: skip
    print(spelled(backbone, row.ids))
    options.out.mkdir(parents=True, exist_ok=True)
    grid_picture(sample.grid(form.grid), sample.image).save(options.out / "sample.png")
    print(f"\n{options.out / 'sample.png'}: its photo and the first answer")


def spelled(backbone: Backbone, ids: Sequence[int]) -> str:
    """Token ids as text, the photo's run of tokens as one word."""
    runs = [(token, len(list(same))) for token, same in groupby(ids)]
    parts = [f"{backbone.piece(token)}{f'×{length}' if token == backbone.image_token else ''}"
             * (1 if token == backbone.image_token else length) for token, length in runs]  # fmt: skip
    return "".join(parts)


def conclude(session: Session, repo_id: str, result: Result | None, seen: str, push: bool) -> None:
    """The card with its picture, and, to `push` it, a checkpoint that others can load."""
    from t4s import publishing, recipe

    options = session.options
    if push and session.adapted is not None and publishing.must_be_merged(session.backbone.format):
        publishing.merge(options.out)
    settings = recipe.settings(options, session.kind)
    publishing.describe(options.out, repo_id, options.corpus, settings, result, seen, session.validation is not None,
                        options.license)  # fmt: skip
    print(f"Saved {options.out}")


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
