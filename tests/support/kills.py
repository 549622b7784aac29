"""Kills a labelling command (-9) again and again while it starts or writes, then lets it end."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

PATIENCE = 120  # seconds for a start and a few shards


def kill_and_restart(
    command: Sequence[str],
    out: Path,
    environment: Mapping[str, str],
    kills: int,
    rng: np.random.Generator,
    before: Callable[[], object] = lambda: None,
) -> None:
    """Every kill finds the process alive. A moment is one of its start, or shortly after one or two more shards.

    `before` is called before each start. The folder needs more than 2 · `kills` shards, or the work ends too early.
    """
    for _ in range(kills):
        before()
        wanted = _shards(out) + int(rng.integers(0, 3))
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        if wanted == _shards(out):
            time.sleep(rng.uniform(0, 3))
        deadline = time.monotonic() + PATIENCE
        while _shards(out) < wanted and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.03))
        assert process.poll() is None, "it ended before it was killed"
        process.kill()
        process.wait()
        assert all(file.stat().st_size for file in out.glob("*.parquet"))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


def _shards(out: Path) -> int:
    return len(list(out.glob("*.parquet")))
