"""`python -m t4s.hub FOLDER ID`: push a finished checkpoint, for instance again after a failed upload."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from t4s.errors import CheckpointError, use_utf8
from t4s.hub.repository import checkpoint_files, create, push


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m t4s.hub FOLDER ID [--private]`: create the repository if needed, push, print the commit's URL."""
    use_utf8()
    parser = argparse.ArgumentParser(prog="python -m t4s.hub", description="Push a finished checkpoint to the Hub.")
    parser.add_argument("folder", type=Path, help="the folder that training wrote")
    parser.add_argument("id", help="the repository on the Hub, such as user/name")
    parser.add_argument("--private", action="store_true", help="create the repository private")
    options = parser.parse_args(argv)
    try:
        checkpoint_files(options.folder)
        print(push(options.folder, create(options.id, options.private)))
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
