"""The refiner `crf`: a fully connected CRF (Krähenbühl and Koltun, NIPS 2011), the paper's other refiner.

Needs the optional package pydensecrf2. The parameters were chosen on validation photos; the paper's own lose more than
they gain on a 16×16 grid.
"""

from __future__ import annotations

import numpy as np
import torch

from t4s.errors import CheckpointError
from t4s.refine.guided import WORKING_SIDE, enlarge, shrink
from t4s.refine.interpolate import Painter, bicubic, maps

STEPS = 5  # of mean-field inference
TRUST = 0.8  # weight of the grid's shares against a uniform distribution over the labels
GAUSSIAN, BILATERAL = {"sxy": 2, "compat": 2}, {"sxy": 12, "srgb": 7, "compat": 4}


def check_package() -> None:
    """Raises CheckpointError if the package is missing."""
    try:
        import pydensecrf.densecrf  # noqa: F401
    except ImportError as error:
        raise CheckpointError(
            "The refiner 'crf' needs the package pydensecrf2, which is not installed: pip install pydensecrf2 (it "
            "needs a C++ compiler), or use 'edge'."
        ) from error


def paint_crf(photo: np.ndarray, soft: np.ndarray) -> Painter:
    """The CRF over `soft` (L, H, W), interpolated, at the working size. CheckpointError if the package is missing."""
    check_package()
    from pydensecrf.densecrf import DenseCRF2D

    small = np.array(shrink(photo, WORKING_SIDE), order="C")  # a copy: the package refuses read-only pixels
    height, width = small.shape[:2]
    shares = TRUST * maps(bicubic(soft, (height, width)), height) + (1 - TRUST) / len(soft)
    field = DenseCRF2D(width, height, len(soft))
    field.setUnaryEnergy(np.ascontiguousarray(-np.log(shares.clip(1e-6, 1)).reshape(len(soft), -1), np.float32))
    field.addPairwiseGaussian(**GAUSSIAN)
    field.addPairwiseBilateral(rgbim=small, **BILATERAL)
    marginals = torch.from_numpy(np.array(field.inference(STEPS), np.float32).reshape(len(soft), height, width))
    return lambda y0, y1: enlarge(marginals, y0, y1, photo.shape[:2]).numpy()
