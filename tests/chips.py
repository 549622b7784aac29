"""How often the chips under "What can I ask?" are right: `python tests/chips.py FOLDER`.

FOLDER is a data set of the kind "folder" (`t4s/data/folder.py`). Of COUNT validation photos, evenly spaced, it prints
the share whose first chip names a class that is in the photo's mask, and the share where one of five does.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds t4s

from t4s import Segmenter
from t4s.app.service import SUGGESTED_NAMES
from t4s.app.suggestions import suggest
from t4s.data.spec import open_dataset

COUNT, CHIPS = 150, 5


def hits(segmenter: Segmenter, folder: str) -> list[list[bool]]:
    """For each photo and chip: does the photo show what it names? Photos without a class are left out."""
    dataset = open_dataset(f"folder:{folder}@val")
    found = []
    for index in np.linspace(0, len(dataset) - 1, COUNT).round().astype(int):
        samples = dataset[int(index)]
        present = {sample.query for sample in samples if not sample.absent}
        if present:
            names = suggest(segmenter.vlm, segmenter.encode(samples[0].image), SUGGESTED_NAMES).names
            found.append([name in present for name in names])
    return found


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    right = hits(Segmenter.from_pretrained(device="cpu"), sys.argv[1])
    first, five = (100 * np.mean([any(photo[:count]) for photo in right]) for count in (1, CHIPS))
    chips, share = np.mean([len(photo) for photo in right]), 100 * np.mean([np.mean(photo) for photo in right])
    print(f"{len(right)} photos. The first chip is there in {first:.1f} %, one of five in {five:.1f} %.")
    print(f"{chips:.1f} chips a photo, of which {share:.0f} % name an annotated class.")
