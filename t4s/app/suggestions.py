"""What can I ask? The names that a photo's cells resemble most, and which name each cell resembles.

Measured by `python tests/chips.py`, on 150 validation photos, with the embedded checkpoint of 272 names: the first name
is a class that is in the photo in 82.7 %, and one of the first five is in 94.7 %; there are 4.7 names a photo. Of the
cells that are annotated and resemble a name, 79 % have that name (100 photos).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

SUREST = 8  # cells that are averaged for a name
CONTRAST = 0.5  # how much the average over the photo counts against a name: some names resemble every photo a little
ALIKE = 0.64  # a name whose embedding has this cosine to a surer one's says nothing new: "wild cat" beside "cat"
LEAST_SHARE, LEAST_NAMES = 0.6, 3  # beyond so many names, only those with this share of the surest one's score
LEAST_SCORE = 0.3  # below it a cell resembles no name


@dataclass(frozen=True)
class Suggestions:
    """What a photo shows.

    names  the surest first
    cells  for each of its cells, row by row, the index of the name that it resembles, or -1
    """

    names: tuple[str, ...] = ()
    cells: tuple[int, ...] = ()


NO_NAMES = Suggestions()


def best_names(metrics: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """The names that a checkpoint's card says it draws best; () if it was not measured. `metrics`: of its t4s.json."""
    scores = metrics.get("names") or {}
    return tuple(sorted(scores, key=scores.get, reverse=True)[:count])


@torch.inference_mode()
def suggest(vlm: Any, encoded: Any, count: int) -> Suggestions:
    """At most `count` of the names that the checkpoint was taught (`CheckpointConfig.names`).

    A name's score in a cell is the cosine of the cell and the name's embedding, less CONTRAST times the mean over all
    cells; its score in the photo is the mean of its SUREST cells. Of the names that `_chosen` takes, those stay that
    some cell resembles most. Nothing if the checkpoint has no such names or no
    image features at hand.
    """
    names = list(vlm.config.names)
    if not names or not encoded.features:
        return NO_NAMES
    embeddings = vlm.model.get_input_embeddings().weight
    vectors = torch.stack([embeddings[vlm.text_ids(f" {name}")].float().mean(0) for name in names])
    vectors = F.normalize(vectors, dim=1)
    cells = F.normalize(encoded.features["image"].pooler_output[0].float().reshape(vlm.cells, -1), dim=1)
    cosines = cells @ vectors.T  # (cells, names)
    scores = cosines - CONTRAST * cosines.mean(0)
    of_photo = scores.topk(min(SUREST, len(cells)), dim=0).values.mean(0)
    chosen = _chosen(of_photo, vectors @ vectors.T, count)
    best, index = scores[:, chosen].max(dim=1)
    resembled = torch.where(best < LEAST_SCORE, -1, index).tolist()
    kept = [place for place in range(len(chosen)) if place == 0 or place in resembled]
    places = {place: new for new, place in enumerate(kept)} | {-1: -1}
    return Suggestions(tuple(names[chosen[place]] for place in kept), tuple(places[place] for place in resembled))


def _chosen(scores: torch.Tensor, likeness: torch.Tensor, count: int) -> list[int]:
    """The indexes of at most `count` names: the surest, without those that say the same or are far less sure."""
    chosen: list[int] = []
    ranked = scores.argsort(descending=True).tolist()
    for name in ranked:
        unsure = len(chosen) >= LEAST_NAMES and scores[name] < LEAST_SHARE * scores[ranked[0]]
        if unsure or len(chosen) == count:
            break
        if all(likeness[name, other] < ALIKE for other in chosen):
            chosen.append(name)
    return chosen
