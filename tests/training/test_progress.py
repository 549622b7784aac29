"""What a run has beside its steps: the clock of --minutes, the average of the weights, photos a second."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from t4s import train
from t4s.models import loading
from t4s.training import trainer
from t4s.training.progress import clock as clocks
from t4s.training.progress.average import AVERAGE_FILE, WeightAverage
from t4s.training.progress.clock import Clock, cosine
from t4s.training.progress.speed import Speed

ROOT = Path(__file__).resolve().parents[2]
TINY = ["--dataset", "synthetic:size=64", "--width", "32", "--layers", "1", "--grid", "4", "4", "--batch", "2",
        "--queries-per-image", "2", "--threads", "1"]  # fmt: skip


def history(out: Path) -> list[dict]:
    return json.loads((trainer.last_state(out / "state") / "trainer_state.json").read_text())["log_history"]


# --- the clock


class Ticks:
    """A fake clock: it stands still, but for what a test adds to `time`."""

    def __init__(self):
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def test_a_clock_counts_from_the_first_step_and_goes_on_where_a_state_was_saved(tmp_path):
    ticks = Ticks()
    clock = Clock(60, ticks)
    ticks.time += 50  # loading
    assert clock.used == clock.share == 0
    clock.start()
    ticks.time += 15
    assert (clock.used, clock.share) == (15, 0.25)
    clock.save(tmp_path)
    later = Clock(120, ticks)
    later.load(tmp_path)
    later.start()
    ticks.time += 15
    assert (later.used, later.share) == (30, 0.25)
    ticks.time += 1000
    assert later.share == 1
    without = Clock(60, ticks)
    without.load(tmp_path / "nothing")
    assert without.used == 0


def test_the_rate_rises_and_falls_with_the_share_of_the_time():
    assert [cosine(share, 0.2) for share in (0, 0.1, 0.2, 0.6, 1)] == pytest.approx([0, 0.5, 1, 0.5, 0])
    assert cosine(0, 0) == 1


@pytest.fixture
def ticking(monkeypatch):
    """Every step of every run takes six seconds of the clock."""
    ticks, usual = Ticks(), trainer.SegTrainer.compute_loss

    def compute(self, *given, **more):
        ticks.time += 6
        return usual(self, *given, **more)

    monkeypatch.setattr(trainer.SegTrainer, "compute_loss", compute)
    monkeypatch.setattr(clocks.Clock, "__init__", with_ticks(clocks.Clock.__init__, ticks))
    return ticks


def with_ticks(usual, ticks):
    return lambda self, seconds: usual(self, seconds, ticks)


def test_minutes_set_the_length_and_the_rates(ticking, tmp_path):
    """One minute of six seconds a step: ten steps, whose rates follow the time that was used before them."""
    on = [*TINY, "--minutes", "1", "--warmup", "0.2", "--lr", "0.01", "--save-steps", "4", "--out", str(tmp_path)]
    assert train.main([*on]) == 0
    state = trainer.last_state(tmp_path / "state")
    assert trainer.step_of(state) == 10
    assert json.loads((state / "clock.json").read_text()) == {"seconds_used": 60}
    (last,) = [line for line in history(tmp_path) if "loss" in line]
    tower = 0.01 / 10 * 0.5 * (1 + math.cos(math.pi * 0.7 / 0.8))  # the last step began after 54 seconds
    assert last["learning_rate"] == pytest.approx(tower)
    assert "| minutes | 1.0 |" in (tmp_path / "README.md").read_text()


def test_a_run_by_the_clock_resumes_with_the_rest_of_its_time(ticking, tmp_path):
    """As if it had never been stopped: the same weights, and no second more."""
    on = [*TINY, "--minutes", "0.6", "--save-steps", "100"]
    assert train.main([*on, "--out", str(tmp_path / "whole")]) == 0
    assert train.main([*on, "--out", str(tmp_path / "parts"), "--stop-after", "2"]) == 0
    ticking.time += 500  # between the two
    assert train.main([*on, "--out", str(tmp_path / "parts"), "--resume"]) == 0
    whole, parts = (tmp_path / name for name in ("whole", "parts"))
    assert trainer.step_of(trainer.last_state(whole / "state")) == 6
    same(whole / "model.safetensors", parts / "model.safetensors")
    same(whole / "state" / "checkpoint-6" / AVERAGE_FILE, parts / "state" / "checkpoint-6" / AVERAGE_FILE)
    assert train.main([*on[:-4], "--minutes", "0.9", "--out", str(parts), "--resume"]) == 0, "longer, as --steps may be"
    assert trainer.step_of(trainer.last_state(parts / "state")) == 9


def same(one: Path, two: Path) -> None:
    first, second = load_file(one), load_file(two)
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=0, rtol=0)


def test_a_few_seconds_from_the_command_line(tmp_path):
    """The script itself, with the real clock: it ends in time, and says how fast it was."""
    command = [sys.executable, str(ROOT / "t4s" / "train.py"), *TINY, "--minutes", "0.05", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    state = trainer.last_state(tmp_path / "state")
    assert 3 <= json.loads((state / "clock.json").read_text())["seconds_used"] < 30
    assert trainer.step_of(state) > 1 and (tmp_path / "model.safetensors").is_file()
    assert re.search(r"'photos_per_second': '?\d", done.stdout) and "'phrases_per_second'" in done.stdout
    assert "/10000000" not in done.stderr, "a bar of ten million steps"


def test_a_dry_run_says_what_the_minutes_mean(tmp_path, capsys):
    assert train.main([*TINY, "--minutes", "3", "--out", str(tmp_path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    (time,) = [line for line in printed.splitlines() if line.startswith("time ")]
    assert re.search(
        r" s a step here, about \d+ steps in --minutes 3, \d+ photos \(.* epochs\); the clock starts", time
    )
    assert "minutes            3.0" in printed and "average            0.998" in printed


@pytest.mark.parametrize("more, said", [
    (["--minutes", "1", "--steps", "4"], "--steps and --minutes both set the length of training"),
    (["--minutes", "1", "--epochs", "4"], "--epochs and --minutes both set the length of training"),
    (["--minutes", "0"], "--minutes is 0.0; allowed are numbers above 0"),
    (["--average", "1"], "--average is 1.0; allowed are numbers from 0 to below 1"),
])  # fmt: skip
def test_lengths_that_cannot_be(tmp_path, capsys, more, said):
    assert train.main([*TINY, *more, "--out", str(tmp_path / "out")]) == 2
    assert said in capsys.readouterr().err


def test_minutes_are_for_one_process(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train.main([*TINY, "--minutes", "1", "--out", str(tmp_path / "out")]) == 2
    assert "--minutes is for one process" in capsys.readouterr().err


# --- the average


def test_the_average_follows_the_weights_and_leaves_them_alone(tmp_path):
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    average = WeightAverage(model, 0.5)
    expected = model.weight.detach().clone()
    average.on_train_begin(None, None, None)
    for step in range(1, 9):
        model.weight.data += step
        average.update()
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    live, bias = model.weight.detach().clone(), model.bias.detach().clone()
    with average.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
        assert not torch.equal(model.weight, live)
    assert torch.equal(model.weight, live) and torch.equal(model.bias, bias)
    average.save(tmp_path)
    again = WeightAverage(model, 0.5)
    again.load(tmp_path)
    again.on_train_begin(None, None, None)
    assert again.steps == 8 and torch.equal(again.average["weight"], average.average["weight"])


def test_what_is_saved_is_the_average(base, tmp_path):
    """The state holds the last weights, the checkpoint their average; with --average 0 they are the same."""
    on = ["--base", str(base), "--full", *TINY[:2], *TINY[9:], "--steps", "3", "--lr", "0.01"]
    for decay, name in (("0.9", "averaged"), ("0", "last")):
        assert train.main([*on, "--average", decay, "--out", str(tmp_path / name)]) == 0
    states = {name: trainer.last_state(tmp_path / name / "state") for name in ("averaged", "last")}
    same(states["averaged"] / "model.safetensors", states["last"] / "model.safetensors")
    average = load_file(states["averaged"] / AVERAGE_FILE)
    saved, live = (dict(loading.load(tmp_path / name).model.named_parameters()) for name in ("averaged", "last"))
    assert average.keys() <= saved.keys() and len(average) > 20
    for name, value in average.items():
        assert torch.equal(saved[name].half(), value.half())
    assert sum(not torch.equal(saved[name], live[name]) for name in average) > len(average) / 2
    assert not (states["last"] / AVERAGE_FILE).exists()


# --- the speed


def test_a_speed_is_of_the_time_since_it_was_last_asked_for():
    ticks = Ticks()
    speed = Speed(ticks)
    for _ in range(3):
        ticks.time += 2
        speed.add(8, torch.tensor(20))
    assert speed.take() == {"photos_per_second": 4.0, "phrases_per_second": 10.0}
    ticks.time += 4
    speed.add(8)
    assert speed.take() == {"photos_per_second": 2.0}
