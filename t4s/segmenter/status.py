"""The status of an answer: found, absent, unsure, or a word that the checkpoint was never taught."""

from __future__ import annotations

from dataclasses import replace

from t4s import lexicon
from t4s.models.checkpoint import CheckpointConfig
from t4s.records import Prediction, Status


def status_of(query: str | tuple[str, ...], present: bool, score: float, config: CheckpointConfig) -> Status:
    """The status of an answer that shows something (`present`) with this score.

    "unknown word": the checkpoint has a list of names and no name asked for is on it, whatever was drawn; of a class
    list one known name is enough. "unsure": the score lies below the bound in the checkpoint's t4s.json.
    """
    asked = (query,) if isinstance(query, str) else query
    if not any(lexicon.is_taught(name, config.names) for name in asked):
        return "unknown word"
    if not present:
        return "absent"
    if config.unsure_below is not None and score < config.unsure_below:
        return "unsure"
    return "found"


def with_status(prediction: Prediction, config: CheckpointConfig) -> Prediction:
    """The same with its status; `stats["nearest"]` has the taught names that an unknown word may have meant."""
    query = prediction.query
    status = status_of(query, prediction.present, prediction.score, config)
    if status != "unknown word":
        return replace(prediction, status=status)
    asked = (query,) if isinstance(query, str) else query
    nearest = list(dict.fromkeys(word for name in asked for word in lexicon.nearest(name, config.names)))
    return replace(prediction, status=status, stats=prediction.stats | {"nearest": nearest})


def explain(prediction: Prediction) -> str:
    """A sentence about an answer that is unsure or about an unknown word; an empty text for any other."""
    if prediction.status == "unsure":
        return f"The checkpoint is not sure of this answer: its score is {prediction.score:.2f}."
    if prediction.status != "unknown word":
        return ""
    asked = prediction.query if isinstance(prediction.query, str) else ", ".join(prediction.query)
    nearest = prediction.stats.get("nearest")
    closing = f"; nearest: {', '.join(nearest)}." if nearest else "."
    return f"{asked!r} is not a word this checkpoint was taught{closing}"
