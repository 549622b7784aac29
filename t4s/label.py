# /// script
# requires-python = ">=3.11"
# dependencies = [
#     'torch>=2.8,<=2.11.0; python_version == "3.12"',
#     'torch>=2.8,<=2.13.0; python_version != "3.12"',
#     "transformers>=5.24,<6",
#     "tokenizers>=0.22,<1",
#     "jinja2>=3.1,<4",
#     "accelerate>=1.15,<2",
#     "peft>=0.21,<1",
#     "safetensors>=0.8,<1",
#     "huggingface_hub>=2.4,<3",
#     "numpy>=2.0,<3",
#     "pillow>=12.3,<13",
#     "scipy>=1.15,<2",
#     "pycocotools>=2.0.10,<3",
#     "tqdm>=4.66,<5",
#     "pyarrow>=21,<27",
#     "datasets>=5,<6",
# ]
# ///
"""Label many photos: every photo is asked the same questions, and the answers go into Parquet shards.

    python t4s/label.py PHOTOS --query "the dog" -o OUT                    # a folder; or: t4s label PHOTOS …
    python t4s/label.py "PHOTOS/*.jpg" --classes cat,dog,sky -o OUT        # names, asked as one list
    python t4s/label.py list.jsonl -o OUT                                  # each line with a query of its own
    python t4s/label.py train-*.parquet --query dog -o OUT --part 0/4      # one of four processes that share OUT
    python t4s/label.py OWNER/NAME@train --query dog -o OUT --ray          # actors on a Ray cluster
    python t4s/label.py PHOTOS --query dog -o OUT --endpoint URL --checkpoint ID --concurrency 32
    python t4s/label.py --merge OUT                                        # COCO JSON, indexed PNGs, JSON lines

A shard is written whole or not at all. The same command goes on where it was stopped, however it was stopped, and the
files are the same to the last byte. A broken photo is listed with its reason and stops nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Label or merge; returns the exit code: 0, 1 (a server left questions unanswered), 2 or 130 (interrupted)."""
    from t4s.errors import T4SError, use_utf8
    from t4s.segmenter.labelling.arguments import parse_arguments

    use_utf8()
    try:
        config = parse_arguments(argv, description=__doc__)
        if config.merge is not None:
            from t4s.segmenter.labelling.merge import merge

            return merge(config.merge, config.to, config.min_score)
        from t4s.segmenter.labelling.run import label

        return label(config)
    except T4SError as error:
        print(f"t4s label: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("t4s label: interrupted; the same command goes on.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
