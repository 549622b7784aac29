"""The model's text to a grid."""

from __future__ import annotations

import numpy as np

from t4s import codec
from t4s.errors import CodecError
from t4s.models.checkpoint import CheckpointConfig


def read(text: str, config: CheckpointConfig) -> tuple[codec.DescriptorGrid, tuple[codec.Fault, ...]]:
    """The model's text → its grid, and what had to be mended. Layouts other than rows are not mended."""
    if config.layout == "rows":
        return codec.repair(text, config.grid)
    try:
        return codec.decode(text, config.grid, config.layout), ()
    except CodecError as error:
        empty = codec.DescriptorGrid(np.zeros(config.grid, int), ("others",))
        return empty, (codec.Fault(error.row or 0, error.column or 0, f"unreadable, nothing kept: {error.reason}"),)
