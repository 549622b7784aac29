"""t4s label --ray: the bytes of one process, whoever is killed. Needs the package `ray`."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import t4s.label
from t4s.errors import DataError
from t4s.segmenter.labelling import workers

ROOT = Path(__file__).resolve().parents[3]
PROC = Path("/proc")
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the package ray is not installed")


@pytest.fixture
def many(tmp_path: Path) -> Path:
    folder, rng = tmp_path / "photos", np.random.default_rng(11)
    folder.mkdir()
    for number in range(300):
        Image.fromarray(rng.integers(0, 255, (24, 30, 3), np.uint8)).save(folder / f"{number:03d}.png")
    (folder / "120.png").write_bytes(b"no photo")
    return folder


def command(photos: Path, checkpoint: Path, out: Path, *more: object) -> list[str]:
    given = [photos, "--query", "dog", "--query", "cat", "--checkpoint", checkpoint, "--shard-size", 4, "-o", out]
    return [sys.executable, str(ROOT / "t4s" / "label.py"), *map(str, given), *map(str, more)]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "HOME": str(tmp_path), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def children(parent: int) -> list[int]:
    """Every process below `parent`."""
    parents = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended
    found, grown = {parent}, True
    while grown:
        more = {process for process, above in parents.items() if above in found} - found
        found, grown = found | more, bool(more)
    return sorted(found - {parent})


def actors(driver: int) -> list[int]:
    found = []
    for process in children(driver):
        try:
            if (PROC / str(process) / "cmdline").read_bytes().startswith(b"ray::_Actor"):
                found.append(process)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


@needs_ray
@pytest.mark.long
@pytest.mark.skipif(not PROC.is_dir(), reason="looks for processes in /proc")
def test_driver_and_actors_are_killed(checkpoint: Path, many: Path, tmp_path: Path):
    """One process for comparison; on Ray, in each of three attempts two actors are killed, and twice the driver."""
    subprocess.run(command(many, checkpoint, tmp_path / "clean"), env=environment(tmp_path), check=True)
    out, killed, rng = tmp_path / "out", 0, random.Random(5)
    for attempt in range(3):
        process = subprocess.Popen(
            command(many, checkpoint, out, "--ray", "--actors", 2), env=environment(tmp_path), stderr=subprocess.DEVNULL
        )
        try:
            before, moments = len(list(out.glob("*.parquet"))), [2, 10]  # shards after which an actor is killed
            deadline = time.monotonic() + 900
            while process.poll() is None and time.monotonic() < deadline:
                done = len(list(out.glob("*.parquet"))) - before
                if attempt < 2 and done >= 20:
                    process.kill()
                elif moments and done >= moments[0] and (found := actors(process.pid)):
                    os.kill(rng.choice(found), signal.SIGKILL)
                    moments.pop(0)
                    killed += 1
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait(60)
    assert process.returncode == 0 and killed == 6
    assert files(out) == files(tmp_path / "clean")


@needs_ray
@pytest.mark.long
def test_what_cannot_work_on_ray_is_said(checkpoint: Path, photos: Path, tmp_path: Path):
    given = command(photos, checkpoint, tmp_path / "out", "--ray", "--gpus", 99)
    done = subprocess.run(given, env=environment(tmp_path), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2 and "lower --actors, --cpus or --gpus" in done.stderr
    given = command(photos, checkpoint, tmp_path / "out", "--ray", "--device", "cuda:7")
    done = subprocess.run(given, env=environment(tmp_path), capture_output=True, text=True, timeout=200)
    assert done.returncode == 2 and "An actor could not start: device is 'cuda:7'" in done.stderr


def test_without_the_package(photos: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    given = [str(photos), "--query", "dog", "--checkpoint", str(checkpoint), "-o", str(tmp_path / "out"), "--ray"]
    assert t4s.label.main(given) == 2
    assert 'needs the package "ray"' in capsys.readouterr().err


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9", "127.0.0.1:port"])
def test_a_cluster_that_is_not_there(address: str):
    with pytest.raises(DataError, match="There is no Ray cluster at"):
        workers._check_cluster(address)
    workers._check_cluster(None)


@pytest.mark.parametrize(
    ("resources", "shares", "fitting"),
    [({"CPU": 8}, (2, 0), 4), ({"CPU": 8, "GPU": 2}, (1, 0.5), 4), ({"CPU": 8, "GPU": 2}, (4, 1), 2)],
)
def test_as_many_actors_as_fit(resources: dict, shares: tuple[float, float], fitting: int):
    config = workers.LabelConfig(cpus=shares[0], gpus=shares[1])
    assert workers._actor_count(config, resources, grows=False) == fitting
    for actors in (1, fitting):
        assert workers._actor_count(replace(config, actors=actors), resources, grows=False) == actors
    more = replace(config, actors=fitting + 1)
    assert workers._actor_count(more, resources, grows=True) == fitting + 1
    with pytest.raises(DataError, match="lower --actors, --cpus or --gpus"):
        workers._actor_count(more, resources, grows=False)  # it would wait for ever
    with pytest.raises(DataError, match="1 actors ask for"):
        workers._actor_count(replace(config, gpus=9.0), resources, grows=True)
