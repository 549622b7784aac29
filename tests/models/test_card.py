"""The model card of the embedded checkpoint: short, with its history apart, and in step with t4s.json."""

from __future__ import annotations

import re

from huggingface_hub import ModelCard

from t4s.assets import asset
from t4s.hub import FIGURES
from t4s.models.checkpoint import CheckpointConfig

FOLDER = asset("t4s-tiny")


def test_the_card_is_short_and_the_history_apart():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert text.count("\n") <= 120
    assert "(TRAINING.md)" in text and (FOLDER / "TRAINING.md").is_file()
    assert all(marker in text for marker in FIGURES), "eval --update-card puts its figures between them"
    card = ModelCard(text)
    assert card.data.license == "other" and "licensed for research" in card.text
    assert {result.metric_type for result in card.data.eval_results} == {"ciou", "miou"}


def test_the_card_and_the_settings_say_the_same():
    """Names are listed with the IoU that t4s.json has, from which the app makes its lists."""
    config = CheckpointConfig.read(FOLDER)
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = {}
    for line in text.splitlines():
        if line.startswith(("- well (", "- fairly (", "- hardly (")):
            names = line.partition(": ")[2].split(", ")
            listed |= {name: int(score) for name, score in (entry.rsplit(" ", 1) for entry in names)}
    measured = config.metrics["names"]
    assert set(measured) <= set(config.names)
    assert listed == {name: round(100 * score) for name, score in measured.items()}
    assert f"{len(config.names)} names" in text
    for setting in ("no_target_threshold", "cell_fusion_weight", "unsure_below"):
        assert re.search(rf"`{setting}`", text)
