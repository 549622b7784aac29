"""Measurements, one subcommand each, with its own --help.

python -m t4s.bench decoding --dataset folder:PHOTOS@val     # tokens, passes and seconds per mask
python -m t4s.bench refine --dataset folder:PHOTOS@val       # the refiners, side by side
python -m t4s.bench places --dataset places:PHOTOS@val       # phrases of place and size
python -m t4s.bench absent --dataset folder:PHOTOS@val       # the threshold of the no-target decision
python -m t4s.bench codec                                    # text and grids, beside plain loops
python -m t4s.bench scale PHOTOS --query dog                 # photos a second of t4s label, by workers
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

QUESTIONS = {
    "decoding": "tokens, passes and seconds per mask: layouts, decoding loops and tokenizers side by side",
    "refine": "quality and speed of the refiners",
    "places": "whether the dog on the left is the one on the left",
    "absent": "T-acc and N-acc by the threshold of the no-target decision",
    "codec": "speed of encoding and decoding beside plain loops",
    "scale": "photos a second of t4s label: processes, Ray actors, requests to a server",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand, imported when it is chosen, so that --help is instant; returns the exit code, 0 or 2."""
    from t4s.errors import T4SError, use_utf8

    use_utf8()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="t4s bench", description=__doc__.partition("\n")[0])
    commands = parser.add_subparsers(dest="question", required=True, metavar="QUESTION")
    for question, help_text in QUESTIONS.items():
        command = commands.add_parser(question, help=help_text)
        if arguments[:1] == [question]:
            module = import_module(f"t4s.evaluation.bench.{question}")
            command.description = module.__doc__.partition("\n\n")[0]
            module.add_arguments(command)
    options = vars(parser.parse_args(arguments))
    options.pop("question")
    try:
        module.run(**options)
    except T4SError as error:
        print(f"t4s bench: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
