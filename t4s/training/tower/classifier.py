"""The vision tower as a classifier of cells: which classes does each cell of a photo show?

Each cell's features go through a projector and are compared with one learned vector per class. The loss is binary
cross-entropy over the classes that the photo's own source labels: others may be in the photo all the same.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from t4s.models.efficientnet import imagenet_weights, load_imagenet
from t4s.models.tiny.name_head import NameHead
from t4s.models.tiny.vision_tower import LiteTower, LiteTowerConfig
from t4s.training.losses import cell_loss

BODY_LR_SHARE = 1 / 3  # the body's learning rate, relative to that of neck and head
WEIGHT_DECAY = 0.02


class CellClassifier(nn.Module):
    """A `LiteTower` with an ImageNet body and a fresh neck, and a `NameHead` with one vector per class name.

    image_size: pixels; width: channels per cell; language_width: of the language model that will read the tower;
    frozen: how many of the body's stages stay as they are.
    """

    def __init__(self, names: list[str], image_size: int, width: int, language_width: int, body: str, frozen: int):
        super().__init__()
        self.tower = LiteTower(LiteTowerConfig(image_size=image_size, hidden_size=width, body=body))
        load_imagenet(self.tower.stem, self.tower.stages, imagenet_weights(body))
        if frozen:
            self.tower.freeze(frozen)
        self.head = NameHead(width, language_width, names)
        self.last_features = torch.zeros(0)  # of the last batch: (cells, width)

    def forward(self, pixels: Tensor, targets: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """A batch of `losses.CellBatches` → {"loss": summed over classes, averaged over cells}."""
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        features = self.tower(pixels).last_hidden_state.float()  # (B, cells, width)
        self.last_features = features.detach().flatten(0, 1)
        return {"loss": cell_loss(self.head(features), targets, weights)}

    def make_optimizer(self, lr: float) -> torch.optim.Optimizer:
        """AdamW; the body's learning rate is BODY_LR_SHARE of `lr`."""
        body = [*self.tower.stem.parameters(), *self.tower.stages.parameters()]
        of_body = {id(weight) for weight in body}
        others = [weight for weight in self.parameters() if id(weight) not in of_body]
        groups = [{"params": body, "lr": lr * BODY_LR_SHARE}, {"params": others, "lr": lr}]
        return torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)

    def save(self, folder: Path) -> None:
        """Write what `train.py --tower` takes: the tower, the projector and the class vectors, as safetensors."""
        self.tower.save_pretrained(folder)
        self.head.save(folder, self.last_features)
