"""t4s label: whole shards or none, the same bytes however often it was killed, and a reason for every failure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import t4s.label
from t4s import codec
from t4s.errors import EndpointError
from t4s.segmenter.labelling import run, workers
from t4s.segmenter.labelling.shards import Shards, arrow, mask_of, schema
from tests.support.kills import kill_and_restart
from tests.support.labels import StandIn

ROOT = Path(__file__).resolve().parents[3]


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "t4s" / "label.py"), *map(str, arguments)]


@pytest.fixture
def standing_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    found = StandIn()
    monkeypatch.setattr(run, "make_segmenter", lambda config: found)
    return found


# --- what is written


def test_rows_hold_everything_about_an_answer(photos: Path, tmp_path: Path, standing_in: StandIn, capsys):
    out = tmp_path / "out"
    assert (
        t4s.label.main([str(photos), "--query", "dog", "--query", "the cat", "-o", str(out), "--shard-size", "4"]) == 0
    )
    shards = Shards.open(out)
    rows = list(shards.all_rows())
    assert [row["index"] for row in rows] == [number for number in range(11) for _ in range(2)]
    assert all(list(row) == schema().names for row in rows)
    assert len({row["id"] for row in rows}) == 22
    first = rows[0]
    with Image.open(photos / "00.png") as image:
        assert (first["width"], first["height"]) == image.size
    mask = mask_of(first, "dog")
    assert mask.shape == (first["height"], first["width"]) and mask.sum() == first["masks"][0]["area"]
    assert (first["photo"], first["query"], first["names"], first["status"]) == ("00.png", "dog", ["dog"], "found")
    assert codec.decode(first["text"]).shape == (4, 4) and first["score"] == 0.5
    assert first["checkpoint"] == "t4s-tiny" and first["revision"].startswith("files:")
    broken = [row for row in rows if row["status"] == "failed"]
    assert [row["photo"] for row in broken] == ["05.png"] * 2 and "cut off" in broken[0]["error"]
    listed = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert [(line["photo"], line["query"]) for line in listed] == [("05.png", "dog"), ("05.png", "the cat")]
    assert "11 photos, 22 answers: 20 found, 2 failed" in capsys.readouterr().out


def test_nothing_is_done_twice(photos: Path, tmp_path: Path, standing_in: StandIn):
    given = [str(photos), "--classes", "dog, cat", "-o", str(tmp_path / "out"), "--shard-size", "4"]
    assert t4s.label.main(given) == 0
    before, asked = files(tmp_path / "out"), standing_in.asked
    assert t4s.label.main(given) == 0
    assert files(tmp_path / "out") == before and standing_in.asked == asked == 10
    (tmp_path / "out" / "labels-00001-of-00003.parquet").unlink()
    (tmp_path / "out" / "labels-00001-of-00003.parquet.77.part").write_text("torn")
    assert t4s.label.main(given) == 0
    assert files(tmp_path / "out") == before and standing_in.asked == asked + 3


def test_parts_share_a_folder(photos: Path, tmp_path: Path, standing_in: StandIn, capsys):
    given = [str(photos), "--query", "dog", "--shard-size", "3", "-o"]
    assert t4s.label.main([*given, str(tmp_path / "whole")]) == 0
    for part in ("1/3", "0/3", "2/3"):
        capsys.readouterr()
        assert t4s.label.main([*given, str(tmp_path / "parts"), "--part", part]) == 0
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_missing_package_is_named_before_any_work(photos: Path, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    arrow.cache_clear()
    assert t4s.label.main([str(photos), "--query", "dog", "-o", str(tmp_path / "out")]) == 2
    assert "pip install" in capsys.readouterr().err and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--query", "cat"], "queries was"),
        (["--query", "dog", "--refine", "none"], "refine was None"),
        (["--query", "dog", "--limit", "5"], "photos was 11"),
    ],
)
def test_a_folder_with_other_labels_is_refused(photos, tmp_path, standing_in, capsys, change, message):
    assert t4s.label.main([str(photos), "--query", "dog", "-o", str(tmp_path / "out")]) == 0
    assert t4s.label.main([str(photos), *change, "-o", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["-o", "OUT"], "Name what to label"),
        (["PHOTOS", "--query", "dog"], "Name what to label"),
        (["PHOTOS", "--query", "", "-o", "OUT"], "1 to 200 characters"),
        (["PHOTOS", "--query", "dog", "--query", "dog", "-o", "OUT"], "given twice"),
        (["PHOTOS", "--query", "dog", "-o", "OUT", "--shard-size", "0"], "--shard-size is 0"),
        (["PHOTOS", "--query", "dog", "-o", "OUT", "--refine", "magic"], "magic"),
        (["PHOTOS", "--query", "dog", "-o", "OUT", "--endpoint", "http://x"], "--endpoint needs --checkpoint"),
        (["PHOTOS", "--query", "dog", "-o", "OUT", "--ray", "--part", "0/2"], "--ray shares the photos itself"),
        (["PHOTOS", "--query", "dog", "-o", "OUT", "--ray", "--cpus", "0"], "give it some of one"),
        (["PHOTOS", "--query", "dog", "-o", "OUT", "--silence", "0"], "--silence is 0"),
        (["PHOTOS", "--merge", "OUT"], "--merge takes the folder"),
        (["--merge", "OUT"], "holds no labels"),
    ],
)
def test_what_cannot_work_is_refused(given: list[str], message: str, photos: Path, tmp_path: Path, capsys):
    places = {"PHOTOS": str(photos), "OUT": str(tmp_path / "out")}
    assert t4s.label.main([places.get(word, word) for word in given]) == 2
    assert message in capsys.readouterr().err


# --- a server that fails


def test_an_overloaded_moment_is_not_a_failure_of_the_photo(photos: Path, tmp_path: Path, monkeypatch, capsys):
    """What a server left unanswered is written down as such, and the same command asks only that again."""
    clean, out = tmp_path / "clean", tmp_path / "out"
    given = [str(photos), "--query", "dog", "--shard-size", "4", "--endpoint", "http://x", "--checkpoint",
             str(ROOT / "assets" / "t4s-tiny"), "--concurrency", "3", "-o"]  # fmt: skip
    good = StandIn()
    monkeypatch.setattr(run, "make_segmenter", lambda config: good)
    assert t4s.label.main([*given, str(clean)]) == 0

    def refuse(number: int) -> None:
        if number % 3 == 0:
            raise EndpointError("The server is overloaded.")

    monkeypatch.setattr(run, "make_segmenter", lambda config: StandIn(refuse))
    assert t4s.label.main([*given, str(out)]) == 1
    lost = [row for row in Shards.open(out).all_rows() if row["status"] == "unanswered"]
    assert 0 < len(lost) < 10 and "asks them again" in capsys.readouterr().err
    again = StandIn()
    monkeypatch.setattr(run, "make_segmenter", lambda config: again)
    assert t4s.label.main([*given, str(out)]) == 0
    assert again.asked == len(lost) and files(out) == files(clean)


def test_a_refused_key_ends_the_run_and_records_nothing(photos: Path, tmp_path: Path, monkeypatch, capsys):
    def refuse(number: int) -> None:
        raise EndpointError("The key was refused.", "server")

    monkeypatch.setattr(run, "make_segmenter", lambda config: StandIn(refuse))
    assert t4s.label.main([str(photos), "--query", "dog", "-o", str(tmp_path / "out")]) == 2
    assert "The key was refused." in capsys.readouterr().err
    assert not list((tmp_path / "out").glob("*.parquet"))


def test_a_photo_that_the_server_refuses_has_failed(photos: Path, tmp_path: Path, monkeypatch):
    def refuse(number: int) -> None:
        if number % 2:
            raise EndpointError("The photo is too large.", "photo")

    monkeypatch.setattr(run, "make_segmenter", lambda config: StandIn(refuse))
    assert t4s.label.main([str(photos), "--query", "dog", "-o", str(tmp_path / "out")]) == 0
    reasons = {row["error"] for row in Shards.open(tmp_path / "out").all_rows() if row["status"] == "failed"}
    assert "The photo is too large." in reasons


def test_a_dead_server_is_given_up(tmp_path: Path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    for number in range(40):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "photos" / f"{number:02d}.png")

    def refuse(number: int) -> None:
        raise EndpointError("Nobody answers.")

    monkeypatch.setattr(run, "make_segmenter", lambda config: StandIn(refuse))
    given = [str(tmp_path / "photos"), "--query", "dog", "-o", str(tmp_path / "out"), "--shard-size", "30"]
    assert t4s.label.main(given) == 2
    assert "16 photos in a row" in capsys.readouterr().err


def test_many_at_a_time_keep_their_order(photos: Path, tmp_path: Path, monkeypatch):
    """Answers that come back in any order are put down in the order of the photos."""

    def wait(number: int) -> None:
        time.sleep(number % 7 / 200)

    monkeypatch.setattr(run, "make_segmenter", lambda config: StandIn(wait))
    given = [str(photos), "--query", "dog", "--shard-size", "4", "--endpoint", "http://x", "--checkpoint",
             str(ROOT / "assets" / "t4s-tiny"), "-o"]  # fmt: skip
    assert t4s.label.main([*given, str(tmp_path / "one"), "--concurrency", "1"]) == 0
    assert t4s.label.main([*given, str(tmp_path / "many"), "--concurrency", "6"]) == 0
    assert files(tmp_path / "one") == files(tmp_path / "many")


def test_only_a_few_photos_are_ahead(photos: Path):
    """A million photos are not queued at once."""
    source = SimpleNamespace(read=0)

    def read(start: int, stop: int):
        for number in range(start, stop):
            source.read += 1
            yield SimpleNamespace(name=str(number), image=photos / "00.png", query=None, fault="")

    source.photos = read
    questions = run.Questions(("dog",), None, "fast", None, "x", "y")
    shards = Shards(Path("unused"), 1000, 10)
    ahead = []
    todo = {shard: {} for shard in range(100)}
    finished = workers.many_at_a_time(StandIn(), source, questions, shards, todo, lambda rows: None, 4)
    for done, (_, rows) in enumerate(finished, 1):
        assert len(rows) == 10
        ahead.append(source.read - 10 * done)
    assert max(ahead) <= 12


# --- killed


@pytest.mark.long
def test_killed_once_and_restarted_it_is_as_if_nothing_had_happened(checkpoint: Path, photos: Path, tmp_path: Path):
    """A real process, killed as soon as its first shard is there."""
    given = command(photos, "--classes", "dog,cat", "--checkpoint", checkpoint, "--shard-size", 1, "-o")
    environment = {**os.environ, "PYTHONPATH": ""}
    out = tmp_path / "out"
    process = subprocess.Popen([*given, str(out)], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(out.glob("*.parquet")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.wait()
    finished = len(list(out.glob("*.parquet")))
    assert 1 <= finished < 11
    done = subprocess.run([*given, str(out)], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and f"{finished}/11" in done.stderr, done.stderr
    t4s.label.main([*given[2:], str(tmp_path / "clean")])
    assert files(out) == files(tmp_path / "clean")


@pytest.mark.long
def test_three_hundred_photos_killed_at_twenty_random_moments(checkpoint: Path, tmp_path: Path):
    folder, rng = tmp_path / "photos", np.random.default_rng(11)
    folder.mkdir()
    for number in range(300):
        Image.fromarray(rng.integers(0, 255, (24, 30, 3), np.uint8)).save(folder / f"{number:03d}.png")
    (folder / "120.png").write_bytes(b"no photo")
    given = command(folder, "--query", "dog", "--query", "cat", "--checkpoint", checkpoint, "--shard-size", 5, "-o")
    environment = {**os.environ, "PYTHONPATH": ""}
    subprocess.run([*given, str(tmp_path / "clean")], env=environment, check=True)
    kill_and_restart([*given, str(tmp_path / "out")], tmp_path / "out", environment, kills=20, rng=rng)
    assert files(tmp_path / "out") == files(tmp_path / "clean")


@pytest.mark.long
def test_ten_thousand_photos_take_no_more_memory_than_two_thousand(tmp_path: Path):
    """With a stand-in for the model: what grows would be ours."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10_000):
        Image.new("RGB", (12, 9), (number % 251, number // 251, 7)).save(folder / f"{number:05d}.png")
    code = (
        "import resource, sys\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "import t4s.label\nfrom t4s.segmenter.labelling import run\nfrom tests.support.labels import StandIn\n"
        "run.make_segmenter = lambda config: StandIn()\n"
        "assert t4s.label.main(sys.argv[1:]) == 0\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )

    def peak(limit: int) -> int:
        given = [str(folder), "--query", "dog", "--limit", str(limit), "-o", str(tmp_path / f"out{limit}")]
        done = subprocess.run([sys.executable, "-c", code, *given], capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stderr
        return int(done.stdout.splitlines()[-1])  # KiB on Linux

    assert peak(10_000) - peak(2_000) < 20_000
