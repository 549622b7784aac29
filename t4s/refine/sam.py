"""The refiner `sam`: SAM, SAM-HQ or SAM 2 through transformers, prompted with the grid.

For each label SAM gets the smoothed grid as mask logits, the box around its cells and up to three points deep inside
(those furthest from a cell that is not the label's: deterministic). Three passes, in which the best candidate's logits
are the next mask prompt; the best candidate is the one that agrees most with the grid (IoU). The last photos'
embeddings are kept, so a second query about the same photo costs only the small decoder.

SAM and SAM-HQ see the photo in the upper left corner of a padded square frame, SAM 2 stretched over the square.
Prompts are placed in the same frame, and only the photo's part of the result is used.
Kirillov et al., arXiv 2304.02643; Ke et al., arXiv 2306.01567; Ravi et al., arXiv 2408.00714.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from t4s.refine.guided import enlarge
from t4s.refine.interpolate import Painter, bicubic
from t4s.refine.sam_model import DEFAULT_SAM, load

PASSES, POINTS = 3, 3
LOGIT = 8.0  # a mask prompt's logit where the grid is certain
PIXEL_MEAN, PIXEL_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of all SAM models
CACHE_BYTES = 64_000_000  # of cached embeddings: some fifteen photos (about 4 MB each)
_cache: OrderedDict[str, dict[str, Any]] = OrderedDict()  # {key: image arguments}, the last used at the end


@dataclass(frozen=True)
class Frame:
    """The part of SAM's square that holds the photo: the upper left `rows`×`columns`, as shares of the side."""

    rows: float
    columns: float

    def part(self, side: int) -> tuple[int, int]:
        """(rows, columns) of the photo in a square map of `side`."""
        return max(1, round(self.rows * side)), max(1, round(self.columns * side))


def paint_sam(photo: np.ndarray, soft: np.ndarray, source: str = DEFAULT_SAM) -> Painter:
    """`photo` (h, w, 3) uint8 and `soft` (L, H, W), [0] for "others" → a painter of (L, rows, w) soft masks.

    Raises CheckpointError if `source` cannot be found or is not a SAM.
    """
    model, kind = load(source)
    height, width = photo.shape[:2]
    longest = max(height, width)
    frame = Frame(1.0, 1.0) if kind.startswith("sam2") else Frame(height / longest, width / longest)
    cells = soft.argmax(0)
    with torch.inference_mode():
        embedding = _embedding(model, kind, photo, frame, source)
        logits = []
        for k in range(1, len(soft)):
            own = cells == k
            if not own.any():  # a label that wins no cell still gets a mask: its highest cells are its cells
                own = soft[k] == soft[k].max()
            logits.append(_segment(model, embedding, frame, soft[k], own))
        frame_logits = torch.cat(logits)  # (L - 1, m, m)
    size = (round(height / frame.rows), round(width / frame.columns))  # of the whole frame, in the photo's pixels

    def paint(y0: int, y1: int) -> np.ndarray:
        targets = enlarge(frame_logits, y0, y1, size)[..., :width].sigmoid()
        soft_masks = torch.cat([1 - targets.amax(0, keepdim=True), targets])
        return (soft_masks / soft_masks.sum(0)).numpy()

    return paint


def points_inside(cells: np.ndarray, count: int = POINTS) -> list[tuple[int, int]]:
    """Up to `count` (row, column) of `cells` (H, W) bool that lie deepest inside; beyond the frame is outside.

    Each point lies outside the largest inscribed circles around those before it. In a tie the first in row order.
    """
    distance = ndimage.distance_transform_edt(np.pad(cells, 1))[1:-1, 1:-1]
    depth = np.rint(distance**2)  # squares of distances between cells are whole numbers
    rows, columns = np.indices(cells.shape)
    points: list[tuple[int, int]] = []
    while len(points) < count and depth.max() > 0:
        row, column = (int(i) for i in np.unravel_index(depth.argmax(), depth.shape))
        points.append((row, column))
        depth[(rows - row) ** 2 + (columns - column) ** 2 <= depth[row, column]] = 0
    return points


def pixel_values(photo: np.ndarray, frame: Frame, side: int) -> Tensor:
    """(1, 3, side, side) float32: the photo in its part of the frame, normalised; zeros elsewhere."""
    rows, columns = frame.part(side)
    small = Image.fromarray(photo).resize((columns, rows), Image.Resampling.BILINEAR)
    pixels = (np.asarray(small, np.float32) / 255 - PIXEL_MEAN) / PIXEL_STD
    square = torch.zeros(1, 3, side, side)
    square[0, :, :rows, :columns] = torch.from_numpy(pixels.transpose(2, 0, 1))
    return square


def mask_prompt(soft: np.ndarray, frame: Frame, side: int) -> Tensor:
    """(1, 1, side, side) float32 logits: `soft` (H, W), smoothed, in the photo's part of the frame; -LOGIT outside."""
    rows, columns = frame.part(side)
    square = torch.full((1, 1, side, side), -LOGIT)
    square[0, 0, :rows, :columns] = torch.from_numpy(LOGIT * (2 * bicubic(soft[None], (rows, columns))(0, rows)[0] - 1))
    return square


def _embedding(model: Any, kind: str, photo: np.ndarray, frame: Frame, source: str) -> dict[str, Any]:
    """The image arguments of the model's forward; those of the last photos are cached."""
    digest = hashlib.blake2b(np.ascontiguousarray(photo).data, digest_size=16).hexdigest()
    key = f"{source} {photo.shape} {digest}"
    if key not in _cache:
        pixels = pixel_values(photo, frame, _side(model)).to(model.device)
        embeddings = model.get_image_embeddings(pixels)
        if kind == "sam_hq":  # its decoder also sees an early layer
            embeddings, intermediate = embeddings
            _cache[key] = {"image_embeddings": embeddings, "intermediate_embeddings": intermediate}
        else:
            _cache[key] = {"image_embeddings": embeddings}
        while len(_cache) > 1 and sum(map(_nbytes, _cache.values())) > CACHE_BYTES:
            _cache.popitem(last=False)
    _cache.move_to_end(key)
    return _cache[key]


def _nbytes(tensors: Any) -> int:
    """Bytes of a tensor, or of all tensors in nested lists and dicts."""
    if isinstance(tensors, Tensor):
        return tensors.nbytes
    return sum(map(_nbytes, tensors.values() if isinstance(tensors, dict) else tensors))


def _segment(model: Any, embedding: dict[str, Any], frame: Frame, soft: np.ndarray, cells: np.ndarray) -> Tensor:
    """(1, m, m) logits of one label over the frame, on the CPU, from its `soft` (H, W) and `cells` (H, W) bool."""
    side, low = _side(model), _mask_side(model)
    unit = np.array([frame.columns, frame.rows]) * side / np.array(cells.shape[::-1])  # one cell, (x, y)
    rows, columns = np.nonzero(cells)
    corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    centres = np.array([(column + 0.5, row + 0.5) for row, column in points_inside(cells)])
    prompt = mask_prompt(soft, frame, low)
    goal = prompt[0, 0] > 0 if (prompt > 0).any() else prompt[0, 0] == prompt.max()

    def tensor(values: np.ndarray, *shape: int) -> Tensor:
        return torch.tensor(np.asarray(values), dtype=torch.float32, device=model.device).reshape(shape)

    prompts = {
        "input_points": tensor(centres * unit, 1, 1, len(centres), 2),
        "input_labels": torch.ones(1, 1, len(centres), dtype=torch.int64, device=model.device),
        "input_boxes": tensor(np.array(corners) * np.tile(unit, 2), 1, 1, 4),
    }
    for _ in range(PASSES):
        output = model(**embedding, **prompts, input_masks=prompt.to(model.device), multimask_output=True)
        candidates = output.pred_masks.float().cpu().reshape(-1, 1, low, low)
        prompt = candidates[_best(candidates[:, 0], goal, frame)][None]
    return prompt[0]


def _best(candidates: Tensor, goal: Tensor, frame: Frame) -> int:
    """The candidate (of N, m, m) whose mask agrees most with `goal` (m, m) bool within the photo's part."""
    rows, columns = frame.part(goal.shape[0])
    masks = candidates[:, :rows, :columns] > 0
    target = goal[:rows, :columns]
    union = (masks | target).sum((1, 2)).clamp(min=1)
    return int(((masks & target).sum((1, 2)) / union).argmax())


def _side(model: Any) -> int:
    """Pixels per side of the model's input."""
    return int(model.prompt_encoder.input_image_size)


def _mask_side(model: Any) -> int:
    """Values per side of its mask prompts and masks."""
    return 4 * int(model.prompt_encoder.image_embedding_size[0])
