"""The refiner `edge`: the small learned network at its working size, mixed with `guided`, enlarged along the edges.

The finer the grid, the less there is to draw and the more the guided filter is worth: it has no share in a square photo
of 16×16 cells, a fourth of 24×24, and 0.43 of 32×32.
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
GUIDED_SIDE = 14  # pixels: the share of `guided` grows from 0, at cells of this side, towards 1, at cells of no size


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
    mixed = drawn.float().numpy()
    share = 1 - float(np.mean(np.divide(size, soft.shape[1:]))) / GUIDED_SIDE
    if share > 0:
        filtered = GuidedPainter(small, fit(small, smooth[1 - len(soft) :], guided.RADIUS, guided.EPS))
        mixed = (1 - share) * mixed + share * maps(filtered, height)[1:]
    return GuidedPainter(photo, fit(small, mixed, RADIUS, EPS))


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
