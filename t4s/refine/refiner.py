"""The refiners: a coarse grid and its photo → masks at the photo's size.

    masks = refine("edge", photo, grid, confidence)         # {label: (h, w) bool}, "others" left out

Every refiner is a plain function of `photo` (h, w, 3) uint8 and `soft` (L, H, W) float32, one map a label,
[0] for "others", summing to 1 over L; it gives soft masks (L, h, w) float32 in [0, 1]. Pixels go to the label
with the highest value (the earlier one in a tie), so masks have no gaps and no overlaps.

    none     nearest cell                                                                   numpy
    smooth   bicubic interpolation                                                          numpy
    guided   guided filter: `smooth` made to follow the photo                               torch, working size 256
    crf      dense CRF, the paper's other refiner; needs the package pydensecrf2            working size 256
    edge     the small learned network of `edge.py` (default)                               torch, working size 256
    sam      SAM, SAM-HQ or SAM 2 through transformers (`sam.py`); "sam:SOURCE" names a Hub id or folder

Time is that of the working size plus some 10 to 40 ns for each pixel of the photo and label; `bench refine`
measures it. Pixels are painted a band of rows at a time, so memory is bounded by the masks themselves. Any sizes
go together: a photo smaller than its grid, a single pixel, 10,000×3.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from t4s.codec import DescriptorGrid, Fault, mask_from_grid
from t4s.errors import CheckpointError, ImageError, QueryError
from t4s.refine.interpolate import Painter, bicubic, cells_of, nearest

NAMES = ("none", "smooth", "guided", "crf", "edge", "sam")
DEFAULT = "edge"
BAND = 2_000_000  # values painted at once: 8 MB a map
WORKING_SIDE = 256  # pixels of the longer side that guided and crf look at
GUIDED_RADIUS, GUIDED_EPS = 4, 1e-2
CRF_STEPS, CRF_TRUST = 5, 0.8  # mean-field steps; how far the grid's shares are believed
CRF_PLACE, CRF_COLOUR = {"sxy": 2, "compat": 2}, {"sxy": 12, "srgb": 7, "compat": 4}
EDGE_RADIUS, EDGE_EPS = 2, 1e-4
EDGE_BATCH = 8  # labels drawn at once
EDGE_GUIDED, EDGE_GUIDED_MOST = 3.5, 0.7  # share of `guided` in `edge`: pixels over a cell's side; at most
AGREEMENT = 0.5  # a mask whose IoU with its own cells is below this is reported


def refine(
    name: str, photo: np.ndarray, grid: DescriptorGrid, confidence: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The mask of every label that has a cell, "others" left out, at the photo's size: {label: (h, w) bool}.

    `photo` (h, w, 3) uint8; `confidence` (H, W) in [0, 1], how sure the model is of each cell's label, or None.
    No pixel belongs to two masks; where the grid has no "others", every pixel belongs to one. If the photo is at
    least as large as the grid, no mask is empty: a label that lost all its pixels gets its best cell back.
    Raises QueryError (unknown refiner, confidence of another shape), ImageError, CheckpointError (missing package
    or model).
    """
    paint_with = _painter(name)
    photo = _checked(photo)
    soft, labels = soft_grid(grid, confidence)
    cells = _cell_ids(grid, labels)
    owners = np.unique(cells)
    if not owners.any():
        return {}
    paint, winner = paint_with(photo, soft), np.empty(photo.shape[:2], np.int16)
    for y0, y1 in _bands(photo.shape[1], len(labels), 0, photo.shape[0]):
        winner[y0:y1] = owners[_highest(paint(y0, y1)[owners])]
    if all(pixels >= side for pixels, side in zip(winner.shape, grid.shape, strict=True)):
        _give_back(winner, cells, paint)
    return {labels[index]: winner == index for index in owners if index}


def check_refiner(name: str) -> None:
    """Raises QueryError if there is no such refiner, before anything expensive runs."""
    _painter(name)


def disagreements(grid: DescriptorGrid, masks: dict[str, np.ndarray], bound: float = AGREEMENT) -> tuple[Fault, ...]:
    """One Fault, at the label's first cell, for each mask (h, w) bool whose IoU with its own cells is below `bound`.

    The masks stay as they are: this tells the user that the refiner saw something else than the model wrote.
    """
    faults = []
    for label, mask in masks.items():
        cells = mask_from_grid(grid, label, mask.shape)
        union = int((cells | mask).sum())
        shared = int((cells & mask).sum()) / union if union else 1.0
        if shared < bound:
            row, column = (int(i) for i in np.argwhere(grid.label_mask(label))[0])
            faults.append(
                Fault(
                    row,
                    column,
                    f"the refined mask of {label!r} shares only {shared:.0%} with its cells "
                    f"(IoU; below {bound:.0%} it is reported, and kept)",
                )
            )
    return tuple(faults)


def disagreement_faults(refiner: str, grid: DescriptorGrid, masks: dict[str, np.ndarray]) -> tuple[Fault, ...]:
    """Where a refiner of its own mind disagrees with the grid."""
    return disagreements(grid, masks) if refiner.partition(":")[0] == "sam" else ()


def soft_grid(grid: DescriptorGrid, confidence: np.ndarray | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(L, H, W) float32 maps that sum to 1 over L, and their labels: "others", then each label that has a cell.

    Without confidence a cell belongs to its label alone. With confidence c its own label has (1 + c) / 2 and so
    stays on top; the rest goes to the other labels among its eight neighbours, each by its number of cells there.
    """
    present = [0, *(int(i) for i in np.unique(grid.ids) if i)]
    labels = tuple(grid.labels[i] for i in present)
    hard = (grid.ids == np.array(present)[:, None, None]).astype(np.float32)
    if confidence is None:
        return hard, labels
    sure = np.asarray(confidence, np.float32)
    if sure.shape != grid.shape or not ((sure >= 0) & (sure <= 1)).all():
        raise QueryError(
            f"A confidence is one number from 0 to 1 for each cell of the {grid.shape} grid; this one is "
            f"{sure.shape} or leaves that range."
        )
    padded = np.pad(hard, ((0, 0), (1, 1), (1, 1)))
    rows, columns = grid.shape
    around = sum(padded[:, y : y + rows, x : x + columns] for y in range(3) for x in range(3)) * (1 - hard)
    total = around.sum(0)
    share = np.divide(around, total, out=np.zeros_like(around), where=total > 0)
    share[0] += (total == 0) * (1 - hard[0])  # nothing else near: the doubt is whether there is anything at all
    share += (share.sum(0) == 0) * hard  # "others" amid "others"
    return (hard * (1 + sure) / 2 + share * (1 - sure) / 2).astype(np.float32), labels


def none(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """(L, h, w): each pixel takes its cell; a centre on the line between two cells takes the mean of both."""
    return _whole(paint_none(photo, soft), photo)


def smooth(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """(L, h, w): bicubic interpolation between the centres of cells."""
    return _whole(paint_smooth(photo, soft), photo)


def guided(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """(L, h, w): the guided filter over `smooth`, fitted at the working size and painted at the photo's."""
    return _whole(paint_guided(photo, soft), photo)


def crf(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """(L, h, w): a fully connected CRF (Krähenbühl and Koltun, NIPS 2011) over `smooth`, at the working size.

    Its parameters were chosen on validation photos. Raises CheckpointError if pydensecrf2 is not installed.
    """
    return _whole(paint_crf(photo, soft), photo)


def edge(photo: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """(L, h, w): the learned refiner at its working size, mixed with `guided` and enlarged along the photo's edges.

    The finer the grid, the less there is to draw and the more the guided filter is worth: its share is 3.5 pixels over
    a cell's side, 0.2 at 16 cells and 0.4 at 32.
    """
    return _whole(paint_edge(photo, soft), photo)


def sam(photo: np.ndarray, soft: np.ndarray, source: str = "") -> np.ndarray:
    """(L, h, w): `sam.py` with the model `source` (a Hub id or folder; "" is its default). Raises CheckpointError."""
    return _whole(paint_sam(photo, soft, source), photo)


def paint_none(photo: np.ndarray, soft: np.ndarray) -> Painter:
    return nearest(soft, photo.shape[:2])


def paint_smooth(photo: np.ndarray, soft: np.ndarray) -> Painter:
    return bicubic(soft, photo.shape[:2])


def paint_guided(photo: np.ndarray, soft: np.ndarray) -> Painter:
    from t4s.refine.guided import fit, painter, shrink

    small = shrink(photo, WORKING_SIDE)
    return painter(photo, fit(small, smooth(small, soft)[1:], GUIDED_RADIUS, GUIDED_EPS))


def paint_crf(photo: np.ndarray, soft: np.ndarray) -> Painter:
    try:
        from pydensecrf.densecrf import DenseCRF2D
    except ImportError as error:
        raise CheckpointError(
            "The refiner 'crf' needs the package pydensecrf2, which is not installed: pip install pydensecrf2 (it "
            "needs a C++ compiler), or use 'edge'."
        ) from error
    import torch

    from t4s.refine.guided import enlarge, shrink

    small = np.array(shrink(photo, WORKING_SIDE), order="C")  # a copy: the package refuses read-only pixels
    shares = CRF_TRUST * smooth(small, soft) + (1 - CRF_TRUST) / len(soft)
    field = DenseCRF2D(small.shape[1], small.shape[0], len(soft))
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(shares.clip(1e-6, 1)).reshape(len(soft), -1), np.float32))
    field.addPairwiseGaussian(**CRF_PLACE)
    field.addPairwiseBilateral(rgbim=small, **CRF_COLOUR)
    found = torch.from_numpy(np.array(field.inference(CRF_STEPS), np.float32).reshape(len(soft), *small.shape[:2]))
    return lambda y0, y1: enlarge(found, y0, y1, photo.shape[:2]).numpy()


def paint_edge(photo: np.ndarray, soft: np.ndarray) -> Painter:
    import torch

    from t4s.refine import edge_net as network
    from t4s.refine.guided import fit, painter, resized

    small = resized(photo, network.SIDE, network.STRIDE)
    asked = soft if len(soft) > 2 else soft[1:]  # with one label, "others" is what it leaves
    coarse = torch.from_numpy(np.stack([smooth(small, asked), none(small, asked)], 1))
    with torch.inference_mode():
        net, seen, parts = _edge_network(), _edge_seen(small.tobytes(), small.shape), []
        for part in coarse.split(EDGE_BATCH):
            here, there = net.draw(seen, torch.cat([part, part.flip(3)])).chunk(2)
            parts.append(((here + there.flip(3)) / 2)[:, 0].sigmoid())
        drawn = torch.cat(parts)
    if len(soft) > 2:
        drawn = (drawn / drawn.sum(0).clamp(min=1e-6))[1:]
    cell = float(np.mean(np.divide(small.shape[:2], soft.shape[1:])))
    share = min(EDGE_GUIDED / cell, EDGE_GUIDED_MOST)
    mixed = (1 - share) * drawn.float().numpy() + share * guided(small, soft)[1:]
    return painter(photo, fit(small, mixed.astype(np.float32), EDGE_RADIUS, EDGE_EPS))


@lru_cache(maxsize=1)
def _edge_network():
    from t4s.refine import edge_net as network

    return network.load()


@lru_cache(maxsize=1)
def _edge_seen(pixels: bytes, shape: tuple[int, int, int]):
    """What the network sees in a photo (h, w, 3) uint8, and in its mirror image: the mean of both obeys mirrors.

    Kept for the last photo: it takes half of the time, and phrases are mostly asked of one photo after the other.
    """
    import torch

    photo = np.frombuffer(pixels, np.uint8).reshape(shape).transpose(2, 0, 1)
    scaled = torch.from_numpy(photo.astype(np.float32) / 255)
    with torch.inference_mode():
        return _edge_network().look(torch.stack([scaled, scaled.flip(2)]))


def paint_sam(photo: np.ndarray, soft: np.ndarray, source: str = "") -> Painter:
    from t4s.refine import sam as prompted

    return prompted.paint(photo, soft, source or prompted.DEFAULT_SAM)


def _painter(name: str):
    """The function of photo and soft grid that `name` stands for."""
    painters = {
        "none": paint_none,
        "smooth": paint_smooth,
        "guided": paint_guided,
        "crf": paint_crf,
        "edge": paint_edge,
        "sam": paint_sam,
    }
    if name in painters:
        return painters[name]
    kind, _, source = name.partition(":")
    if kind == "sam" and source:
        return lambda photo, soft: paint_sam(photo, soft, source)
    raise QueryError(
        f"There is no refiner {name!r}; the refiners are {', '.join(NAMES)} and sam:SOURCE, where SOURCE "
        "is a Hub id or folder."
    )


def _checked(photo: np.ndarray) -> np.ndarray:
    photo = np.asarray(photo)
    if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
        raise ImageError(
            f"A photo to refine on is (h, w, 3) uint8 with at least one pixel, not {photo.shape} "
            f"{photo.dtype}; open it with t4s.imaging.loading.open_photo."
        )
    return photo


def _whole(paint: Painter, photo: np.ndarray) -> np.ndarray:
    return paint(0, photo.shape[0])


def _highest(maps: np.ndarray) -> np.ndarray:
    """(L, h, w) → (h, w) int16: the map with the highest value, the first in a tie (faster than argmax over axis 0)."""
    winner, best = np.zeros(maps.shape[1:], np.int16), maps[0].copy()
    for index, values in enumerate(maps[1:], 1):
        np.copyto(winner, index, where=values > best)
        np.maximum(best, values, out=best)
    return winner


def _bands(width: int, labels: int, start: int, end: int) -> list[tuple[int, int]]:
    """Rows start to end in bands of at most `BAND` values (or of one row)."""
    step = max(1, BAND // (width * labels))
    return [(y, min(y + step, end)) for y in range(start, end, step)]


def _cell_ids(grid: DescriptorGrid, labels: tuple[str, ...]) -> np.ndarray:
    """(H, W): the grid with its labels numbered as in `labels`."""
    numbers = {label: index for index, label in enumerate(labels)}
    return np.array([numbers.get(label, 0) for label in grid.labels])[grid.ids]


def _give_back(winner: np.ndarray, cells: np.ndarray, paint: Painter) -> None:
    """Give every label without a pixel its best cell, in place: where its soft mask is highest in its own cells.

    Cells that tie are all given back, so that mirroring changes nothing. Giving one back may take another label's
    last pixels, so it goes on until nobody is empty; a cell that was given back is never taken again.
    """
    (top, bottom), (left, right) = (cells_of(n, side) for n, side in zip(winner.shape, cells.shape, strict=True))
    inside = (top == bottom)[:, None] & (left == right)
    wanted, home = set(np.unique(cells).tolist()), None
    while empty := wanted - set(np.flatnonzero(np.bincount(winner.ravel())).tolist()):
        home = np.where(inside, cells[top][:, left], -1) if home is None else home
        label = min(empty)
        where = home == label
        rows = np.flatnonzero(where.any(1))
        peaks = np.full(cells.shape, -np.inf, np.float32)
        for y0, y1 in _bands(winner.shape[1], len(wanted) + 1, rows[0], rows[-1] + 1):
            y, x = np.nonzero(where[y0:y1])
            np.maximum.at(peaks, (top[y0 + y], left[x]), paint(y0, y1)[label, y, x])
        best = (peaks == peaks.max()) & (cells == label)
        winner[inside & best[top][:, left]] = label
