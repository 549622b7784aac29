"""Measure a checkpoint on a data set.

    python t4s/eval.py --dataset folder:PHOTOS@val                                         # the embedded checkpoint
    python t4s/eval.py --checkpoint ID --dataset refcoco:PATH@val --refine edge --decoding fast
    python t4s/eval.py --dataset ade20k:PATH@val --limit 200 --save predictions
    python t4s/eval.py --dataset folder:PHOTOS@val --oracle grid --refine edge             # no model: the true grids
    python t4s/eval.py --checkpoint ID --dataset vqa:FILE.jsonl                           # VQA accuracy of a chat model
    torchrun --nproc_per_node 4 t4s/eval.py --checkpoint ID --dataset grefcoco:PATH@val

Every photo's answers are written as soon as they are there, so an interrupted run resumes when the same command is
given again; answers measured with other weights, code or data are measured again. Decoding is greedy, queries use the
first template, and all scores are sums of whole numbers: two runs, or one process and four, give the same figures to
the last digit.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run one evaluation; returns the exit code: 0, or 2 (130 if interrupted) after one sentence on stderr."""
    from t4s.errors import T4SError, use_utf8
    from t4s.evaluation.arguments import parse_arguments

    use_utf8()
    try:
        config = parse_arguments(argv, description=__doc__)
        from t4s.evaluation.run import evaluate

        evaluate(config)
    except T4SError as error:
        print(f"t4s eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("t4s eval: interrupted; the same command resumes.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    if not __package__:  # run as a script: t4s/ itself is first on the path, where the package cannot be found
        sys.path[0] = str(Path(__file__).resolve().parent.parent)
    sys.exit(main())
