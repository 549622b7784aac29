"""`t4s import`: convert a checkpoint in the original LLaVA layout.

t4s import lmc22/text4seg-llava-7b-p24 -o runs/text4seg
t4s import FOLDER -o runs/mine --grid 16 16
t4s import LORA_FOLDER --base VICUNA_FOLDER -o runs/mine --grid 16 16 --push-to-hub YOU/mine
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from t4s import hub
from t4s.errors import CheckpointError, T4SError
from t4s.models.original import convert


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="t4s import", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", metavar="ID_OR_FOLDER", help="a known Hub id, or a folder in the original LLaVA layout"
    )
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="DIR", help="the new folder")
    parser.add_argument(
        "--grid", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="of a folder: the grid it writes"
    )
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="of a LoRA folder: the Vicuna it was trained on")
    parser.add_argument("--tower", type=Path, metavar="FOLDER", help="CLIP, where the weights do not hold it")
    parser.add_argument("--revision", metavar="REV", help="of a Hub id: a branch, tag or commit")
    parser.add_argument("--push-to-hub", metavar="ID", help="then push the folder to this repository")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Convert; returns the exit code: 0, or 2 after one sentence on stderr."""
    options = arguments().parse_args(argv)
    try:
        repo_id = hub.create(options.push_to_hub) if options.push_to_hub else None
        run(options.source, options.out, options)
        if repo_id:
            print(hub.push(options.out, repo_id))
    except T4SError as error:
        print(f"t4s import: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


def run(source: str, out: Path, options: argparse.Namespace) -> None:
    """Convert. Raises CheckpointError."""
    if Path(source).is_dir():
        if options.grid is None:
            raise CheckpointError("A folder does not say which grid it writes; give it with --grid ROWS COLUMNS.")
        convert.convert(Path(source), out, tuple(options.grid), base=options.base, tower=options.tower)
    elif source in convert.KNOWN["checkpoints"]:
        convert.convert_id(source, out, options.revision)
    else:
        known = ", ".join(convert.KNOWN["checkpoints"])
        raise CheckpointError(
            f"{source} is neither a folder nor a known id ({known}); download it and name its folder."
        )
