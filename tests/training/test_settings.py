"""What a run is given and what it finds: defaults for few photos, an earlier run in --out, settings that changed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from t4s import assets, train
from t4s.models.checkpoint import CheckpointConfig
from t4s.segmenter.status import status_of
from t4s.training import arguments
from t4s.training.config import MIN_STEPS
from t4s.training.model import with_taught_words
from t4s.training.refiner import train as train_edge
from t4s.training.run import TrainingRun
from t4s.training.tower import train as train_tower

ADAPTER = ["--dataset", "synthetic", "--batch", "1", "--total-batch", "1", "--queries-per-image", "1", "--threads", "1",
           "--lora-rank", "2"]  # fmt: skip


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "finished"
    assert train.main(["--base", str(base), *ADAPTER, "--steps", "2", "--out", str(out)]) == 0
    return out


def refused(capsys, *command: str) -> str:
    """The sentence with which train.py refuses."""
    capsys.readouterr()  # the progress bars of earlier runs
    assert train.main(list(command)) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error and error.endswith("\n"), error
    sentence = error.splitlines()[-1]  # loading and its progress come before it
    assert sentence.startswith("t4s train: "), error
    return sentence


# --- few photos


@pytest.mark.parametrize("photos", [1, 5, 26, 100, 1000, 50_000])
def test_few_photos_still_give_many_steps(photos):
    """26 lines gave one step: a batch of 128 questions, and five epochs of less than one."""
    given = arguments.parse(["--dataset", "synthetic", "--base", "x", "--out", "y"])
    config = given.resolve("lora", "llava", photos=photos, shared_prefix=True, world=1)
    assert config.steps >= MIN_STEPS and config.steps * config.total_batch >= 5 * photos - config.total_batch
    assert config.total_batch == config.batch * config.accumulate
    assert (config.total_batch == 32) == (photos >= 1000), "the published batch where it fits"


def test_what_is_asked_for_is_not_changed():
    given = ["--dataset", "synthetic", "--base", "x", "--out", "y"]

    def resolved(*more: str):
        return arguments.parse([*given, *more]).resolve("lora", "llava", photos=26, shared_prefix=True, world=1)

    assert resolved("--steps", "3").total_batch == 32 and resolved("--steps", "3").steps == 3
    assert resolved("--total-batch", "8").total_batch == 8
    assert resolved("--batch", "4").batch == 4
    assert resolved("--epochs", "2", "--total-batch", "26", "--batch", "1").steps == 2


def test_a_dry_run_says_how_long_it_takes(base, tmp_path, capsys):
    assert train.main(["--base", str(base), *ADAPTER, "--steps", "30", "--out", str(tmp_path), "--dry-run"]) == 0
    printed = capsys.readouterr().out
    (time,) = [line for line in printed.splitlines() if line.startswith("time ")]
    assert " s a step here, about " in time and time.endswith("for all 30 steps")
    assert any(line.startswith("epochs ") for line in printed.splitlines())


def test_no_photo_is_trained_and_validated_on(tmp_path):
    """A jsonl file without splits on both sides: a share is held out."""
    lines = []
    for number in range(12):
        Image.new("RGB", (16, 16), (20 * number, 0, 0)).save(tmp_path / f"{number}.png")
        lines.append(json.dumps({"image": f"{number}.png", "query": "dog", "absent": True}))
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    data = f"jsonl:{tmp_path / 'data.jsonl'}"
    small = ["--width", "32", "--layers", "1", "--grid", "4", "4"]
    with pytest.warns(UserWarning, match="held out"):
        prepared = TrainingRun.prepare(
            arguments.parse(["--dataset", data, "--validate", data, *small, "--out", str(tmp_path / "out")])
        )
    (trained,), held_out = prepared.mixture.datasets, prepared.validation.dataset

    def photos(dataset) -> set[bytes]:
        return {dataset[i][0].image.tobytes() for i in range(len(dataset))}

    assert photos(trained) and photos(held_out) and not photos(trained) & photos(held_out)
    assert len(photos(trained) | photos(held_out)) == 12


# --- tokens that a base lacks


@pytest.mark.parametrize("lacking, works", [("pad_token", True), ("eos_token", False)])
def test_a_base_without_a_pad_or_an_end_token(base, tmp_path, capsys, lacking, works):
    """--dry-run passed, and training died at step 1."""
    lame = tmp_path / "base"
    lame.mkdir()
    for file in base.iterdir():
        if file.is_file():
            (lame / file.name).write_bytes(file.read_bytes())
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (lame / name).is_file():
            content = json.loads((lame / name).read_text())
            content.pop(lacking, None)
            (lame / name).write_text(json.dumps(content))
    on = ["--base", str(lame), *ADAPTER, "--batch", "2", "--total-batch", "2", "--steps", "1"]
    if works:
        assert train.main([*on, "--out", str(tmp_path / "out")]) == 0
    else:
        for more in (["--dry-run"], []):
            assert "has no end-of-text token" in refused(capsys, *on, *more, "--out", str(tmp_path / "out"))


# --- an earlier run in --out


def test_a_finished_checkpoint_is_not_replaced(base, finished, capsys):
    before = {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}
    on = ["--base", str(base), *ADAPTER, "--steps", "1", "--lr", "0.5", "--out", str(finished)]
    assert "holds an earlier run; continue it with --resume" in refused(capsys, *on)
    assert before == {file: file.read_bytes() for file in finished.rglob("*") if file.is_file()}


@pytest.mark.parametrize("more, difference", [
    (["--lora-rank", "4"], "--lora-rank 4 (was 2)"),
    (["--lr", "0.5"], "--lr 0.5 (was 0.0002)"),
    (["--seed", "3", "--warmup", "0.5"], "--seed 3 (was 0), --warmup 0.5 (was 0.03)"),
    (["--batch", "2", "--total-batch", "2"], "--total-batch 2 (was 1)"),
    (["--dataset", "synthetic:scenes=4"], "--dataset synthetic synthetic:scenes=4 (was synthetic)"),
    (["--full"], "--full True (was not given)"),
    (["--steps", "1"], "--steps is 1, and the run in"),
])  # fmt: skip
def test_resuming_with_other_settings_lists_them(base, finished, capsys, more, difference):
    on = ["--base", str(base), *ADAPTER, "--steps", "2", "--out", str(finished), "--resume"]
    assert difference in refused(capsys, *on, *more)


def test_resuming_a_fresh_model_with_another_grid_is_refused(tmp_path, capsys):
    on = ["--dataset", "synthetic", "--width", "32", "--layers", "1", "--batch", "1", "--threads", "1", "--out",
          str(tmp_path / "out"), "--queries-per-image", "1", "--steps", "1"]  # fmt: skip
    assert train.main([*on, "--grid", "4", "4"]) == 0
    assert "--grid 8 8 (was 4 4)" in refused(capsys, *on, "--grid", "8", "8", "--resume")
    assert "--width 64 (was 32)" in refused(capsys, *on, "--grid", "4", "4", "--width", "64", "--resume")


def test_a_longer_run_may_be_resumed(base, tmp_path):
    """And a step's photos may be divided in another way, as the message on full memory advises."""
    on = ["--base", str(base), *ADAPTER, "--out", str(tmp_path / "out"), "--batch", "2", "--total-batch", "2"]
    assert train.main([*on, "--steps", "1"]) == 0
    assert train.main([*on, "--steps", "2", "--batch", "1", "--save-steps", "7", "--resume"]) == 0
    assert (tmp_path / "out" / "state" / "checkpoint-2").is_dir()


def test_a_folder_that_cannot_be_written_is_a_sentence(base, tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    on = ["--base", str(base), *ADAPTER, "--steps", "1"]
    assert "cannot be written (Not a directory)" in refused(capsys, *on, "--out", str(tmp_path / "file" / "out"))

    def denied(self, *_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "touch", denied)
    assert "cannot be written (Permission denied); choose another folder" in refused(
        capsys, *on, "--out", str(tmp_path / "out")
    )


def test_tower_and_refiner_do_not_replace_an_earlier_run(tmp_path, capsys):
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    for entry in (train_tower, train_edge):
        assert entry.main(["--dataset", "synthetic", "--out", str(tmp_path)]) == 2
        assert "holds an earlier run" in capsys.readouterr().err


def test_old_command_lines_of_tower_and_refiner():
    assert train_tower.parse(["--corpus", "folder:x", "--out", "y", "--save-every", "7"]) == train_tower.parse(
        ["--dataset", "folder:x", "--out", "y", "--save-steps", "7"]
    )
    old = ["--corpus", "folder:x", "--without", "caltech", "--own", "embedded", "--own-photos", "9", "--out", "y"]
    new = ["--dataset", "folder:x", "--exclude-sources", "caltech", "--model-grids", "embedded",
           "--model-grids-photos", "9", "--out", "y"]  # fmt: skip
    assert train_edge.parse(old) == train_edge.parse(new)


def test_what_is_trained_from_the_embedded_checkpoint_knows_what_its_data_teach(tmp_path):
    """A name that was taught is no unknown word. Which words a phrase may have beside one is not known."""
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    lines = [{"image": "a.png", "query": query, "absent": True} for query in ("a red gizmo", "the cat", "猫", "cats")]
    (tmp_path / "data.jsonl").write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    given = ["--base", "t4s-tiny", "--dataset", f"jsonl:{tmp_path}/data.jsonl", "--dataset", "synthetic"]
    prepared = TrainingRun.prepare(arguments.parse([*given, "--threads", "1", "--out", str(tmp_path / "out")]))
    config, before = prepared.vlm.config, CheckpointConfig.read(assets.asset("t4s-tiny"))
    assert set(config.names) - set(before.names) >= {"gizmo", "hexagon", "猫"}
    assert not set(config.names) & {"a red gizmo", "red gizmo", "cats"} and set(before.names) < set(config.names)
    assert status_of(("the gizmo",), True, 0.9, config, 0.0) == "found"
    assert status_of(("the gizmo",), True, 0.9, before, 0.9) == "unknown word"
    assert not config.drop_untaught_words and config.unsure_similarity_below is None


def test_data_sets_that_do_not_say_what_they_ask_leave_no_unknown_words():
    config = CheckpointConfig.read(assets.asset("t4s-tiny"))
    assert with_taught_words(config, SimpleNamespace(datasets=[object()]), None).names == ()
    assert with_taught_words(replace(config, names=()), SimpleNamespace(datasets=[]), ["cat"]).names == ("cat",)
