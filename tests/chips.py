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
from t4s.app.suggestions import names_in_photo
from t4s.data.spec import open_dataset

COUNT, CHIPS = 150, 5


def hits(segmenter: Segmenter, folder: str) -> np.ndarray:
    """(photos, CHIPS) bool: does the photo show what this chip names? Photos without a class are left out."""
    dataset = open_dataset(f"folder:{folder}@val")
    found = []
    for index in np.linspace(0, len(dataset) - 1, COUNT).round().astype(int):
        samples = dataset[int(index)]
        present = {sample.query for sample in samples if not sample.absent}
        if present:
            names = names_in_photo(segmenter.vlm, segmenter.encode(samples[0].image))[:CHIPS]
            found.append([name in present for name in names])
    return np.array(found)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    right = hits(Segmenter.from_pretrained(device="cpu"), sys.argv[1])
    first, five = 100 * right[:, 0].mean(), 100 * right.any(1).mean()
    print(f"{len(right)} photos. The first chip is there in {first:.1f} %, one of five in {five:.1f} %.")
