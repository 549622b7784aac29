"""`t4s export`: a checkpoint as a plain transformers folder, an adapter merged into its base, to serve elsewhere.

    t4s export YOU/mine -o runs/merged --merged
    vllm serve runs/merged

The folder loads by `AutoModelForImageTextToText` alone; `t4s.json` lies beside it, so that `Segmenter` loads it too and
a client of the server knows how to ask, and `grammar.ebnf`, which servers with structured outputs take.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from t4s.errors import CheckpointError, T4SError

GRAMMAR = "grammar.ebnf"
DTYPES = ("float16", "bfloat16", "float32")


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="t4s export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="DIR_OR_ID", help="a folder or a Hub id: a full model or an adapter")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="OUT", help="the new folder")
    parser.add_argument("--merged", action="store_true", required=True, help="merge an adapter into its base")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16", help="of the stored weights (bfloat16)")
    parser.add_argument("--revision", metavar="REV", help="of a Hub id: a branch, tag or commit")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Export; returns the exit code: 0, or 2 after one sentence on stderr."""
    options = arguments().parse_args(argv)
    try:
        export_merged(options.source, options.out, options.dtype, options.revision)
    except T4SError as error:
        print(f"t4s export: {error}", file=sys.stderr)
        return 2
    print(options.out)
    return 0


def export_merged(source: str, out: Path, dtype: str = "bfloat16", revision: str | None = None) -> Path:
    """Write `source` into the new folder `out`; nothing is left there if it fails. Raises CheckpointError."""
    from dataclasses import replace

    from t4s.models.checkpoint import EMBEDDED
    from t4s.models.loading import load

    if out.exists():
        raise CheckpointError(f"{out} exists already; name another folder, or remove that one first.")
    vlm = load(None if source == EMBEDDED else source, revision, device="cpu", dtype=dtype)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        vlm.model.save_pretrained(part)
        vlm.model.generation_config.save_pretrained(part)
        vlm.processor.save_pretrained(part)
        (part / GRAMMAR).write_text(_grammar(vlm.config.grid), encoding="utf-8")
        replace(vlm.config, base_model=None, base_revision=None).write(part)
        os.replace(part, out)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise CheckpointError(f"{out} cannot be written ({error.strerror or error}); name another folder.") from error
    return out


def _grammar(grid: tuple[int, int]) -> str:
    """The format for one phrase, written as LABEL."""
    from t4s.decoding.dialects import grammar_text

    rows, columns = grid
    head = f"# Replace LABEL with the phrase, or run: t4s grammar --shape {rows} {columns} --labels NAME ...\n"
    return head + grammar_text(grid, ("LABEL",))
