"""A checkpoint's files: where they are, whether they may be read, and `t4s.json`, which says how to use the weights.

    folder = find("user/model")              # a folder, a Hub id, or None: the checkpoint that ships with t4s
    config = CheckpointConfig.read(folder)   # its t4s.json
    base = base_of(folder, config)           # where the base of an adapter is

Knows files and not models: loading weights into a model is `loading.py`'s job.
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
RENAMED = {  # names of format_version 1 → names of version 2
    "both_ways": "bidirectional_prefix",
    "at_once": "classes_per_query",
    "absent_above": "no_target_threshold",
    "cell_weight": "cell_fusion_weight",
}
FORMAT_FILE = "t4s.json"
ADAPTER = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
WEIGHT_INDEX = "model.safetensors.index.json"
EMBEDDED = "t4s-tiny"  # as `base_model`: the checkpoint that ships with t4s
POSITIONS = ("sequence", "cells")
RESAMPLING = ("bicubic", "bilinear")
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
FILES = "files:"  # how a base_revision begins that is a fingerprint of local files and not a commit of the Hub
DOWNLOAD = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "README.md"]
MAX_IMAGE_SIZE = 4096  # pixels of a side of the square that the model sees
MAX_FORMAT_BYTES = 1_000_000  # of t4s.json
MAX_FUSION_WEIGHT = 100.0


@dataclass(frozen=True)
class CheckpointConfig:
    """`t4s.json`: how a checkpoint was trained to be asked and to answer. Read from the checkpoint, never guessed.

    grid                  (rows, columns) of the descriptor grid
    image_size            side in pixels of the square that a photo is resized to
    question              template with {query} for a phrase; `class_question` for a class list
    answer                template with <seg>{body}</seg>, and {query} where the answer names it
    class_answer          the same for a class list; None: `answer`
    class_separator       what joins the names of a class list in `class_question`
    normalize_queries     phrases are asked in lower case, without the words of a request and without an article
    resampling            how a photo is resized: "bicubic" or "bilinear"
    positions             position ids: "sequence", or "cells" (embedded architecture, see `vlm.py`)
    bidirectional_prefix  photo and question attend to each other
    classes_per_query     names of a class list asked in one question; None: as many as the context takes
    no_target_threshold   P(all background) from which the target is absent; None: plain greedy decoding
    cell_fusion_weight    weight of the cell scores beside the token logits; None: not used
    unsure_below          score below which a drawn answer is reported as unsure; None: never
    unsure_similarity_below  the same for the similarity of the photo's cells to the name asked for, in [-1, 1]
    names                 class names that the image cells were trained on; () if none were
    drop_untaught_words   of a phrase about one of `names`, words that such training does not say are left out of the
                          question and reported (`lexicon.understood`): "green dog" is asked as "dog"
    base_model            of an adapter: Hub id, folder or "t4s-tiny"; base_revision: its commit or fingerprint
    refiner               the refiner used where none is asked for
    license               terms that restrict the use of the weights, said when they are loaded; None: none are known
    metrics               figures measured for this checkpoint
    """

    grid: tuple[int, int] = (16, 16)
    image_size: int = 336
    question: str = prompts.QUESTIONS[0]
    class_question: str = prompts.CLASS_QUESTIONS[0]
    answer: str = prompts.ANSWERS[0]
    class_answer: str | None = None
    class_separator: str = prompts.CLASS_SEPARATOR
    normalize_queries: bool = False
    resampling: str = "bicubic"
    positions: str = "sequence"
    bidirectional_prefix: bool = False
    classes_per_query: int | None = None
    no_target_threshold: float | None = None
    cell_fusion_weight: float | None = None
    unsure_below: float | None = None
    unsure_similarity_below: float | None = None
    names: tuple[str, ...] = ()
    drop_untaught_words: bool = False
    base_model: str | None = None
    base_revision: str | None = None
    refiner: str = "edge"
    license: str | None = None
    metrics: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        """Raises CheckpointError with the first field that is not allowed."""
        self._require("format_version", self.format_version == FORMAT_VERSION, f"this t4s reads 1 and {FORMAT_VERSION}")
        self._check_sizes()
        self._check_templates()
        self._check_decoding()
        self._check_embedded_only()
        for name in ("base_model", "base_revision", "license"):
            value = getattr(self, name)
            self._require(name, value is None or _is_text(value), "allowed are a name and null")
        self._require("refiner", _is_text(self.refiner), "allowed is the name of a refiner")
        self._require("metrics", isinstance(self.metrics, dict), "allowed is an object of figures")

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            value = repr(getattr(self, name))
            shown = value if len(value) <= 100 else f"{value[:100]}…"
            raise CheckpointError(f"{FORMAT_FILE} has {name} {shown}, {allowed}.")

    def _check_sizes(self) -> None:
        rows, columns = self.grid
        fits = _is_count(rows, MAX_SIDE) and _is_count(columns, MAX_SIDE)
        self._require("grid", fits, f"allowed are 1 to {MAX_SIDE} rows and columns")
        self._require(
            "image_size", _is_count(self.image_size, MAX_IMAGE_SIZE), f"allowed are 1 to {MAX_IMAGE_SIZE} pixels"
        )

    def _check_templates(self) -> None:
        for name in ("question", "class_question"):
            value = getattr(self, name)
            self._require(name, _is_text(value) and "{query}" in value, "without {query}")
        for name in ("answer", "class_answer"):
            value = getattr(self, name)
            before, _, after = (value if _is_text(value) else "").partition("{body}")
            written = before.endswith("<seg>") and after.startswith("</seg>")
            self._require(name, written or (name == "class_answer" and value is None), "without <seg>{body}</seg>")
        self._require("class_separator", _is_text(self.class_separator), "allowed is a text such as ', '")
        for name in ("normalize_queries", "drop_untaught_words"):
            self._require(name, isinstance(getattr(self, name), bool), "allowed are true and false")
        self._require("resampling", self.resampling in RESAMPLING, f"allowed are {' and '.join(RESAMPLING)}")

    def _check_decoding(self) -> None:
        self._require("positions", self.positions in POSITIONS, f"allowed are {' and '.join(POSITIONS)}")
        self._require("bidirectional_prefix", isinstance(self.bidirectional_prefix, bool), "allowed are true and false")
        self._require(
            "classes_per_query",
            self.classes_per_query is None or _is_count(self.classes_per_query),
            "allowed are whole numbers from 1, and null for as many as fit",
        )
        threshold = self.no_target_threshold
        self._require(
            "no_target_threshold",
            threshold is None or (_is_number(threshold) and 0 < threshold < 1),
            "allowed are numbers between 0 and 1, and null for greedy decoding",
        )
        bound = self.unsure_below
        self._require(
            "unsure_below",
            bound is None or (_is_number(bound) and 0 < bound < 1),
            "allowed are numbers between 0 and 1, and null for never",
        )
        similarity = self.unsure_similarity_below
        self._require(
            "unsure_similarity_below",
            similarity is None or (_is_number(similarity) and -1 < similarity < 1),
            "allowed are numbers between -1 and 1, and null for never",
        )
        weight = self.cell_fusion_weight
        self._require(
            "cell_fusion_weight",
            weight is None or (_is_number(weight) and 0 < weight < MAX_FUSION_WEIGHT),
            f"allowed are numbers between 0 and {MAX_FUSION_WEIGHT:g}, and null for none",
        )
        self._require("names", all(map(_is_text, self.names)), "allowed is a list of names")

    def _check_embedded_only(self) -> None:
        """Cell scores and taught names need image cells that see the question."""
        embedded = self.positions == "cells" and self.bidirectional_prefix
        if self.cell_fusion_weight is not None and not embedded:
            raise CheckpointError(
                f"{FORMAT_FILE} has cell_fusion_weight, which only a checkpoint of the embedded kind has."
            )
        if self.names and not embedded:
            raise CheckpointError(f"{FORMAT_FILE} has names, which only cells of the embedded kind are taught.")

    @classmethod
    def read(cls, folder: Path) -> CheckpointConfig:
        """The folder's t4s.json, of format_version 1 or 2. Raises CheckpointError if it is missing or not valid."""
        file = folder / FORMAT_FILE
        if not file.is_file():
            raise CheckpointError(
                f"{folder} has no {FORMAT_FILE}, so it was not trained to write masks: "
                "give a checkpoint made by t4s/train.py, or train this model with --base."
            )
        content = _read_json(file)
        version = content.get("format_version", 1)
        if type(version) is not int or version not in (1, FORMAT_VERSION):
            raise CheckpointError(f"{file} has format_version {version!r}, this t4s reads 1 and {FORMAT_VERSION}.")
        if version == 1:
            content = _upgrade(content, file)
        unknown = set(content) - {f.name for f in fields(cls)}
        if unknown:
            raise CheckpointError(f"{file} has fields that this t4s does not know: {', '.join(sorted(unknown))}.")
        grid = content.get("grid")
        if not isinstance(grid, list) or len(grid) != 2:
            raise CheckpointError(f"{file} cannot be read: grid is {grid!r}, expected [rows, columns].")
        names = content.get("names", [])
        if not isinstance(names, list):
            raise CheckpointError(f"{file} cannot be read: names is {names!r}, expected a list of names.")
        return cls(**{**content, "grid": tuple(grid), "names": tuple(names)})

    def write(self, folder: Path) -> None:
        (folder / FORMAT_FILE).write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _is_count(value: Any, most: int | None = None) -> bool:
    """True for a whole number from 1 to `most`; JSON's true is none."""
    return type(value) is int and value >= 1 and (most is None or value <= most)


def _read_json(file: Path) -> dict[str, Any]:
    """A JSON object of a checkpoint. Raises CheckpointError naming the file."""
    try:
        if file.stat().st_size > MAX_FORMAT_BYTES:
            raise CheckpointError(f"{file} has {file.stat().st_size} bytes, allowed are {MAX_FORMAT_BYTES}.")
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8
        detail = str(error) or type(error).__name__
        raise CheckpointError(f"{file} cannot be read ({detail}); it is written by t4s/train.py.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} cannot be read: it holds a {type(content).__name__}, expected an object.")
    return content


def _upgrade(content: dict[str, Any], file: Path) -> dict[str, Any]:
    """format_version 1 → 2: some fields have other names, and text is always written row by row."""
    content = {RENAMED.get(name, name): value for name, value in content.items()}
    layout = content.pop("layout", "rows")
    if layout != "rows":
        raise CheckpointError(f"{file} has layout {layout!r}; this t4s runs checkpoints that write rows.")
    return content | {"format_version": FORMAT_VERSION}


def find(source: str | Path | None, revision: str | None = None) -> Path:
    """A checkpoint's folder: the embedded one (None), a local folder, or a Hub repository's snapshot.

    Raises CheckpointError if it is neither here nor on the Hub, or may not be downloaded.
    """
    if source is None:
        return asset(EMBEDDED)
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
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
    except GatedRepoError as error:  # a kind of RepositoryNotFoundError, with another remedy
        raise CheckpointError(
            f"{source} is gated: accept its licence at https://huggingface.co/{source} with your account, "
            "then log in here with `hf auth login`."
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{source} is not on the Hub, or it is private: check the id, or run `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{source} has no revision {revision!r}; name a branch, tag or commit.") from error
    except (LocalEntryNotFoundError, HTTPError, OSError) as error:  # HTTPError: lost connections too
        detail = " ".join(str(error).split())[:200]
        raise CheckpointError(f"{source} could not be fetched from the Hub: {detail}") from error


def is_from_hub(folder: Path) -> bool:
    """True for a snapshot in the Hub's cache: its author is a stranger, so it may not name paths of this machine."""
    return folder.parent.name == "snapshots"


def base_of(folder: Path, config: CheckpointConfig) -> Path:
    """Where an adapter's base is.

    Raises CheckpointError if the base is named nowhere, missing, a local path in a checkpoint from the Hub, or not
    the one that the adapter was trained on.
    """
    name = config.base_model
    revision = config.base_revision
    if not name:
        raise CheckpointError(f"{folder} is an adapter, but its {FORMAT_FILE} names no base_model.")
    if is_from_hub(folder) and name != EMBEDDED and (Path(name).exists() or name.startswith(("/", ".", "~", "\\"))):
        raise CheckpointError(
            f"{folder} comes from the Hub, but its base_model {name!r} is a local path; allowed are a Hub id and "
            f"{EMBEDDED!r}: ask its author to publish it merged or with --base-id."
        )
    by_files = revision is not None and revision.startswith(FILES)
    try:
        base = find(None if name == EMBEDDED else name, None if by_files else revision)
    except CheckpointError as error:
        raise CheckpointError(f"The adapter {folder} needs its base model, {name}: {error}") from error
    if by_files and fingerprint(base) != revision:
        raise CheckpointError(
            f"The adapter {folder} was trained on another {name} than the one that is here; restore that one, "
            "or train the adapter again."
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
    """Only safetensors that lie in the folder itself are read.

    Raises CheckpointError for pickled weights, for no weights, and for an index that names files elsewhere.
    """
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    needed = [ADAPTER_WEIGHTS] if (folder / ADAPTER).is_file() else _indexed(folder)
    present = [file.name for file in folder.glob("*.safetensors")]
    missing = [name for name in needed if name not in present]
    if present and not missing:
        return
    if pickled:
        raise CheckpointError(
            f"{folder} holds pickled weights ({', '.join(pickled)}), which can run code when "
            "they are read: save them as safetensors."
        )
    if missing and present:
        raise CheckpointError(f"{folder} lacks {', '.join(missing[:3])}; download it again or copy it completely.")
    raise CheckpointError(f"{folder} holds no .safetensors weights.")


def _indexed(folder: Path) -> list[str]:
    """The files that the folder's weight index names; none without an index. Raises CheckpointError for paths."""
    file = folder / WEIGHT_INDEX
    if not file.is_file():
        return []
    try:
        shards = json.loads(file.read_text(encoding="utf-8"))["weight_map"].values()
        names = sorted(set(shards))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read ({error!r}); download it again.") from error
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name or "\\" in name]
    if outside:
        raise CheckpointError(f"{file} names {outside[0]!r}; allowed are names of files in its own folder.")
    return names
