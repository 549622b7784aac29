"""The refiner `edge`: the small learned network at its working size, mixed with `guided`, enlarged along the edges.

The finer the grid, the less there is to draw and the more the guided filter is worth: its share is 3.5 pixels over a
cell's side, 0.2 at 16 cells and 0.4 at 32.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from t4s.refine import guided
from t4s.refine.edge_net import SIDE, STRIDE, EdgeNet, load
from t4s.refine.guided import GuidedPainter, fit, resized
from t4s.refine.interpolate import Painter, bicubic, maps, nearest

RADIUS, EPS = 2, 1e-2  # of the guided filter that enlarges the result; a smaller EPS leaves specks along the rim
BATCH = 8  # labels drawn at once
GUIDED_PIXELS, GUIDED_MOST = 3.5, 0.7  # share of `guided`: these pixels over a cell's side; at most


def paint_edge(photo: np.ndarray, soft: np.ndarray) -> Painter:
    """The network's masks for `soft` (L, H, W), mixed with the guided filter's. CheckpointError without its weights."""
    small = resized(photo, SIDE, STRIDE)
    height, size = len(small), small.shape[:2]
    drawn_maps = soft if len(soft) > 2 else soft[1:]  # with one label, "others" is what it leaves
    smooth, flat = (maps(kind(drawn_maps, size), height) for kind in (bicubic, nearest))
    with torch.inference_mode():
        net = _network()
        features = _features(small.tobytes(), small.shape)
        parts = []
        for part in torch.from_numpy(np.stack([smooth, flat], 1)).split(BATCH):
            plain, mirrored = net.draw(features, torch.cat([part, part.flip(3)])).chunk(2)
            parts.append(((plain + mirrored.flip(3)) / 2)[:, 0].sigmoid())
        drawn = torch.cat(parts)
    if len(soft) > 2:
        drawn = (drawn / drawn.sum(0).clamp(min=1e-6))[1:]
    cell = float(np.mean(np.divide(size, soft.shape[1:])))
    share = min(GUIDED_PIXELS / cell, GUIDED_MOST)
    filtered = GuidedPainter(small, fit(small, smooth[1 - len(soft) :], guided.RADIUS, guided.EPS))
    mixed = (1 - share) * drawn.float().numpy() + share * maps(filtered, height)[1:]
    return GuidedPainter(photo, fit(small, mixed.astype(np.float32), RADIUS, EPS))


@lru_cache(maxsize=1)
def _network() -> EdgeNet:
    return load()


@lru_cache(maxsize=1)
def _features(pixels: bytes, shape: tuple[int, int, int]) -> list[Tensor]:
    """The network's features of a photo (h, w, 3) uint8 and of its mirror image: their mean obeys mirroring.

    Kept for the last photo: it takes half of the time, and phrases mostly come one after the other about one photo.
    """
    photo = np.frombuffer(pixels, np.uint8).reshape(shape).transpose(2, 0, 1)
    scaled = torch.from_numpy(photo.astype(np.float32) / 255)
    with torch.inference_mode():
        return _network().encode(torch.stack([scaled, scaled.flip(2)]))
