"""Training from the command line: a model, its checkpoint, going on where it stopped, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from t4s import DataError, Segmenter, backbone, codec, learning, publishing, starting, train, validation

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--corpus", "synthetic", "--width", "32", "--layers", "1", "--grid", "4", "4", "--batch", "2",
         "--queries-per-image", "2", "--threads", "1", "--save-steps", "2"]  # fmt: skip
ADAPTER = ["--corpus", "synthetic", "--batch", "2", "--total-batch", "2", "--queries-per-image", "2", "--threads", "1",
           "--save-steps", "2", "--lora-rank", "4", "--lr", "0.01"]  # fmt: skip


@pytest.fixture(autouse=True)
def _small_pictures(monkeypatch):
    """Answers of an untrained model are long."""
    monkeypatch.setattr(train, "SHOWN", 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """A small untrained checkpoint of the embedded architecture, to train on."""
    folder = tmp_path_factory.mktemp("base")
    publishing.write(starting.fresh(["circle", "star"], (4, 4), width=32, layers=1, seed=0), None, folder)
    return folder


def run(out: Path, *more: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "t4s" / "train.py"), *SMALL, "--out", str(out), *more]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def same(one: Path, two: Path, name: str) -> None:
    first, second = load_file(one / name), load_file(two / name)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=0, rtol=0)


# --- what comes out

def test_a_checkpoint_from_nothing_but_scenes(tmp_path, examples):
    """The script, started elsewhere, leaves a folder that the front door opens; its answers are valid."""
    done = run(tmp_path / "out", "--steps", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    form = json.loads((tmp_path / "out" / "t4s.json").read_text())
    assert form["grid"] == [4, 4] and form["positions"] == "cells"
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float16}
    prediction = Segmenter.from_pretrained(tmp_path / "out", device="cpu")(examples / "gull.jpg", "bird", refine="none")
    assert codec.decode(prediction.text, (4, 4)) == prediction.grid
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not measured." in card and "| kind | embedded |" in card and "predictions.png" in card
    assert Image.open(tmp_path / "out" / "predictions.png").width > 400


def test_an_adapter_resumed_and_watched_is_as_one_that_ran_through(base, tmp_path):
    """Interrupted after two steps of four, and evaluated twice: neither may move a weight by a bit."""
    through, parts = tmp_path / "through", tmp_path / "parts"
    on = ["--base", str(base), *ADAPTER, "--steps", "4"]
    assert train.main([*on, "--out", str(through)]) == 0
    watched = [*on, "--out", str(parts), "--validate", "synthetic:scenes=1", "--validate-photos", "1"]
    assert train.main([*watched, "--stop-after", "2"]) == 0
    assert train.main([*watched, "--resume"]) == 0
    same(through, parts, "adapter_model.safetensors")
    last = [json.loads((learning.last_state(out / "state") / "trainer_state.json").read_text())["log_history"][-2:]
            for out in (through, parts)]  # fmt: skip
    assert [line["loss"] for lines in last for line in lines if "loss" in line][0] is not None
    lines = [json.loads(line) for line in (parts / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4] and all(0 <= line["valid"] <= 100 for line in lines)
    assert {file.name for file in (parts / "validation").iterdir()} == {"step-000002.png", "step-000004.png"}
    card = (parts / "README.md").read_text()
    assert "| valid |" in card and "synthetic:scenes=1, 1 photos, free decoding" in card
    assert str(tmp_path) not in card


def test_resumed_in_full_ends_where_an_uninterrupted_run_ends(tmp_path):
    """Trainer alone starts a LLaVA again from its first weights, and only warns."""
    train.main([*SMALL, "--out", str(tmp_path / "whole"), "--steps", "4"])
    train.main([*SMALL, "--out", str(tmp_path / "parts"), "--steps", "4", "--stop-after", "2"])
    train.main([*SMALL, "--out", str(tmp_path / "parts"), "--steps", "4", "--resume"])
    same(tmp_path / "whole", tmp_path / "parts", "model.safetensors")


def test_an_adapter_is_bound_to_its_base(base, tmp_path):
    """With other weights below it an adapter answers nonsense, and nothing in its shapes shows it."""
    moved, out = tmp_path / "base", tmp_path / "out"
    publishing.write(backbone.load(base, device="cpu"), None, moved)
    assert train.main(["--base", str(moved), *ADAPTER, "--out", str(out), "--steps", "1"]) == 0
    form = json.loads((out / "t4s.json").read_text())
    assert form["base_model"] == str(moved) and form["base_revision"].startswith("files:")
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(moved)
    Segmenter.from_pretrained(out, device="cpu")
    publishing.write(starting.fresh(["circle"], (4, 4), width=32, layers=1, seed=5), None, moved)
    with pytest.raises(backbone.CheckpointError, match="was trained on another"):
        Segmenter.from_pretrained(out, device="cpu")
    (moved / "t4s.json").rename(tmp_path / "t4s.json")
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(backbone.CheckpointError, match="needs its base model, .* neither a folder nor a Hub id"):
        Segmenter.from_pretrained(out, device="cpu")


def test_merged_is_as_adapted(base, tmp_path):
    out = tmp_path / "out"
    assert train.main(["--base", str(base), *ADAPTER, "--out", str(out), "--steps", "2"]) == 0
    adapted = backbone.load(out, device="cpu").model.state_dict()
    publishing.merge(out)
    assert not list(out.glob("adapter*")) and not (out / publishing.NEW).exists()
    assert json.loads((out / "t4s.json").read_text())["base_model"] is None
    merged = backbone.load(out, device="cpu").model.state_dict()
    for name, weight in adapted.items():
        torch.testing.assert_close(weight, merged[name], atol=1e-3, rtol=1e-2)


def test_a_dry_run_says_everything_and_writes_a_picture(base, tmp_path, capsys):
    assert train.main(["--base", str(base), *ADAPTER, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    for line in ("kind               lora", "lora-rank          4", "total-batch        2", "warmup             0.03",
                 "grid               4×4", "positions          cells"):  # fmt: skip
        assert line in said.splitlines()
    assert " of them learnt; 0 of 32 drawn are too long" in said and "<image>×16" in said and "</seg>" in said
    (trained,) = [line.split()[1] for line in said.splitlines() if line.startswith("trained")]
    assert 0 < int(trained.replace(",", "")) < 100_000
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["sample.png"]


# --- several processes

@pytest.mark.parametrize("texts", ["unequal", pytest.param("equal", marks=pytest.mark.long)])
def test_two_processes_learn_what_one_with_twice_the_batch_does(texts, tmp_path):
    """A mean of each process's mean would weigh a word of a short answer more than one of a long answer."""
    steps, environment = str(ROOT / "tests" / "equal_steps.py"), {**os.environ, "PYTHONPATH": str(ROOT)}
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    for before, name, photos, processes in (([], "one", "2", 1), (torchrun, "two", "1", 2)):
        command = [sys.executable, *before, steps, str(tmp_path / name), photos, texts]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
        assert done.stdout.count(f"{processes} processes") == processes, done.stdout + done.stderr
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-12, rtol=1e-9)


# --- what goes wrong

@pytest.mark.parametrize("more, said", [
    (["--full"], "there is none"),
    (["--base", "no/such/model/here"], "neither a folder nor a Hub id"),
    (["--base", "someone/nothing"], "could not be fetched from the Hub"),
    (["--base", "BASE", "--quantize", "4bit"], "needs a CUDA device; this one is cpu"),
    (["--base", "BASE", "--full", "--quantize", "4bit"], "is not trained itself"),
    (["--base", "BASE", "--grid", "8", "8"], "is made for 4×4 cells"),
    (["--base", "EMPTY"], "holds no .safetensors weights|is no model that transformers loads"),
    (["--batch", "0"], "--batch is 0"),
    (["--steps", "3", "--epochs", "2"], "leave one of them out"),
    (["--batch", "2", "--total-batch", "5"], "no multiple of --batch 2 times 1"),
    (["--corpus", "jsonl:EMPTY/none.jsonl"], "There is no file"),
    (["--corpus", "jsonl:EMPTY/empty.jsonl"], "it has no lines"),
    (["--corpus", "jsonl:EMPTY/broken.jsonl"], "broken.jsonl, line 1501 is no JSON object"),
    (["--validate", "folder:EMPTY"], "index.jsonl is not there"),
    (["--report-to", "trackio"], "pip install trackio"),
    (["--resume"], "holds no state to resume"),
    (["--fsdp", "--validate", "synthetic"], "measure the checkpoint with t4s/eval.py"),
])  # fmt: skip
def test_bad_input_is_one_sentence_before_anything_is_trained(base, tmp_path, capsys, monkeypatch, more, said):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "empty.jsonl").write_text("")
    good = json.dumps({"image": "a.png", "query": "dog", "absent": True})
    Image.new("RGB", (8, 8)).save(empty / "a.png")
    (empty / "broken.jsonl").write_text("\n".join([good] * 1500 + ["{"] + [good] * 1500))
    monkeypatch.setattr(train, "find_spec", lambda name: None)
    more = [word.replace("BASE", str(base)).replace("EMPTY", str(empty)) for word in more]
    before = [] if "--corpus" in more else ["--corpus", "synthetic"]
    assert train.main([*before, "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert [part for part in said.split("|") if part in error], error
    assert error.startswith("t4s train: ") and error.count("\n") == 1 and len(error) < 600, error
    assert not (tmp_path / "out" / "state").exists()


def stopped_at(step: int, error: Exception, monkeypatch) -> None:
    """Training raises `error` in the step after `step`."""
    usual = learning.Learner.compute_loss

    def compute(self, *args, **more):
        if self.state.global_step == step:
            raise error
        return usual(self, *args, **more)

    monkeypatch.setattr(learning.Learner, "compute_loss", compute)


@pytest.mark.parametrize("error, said", [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "Out of memory on cpu: lower --batch"),
    pytest.param(KeyboardInterrupt(), "Interrupted.", marks=pytest.mark.long),
    pytest.param(DataError("a.png cannot be read; save it again."), "a.png cannot", marks=pytest.mark.long),
])  # fmt: skip
def test_what_stops_training_keeps_the_last_step(base, tmp_path, capsys, monkeypatch, error, said):
    on = ["--base", str(base), *ADAPTER, "--out", str(tmp_path), "--steps", "4", "--save-steps", "100"]
    with monkeypatch.context() as patched:
        stopped_at(3, error, patched)
        assert train.main(on) == 2
    told = capsys.readouterr().err
    assert said in told and "The state of step 3 is kept; the same command with --resume goes on from there." in told
    assert train.main([*on, "--resume"]) == 0
    assert json.loads((tmp_path / "state" / "checkpoint-4" / "trainer_state.json").read_text())["global_step"] == 4


def test_a_full_disk_costs_nothing_that_was_trained(base, tmp_path, capsys, monkeypatch):
    """Half a state of step 4 was taken for the last one, and half a model written over the good one."""
    on = ["--base", str(base), "--full", *SMALL[:2], *SMALL[9:], "--out", str(tmp_path), "--steps", "4"]
    with monkeypatch.context() as patched:
        usual = learning.Learner._save_optimizer_and_scheduler

        def full(self, folder):
            if self.state.global_step == 4:
                raise SafetensorError("I/O error: No space left on device (os error 28)")
            usual(self, folder)

        patched.setattr(learning.Learner, "_save_optimizer_and_scheduler", full)
        assert train.main(on) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("t4s train: ") and "make room on the disk. The state of step 2 is kept" in said
    assert [state.name for state in (tmp_path / "state").glob("checkpoint-*")] == ["checkpoint-2"]
    kept = (tmp_path / "model.safetensors").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(publishing, "_move", lambda new, folder: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert train.main([*on, "--resume"]) == 2
    assert (tmp_path / "model.safetensors").read_bytes() == kept and "t4s train: " in capsys.readouterr().err
    assert train.main([*on, "--resume"]) == 0
    assert (tmp_path / "model.safetensors").read_bytes() != kept


def test_no_room_is_said_before_training(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(learning.shutil, "disk_usage", lambda folder: learning.shutil._ntuple_diskusage(9, 9, 0))
    assert train.main(["--base", str(base), *ADAPTER, "--out", str(tmp_path), "--steps", "1"]) == 2
    assert "make room or choose another --out" in capsys.readouterr().err


def test_an_evaluation_leaves_the_model_as_it_was(base):
    """Several in a row: no mode, cache or random number may be left over, even when one breaks off."""
    from t4s.corpora import open_corpus

    loaded = backbone.load(base, device="cpu")
    loaded.model.train()
    loaded.model.model.vision_tower.eval()
    modes = {name: module.training for name, module in loaded.model.named_modules()}
    held = {name: id(value) for name, value in vars(loaded.model.model).items()}
    random = torch.random.get_rng_state()
    watch = validation.Validation(open_corpus("synthetic:scenes=2@val"), 2, glance=True)
    first, second = (watch.run(loaded) for _ in range(2))
    assert first.figures == second.figures and first.answers == second.answers == 2
    watch.photos = [99]
    with pytest.raises(IndexError):
        watch.run(loaded)
    assert modes == {name: module.training for name, module in loaded.model.named_modules()}
    assert held == {name: id(value) for name, value in vars(loaded.model.model).items()}
    assert torch.equal(random, torch.random.get_rng_state())
