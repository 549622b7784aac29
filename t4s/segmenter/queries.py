"""What may be asked: phrases and class lists as people type them, checked, cleaned, and put into taught words.

Nothing runs before it is known what will be asked. Knows checkpoints' settings and no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t4s import codec, lexicon, prompts
from t4s.errors import QueryError
from t4s.limits import MAX_QUERY
from t4s.models.checkpoint import CheckpointConfig


@dataclass(frozen=True)
class Query:
    """A phrase or a class list.

    typed  the phrase, or the names, as they were given
    asked  what the model is asked in their place, and what it calls them in its answer
    """

    typed: str | tuple[str, ...]
    asked: str | tuple[str, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels of the answer, "others" first."""
        return codec.OTHERS, *names_of(self.asked)

    def parts(self, sizes: Sequence[int]) -> list[Query]:
        """A class list cut into lists of these sizes."""
        ends = [sum(sizes[: k + 1]) for k in range(len(sizes))]
        return [
            Query(self.typed[end - size : end], self.asked[end - size : end])
            for size, end in zip(sizes, ends, strict=True)
        ]


def names_of(query: str | tuple[str, ...]) -> tuple[str, ...]:
    """The names of a class list; a phrase is one."""
    return (query,) if isinstance(query, str) else query


def check_query(query: str | Sequence[str], config: CheckpointConfig | None = None) -> Query:
    """What a checkpoint is asked for a phrase or class names; None: any checkpoint. Raises QueryError."""
    names = [query] if isinstance(query, str) else list(query)
    if not names:
        raise QueryError("The class list is empty: give at least one name.")
    for name in names:
        if not isinstance(name, str) or not 1 <= len(name.strip()) <= MAX_QUERY:
            given = f"{len(name.strip())} characters" if isinstance(name, str) else type(name).__name__
            raise QueryError(f"A phrase has 1 to {MAX_QUERY} characters; this one has {given}.")
    labels = [clean_query(name, config) for name in names]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        typed = sorted({name for name, label in zip(names, labels, strict=True) if label in twice})
        how = "" if typed == twice else f", as {' and '.join(map(repr, typed))}"
        raise QueryError(
            f"The class list names {', '.join(map(repr, twice))} more than once{how}: give each name once."
        )
    asked = [in_taught_words(label, config) for label in labels]
    # Of names that are read as the same name, each is asked as it is: a list can hold a name only once.
    asked = [name if asked.count(name) == 1 else label for name, label in zip(asked, labels, strict=True)]
    if isinstance(query, str):
        return Query(query, asked[0])
    return Query(tuple(names), tuple(asked))


def check_names(names: Sequence[str], config: CheckpointConfig | None = None) -> Query:
    """A class list. Raises QueryError, for a lone string too: its letters are no names."""
    if isinstance(names, str):
        raise QueryError(f"The class list is the string {names!r}: give a list of names, [{names!r}].")
    return check_query(tuple(names), config)


def clean_query(phrase: str, config: CheckpointConfig | None = None) -> str:
    """A phrase as a label, without what typing leaves in it (`prompts.clean`); for a checkpoint that says so, a name
    alone or a phrase with an article, without the words of a request, as the names are spelled that it was taught
    (`prompts.normalize`, `lexicon.respelled`, `lexicon.with_article`).

    Raises QueryError if nothing is left.
    """
    label = codec.clean_label(phrase)
    if config is None or not config.normalize_queries:
        return codec.clean_label(prompts.clean(label))
    phrase = lexicon.respelled(prompts.normalize(label), config.names)
    return codec.clean_label(lexicon.with_article(phrase, config.names))


def in_taught_words(label: str, config: CheckpointConfig | None) -> str:
    """The label with each noun that the checkpoint was not taught replaced by a name that stands for it, if one does;
    for a checkpoint that says so, without the other words that it was not taught (`untaught_words`)."""
    if config is None:
        return label
    if config.drop_untaught_words and (kept := lexicon.understood(label, config.names).phrase) != label:
        label = clean_query(kept, config)
    parts = lexicon.listed(label, config.names)
    readings = [lexicon.reading(part, config.names) for part in parts]
    if not any(readings):
        return label
    put = [part if reading is None else reading.phrase for part, reading in zip(parts, readings, strict=True)]
    different: dict[str, str] = {}  # "van, taxi": one car
    for phrase in put:
        different.setdefault(lexicon.bare(phrase), phrase)
    return clean_query(" and ".join(different.values()), config)


def untaught_words(label: str, config: CheckpointConfig) -> tuple[str, ...]:
    """What the checkpoint was not taught of a label about a thing that it knows, where it says so: "green dog" →
    "green". Empty for a checkpoint that does not, and for a label about nothing that it knows."""
    return lexicon.understood(label, config.names).ignored if config.drop_untaught_words else ()
