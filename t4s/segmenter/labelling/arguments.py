"""The command line of `t4s label` as a typed `LabelConfig`, and everything that can be refused before it starts."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from t4s.errors import DataError, QueryError

SILENCE = 120.0  # seconds
SHARD_SIZE = 100  # photos: what a kill loses at most
Decoding = Literal["fast", "constrained", "free"]


@dataclass(frozen=True)
class LabelConfig:
    """What to label, with what, and where it goes. `parser` has the help for each field."""

    source: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    out: Path | None = None
    checkpoint: str | None = None
    revision: str | None = None
    refine: str | None = None
    decoding: Decoding = "fast"
    classes_per_query: int | None = None
    limit: int | None = None
    shard_size: int = SHARD_SIZE
    part: tuple[int, int] = (0, 1)  # (index from 0, number of parts)
    device: str | None = None
    dtype: str | None = None
    endpoint: str | None = None
    model: str | None = None
    concurrency: int = 8
    silence: float = SILENCE
    ray: str | None = None  # an address; "": a cluster of this machine
    actors: int | None = None
    cpus: float = 1.0
    gpus: float = 0.0
    merge: Path | None = None
    to: Path | None = None
    min_score: float = 0.0


def parse_arguments(argv: Sequence[str] | None = None, description: str | None = None) -> LabelConfig:
    """The command line as a checked LabelConfig. Raises QueryError or DataError; exits on bad usage."""
    options = vars(parser(description).parse_args(argv))
    config = LabelConfig(
        **{name: tuple(value) if isinstance(value, list) else value for name, value in options.items()}
    )
    check(config)
    return config


def parser(description: str | None = None) -> argparse.ArgumentParser:
    """The parser; its option names are the fields of LabelConfig."""
    parser = argparse.ArgumentParser(
        prog="t4s label", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("source", nargs="*", metavar="SOURCE", help="a folder, files, globs, .jsonl, .parquet or OWNER/NAME[@SPLIT]")
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument(
        "--query", action="append", default=[], metavar="PHRASE", help="what to segment; may be repeated"
    )
    asked.add_argument("--classes", type=_names, default=(), metavar="A,B,C", help="names, asked as one class list")
    add("-o", "--out", type=Path, metavar="OUT", help="the folder of the labels; the same command goes on in it")
    add("--checkpoint", metavar="SRC", help="a folder or a Hub id (default: the embedded model)")
    add("--revision", help="revision of a Hub id")
    add("--refine", metavar="NAME", help="refiner (default: the checkpoint's own)")
    add("--decoding", default="fast", choices=("fast", "constrained", "free"))
    add("--classes-per-query", type=int, metavar="N", help="names of a class list per question")
    add("--limit", type=int, metavar="N", help="only the first N photos")
    add("--shard-size", type=int, default=SHARD_SIZE, metavar="N", help=f"photos in a shard ({SHARD_SIZE})")
    add("--part", type=_part, default=(0, 1), metavar="I/N", help="of N processes that share OUT, this is number I")
    add("--device", help='"cpu", "cuda", "cuda:1" (default: a GPU if there is one)')
    add("--dtype", help='"float32", "bfloat16" or "float16" (default: what the device does best)')

    remote = parser.add_argument_group("on a server (its key, if any, in the variable T4S_ENDPOINT_KEY)")
    remote.add_argument(
        "--endpoint", metavar="URL", help="an OpenAI-compatible server; --checkpoint says how to ask it"
    )
    remote.add_argument("--model", metavar="NAME", help="the server's name for it (default: --checkpoint)")
    remote.add_argument("--concurrency", type=int, default=8, metavar="N", help="requests at a time (8)")
    remote.add_argument(
        "--silence", type=float, default=SILENCE, metavar="SECONDS", help=f"without a word: try again ({SILENCE:g})"
    )

    cluster = parser.add_argument_group("on a Ray cluster (pip install ray)")
    cluster.add_argument("--ray", nargs="?", const="", metavar="ADDRESS", help="without an address: this machine")
    cluster.add_argument("--actors", type=int, metavar="N", help="one model each (default: as many as fit)")
    cluster.add_argument("--cpus", type=float, default=1.0, metavar="X", help="cores of an actor (1)")
    cluster.add_argument("--gpus", type=float, default=0.0, metavar="X", help="share of a GPU for an actor (0)")

    merged = parser.add_argument_group("from labels to a data set")
    merged.add_argument("--merge", type=Path, metavar="OUT", help="write COCO JSON, indexed PNGs and JSON lines of OUT")
    merged.add_argument("--to", type=Path, metavar="DIR", help="where to (default: OUT/merged)")
    merged.add_argument(
        "--min-score", type=float, default=0.0, metavar="S", help="leave out photos with an answer below S, 0 to 1"
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _part(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 0 <= index < count:
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1, such as 0/4")
    return index, count


def check(config: LabelConfig) -> None:
    """Refuse what cannot work before anything is loaded. QueryError, DataError, CheckpointError."""
    if config.merge is not None:
        if config.source or config.query or config.classes or config.out:
            raise DataError("--merge takes the folder of finished labels and asks nothing; leave the rest out.")
        if not 0 <= config.min_score <= 1:
            raise QueryError(f"--min-score is {config.min_score}; scores go from 0 to 1.")
        return
    if not config.source or config.out is None:
        raise DataError("Name what to label and where to write: t4s label PHOTOS --query dog -o OUT.")
    if config.out.exists() and not config.out.is_dir():
        raise DataError(f"{config.out} is a file; name a folder.")
    for name in ("limit", "shard_size", "concurrency", "actors", "classes_per_query"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise QueryError(f"--{name.replace('_', '-')} is {value}; it is a number from 1.")
    if config.silence <= 0:
        raise QueryError(f"--silence is {config.silence:g}; it is a number of seconds above 0.")
    if min(config.cpus, config.gpus) < 0 or config.cpus + config.gpus == 0:
        raise QueryError(
            f"An actor has {config.cpus:g} cores and {config.gpus:g} GPUs; give it some of one, 0 or more."
        )
    if config.ray is not None and (config.endpoint or config.part != (0, 1)):
        raise QueryError("--ray shares the photos itself, among models of its own; leave --endpoint and --part out.")
    if config.endpoint and not (config.model or config.checkpoint):
        raise QueryError("--endpoint needs --checkpoint, a folder or Hub id whose t4s.json says how to ask.")
    if config.model and not config.endpoint:
        raise QueryError("--model names a model of a server; give its --endpoint, or use --checkpoint.")
    _check_questions(config)


def _check_questions(config: LabelConfig) -> None:
    from t4s.refine.refiner import check_refiner
    from t4s.segmenter.queries import check_query

    if config.refine is not None:
        check_refiner(config.refine)
    for phrase in config.query:
        check_query(phrase)
    if config.classes:
        check_query(config.classes)
    if len(set(config.query)) < len(config.query):
        raise QueryError("--query is given twice with the same phrase; ask each once.")
