"""Training from the command line: a model, its checkpoint, going on where it stopped, and what goes wrong."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file

from t4s import CheckpointError, DataError, Segmenter, codec, hub, train
from t4s.evaluation.validation import Validation
from t4s.models import create, loading
from t4s.training import arguments, collator, lora, run, saving, trainer
from tests.support import equal_steps

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--dataset", "synthetic", "--width", "32", "--layers", "1", "--grid", "4", "4", "--batch", "2",
         "--queries-per-image", "2", "--threads", "1", "--save-steps", "2"]  # fmt: skip
ADAPTER = ["--dataset", "synthetic", "--batch", "2", "--total-batch", "2", "--queries-per-image", "2", "--threads", "1",
           "--save-steps", "2", "--lora-rank", "4", "--lr", "0.01"]  # fmt: skip


def run_script(out: Path, *more: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "t4s" / "train.py"), *SMALL, "--out", str(out), *more]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def same(one: Path, two: Path, name: str) -> None:
    first, second = load_file(one / name), load_file(two / name)
    assert first.keys() == second.keys()
    for key in first:
        torch.testing.assert_close(first[key], second[key], atol=0, rtol=0)


def logged(out: Path) -> dict[int, dict]:
    """Step → everything that the last state's log says of it."""
    lines: dict[int, dict] = {}
    for line in json.loads((trainer.last_state(out / "state") / "trainer_state.json").read_text())["log_history"]:
        lines.setdefault(line["step"], {}).update(line)
    return lines


# --- what is set


def test_the_published_setting_is_the_default():
    """LoRA 64/128/0.05, 2e-4 (InternVL 1e-4), cosine with 3 % warm-up, 128 questions a step, 5 epochs; and shown."""
    given = arguments.parse(["--dataset", "synthetic", "--base", "x", "--out", "y"])
    assert (given.lora_rank, given.lora_alpha, given.lora_dropout, given.warmup) == (64, 128, 0.05, 0.03)
    llava = given.resolve("lora", "llava", photos=1000, shared_prefix=True, world=2)
    assert (llava.lr, llava.weight_decay) == (2e-4, 0)
    assert llava.total_batch * llava.queries_per_image == llava.accumulate * 2 * llava.batch * 4 == 128
    assert llava.steps == round(5 * 1000 / 32)
    internvl = given.resolve("lora", "internvl", photos=2000, shared_prefix=False, world=1)
    assert (internvl.lr, internvl.queries_per_image, internvl.total_batch) == (1e-4, 1, 128)
    text = " ".join(arguments.build_parser().format_help().split())
    for words in ("LoRA 0.0002", "InternVL with LoRA 0.0001", "(default: 64)", "(default: 128)", "(default: 0.05)",
                  "(default: 0.03)", "as give 128 questions", "training epochs (default: 5)"):  # fmt: skip
        assert words in text, words


def test_an_old_command_line_is_understood():
    """Options under the names they had before; --help shows the new ones alone."""
    old = ["--corpus", "synthetic", "--corpus", "folder:PHOTOS*2", "--cells", "folder:PHOTOS", "--full-row", "0.4",
           "--tower-lr", "1e-4", "--out", "y"]  # fmt: skip
    new = ["--dataset", "synthetic", "--dataset", "folder:PHOTOS*2", "--cell-loss-data", "folder:PHOTOS",
           "--empty-row-weight", "0.4", "--vision-lr", "1e-4", "--out", "y"]  # fmt: skip
    assert arguments.parse(old) == arguments.parse(new)
    text = arguments.build_parser().format_help()
    assert not [name for name in old if name.startswith("--") and f"{name} " in text and name not in new]
    with pytest.raises(SystemExit):
        arguments.parse(["--out", "y"])


def test_an_adapter_sits_beside_every_linear_layer_of_the_language_model(base):
    vlm = create.base(str(base))
    decoder = {id(layer) for layer in vlm.model.get_decoder().modules() if isinstance(layer, torch.nn.Linear)}
    adapted = lora.attach(vlm, 4, 8, 0.0)
    found = {id(layer.base_layer) for layer in adapted.modules() if hasattr(layer, "lora_A")}
    assert found == decoder and len(found) == 7  # q, k, v, o, gate, up, down of its one layer
    learnt = {name.replace("base_model.model.", "") for name, weight in adapted.named_parameters()
              if weight.requires_grad and "lora_" not in name}  # fmt: skip
    assert learnt and all(name.startswith("model.multi_modal_projector.") for name in learnt)


@pytest.mark.parametrize("wanted, gpu, expected", [
    ("auto", False, False), ("auto", True, True), ("bf16", False, True), ("fp32", True, False),
])  # fmt: skip
def test_bf16_where_the_device_has_it(monkeypatch, wanted, gpu, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: gpu)
    assert run.uses_bf16(wanted) is expected


# --- what comes out


def test_a_checkpoint_from_nothing_but_scenes(tmp_path, examples):
    """The script, started elsewhere, leaves a folder that the front door opens; its answers are valid."""
    done = run_script(tmp_path / "out", "--steps", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "out" / "t4s.json").read_text())
    assert config["grid"] == [4, 4] and config["positions"] == "cells"
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()} == {torch.float16}
    prediction = Segmenter.from_pretrained(tmp_path / "out", device="cpu")(examples / "gull.jpg", "bird", refine="none")
    assert codec.decode(prediction.text, (4, 4)) == prediction.grid
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Not measured." in card and "| kind | embedded |" in card and "predictions.png" in card
    assert Image.open(tmp_path / "out" / "predictions.png").width > 400


@pytest.mark.parametrize("stages", [None, 3])
def test_what_is_frozen_of_the_tower_stays_as_it_was(base, tmp_path, stages):
    more = ["--freeze-tower", *([str(stages)] if stages else [])]
    on = ["--dataset", "synthetic", "--batch", "2", "--threads", "1", "--steps", "2", "--vision-lr", "0.05"]
    assert train.main(["--base", str(base), *on, *more, "--out", str(tmp_path / "out")]) == 0
    before, after = load_file(base / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    of_body = {int(name.partition(".stages.")[2].partition(".")[0]) for name in moved if ".stages." in name}
    assert of_body == set(range(stages or 7, 7)) and not any(".stem." in name for name in moved)
    assert any(".mixers." in name for name in moved) and any("language_model" in name for name in moved)


def test_an_adapter_resumed_and_watched_is_as_one_that_ran_through(base, tmp_path, capsys):
    """Interrupted after two steps of four, and evaluated twice: neither may move a weight by a bit."""
    through, parts = tmp_path / "through", tmp_path / "parts"
    on = ["--base", str(base), *ADAPTER, "--steps", "4"]
    assert train.main([*on, "--out", str(through)]) == 0
    watched = [*on, "--out", str(parts), "--validate", "synthetic:scenes=1", "--validate-photos", "1"]
    assert train.main([*watched, "--stop-after", "2"]) == 0
    assert train.main([*watched, "--resume"]) == 0
    same(through, parts, "adapter_model.safetensors")
    one, two = logged(through), logged(parts)
    losses = {step: line["loss"] for step, line in one.items()}
    assert sorted(losses) == [1, 2, 3, 4] and losses == {step: line["loss"] for step, line in two.items()}
    assert capsys.readouterr().out.count("{'eval_cIoU': ") == 2, "what is logged is what --report-to gets"
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
    saving.write(loading.load(base, device="cpu"), None, moved)
    assert train.main(["--base", str(moved), *ADAPTER, "--out", str(out), "--steps", "1"]) == 0
    config = json.loads((out / "t4s.json").read_text())
    assert config["base_model"] == str(moved) and config["base_revision"].startswith("files:")
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == str(moved)
    Segmenter.from_pretrained(out, device="cpu")
    saving.write(create.fresh(["circle"], (4, 4), width=32, layers=1, seed=5), None, moved)
    with pytest.raises(CheckpointError, match="was trained on another"):
        Segmenter.from_pretrained(out, device="cpu")
    (moved / "t4s.json").rename(tmp_path / "t4s.json")
    moved.rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="needs its base model, .* neither a folder nor a Hub id"):
        Segmenter.from_pretrained(out, device="cpu")


def test_merged_is_as_adapted(base, tmp_path):
    out = tmp_path / "out"
    assert train.main(["--base", str(base), *ADAPTER, "--out", str(out), "--steps", "2"]) == 0
    adapted = loading.load(out, device="cpu").model.state_dict()
    saving.merge(out)
    assert not list(out.glob("adapter*")) and not (out / saving.NEW).exists()
    assert json.loads((out / "t4s.json").read_text())["base_model"] is None
    merged = loading.load(out, device="cpu").model.state_dict()
    for name, weight in adapted.items():
        torch.testing.assert_close(weight, merged[name], atol=1e-3, rtol=1e-2)


def test_gradient_checkpointing_saves_memory_and_changes_nothing(base, tmp_path, monkeypatch):
    on, seen = ["--base", str(base), *ADAPTER, "--steps", "2"], []
    usual = trainer.SegTrainer.compute_loss

    def compute(self, model, *args, **more):
        seen.append(any(getattr(module, "gradient_checkpointing", False) for module in model.modules()))
        return usual(self, model, *args, **more)

    monkeypatch.setattr(trainer.SegTrainer, "compute_loss", compute)
    assert train.main([*on, "--out", str(tmp_path / "plain")]) == 0
    assert train.main([*on, "--out", str(tmp_path / "saving"), "--gradient-checkpointing"]) == 0
    assert seen == [False, False, True, True]
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("plain", "saving"))
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-6, rtol=1e-4)


def test_the_rate_rises_and_falls_as_a_cosine(base, tmp_path):
    on = ["--base", str(base), *ADAPTER, "--steps", "8", "--warmup", "0.25", "--batch", "1", "--total-batch", "1"]
    assert train.main([*on, "--save-steps", "8", "--out", str(tmp_path)]) == 0
    rates = [line["learning_rate"] for step, line in sorted(logged(tmp_path).items()) if "learning_rate" in line]
    expected = [0, 0.5, *(0.5 * (1 + math.cos(math.pi * k / 6)) for k in range(6))]
    assert rates == pytest.approx([0.01 * share for share in expected], rel=1e-6)


def test_a_dry_run_says_everything_and_writes_a_picture(base, tmp_path, capsys):
    assert train.main(["--base", str(base), *ADAPTER, "--out", str(tmp_path / "out"), "--dry-run"]) == 0
    said = capsys.readouterr().out
    for line in ("kind               lora", "lora-rank          4", "total-batch        2", "warmup             0.03",
                 "grid               4×4", "positions          cells"):  # fmt: skip
        assert line in said.splitlines()
    assert re.search(r" of them learned; 0 of \d\d questions drawn are too long", said)
    assert "<image>×16" in said and "</seg>" in said
    (trained,) = [line.split()[1] for line in said.splitlines() if line.startswith("trained")]
    assert 0 < int(trained.replace(",", "")) < 100_000
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["sample.png"]


@pytest.mark.parametrize("start", [["--width", "32", "--layers", "1", "--grid", "4", "4"], ["--base", "BASE"]])
def test_the_embedded_architecture_is_shown_photos_of_the_size_asked_for(start, base, tmp_path, capsys):
    start = [str(base) if word == "BASE" else word for word in start]
    assert (
        train.main([*start, "--dataset", "synthetic", "--image-size", "96", "--out", str(tmp_path), "--dry-run"]) == 0
    )
    said = capsys.readouterr().out
    assert "image-size         96" in said.splitlines() and "<image>×16" in said


# --- several processes


@pytest.mark.parametrize("unequal", [True, pytest.param(False, marks=pytest.mark.long)])
def test_two_processes_learn_what_one_with_twice_the_batch_does(unequal):
    """A mean of each process's mean would weigh a word of a short answer more than one of a long answer."""
    one, two = equal_steps.steps(2, unequal), equal_steps.steps_in_two_processes(1, unequal)
    assert one.keys() == two.keys() > set()
    for name in one:
        torch.testing.assert_close(one[name], two[name], atol=1e-12, rtol=1e-9)


@pytest.mark.long
@pytest.mark.parametrize("full", [True, False])
def test_what_is_written_where_the_model_is_sharded(base, tmp_path, full):
    """Sharding itself needs GPUs. Around it: Trainer takes no finished optimizer, and writes neither t4s.json nor a
    processor, nor an adapter's base by its name."""
    on = ["--base", str(base), *(["--full"] if full else []), *ADAPTER, "--batch", "1", "--base-id", "acme/base"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    command = [*torchrun, str(ROOT / "t4s" / "train.py"), *on, "--steps", "2", "--fsdp", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout + done.stderr
    assert saving.CheckpointConfig.read(tmp_path / "out").base_model == "acme/base"
    hub.refuse_machine_paths(hub.checkpoint_files(tmp_path / "out"))
    if full:
        assert loading.load(tmp_path / "out", device="cpu").model is not None
    else:
        config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "acme/base"


def test_what_is_stored_is_a_copy_in_the_type_it_is_stored_in(base):
    """Tied weights stay one, and the model in training stays as it is."""
    model = loading.load(base, device="cpu").model.float()
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    stored = saving.cpu_copy(model, torch.float16)
    assert {weight.dtype for weight in stored.parameters()} == {torch.float16}
    assert stored.lm_head.weight is stored.get_input_embeddings().weight
    places = [{weight.data_ptr() for weight in some.parameters()} for some in (stored, model)]
    assert not places[0] & places[1]
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, before[name]) and weight.dtype == before[name].dtype


@pytest.mark.long
def test_the_script_under_torchrun(base, tmp_path):
    """Two processes: one checkpoint, one card, one line an evaluation, and what one with twice the batch learns."""
    on = [str(ROOT / "t4s" / "train.py"), "--base", str(base), "--full", *SMALL[:2], *SMALL[9:], "--steps", "4",
          "--total-batch", "2", "--validate", "synthetic:scenes=3", "--validate-photos", "3"]  # fmt: skip
    torchrun = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
    for before, name, batch in (([], "one", "2"), (torchrun, "two", "1")):
        command = [sys.executable, *before, *on, "--batch", batch, "--out", str(tmp_path / name)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("Saved ") == 1 and done.stdout.count("step 4: ") == 1
    one, two = ({step: line["loss"] for step, line in logged(tmp_path / name).items()} for name in ("one", "two"))
    assert one == pytest.approx(two, rel=1e-3)
    lines = [(tmp_path / name / "validation.jsonl").read_text().splitlines() for name in ("one", "two")]
    assert len(lines[0]) == len(lines[1]) == 2
    asked = [[json.loads(line)["answers"] for line in own] for own in lines]
    assert asked[0] == asked[1]


# --- what goes wrong


@pytest.mark.parametrize("more, said", [
    (["--full"], "none was given"),
    (["--base", "no/such/model/here"], "neither a folder nor a Hub id"),
    (["--base", "someone/nothing"], "could not be fetched from the Hub"),
    (["--base", "BASE", "--quantize", "4bit"], "needs a CUDA device; this one is cpu"),
    (["--base", "BASE", "--full", "--quantize", "4bit"], "whose own weights are not trained"),
    (["--base", "BASE", "--grid", "8", "8"], "is made for 4×4 cells"),
    (["--base", "EMPTY"], "holds no .safetensors weights|is no model that transformers loads"),
    (["--freeze-tower", "0"], "the body has stages 1 to 7"),
    (["--freeze-tower", "8"], "the body has stages 1 to 7"),
    (["--batch", "0"], "--batch is 0"),
    (["--steps", "3", "--epochs", "2"], "leave one of them out"),
    (["--batch", "2", "--total-batch", "5"], "not a multiple of --batch 2 times 1"),
    (["--dataset", "jsonl:EMPTY/none.jsonl"], "There is no file"),
    (["--dataset", "jsonl:EMPTY/empty.jsonl"], "it has no lines"),
    (["--dataset", "jsonl:EMPTY/broken.jsonl"], "broken.jsonl, line 1501 is not a JSON object"),
    (["--validate", "folder:EMPTY"], "index.jsonl is not there"),
    (["--report-to", "trackio"], "pip install trackio"),
    (["--resume"], "holds no state to resume from"),
    (["--fsdp"], "there is only one; use torchrun"),
])  # fmt: skip
def test_bad_input_is_one_sentence_before_anything_is_trained(base, tmp_path, capsys, monkeypatch, more, said):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "empty.jsonl").write_text("")
    good = json.dumps({"image": "a.png", "query": "dog", "absent": True})
    Image.new("RGB", (8, 8)).save(empty / "a.png")
    (empty / "broken.jsonl").write_text("\n".join([good] * 1500 + ["{"] + [good] * 1500))
    monkeypatch.setattr(run, "find_spec", lambda name: None)
    more = [word.replace("BASE", str(base)).replace("EMPTY", str(empty)) for word in more]
    before = [] if "--dataset" in more else ["--dataset", "synthetic"]
    assert train.main([*before, "--out", str(tmp_path / "out"), *more]) == 2
    error = capsys.readouterr().err
    assert [part for part in said.split("|") if part in error], error
    assert error.startswith("t4s train: ") and error.count("\n") == 1 and len(error) < 600, error
    assert not (tmp_path / "out" / "state").exists()


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_mask_of_another_size_is_named_by_its_line(base, tmp_path, capsys, workers):
    """Out of a process that loads photos comes a traceback of its own, in the message of the error."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    Image.new("L", (4, 8), 255).save(tmp_path / "mask.png")
    (tmp_path / "data.jsonl").write_text('{"image": "a.png", "query": "dog", "mask": "mask.png"}')
    on = ["--base", str(base), *ADAPTER[2:], "--dataset", f"jsonl:{tmp_path / 'data.jsonl'}", "--workers", workers]
    assert train.main([*on, "--steps", "1", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("t4s train: ") and "No step was finished." in said, said
    assert 'data.jsonl, line 1, field "mask": the mask is 4×8 pixels and its upright photo 8×8' in said


def stopped_at(step: int, error: Exception, monkeypatch) -> None:
    """Training raises `error` in the step after `step`."""
    usual = trainer.SegTrainer.compute_loss

    def compute(self, *args, **more):
        if self.state.global_step == step:
            raise error
        return usual(self, *args, **more)

    monkeypatch.setattr(trainer.SegTrainer, "compute_loss", compute)


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
    error = capsys.readouterr().err
    assert said in error
    assert "The state of step 3 is kept; the same command with --resume continues from there." in error
    assert train.main([*on, "--resume"]) == 0
    assert json.loads((tmp_path / "state" / "checkpoint-4" / "trainer_state.json").read_text())["global_step"] == 4


def test_a_full_disk_costs_nothing_that_was_trained(base, tmp_path, capsys, monkeypatch):
    """Half a state of step 4 was taken for the last one, and half a model written over the good one."""
    on = ["--base", str(base), "--full", *SMALL[:2], *SMALL[9:], "--out", str(tmp_path), "--steps", "4"]
    with monkeypatch.context() as patched:
        usual = trainer.SegTrainer._save_optimizer_and_scheduler

        def full(self, folder):
            if self.state.global_step == 4:
                raise SafetensorError("I/O error: No space left on device (os error 28)")
            usual(self, folder)

        patched.setattr(trainer.SegTrainer, "_save_optimizer_and_scheduler", full)
        assert train.main(on) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("t4s train: ") and "free some disk space. The state of step 2 is kept" in said
    assert [state.name for state in (tmp_path / "state").glob("checkpoint-*")] == ["checkpoint-2"]
    kept = (tmp_path / "model.safetensors").read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(saving, "_replace", lambda new, folder: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert train.main([*on, "--resume"]) == 2
    assert (tmp_path / "model.safetensors").read_bytes() == kept and "t4s train: " in capsys.readouterr().err
    assert train.main([*on, "--resume"]) == 0
    assert (tmp_path / "model.safetensors").read_bytes() != kept


def test_a_disk_that_is_full_in_the_end_is_a_sentence_too(base, tmp_path, capsys, monkeypatch):
    """The last state was written, and then there was no room for the card: a traceback after hours."""
    on = ["--base", str(base), *ADAPTER, "--out", str(tmp_path), "--steps", "2"]
    with monkeypatch.context() as patched:
        patched.setattr(saving, "write_card", lambda *given: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert train.main(on) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("t4s train: ") and "free some disk space. The state of step 2 is kept" in said
    assert train.main([*on, "--resume"]) == 0 and (tmp_path / "README.md").is_file()


def test_questions_that_were_too_long_are_counted(base, tmp_path, capsys, monkeypatch):
    usual, rows = collator.build_row, []

    def short(*given):
        rows.append(replace(usual(*given), left_out=1))
        return rows[-1]

    monkeypatch.setattr(collator, "build_row", short)
    assert train.main(["--base", str(base), *ADAPTER, "--out", str(tmp_path), "--steps", "2"]) == 0
    assert f"{len(rows)} questions were too long for the model's context and left out." in capsys.readouterr().out


def test_no_room_is_said_before_training(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(trainer.shutil, "disk_usage", lambda folder: trainer.shutil._ntuple_diskusage(9, 9, 0))
    assert train.main(["--base", str(base), *ADAPTER, "--out", str(tmp_path), "--steps", "1"]) == 2
    assert "make room or choose another --out" in capsys.readouterr().err


def test_an_evaluation_leaves_the_model_as_it_was(base):
    """Several in a row: no mode, cache or random number may be left over, even when one breaks off."""
    from t4s.data.spec import open_dataset

    loaded = loading.load(base, device="cpu")
    loaded.model.train()
    loaded.model.model.vision_tower.eval()
    modes = {name: module.training for name, module in loaded.model.named_modules()}
    held = {name: id(value) for name, value in vars(loaded.model.model).items()}
    random = torch.random.get_rng_state()
    watch = Validation(open_dataset("synthetic:scenes=2@val"), 2, glance=True)
    first, second = (watch.run(loaded) for _ in range(2))
    assert first.figures == second.figures and first.answers == second.answers == 2
    watch.photos = [99]
    with pytest.raises(IndexError):
        watch.run(loaded)
    assert modes == {name: module.training for name, module in loaded.model.named_modules()}
    assert held == {name: id(value) for name, value in vars(loaded.model.model).items()}
    assert torch.equal(random, torch.random.get_rng_state())
