"""Teach the embedded model's vision tower what is in each cell, before a language model reads it.

    python -m t4s.training.tower --dataset folder:PHOTOS@train --out runs/tower

The ImageNet body and a fresh neck learn to tell, for every cell, how much of it each named class covers: the cell's
features go through the projector and are compared with one learned vector a name; binary cross-entropy, and only
over the names of the photo's own source (a name that a source does not label may be in its photos all the same).
`train.py --tower` takes the tower, the projector, and the names' vectors as the first embeddings of their words: so a
cell that shows a dog looks to the language model like the word "dog" from its first step on. A linear probe on
the same features draws what a language model that has to find this out by itself does not for a long time.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BODY_RATE = 1 / 3  # of the neck's learning rate


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", required=True, help="a folder dataset: folder:PATH[@SPLIT]")
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained tower")
    parser.add_argument("--steps", type=int, default=900)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3, help="of neck and head; the body gets a third of it")
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--width", type=int, default=256, help="channels per cell")
    parser.add_argument("--language-width", type=int, default=256, help="of the language model that will read it")
    parser.add_argument(
        "--freeze",
        type=int,
        default=0,
        metavar="N",
        help="leave the first N of the body's 7 stages as they are: 3 train twice as fast",
    )
    parser.add_argument("--bf16", action="store_true", help="compute in bfloat16: faster where the processor has it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0: all")
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    return parser


class Training:
    """Tower, head, optimizer and schedule, with a state that a later run goes on from."""

    def __init__(self, options: argparse.Namespace, names: list[str]):
        import torch

        from t4s.models.efficientnet import imagenet_weights, load_imagenet
        from t4s.models.tiny.name_head import NameHead
        from t4s.models.tiny.vision_tower import LiteTower, LiteTowerConfig

        torch.manual_seed(options.seed)
        self.folder, self.state_file, self.step = options.out, options.out / "state.pt", 0
        self.device, self.bf16 = torch.device("cuda" if torch.cuda.is_available() else "cpu"), options.bf16
        self.tower = LiteTower(LiteTowerConfig(image_size=options.image_size, hidden_size=options.width))
        load_imagenet(self.tower.stem, self.tower.stages, imagenet_weights())
        self.tower = self.tower.to(self.device, memory_format=torch.channels_last).train()
        if options.freeze:
            self.tower.freeze(options.freeze)
        self.head = NameHead(options.width, options.language_width, names).to(self.device)
        self.typical = torch.zeros(0)
        body = [p for part in (self.tower.stem, self.tower.stages) for p in part.parameters()]
        inside = {id(p) for p in body}
        rest = [p for p in self.tower.parameters() if id(p) not in inside] + list(self.head.parameters())
        groups = [{"params": body, "lr": options.lr * BODY_RATE}, {"params": rest, "lr": options.lr}]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.02)
        rates = [group["lr"] for group in groups]
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, rates, options.steps, pct_start=0.05)

    def learn(self, pixels: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> float:
        """One step; returns the loss, summed over classes and averaged over cells."""
        import torch

        from t4s.training.losses import cell_loss

        pixels, targets, weights = (part.to(self.device) for part in (pixels, targets, weights))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            features = self.tower(pixels).last_hidden_state
        features = features.float()
        loss = cell_loss(self.head(features), targets, weights)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*self.tower.parameters(), *self.head.parameters()], 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step, self.typical = self.step + 1, features.detach().flatten(0, 1)
        return loss.item()

    def save(self) -> None:
        """The tower and what is aligned with it as safetensors, and what `resume` needs, replaced in one move."""
        import torch

        self.folder.mkdir(parents=True, exist_ok=True)
        self.tower.save_pretrained(self.folder)
        self.head.save(self.folder, self.typical)
        parts = ("tower", "head", "optimizer", "schedule")
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in parts}
        torch.save(state | {"step": self.step}, self.state_file.with_suffix(".new"))
        self.state_file.with_suffix(".new").replace(self.state_file)

    def resume(self) -> None:
        import torch

        if not self.state_file.is_file():
            from t4s.errors import DataError

            raise DataError(f"{self.state_file} is not there, so there is nothing to resume: leave --resume out.")
        state = torch.load(self.state_file, map_location="cpu", weights_only=True)
        for name in ("tower", "head", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(state[name])
        self.step = state["step"]


def main(argv: list[str] | None = None) -> None:
    options = arguments().parse_args(argv)
    import torch
    from tqdm import tqdm

    from t4s.models.tiny.vision_tower import LiteTowerConfig
    from t4s.training.losses import CellBatches, labelled

    if options.threads:
        torch.set_num_threads(options.threads)
    dataset = labelled(options.dataset)
    grid = LiteTowerConfig().grid
    batches = CellBatches(dataset, options.batch, options.image_size, grid, options.seed)
    training = Training(options, dataset.names)
    if options.resume:
        training.resume()
    started, running = time.time(), None
    for step in (bar := tqdm(range(training.step, options.steps), initial=training.step, total=options.steps)):
        loss = training.learn(*batches(step))
        running = loss if running is None else 0.98 * running + 0.02 * loss
        bar.set_postfix(loss=f"{running:.4f}")
        if training.step % options.save_every == 0 or training.step == options.steps:
            training.save()
    print(f"{options.out}: step {training.step}, {(time.time() - started) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
