"""The command line: `python -m t4s COMMAND ...`, or `t4s COMMAND ...` after `pip install .`.

    t4s segment photo.jpg "the dog on the left" -o mask.png
    t4s segment photo.jpg "cat" --overlay seen.png --json

`segment` writes the mask as text and, where asked, as a picture; the other commands are the
entry points `t4s/train.py`, `t4s/eval.py`, ... under another name. What goes wrong is one sentence
on stderr and exit code 2.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from t4s.errors import QueryError, T4SError, use_utf8
from t4s.imaging.loading import open_photo

if TYPE_CHECKING:
    from PIL import Image

    from t4s import Segmenter
    from t4s.records import Prediction

# command: (module under t4s, what --help says)
COMMANDS = {
    "train": ("train", "fine-tune a model and publish the checkpoint"),
    "eval": ("eval", "measure a checkpoint on a data set"),
    "bench": ("bench", "decoding and refiners, side by side"),
    "check": ("check", "look over a dataset before training on it"),
    "label": ("label", "label a folder of photos, or a million of them"),
    "import": ("hub.importing", "convert a published LLaVA checkpoint"),
    "export": ("models.plain", "write a plain transformers folder, adapters merged"),
    "grammar": ("decoding.dialects", "the format as a grammar for other engines"),
    "train-edge": ("training.refiner.train", "train the small refiner"),
    "train-tower": ("training.tower.train", "train a vision tower for a fresh embedded model"),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="t4s",
        description="Text4Seg: a language model segments a photo by writing the mask as text.",
        epilog="Each command has its own --help.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    segment = commands.add_parser("segment", help="a photo and a phrase to a mask", description=_segment.__doc__)
    segment.add_argument("photo", help="an image file")
    segment.add_argument("phrase", help='what to segment: "the dog on the left"')
    segment.add_argument("-o", "--output", metavar="FILE", type=Path, help="write the mask, a PNG of the photo's size")
    segment.add_argument("--overlay", metavar="FILE", type=Path, help="write the photo with the mask over it")
    segment.add_argument("--json", action="store_true", help="print everything as one JSON object")
    segment.add_argument("--by-part", action="store_true", help="in that object, a mask for each connected part too")
    segment.add_argument(
        "--refine",
        metavar="NAME",
        help="refiner: none, smooth, guided, crf, edge, sam or sam:SOURCE (default: the checkpoint's own)",
    )
    segment.add_argument("--decoding", metavar="NAME", help="fast (default), constrained or free")
    segment.add_argument("--checkpoint", metavar="SRC", help="a folder or a Hub id (default: the embedded model)")
    segment.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible server that runs --checkpoint")
    segment.add_argument("--model", metavar="NAME", help="the server's name for it (default: --checkpoint)")
    for command, (_, help_text) in COMMANDS.items():
        commands.add_parser(command, help=help_text, add_help=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0, or 2 after one sentence on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    use_utf8()
    try:
        if arguments and arguments[0] in COMMANDS:
            module = import_module(f"t4s.{COMMANDS[arguments[0]][0]}")
            return module.main(arguments[1:]) or 0
        return _segment(_parser().parse_args(arguments))
    except T4SError as error:
        print(f"t4s: {error}", file=sys.stderr)
        return 2


def _segment(options: argparse.Namespace) -> int:
    """Segments one photo: prints the text the model wrote, and writes the mask or an overlay where asked."""
    for target in (options.output, options.overlay):
        _check_target(target, options.photo)
    photo = open_photo(options.photo)  # before torch is loaded: a wrong name is answered at once
    shown = sys.stderr.isatty()
    if shown:
        print("Loading the model …", end="\r", file=sys.stderr, flush=True)
    with _garbage_left():
        _check_question(options)
        segmenter = _segmenter(options)
    chosen = {name: value for name in ("refine", "decoding") if (value := getattr(options, name)) is not None}
    if shown:
        print("\033[K", end="", file=sys.stderr, flush=True)
    prediction = segmenter(photo, options.phrase, **chosen)
    _write(prediction, photo, options)
    if options.json:
        from t4s.imaging import export

        print(json.dumps(export.as_dict(prediction, options.by_part), ensure_ascii=False))
    else:
        from t4s.segmenter.status import explain

        print("\n".join(filter(None, [f"<seg>{prediction.text}</seg>", _summary(prediction), explain(prediction)])))
    return 0


@contextmanager
def _garbage_left() -> Iterator[None]:
    """Garbage is not collected inside, and what stays is never gone through again.

    Importing torch and transformers makes a million objects that all stay. Looking through them again and again takes
    0.7 s of a start, and once more at the end of the process another second.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _segmenter(options: argparse.Namespace) -> Segmenter:
    from transformers.utils import logging

    from t4s import Segmenter

    if options.checkpoint is None:
        logging.disable_progress_bar()  # the embedded model loads in a second; a download may show its bar
    if options.endpoint is None:
        return Segmenter.from_pretrained(options.checkpoint)
    return Segmenter.remote(options.endpoint, options.model, checkpoint=options.checkpoint)


def _check_question(options: argparse.Namespace) -> None:
    """Refuse what cannot be asked before a checkpoint is downloaded or loaded."""
    from t4s.decoding.generate import MODES
    from t4s.refine.refiner import check_refiner
    from t4s.segmenter.queries import check_query

    check_query(options.phrase)
    if options.refine is not None:
        check_refiner(options.refine)
    if options.decoding not in (None, *MODES):
        raise QueryError(f"There is no decoding {options.decoding!r}: choose one of {', '.join(MODES)}.")


def _check_target(target: Path | None, photo: str) -> None:
    """Refuse a file that cannot be written before the model runs, not after."""
    if target is None:
        return
    if target.suffix.lower() != ".png":
        raise QueryError(f"The output {str(target)!r} is not a .png file; masks are written as PNG, name one.")
    if not target.resolve().parent.is_dir():
        raise QueryError(f"The folder of the output {str(target)!r} does not exist; make it first.")
    if target.is_dir() or target.resolve() == Path(photo).resolve():
        raise QueryError(f"The output {str(target)!r} would overwrite a folder or the photo itself; name another file.")


def _write(prediction: Prediction, photo: Image.Image, options: argparse.Namespace) -> None:
    try:
        if options.output is not None:
            from t4s.imaging import export

            options.output.write_bytes(export.mask_png(prediction.mask))
        if options.overlay is not None:
            from t4s.imaging import drawing

            drawing.overlay(photo, prediction.masks).save(options.overlay)
    except OSError as error:
        what = f"The output cannot be written ({error.strerror}: {error.filename})"
        raise QueryError(f"{what}; name another file.") from error


def _summary(prediction: Prediction) -> str:
    """One line of facts for people; `--json` is for programs."""
    stats = prediction.stats
    seconds = sum(value for name, value in stats.items() if name.endswith("_seconds"))
    passes = "1 pass" if stats["forwards"] == 1 else f"{stats['forwards']} passes"
    cost = f"{stats['tokens']} tokens in {passes}, {seconds:.1f} s"
    repaired = "".join(
        f"\nrepaired at row {fault.row}, column {fault.column}: {fault.message}" for fault in prediction.faults
    )
    score = f"score {prediction.score:.2f}" if stats.get("probabilities", True) else "no score from the server"
    if not prediction.present:
        verdict = "nothing drawn" if prediction.status == "unknown word" else "not in this photo"
        return f"{prediction.query}: {verdict} ({score}; {cost}){repaired}"
    return f"{prediction.query}: {score}, box {prediction.box} ({cost}){repaired}"


if __name__ == "__main__":
    sys.exit(main())
