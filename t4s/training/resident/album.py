"""The photos of a run on the device, as bytes, and what can be asked about them in memory.

album = Album.open(mixture, side=384, device=device, workers=8)      # None, and why, if they do not fit
album.photos, album.sizes                                            # on the device, for `rendering.render`
album.labels[k][i]                                                   # of photo i of data set k, for `ask`
"""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from t4s.data.augment.draws import PhotoDataset
from t4s.data.spec import Mixture
from t4s.errors import T4SError
from t4s.training.trainer import last_line

PHOTO_SCALE = 1.5  # side of a kept photo, relative to the pictures made from it: crops keep 0.63 of a side and more
DEVICE_SHARE = 0.5  # of the device's free memory that photos may take; the rest is for training
HOST_SHARE = 0.5  # of the free main memory that labels may take
PROBES = 32  # photos whose labels are measured before all are read
READ_AT_ONCE = 32  # photos that a process reads before it hands them over


@dataclass(frozen=True, eq=False)
class Album:
    """N photos of several data sets.

    photos (N, 3, M, M) uint8 on the device, each in the upper left corner; sizes (N, 2) float32 on the device, heights
    and widths; first: number of each data set's photo 0; labels: by data set and photo, what `ask` needs.
    """

    photos: Tensor
    sizes: Tensor
    first: tuple[int, ...]
    labels: tuple[list[Any], ...]

    @classmethod
    def open(
        cls, mixture: Mixture, side: int, device: torch.device, workers: int, limit: int | None = None
    ) -> tuple[Album | None, str]:
        """The album of a mixture's photos, of at most `side` pixels a side, and a sentence that says how large it is or
        why there is none. limit: bytes that photos may take on the device (default: of what is free there). DataError.
        """
        others = [dataset.name for dataset in mixture.datasets if not hasattr(dataset, "ask")]
        if others:
            return None, f"Photos are read anew for every step: {', '.join(others)} cannot be kept in memory."
        count = len(mixture)
        needed = count * 3 * side * side
        limit = free_bytes(device) * DEVICE_SHARE if limit is None else limit
        if needed > limit:
            return None, (
                f"Photos are read anew for every step: {count} of them would take {_amount(needed)} on {device}, "
                f"and {_amount(limit)} are free for them; train on fewer, or with a smaller --image-size."
            )
        datasets: Sequence[Any] = mixture.datasets
        of_labels, host = count * _label_bytes(datasets), _free_host_bytes() * HOST_SHARE
        if of_labels > host:
            return None, (
                f"Photos are read anew for every step: the labels of {count} of them would take "
                f"{_amount(of_labels)} of main memory, and {_amount(host)} are free for them; train on fewer."
            )
        started = time.monotonic()
        try:
            album = cls._read(datasets, side, device, workers)
        except T4SError as error:  # of a process that reads photos, with its whole traceback
            raise type(error)(last_line(error)) from error
        size = f"{count} of them, {_amount(needed)}"
        return album, f"Photos stay on {device}: {size}, read in {time.monotonic() - started:.0f} s."

    @classmethod
    def _read(cls, datasets: Sequence[PhotoDataset], side: int, device: torch.device, workers: int) -> Album:
        places = [(number, index) for number, dataset in enumerate(datasets) for index in range(len(dataset))]
        photos = torch.zeros(len(places), 3, side, side, dtype=torch.uint8, device=device)
        sizes = torch.zeros(len(places), 2)
        labels: tuple[list[Any], ...] = tuple([None] * len(dataset) for dataset in datasets)
        reader = DataLoader(
            places,
            READ_AT_ONCE,
            collate_fn=_Reader(datasets, side),
            num_workers=workers,  # type: ignore[arg-type]
        )
        at = 0
        for read in reader:
            for pixels, known in read:
                height, width = pixels.shape[:2]
                photos[at, :, :height, :width] = torch.from_numpy(pixels).to(device).permute(2, 0, 1)
                sizes[at] = torch.tensor((height, width))
                number, index = places[at]
                labels[number][index] = known
                at += 1
        first = tuple(accumulate((len(dataset) for dataset in datasets[:-1]), initial=0))
        return cls(photos, sizes.to(device), first, labels)


@dataclass(frozen=True)
class _Reader:
    """Places → pixels (h, w, 3) uint8, at most `side` a side, and labels of each photo."""

    datasets: Sequence[PhotoDataset]
    side: int

    def __call__(self, places: Sequence[tuple[int, int]]) -> list[tuple[np.ndarray, Any]]:
        read = []
        for number, index in places:
            photo, known = self.datasets[number].decode(index, complete=True)
            read.append((np.array(smaller(photo, self.side)), known))
        return read


def smaller(photo: Image.Image, side: int) -> Image.Image:
    """The photo, its longer side at most `side` pixels."""
    scale = side / max(photo.size)
    if scale >= 1:
        return photo
    return photo.resize([max(1, round(length * scale)) for length in photo.size], Image.Resampling.BILINEAR)


def _amount(count: float) -> str:
    """Bytes in words."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def free_bytes(device: torch.device) -> int:
    """Free memory of a GPU, or of the machine for any other device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_host_bytes()


def _free_host_bytes() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _label_bytes(datasets: Sequence[PhotoDataset]) -> float:
    """Mean size of a photo's labels, of a few of them."""
    places = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    probes = places[:: max(1, len(places) // PROBES)]
    return float(np.mean([len(pickle.dumps(dataset.decode(index, complete=True)[1])) for dataset, index in probes]))
