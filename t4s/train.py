"""Teach an image-text-to-text model to write masks as text.

The embedded checkpoint, from its trained tower:

    python t4s/train.py --corpus folder:PHOTOS --corpus synthetic --tower runs/tower --out runs/tiny

Without --base a fresh model of the embedded architecture is trained in full.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

FULL_ROW = 0.2  # weight of a run as wide as the grid in the loss of the embedded model
EVAL_QUERIES = 64  # phrases of --validate that are answered at each evaluation


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", action="append", required=True, metavar="NAME[:PATH][@SPLIT][*WEIGHT]",
                        help="what to train on; repeatable")  # fmt: skip
    parser.add_argument("--validate", metavar="NAME[:PATH][@SPLIT]", help="photos to answer at every --save-steps")
    parser.add_argument("--base", type=Path, help="a checkpoint folder to go on from; none: a fresh embedded model")
    parser.add_argument("--tower", type=Path, help="a tower trained by train_tower.py, for a fresh model")
    parser.add_argument("--freeze-tower", action="store_true", help="train the projector and the language model alone")
    parser.add_argument("--out", type=Path, required=True, help="folder for the checkpoint")
    parser.add_argument("--grid", type=int, nargs=2, default=(16, 16), metavar=("ROWS", "COLUMNS"))
    parser.add_argument("--width", type=int, default=256, help="of a fresh language model")
    parser.add_argument("--layers", type=int, default=5, help="of a fresh language model")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=8, help="photos a step and process")
    parser.add_argument("--queries-per-image", type=int, default=6, help="phrases of a photo in one sample")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--tower-lr", type=float, default=1e-4)
    parser.add_argument("--warmup", type=float, default=0.03, help="share of the steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-steps", type=int, default=250)
    parser.add_argument("--stop-after", type=int, help="end after this many steps; --resume goes on from there")
    parser.add_argument("--resume", action="store_true", help="go on from the last state in --out")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0: as torch chooses")
    return parser


def fresh(options: argparse.Namespace, mixture):
    """A new model of the embedded architecture with a tokenizer for the corpora's names."""
    import torch

    from t4s import tiny
    from t4s.backbone import Backbone, Format

    names = {name for corpus in mixture.corpora for name in getattr(corpus, "names", ())}
    torch.manual_seed(options.seed)
    grid = tuple(options.grid)
    processor = tiny.processor(names, grid)
    model = tiny.model(processor, grid, width=options.width, layers=options.layers, heads=options.width // 32)
    if options.tower:
        tiny.load_tower(model, options.tower)
    form = Format(grid=grid, image_size=grid[0] * tiny.PATCH, question=tiny.QUESTION,
                  class_question=tiny.CLASS_QUESTION,
                  answer=tiny.ANSWER, positions="cells")  # fmt: skip
    return Backbone(model, processor, form)


def balanced_loss(backbone):
    """Cross-entropy in which ending a row with a full-width run counts `FULL_ROW`.

    Where a model is unsure, the place of an object's edge is spread over many counts and its absence is a single one:
    a greedy choice would call absent what is probably there.
    """
    import torch

    width = backbone.format.grid[1]
    full_row = backbone.text_ids(f"others *{width}\n")[-1]

    def loss(outputs, labels, num_items_in_batch=None):
        logits, targets = outputs.logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten()
        learnt = targets != -100
        losses = torch.nn.functional.cross_entropy(logits[learnt], targets[learnt], reduction="none")
        losses = torch.where(targets[learnt] == full_row, losses * FULL_ROW, losses)
        return losses.sum() / (learnt.sum() if num_items_in_batch is None else num_items_in_batch)

    return loss


def restore(backbone, states: Path) -> None:
    """Put the last state's weights into the model. Trainer alone would not: models whose saved names differ from
    their own (LLaVA's do) are resumed with their starting weights and a warning."""
    from transformers import AutoModelForImageTextToText
    from transformers.trainer_utils import get_last_checkpoint

    from t4s.errors import DataError

    last = get_last_checkpoint(str(states)) if states.is_dir() else None
    if last is None:
        raise DataError(f"{states} holds no state to resume: leave --resume out.")
    backbone.model = AutoModelForImageTextToText.from_pretrained(last)


def save(backbone, folder: Path) -> None:
    """A checkpoint folder: weights (fp16 safetensors), processor, t4s.json."""
    import copy

    folder.mkdir(parents=True, exist_ok=True)
    copy.deepcopy(backbone.model).half().save_pretrained(folder)
    backbone.processor.save_pretrained(folder)
    backbone.format.write(folder)


def main(argv: list[str] | None = None) -> None:
    options = arguments().parse_args(argv)
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from t4s import backbone as backbones
    from t4s.collate import Collator
    from t4s.corpora import Mixture, open_corpus

    if options.threads:
        torch.set_num_threads(options.threads)
    mixture = Mixture.open(options.corpus)
    backbone = backbones.load(options.base) if options.base else fresh(options, mixture)
    if options.resume:
        restore(backbone, options.out / "state")
    model = backbone.model.float().requires_grad_(True)
    tower = model.model.vision_tower
    if options.freeze_tower:
        tower.requires_grad_(False)
    groups = parameter_groups(model, tower, options)
    settings = TrainingArguments(
        output_dir=str(options.out / "state"), max_steps=options.steps, per_device_train_batch_size=options.batch,
        learning_rate=options.lr, lr_scheduler_type="cosine", warmup_steps=int(options.warmup * options.steps),
        logging_steps=20, save_steps=options.save_steps, save_total_limit=1, seed=options.seed, report_to="none",
        remove_unused_columns=False, max_grad_norm=1.0, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip

    class Watch(TrainerCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == options.stop_after:
                control.should_save = control.should_training_stop = True

        def on_save(self, args, state, control, **_):
            save(backbone, options.out)
            if options.validate:
                model.eval()
                print(
                    f"step {state.global_step}: {validate(backbone, open_corpus(options.validate, 'val'))}", flush=True
                )
                model.train()

    trainer = Trainer(
        model, settings, train_dataset=range(options.steps * options.batch),
        data_collator=Collator(backbone, mixture, options.queries_per_image, options.seed),
        compute_loss_func=balanced_loss(backbone) if backbone.format.positions == "cells" else None,
        optimizers=(torch.optim.AdamW(groups, betas=(0.9, 0.98)), None), callbacks=[Watch()],
    )  # fmt: skip
    trainer.train(resume_from_checkpoint=options.resume)
    save(backbone, options.out)
    print(f"Saved {options.out}")


def parameter_groups(model, tower, options: argparse.Namespace) -> list[dict]:
    """The tower learns at its own rate; norms, biases and embeddings are not decayed."""
    inside = {id(p) for p in tower.parameters()}
    groups = []
    for lr, members in ((options.tower_lr, True), (options.lr, False)):
        for decayed in (True, False):
            chosen = [p for p in model.parameters() if p.requires_grad and (id(p) in inside) == members
                      and (p.ndim >= 2) == decayed]  # fmt: skip
            if chosen:
                groups.append({"params": chosen, "lr": lr, "weight_decay": 0.05 if decayed else 0.0})
    return groups


def validate(backbone, corpus) -> dict[str, float]:
    """cIoU and mean IoU of the grids of the first EVAL_QUERIES present phrases, and N-acc, answered freely."""
    import numpy as np

    from t4s.segmenter import Segmenter

    segmenter = Segmenter(backbone)
    inter = union = absent = right = 0
    ious: list[float] = []
    order = np.random.default_rng(0).permutation(len(corpus))
    for index in order:
        samples = corpus[int(index)]
        encoded = segmenter.encode(samples[0].image)
        for sample in samples:
            truth = sample.grid(backbone.format.grid).ids > 0
            if not truth.any():
                absent += 1
            elif truth.mean() < 0.02:
                continue
            answer = segmenter(encoded, sample.query, refine="none", decoding="free").grid.ids > 0
            if not truth.any():
                right += not answer.any()
                continue
            inter, union = inter + (answer & truth).sum(), union + (answer | truth).sum()
            ious.append((answer & truth).sum() / (answer | truth).sum())
        if len(ious) >= EVAL_QUERIES:
            break
    return {"cIoU": round(float(inter / union), 3), "mIoU": round(float(np.mean(ious)), 3),
            "N-acc": round(right / max(absent, 1), 3), "n": len(ious), "absent": absent}  # fmt: skip


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    main()
