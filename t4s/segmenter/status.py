"""The status of an answer: found, absent, unsure, or a word that the checkpoint was never taught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

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
    alike    of a class list, the names that mean the same to it, in groups
    either   the things that a phrase lists: they are drawn as one
    read_as  {word: the taught one that was asked in its place}, of words that the checkpoint was not taught
    ignored  the words of a phrase that it was not taught and that were left out of the question
    """
    stats, names = dict(prediction.stats), tuple(clean_query(name, config) for name in names_of(prediction.query))
    asked = dict(zip(names, names_of(prediction.asked), strict=True))
    if read_as := {name: word for name, word in asked.items() if _is_read(name, word, config)}:
        stats["read_as"] = read_as
    if ignored := {name: words for name in names if (words := untaught_words(name, config))}:
        stats["ignored"] = [word for words in ignored.values() for word in words]
    written = {prediction.grid.labels[label] for label in np.unique(prediction.grid.ids)}
    drawn = [name for name in names if asked[name] in written]
    status = status_of(
        names,
        prediction.present and (len(names) == 1 or any(_is_known(asked[name], config) for name in drawn)),
        prediction.score,
        config,
        prediction.stats.get("similarity"),
        any(name in ignored for name in drawn),
    )
    if status == "unknown word":
        stats["nearest"] = list(dict.fromkeys(word for name in names for word in lexicon.nearest(name, config.names)))
    elif unknown := [name for name in names if not (_is_known(name, config) and _is_known(asked[name], config))]:
        stats["unknown"] = unknown
    if alike := _alike(asked, config):
        stats["alike"] = alike
    if len(asked) == 1 and len(things := lexicon.listed(*asked.values(), config.names)) > 1:
        stats["either"] = [lexicon.bare(thing) for thing in things]
    return replace(prediction, status=status, stats=stats)


def _is_known(name: str, config: CheckpointConfig) -> bool:
    """True if the checkpoint was taught a thing that the name is about, or a word of the same meaning."""
    if config.drop_untaught_words:
        name = lexicon.understood(name, config.names).phrase
    for part in lexicon.listed(name, config.names):
        reading = lexicon.reading(part, config.names)
        if lexicon.is_taught(part, config.names) or (reading is not None and reading.same):
            return True
    return False


def _is_read(name: str, asked: str, config: CheckpointConfig) -> bool:
    """True if another noun was asked in place of one of the name's own."""
    parts = lexicon.listed(name, config.names)
    return name != asked and any(lexicon.reading(part, config.names) is not None for part in parts)


def _alike(asked: Mapping[str, str], config: CheckpointConfig) -> list[list[str]]:
    """The names of a list that are words for one thing to the checkpoint: "man" and "woman"."""
    taught = lexicon.taught_words(config.names)
    groups: dict[str, list[str]] = {}
    for name, word in asked.items():
        reading = lexicon.reading(word, config.names)
        word = reading.phrase if reading is not None and reading.same else word
        if word in taught:
            groups.setdefault(taught[word], []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def explain(prediction: Prediction) -> str:
    """Sentences about an answer that is unsure, or whose words were not taught or mean less than they seem to; an empty
    text for any other."""
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
        sentences.append(f"The checkpoint did not understand {words}; it was asked for any {asked}.")
    elif prediction.status == "unsure":
        likeness = prediction.stats.get("similarity")
        further = "" if likeness is None else f", and the photo's similarity to the name {likeness:.2f}"
        sentences.append(f"The checkpoint is not sure of this answer: its score is {prediction.score:.2f}{further}.")
    for group in prediction.stats.get("alike", ()):
        sentences.append(f"{' and '.join(map(repr, group))} mean the same to this checkpoint.")
    if (either := prediction.stats.get("either")) and prediction.present:
        things = " or ".join(map(repr, either))
        sentences.append(f"This is everything of {things}; ask for each alone to know which of them is there.")
    return " ".join(sentences)


def _unknown(prediction: Prediction) -> str:
    names, nearest = names_of(prediction.query), prediction.stats.get("nearest")
    typed = " and ".join(map(repr, names))
    closing = f"; nearest: {', '.join(nearest)}." if nearest else "."
    said = "is not a word" if len(names) == 1 else "are no words"
    return f"{typed} {said} this checkpoint was taught{closing}"
