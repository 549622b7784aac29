"""The status of an answer: found, absent, unsure, or a word that the checkpoint was never taught."""

from __future__ import annotations

from dataclasses import replace

from t4s import lexicon
from t4s.models.checkpoint import CheckpointConfig
from t4s.records import Prediction, Status
from t4s.segmenter.queries import clean_query, names_of, untaught_words


def status_of(
    names: tuple[str, ...],
    present: bool,
    score: float,
    config: CheckpointConfig,
    similarity: float | None = None,
    ignored: bool = False,
) -> Status:
    """The status of an answer that shows something (`present`) with this score. `names`: cleaned (`clean_query`);
    `similarity`: of the photo's cells to the name, where that says something; `ignored`: something was drawn for a name
    of which words were left out.

    "unknown word": the checkpoint has a list of names and no name asked for is on it, whatever was drawn; of a class
    list one known name is enough. A word is known too if the lexicon says that it means the same as a name on the list;
    a phrase that excludes a name ("all but the dog", "no dogs") is not known.
    "unsure": the score or the similarity lies below its bound in the checkpoint's t4s.json, or words were left out
    ("green dog").
    """
    if not any(_is_known(name, config) for name in names):
        return "unknown word"
    if not present:
        return "absent"
    bounds = ((score, config.unsure_below), (similarity, config.unsure_similarity_below))
    if ignored or any(value is not None and bound is not None and value < bound for value, bound in bounds):
        return "unsure"
    return "found"


def with_status(prediction: Prediction, config: CheckpointConfig) -> Prediction:
    """The same with its status, and in `stats`, where there is something to say:

    nearest  the taught names that an unknown word may have meant
    unknown  of a class list with names that it was taught, the others
    read_as  {word: the taught one that was asked in its place}, of words that the checkpoint was not taught
    ignored  the words of a phrase that it was not taught and that were left out of the question
    """
    stats, names = dict(prediction.stats), tuple(clean_query(name, config) for name in names_of(prediction.query))
    asked = dict(zip(names, names_of(prediction.asked), strict=True))
    if read_as := {name: word for name, word in asked.items() if _is_read(name, word, config)}:
        stats["read_as"] = read_as
    if ignored := {name: words for name in names if (words := untaught_words(name, config))}:
        stats["ignored"] = [word for words in ignored.values() for word in words]
    status = status_of(
        names,
        prediction.present,
        prediction.score,
        config,
        prediction.stats.get("similarity"),
        any(asked[name] in prediction.masks for name in ignored),
    )
    if status == "unknown word":
        stats["nearest"] = list(dict.fromkeys(word for name in names for word in lexicon.nearest(name, config.names)))
    elif unknown := [name for name in names if not _is_known(name, config)]:
        stats["unknown"] = unknown
    return replace(prediction, status=status, stats=stats)


def _is_known(name: str, config: CheckpointConfig) -> bool:
    if lexicon.is_taught(name, config.names):
        return True
    reading = lexicon.reading(name, config.names)
    return reading is not None and reading.same


def _is_read(name: str, asked: str, config: CheckpointConfig) -> bool:
    """True if another noun was asked in place of the name's own."""
    return name != asked and lexicon.reading(name, config.names) is not None


def explain(prediction: Prediction) -> str:
    """Sentences about an answer that is unsure or about words that were not taught; an empty text for any other."""
    sentences = []
    read_as, ignored = prediction.stats.get("read_as", {}), prediction.stats.get("ignored", ())
    if prediction.status == "unknown word":
        sentences.append(_unknown(prediction))
    if unknown := prediction.stats.get("unknown"):
        sentences.append(f"The checkpoint was not taught {' or '.join(map(repr, unknown))}.")
    if read_as and prediction.status == "unknown word":
        sentences.append(f"It looked for {' and '.join(map(repr, dict.fromkeys(read_as.values())))} instead.")
    elif read_as:
        pairs = ", ".join(f"{word!r} as {asked!r}" for word, asked in read_as.items())
        sentences.append(f"It read {pairs}.")
    if ignored:
        words = " or ".join(map(repr, ignored))
        asked = ", ".join(repr(lexicon.bare(name)) for name in names_of(prediction.asked))
        sentences.append(f"The checkpoint was not taught {words}; it was asked for any {asked}.")
    elif prediction.status == "unsure":
        likeness = prediction.stats.get("similarity")
        further = "" if likeness is None else f", and the photo's similarity to the name {likeness:.2f}"
        sentences.append(f"The checkpoint is not sure of this answer: its score is {prediction.score:.2f}{further}.")
    return " ".join(sentences)


def _unknown(prediction: Prediction) -> str:
    typed = ", ".join(names_of(prediction.query))
    nearest = prediction.stats.get("nearest")
    closing = f"; nearest: {', '.join(nearest)}." if nearest else "."
    return f"{typed!r} is not a word this checkpoint was taught{closing}"
