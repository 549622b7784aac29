"""What can I ask? The names that a photo's cells resemble most.

Measured by `python tests/chips.py`, on 150 validation photos, with the embedded checkpoint of 272 names: the first name
is a class that is in the photo in 82.7 %, and one of the first five is in 97.3 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F

SUREST = 8  # cells that are averaged for a name
CONTRAST = 0.5  # how much the average over the photo counts against a name: some names resemble every photo a little


def best_names(metrics: Mapping[str, Any], count: int) -> list[str]:
    """The names that a checkpoint's card says it draws best; [] if it was not measured. `metrics`: of its t4s.json."""
    scores = metrics.get("names") or {}
    return sorted(scores, key=scores.get, reverse=True)[:count]


@torch.inference_mode()
def names_in_photo(vlm: Any, encoded: Any) -> list[str]:
    """The names that the checkpoint was taught (`CheckpointConfig.names`), those that the photo shows first.

    A name's score is the mean cosine of its SUREST cells and the name's embedding, less CONTRAST times the mean over
    all cells. [] if the checkpoint has no such names or no image features at hand.
    """
    names = list(vlm.config.names)
    if not names or not encoded.features:
        return []
    embeddings = vlm.model.get_input_embeddings().weight
    vectors = torch.stack([embeddings[vlm.text_ids(f" {name}")].float().mean(0) for name in names])
    cells = F.normalize(encoded.features["image"].pooler_output[0].float().reshape(vlm.cells, -1), dim=1)
    cosines = cells @ F.normalize(vectors, dim=1).T  # (cells, names)
    scores = cosines.topk(min(SUREST, len(cells)), dim=0).values.mean(0) - CONTRAST * cosines.mean(0)
    return [names[index] for index in scores.argsort(descending=True).tolist()]
