"""The command line of an evaluation, as a typed `EvalConfig`, and everything that can be refused before it starts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t4s.errors import CheckpointError, DataError, QueryError

Decoding = Literal["fast", "constrained", "free"]
OracleMode = Literal["grid", "mask"]


@dataclass(frozen=True)
class EvalConfig:
    """What to measure, on what, and where the results go. `parse_arguments` has the help for each field."""

    dataset: str
    checkpoint: str | None = None
    revision: str | None = None
    refine: str | None = None
    decoding: Decoding = "fast"
    oracle: OracleMode | None = None
    grid: tuple[int, int] | None = None  # (rows, columns)
    classes_per_query: int | None = None
    limit: int | None = None
    min_cover: float = 0.0
    only: tuple[str, ...] = ()
    class_list: tuple[str, ...] = ()
    synonyms: bool = False
    mean_mask_baseline: str | None = None
    out: Path | None = None
    save: Path | None = None
    update_card: bool = False
    device: str | None = None
    dtype: str | None = None
    endpoint: str | None = None
    model: str | None = None


def parse_arguments(argv: Sequence[str] | None = None, description: str | None = None) -> EvalConfig:
    """The command line as a checked EvalConfig. Raises QueryError, DataError, CheckpointError; exits on bad usage."""
    options = vars(parser(description).parse_args(argv))
    config = EvalConfig(**{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()})
    check(config)
    return config


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """The parser; its option names are the fields of EvalConfig."""
    parser = argparse.ArgumentParser(
        prog="t4s eval", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    dataset = parser.add_mutually_exclusive_group(required=True)
    dataset.add_argument("--dataset", metavar="NAME[:PATH][@SPLIT]", help="what to measure on (default split: val)")
    add("--checkpoint", metavar="SRC", help="a folder or a Hub id (default: the embedded model)")
    add("--revision", help="revision of a Hub id")
    add("--refine", metavar="NAME", help="refiner (default: the checkpoint's own)")
    add("--decoding", default="fast", choices=("fast", "constrained", "free"))
    add("--oracle", choices=("grid", "mask"), help="score the true grids (refined) or the true masks, without a model")
    add("--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="grid size of --oracle (default: 16 16)")
    add("--classes-per-query", type=int, metavar="N",
        help="names of a class list per query (default: the checkpoint's own number, or as many as fit)")  # fmt: skip
    add("--limit", type=int, metavar="N", help="only N photos, evenly spaced over the dataset")
    add("--min-cover", type=float, default=0.0, metavar="SHARE",
        help="leave out targets that cover less than this share of the scored pixels (0.01: one percent)")  # fmt: skip
    add(
        "--only", nargs="+", default=(), metavar="PHRASE", help="query only these phrases, on the photos that have them"
    )
    add("--class-list", nargs="+", default=(), metavar="NAME",
        help="query these names as one class list, on each photo that has one of them")  # fmt: skip
    add("--synonyms", action="store_true", help="also query each class by its plural and its synonyms")
    add("--mean-mask-baseline", metavar="NAME[:PATH][@SPLIT]",
        help="also score a baseline without a model: each class's mean mask over these photos")  # fmt: skip
    add("--out", type=Path, help="folder of the run: results.json, and the log that a stopped run resumes from")
    add("--save", type=Path, metavar="DIR", help="write the predictions (JSON lines, COCO RLE) and a sheet of pictures")
    add("--update-card", action="store_true", help="write the figures into a checkpoint folder's card and t4s.json")
    add("--device", help='"cpu", "cuda", "cuda:1" (default: a GPU if there is one)')
    add("--dtype", help='"float32", "bfloat16" or "float16" (default: what the device does best)')
    add("--endpoint", metavar="URL", help="an OpenAI-compatible server that runs --checkpoint")
    add("--model", metavar="NAME", help="the server's name for it (default: --checkpoint)")

    # names of earlier versions
    hidden = {"help": argparse.SUPPRESS, "default": argparse.SUPPRESS}
    dataset.add_argument("--corpus", dest="dataset", **hidden)
    add("--at-once", dest="classes_per_query", type=int, **hidden)
    add("--together", dest="class_list", nargs="+", **hidden)
    add("--other-words", dest="synonyms", action="store_true", **hidden)
    add("--average-from", dest="mean_mask_baseline", **hidden)
    return parser


def check(config: EvalConfig) -> None:
    """Refuse what cannot work before anything is loaded. QueryError, DataError, CheckpointError."""
    from t4s.refine.refiner import check_refiner

    if config.refine is not None:
        check_refiner(config.refine)
    _check_numbers(config)
    if config.oracle and config.checkpoint:
        raise QueryError("--oracle stands in for a model, so it needs none; leave --checkpoint or --oracle out.")
    if config.endpoint and config.oracle:
        raise QueryError("--oracle asks no model, and --endpoint names a server that runs one; leave one of them out.")
    if config.grid and not config.oracle:
        raise QueryError("--grid is the grid size of --oracle, and a checkpoint has its own; leave it out.")
    if config.class_list and (config.only or config.synonyms):
        raise QueryError("--class-list queries its own names alone; leave --only and --synonyms out.")
    if len(set(config.class_list)) < len(config.class_list):
        raise QueryError(f"--class-list repeats a name ({', '.join(config.class_list)}); name each once.")
    for folder in (config.out, config.save):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise DataError(f"{folder} is a file; name a folder.")
    if config.update_card:
        _check_update_card(config)


def _check_numbers(config: EvalConfig) -> None:
    if config.limit is not None and config.limit < 1:
        raise QueryError(f"--limit is {config.limit}; it is a number of photos, at least 1.")
    if not 0 <= config.min_cover < 1:
        raise QueryError(f"--min-cover is {config.min_cover}; it is a share of the photo, from 0 to below 1.")
    if config.classes_per_query is not None and config.classes_per_query < 1:
        raise QueryError(f"--classes-per-query is {config.classes_per_query}; it is a number of names, at least 1.")


def _check_update_card(config: EvalConfig) -> None:
    """Refuse a card that cannot take the figures now, and not after hours."""
    from t4s import hub
    from t4s.assets import asset
    from t4s.models.checkpoint import EMBEDDED

    if config.only or config.class_list:
        raise QueryError(
            "--update-card publishes figures over all phrases of a dataset; leave --only, --class-list or "
            "--update-card out."
        )
    if config.oracle:
        raise QueryError(
            "--update-card publishes figures of a checkpoint, --oracle has none; leave one of the two out."
        )
    if config.checkpoint and not Path(config.checkpoint).is_dir():
        raise QueryError(
            f"--update-card writes into a checkpoint's folder, and there is no folder {config.checkpoint!r} here; "
            "download it, update its card, and push it with `python -m t4s.hub FOLDER ID`."
        )
    card = (Path(config.checkpoint) if config.checkpoint else asset(EMBEDDED)) / hub.CARD
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if not all(mark in text for mark in hub.FIGURES):
        raise CheckpointError(
            f"{card} has no place for figures; add the lines {hub.FIGURES[0]} and {hub.FIGURES[1]} "
            "where they belong, or leave --update-card out."
        )


def check_vqa(config: EvalConfig) -> None:
    """Refuse options about masks for a dataset that has none. QueryError."""
    about_masks = {
        "--oracle": config.oracle,
        "--refine": config.refine,
        "--min-cover": config.min_cover,
        "--classes-per-query": config.classes_per_query,
        "--synonyms": config.synonyms,
        "--only": config.only,
        "--class-list": config.class_list,
        "--mean-mask-baseline": config.mean_mask_baseline,
        "--endpoint": config.endpoint,
    }
    given = [name for name, value in about_masks.items() if value]
    if given:
        raise QueryError(f"{given[0]} is about masks, and a vqa dataset has none; leave it out.")
