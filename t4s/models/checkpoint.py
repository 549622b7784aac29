"""A checkpoint's files: where they are, whether they may be read, and `t4s.json`, which says how it was taught.

    folder = find("user/model")        # a folder, a Hub id, or None: the one that comes with the package
    config = CheckpointConfig.read(folder)         # its t4s.json
    base = base_of(folder, config)       # where the base of an adapter is

Knows files and not models: what is in the weights is `loading.py`'s business.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from t4s import prompts
from t4s.assets import asset
from t4s.errors import CheckpointError
from t4s.limits import MAX_SIDE

FORMAT_VERSION = 2
# Fields of format_version 1 that version 2 calls otherwise.
RENAMED = {
    "both_ways": "bidirectional_prefix",
    "at_once": "classes_per_query",
    "absent_above": "no_target_threshold",
    "cell_weight": "cell_fusion_weight",
}
FORMAT_FILE, ADAPTER = "t4s.json", "adapter_config.json"
EMBEDDED = "t4s-tiny"  # as `base_model`: the checkpoint that comes with the package
POSITIONS = ("sequence", "cells")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FILES = "files:"  # a base_revision that is not the Hub's: what the base's files are
DOWNLOAD = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md"]


@dataclass(frozen=True)
class CheckpointConfig:
    """`t4s.json`: how a checkpoint was taught to answer. Read from the checkpoint, never guessed.

    `classes_per_query`: how many names of a class list it answers best in one question; None: as many as its context takes.
    `no_target_threshold`: the probability of the empty answer from which a thing is not there (`absence`); None: greedy.
    `cell_fusion_weight`: what the photo's own cells count beside the text's logits (`evidence`); None: nothing.
    `names`: what the photo's cells were taught by name (`train.py --cells`), so that their cell_similarity to it counts there.
    """

    grid: tuple[int, int] = (16, 16)
    layout: str = "rows"
    image_size: int = 336
    question: str = prompts.QUESTIONS[0]
    class_question: str = prompts.CLASS_QUESTIONS[0]
    answer: str = prompts.ANSWERS[0]
    positions: str = "sequence"
    bidirectional_prefix: bool = False
    classes_per_query: int | None = None
    no_target_threshold: float | None = None
    cell_fusion_weight: float | None = None
    names: tuple[str, ...] = ()
    base_model: str | None = None
    base_revision: str | None = None
    refiner: str = "edge"
    metrics: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        rows, columns = self.grid
        problems = [
            (
                self.format_version != FORMAT_VERSION,
                f"format_version {self.format_version}, this t4s reads 1 and {FORMAT_VERSION}",
            ),
            (
                not (1 <= rows <= MAX_SIDE and 1 <= columns <= MAX_SIDE),
                f"grid {self.grid}, allowed are 1 to {MAX_SIDE}",
            ),
            (self.positions not in POSITIONS, f"positions {self.positions!r}, allowed are {POSITIONS}"),
            (
                not isinstance(self.bidirectional_prefix, bool),
                f"bidirectional_prefix {self.bidirectional_prefix!r}, allowed are true and false",
            ),
            (
                self.classes_per_query is not None
                and (type(self.classes_per_query) is not int or self.classes_per_query < 1),
                f"classes_per_query {self.classes_per_query!r}, allowed are whole numbers from 1, and null for all that fit",
            ),
            (
                self.no_target_threshold is not None
                and (type(self.no_target_threshold) is not float or not 0 < self.no_target_threshold < 1),
                f"no_target_threshold {self.no_target_threshold!r}, allowed are numbers between 0 and 1, and null for greedy",
            ),
            (
                self.cell_fusion_weight is not None
                and (type(self.cell_fusion_weight) is not float or not 0 < self.cell_fusion_weight < 100),
                f"cell_fusion_weight {self.cell_fusion_weight!r}, allowed are numbers between 0 and 100, and null for none",
            ),
            (
                self.cell_fusion_weight is not None and (self.positions != "cells" or not self.bidirectional_prefix),
                "cell_fusion_weight, which only a checkpoint of the embedded kind has",
            ),
            (
                self.names and (self.positions != "cells" or not self.bidirectional_prefix),
                "names, which only cells of the embedded kind are taught",
            ),
            ("{query}" not in self.question or "{query}" not in self.class_question, "a question without {query}"),
            (not self.answer.partition("{body}")[0].endswith("<seg>"), "an answer without <seg>{body}</seg>"),
        ]
        for wrong, what in problems:
            if wrong:
                raise CheckpointError(f"{FORMAT_FILE} has {what}.")

    @classmethod
    def read(cls, folder: Path) -> CheckpointConfig:
        """Raises CheckpointError if the file is missing or is not ours."""
        file = folder / FORMAT_FILE
        if not file.is_file():
            raise CheckpointError(
                f"{folder} has no {FORMAT_FILE}, so it was not trained to write masks: "
                "give a checkpoint made by t4s/train.py, or train this model with --base."
            )
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.get("format_version", 1) == 1:
                content = {RENAMED.get(name, name): value for name, value in content.items()}
                content["format_version"] = FORMAT_VERSION
            unknown = set(content) - {f.name for f in fields(cls)}
            if unknown:
                raise CheckpointError(f"{file} has fields that this t4s does not know: {', '.join(sorted(unknown))}.")
            rows, columns = content["grid"]
            names = tuple(str(name) for name in content.get("names", ()))
            return cls(**{**content, "grid": (int(rows), int(columns)), "names": names})
        except (json.JSONDecodeError, TypeError, KeyError, ValueError) as error:
            raise CheckpointError(f"{file} cannot be read ({error}); it is written by t4s/train.py.") from error

    def write(self, folder: Path) -> None:
        (folder / FORMAT_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def find(source: str | Path | None, revision: str | None = None) -> Path:
    """A checkpoint's folder: the embedded one (None), a local folder, or a Hub repository's snapshot."""
    if source is None:
        return asset(EMBEDDED)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HFValidationError,
        HTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return Path(snapshot_download(str(source), revision=revision, allow_patterns=DOWNLOAD))
    except HFValidationError as error:
        raise CheckpointError(f"{source} is neither a folder nor a Hub id such as user/model.") from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{source} is not on the Hub, or it is private: check the id, or run `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{source} has no revision {revision!r}; name a branch, tag or commit.") from error
    except (LocalEntryNotFoundError, HTTPError, OSError) as error:  # HTTPError: lost connections too
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{source} could not be fetched from the Hub: {detail}") from error


def base_of(folder: Path, config: CheckpointConfig) -> Path:
    """Where an adapter's base is. CheckpointError if it is named nowhere, missing, or not the one trained on."""
    if not config.base_model:
        raise CheckpointError(f"{folder} is an adapter, but its {FORMAT_FILE} names no base_model.")
    embedded, revision = config.base_model == EMBEDDED, config.base_revision
    by_files = revision is not None and revision.startswith(FILES)
    try:
        base = find(None if embedded else config.base_model, None if by_files else revision)
    except CheckpointError as error:
        raise CheckpointError(f"The adapter {folder} needs its base model, {config.base_model}: {error}") from error
    if by_files and fingerprint(base) != revision:
        raise CheckpointError(
            f"The adapter {folder} was trained on another {config.base_model} than the one that is "
            "here; give it that one back, or train it again."
        )
    check_weights(base)
    return base


def fingerprint(folder: Path) -> str:
    """ "files:…", which changes when a folder's weights do: sizes and last mebibytes of its safetensors."""
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        size = file.stat().st_size
        with file.open("rb") as opened:
            opened.seek(max(0, size - 2**20))
            digest.update(f"{file.name} {size} ".encode() + opened.read())
    return FILES + digest.hexdigest()[:16]


def check_weights(folder: Path) -> None:
    """Refuses pickled weights and folders without weights."""
    if any(folder.glob("*.safetensors")):
        return
    pickled = [file.name for file in folder.iterdir() if file.suffix in PICKLED]
    if pickled:
        raise CheckpointError(
            f"{folder} holds pickled weights ({', '.join(sorted(pickled))}), which can run code when "
            "they are read: save them as safetensors."
        )
    raise CheckpointError(f"{folder} holds no .safetensors weights.")
