"""The refiner in training: network, running average, optimizer, state, loss and validation.

It has a loop of its own and not Trainer's: its batches hold photos of one shape, which is known only when a photo is
decoded, so they are a stream and not numbered draws; and its schedule may follow the clock.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from t4s.models.efficientnet import imagenet_weights
from t4s.refine.edge_net import EdgeNet, load, save
from t4s.training.refiner.batches import coarse_maps
from t4s.training.refiner.corruption import coverage, true_cells
from t4s.training.refiner.samples import RefinerSamples

AVERAGE_DECAY = 0.998  # per step, of the running average of the weights, which is what is saved
ENCODER_LR_SHARE = 0.2  # the encoder's learning rate, relative to the decoder's
WARMUP_STEPS = 100
LAST_LR_SHARE = 0.02  # of the peak
STATE_FILE = "state.pt"


def refiner_loss(logits: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy over the known pixels plus 1 - soft IoU, averaged over masks. All (N, s, t)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    cross_entropy = (cross_entropy * known).sum((1, 2)) / known.sum((1, 2))
    drawn, truth = torch.sigmoid(logits) * known, truth * known
    intersection = (drawn * truth).sum((1, 2))
    union = (drawn + truth).sum((1, 2)) - intersection
    return (cross_entropy + 1 - (intersection + 1) / (union + 1)).mean()


class RefinerTraining:
    """One training of an `EdgeNet`, whose state in `folder` a later run continues from.

    `average`: the network with the running average of the weights. `seconds`: spent in steps, by all runs together.
    """

    def __init__(self, folder: Path, widths: tuple[int, ...], depths: tuple[int, ...], lr: float):
        self.folder, self.lr = folder, lr
        self.net = EdgeNet(widths, depths).to(memory_format=torch.channels_last)
        self.average = EdgeNet(widths, depths).to(memory_format=torch.channels_last)
        encoder = [*self.net.stem.parameters(), *self.net.stages.parameters()]
        of_encoder = {id(weight) for weight in encoder}
        decoder = [weight for weight in self.net.parameters() if id(weight) not in of_encoder]
        groups = [
            {"params": encoder, "lr_share": ENCODER_LR_SHARE},
            {"params": decoder, "lr_share": 1.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=0.01)
        self.step_number, self.seconds = 0, 0.0

    def start(self, weights: Path | None) -> None:
        """Load an ImageNet encoder, or all weights of another training's folder. CheckpointError."""
        if weights is None:
            self.net.load_imagenet(imagenet_weights())
        else:
            self.net.load_state_dict(load(weights).state_dict())
        self.average.load_state_dict(self.net.state_dict())

    def resume(self) -> bool:
        """Load the state of an earlier run; False if there is none."""
        file = self.folder / STATE_FILE
        if not file.is_file():
            return False
        state = torch.load(file, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step_number, self.seconds = state["step"], state["seconds"]
        return True

    def save(self) -> None:
        """Write the averaged network, and the state, which replaces the old one in one move."""
        state = {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step_number,
            "seconds": self.seconds,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / f"{STATE_FILE}.new"
        torch.save(state, new)
        new.replace(self.folder / STATE_FILE)
        save(self.average, self.folder)

    def step(self, stream: Iterator[tuple[Tensor, ...]], progress: float) -> float:
        """One step on the next batch of `batches`, at the learning rate for `progress` in [0, 1] → the loss."""
        started = time.monotonic()
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * group["lr_share"] * self._schedule(progress)
        photo, coarse, truth, known = next(stream)
        loss = refiner_loss(self.net(photo, coarse)[:, 0], truth, known)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        # the average follows fast in the first steps
        decay = min(AVERAGE_DECAY, (self.step_number + 1) / (self.step_number + 10))
        average_into = get_ema_multi_avg_fn(decay)
        average_into(list(self.average.parameters()), list(self.net.parameters()), self.step_number)
        self.step_number += 1
        self.seconds += time.monotonic() - started
        return loss.item()

    def _schedule(self, progress: float) -> float:
        """Share of the peak learning rate: linear warm-up, then a cosine down to LAST_LR_SHARE."""
        warmup = min(1.0, (self.step_number + 1) / WARMUP_STEPS)
        cosine = (1 + math.cos(math.pi * progress)) / 2
        return warmup * (LAST_LR_SHARE + (1 - LAST_LR_SHARE) * cosine)


def validate(net: EdgeNet, samples: RefinerSamples, side: int = 16) -> dict[str, tuple[float, float, int]]:
    """{source: (mean IoU of `smooth`, mean IoU of the network, masks)} in percent, on true grids, at working size."""
    scores: dict[str, list[tuple[float, float]]] = {}
    for sample in filter(None, (samples[i] for i in range(len(samples)))):
        known = sample.unpack(sample.known)
        truths = [sample.unpack(mask) for mask in sample.masks]
        cells = [true_cells(coverage(truth, known, (side, side))) for truth in truths]
        coarse = np.stack([coarse_maps(grid, None, known.shape) for grid in cells])
        photo = torch.from_numpy(sample.photo.transpose(2, 0, 1).astype(np.float32) / 255)[None]
        with torch.no_grad():
            drawn = net(photo, torch.from_numpy(coarse))[:, 0].numpy() > 0
        for truth, smooth, mask in zip(truths, coarse[:, 0] > 0.5, drawn, strict=True):
            ious = (_iou(smooth & known, truth & known), _iou(mask & known, truth & known))
            scores.setdefault(sample.source, []).append(ious)
    return {source: (*(100 * np.mean(ious, 0)).tolist(), len(ious)) for source, ious in scores.items()}


def _iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return float((mask & truth).sum() / (mask | truth).sum())
