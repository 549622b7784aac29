"""The headline and the figures below the panels, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from t4s import lexicon
from t4s.codec import Fault
from t4s.records import Prediction

SHOWN_FAULTS = 40  # more make the browser slow


def headline(prediction: Prediction) -> tuple[str, str]:
    """(kind, sentence): the answer in words. "Not there" is an answer and not an error."""
    ended = prediction.stats.get("ended")
    if ended == "stopped":
        if not isinstance(prediction.query, str):
            done = len(prediction.query)
            return "stopped", f"Stopped after {done} name{'s' * (done > 1)}; what was found so far is shown."
        rows = written_rows(prediction.text, prediction.grid.shape)
        return "stopped", f"Stopped after {rows} of {prediction.grid.shape[0]} rows."
    if ended == "truncated":
        return "fault", "The text broke off; the rows that were written are shown."
    if not isinstance(prediction.query, str) and len(prediction.query) == 1:  # a list of one is a phrase
        prediction = replace(prediction, query=prediction.query[0], asked=prediction.asked[0])
    kind, sentence = _about_phrase(prediction) if isinstance(prediction.query, str) else _about_list(prediction)
    more = [
        _left_out(prediction),
        _read_as(prediction),
        _untaught(prediction),
        _alike(prediction),
        _several(prediction),
    ]
    return kind, "".join([sentence, *more])


def _about_phrase(prediction: Prediction) -> tuple[str, str]:
    sure = f"{round(100 * prediction.score)} % sure"
    if prediction.status == "unknown word":
        return "unknown", f"“{prediction.query}” is not a word that this model was taught."
    if _is_hidden(prediction):
        return "absent", f"No cell of “{prediction.query}” is above this confidence."
    if prediction.status == "unsure" and prediction.stats.get("ignored"):
        name = lexicon.bare(str(prediction.asked))
        return "unsure", f"Drawn for “{name}” alone: {share(prediction.mask)} of the photo, {sure}."
    if prediction.status == "unsure":
        return "unsure", f"“{prediction.query}” may be here, but the model is not sure."
    if prediction.present:
        return "found", f"Found “{prediction.query}”: {share(prediction.mask)} of the photo, {sure}."
    return "absent", f"“{prediction.query}” is not in this photo ({sure})."


def _about_list(prediction: Prediction) -> tuple[str, str]:
    sure = f"{round(100 * prediction.score)} % sure"
    if prediction.status == "unknown word":
        return "unknown", "None of these names is a word that this model was taught."
    asked = len(prediction.query)
    if _is_hidden(prediction):
        return "absent", f"No cell of the {asked} names is above this confidence."
    if prediction.status == "unsure":
        return "unsure", f"Some of the {asked} names may be here, but the model is not sure."
    if prediction.status == "found":
        unknown = prediction.stats.get("unknown", ())
        found = sum(bool(mask.any()) for name, mask in prediction.masks.items() if name not in unknown)
        return "found", f"Found {found} of {asked} names, {sure}."
    return "absent", f"None of the {asked} names is in this photo ({sure})."


def _is_hidden(prediction: Prediction) -> bool:
    """Whether something was drawn, and all of it has less confidence than is asked for."""
    return prediction.status in ("found", "unsure") and not prediction.present


def _left_out(prediction: Prediction) -> str:
    """The characters of the query that no label can have, as a further sentence; "" if it has none."""
    typed = "".join([prediction.query] if isinstance(prediction.query, str) else prediction.query)
    marks = [mark for mark in "<>|*" if mark in typed]
    return f" It left out {' '.join(marks)}, which no label can have." if marks else ""


def _several(prediction: Prediction) -> str:
    """Where to ask for several things, if a phrase lists some or, not being found, looks like a list; "" else."""
    either = prediction.stats.get("either")
    if either and prediction.present:
        things = " or ".join(f"“{thing}”" for thing in either)
        return f" This is everything of {things}; the tab Everything tells them apart."
    asked = prediction.asked
    listed = isinstance(asked, str) and any(mark in asked for mark in (",", ";", "\n", " and "))
    return " Several names are for the tab Everything." if listed and prediction.status != "found" else ""


def _alike(prediction: Prediction) -> str:
    """The names of a list that mean the same to the model, as further sentences; "" if there are none."""
    groups = [" and ".join(f"“{name}”" for name in group) for group in prediction.stats.get("alike", ())]
    return "".join(f" {group} mean the same to this model." for group in groups)


def _read_as(prediction: Prediction) -> str:
    """What was asked in place of words that the model was not taught, as a further sentence; "" if nothing was."""
    read_as = prediction.stats.get("read_as", {})
    if not read_as:
        return ""
    if prediction.status == "unknown word":
        asked = " and ".join(f"“{name}”" for name in dict.fromkeys(read_as.values()))
        return f" It looked for {asked} instead."
    pairs = ", ".join(f"“{word}” as “{name}”" for word, name in read_as.items())
    return f" It read {pairs}."


def _untaught(prediction: Prediction) -> str:
    """The names of a list that the model was not taught, and the words that it left out, as further sentences."""
    unknown, ignored = (
        " or ".join(f"“{word}”" for word in prediction.stats.get(kind, ())) for kind in ("unknown", "ignored")
    )
    not_taught = f" The model was not taught {unknown}." if unknown else ""
    return not_taught + (f" The model did not understand {ignored}." if ignored else "")


def suggestions(prediction: Prediction) -> list[str]:
    """The words that an unknown one may have meant."""
    return list(prediction.stats.get("nearest", ())) if prediction.status == "unknown word" else []


def share(mask: np.ndarray) -> str:
    """The part of the photo that a mask covers, for people: "12 %", "0.4 %"."""
    return percent(float(mask.mean()))


def percent(value: float) -> str:
    """A share in [0, 1] for people."""
    if 0 < value < 0.0005:
        return "<0.1 %"
    return f"{100 * value:.0f} %" if value >= 0.0995 else f"{100 * value:.1f} %"


def facts(prediction: Prediction, refiner: str) -> list[tuple[str, str, str]]:
    """The line under the panels: (name, value, what it means). Plain decoding would need one pass a token."""
    stats = prediction.stats
    tokens, forwards = int(stats.get("tokens", 0)), int(stats.get("forwards", 0))
    seconds = {
        "read the photo": stats.get("encode_seconds", 0.0) + stats.get("prefill_seconds", 0.0),
        "write": stats.get("decode_seconds"),
        f"refine ({refiner})": stats.get("refine_seconds"),
    }
    return [
        ("tokens", str(tokens), "Pieces of text that the model wrote"),
        ("model passes", str(forwards), "How often the model ran to write them"),
        (
            "passes saved by drafting",
            str(max(0, tokens - forwards)),
            "Rows repeat, so the next ones are drafted, and one pass checks many tokens",
        ),
        *((name, f"{value:.2f} s", "") for name, value in seconds.items() if value is not None),
        ("score", f"{prediction.score:.2f}", "Mean confidence of the cells that were found; of all cells if none was"),
    ]


def fault_lines(faults: Sequence[Fault]) -> list[str]:
    """One line a fault, counted from 1; of many the first SHOWN_FAULTS."""
    lines = [f"Row {fault.row + 1}, column {fault.column + 1}: {fault.message}" for fault in faults[:SHOWN_FAULTS]]
    return [*lines, f"… and {len(faults) - SHOWN_FAULTS} more."] if len(faults) > SHOWN_FAULTS else lines


def written_rows(text: str, shape: tuple[int, int]) -> int:
    """How many rows of the grid a growing text has completed."""
    return min(text.count("\n"), shape[0])
