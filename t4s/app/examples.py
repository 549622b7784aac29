"""What the app brings along: example photos, lists of names, a text to try. Knows no gradio."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping
from pathlib import Path
from string import Template
from typing import Any

EXAMPLES = (  # (a photo of assets/examples, what to find in it)
    ("two_cats.jpg", "cat"), ("riders.jpg", "horse"), ("motorcycle.jpg", "motorcycle"), ("elephant.jpg", "person"),
    ("gull.jpg", "bird"), ("buses.jpg", "bus"), ("man_on_wall.jpg", "person"), ("car_and_man.jpg", "car"),
)  # fmt: skip
PRESETS = {
    "animals": "cat, dog, horse, sheep, bird, elephant, person, tree, water, sky",
    "street": "person, car, bus, motorcycle, bicycle, road, sidewalk, building, tree, sky",
    "clothes": "hair, skin, shirt, pants, dress, shoes, bag",
}
STREET_PHOTOS = ("motorcycle.jpg", "buses.jpg", "man_on_wall.jpg", "car_and_man.jpg")  # asked with PRESETS["street"]
LEAST_SCORE, LEAST_NAMES = 0.3, 2  # a name is offered from this IoU on, a list with at least so many names
GOOD_SCORE, TOLD_NAMES = 0.6, 32  # from this IoU on a name is drawn well; so many names are listed, others counted
DRAWING = (
    "others *16\n others *16\n others *16\n others *16\n"
    " others *5| dog *2| others *9\n others *4| dog *4| others *8\n others *4| dog *4| others *8\n"
    " others *4| dog *9| others *3\n others *5| dog *9| others *2\n others *5| dog *8| others *3\n"
    " others *5| dog *2| others *4| dog *2| others *3\n others *5| dog *2| others *4| dog *2| others *3\n"
    " others *16\n others *16\n others *16\n others *16\n"
)
FAULTY = DRAWING.replace("dog *9| others *3", "dog *9| others *2")  # so that one sees how it is repaired


def example(assets: Path, index: int) -> tuple[str, str]:
    """(path, phrase) of one of EXAMPLES; `assets` is the folder of that name."""
    name, phrase = EXAMPLES[index]
    return str(assets / "examples" / name), phrase


def class_list(index: int, lists: Mapping[str, str]) -> str:
    """The class list, of those that the checkpoint can serve, that suits one of EXAMPLES."""
    title = "street" if EXAMPLES[index][0] in STREET_PHOTOS else "animals"
    return lists.get(title) or next(iter(lists.values()), "")


def presets(metrics: Mapping[str, Any], taught: Collection[str] = ()) -> dict[str, str]:
    """The lists that a checkpoint can serve, each without the names that it draws worse than LEAST_SCORE.

    `metrics` is that of `t4s.json`; its "names" is {name: IoU in [0, 1]}. A name that was not measured stays if it was
    `taught`. Nothing is known of a checkpoint without measured names, and it is offered everything.
    """
    scores = metrics.get("names")
    if scores is None:
        return PRESETS
    unmeasured = dict.fromkeys(taught, 1.0)
    able = {
        title: [name for name in text.split(", ") if scores.get(name, unmeasured.get(name, 0.0)) >= LEAST_SCORE]
        for title, text in PRESETS.items()
    }
    return {title: ", ".join(names) for title, names in able.items() if len(names) >= LEAST_NAMES}


def about(text: str, shape: tuple[int, int], metrics: Mapping[str, Any]) -> str:
    """The About page: `text` with `$rows`, `$columns` and `$able` filled in for this checkpoint."""
    return Template(text).substitute(rows=shape[0], columns=shape[1], able=able(metrics))


def able(metrics: Mapping[str, Any]) -> str:
    """What a checkpoint draws, as Markdown, from the IoU of every name that it was measured on (see `presets`)."""
    scores = metrics.get("names")
    if not scores:
        return "Its `t4s.json` holds no figures, so nothing can be said here about what it draws well."
    ranked = sorted(scores, key=scores.get, reverse=True)
    parts = {
        f"well (IoU {GOOD_SCORE} and more)": [name for name in ranked if scores[name] >= GOOD_SCORE],
        f"fairly ({LEAST_SCORE} and more)": [name for name in ranked if LEAST_SCORE <= scores[name] < GOOD_SCORE],
        f"hardly (below {LEAST_SCORE})": [name for name in ranked if scores[name] < LEAST_SCORE],
    }
    lines = [f"Measured on {len(ranked)} names, on photos that it was not trained on, it draws", ""]
    for how, names in parts.items():
        more = f" and {len(names) - TOLD_NAMES} more" if len(names) > TOLD_NAMES else ""
        lines += [f"- {how}: {html.escape(', '.join(names[:TOLD_NAMES]))}{more}"] if names else []
    return "\n".join(lines)
