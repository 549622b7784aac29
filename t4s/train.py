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
# ]
# ///
"""Fine-tune an image-text-to-text model to write masks as text, and publish the checkpoint.

    python t4s/train.py --base ID --dataset jsonl:data.jsonl --out runs/mine --push-to-hub  # LoRA on a pretrained model
    python t4s/train.py --base t4s-tiny --dataset jsonl:data.jsonl --out runs/mine          # on the embedded checkpoint
    python t4s/train.py --dataset synthetic --out runs/tiny                                 # a fresh embedded model
    torchrun --nproc_per_node 4 t4s/train.py …                                              # or: accelerate launch

--dry-run prints the settings without training. There are three kinds of training, each with its own defaults: all
weights of a model of the embedded architecture (without --base, or with --base and --full), an adapter (--base alone),
and all weights of any other model (--base and --full).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Train; returns the exit code: 0, or 2 after one sentence on stderr."""
    from t4s.errors import T4SError, use_utf8
    from t4s.training import arguments

    use_utf8()
    config = arguments.parse(argv, __doc__)
    try:
        config.check()
        from t4s.training import run

        run.train(config)
    except T4SError as error:
        print(f"t4s train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
