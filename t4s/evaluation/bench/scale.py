"""Photos a second of `t4s label`: one process, several, Ray actors, and concurrent requests to a server.

    python -m t4s.bench scale PHOTOS --query dog --processes 1 2 --actors 1 2
    python -m t4s.bench scale PHOTOS --query dog --processes --endpoint URL --checkpoint ID --concurrency 1 4 16 32

Each row is a run of its own on the same photos, one thread each. The rate is that of the shards after the first ones,
so that loading the model does not count; the seconds are those of the whole run. Memory is the most that all processes
of a run take together, shared pages divided among them (PSS; on Linux, else not measured), a server not included.

A last table turns a rate into the hours that a million photos take on 1, 8 and 64 of what was measured:

    hours = photos / (rate × workers × efficiency) / 3600        efficiency: measured, rate of two / (2 × rate of one)
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from t4s.errors import DataError

ROUNDS = 4  # photos for each worker, at least, so that the start of the first counts little
PROCESSES, ACTORS, REQUESTS = "processes", "Ray actors", "requests at a time to a server"
PROC = Path("/proc")
MILLION = 1_000_000
WORKERS = (1, 8, 64)
LABEL = Path(__file__).resolve().parents[2] / "label.py"


@dataclass(frozen=True)
class Measured:
    """One run. `kind`: what there were `workers` of; `rate`: photos a second after the first shards; `memory`: bytes,
    None if not measured."""

    kind: str
    workers: int
    rate: float
    seconds: float
    memory: int | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("photos", nargs="+", metavar="PHOTOS", help="what to label, as for t4s label")
    add("--query", required=True, metavar="PHRASE", help="what to segment")
    add("--checkpoint", metavar="SRC", help="a folder or a Hub id (default: the embedded model)")
    add("--limit", type=int, default=128, metavar="N", help="photos of a run (128)")
    add("--processes", type=int, nargs="*", default=[1, 2], metavar="N", help="processes that share the photos (1 2)")
    add("--actors", type=int, nargs="*", default=[], metavar="N", help="actors on a Ray cluster of this machine")
    add("--endpoint", metavar="URL", help="an OpenAI-compatible server that runs --checkpoint")
    add("--model", metavar="NAME", help="the server's name for it (default: --checkpoint)")
    add("--concurrency", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32], metavar="N", help="requests at a time")


def run(
    photos: Sequence[str],
    query: str,
    checkpoint: str | None,
    limit: int,
    processes: Sequence[int],
    actors: Sequence[int],
    endpoint: str | None,
    model: str | None,
    concurrency: Sequence[int],
) -> None:
    """Print Markdown tables. DataError."""
    numbers = [*processes, *actors, *(concurrency if endpoint else ())]
    if not numbers or min(numbers) < 1 or limit < ROUNDS * max(numbers):
        raise DataError(
            f"--limit is {limit}; give at least one number of workers from 1, and {ROUNDS} photos for each."
        )
    base = [*photos, "--query", query, "--limit", str(limit), "--shard-size", "1"]
    base += ["--checkpoint", checkpoint] if checkpoint else []
    served = ["--endpoint", endpoint, *(["--model", model] if model else [])] if endpoint else []
    rows = [measure(PROCESSES, n, [[*base, "--part", f"{k}/{n}"] for k in range(n)]) for n in processes]
    rows += [measure(ACTORS, n, [[*base, "--ray", "--actors", str(n)]]) for n in actors]
    for n in concurrency if endpoint else ():
        rows.append(measure(REQUESTS, n, [[*base, *served, "--concurrency", str(n)]]))
    print("\n\n".join(filter(None, (table(rows), million(rows)))))


def measure(kind: str, workers: int, commands: Sequence[Sequence[str]]) -> Measured:
    """Run the commands side by side in a new folder. Raises DataError if one fails."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "labels"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        started, most = time.perf_counter(), 0
        running = [
            subprocess.Popen(
                [sys.executable, str(LABEL), *command, "-o", str(out)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
            for command in commands
        ]
        try:
            while any(process.poll() is None for process in running):
                most = max(most, memory([process.pid for process in running]) or 0)
                time.sleep(0.25)
        finally:
            for process in running:
                process.kill()
        seconds = time.perf_counter() - started
        for process in running:
            said = process.communicate()[1].decode(errors="replace").strip().splitlines()
            if process.returncode:
                raise DataError(f"{workers} {kind}: {said[-1] if said else 'it failed'}")
        times = sorted(file.stat().st_mtime for file in out.glob("labels-*.parquet"))
        return Measured(kind, workers, steady_rate(times, workers), seconds, most or None)


def steady_rate(times: Sequence[float], workers: int) -> float:
    """Photos a second, from the times at which photos were finished; the first of each worker ends its start."""
    if len(times) < 2 * workers:
        raise DataError(f"Only {len(times)} photos were labelled by {workers} workers; name a source with more.")
    return (len(times) - workers) / max(times[-1] - times[workers - 1], 1e-9)


def memory(roots: Sequence[int]) -> int | None:
    """Bytes (PSS) of processes and all below them; None where /proc does not say."""
    if not (PROC / "self" / "smaps_rollup").exists():
        return None
    parents: dict[int, int] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
    found, grown = set(roots), True
    while grown:
        more = {process for process, parent in parents.items() if parent in found} - found
        found, grown = found | more, bool(more)
    return sum(map(_pss, found))


def _pss(process: int) -> int:
    try:
        lines = (PROC / str(process) / "smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0  # it has just ended, or is not ours
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def table(rows: Sequence[Measured]) -> str:
    lines = ["| | number | photos a second | seconds in all | memory, MB |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        used = f"{row.memory / 1e6:.0f}" if row.memory else "not measured"
        lines.append(f"| {row.kind} | {row.workers} | {row.rate:.2f} | {row.seconds:.0f} | {used} |")
    return "\n".join(lines)


def million(rows: Sequence[Measured]) -> str:
    """Hours by the rate of one worker of each kind and the efficiency that was measured; "" if neither was."""
    heads = " | ".join(f"{count} workers" for count in WORKERS)
    lines = [f"| a million photos, hours | efficiency | {heads} |", "|---|---:" + "|---:" * len(WORKERS) + "|"]
    for kind in (PROCESSES, ACTORS):
        alone = next((row.rate for row in rows if row.kind == kind and row.workers == 1), None)
        several = [row for row in rows if row.kind == kind and row.workers > 1]
        if alone is None:
            continue
        efficiency = min(1.0, several[-1].rate / (several[-1].workers * alone)) if several else 1.0
        hours = [MILLION / (alone * (1 if count == 1 else count * efficiency)) / 3600 for count in WORKERS]
        shown = " | ".join(f"{value:,.1f}" for value in hours)
        lines.append(f"| {kind} | {efficiency:.2f}{'' if several else ' (assumed)'} | {shown} |")
    return "\n".join(lines) if len(lines) > 2 else ""
